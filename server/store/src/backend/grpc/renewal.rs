//! Pins on the other side of a connection: what is pinned is asked for again before its lease runs out.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use wardian_proto::Digest;

use super::GrpcStore;
use crate::BlobStore as _;

/// How often blobs are asked for within one lease, so that a call or two may fail.
const RENEWALS_IN_A_LEASE: u32 = 3;

/// What one store's pins hold together.
#[derive(Debug, Default)]
pub(super) struct Renewals {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Pinned blobs with the number of their pins.
    pinned: HashMap<Digest, usize>,
    /// Whether a task asks for them.
    is_renewing: bool,
}

/// Keeps blobs among those that are asked for.
pub(super) struct Renewed {
    renewals: Arc<Renewals>,
    digests: Vec<Digest>,
}

impl Renewed {
    /// Adds blobs to those that are kept, and sees to it that somebody keeps them.
    pub(super) fn new(store: &GrpcStore, digests: Vec<Digest>) -> Self {
        let renewals = Arc::clone(&store.renewals);
        if renewals.add(&digests) {
            tokio::spawn(renew(store.clone()));
        }
        Self { renewals, digests }
    }
}

impl Drop for Renewed {
    fn drop(&mut self) {
        let mut state = self.renewals.state();
        for digest in &self.digests {
            let count = state.pinned.get_mut(digest).expect("pinned until the last pin is dropped");
            *count -= 1;
            if *count == 0 {
                state.pinned.remove(digest);
            }
        }
    }
}

impl Renewals {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a pin to each blob, and says whether a task must be started for them.
    fn add(&self, digests: &[Digest]) -> bool {
        let mut state = self.state();
        for digest in digests {
            *state.pinned.entry(*digest).or_default() += 1;
        }
        !state.pinned.is_empty() && !std::mem::replace(&mut state.is_renewing, true)
    }

    /// What to ask for now; `None`, and no more renewing, when nothing is pinned.
    fn due(&self) -> Option<Vec<Digest>> {
        let mut state = self.state();
        state.is_renewing = !state.pinned.is_empty();
        // In order, because those of one digest function travel together.
        let mut digests: Vec<Digest> = state.pinned.keys().copied().collect();
        digests.sort_unstable();
        state.is_renewing.then_some(digests)
    }
}

/// Asks for everything that is pinned, again and again until nothing is.
async fn renew(store: GrpcStore) {
    loop {
        tokio::time::sleep(store.limits.lease / RENEWALS_IN_A_LEASE).await;
        let Some(digests) = store.renewals.due() else { return };
        match store.find_missing(&digests).await {
            Ok(missing) if missing.is_empty() => {}
            Ok(missing) => {
                let (count, first) = (missing.len(), missing[0]);
                tracing::warn!(count, %first, "the remote store lost blobs that are in use");
            }
            Err(error) => tracing::warn!(%error, "blobs in use could not be renewed in the remote store"),
        }
    }
}

#[cfg(test)]
mod tests {
    use wardian_proto::DigestFunction;

    use super::*;

    #[test]
    fn one_task_asks_until_nothing_is_pinned() {
        let renewals = Arc::new(Renewals::default());
        let digests: Vec<Digest> = (0..3).map(|i| DigestFunction::Sha256.digest(&[i])).collect();
        let pin = |digests: &[Digest]| {
            let starts = renewals.add(digests);
            (Renewed { renewals: Arc::clone(&renewals), digests: digests.to_vec() }, starts)
        };
        assert!(!pin(&[]).1);
        let (first, starts) = pin(&digests);
        assert!(starts);
        let (second, starts) = pin(&digests[..1]);
        assert!(!starts);
        drop(first);
        assert_eq!(renewals.due(), Some(digests[..1].to_vec()));
        drop(second);
        assert_eq!(renewals.due(), None);
        assert!(pin(&digests).1, "the task that found nothing is gone");
    }
}
