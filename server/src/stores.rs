//! The store of a server: one folder, alone or in front of another server's CAS.

use std::sync::Arc;

use anyhow::Context as _;
use wardian_store::backend::{Connection, GrpcStore, GrpcStoreLimits, SledStore};
use wardian_store::layers::{AtHand, Existence, Handed, Metered, Meters, Tiered};
use wardian_store::{BlobStore, RecordStore};

use crate::client::{Access, ClientError};
use crate::config::{Config, RemoteStore};

/// How often a worker asks while its server is away: for some 30 seconds.
const WORKER_ATTEMPTS_MAX: u32 = 20;

/// Largest blob of which a worker waits for all bytes before it reads the first: modules and input files are read as a whole
/// anyway, and so nobody fetches them twice.
const WORKER_JOINED_BYTES_MAX: u64 = 512 << 20;

/// What a server keeps things in.
pub(crate) struct Stores {
    /// The folder itself.
    pub(crate) local: SledStore,
    /// The CAS that is served.
    pub(crate) blobs: Arc<dyn BlobStore>,
    /// Action results; they stay in the folder.
    pub(crate) records: Arc<dyn RecordStore>,
    /// Counts what goes to the two above.
    pub(crate) meters: Arc<Meters>,
    /// With a remote store, what goes to the folder and what to the other server; nothing without.
    pub(crate) tiers: Vec<Tier>,
}

/// The counters of one of several stores that together are one.
#[derive(Clone)]
pub(crate) struct Tier {
    pub(crate) name: &'static str,
    pub(crate) meters: Arc<Meters>,
}

impl Stores {
    /// Opens the folder. A remote store need not be there yet: calls fail with UNAVAILABLE until it is.
    pub(crate) async fn open(config: &Config) -> anyhow::Result<Self> {
        let limits = GrpcStoreLimits { lease: config.remote.lease, ..GrpcStoreLimits::default() };
        Self::open_with(config, far(&config.remote, Access::connect_lazily, limits)?, 0).await
    }

    /// The same for a worker: it has nobody else to ask, so it asks again for longer. What it was handed it need not ask for.
    pub(crate) async fn open_for_worker(config: &Config, at_hand: AtHand) -> anyhow::Result<Self> {
        let limits = GrpcStoreLimits {
            lease: config.remote.lease,
            attempts_max: WORKER_ATTEMPTS_MAX,
            ..GrpcStoreLimits::default()
        };
        let far = far(&config.remote, Access::connect_lazily_as_worker, limits)?;
        let stores = Self::open_with(config, far, WORKER_JOINED_BYTES_MAX).await?;
        Ok(Self { blobs: Arc::new(Handed::new(stores.blobs, at_hand)), ..stores })
    }

    async fn open_with(
        config: &Config,
        far: Option<Existence<GrpcStore>>,
        joined_bytes_max: u64,
    ) -> anyhow::Result<Self> {
        let (folder, options) = (config.data.join("store"), config.store);
        let opened = tokio::task::spawn_blocking(move || SledStore::open(&folder, options)).await?;
        let local = opened.with_context(|| {
            format!("store in {} cannot be opened (is another server using it?)", config.data.display())
        })?;
        let meters = Arc::new(Meters::default());
        let mut tiers = Vec::new();
        let blobs: Arc<dyn BlobStore> = match far {
            None => Arc::new(Metered::new(local.clone(), Arc::clone(&meters))),
            Some(far) => {
                let mut tier = |name| {
                    let meters = Arc::new(Meters::default());
                    tiers.push(Tier { name, meters: Arc::clone(&meters) });
                    meters
                };
                let near = Metered::new(local.clone(), tier("near"));
                let far = Metered::new(far, tier("far"));
                let tiered = Tiered::new(near, far).joining(joined_bytes_max);
                Arc::new(Metered::new(tiered, Arc::clone(&meters)))
            }
        };
        let records = Arc::new(Metered::new(local.clone(), Arc::clone(&meters)));
        Ok(Self { local, blobs, records, meters, tiers })
    }
}

/// The other server's CAS. Only here are look-ups remembered: that halves the lease, which half a microsecond
/// a digest in the folder is not worth.
fn far(
    remote: &RemoteStore,
    connect: impl FnOnce(&Access) -> Result<Connection, ClientError>,
    limits: GrpcStoreLimits,
) -> anyhow::Result<Option<Existence<GrpcStore>>> {
    let Some(access) = &remote.access else { return Ok(None) };
    let connection = connect(access).context("setting store.remote")?;
    Ok(Some(Existence::new(GrpcStore::new(connection, remote.instance.clone(), limits))))
}
