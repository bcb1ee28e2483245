//! Modules that could not be compiled: what was said of them is said again for a while, without trying it again.
//!
//! A module that makes a compiler run into its limits costs minutes each time. Whoever sends it over and over again
//! gets the same answer, and no compiler.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use wardian_proto::Digest;

use super::engines::Tier;
use crate::Failure;

/// Refusals that are remembered; the oldest go first.
const REFUSALS_MAX: usize = 1024;

/// How long one is remembered. How far a compiler gets within its limits depends on the machine's load too.
const REMEMBERED_FOR: Duration = Duration::from_secs(600);

/// The modules that were refused lately.
#[derive(Default)]
pub(super) struct Refusals(HashMap<(Digest, Tier), (Instant, Failure)>);

impl Refusals {
    /// What was said of a module at a tier, if it was refused lately.
    pub(super) fn get(&self, now: Instant, module: &Digest, tier: Tier) -> Option<Failure> {
        let (since, failure) = self.0.get(&(*module, tier))?;
        (now.duration_since(*since) < REMEMBERED_FOR).then(|| failure.clone())
    }

    /// Remembers what the module is to blame for; other failures may be gone the next time.
    pub(super) fn add(&mut self, now: Instant, module: &Digest, tier: Tier, failure: &Failure) {
        if !matches!(failure, Failure::InvalidArgument(_) | Failure::ResourceExhausted(_)) {
            return;
        }
        self.0.retain(|_, (since, _)| now.duration_since(*since) < REMEMBERED_FOR);
        if self.0.len() >= REFUSALS_MAX {
            let oldest = self.0.iter().min_by_key(|(_, (since, _))| *since).map(|(key, _)| *key);
            oldest.map(|key| self.0.remove(&key));
        }
        self.0.insert((*module, tier), (now, failure.clone()));
    }
}

#[cfg(test)]
mod tests {
    use wardian_proto::DigestFunction;

    use super::*;

    fn module(number: usize) -> Digest {
        DigestFunction::Sha256.digest(&number.to_le_bytes())
    }

    #[test]
    fn what_the_module_is_to_blame_for_is_remembered_for_a_while() {
        let (mut refusals, start) = (Refusals::default(), Instant::now());
        let refused = Failure::ResourceExhausted("too much".into());
        refusals.add(start, &module(1), Tier::Optimized, &refused);
        refusals.add(start, &module(2), Tier::Optimized, &Failure::Internal("killed".into()));
        let said = |at, number, tier| refusals.get(at, &module(number), tier).map(|f| f.to_string());
        assert_eq!(said(start, 1, Tier::Optimized), Some("too much".into()));
        assert_eq!(said(start, 1, Tier::Baseline), None);
        assert_eq!(said(start, 2, Tier::Optimized), None);
        assert_eq!(said(start + REMEMBERED_FOR, 1, Tier::Optimized), None);
    }

    #[test]
    fn the_oldest_are_forgotten_when_there_are_many() {
        let (mut refusals, start) = (Refusals::default(), Instant::now());
        let refused = Failure::InvalidArgument("it is not valid".into());
        let at = |number: usize| start + Duration::from_micros(number as u64);
        for number in 0..=REFUSALS_MAX {
            refusals.add(at(number), &module(number), Tier::Metered, &refused);
        }
        assert_eq!(refusals.0.len(), REFUSALS_MAX);
        let now = at(REFUSALS_MAX);
        assert!(refusals.get(now, &module(0), Tier::Metered).is_none());
        assert!(refusals.get(now, &module(1), Tier::Metered).is_some());
        assert!(refusals.get(now, &module(REFUSALS_MAX), Tier::Metered).is_some());
    }
}
