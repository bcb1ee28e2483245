//! The modules that may run at the baseline tier.

use std::collections::HashSet;
use std::sync::{Arc, RwLock};

use wardian_proto::Digest;

/// The modules of registered toolchains: they may run before they are optimized. Clones are the same set.
#[derive(Clone, Debug, Default)]
pub struct TrustedModules(Arc<RwLock<HashSet<Digest>>>);

impl TrustedModules {
    /// Adds a module.
    pub fn add(&self, module: Digest) {
        self.0.write().expect("no code that holds this lock panics").insert(module);
    }

    /// All of them.
    pub fn all(&self) -> Vec<Digest> {
        self.0.read().expect("no code that holds this lock panics").iter().copied().collect()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.read().expect("no code that holds this lock panics").len()
    }

    pub(in super::super) fn has(&self, module: &Digest) -> bool {
        self.0.read().expect("no code that holds this lock panics").contains(module)
    }
}
