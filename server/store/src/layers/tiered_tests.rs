//! The far store decides, the near one only helps.

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

struct Fixture {
    store: Tiered<Arc<MemoryStore>, Metered<Arc<MemoryStore>>>,
    near: Arc<MemoryStore>,
    far: Arc<MemoryStore>,
    far_meters: Arc<Meters>,
}

fn fixture(near_bytes_max: u64) -> Fixture {
    let (near, far) = (Arc::new(MemoryStore::new(near_bytes_max)), Arc::new(MemoryStore::new(1 << 30)));
    let far_meters = Arc::new(Meters::default());
    let metered = Metered::new(Arc::clone(&far), Arc::clone(&far_meters));
    Fixture { store: Tiered::new(Arc::clone(&near), metered), near, far, far_meters }
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
