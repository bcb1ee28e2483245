//! The server and the command line of Wardian.
//!
//! Wire messages stop in [`services`]; everything below works on parsed values.

pub mod app;
pub mod assets;
pub mod auth;
pub mod cli;
pub mod client;
pub mod config;
pub mod fleet;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod health;
pub mod instance;
pub mod logs;
mod metrics;
pub mod remote_worker;
mod services;
pub mod stats;
mod stores;
pub mod tls;
mod web;

/// Gives the memory of a burst back within seconds. What ten thousand clients held at once would otherwise stay with the
/// process for good: the system's allocator returns only what is at the end of its heaps.
#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;
