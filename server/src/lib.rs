//! The server and the command line of Wardian.
//!
//! Wire messages stop in [`services`]; everything below works on parsed values.

mod allocator;
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
