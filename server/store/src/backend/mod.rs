//! One file for each kind of storage.

mod grpc;
mod memory;
mod sled;

pub use grpc::{GrpcStore, GrpcStoreLimits};
pub use memory::MemoryStore;
pub use sled::{CAPACITY_BYTES_MIN, CheckReport, Pin, SledOptions, SledStats, SledStore, SledTuning};
