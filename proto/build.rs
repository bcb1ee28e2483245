//! Compiles the .proto files with protox, so that no protoc is needed.

use std::path::Path;

use prost::Message;

const FILES: &[&str] = &[
    "build/bazel/semver/semver.proto",
    "build/bazel/remote/execution/v2/remote_execution.proto",
    "build/bazel/remote/asset/v1/remote_asset.proto",
    "build/bazel/remote/logstream/v1/remote_logstream.proto",
    "google/bytestream/bytestream.proto",
    "google/longrunning/operations.proto",
    "google/rpc/code.proto",
    "google/rpc/status.proto",
    "google/rpc/error_details.proto",
    "wardian/v1/native_usage.proto",
    "wardian/v1/queue.proto",
    "wardian/v1/toolchains.proto",
    "wardian/v1/wasm_audit.proto",
    "wardian/v1/wasm_usage.proto",
    "wardian/v1/workers.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=protos");
    let descriptors = protox::compile(FILES, ["protos"])?;
    let out_dir = std::env::var("OUT_DIR")?;
    std::fs::write(Path::new(&out_dir).join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        // Payload bytes are reference-counted slices of the HTTP/2 frame, not copies.
        .bytes(".")
        // Sorted maps: equal messages have equal bytes.
        .btree_map(".")
        .include_file("wire.rs")
        .compile_fds(descriptors)?;
    Ok(())
}
