//! The engine under crashes, traffic beyond its capacity, and loss of its index.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use wardian_proto::DigestFunction;

use super::generation::allocated_below;
use super::*;

mod catch_up;
mod disk_full;
mod durable;
mod model;

const CAPACITY: u64 = CAPACITY_BYTES_MIN;

fn options() -> SledOptions {
    SledOptions { capacity_bytes: Some(CAPACITY), lease: Duration::ZERO, sync: false }
}

fn open(folder: &Path) -> SledStore {
    SledStore::open(folder, options()).unwrap()
}

/// Bytes that no other seed has, and that do not compress.
fn blob(seed: u64, size: usize) -> (Digest, Bytes) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let data: Vec<u8> = (0..size)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect();
    (DigestFunction::Sha256.digest(&data), data.into())
}

async fn put(store: &SledStore, seed: u64, size: usize) -> Digest {
    let (digest, data) = blob(seed, size);
    BlobStore::put(store, Upload::bytes(digest, data)).await.unwrap();
    digest
}

async fn fill(store: &SledStore, sizes: &[usize]) -> Vec<Digest> {
    let mut digests = Vec::new();
    for (seed, size) in (0..).zip(sizes) {
        digests.push(put(store, seed, *size).await);
    }
    digests
}

async fn all_read(store: &SledStore, digests: &[Digest]) {
    assert_eq!(store.find_missing(digests).await.unwrap(), []);
    for digest in digests {
        let data = BlobStore::get(store, digest, u64::MAX).await.unwrap();
        assert_eq!(DigestFunction::Sha256.digest(&data), *digest);
    }
}

fn segment(folder: &Path, kind: &str) -> std::path::PathBuf {
    let entries = fs::read_dir(folder.join("segments")).unwrap();
    entries.map(|e| e.unwrap().path()).filter(|p| p.extension().unwrap() == kind).max().unwrap()
}

const SIZES: &[usize] = &[5, 2000, 100_000, 300_000, 1_500_000, 70];

/// Copies a store's folder while it is open, as a killed process would leave it.
fn killed_copy(folder: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            killed_copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test]
async fn a_killed_store_keeps_what_it_acknowledged() {
    let (folder, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = open(folder.path());
    let digests = fill(&store, SIZES).await;
    RecordStore::put(&store, Table::ActionCache, b"k", Bytes::from_static(b"v")).await.unwrap();
    fs::write(folder.path().join("incoming/leftover"), b"torn").unwrap();
    killed_copy(folder.path(), copy.path());
    let store = open(copy.path());
    all_read(&store, &digests).await;
    let value = RecordStore::get(&store, Table::ActionCache, b"k").await.unwrap();
    assert_eq!(value.as_deref(), Some(&b"v"[..]));
    assert_eq!(fs::read_dir(copy.path().join("incoming")).unwrap().count(), 0);
    assert_eq!(store.check(|_, _| {}).await.unwrap().damage, Vec::<String>::new());
}

#[tokio::test]
async fn a_lost_index_and_a_lost_footer_are_built_again() {
    let folder = tempfile::tempdir().unwrap();
    let digests = fill(&open(folder.path()), SIZES).await;
    drop(open(folder.path()));
    let path = segment(folder.path(), "shared");
    let length = fs::metadata(&path).unwrap().len();
    fs::File::options().write(true).open(&path).unwrap().set_len(length - 5).unwrap();
    all_read(&open(folder.path()), &digests).await;
    fs::remove_dir_all(folder.path().join("index")).unwrap();
    all_read(&open(folder.path()), &digests).await;
    all_read(&SledStore::rebuild(folder.path(), options()).unwrap(), &digests).await;
}

#[tokio::test]
async fn a_torn_tail_is_missing_and_the_rest_is_served() {
    let (folder, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = open(folder.path());
    let digests = fill(&store, &[900, 800, 700]).await;
    killed_copy(folder.path(), copy.path());
    let path = segment(copy.path(), "shared");
    let length = fs::metadata(&path).unwrap().len();
    fs::File::options().write(true).open(&path).unwrap().set_len(length - 10).unwrap();
    let store = open(copy.path());
    assert_eq!(store.find_missing(&digests).await.unwrap(), digests[2..]);
    all_read(&store, &digests[..2]).await;
    let again = put(&store, 2, 700).await;
    all_read(&store, &[again]).await;
}

#[tokio::test]
async fn a_damaged_record_is_found_by_a_check_and_missing_once_it_was_read() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let digest = put(&store, 1, 5000).await;
    let path = segment(folder.path(), "shared");
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert_eq!(store.check(|_, _| {}).await.unwrap().damage.len(), 1);
    let read = BlobStore::get(&store, &digest, u64::MAX).await;
    assert!(matches!(read, Err(StoreError::NotFound(_))));
    assert_eq!(store.find_missing(&[digest]).await.unwrap(), [digest]);
}

/// Random traffic of many times the capacity: never over the bound, never a wrong answer.
#[tokio::test]
async fn traffic_beyond_the_capacity_stays_within_it_and_is_never_over_reported() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let mut model: HashMap<u64, Digest> = HashMap::new();
    let (mut random, mut sent, mut most) = (88_172_645_463_325_252_u64, 0, 0);
    for step in 0_u64.. {
        if sent > 400 << 20 {
            break;
        }
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let size = match random % 10 {
            0..6 => 1 + random as usize / 16 % 8000,
            6..9 => 1 + random as usize / 16 % 250_000,
            _ => 1 + random as usize / 16 % 2_000_000,
        };
        model.insert(step, put(&store, step, size).await);
        sent += size;
        let asked = model[&(random / 7 % (step + 1))];
        if store.find_missing(&[asked]).await.unwrap().is_empty() {
            all_read(&store, &[asked]).await;
        }
        if step % 16 == 0 {
            most = most.max(allocated_below(folder.path()));
            assert!(most <= CAPACITY, "{most} at step {step}: {:?}", store.stats());
        }
    }
    assert!(store.stats().segments_dropped > 0);
    assert!(most > CAPACITY / 2, "{most}");
    let digests: Vec<_> = model.into_values().collect();
    let missing = store.find_missing(&digests).await.unwrap();
    assert!(missing.len() < digests.len());
    drop(store);
    let store = open(folder.path());
    for digest in digests.iter().filter(|d| !missing.contains(d)) {
        all_read(&store, &[*digest]).await;
    }
}

#[tokio::test]
async fn tiny_blobs_do_not_let_the_index_grow() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    for round in 0..100_u64 {
        let uploads =
            (0..2000).map(|i| blob(round * 2000 + i, 24)).map(|(d, b)| Upload::bytes(d, b)).collect();
        assert!(store.put_batch(uploads).await.iter().all(Result::is_ok));
        let bytes = allocated_below(folder.path());
        assert!(bytes <= CAPACITY, "{bytes} in round {round}: {:?}", store.stats());
    }
}

/// An announced size is charged as its bytes come, so that announcing alone evicts nothing.
#[tokio::test]
async fn an_upload_that_never_comes_evicts_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let digests = fill(&store, &[200_000; 10]).await;
    let (digest, data) = blob(1 << 50, 17 << 20);
    let pieces = vec![Ok(data.slice(..1 << 20)), Err(StoreError::Source(tonic::Status::cancelled("gone")))];
    let upload = Upload::stream(digest, futures::stream::iter(pieces));
    assert!(matches!(BlobStore::put(&store, upload).await, Err(StoreError::Source(_))));
    assert_eq!(store.stats().segments_dropped, 0);
    all_read(&store, &digests).await;
    let too_large = Digest::from_parts(digest.function(), digest.hash(), CAPACITY).unwrap();
    let endless = futures::stream::repeat_with(move || Ok(data.clone()));
    let refused = BlobStore::put(&store, Upload::stream(too_large, endless)).await;
    assert!(matches!(refused, Err(StoreError::NoSpace(_))));
    all_read(&store, &digests).await;
}

#[tokio::test]
async fn values_that_are_too_large_are_the_callers_mistake() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let value = Bytes::from(vec![0; CAPACITY as usize / 128 + 1]);
    let refused = RecordStore::put(&store, Table::ActionCache, b"k", value).await.unwrap_err();
    assert_eq!(tonic::Status::from(refused).code(), tonic::Code::InvalidArgument);
    let key = vec![7; 5000];
    let refused = RecordStore::put(&store, Table::ActionCache, &key, Bytes::new()).await.unwrap_err();
    assert_eq!(tonic::Status::from(refused).code(), tonic::Code::InvalidArgument);
}

/// Two uploads of one large blob at once: the second waits, and writes when the first fails.
#[tokio::test]
async fn uploads_of_one_large_blob_share_a_write() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    for (seed, first_succeeds) in [(1, false), (2, true)] {
        let (digest, data) = blob(seed, 600_000);
        let (sender, pieces) = tokio::sync::mpsc::channel(1);
        sender.send(Ok(data.slice(..300_000))).await.unwrap();
        let pieces = tokio_stream::wrappers::ReceiverStream::new(pieces);
        let (one, other) = (store.clone(), store.clone());
        let first = tokio::spawn(async move { BlobStore::put(&one, Upload::stream(digest, pieces)).await });
        let incoming = folder.path().join("incoming");
        while fs::read_dir(&incoming).unwrap().count() == 0 {
            tokio::task::yield_now().await;
        }
        let bytes = data.clone();
        let second = tokio::spawn(async move { BlobStore::put(&other, Upload::bytes(digest, bytes)).await });
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(fs::read_dir(&incoming).unwrap().count(), 1);
        let last = match first_succeeds {
            true => Ok(data.slice(300_000..)),
            false => Err(StoreError::Source(tonic::Status::cancelled("gone"))),
        };
        sender.send(last).await.unwrap();
        drop(sender);
        assert_eq!(first.await.unwrap().is_ok(), first_succeeds);
        second.await.unwrap().unwrap();
        all_read(&store, &[digest]).await;
        assert_eq!(store.stats().segments, seed);
        let wrong = BlobStore::put(&store, Upload::bytes(digest, data.slice(1..))).await;
        assert!(matches!(wrong, Err(StoreError::Mismatch { .. })));
    }
}

#[tokio::test]
async fn what_is_pinned_stays_and_a_store_full_of_it_refuses_uploads() {
    for size in [60_000, 1_000_000] {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path());
        let (mut pins, mut pinned) = (Vec::new(), Vec::new());
        let refused = loop {
            let (digest, data) = blob(pinned.len() as u64, size);
            match BlobStore::put(&store, Upload::bytes(digest, data)).await {
                Ok(()) => {}
                Err(error) => break error,
            }
            let (pin, missing) = store.pin(&[digest]).await.unwrap();
            assert_eq!(missing, []);
            pins.push(pin);
            pinned.push(digest);
            assert!(allocated_below(folder.path()) <= CAPACITY);
        };
        assert!(matches!(refused, StoreError::NoSpace(_)), "{refused}");
        assert!(pinned.len() * size > CAPACITY as usize / 4, "{}", pinned.len());
        all_read(&store, &pinned).await;
        drop(pins);
        put(&store, 1 << 40, size).await;
    }
}

#[tokio::test]
async fn a_read_that_began_before_eviction_finishes() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let digest = put(&store, 1 << 50, 1_000_000).await;
    let pieces = store.read(&digest, ByteRange::default()).await.unwrap();
    for seed in 0..120 {
        put(&store, seed, 900_000).await;
    }
    assert_eq!(store.find_missing(&[digest]).await.unwrap(), [digest]);
    let data = crate::collect(pieces).await.unwrap();
    assert_eq!(DigestFunction::Sha256.digest(&data), digest);
}

/// Uploads and questions at once, in a store much too small: what was reported present can be read.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn leases_hold_while_others_fill_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let lease = Duration::from_secs(3600);
    let store = SledStore::open(folder.path(), SledOptions { lease, ..options() }).unwrap();
    let tasks = (0..4_u64).map(|task| {
        let store = store.clone();
        tokio::spawn(async move {
            let (mut promised, mut stored) = (Vec::new(), Vec::new());
            for step in 0..400_u64 {
                let size = if step % 5 == 0 { 400_000 } else { 30_000 };
                stored.push(put(&store, task << 32 | step, size).await);
                let asked = stored[(step * 7 / 9) as usize];
                if step % 10 == 0 && store.find_missing(&[asked]).await.unwrap().is_empty() {
                    promised.push(asked);
                }
                if step % 20 == 0 {
                    all_read(&store, &promised).await;
                }
            }
            promised
        })
    });
    for promised in futures::future::join_all(tasks).await {
        all_read(&store, &promised.unwrap()).await;
    }
    assert!(store.stats().bytes_moved > 0, "{:?}", store.stats());
    assert!(allocated_below(folder.path()) <= CAPACITY);
}
