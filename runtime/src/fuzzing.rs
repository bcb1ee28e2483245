//! What fuzzers run of this crate: input trees and commands from a client, and what a guest may do to a workspace.
//!
//! The targets in `fuzz/` call these under libFuzzer; the test below calls them for a bounded number of inputs as part
//! of every `cargo test`.

#[path = "../../fuzz/harness.rs"]
mod harness;

pub use harness::Target;

use crate::action::fuzz as action;
use crate::workspace::fuzz as workspace;

/// Everything that is fuzzed.
pub const TARGETS: &[Target] = &[
    Target { name: "action", run: action::action, seeds: action::actions, inputs: 50_000 },
    Target { name: "workspace_tree", run: workspace::tree, seeds: workspace::trees, inputs: 20_000 },
    Target {
        name: "workspace_operations",
        run: workspace::operations,
        seeds: workspace::histories,
        inputs: 20_000,
    },
];

/// Runs the target of this name. Panics when there is none.
pub fn run(name: &str, input: &[u8]) {
    harness::run_of(TARGETS, name, input);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_is_one_of_libfuzzer_too() {
        harness::assert_listed("wardian-runtime", TARGETS);
    }

    #[test]
    fn inputs_made_from_good_ones_are_treated_as_they_should_be() {
        harness::try_all(TARGETS);
    }
}
