//! Runs actions: reads them, lays out their input root, runs the command, collects the outputs.
//!
//! ```text
//! worker         takes assignments from a WorkQueue and reports on them
//!   action       Action and Command, parsed and checked; test_setup, what a test of Bazel really runs
//!   workspace    the files of a preview-1 module: the input tree, read when looked at, and what was written
//!   input_root   for everything else the input tree, checked for completeness and staged as private copies
//!   prefetch     fetches what an action is going to read, for workers far from their store
//!   executor     wasm or native: runs the command under limits
//!   wasi         the functions that a preview-1 module calls
//!   outputs      what the command left behind, into the store
//! ```
//!
//! A worker reads and writes blobs; it has no right to write the action cache.

pub mod action;
pub mod audit;
pub mod executor;
mod failure;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod input_root;
pub mod limits;
pub mod logs;
mod outputs;
mod prefetch;
mod staged;
mod test_setup;
pub mod wasi;
mod worker;
pub mod workspace;

pub use executor::native::{ActionGroups, SandboxBackend, SandboxMode, SandboxSettings, SystemCalls};
pub use executor::wasm::compile::{Baseline, CompileSettings, TrustedModules};
pub use failure::Failure;
pub use limits::Limits;
pub use prefetch::{PrefetchCounts, PrefetchSettings, Prefetcher};
pub use worker::{DRAIN_TIME_MAX, STREAM_NAMES, Worker, WorkerConfig};
