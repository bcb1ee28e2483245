//! Which blobs belong into shared segments, and how large those should be: write, read and evict under several
//! choices. `cargo bench -p wardian-store --bench thresholds [FOLDER]`; prints tables, checks nothing.
//!
//! Only numbers of one run compare: the machine decides the rest.

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use wardian_proto::{Digest, DigestFunction};
use wardian_store::backend::{SledOptions, SledStore, SledTuning};
use wardian_store::{BlobStore, ByteRange, StoreError, Upload};

/// How many uploads or reads run at once.
const AT_ONCE: usize = 8;
const CAPACITY_BYTES: u64 = 2 << 30;
/// Bytes of each measurement.
const DATA_BYTES: usize = 128 << 20;
const SHARED_BLOB_BYTES: [u64; 3] = [64 << 10, 256 << 10, 1 << 20];
const SEGMENT_BYTES: [u64; 3] = [16 << 20, 64 << 20, 256 << 20];
/// Sizes of blobs, around the choices.
const BLOB_BYTES: [usize; 4] = [4 << 10, 48 << 10, 192 << 10, 768 << 10];

#[tokio::main]
async fn main() {
    // Cargo passes `--bench`.
    let folder = std::env::args().skip(1).find(|argument| !argument.starts_with("--"));
    let folder = match &folder {
        Some(folder) => tempfile::tempdir_in(folder).unwrap(),
        None => tempfile::tempdir().unwrap(),
    };
    start(folder.path()).await;
    println!("\nshared segments take blobs up to ...; MiB/s");
    println!(
        "{:>10} {:>8} {:>10} {:>10} {:>10} {:>12}",
        "up to", "blob", "write", "read", "overwrite", "disk/data"
    );
    for shared_blob in SHARED_BLOB_BYTES {
        for blob in BLOB_BYTES {
            let tuning = SledTuning { shared_blob_bytes: shared_blob, ..SledTuning::of(CAPACITY_BYTES) };
            line(&kib(shared_blob), folder.path(), tuning, blob).await;
        }
    }
    println!("\nshared segments of ...");
    for segment in SEGMENT_BYTES {
        for blob in &BLOB_BYTES[..3] {
            let tuning = SledTuning { segment_bytes: segment, ..SledTuning::of(CAPACITY_BYTES) };
            line(&kib(segment), folder.path(), tuning, *blob).await;
        }
    }
}

/// Measures how long a store takes to open, and until it has an answer to everything.
async fn start(parent: &Path) {
    const RECORDS: u64 = 100_000;
    let folder = tempfile::tempdir_in(parent).unwrap();
    let options = SledOptions { capacity_bytes: Some(CAPACITY_BYTES), ..SledOptions::default() };
    let store = SledStore::open(folder.path(), options).unwrap();
    put_all(&store, &(0..RECORDS).map(|seed| blob(seed, 4 << 10)).collect::<Vec<_>>()).await;
    drop(store);
    println!("a store of {RECORDS} blobs of 4 KiB");
    for (what, open) in [
        ("opens", SledStore::open as fn(&Path, SledOptions) -> Result<SledStore, StoreError>),
        ("opens without an index", SledStore::rebuild),
    ] {
        let started = Instant::now();
        let store = open(folder.path(), options).unwrap();
        let opened = started.elapsed();
        store.indexed(|_, _| ()).await;
        println!("{what:>24} in {opened:?}, knows everything after {:?}", started.elapsed());
    }
}

fn kib(bytes: u64) -> String {
    format!("{} KiB", bytes >> 10)
}

/// Measures one choice with blobs of one size.
async fn line(choice: &str, parent: &Path, tuning: SledTuning, size: usize) {
    let folder = tempfile::tempdir_in(parent).unwrap();
    let options =
        SledOptions { capacity_bytes: Some(CAPACITY_BYTES), lease: Duration::ZERO, ..SledOptions::default() };
    let store = SledStore::open_tuned(folder.path(), options, tuning).unwrap();
    let count = (DATA_BYTES / size).min(20_000);
    let blobs: Vec<_> = (0..count).map(|seed| blob(seed as u64, size)).collect();
    let bytes = (count * size) as f64;
    let write = rate(bytes, put_all(&store, &blobs)).await;
    let disk = store.stats().used_bytes as f64 / bytes;
    let read = rate(bytes, read_all(&store, &blobs)).await;
    // Fill the store, then measure uploads that must evict.
    let more = |from: usize| (from..from + count).map(|seed| blob(seed as u64, size)).collect::<Vec<_>>();
    let mut round = 1;
    while store.stats().segments_dropped == 0 && round < 200 {
        put_all(&store, &more(round * count)).await;
        round += 1;
    }
    let last = more(round * count);
    let evict = rate(bytes, put_all(&store, &last)).await;
    println!(
        "{choice:>10} {:>8} {write:>10.0} {read:>10.0} {evict:>10.0} {disk:>12.3}",
        format!("{} KiB", size >> 10)
    );
}

async fn rate(bytes: f64, work: impl Future<Output = ()>) -> f64 {
    let started = Instant::now();
    work.await;
    bytes / started.elapsed().as_secs_f64() / f64::from(1 << 20)
}

async fn put_all(store: &SledStore, blobs: &[(Digest, Bytes)]) {
    let uploads =
        blobs.iter().map(|(digest, data)| {
            let (store, upload) = (store.clone(), Upload::bytes(*digest, data.clone()));
            async move {
                tokio::spawn(async move { BlobStore::put(&store, upload).await }).await.unwrap().unwrap()
            }
        });
    futures::stream::iter(uploads).buffer_unordered(AT_ONCE).collect::<()>().await;
}

async fn read_all(store: &SledStore, blobs: &[(Digest, Bytes)]) {
    let reads = blobs.iter().map(|(digest, _)| {
        let (store, digest) = (store.clone(), *digest);
        async move {
            tokio::spawn(async move {
                let mut pieces = store.read(&digest, ByteRange::default()).await.unwrap();
                while let Some(piece) = pieces.next().await {
                    piece.unwrap();
                }
            })
            .await
            .unwrap();
        }
    });
    futures::stream::iter(reads).buffer_unordered(AT_ONCE).collect::<()>().await;
}

/// Bytes that no other seed has, and that do not compress.
fn blob(seed: u64, size: usize) -> (Digest, Bytes) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut data = Vec::with_capacity(size + 8);
    while data.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        data.extend_from_slice(&state.to_le_bytes());
    }
    data.truncate(size);
    (DigestFunction::Sha256.digest(&data), data.into())
}
