//! What the store promises when its server is killed, its disk is full, or far more comes than it can hold.
//!
//! The servers are processes of their own. A binary of its own too: these tests load the machine.

mod crash;
