//! The far store decides, the near one only helps.

use std::sync::atomic::{AtomicBool, Ordering};

use wardian_proto::DigestFunction;

use super::*;
use crate::backend::MemoryStore;
use crate::collect;
use crate::layers::{Metered, Meters, Operation, ReadOnly};

/// One that travels whole, one that goes by in pieces.
const BOTH_WAYS: [usize; 2] = [1000, 700_000];

fn blob(size: usize) -> (Digest, Bytes) {
    let data: Vec<u8> = (0..size).map(|i| (i % 239) as u8).collect();
    (DigestFunction::Sha256.digest(&data), data.into())
}

/// A store that answers late, and not at all while it is away.
struct Distant {
    inner: Arc<MemoryStore>,
    is_away: Arc<AtomicBool>,
}

impl Distant {
    /// Lets everybody else ask meanwhile.
    async fn travel(&self) -> Result<(), StoreError> {
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
        match self.is_away.load(Ordering::SeqCst) {
            true => Err(StoreError::Remote(tonic::Status::unavailable("away"))),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl BlobStore for Distant {
    async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, StoreError> {
        self.inner.find_missing(digests).await
    }

    fn lease(&self) -> Duration {
        self.inner.lease()
    }

    async fn pin(&self, digests: &[Digest]) -> Result<(Pin, Vec<Digest>), StoreError> {
        self.inner.pin(digests).await
    }

    async fn put(&self, upload: Upload) -> Result<(), StoreError> {
        self.inner.put(upload).await
    }

    async fn put_batch(&self, uploads: Vec<Upload>) -> Vec<Result<(), StoreError>> {
        self.inner.put_batch(uploads).await
    }

    async fn read(&self, digest: &Digest, range: ByteRange) -> Result<BlobStream, StoreError> {
        self.travel().await?;
        self.inner.read(digest, range).await
    }

    async fn get_batch(&self, digests: &[Digest]) -> Vec<Result<Bytes, StoreError>> {
        match self.travel().await {
            Ok(()) => self.inner.get_batch(digests).await,
            Err(error) => digests.iter().map(|_| Err(error.again())).collect(),
        }
    }
}

struct Fixture {
    is_away: Arc<AtomicBool>,
    store: Tiered<Arc<MemoryStore>, Metered<Distant>>,
    near: Arc<MemoryStore>,
    far: Arc<MemoryStore>,
    far_meters: Arc<Meters>,
}

fn fixture(near_bytes_max: u64) -> Fixture {
    let (near, far) = (Arc::new(MemoryStore::new(near_bytes_max)), Arc::new(MemoryStore::new(1 << 30)));
    let far_meters = Arc::new(Meters::default());
    let is_away = Arc::<AtomicBool>::default();
    let distant = Distant { inner: Arc::clone(&far), is_away: Arc::clone(&is_away) };
    let metered = Metered::new(distant, Arc::clone(&far_meters));
    Fixture { store: Tiered::new(Arc::clone(&near), metered), near, far, far_meters, is_away }
}

impl Fixture {
    async fn put_far(&self, size: usize) -> (Digest, Bytes) {
        let (digest, data) = blob(size);
        self.far.put(Upload::bytes(digest, data.clone())).await.unwrap();
        (digest, data)
    }

    /// Waits until no large blob is on its way into the near store.
    async fn settled(&self) {
        while !self.store.copying.digests().is_empty() {
            tokio::task::yield_now().await;
        }
    }

    async fn is_near(&self, digest: Digest) -> bool {
        self.settled().await;
        self.near.find_missing(&[digest]).await.unwrap().is_empty()
    }

    fn read_from_afar(&self) -> u64 {
        self.far_meters.read(Operation::Read).calls + self.far_meters.read(Operation::GetBatch).items
    }
}

async fn whole(store: &impl BlobStore, digest: &Digest) -> Result<Bytes, StoreError> {
    collect(store.read(digest, ByteRange::default()).await?).await
}

#[tokio::test]
async fn what_is_read_from_afar_is_near_the_next_time() {
    let f = fixture(1 << 20);
    for (way, size) in BOTH_WAYS.into_iter().enumerate() {
        let (digest, data) = f.put_far(size).await;
        let file = tempfile::NamedTempFile::new().unwrap();
        match way {
            0 => assert!(f.store.get(&digest, u64::MAX).await.unwrap() == data),
            _ => f.store.copy_to(&digest, file.reopen().unwrap()).await.unwrap(),
        }
        assert!(f.is_near(digest).await);
        let before = f.read_from_afar();
        assert!(whole(&f.store, &digest).await.unwrap() == data);
        assert!(f.store.get_batch(&[digest]).await[0].as_ref().unwrap() == &data);
        f.store.copy_to(&digest, file.reopen().unwrap()).await.unwrap();
        assert!(std::fs::read(file.path()).unwrap() == data);
        assert_eq!(f.read_from_afar(), before);
    }
}

#[tokio::test]
async fn uploads_are_in_both_when_they_are_done() {
    let f = fixture(1 << 20);
    for (digest, data) in BOTH_WAYS.map(blob) {
        f.store.put(Upload::bytes(digest, data)).await.unwrap();
        assert_eq!(f.far.find_missing(&[digest]).await.unwrap(), []);
        assert!(f.is_near(digest).await);
    }
    let (digest, data) = blob(77);
    let (wrong, _) = blob(78);
    let uploads = vec![Upload::bytes(wrong, data.clone()), Upload::bytes(digest, data)];
    assert!(matches!(
        &f.store.put_batch(uploads).await[..],
        [Err(StoreError::Overrun(_) | StoreError::Mismatch { .. }), Ok(())]
    ));
    assert!(f.is_near(digest).await && !f.is_near(wrong).await);
}

#[tokio::test]
async fn only_the_far_store_says_what_there_is() {
    let f = fixture(1 << 20);
    for (digest, data) in BOTH_WAYS.map(blob) {
        f.store.put(Upload::bytes(digest, data.clone())).await.unwrap();
        assert!(f.is_near(digest).await);
        f.far.evict(&digest);
        assert_eq!(f.store.find_missing(&[digest]).await.unwrap(), [digest]);
        assert_eq!(f.store.pin(&[digest]).await.unwrap().1, [digest]);
        assert!(whole(&f.store, &digest).await.unwrap() == data, "still good for reading");
        f.store.put(Upload::bytes(digest, data.clone())).await.unwrap();
        f.near.evict(&digest);
        assert_eq!(f.store.find_missing(&[digest]).await.unwrap(), []);
        assert!(whole(&f.store, &digest).await.unwrap() == data);
    }
}

#[tokio::test]
async fn a_near_store_that_takes_nothing_does_no_harm() {
    let f = fixture(10);
    for (digest, data) in BOTH_WAYS.map(blob) {
        f.store.put(Upload::bytes(digest, data.clone())).await.unwrap();
        assert!(whole(&f.store, &digest).await.unwrap() == data);
        assert!(f.store.get(&digest, u64::MAX).await.unwrap() == data);
        assert!(!f.is_near(digest).await);
    }
}

#[tokio::test]
async fn an_upload_that_the_far_store_refuses_has_failed() {
    let near = Arc::new(MemoryStore::new(1 << 20));
    let store = Tiered::new(Arc::clone(&near), ReadOnly::new(MemoryStore::new(0)));
    for (digest, data) in BOTH_WAYS.map(blob) {
        let outcome = store.put(Upload::bytes(digest, data)).await;
        assert!(matches!(outcome, Err(StoreError::ReadOnly)));
        assert_eq!(store.find_missing(&[digest]).await.unwrap(), [digest]);
    }
}

#[tokio::test]
async fn parts_and_broken_reads_are_not_kept() {
    let f = fixture(1 << 20);
    let (digest, data) = f.put_far(700_000).await;
    let part = ByteRange { offset: 5, limit: Some(100) };
    let read = collect(f.store.read(&digest, part).await.unwrap()).await.unwrap();
    assert!(read == data.slice(5..105) && !f.is_near(digest).await);
    let mut pieces = f.store.read(&digest, ByteRange::default()).await.unwrap();
    pieces.next().await.unwrap().unwrap();
    drop(pieces);
    assert!(!f.is_near(digest).await);
    assert!(whole(&f.store, &digest).await.unwrap() == data);
    assert!(f.is_near(digest).await);
}

#[tokio::test]
async fn many_readers_of_one_blob_make_one_copy() {
    let f = fixture(1 << 20);
    let (digest, data) = f.put_far(700_000).await;
    let readers = (0..8).map(|_| whole(&f.store, &digest));
    for read in futures::future::join_all(readers).await {
        assert!(read.unwrap() == data);
    }
    assert!(f.is_near(digest).await);
}

/// A store that brings large blobs near for all who read them, as a worker's does.
fn joining(near_bytes_max: u64) -> Fixture {
    let f = fixture(near_bytes_max);
    Fixture { store: f.store.joining(1 << 20), ..f }
}

#[tokio::test]
async fn fifty_readers_at_once_make_one_read_from_afar() {
    let f = joining(1 << 20);
    for size in BOTH_WAYS {
        let (digest, data) = f.put_far(size).await;
        let before = f.read_from_afar();
        let readers = (0..50).map(|_| whole(&f.store, &digest));
        for read in futures::future::join_all(readers).await {
            assert!(read.unwrap() == data);
        }
        assert_eq!(f.read_from_afar() - before, 1, "{size}");
        assert!(f.is_near(digest).await);
    }
}

#[tokio::test]
async fn batches_share_what_they_have_in_common() {
    let f = fixture(1 << 20);
    let mut blobs = Vec::new();
    for size in 1..10 {
        blobs.push(f.put_far(size).await.0);
    }
    let (absent, _) = blob(999);
    blobs.push(absent);
    let (first, second) = tokio::join!(f.store.get_batch(&blobs[..6]), f.store.get_batch(&blobs[3..]));
    assert_eq!(f.read_from_afar(), 10);
    assert!(first.iter().all(Result::is_ok));
    assert_eq!(second.iter().filter(|outcome| outcome.is_ok()).count(), 6);
    assert!(matches!(second.last(), Some(Err(StoreError::NotFound(digest))) if *digest == absent));
}

#[tokio::test]
async fn a_reader_that_gives_up_does_not_end_it_for_the_others() {
    let f = joining(1 << 20);
    for size in BOTH_WAYS {
        let (digest, data) = f.put_far(size).await;
        let before = f.read_from_afar();
        let mut first = Box::pin(whole(&f.store, &digest));
        assert!(futures::poll!(&mut first).is_pending());
        let mut second = Box::pin(whole(&f.store, &digest));
        assert!(futures::poll!(&mut second).is_pending());
        drop(first);
        assert!(second.await.unwrap() == data);
        assert_eq!(f.read_from_afar() - before, 1);
    }
}

#[tokio::test]
async fn a_failure_reaches_all_who_wait_and_the_next_tries_again() {
    let f = joining(1 << 20);
    for size in BOTH_WAYS {
        let (digest, data) = f.put_far(size).await;
        f.is_away.store(true, Ordering::SeqCst);
        let readers = (0..50).map(|_| whole(&f.store, &digest));
        for read in futures::future::join_all(readers).await {
            assert!(read.unwrap_err().is_unavailable());
        }
        f.is_away.store(false, Ordering::SeqCst);
        assert!(whole(&f.store, &digest).await.unwrap() == data);
    }
}

#[tokio::test]
async fn parts_wait_for_a_blob_that_is_on_its_way() {
    let f = joining(1 << 20);
    let (digest, data) = f.put_far(700_000).await;
    let part = ByteRange { offset: 5, limit: Some(100) };
    let mut first = Box::pin(whole(&f.store, &digest));
    assert!(futures::poll!(&mut first).is_pending());
    let second = async { collect(f.store.read(&digest, part).await.unwrap()).await.unwrap() };
    let (first, second) = tokio::join!(first, second);
    assert!(first.unwrap() == data && second == data.slice(5..105));
    assert_eq!(f.read_from_afar(), 1);
}

#[tokio::test]
async fn what_the_near_store_does_not_take_is_read_all_the_same() {
    let f = joining(10);
    let (digest, data) = f.put_far(700_000).await;
    let readers = (0..3).map(|_| whole(&f.store, &digest));
    for read in futures::future::join_all(readers).await {
        assert!(read.unwrap() == data);
    }
    assert!(!f.is_near(digest).await);
}
