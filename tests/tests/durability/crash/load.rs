//! Clients of all kinds at once, until the server is killed under them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::{Rng as _, RngExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::Code;
use wardian_proto::reapi::action_cache_client::ActionCacheClient;
use wardian_proto::{Digest, reapi};
use wardian_store::backend::GrpcStore;
use wardian_store::{BlobStore, StoreError, Upload};
use wardian_tests::{Blob, Random, ServerProcess, random};

use super::ledger::Ledger;

/// Small blobs go into shared segments, large ones have their own.
const SMALL: std::ops::RangeInclusive<usize> = 1..=64 << 10;
const LARGE: std::ops::RangeInclusive<usize> = 300 << 10..=3 << 20;

/// Blobs in one batch, at the most.
const BATCH_MAX: usize = 20;

/// Blobs of which the first byte of the hash is below this are looked for, which leases them. All of them
/// leased would leave a small store no room.
const LOOKED_FOR_BELOW: u8 = 16;

/// What happens to a server.
pub(super) struct Load {
    /// Uploads that end before it is killed.
    pub(super) uploads: u32,
    pub(super) seed: u64,
}

/// One of the clients.
#[derive(Clone)]
struct Client {
    server: Arc<Connections>,
    random: Random,
    ledger: Arc<Mutex<Ledger>>,
    killed: Arc<AtomicBool>,
    /// Hears of each upload that ended.
    uploads: mpsc::Sender<()>,
}

struct Connections {
    /// Batches where blobs are small, ByteStream elsewhere.
    batches: GrpcStore,
    /// ByteStream always.
    streams: GrpcStore,
    action_cache: ActionCacheClient<tonic::transport::Channel>,
}

impl Load {
    /// Loads the server, kills it, and returns what must hold after that.
    pub(super) async fn until_killed(&self, server: &mut ServerProcess, ledger: Ledger) -> Ledger {
        let (uploads, mut ended) = mpsc::channel(1);
        let client = Client {
            server: Arc::new(Connections::open(server).await),
            random: random(self.seed),
            ledger: Arc::new(Mutex::new(ledger)),
            killed: Arc::default(),
            uploads,
        };
        let mut clients = client.spawn_all();
        for _ in 0..self.uploads {
            ended.recv().await.expect("clients go on until the server is killed");
        }
        client.killed.store(true, Ordering::SeqCst);
        server.process.kill();
        // They wait no longer for somebody to count.
        drop(ended);
        while let Some(ended) = clients.join_next().await {
            ended.expect("no client is disappointed before the server is killed");
        }
        let ledger = Arc::into_inner(client.ledger).expect("all clients have ended");
        ledger.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connections {
    async fn open(server: &ServerProcess) -> Self {
        Self {
            batches: server.store(u64::from(u32::MAX)).await,
            streams: server.store(0).await,
            action_cache: ActionCacheClient::new(server.channel().await),
        }
    }
}

impl Client {
    fn spawn_all(&self) -> JoinSet<()> {
        let mut clients = JoinSet::new();
        clients.spawn(self.fork(1).update_batches());
        clients.spawn(self.fork(2).update_batches());
        clients.spawn(self.fork(3).write(SMALL));
        clients.spawn(self.fork(4).write(LARGE));
        // Twice the same random numbers: the same blobs are uploaded by two clients at once.
        clients.spawn(self.fork(5).write(LARGE));
        clients.spawn(self.fork(5).write(LARGE));
        clients.spawn(self.fork(6).update_results());
        clients.spawn(self.fork(7).read());
        clients.spawn(self.fork(8).look_and_read());
        clients
    }

    /// A client with random numbers of its own.
    fn fork(&self, number: u64) -> Self {
        let random = random(self.random.clone().next_u64() ^ number);
        Self { random, ..self.clone() }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a call succeeded. Failing is for full stores, evicted blobs, and after the server was killed.
    fn succeeded<T>(&self, outcome: Result<T, StoreError>) -> Option<T> {
        let error = match outcome {
            Ok(value) => return Some(value),
            Err(error) => error,
        };
        let excused = match &error {
            StoreError::Remote(status) if status.code() == Code::ResourceExhausted => {
                !self.ledger().keeps_all
            }
            StoreError::NotFound(_) => !self.ledger().keeps_all,
            _ => false,
        };
        assert!(excused || self.killed.load(Ordering::SeqCst), "{error}");
        None
    }

    /// Notes that an upload ended; false when the server is gone.
    async fn uploaded(&self) -> bool {
        self.uploads.send(()).await.is_ok()
    }

    async fn update_batches(mut self) {
        loop {
            let count = self.random.random_range(1..=BATCH_MAX);
            let blobs: Vec<_> = (0..count).map(|_| Blob::random(&mut self.random, 1..=16 << 10)).collect();
            for blob in &blobs {
                self.ledger().sending(blob.digest);
            }
            let uploads = blobs.iter().map(|blob| Upload::bytes(blob.digest, blob.data.clone())).collect();
            let outcomes = self.server.batches.put_batch(uploads).await;
            for (blob, outcome) in blobs.iter().zip(outcomes) {
                if self.succeeded(outcome).is_some() {
                    self.ledger().stored(blob.digest);
                }
            }
            if !self.uploaded().await {
                return;
            }
        }
    }

    async fn write(mut self, sizes: std::ops::RangeInclusive<usize>) {
        loop {
            let blob = Blob::random(&mut self.random, sizes.clone());
            self.ledger().sending(blob.digest);
            let outcome = self.server.streams.put(Upload::bytes(blob.digest, blob.data)).await;
            if self.succeeded(outcome).is_some() {
                self.ledger().stored(blob.digest);
            }
            if !self.uploaded().await {
                return;
            }
        }
    }

    async fn update_results(mut self) {
        loop {
            let (action, version, result) = {
                let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
                ledger.sending_result(&mut self.random)
            };
            let request = reapi::UpdateActionResultRequest {
                action_digest: Some(action.to_wire()),
                action_result: Some(result),
                ..Default::default()
            };
            let outcome = self.server.action_cache.clone().update_action_result(request).await;
            if self.succeeded(outcome.map_err(StoreError::Remote)).is_some() {
                self.ledger().stored_result(action, version);
            }
            if !self.uploaded().await {
                return;
            }
        }
    }

    async fn read(mut self) {
        while !self.killed.load(Ordering::SeqCst) {
            let asked = self.some_stored(10);
            self.read_each(&asked).await;
            tokio::task::yield_now().await;
        }
    }

    /// What is reported present can be read: for as long as the lease lasts.
    async fn look_and_read(mut self) {
        while !self.killed.load(Ordering::SeqCst) {
            let mut asked = self.some_stored(40);
            asked.retain(|blob| blob.hash()[0] < LOOKED_FOR_BELOW);
            let Some(missing) = self.succeeded(self.server.batches.find_missing(&asked).await) else {
                continue;
            };
            assert!(missing.is_empty() || !self.ledger().keeps_all, "an acknowledged blob is missing");
            asked.retain(|blob| !missing.contains(blob));
            for (blob, outcome) in asked.iter().zip(self.server.batches.get_batch(&asked).await) {
                let lost = matches!(outcome, Err(StoreError::NotFound(_)));
                assert!(!lost, "{blob} was reported present and cannot be read");
                self.succeeded(outcome);
            }
            tokio::task::yield_now().await;
        }
    }

    fn some_stored(&mut self, count: usize) -> Vec<Digest> {
        let ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        ledger.some_stored(&mut self.random, count)
    }

    async fn read_each(&self, asked: &[Digest]) {
        for (blob, outcome) in asked.iter().zip(self.server.batches.get_batch(asked).await) {
            if let Some(bytes) = self.succeeded(outcome) {
                assert_eq!(wardian_tests::digest(&bytes), *blob, "wrong bytes");
            }
        }
    }
}
