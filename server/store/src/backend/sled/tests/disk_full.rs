//! A disk that is full: refused uploads, reads that go on, and uploads again once there is space.

use std::path::PathBuf;
use std::process::Command;

use super::generation::Location;
use super::*;

const DISK_BYTES: u64 = 96 << 20;

/// A file system in memory; unmounted when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `None`, loudly, where mounting is not permitted.
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let size = format!("size={DISK_BYTES}");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder.path()).status();
        match mounted {
            Ok(status) if status.success() => Some(Self(folder)),
            other => {
                eprintln!("SKIPPED: a small disk cannot be mounted here ({other:?}); run this test as root");
                None
            }
        }
    }

    fn store(&self) -> PathBuf {
        self.0.path().join("store")
    }

    /// Takes all space that is left, until the file is removed.
    fn fill(&self) -> PathBuf {
        let path = self.0.path().join("ballast");
        let mut file = File::create(&path).unwrap();
        let mut size = 1 << 20;
        while size > 0 {
            if file.write_all(&vec![1; size]).is_err() {
                size /= 2;
            }
        }
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

fn larger_than_the_disk() -> SledOptions {
    SledOptions { capacity_bytes: Some(4 * DISK_BYTES), ..options() }
}

/// Uploads until one is refused, and returns those that were not.
async fn upload_until_refused(store: &SledStore, from: u64, size: usize) -> Vec<Digest> {
    let mut stored = Vec::new();
    for seed in from.. {
        let (digest, data) = blob(seed, size);
        match BlobStore::put(store, Upload::bytes(digest, data)).await {
            Ok(()) => stored.push(digest),
            Err(StoreError::NoSpace(_)) => break,
            Err(other) => panic!("{other}"),
        }
    }
    stored
}

/// Tries again until the store has noticed that there is space.
async fn put_again(store: &SledStore, seed: u64, size: usize) -> Digest {
    let (digest, data) = blob(seed, size);
    for _ in 0..200 {
        match BlobStore::put(store, Upload::bytes(digest, data.clone())).await {
            Ok(()) => return digest,
            Err(StoreError::NoSpace(_) | StoreError::Indexing) => {}
            Err(other) => panic!("{other}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("uploads are refused although there is space");
}

#[tokio::test]
async fn uploads_are_refused_while_the_disk_is_full_and_taken_again_after() {
    let Some(disk) = SmallDisk::mount() else { return };
    let store = SledStore::open(&disk.store(), larger_than_the_disk()).unwrap();
    let mut stored = upload_until_refused(&store, 0, 700_000).await;
    stored.extend(upload_until_refused(&store, 1 << 20, 3000).await);
    assert!(stored.len() > 50);
    all_read(&store, &stored).await;
    let ballast = disk.fill();
    assert_eq!(upload_until_refused(&store, 1 << 21, 10).await, []);
    all_read(&store, &stored).await;
    fs::remove_file(ballast).unwrap();
    // Less than is kept free is left: room is made by hand.
    fs::remove_file(segment(&disk.store(), "large")).unwrap();
    for path in fs::read_dir(disk.store().join("segments")).unwrap().take(20) {
        let path = path.unwrap().path();
        if path.extension().unwrap() == "large" {
            fs::remove_file(path).unwrap();
        }
    }
    let new = put_again(&store, 1 << 40, 100_000).await;
    all_read(&store, &[new]).await;
    drop(store);
    let store = SledStore::open(&disk.store(), larger_than_the_disk()).unwrap();
    all_read(&store, &[new]).await;
    assert_eq!(store.check(|_, _| ()).await.unwrap().damage, Vec::<String>::new());
}

/// sled meets the full disk itself, and refuses everything from then on.
#[tokio::test]
async fn an_index_that_met_a_full_disk_is_built_again_while_the_store_is_open() {
    let Some(disk) = SmallDisk::mount() else { return };
    let store = SledStore::open(&disk.store(), larger_than_the_disk()).unwrap();
    let digests = fill(&store, &[&[2000; 300][..], &[400_000; 5]].concat()).await;
    RecordStore::put(&store, Table::ActionCache, b"k", Bytes::from_static(b"v")).await.unwrap();
    let ballast = disk.fill();
    let location = Location { segment: 1, ordinal: 0, offset: 0, payload_len: 0, deleted: true };
    let newest = store.engine.index.generation_of(u64::MAX).unwrap();
    let mut refused = false;
    for key in 0..200_000_u64 {
        if newest.insert(&key.to_le_bytes(), &location).is_err() {
            refused = true;
            break;
        }
    }
    assert!(refused && newest.has_failed());
    drop(newest);
    assert_eq!(upload_until_refused(&store, 1 << 21, 10).await, []);
    fs::remove_file(ballast).unwrap();
    let new = put_again(&store, 1 << 40, 100_000).await;
    all_read(&store, &digests).await;
    all_read(&store, &[new]).await;
    let value = RecordStore::get(&store, Table::ActionCache, b"k").await.unwrap();
    assert_eq!(value.as_deref(), Some(&b"v"[..]));
    drop(store);
    let store = SledStore::open(&disk.store(), larger_than_the_disk()).unwrap();
    all_read(&store, &digests).await;
    all_read(&store, &[new]).await;
}

/// Half of a large upload is written when the disk fills up.
#[tokio::test]
async fn an_upload_that_meets_the_full_disk_leaves_nothing() {
    let Some(disk) = SmallDisk::mount() else { return };
    let store = SledStore::open(&disk.store(), larger_than_the_disk()).unwrap();
    let (digest, data) = blob(5, 20 << 20);
    let (first, rest) = (data.slice(..4 << 20), data.slice(4 << 20..));
    let full = Arc::new(disk);
    let filling = Arc::clone(&full);
    let pieces = futures::stream::iter([Some(first), None, Some(rest)]).map(move |piece| {
        Ok(piece.unwrap_or_else(|| {
            filling.fill();
            Bytes::new()
        }))
    });
    let refused = BlobStore::put(&store, Upload::stream(digest, pieces)).await;
    assert!(matches!(refused, Err(StoreError::NoSpace(_))), "{refused:?}");
    fs::remove_file(full.0.path().join("ballast")).unwrap();
    assert_eq!(store.find_missing(&[digest]).await.unwrap(), [digest]);
    assert_eq!(fs::read_dir(full.store().join("incoming")).unwrap().count(), 0);
    assert_eq!(put_again(&store, 5, 20 << 20).await, digest);
    all_read(&store, &[digest]).await;
}
