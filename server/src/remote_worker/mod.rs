//! A worker in a process of its own: its store is a near copy of the server's, and its queue is at the other end of a
//! connection.

mod link;
mod logs;
mod queue;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::task::{JoinHandle, JoinSet};
use wardian_runtime::limits::raise_open_files_limit;
use wardian_runtime::{PrefetchCounts, Prefetcher, Worker, WorkerConfig};
use wardian_store::backend::SledStore;
use wardian_store::layers::AtHand;

use crate::client::Access;
use crate::config::Config;
use crate::stores::Stores;

use self::link::Link;
use self::logs::RemoteLogs;
use self::queue::RemoteQueue;

/// Memory for blobs that came along with orders.
const AT_HAND_BYTES_MAX: u64 = 32 << 20;

/// How long actions may take to stop once they were told to.
const STOP_TIME_MAX: Duration = Duration::from_secs(5);

/// How long a server may take to hear that a worker was stopped.
const PARTED_TIME_MAX: Duration = Duration::from_secs(1);

/// How long the results of the last actions may take to be acknowledged.
const ACKNOWLEDGED_TIME_MAX: Duration = Duration::from_secs(30);

/// A running worker.
pub struct RemoteWorker {
    queue: RemoteQueue,
    slots: JoinSet<()>,
    link: JoinHandle<anyhow::Result<()>>,
    store: SledStore,
    prefetcher: Option<Prefetcher>,
    drain_time_max: Duration,
}

impl RemoteWorker {
    /// Opens the store and starts the slots. The server need not be there yet: the connection is made when it is.
    pub async fn start(mut config: Config, server: Access) -> anyhow::Result<Self> {
        raise_open_files_limit();
        std::fs::create_dir_all(&config.data)
            .with_context(|| format!("data folder {} cannot be made", config.data.display()))?;
        config.remote.access = Some(server.clone());
        let at_hand = AtHand::new(AT_HAND_BYTES_MAX);
        let Stores { local, blobs, .. } = Stores::open_for_worker(&config, at_hand.clone()).await?;
        let drain_time_max = config.worker.drain_time_max;
        let worker = WorkerConfig {
            name: config.worker.name.clone(),
            folder: std::path::absolute(config.data.join("worker"))?,
            slots: config.worker.slots,
            memory_bytes: config.worker.memory_bytes,
            native: config.worker.native,
            sandbox: config.worker.sandbox,
            properties: config.worker.properties,
            limits: config.worker.limits,
            compile: config.worker.compile,
        };
        let logs = RemoteLogs::default();
        let ahead = config.worker.slots * config.worker.ahead_per_slot;
        let queue = RemoteQueue::new(logs.clone(), ahead);
        let worker = Worker::new(worker, blobs, Arc::new(queue.clone()))?
            .with_logs(Arc::new(logs))
            .with_prefetch(Arc::new(local.clone()), local.stats().capacity_bytes, config.worker.prefetch);
        let prefetcher = worker.prefetcher();
        if let Some(prefetcher) = &prefetcher {
            queue.prefetch_with(prefetcher.clone());
        }
        let trusted = worker.trusted();
        let slots = worker.start().await;
        let link = tokio::spawn(Link::new(queue.clone(), server, trusted, at_hand).keep());
        Ok(Self { queue, slots, link, store: local, prefetcher, drain_time_max })
    }

    /// Waits until the server has no more use for this worker: it was told to leave, or refused.
    pub async fn dismissed(&mut self) -> anyhow::Result<()> {
        tokio::select! {
            () = self.queue.told_to_leave() => Ok(()),
            ended = &mut self.link => match ended {
                Ok(ended) => ended,
                Err(panic) => Err(anyhow::anyhow!("the connection to the server panicked: {panic}")),
            },
        }
    }

    /// Takes nothing more and lets what runs end, for as long as it may; then stops it, for another worker to run
    /// again.
    pub async fn drain(&mut self) {
        self.queue.leave();
        let drain_time_max = self.drain_time_max;
        if !self.slots_ended_within(drain_time_max).await {
            tracing::warn!("actions did not end in time and are left to other workers");
            return self.stop().await;
        }
        // Unless the server went away for good, it acknowledges the last results now.
        let _ = tokio::time::timeout(ACKNOWLEDGED_TIME_MAX, self.queue.parted()).await;
        self.finish().await;
    }

    /// Stops what runs at once.
    pub async fn stop(&mut self) {
        self.queue.stop();
        self.slots_ended_within(STOP_TIME_MAX).await;
        // So that others get what it had at once, and not when its lease is over.
        let _ = tokio::time::timeout(PARTED_TIME_MAX, self.queue.parted()).await;
        self.finish().await;
    }

    async fn finish(&mut self) {
        self.link.abort();
        if let Some(counts) = self.prefetcher.as_ref().map(Prefetcher::counts) {
            let PrefetchCounts { files, bytes, files_used, bytes_used } = counts;
            tracing::info!(files, bytes, files_used, bytes_used, "fetched ahead in all");
        }
        // What is near is a copy.
        if let Err(error) = self.store.flush().await {
            tracing::warn!(%error, "the store could not be flushed");
        }
    }

    async fn slots_ended_within(&mut self, time: Duration) -> bool {
        let ended = async { while self.slots.join_next().await.is_some() {} };
        tokio::time::timeout(time, ended).await.is_ok()
    }
}

/// The folder that a worker keeps things in when it is not told.
pub fn default_data() -> PathBuf {
    PathBuf::from("wardian-worker-data")
}

/// The name of this machine, for a worker that was given none.
pub fn machine_name() -> Option<String> {
    let name = rustix::system::uname().nodename().to_string_lossy().trim().to_owned();
    (!name.is_empty()).then_some(name)
}
