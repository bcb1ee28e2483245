//! What fuzzers run of this crate: compressed bytes from a client.
//!
//! The target in `fuzz/` calls this under libFuzzer; the test below calls it for a bounded number of inputs as part of every
//! `cargo test`.

#[path = "../../fuzz/harness.rs"]
mod harness;

pub use harness::Target;

use crate::services::compression_fuzz as compression;

/// Everything that is fuzzed.
pub const TARGETS: &[Target] =
    &[Target { name: "compressed", run: compression::stream, seeds: compression::streams, inputs: 50_000 }];

/// Runs the target of this name. Panics when there is none.
pub fn run(name: &str, input: &[u8]) {
    harness::run_of(TARGETS, name, input);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_is_one_of_libfuzzer_too() {
        harness::assert_listed("wardian-server", TARGETS);
    }

    #[test]
    fn inputs_made_from_good_ones_are_treated_as_they_should_be() {
        harness::try_all(TARGETS);
    }
}
