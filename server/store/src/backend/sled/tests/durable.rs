//! Flushing: one for all who wait, nothing acknowledged or sealed before it.

use std::os::unix::fs::FileExt as _;
use std::sync::atomic::AtomicU64;

use super::super::record::SEGMENT_HEADER_BYTES;
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
    let segments: Vec<_> = store.engine.segments.read().unwrap().values().cloned().collect();
    for segment in &segments {
        assert!(segment.read_footer().unwrap().is_none());
    }
    // Once the disk takes it again, all of it is.
    store.engine.durable.seam.fail.store(false, Ordering::Relaxed);
    store.flush().await.unwrap();
    for segment in segments.iter().filter(|segment| segment.records_end() > SEGMENT_HEADER_BYTES) {
        assert!(segment.read_footer().unwrap().is_some());
        assert!(!segment.is_doubtful());
    }
    let digests = [kept, blob(2, 1000).0, blob(3, 300_000).0, put(&store, 4, 1000).await];
    let copy = tempfile::tempdir().unwrap();
    killed_copy(folder.path(), copy.path());
    let killed = synced(copy.path());
    all_read(&killed, &digests).await;
    assert_eq!(killed.check(|_, _| ()).await.unwrap().damage, Vec::<String>::new());
}

/// After a write that failed the system may drop what it could not write; the file then has other bytes.
#[tokio::test]
async fn what_a_failed_flush_lost_is_missing_and_the_rest_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let small = fill(&store, &[900, 800, 700]).await;
    let large = [put(&store, 10, 400_000).await, put(&store, 11, 400_000).await];
    store.engine.durable.seam.fail.store(true, Ordering::Relaxed);
    assert!(store.flush().await.is_err());
    let path = segment(folder.path(), "shared");
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.write_all_at(&[0; 100], 16 + 65 + 900 + 200).unwrap();
    let file = fs::File::options().write(true).open(segment(folder.path(), "large")).unwrap();
    file.write_all_at(&[0; 100], 200_000).unwrap();
    // What is written meanwhile is in other segments, and waits for a flush of its own.
    let later = put(&store, 20, 500).await;
    assert!(store.flush().await.is_err());
    store.engine.durable.seam.fail.store(false, Ordering::Relaxed);
    store.flush().await.unwrap();
    let all = [&small[..], &large[..], &[later]].concat();
    let (lost, kept) = ([small[1], large[1]], [small[0], small[2], large[0], later]);
    assert_eq!(store.find_missing(&all).await.unwrap(), lost);
    assert_eq!(store.stats().records_damaged, 2);
    all_read(&store, &kept).await;
    drop(store);
    let store = SledStore::rebuild(folder.path(), options()).unwrap();
    assert_eq!(store.find_missing(&all).await.unwrap(), lost);
    all_read(&store, &kept).await;
    assert_eq!(put(&store, 11, 400_000).await, large[1]);
    all_read(&store, &large).await;
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
