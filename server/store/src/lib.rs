//! Blobs by digest and records by key, behind two traits.
//!
//! [`BlobStore`] is the content-addressable storage; [`RecordStore`] holds small keyed values such as
//! the action cache. Backends live in [`backend`]; the contract of each trait is the suite in
//! [`conformance`], which every backend runs. This crate never looks into the host's file system
//! outside the folder it was given.

pub mod action_cache;
pub mod backend;
mod blob_store;
pub mod chunking;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod layers;
mod recent;
mod record_store;
pub mod tree;
pub mod tree_builder;
pub mod tree_pins;
mod upload;

pub use blob_store::{BlobStore, BlobStream, ByteRange, Pin, READ_CHUNK_BYTES, collect};
pub use error::{StoreError, is_unavailable};
pub use recent::Recent;
pub use record_store::{RecordStore, Table};
pub use upload::{Step, Upload, Verified};
