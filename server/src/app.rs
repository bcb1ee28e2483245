//! The server as a whole: store, queue, worker and port, started and stopped in order.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};
use tonic::transport::server::TcpIncoming;
use wardian_runtime::limits::raise_open_files_limit;
use wardian_runtime::{DRAIN_TIME_MAX, TrustedModules, Worker, WorkerConfig};
use wardian_scheduler::{Journal, JournalError, LocalQueue, Restored};
use wardian_store::action_cache::ActionCache;
use wardian_store::backend::SledStore;
use wardian_store::chunking::Chunks;
use wardian_store::tree_pins::{TreePinLimits, TreePins};
use wardian_toolchains::Registry;

use crate::assets::Assets;
use crate::auth::{Gate, Open, Tokens};
use crate::config::Config;
use crate::fleet::Fleet;
use crate::health::Health;
use crate::logs::LogStreams;
use crate::services::{Context, UploadSlots, routes};
use crate::stats::Sources;
use crate::stores::Stores;
use crate::tls::{self, Tls};
use crate::web;

/// Flow-control window of one stream, and of one connection: enough for a fast link at 20 ms.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// Largest frame that is taken: a client that sends more at once is read with fewer calls to the system.
const FRAME_BYTES_MAX: u32 = 256 << 10;

/// Streams that one connection may have open.
const STREAMS_PER_CONNECTION_MAX: u32 = 1024;

/// How often a silent connection is asked whether it is still there, and how long it may take to say.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// How long actions may take to stop once they were told to.
const STOP_TIME_MAX: Duration = Duration::from_secs(5);

/// How long open streams may go on after the workers have drained.
const STREAM_DRAIN_TIME_MAX: Duration = Duration::from_secs(5);

/// When the record of the toolchains is read again after that failed.
const TOOLCHAINS_READ_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// How often the record of the toolchains is looked at, so that the store does not take it for unused.
const TOOLCHAINS_REFRESHED_EVERY: Duration = Duration::from_secs(30);

/// A running server.
pub struct Server {
    address: SocketAddr,
    queue: LocalQueue,
    logs: LogStreams,
    store: SledStore,
    health: Health,
    trusted: TrustedModules,
    /// The slots of the worker inside; none when there is no such worker.
    worker: JoinSet<()>,
    ticking: JoinHandle<()>,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<Result<(), tonic::transport::Error>>,
    tls: Option<Tls>,
    /// Ends with the server.
    _keeping: JoinSet<()>,
}

impl Server {
    /// Opens the store, starts the worker, and returns once the port accepts connections.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        raise_open_files_limit();
        config.check_exposure()?;
        let tls = config.tls.clone().map(Tls::new).transpose()?;
        let callers: Gate = match &config.tokens[..] {
            [] => Arc::new(Open),
            tokens => Arc::new(Tokens::new(tokens.to_vec())),
        };
        std::fs::create_dir_all(&config.data)
            .with_context(|| format!("data folder {} cannot be made", config.data.display()))?;
        let listener = TcpListener::bind(config.listen)
            .await
            .with_context(|| format!("{} cannot be listened on (is another server there?)", config.listen))?;
        let address = listener.local_addr()?;
        let Stores { local, blobs, records, meters, tiers } = Stores::open(&config).await?;
        let folder = std::path::absolute(config.data.join("fetching"))?;
        let assets = Assets::new(records.clone(), blobs.clone(), folder, config.assets.clone())?;
        let chunks = Chunks::new(blobs.clone(), records.clone());
        let action_cache = ActionCache::new(Arc::clone(&records), blobs.clone());
        let (queue, restored) = open_queue(&config, action_cache.clone()).await?;
        let logs = LogStreams::new(config.logs);
        let worker = WorkerConfig {
            name: config.worker.name.clone(),
            folder: std::path::absolute(config.data.join("worker"))?,
            slots: config.worker.slots,
            memory_bytes: config.worker.memory_bytes,
            native: config.worker.native,
            sandbox: config.worker.sandbox.clone(),
            properties: config.worker.properties.clone(),
            limits: config.worker.limits.clone(),
            compile: config.worker.compile,
        };
        let (trusted, worker) = if worker.slots == 0 {
            (TrustedModules::default(), JoinSet::new())
        } else {
            let worker = Worker::new(worker, blobs.clone(), Arc::new(queue.clone()))?
                .with_logs(Arc::new(logs.clone()));
            (worker.trusted(), worker.start().await)
        };
        let instances = config.instances.iter().map(|instance| instance.name.clone()).collect();
        let fleet =
            Fleet::new(queue.clone(), blobs.clone(), logs.clone(), trusted.clone(), instances, config.fleet);
        let ticking = tokio::spawn(queue.clone().keep_ticking());
        let pin_limits = TreePinLimits { tree: config.worker.limits.tree, ..config.pins };
        let tree_pins = Arc::new(TreePins::new(blobs.clone(), pin_limits));
        let known = trusted.clone();
        let toolchains =
            Arc::new(Registry::new(records, Arc::clone(&tree_pins), move |module| known.add(module)));
        let mut keeping = JoinSet::new();
        keeping.spawn(keep(Arc::clone(&toolchains)));
        let sources = Sources {
            local: local.clone(),
            meters,
            tiers,
            action_cache: action_cache.clone(),
            queue: queue.clone(),
            fleet: fleet.clone(),
            tree_pins: tree_pins.clone(),
        };
        let context = Arc::new(Context {
            blobs,
            tree_pins,
            assets,
            chunks,
            logs: logs.clone(),
            action_cache,
            toolchains,
            queue: queue.clone(),
            fleet,
            instances: config.instances,
            action_cache_update: config.action_cache_update,
            requests: config.requests,
            uploads: UploadSlots::new(config.requests.uploads_max),
            limits: config.worker.limits,
        });
        keeping.spawn(pin_restored(Arc::clone(&context), restored));
        let health = Health::new().await;
        let looking =
            health.clone().keep_looking(Arc::new(local.clone()), queue.clone(), ticking.abort_handle());
        keeping.spawn(looking);
        let router = routes(context, health.reporter()).await?;
        let router = web::add_pages(router, &address.to_string(), sources, health.clone(), callers);
        let (stop, stopped) = oneshot::channel();
        let router = tonic::transport::Server::builder()
            .accept_http1(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_frame_size(FRAME_BYTES_MAX)
            .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
            .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            .add_routes(router.into());
        let stopped = async {
            // An error means that the sender was dropped: stop then too.
            let _ = stopped.await;
        };
        queue.settle_for(config.fleet.takeover);
        let serving = match &tls {
            Some(tls) => {
                let incoming = tls::incoming(listener, tls.clone());
                tokio::spawn(router.serve_with_incoming_shutdown(incoming, stopped))
            }
            None => {
                let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
                tokio::spawn(router.serve_with_incoming_shutdown(incoming, stopped))
            }
        };
        let (data, tokens) = (config.data.display(), config.tokens.len());
        tracing::info!(%address, %data, tls = tls.is_some(), tokens, "serving");
        let _keeping = keeping;
        Ok(Self {
            address,
            queue,
            logs,
            store: local,
            health,
            trusted,
            worker,
            ticking,
            stop,
            serving,
            tls,
            _keeping,
        })
    }

    /// Reads the certificates again; new connections see them. False when the server has none.
    pub fn reload_certificates(&self) -> anyhow::Result<bool> {
        self.tls.as_ref().map_or(Ok(false), |tls| tls.reload().map(|()| true))
    }

    /// The address of the port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The modules of registered toolchains; more can be added at any time.
    pub fn trusted(&self) -> &TrustedModules {
        &self.trusted
    }

    /// Refuses new actions, lets running ones finish for a while, closes the port, flushes the store.
    pub async fn shutdown(mut self) -> anyhow::Result<()> {
        self.health.shut_down().await;
        self.queue.shut_down();
        if !self.drained_within(DRAIN_TIME_MAX).await {
            tracing::warn!(running = self.queue.running(), "actions did not end in time and are stopped");
            self.queue.stop_running();
            self.drained_within(STOP_TIME_MAX).await;
        }
        // With a journal, what workers elsewhere run goes on, and is reported to the next process.
        self.queue.let_go();
        self.logs.shut_down();
        let _ = self.stop.send(());
        let abort = self.serving.abort_handle();
        match tokio::time::timeout(STREAM_DRAIN_TIME_MAX, self.serving).await {
            Ok(served) => served??,
            Err(_) => abort.abort(),
        }
        self.ticking.abort();
        let queue = self.queue.clone();
        tokio::task::spawn_blocking(move || queue.close()).await?;
        self.store.flush().await?;
        Ok(())
    }

    async fn drained_within(&mut self, time: Duration) -> bool {
        let drained = async {
            while self.worker.join_next().await.is_some() {}
            if !self.queue.has_journal() {
                // Workers elsewhere have nobody else to report to.
                self.queue.drained().await;
            }
        };
        tokio::time::timeout(time, drained).await.is_ok()
    }
}

/// The queue, where the last process left it.
async fn open_queue(
    config: &Config,
    action_cache: ActionCache,
) -> anyhow::Result<(LocalQueue, Vec<Restored>)> {
    let mut limits = config.scheduler;
    if config.worker.slots == 0 {
        // Nobody is there at first: actions wait for workers as they would for those that come back.
        limits.worker_grace = limits.worker_grace.max(limits.unserved_max);
    }
    let tenants = config.tenants();
    if !config.journal {
        return Ok((LocalQueue::new(limits, tenants, action_cache), Vec::new()));
    }
    let folder = config.data.join("operations");
    let opened = tokio::task::spawn_blocking(move || {
        let opened = Journal::open(&folder).or_else(|error| {
            // A disk that is full, or busy, says nothing about what is on it.
            if !matches!(error, JournalError::Damaged(_)) {
                return Err(error);
            }
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            let aside = folder.with_extension(format!("damaged-{now}"));
            tracing::error!(%error, aside = %aside.display(), "operations of earlier processes are lost");
            std::fs::rename(&folder, &aside)?;
            Journal::open(&folder)
        });
        opened.with_context(|| format!("operations in {} cannot be kept", folder.display()))
    });
    let (journal, mut left) = opened.await??;
    for job in left.live_jobs_mut() {
        // What is demanded by now holds for what was queued before, too.
        if let Some(instance) = config.instances.iter().find(|instance| instance.name == job.instance) {
            job.platform = instance.placed(job.platform.clone());
        }
    }
    let (queue, restored) = LocalQueue::restarted(limits, tenants, action_cache, (journal, left));
    if !restored.is_empty() {
        tracing::info!(runs = restored.len(), "taken over from an earlier process");
    }
    Ok((queue, restored))
}

/// Pins the inputs of runs from before a restart. What is missing is told when the run begins.
async fn pin_restored(context: Arc<Context>, restored: Vec<Restored>) {
    for Restored { run, action } in restored {
        match context.pin_action(action).await {
            Ok(held) => context.queue.hold(run, held),
            Err(failure) => tracing::warn!(%action, %failure, "inputs of a queued action are not pinned"),
        }
    }
}

/// Reads which toolchains are registered, and keeps that record from being evicted.
async fn keep(toolchains: Arc<Registry>) {
    while let Err(error) = toolchains.load().await {
        tracing::warn!(%error, "the registered toolchains could not be read; trying again");
        tokio::time::sleep(TOOLCHAINS_READ_AGAIN_AFTER).await;
    }
    loop {
        tokio::time::sleep(TOOLCHAINS_REFRESHED_EVERY).await;
        if let Err(error) = toolchains.refresh().await {
            tracing::warn!(%error, "the registered toolchains could not be refreshed");
        }
    }
}
