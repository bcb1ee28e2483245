//! The whole system through its port: one module for each part of the API.
//!
//! One binary, because every further one would link the server again.

mod access;
mod action_cache;
mod assets;
mod assets_git;
mod audit;
mod byte_stream;
mod cas;
mod chunks;
mod compile;
mod compile_hostile;
mod components;
mod compression;
mod conformance;
mod determinism;
mod digest_functions;
mod execution;
mod hostile;
mod hostile_clients;
mod hostile_modules;
mod inputs;
mod lifecycle;
mod log_stream;
mod metrics;
mod native;
mod not_root;
mod operations;
mod outputs;
mod pins;
mod reflection;
mod requests;
mod sandbox;
mod sandbox_calls;
mod sandbox_groups;
mod sandbox_instances;
mod tiers;
mod tls;
mod toolchains;
mod trees;
mod uploads;
mod wasm;
mod workspace;
