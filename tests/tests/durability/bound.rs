//! Far more than a store can hold goes through it: disk and memory stay within bounds all the time.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures::future::join_all;
use rand::RngExt as _;
use wardian_store::backend::GrpcStore;
use wardian_store::{BlobStore as _, StoreError, Upload};
use wardian_tests::{Blob, Memory, Random, ServerProcess, allocated_below, digest, random};

use crate::SERVER;

const CAPACITY_BYTES: u64 = 256 << 20;
const TRAFFIC_BYTES: u64 = 5 << 30;

/// What the server may hold in memory at any time, its code included: pieces of uploads for each client, and
/// what sled caches, 16 MiB for each generation of the index. It does not depend on the traffic.
const RESIDENT_BYTES_MAX: u64 = 224 << 20;

/// Clients that send batches, and as many that write large blobs.
const CLIENTS: u64 = 3;

const SMALL: std::ops::RangeInclusive<usize> = 1..=128 << 10;
const BATCH: usize = 30;
const LARGE: std::ops::RangeInclusive<usize> = 256 << 10..=8 << 20;

/// Of so many uploads one is read again.
const READ_AGAIN: u32 = 8;

/// Between two looks at the server.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(20);

#[tokio::test(flavor = "multi_thread")]
async fn a_small_store_takes_any_amount_of_traffic() {
    let folder = tempfile::tempdir().expect("a folder for the server");
    let settings = format!("[store]\ncapacity_bytes = {CAPACITY_BYTES}\n");
    let server =
        ServerProcess::start(Path::new(SERVER), folder.path(), &settings).expect("the server starts");
    let server = Arc::new(server);
    let sent = Arc::new(AtomicU64::new(0));
    let mut clients = Vec::new();
    for number in 0..2 * CLIENTS {
        let client = Client {
            batches: number < CLIENTS,
            store: server.store(u64::from(u32::MAX)).await,
            random: random(number),
            sent: Arc::clone(&sent),
        };
        clients.push(tokio::spawn(client.send_its_share()));
    }
    let ended = Arc::new(AtomicBool::new(false));
    let watching = {
        let (server, ended, store) =
            (Arc::clone(&server), Arc::clone(&ended), folder.path().join("data/store"));
        tokio::task::spawn_blocking(move || watch(&server, &store, &ended))
    };
    let outcomes = join_all(clients).await;
    ended.store(true, Ordering::SeqCst);
    let peak = watching.await.expect("the bounds are kept");
    for outcome in outcomes {
        outcome.expect("a client sends its share");
    }
    assert!(sent.load(Ordering::SeqCst) >= TRAFFIC_BYTES);
    eprintln!("the most was {} MiB on disk, {} MiB resident", peak.0 >> 20, peak.1.resident >> 20);
}

/// Looks at disk and memory until the traffic has ended, and returns the most of each.
fn watch(server: &ServerProcess, store: &Path, ended: &AtomicBool) -> (u64, Memory) {
    let mut peak = (0, Memory::default());
    while !ended.load(Ordering::SeqCst) {
        // Stopped meanwhile: files must not move while they are added up.
        let (allocated, memory) = server
            .process
            .while_stopped(|| (allocated_below(store), server.process.memory().expect("the server runs")));
        assert!(allocated <= CAPACITY_BYTES, "{allocated} bytes are on disk");
        assert!(memory.resident <= RESIDENT_BYTES_MAX, "the server holds {} bytes", memory.resident);
        peak.0 = peak.0.max(allocated);
        peak.1.resident = peak.1.resident.max(memory.resident);
        std::thread::sleep(SAMPLE_INTERVAL);
    }
    peak
}

struct Client {
    batches: bool,
    store: GrpcStore,
    random: Random,
    sent: Arc<AtomicU64>,
}

impl Client {
    async fn send_its_share(mut self) {
        let mut left = (TRAFFIC_BYTES / (2 * CLIENTS) + 1) as usize;
        while left > 0 {
            let (sizes, count) = if self.batches { (SMALL, BATCH) } else { (LARGE, 1) };
            let blobs: Vec<_> = (0..count).map(|_| Blob::random(&mut self.random, sizes.clone())).collect();
            let uploads = blobs.iter().map(|blob| Upload::bytes(blob.digest, blob.data.clone())).collect();
            for outcome in self.store.put_batch(uploads).await {
                outcome.expect("there is always room: nothing is leased");
            }
            let bytes: usize = blobs.iter().map(|blob| blob.data.len()).sum();
            self.sent.fetch_add(bytes as u64, Ordering::SeqCst);
            left = left.saturating_sub(bytes);
            if self.random.random_ratio(1, READ_AGAIN) {
                self.read(&blobs[0]).await;
            }
        }
    }

    async fn read(&self, blob: &Blob) {
        match self.store.get(&blob.digest, u64::MAX).await {
            Ok(bytes) => assert_eq!(digest(&bytes), blob.digest, "wrong bytes"),
            // Others may have filled the store meanwhile.
            Err(StoreError::NotFound(_)) => {}
            Err(error) => panic!("a blob cannot be read: {error}"),
        }
    }
}
