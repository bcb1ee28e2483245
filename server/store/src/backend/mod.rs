//! One file for each kind of storage.

mod grpc;
mod memory;
mod sled;

pub use grpc::{Connection, GrpcStore, GrpcStoreLimits};
pub use memory::MemoryStore;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use sled::fuzzing;
pub use sled::{CAPACITY_BYTES_MIN, CheckReport, SledOptions, SledStats, SledStore, SledTuning};
