//! Fetches that everybody waits for together: what several want at once comes once.
//!
//! A fetch belongs to those who wait for it. Who gives up leaves it to the others, and it ends with the last of them.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use futures::future::join_all;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use wardian_proto::Digest;

use crate::StoreError;

/// Blobs on their way that others can wait for; whoever wants more fetches them for itself.
const JOINABLE_BLOBS_MAX: usize = 200_000;

/// What came of each blob of a fetch.
pub(super) type Landed<T> = HashMap<Digest, Result<T, StoreError>>;

type Outcome<T> = watch::Receiver<Option<Arc<Landed<T>>>>;

/// Ends a fetch with the last who waits for it. The fetch is a task of its own: were it driven by those who wait, one
/// who gives up could take the wake of the others along.
#[derive(Default)]
struct Fetching(OnceLock<AbortHandle>);

impl Drop for Fetching {
    fn drop(&mut self) {
        if let Some(task) = self.0.get() {
            task.abort();
        }
    }
}

struct Flight<T> {
    outcome: Outcome<T>,
    _fetching: Arc<Fetching>,
}

impl<T> Flight<T> {
    /// What came of it; nothing of a fetch that panicked, or that the end of the runtime broke off.
    async fn landed(mut self) -> Option<Arc<Landed<T>>> {
        let outcome = self.outcome.wait_for(Option::is_some).await;
        outcome.ok().and_then(|landed| (*landed).clone())
    }
}

/// The fetches that are under way.
pub(super) struct Flights<T> {
    state: Mutex<State<T>>,
}

struct State<T> {
    last_id: u64,
    by_digest: HashMap<Digest, (u64, Outcome<T>, Weak<Fetching>)>,
}

impl<T> Default for Flights<T> {
    fn default() -> Self {
        Self { state: Mutex::new(State { last_id: 0, by_digest: HashMap::new() }) }
    }
}

/// Takes blobs off the list when their fetch ends, however it does.
struct Listed<T> {
    flights: Arc<Flights<T>>,
    id: u64,
    digests: Vec<Digest>,
}

impl<T> Drop for Listed<T> {
    fn drop(&mut self) {
        let mut state = self.flights.lock();
        for digest in &self.digests {
            // Somebody may have begun anew when the last who waited for this fetch had gone.
            if state.by_digest.get(digest).is_some_and(|(id, ..)| *id == self.id) {
                state.by_digest.remove(digest);
            }
        }
    }
}

impl<T> Flights<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Clone + Send + Sync + 'static> Flights<T> {
    /// Whether a blob is on its way.
    pub(super) fn has(&self, digest: &Digest) -> bool {
        self.lock().by_digest.contains_key(digest)
    }

    /// Waits for distinct blobs: those that are on their way already, and all others by one fetch. Returns what came of
    /// each, in the order given. What fails in the fetch of somebody else, who may have begun long ago, is fetched once
    /// more.
    pub(super) async fn bring<F>(
        self: &Arc<Self>,
        digests: &[Digest],
        fetch: impl Fn(Vec<Digest>) -> F + Send,
    ) -> Vec<Result<T, StoreError>>
    where
        F: Future<Output = Landed<T>> + Send + 'static,
    {
        let (flights, own) = self.board(digests, &fetch);
        let landed = join_all(flights.into_iter().map(Flight::landed)).await;
        let outcome = |digest: &Digest| match landed.iter().flatten().find_map(|landed| landed.get(digest)) {
            Some(Ok(value)) => Ok(value.clone()),
            Some(Err(error)) => Err(error.again()),
            None => Err(broken_off()),
        };
        let outcomes: Vec<_> = digests.iter().map(outcome).collect();
        let failed = |(digest, outcome): &(&Digest, &Result<T, StoreError>)| {
            outcome.is_err() && !own.contains(*digest)
        };
        let again: Vec<Digest> =
            digests.iter().zip(&outcomes).filter(failed).map(|(digest, _)| *digest).collect();
        if again.is_empty() {
            return outcomes;
        }
        let mut landed = fetch(again).await;
        let last = |(digest, outcome)| landed.remove(digest).unwrap_or(outcome);
        digests.iter().zip(outcomes).map(last).collect()
    }

    /// The distinct fetches that together bring the blobs, and those that are begun for it.
    fn board<F>(
        self: &Arc<Self>,
        digests: &[Digest],
        fetch: impl Fn(Vec<Digest>) -> F,
    ) -> (Vec<Flight<T>>, HashSet<Digest>)
    where
        F: Future<Output = Landed<T>> + Send + 'static,
    {
        let mut joined: HashMap<u64, Flight<T>> = HashMap::new();
        let mut others = Vec::new();
        let mut state = self.lock();
        for digest in digests {
            match state.by_digest.get(digest) {
                Some((id, ..)) if joined.contains_key(id) => {}
                Some((id, outcome, fetching)) => match fetching.upgrade() {
                    Some(fetching) => {
                        drop(joined.insert(*id, Flight { outcome: outcome.clone(), _fetching: fetching }))
                    }
                    None => others.push(*digest),
                },
                None => others.push(*digest),
            }
        }
        let mut flights: Vec<Flight<T>> = joined.into_values().collect();
        if others.is_empty() {
            return (flights, HashSet::new());
        }
        let own = others.iter().copied().collect();
        state.last_id += 1;
        let id = state.last_id;
        let listed = Listed { flights: Arc::clone(self), id, digests: others.clone() };
        let fetching = fetch(others.clone());
        let (sender, outcome) = watch::channel(None);
        let landing = async move {
            let landed = fetching.await;
            drop(listed);
            sender.send_replace(Some(Arc::new(landed)));
        };
        let fetching = Arc::new(Fetching::default());
        if state.by_digest.len() + others.len() <= JOINABLE_BLOBS_MAX {
            let entry = |digest| (digest, (id, outcome.clone(), Arc::downgrade(&fetching)));
            state.by_digest.extend(others.into_iter().map(entry));
        }
        // A runtime that is shutting down drops the task at once, and with it `listed`, which locks.
        drop(state);
        let _ = fetching.0.set(tokio::spawn(landing).abort_handle());
        flights.push(Flight { outcome, _fetching: fetching });
        (flights, own)
    }
}

fn broken_off() -> StoreError {
    StoreError::io("fetch blobs")(std::io::Error::other("the fetch was broken off"))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Notify;
    use wardian_proto::DigestFunction;

    use super::*;

    fn digests(count: u8) -> Vec<Digest> {
        (0..count).map(|i| DigestFunction::Sha256.digest(&[i])).collect()
    }

    /// Fetches that are counted and end when they are told to.
    #[derive(Default)]
    struct Fetches {
        begun: AtomicUsize,
        fetched: AtomicUsize,
        go: Notify,
    }

    impl Fetches {
        fn counts(&self) -> (usize, usize) {
            (self.begun.load(Ordering::SeqCst), self.fetched.load(Ordering::SeqCst))
        }
    }

    async fn bring(
        flights: &Arc<Flights<u64>>,
        fetches: &Arc<Fetches>,
        digests: &[Digest],
    ) -> Vec<Result<u64, StoreError>> {
        let fetch = |wanted: Vec<Digest>| {
            let fetches = Arc::clone(fetches);
            async move {
                fetches.begun.fetch_add(1, Ordering::SeqCst);
                fetches.fetched.fetch_add(wanted.len(), Ordering::SeqCst);
                fetches.go.notified().await;
                wanted.into_iter().map(|digest| (digest, Ok(digest.size()))).collect()
            }
        };
        flights.bring(digests, fetch).await
    }

    /// Lets everything that can go on go on.
    async fn turn() {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn who_wants_some_of_the_same_waits_for_it_and_fetches_the_rest() {
        let (flights, fetches) = (Arc::<Flights<u64>>::default(), Arc::<Fetches>::default());
        let all = digests(6);
        let (first, second, third) =
            tokio::join!(bring(&flights, &fetches, &all[..4]), bring(&flights, &fetches, &all[2..]), async {
                turn().await;
                fetches.go.notify_one();
                fetches.go.notify_waiters();
                bring(&flights, &fetches, &[]).await
            });
        assert_eq!((first.len(), second.len(), third.len()), (4, 4, 0));
        assert!(first.iter().chain(&second).all(|outcome| matches!(outcome, Ok(1))));
        assert_eq!(fetches.counts(), (2, 6));
        assert!(all.iter().all(|digest| !flights.has(digest)));
    }

    #[tokio::test]
    async fn who_gives_up_ends_it_only_as_the_last() {
        let (flights, fetches) = (Arc::<Flights<u64>>::default(), Arc::<Fetches>::default());
        let wanted = digests(1);
        let waits = |_| {
            let (flights, fetches, wanted) = (Arc::clone(&flights), Arc::clone(&fetches), wanted.clone());
            tokio::spawn(async move { bring(&flights, &fetches, &wanted).await.pop().unwrap() })
        };
        let mut waiting: Vec<_> = (0..3).map(waits).collect();
        turn().await;
        // The one that began it.
        waiting.remove(0).abort();
        turn().await;
        fetches.go.notify_one();
        for outcome in join_all(waiting).await {
            assert_eq!(outcome.unwrap().unwrap(), 1);
        }
        assert_eq!(fetches.counts(), (1, 1));
        let last = waits(0);
        turn().await;
        assert!(flights.has(&wanted[0]));
        last.abort();
        turn().await;
        assert!(!flights.has(&wanted[0]), "nobody waits any more");
    }
}
