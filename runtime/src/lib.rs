//! Runs actions: reads them, lays out their input root, runs the command, collects the outputs.
//!
//! ```text
//! worker         takes assignments from a WorkQueue and reports on them
//!   action       Action and Command, parsed and checked
//!   input_root   the input tree, checked for completeness and staged as private copies
//!   executor     wasm or native: runs the command under limits
//!   outputs      what the command left behind, into the store
//! ```
//!
//! A worker reads and writes blobs; it has no right to write the action cache.

pub mod action;
pub mod executor;
mod failure;
mod input_root;
pub mod limits;
mod outputs;
mod staged;
mod worker;

pub use executor::wasm::compile::{Baseline, CompileSettings, TrustedModules};
pub use failure::Failure;
pub use limits::Limits;
pub use worker::{DRAIN_TIME_MAX, Worker, WorkerConfig};
