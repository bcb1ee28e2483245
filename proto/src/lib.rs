//! Wire types of the remote APIs, and the value types that wire strings are parsed into.
//!
//! A [`Digest`], [`InstanceName`], [`ReadName`], [`WriteName`] or [`RelPath`] that exists is valid:
//! it was parsed once at the edge and nothing below checks it again. This crate does no I/O.

mod digest;
mod digest_function;
mod directory;
mod hash;
mod instance_name;
mod log_name;
mod rel_path;
mod resource_name;

pub use digest::{Digest, DigestError, SIZE_BYTES_MAX};
pub use digest_function::{DigestFunction, DigestFunctions, DigestFunctionsError};
pub use directory::{Directory, DirectoryEntry, DirectoryError, FileEntry, SymlinkEntry};
pub use hash::Hasher;
pub use instance_name::{InstanceName, InstanceNameError};
pub use log_name::LogName;
pub use rel_path::{PATH_BYTES_MAX, PathError, RelPath, SEGMENT_BYTES_MAX, Segment};
pub use resource_name::{Compressor, ReadName, ResourceNameError, WriteName};

/// Generated messages, clients and servers, in modules named like their proto packages.
// `enum_variant_names`, `large_enum_variant` and the doc lints concern generated code only.
#[allow(missing_docs, unreachable_pub, clippy::all, rustdoc::all)]
pub mod wire {
    tonic::include_proto!("wire");
}

pub use wire::build::bazel::remote::asset::v1 as asset;
pub use wire::build::bazel::remote::execution::v2 as reapi;
pub use wire::build::bazel::remote::logstream::v1 as logstream;
pub use wire::build::bazel::semver;
pub use wire::google::bytestream;
pub use wire::google::longrunning;
pub use wire::google::rpc;
pub use wire::wardian::v1 as wardian;

/// The encoded `FileDescriptorSet` of everything in [`wire`], imports included.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Wraps a message into an `Any` under its full name, as operations and error details carry it.
pub fn pack_any(full_name: &str, message: &impl prost::Message) -> prost_types::Any {
    prost_types::Any { type_url: format!("type.googleapis.com/{full_name}"), value: message.encode_to_vec() }
}
