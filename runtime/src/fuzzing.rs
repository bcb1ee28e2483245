//! What fuzzers run of this crate: input trees from a client, and what a guest may do to a workspace.
//!
//! The targets in `fuzz/` call these under libFuzzer; the tests below call them for a bounded number of inputs as part
//! of every `cargo test`.

use crate::workspace::fuzz;

/// One thing that is fuzzed.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, which is that of the libFuzzer target.
    pub name: &'static str,
    /// Panics when the input is not treated as it should be.
    pub run: fn(&[u8]),
    /// Good inputs to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// Everything that is fuzzed.
pub const TARGETS: &[Target] = &[
    Target { name: "workspace_tree", run: fuzz::tree, seeds: fuzz::trees },
    Target { name: "workspace_operations", run: fuzz::operations, seeds: fuzz::histories },
];

/// Runs the target of this name. Panics when there is none.
pub fn run(name: &str, input: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    (target.expect("a target of this name").run)(input);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_target_is_one_of_libfuzzer_too() {
        let manifest = include_str!("../../fuzz/Cargo.toml");
        let names = manifest.split("[[bin]]\nname = \"").skip(1).filter_map(|bin| bin.split('"').next());
        let names: Vec<_> = names.filter(|name| name.starts_with("workspace_")).collect();
        assert_eq!(names, TARGETS.iter().map(|target| target.name).collect::<Vec<_>>());
    }

    #[test]
    fn good_inputs_are_treated_as_they_should_be() {
        TARGETS.iter().for_each(|target| (target.seeds)().iter().for_each(|input| run(target.name, input)));
    }

    /// Changes to bytes: where, how many go, and what comes instead.
    fn changes() -> impl Strategy<Value = Vec<(usize, usize, Vec<u8>)>> {
        let bytes = prop::collection::vec(any::<u8>(), 0..4);
        prop::collection::vec((any::<usize>(), 0..4_usize, bytes), 1..6)
    }

    fn changed(mut input: Vec<u8>, changes: Vec<(usize, usize, Vec<u8>)>) -> Vec<u8> {
        for (at, gone, new) in changes {
            let start = at % (input.len() + 1);
            let end = input.len().min(start + gone);
            input.splice(start..end, new);
        }
        input
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 5000, ..ProptestConfig::default() })]

        #[test]
        fn trees_made_from_good_ones_can_be_looked_at(which in 0..3_usize, changes in changes()) {
            fuzz::tree(&changed(fuzz::trees().swap_remove(which), changes));
        }

        #[test]
        fn any_bytes_are_a_history(input in prop::collection::vec(any::<u8>(), 0..300)) {
            fuzz::operations(&input);
        }
    }
}
