//! What tools have read: the paths of the input files that each has looked into, by what the tool is called.

use std::collections::HashSet;
use std::sync::Arc;

use wardian_proto::{Digest, DigestFunction};
use wardian_store::Recent;

/// Paths that are remembered for one tool. When there are more, only those of its last action are.
pub(crate) const PATHS_PER_TOOL_MAX: usize = 10_000;

/// Memory for the paths of all tools.
const BYTES_MAX: u64 = 16 << 20;

/// What one path takes beside its letters.
const PATH_BYTES: usize = 48;

pub(super) type Paths = HashSet<Box<str>>;

/// The paths by tool, within bounds.
pub(super) struct KnownPaths {
    by_tool: Recent<Digest, Arc<Paths>>,
}

impl Default for KnownPaths {
    fn default() -> Self {
        Self { by_tool: Recent::new(BYTES_MAX) }
    }
}

impl KnownPaths {
    /// What is known of a tool.
    pub(super) fn of(&self, tool: &str) -> Option<Arc<Paths>> {
        self.by_tool.get(&key(tool))
    }

    /// Adds what one action of a tool has looked into.
    pub(super) fn add(&self, tool: &str, looked_at: impl Iterator<Item = String>) {
        let known = self.of(tool).unwrap_or_default();
        let mut paths: Paths = looked_at.take(PATHS_PER_TOOL_MAX).map(Into::into).collect();
        let new = paths.iter().filter(|path| !known.contains(*path)).count();
        if new == 0 {
            return;
        }
        if known.len() + new <= PATHS_PER_TOOL_MAX {
            paths.extend(known.iter().cloned());
        }
        let weight = paths.iter().map(|path| path.len() + PATH_BYTES).sum::<usize>();
        self.by_tool.insert(key(tool), Arc::new(paths), weight as u64);
    }
}

/// Names may be long, and keys are not.
fn key(tool: &str) -> Digest {
    DigestFunction::Sha256.digest(tool.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_add_up_within_their_bound() {
        let known = KnownPaths::default();
        let add = |tool: &str, numbers: std::ops::Range<usize>| {
            known.add(tool, numbers.map(|number| format!("include/{number}.h")));
        };
        add("bin/clang", 0..10);
        add("bin/clang", 5..20);
        add("bin/ld", 0..1);
        let of = |tool: &str| known.of(tool).map_or(0, |paths| paths.len());
        assert_eq!((of("bin/clang"), of("bin/ld"), of("bin/other")), (20, 1, 0));
        add("bin/clang", 0..PATHS_PER_TOOL_MAX);
        assert_eq!(of("bin/clang"), PATHS_PER_TOOL_MAX, "all of them fit");
        // What it knew before is among what the last one looked into.
        add("bin/clang", PATHS_PER_TOOL_MAX - 50..PATHS_PER_TOOL_MAX + 50);
        assert_eq!(of("bin/clang"), 100, "only the last ones");
        add("bin/clang", 30_000..90_000);
        assert_eq!(of("bin/clang"), PATHS_PER_TOOL_MAX);
    }
}
