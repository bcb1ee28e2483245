//! What the store promises when its server is killed, its disk is full, or far more comes than it can hold.
//!
//! The servers are processes of their own. A binary of its own too: these tests load the machine.

mod bound;
mod crash;
mod fleet;
mod full_disk;

/// The server that is started.
const SERVER: &str = env!("CARGO_BIN_EXE_wardian-under-test");
