//! Starting with an index that is behind, partly lost, or lost.

use std::os::unix::fs::FileExt as _;

use super::*;

async fn put_value(store: &SledStore, key: &[u8], value: &'static [u8]) {
    RecordStore::put(store, Table::ActionCache, key, Bytes::from_static(value)).await.unwrap();
}

async fn value(store: &SledStore, key: &[u8]) -> Option<Bytes> {
    RecordStore::get(store, Table::ActionCache, key).await.unwrap()
}

/// Folders of the index, oldest first.
fn generations(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder.join("index")).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

/// A store with several generations of the index, and the blobs in it.
async fn several_generations(folder: &Path) -> Vec<Digest> {
    let store = open(folder);
    let digests = fill(&store, &[100_000; 180]).await;
    let missing = store.find_missing(&digests).await.unwrap();
    drop(store);
    assert!(generations(folder).len() > 1);
    digests.into_iter().filter(|digest| !missing.contains(digest)).collect()
}

#[tokio::test]
async fn each_lost_part_of_the_index_is_built_again() {
    let folder = tempfile::tempdir().unwrap();
    let digests = several_generations(folder.path()).await;
    for lost in 0..generations(folder.path()).len() {
        fs::remove_dir_all(&generations(folder.path())[lost]).unwrap();
        let store = open(folder.path());
        all_read(&store, &digests).await;
        store.indexed(|_, _| ()).await;
        assert_eq!(store.stats().unindexed_bytes, 0);
    }
}

#[tokio::test]
async fn a_damaged_part_of_the_index_is_built_again() {
    let folder = tempfile::tempdir().unwrap();
    let digests = several_generations(folder.path()).await;
    for path in generations(folder.path()) {
        let database = fs::File::options().write(true).open(path.join("db")).unwrap();
        database.write_all_at(&[0x5a; 300_000], 0).unwrap();
        fs::write(path.join("conf"), b"nonsense").unwrap();
    }
    all_read(&open(folder.path()), &digests).await;
}

#[tokio::test]
async fn a_store_that_was_closed_has_nothing_to_catch_up_with() {
    let folder = tempfile::tempdir().unwrap();
    let digests = fill(&open(folder.path()), SIZES).await;
    let store = open(folder.path());
    all_read(&store, &digests).await;
    let total = std::sync::atomic::AtomicU64::new(0);
    store.indexed(|_, bytes| total.store(bytes, Ordering::Relaxed)).await;
    assert_eq!(total.into_inner(), 0);
}

/// The index may reach the disk before the bytes it names do.
#[tokio::test]
async fn what_a_power_failure_took_is_missing_although_the_index_names_it() {
    let (folder, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = open(folder.path());
    let digests = fill(&store, &[900, 800, 700, 500_000]).await;
    store.engine.index.flush().unwrap();
    killed_copy(folder.path(), copy.path());
    for kind in ["shared", "large"] {
        let path = segment(copy.path(), kind);
        let file = fs::File::options().write(true).open(&path).unwrap();
        // The second small record, and the middle of the large one.
        let at = if kind == "shared" { 16 + 65 + 900 + 200 } else { 200_000 };
        file.write_all_at(&[0; 100], at).unwrap();
    }
    let store = open(copy.path());
    assert_eq!(store.find_missing(&digests).await.unwrap(), digests[1..]);
    all_read(&store, &digests[..1]).await;
    let again = fill(&store, &[900, 800, 700, 500_000]).await;
    all_read(&store, &again).await;
    assert_eq!(store.check(|_, _| ()).await.unwrap().damage, Vec::<String>::new());
}

#[tokio::test]
async fn a_damaged_blob_stays_absent_when_the_index_is_built_anew() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let digests = fill(&store, &[3000, 400_000]).await;
    drop(store);
    for kind in ["shared", "large"] {
        let file = fs::File::options().write(true).open(segment(folder.path(), kind)).unwrap();
        file.write_all_at(b"rot", 2000).unwrap();
    }
    let store = open(folder.path());
    for (digest, range) in [(digests[0], 0), (digests[1], 0), (digests[1], 399_000)] {
        let pieces = store.read(&digest, ByteRange { offset: range, limit: None }).await;
        let read = match pieces {
            Ok(pieces) => crate::collect(pieces).await.map(|_| ()),
            Err(error) => Err(error),
        };
        assert!(matches!(read, Err(StoreError::NotFound(_) | StoreError::Damaged(_))), "{read:?}");
    }
    assert_eq!(store.find_missing(&digests).await.unwrap(), digests);
    assert_eq!(store.stats().records_damaged, 2);
    drop(store);
    let store = SledStore::rebuild(folder.path(), options()).unwrap();
    assert_eq!(store.find_missing(&digests).await.unwrap(), digests);
    all_read(&store, &fill(&store, &[3000, 400_000]).await).await;
}

/// A part of a large blob is read before the whole was: it must be checked all the same.
#[tokio::test]
async fn a_part_of_a_damaged_blob_is_not_served() {
    let folder = tempfile::tempdir().unwrap();
    let digests = fill(&open(folder.path()), &[400_000, 500_000]).await;
    for entry in fs::read_dir(folder.path().join("segments")).unwrap() {
        let file = fs::File::options().write(true).open(entry.unwrap().path()).unwrap();
        file.write_all_at(b"rot", 2000).unwrap();
    }
    let store = open(folder.path());
    let part = store.read(&digests[0], ByteRange { offset: 1, limit: Some(5) }).await;
    assert!(matches!(part.map(|_| ()), Err(StoreError::NotFound(_))));
    let copy = store.copy_to(&digests[1], tempfile::tempfile().unwrap()).await;
    assert!(matches!(copy, Err(StoreError::NotFound(_))));
    assert_eq!(store.find_missing(&digests).await.unwrap(), digests);
}

/// An old segment survives newer ones because what is in it is pinned. The value in it must not come back
/// when the segment with its successor, or with the mark that it was deleted, was dropped.
#[tokio::test]
async fn old_values_do_not_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    put_value(&store, b"changed", b"old").await;
    put_value(&store, b"deleted", b"old").await;
    let pinned = fill(&store, &[120_000; 7]).await;
    let (pin, missing) = store.pin(&pinned).await.unwrap();
    assert_eq!(missing, []);
    // The second of these no longer fits into the segment of what is pinned.
    put(&store, 1 << 30, 120_000).await;
    put(&store, 1 << 31, 120_000).await;
    put_value(&store, b"changed", b"new").await;
    RecordStore::delete(&store, Table::ActionCache, b"deleted").await.unwrap();
    // Not by reading them, which would give them second chances.
    let is_kept = |key: &[u8]| {
        let newest = store.engine.index.known(&record_key(Table::ActionCache, key).unwrap()).unwrap();
        newest.is_some_and(|newest| !newest.deleted && store.engine.segment(newest.segment).is_some())
    };
    for seed in 1000.. {
        put(&store, seed, 120_000).await;
        if !is_kept(b"changed") && !is_kept(b"deleted") {
            break;
        }
        assert!(seed < 10_000, "the values are never dropped");
    }
    // Not after a crash either, whatever of the index had reached the disk by itself.
    let copy = tempfile::tempdir().unwrap();
    killed_copy(folder.path(), copy.path());
    let killed = open(copy.path());
    assert_eq!(value(&killed, b"changed").await, None);
    assert_eq!(value(&killed, b"deleted").await, None);
    assert_eq!(value(&store, b"changed").await, None);
    assert_eq!(store.find_missing(&pinned).await.unwrap(), []);
    drop(pin);
    drop(store);
    let store = SledStore::rebuild(folder.path(), options()).unwrap();
    all_read(&store, &pinned).await;
    assert_eq!(value(&store, b"changed").await, None);
    assert_eq!(value(&store, b"deleted").await, None);
}

#[tokio::test]
async fn the_newest_value_is_found_by_a_rebuild() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    for round in [&b"1"[..], b"2", b"3"] {
        put_value(&store, b"k", round).await;
        put_value(&store, b"gone", round).await;
        fill(&store, &[100_000; 20]).await;
        put(&store, 1 << 40 | u64::from(round[0]), 900_000).await;
    }
    RecordStore::delete(&store, Table::ActionCache, b"gone").await.unwrap();
    drop(store);
    let store = SledStore::rebuild(folder.path(), options()).unwrap();
    assert_eq!(value(&store, b"k").await.as_deref(), Some(&b"3"[..]));
    assert_eq!(value(&store, b"gone").await, None);
}

/// The index remembers numbers that were used, so that nothing it knows seems to be about another segment.
#[tokio::test]
async fn a_segment_number_is_not_used_twice() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let digests = fill(&store, &[300_000, 301_000, 302_000]).await;
    store.engine.index.flush().unwrap();
    let copy = tempfile::tempdir().unwrap();
    killed_copy(folder.path(), copy.path());
    let lost = segment(copy.path(), "large");
    fs::remove_file(&lost).unwrap();
    let store = open(copy.path());
    let new = put(&store, 77, 400_000).await;
    assert_eq!(store.find_missing(&digests).await.unwrap(), digests[2..]);
    all_read(&store, &[new, digests[0], digests[1]]).await;
    assert!(!lost.exists());
}

/// An upload of a large blob that ends before its last byte, as when the process is killed.
async fn unfinished_upload(store: &SledStore, size: usize) {
    let (digest, data) = blob(99, size);
    let cut = futures::stream::iter([Ok(data.slice(..size / 2)), Err(StoreError::Damaged("cut".into()))]);
    assert!(BlobStore::put(store, Upload::stream(digest, cut)).await.is_err());
}

#[tokio::test]
async fn a_value_whose_newer_one_was_dropped_last_stays_gone_without_the_index() {
    let folder = tempfile::tempdir().unwrap();
    let lease = SledOptions { lease: Duration::from_secs(300), ..options() };
    let store = SledStore::open(folder.path(), lease).unwrap();
    put_value(&store, b"key", b"old").await;
    // The old value's segment stays, and so do all others but the newest.
    for seed in 0..200 {
        let digest = put(&store, seed, 100_000).await;
        assert_eq!(store.find_missing(&[digest]).await.unwrap(), []);
    }
    let promised = store.stats().segments;
    while store.stats().segments == promised {
        put(&store, 1000 + store.stats().used_bytes, 50_000).await;
    }
    put_value(&store, b"key", b"new").await;
    for size in (1..20).map(|megabytes| megabytes << 20) {
        if value(&store, b"key").await.as_deref() != Some(b"new") {
            break;
        }
        unfinished_upload(&store, size).await;
    }
    assert_eq!(value(&store, b"key").await, None, "it was to be evicted");
    drop(store);
    fs::remove_dir_all(folder.path().join("index")).unwrap();
    assert_eq!(value(&open(folder.path()), b"key").await, None);
}

/// The database with the newest row is lost, the one with an older row is not.
#[tokio::test]
async fn old_values_do_not_come_back_when_a_part_of_the_index_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    for key in [&b"dropped"[..], b"deleted", b"kept"] {
        put_value(&store, key, b"old").await;
    }
    let pinned = fill(&store, &[120_000; 7]).await;
    let (_pin, missing) = store.pin(&pinned).await.unwrap();
    assert_eq!(missing, []);
    let first = generations(folder.path()).len();
    let mut seed = 1 << 30;
    while generations(folder.path()).len() == first {
        put(&store, seed, 120_000).await;
        seed += 1;
    }
    put_value(&store, b"dropped", b"new").await;
    RecordStore::delete(&store, Table::ActionCache, b"deleted").await.unwrap();
    let segment_of = |key: &[u8]| {
        let newest = store.engine.index.known(&record_key(Table::ActionCache, key).unwrap()).unwrap();
        newest.unwrap().segment
    };
    let (dropped, deleted) = (segment_of(b"dropped"), segment_of(b"deleted"));
    for _ in 0..9 {
        put(&store, seed, 120_000).await;
        seed += 1;
    }
    // One whose newest value stays, with others dropped behind it.
    let neighbours = fill(&store, &[119_000; 29]).await;
    let (_pin, missing) = store.pin(&neighbours).await.unwrap();
    assert_eq!(missing, []);
    put_value(&store, b"kept", b"new").await;
    while store.engine.segment(dropped).is_some() || store.engine.segment(deleted).is_some() {
        put(&store, seed, 120_000).await;
        seed += 1;
        assert!(seed < (1 << 30) + 10_000, "the values are never dropped");
    }
    assert!(store.engine.segment(segment_of(b"kept")).is_some());
    for _ in 0..100 {
        put(&store, seed, 120_000).await;
        seed += 1;
    }
    let all = generations(folder.path()).len();
    for lost in 1..all {
        let copy = tempfile::tempdir().unwrap();
        killed_copy(folder.path(), copy.path());
        fs::remove_dir_all(&generations(copy.path())[lost]).unwrap();
        let store = open(copy.path());
        assert_eq!(value(&store, b"dropped").await, None, "without {lost} of {all}");
        assert_eq!(value(&store, b"deleted").await, None, "without {lost} of {all}");
        assert_ne!(value(&store, b"kept").await.as_deref(), Some(&b"old"[..]), "without {lost} of {all}");
        all_read(&store, &pinned).await;
    }
}

/// Files of the index lose what had been flushed: sled comes up with an earlier state, checkpoint and all.
#[tokio::test]
async fn old_values_do_not_come_back_with_an_earlier_index() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    for key in [&b"changed"[..], b"deleted"] {
        put_value(&store, key, b"old").await;
    }
    let pinned = fill(&store, &[120_000; 7]).await;
    let (_pin, missing) = store.pin(&pinned).await.unwrap();
    assert_eq!(missing, []);
    put(&store, 1 << 30, 120_000).await;
    put(&store, 1 << 31, 120_000).await;
    store.flush().await.unwrap();
    let earlier = tempfile::tempdir().unwrap();
    killed_copy(folder.path(), earlier.path());
    put_value(&store, b"changed", b"new").await;
    RecordStore::delete(&store, Table::ActionCache, b"deleted").await.unwrap();
    let newest = |key: &[u8]| {
        let newest = store.engine.index.known(&record_key(Table::ActionCache, key).unwrap()).unwrap();
        newest.unwrap().segment
    };
    let (changed, deleted) = (newest(b"changed"), newest(b"deleted"));
    // Marks of them are dropped and written again meanwhile.
    for seed in 1000.. {
        put(&store, seed, 120_000).await;
        let (changed_now, deleted_now) = (newest(b"changed"), newest(b"deleted"));
        if changed_now > changed + 100 && deleted_now > deleted + 100 {
            break;
        }
        assert!(seed < 10_000, "the values are never dropped");
    }
    assert!(store.engine.segment(changed).is_none() && store.engine.segment(deleted).is_none());
    let copy = tempfile::tempdir().unwrap();
    killed_copy(folder.path(), copy.path());
    fs::remove_dir_all(copy.path().join("index")).unwrap();
    fs::rename(earlier.path().join("index"), copy.path().join("index")).unwrap();
    let store = open(copy.path());
    assert_eq!(value(&store, b"changed").await, None);
    assert_eq!(value(&store, b"deleted").await, None);
    all_read(&store, &pinned).await;
}

/// What hides an older value leaves a mark for as long as the older one is there, and no longer.
#[tokio::test]
async fn marks_go_with_what_they_hide() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    put_value(&store, b"changed", b"old").await;
    let pinned = fill(&store, &[120_000; 7]).await;
    let (pin, _) = store.pin(&pinned).await.unwrap();
    put(&store, 1 << 30, 120_000).await;
    put(&store, 1 << 31, 120_000).await;
    put_value(&store, b"changed", b"new").await;
    put_value(&store, b"alone", b"only").await;
    let state = |key: &[u8]| {
        let newest = store.engine.index.known(&record_key(Table::ActionCache, key).unwrap()).unwrap();
        newest.map(|newest| (newest.deleted, store.engine.segment(newest.segment).is_some()))
    };
    let mut seed = 1000;
    while state(b"changed") != Some((true, true)) {
        put(&store, seed, 120_000).await;
        seed += 1;
        assert!(seed < 10_000, "the value is never dropped");
    }
    assert_eq!(state(b"alone"), Some((false, false)), "it hides nothing");
    drop(pin);
    while state(b"changed") != Some((true, false)) {
        put(&store, seed, 120_000).await;
        seed += 1;
        assert!(seed < 20_000, "the mark is never dropped");
    }
}

#[tokio::test]
async fn a_start_learns_which_keys_there_are() {
    let folder = tempfile::tempdir().unwrap();
    let digests = several_generations(folder.path()).await;
    let store = open(folder.path());
    store.indexed(|_, _| ()).await;
    while store.engine.index.learn_keys().unwrap() {}
    let absent: Vec<_> = (0..1000).map(|seed| blob(1 << 40 | seed, 100).0).collect();
    let maybe = absent.iter().filter(|digest| store.engine.index.may_have(&blob_key(digest))).count();
    assert!(maybe < 100, "{maybe}");
    assert_eq!(store.find_missing(&absent).await.unwrap(), absent);
    all_read(&store, &digests).await;
    let new = put(&store, 1 << 50, 100).await;
    all_read(&store, &[new]).await;
}

/// A large segment that was given a newer number has one footer and not one more each time.
#[tokio::test]
async fn renewed_segments_do_not_grow() {
    let folder = tempfile::tempdir().unwrap();
    drop(fill(&open(folder.path()), &[400_000]).await);
    let length = fs::metadata(segment(folder.path(), "large")).unwrap().len();
    let store = open(folder.path());
    store.indexed(|_, _| ()).await;
    let key = blob_key(&blob(0, 400_000).0);
    let location = store.engine.index.known(&key).unwrap().unwrap();
    let old = store.engine.segment(location.segment).unwrap();
    assert!(store.engine.renew(&old, &key, &location).unwrap());
    store.flush().await.unwrap();
    assert_eq!(fs::metadata(segment(folder.path(), "large")).unwrap().len(), length);
    all_read(&store, &[blob(0, 400_000).0]).await;
}
