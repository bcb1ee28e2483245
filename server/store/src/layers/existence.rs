//! Remembers which blobs the store below has, so that it is not asked again and again; forwards the rest.
//!
//! A blob is believed to be there for half of the lease that the store below gave for it, counted from
//! before it was asked. The other half is what this layer promises in its turn, so what it answers holds as
//! exactly as the answer of the store below. Nothing is ever remembered as missing.

use std::collections::HashSet;
use std::fs::File;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use wardian_proto::Digest;

use crate::blob_store::distinct_non_empty;
use crate::recent::Recent;
use crate::{BlobStore, BlobStream, ByteRange, Pin, StoreError, Upload};

/// Blobs that are remembered; each takes about 100 bytes.
const DIGESTS_MAX: u64 = 200_000;

/// Longest time that an answer is believed, also of stores that never evict.
const TRUST_MAX: Duration = Duration::from_secs(3600);

/// A store whose look-ups are remembered. Worth it where a look-up leaves the process.
pub struct Existence<S> {
    inner: S,
    /// Blobs and until when they are believed to be there.
    present: Recent<Digest, Instant>,
}

impl<S: BlobStore> Existence<S> {
    /// Remembers what `inner` has.
    pub fn new(inner: S) -> Self {
        Self { inner, present: Recent::new(DIGESTS_MAX) }
    }

    /// How long an answer is believed.
    fn trust(&self) -> Duration {
        (self.inner.lease() / 2).min(TRUST_MAX)
    }

    /// Those of the digests that must be asked for at this moment.
    fn unknown(&self, digests: &[Digest], now: Instant) -> Vec<Digest> {
        let mut unknown = distinct_non_empty(digests);
        unknown.retain(|digest| self.present.get(digest).is_none_or(|until| until <= now));
        unknown
    }

    /// Notes the answer to a question of `asked_at`.
    fn note(&self, asked: &[Digest], missing: &[Digest], asked_at: Instant) {
        let trust = self.trust();
        if trust.is_zero() {
            return;
        }
        let missing: HashSet<_> = missing.iter().collect();
        for digest in asked {
            if missing.contains(digest) {
                self.present.remove(digest);
            } else {
                self.present.insert(*digest, asked_at + trust, 1);
            }
        }
    }

    /// Forgets a blob that turned out not to be there.
    fn learn<T>(&self, outcome: Result<T, StoreError>) -> Result<T, StoreError> {
        if let Err(StoreError::NotFound(digest)) = &outcome {
            self.present.remove(digest);
        }
        outcome
    }
}

#[async_trait]
impl<S: BlobStore> BlobStore for Existence<S> {
    async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, StoreError> {
        let asked_at = Instant::now();
        let unknown = self.unknown(digests, asked_at);
        if unknown.is_empty() {
            return Ok(Vec::new());
        }
        let missing = self.inner.find_missing(&unknown).await?;
        self.note(&unknown, &missing, asked_at);
        Ok(missing)
    }

    fn lease(&self) -> Duration {
        match self.inner.lease() {
            Duration::MAX => Duration::MAX,
            lease => lease - self.trust(),
        }
    }

    async fn pin(&self, digests: &[Digest]) -> Result<(Pin, Vec<Digest>), StoreError> {
        let asked_at = Instant::now();
        let (pin, missing) = self.inner.pin(digests).await?;
        self.note(&distinct_non_empty(digests), &missing, asked_at);
        Ok((pin, missing))
    }

    async fn put(&self, upload: Upload) -> Result<(), StoreError> {
        self.inner.put(upload).await
    }

    async fn put_batch(&self, uploads: Vec<Upload>) -> Vec<Result<(), StoreError>> {
        self.inner.put_batch(uploads).await
    }

    async fn read(&self, digest: &Digest, range: ByteRange) -> Result<BlobStream, StoreError> {
        self.learn(self.inner.read(digest, range).await)
    }

    async fn get_batch(&self, digests: &[Digest]) -> Vec<Result<Bytes, StoreError>> {
        let outcomes = self.inner.get_batch(digests).await;
        outcomes.into_iter().map(|outcome| self.learn(outcome)).collect()
    }

    async fn get(&self, digest: &Digest, size_max: u64) -> Result<Bytes, StoreError> {
        self.learn(self.inner.get(digest, size_max).await)
    }

    async fn copy_to(&self, digest: &Digest, file: File) -> Result<(), StoreError> {
        self.learn(self.inner.copy_to(digest, file).await)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use wardian_proto::DigestFunction;

    use super::*;
    use crate::backend::MemoryStore;
    use crate::layers::{Leased, Metered, Meters, Operation};

    const LEASE: Duration = Duration::from_secs(100);

    type Layers = Existence<Metered<Leased<Arc<MemoryStore>>>>;

    struct Fixture {
        store: Layers,
        below: Arc<MemoryStore>,
        meters: Arc<Meters>,
    }

    fn over(lease: Duration) -> Fixture {
        let (below, meters) = (Arc::new(MemoryStore::new(1 << 20)), Arc::new(Meters::default()));
        let leased = Leased { inner: Arc::clone(&below), lease };
        let store = Existence::new(Metered::new(leased, Arc::clone(&meters)));
        Fixture { store, below, meters }
    }

    impl Fixture {
        async fn put(&self, text: &str) -> Digest {
            let digest = DigestFunction::Sha256.digest(text.as_bytes());
            self.store.put(Upload::bytes(digest, text.to_owned())).await.unwrap();
            digest
        }

        /// How many digests the store below was asked for.
        fn asked(&self) -> u64 {
            self.meters.read(Operation::FindMissing).items
        }
    }

    #[tokio::test]
    async fn what_is_there_is_asked_once_and_what_is_missing_each_time() {
        let f = over(LEASE);
        let (there, absent) = (f.put("there").await, DigestFunction::Sha256.digest(b"absent"));
        for round in 1..=3 {
            assert_eq!(f.store.find_missing(&[there, absent, there]).await.unwrap(), [absent]);
            assert_eq!(f.asked(), 1 + round, "both, then only the one that is missing");
        }
        f.put("absent").await;
        assert_eq!(f.store.find_missing(&[there, absent]).await.unwrap(), []);
        let asked = f.asked();
        assert_eq!(f.store.find_missing(&[there, absent]).await.unwrap(), []);
        assert_eq!(f.asked(), asked);
    }

    #[tokio::test]
    async fn an_answer_is_believed_for_half_of_its_lease() {
        let f = over(LEASE);
        let there = f.put("there").await;
        assert_eq!(f.store.lease(), LEASE / 2);
        let now = Instant::now();
        f.store.note(&[there], &[], now);
        assert_eq!(f.store.unknown(&[there], now + LEASE / 2 - Duration::from_millis(1)), []);
        assert_eq!(f.store.unknown(&[there], now + LEASE / 2), [there]);
    }

    #[tokio::test]
    async fn without_a_lease_nothing_is_believed() {
        let f = over(Duration::ZERO);
        let there = f.put("there").await;
        for round in 1..=3 {
            assert_eq!(f.store.find_missing(&[there]).await.unwrap(), []);
            assert_eq!(f.asked(), round);
        }
        assert_eq!(over(Duration::MAX).store.lease(), Duration::MAX);
    }

    #[tokio::test]
    async fn whatever_finds_a_blob_gone_makes_it_asked_for_again() {
        let f = over(LEASE);
        let file = || tempfile::tempfile().unwrap();
        for way in 0..5 {
            let gone = f.put("gone").await;
            assert_eq!(f.store.find_missing(&[gone]).await.unwrap(), []);
            f.below.evict(&gone);
            match way {
                0 => assert!(f.store.read(&gone, ByteRange::default()).await.is_err()),
                1 => assert!(f.store.get(&gone, 100).await.is_err()),
                2 => assert!(f.store.get_batch(&[gone]).await[0].is_err()),
                3 => assert!(f.store.copy_to(&gone, file()).await.is_err()),
                _ => assert_eq!(f.store.pin(&[gone]).await.unwrap().1, [gone]),
            }
            assert_eq!(f.store.find_missing(&[gone]).await.unwrap(), [gone], "way {way}");
        }
    }
}
