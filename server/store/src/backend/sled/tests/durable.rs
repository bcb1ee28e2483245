//! Flushing: one for all who wait, nothing acknowledged or sealed before it.

use std::sync::atomic::AtomicU64;

use super::*;

fn synced(folder: &Path) -> SledStore {
    SledStore::open(folder, SledOptions { sync: true, ..options() }).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_at_once_share_a_flush() {
    let folder = tempfile::tempdir().unwrap();
    let store = synced(folder.path());
    store.indexed(|_, _| ()).await;
    let (flushes, written) = (store.stats().flushes, store.engine.durable.written());
    let acknowledged = Arc::new(AtomicU64::new(0));
    let held = store.engine.durable.seam.hold.lock().unwrap();
    let uploads: Vec<_> = (0..40)
        .map(|seed| {
            let (store, acknowledged) = (store.clone(), Arc::clone(&acknowledged));
            tokio::spawn(async move {
                put(&store, seed, if seed % 4 == 0 { 300_000 } else { 1000 }).await;
                acknowledged.fetch_add(1, Ordering::Relaxed);
            })
        })
        .collect();
    while store.engine.durable.written() < written + 40 {
        std::thread::yield_now();
    }
    assert_eq!(acknowledged.load(Ordering::Relaxed), 0);
    drop(held);
    for upload in uploads {
        upload.await.unwrap();
    }
    // The one that was held, one for all that came meanwhile, and the store's own.
    let flushes = store.stats().flushes - flushes;
    assert!((2..=4).contains(&flushes), "{flushes}");
}

#[tokio::test]
async fn what_could_not_be_flushed_is_not_acknowledged_and_not_sealed() {
    let folder = tempfile::tempdir().unwrap();
    let store = synced(folder.path());
    let kept = put(&store, 1, 1000).await;
    store.engine.durable.seam.fail.store(true, Ordering::Relaxed);
    for (seed, size) in [(2, 1000), (3, 300_000)] {
        let (digest, data) = blob(seed, size);
        let refused = BlobStore::put(&store, Upload::bytes(digest, data)).await;
        assert!(matches!(refused, Err(StoreError::Io { .. })), "{refused:?}");
    }
    store.engine.durable.seam.fail.store(false, Ordering::Relaxed);
    // The system may have dropped what it could not write: a later success proves nothing.
    assert!(store.flush().await.is_err());
    let segments: Vec<_> = store.engine.segments.read().unwrap().values().cloned().collect();
    assert_eq!(segments.len(), 2);
    for segment in segments {
        assert!(segment.read_footer().unwrap().is_none());
    }
    drop(store);
    let store = synced(folder.path());
    all_read(&store, &[kept, put(&store, 2, 1000).await, put(&store, 3, 300_000).await]).await;
}

#[tokio::test]
async fn a_flush_seals_what_is_closed_and_leaves_a_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    // Two segments of 1 MiB, and a large one.
    let digests = fill(&store, &[&[100_000; 12][..], &[400_000]].concat()).await;
    store.indexed(|_, _| ()).await;
    store.flush().await.unwrap();
    let segments: Vec<_> = store.engine.segments.read().unwrap().values().cloned().collect();
    assert_eq!(segments.len(), 3);
    let sealed = segments.iter().map(|segment| segment.read_footer().unwrap().is_some());
    assert_eq!(sealed.collect::<Vec<_>>(), [true, false, true]);
    let copy = tempfile::tempdir().unwrap();
    killed_copy(folder.path(), copy.path());
    let store = open(copy.path());
    all_read(&store, &digests).await;
    store.indexed(|_, total| assert!(total <= 300_000, "{total}")).await;
}
