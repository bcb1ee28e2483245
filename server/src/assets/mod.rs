//! Remote assets: content that is named by URI and was pushed, or is fetched from its origin.
//!
//! What is known is a record under a hash of URI and qualifiers. A record whose content is not all stored any more
//! is as good as none. Values of headers are never part of a key, a record or a message.

mod address;
mod archive;
mod fetch;
mod origin;
pub(crate) mod qualifiers;
mod record;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use tokio::sync::Semaphore;
use wardian_proto::rpc;
use wardian_proto::{Digest, DigestFunction, InstanceName};
use wardian_store::tree::{TreeLimits, closure};
use wardian_store::{BlobStore, RecordStore, StoreError, Table};

use origin::Origins;
use qualifiers::Qualifiers;
pub(crate) use record::Asset;

/// Fetches that go on or wait for their turn.
const FLIGHTS_MAX: usize = 1000;

/// What may be fetched and pushed.
#[derive(Clone, Debug)]
pub struct AssetLimits {
    /// Whether content that is not known is fetched from its origin.
    pub fetch: bool,
    /// Whether clients may say what a URI stands for.
    pub push: bool,
    /// Hosts that may be fetched from; any when there is no list.
    pub origins: Option<Vec<String>>,
    /// Whether addresses that are not of the public internet may be fetched from.
    pub private_addresses: bool,
    /// How long one fetch may take, whatever its caller asks for.
    pub fetch_time_max: Duration,
    /// Fetches at once.
    pub fetches_max: usize,
    /// Bytes of what is fetched.
    pub content_bytes_max: u64,
}

impl Default for AssetLimits {
    fn default() -> Self {
        Self {
            fetch: true,
            push: true,
            origins: None,
            private_addresses: false,
            fetch_time_max: Duration::from_secs(600),
            fetches_max: 16,
            content_bytes_max: 4 << 30,
        }
    }
}

/// A single blob, or a tree of Directories.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Blob,
    Directory,
}

/// Why content could not be had.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum FetchError {
    /// The request itself is wrong: the status of the call.
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    Denied(String),
    #[error("{0}")]
    Aborted(String),
    #[error("{0}")]
    Exhausted(String),
    #[error("{0}")]
    TimedOut(String),
    /// The store failed: the status of the call.
    #[error("{}", .0.message())]
    Store(tonic::Status),
}

impl From<StoreError> for FetchError {
    fn from(error: StoreError) -> Self {
        Self::Store(error.into())
    }
}

impl FetchError {
    /// What goes into a reply, or the status of the call.
    pub(crate) fn to_wire(&self) -> Result<rpc::Status, tonic::Status> {
        let code = match self {
            Self::Invalid(text) => return Err(tonic::Status::invalid_argument(text)),
            Self::Store(status) => return Err(status.clone()),
            Self::NotFound(_) => rpc::Code::NotFound,
            Self::Denied(_) => rpc::Code::PermissionDenied,
            Self::Aborted(_) => rpc::Code::Aborted,
            Self::Exhausted(_) => rpc::Code::ResourceExhausted,
            Self::TimedOut(_) => rpc::Code::DeadlineExceeded,
        };
        Ok(rpc::Status { code: code.into(), message: self.to_string(), details: vec![] })
    }
}

/// What a client wants, parsed.
#[derive(Clone)]
pub(crate) struct Wanted {
    pub(crate) kind: Kind,
    pub(crate) instance: InstanceName,
    pub(crate) function: DigestFunction,
    pub(crate) uris: Vec<String>,
    pub(crate) qualifiers: Qualifiers,
    pub(crate) oldest: Option<SystemTime>,
}

/// Content, or why there is none, and the URI that either came from.
pub(crate) type Answer = (String, Result<Asset, FetchError>);

type Flight = Shared<BoxFuture<'static, Answer>>;

/// The assets of a server. Clones share them.
#[derive(Clone)]
pub(crate) struct Assets {
    shared: Arc<AssetsInner>,
}

struct AssetsInner {
    records: Arc<dyn RecordStore>,
    blobs: Arc<dyn BlobStore>,
    origins: Origins,
    limits: AssetLimits,
    /// Where content is kept until its digest is known.
    folder: PathBuf,
    turns: Semaphore,
    /// What is being fetched: who wants the same waits for the same.
    flights: Mutex<HashMap<Vec<u8>, Flight>>,
}

impl Assets {
    /// Over a store, with a folder of its own.
    pub(crate) fn new(
        records: Arc<dyn RecordStore>,
        blobs: Arc<dyn BlobStore>,
        folder: PathBuf,
        limits: AssetLimits,
    ) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&folder)?;
        let shared = AssetsInner {
            records,
            blobs,
            origins: Origins::new(limits.clone()).map_err(anyhow::Error::msg)?,
            turns: Semaphore::new(limits.fetches_max),
            limits,
            folder,
            flights: Mutex::default(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    pub(crate) fn limits(&self) -> &AssetLimits {
        &self.shared.limits
    }

    /// Ties every one of the URIs to content that is stored. Returns what of it is not.
    pub(crate) async fn push(&self, wanted: &Wanted, asset: Asset) -> Result<Vec<Digest>, StoreError> {
        let missing = self.shared.missing(wanted.kind, &asset).await?;
        if missing.is_empty() {
            for uri in &wanted.uris {
                let key = record::key(wanted, uri);
                self.shared.records.put(Table::Assets, &key, asset.encode()).await?;
            }
        }
        Ok(missing)
    }

    /// Finds content that was pushed or fetched before, is recent enough, and is all stored.
    pub(crate) async fn find(&self, wanted: &Wanted) -> Result<Option<Answer>, StoreError> {
        let now = SystemTime::now();
        for uri in &wanted.uris {
            let record = self.shared.records.get(Table::Assets, &record::key(wanted, uri)).await?;
            let Some(asset) = record.and_then(|bytes| Asset::decode(wanted.function, bytes)) else {
                continue;
            };
            let is_old = wanted.oldest.is_some_and(|oldest| asset.since < oldest);
            let is_over = asset.expires_at.is_some_and(|end| end <= now);
            if is_old || is_over {
                continue;
            }
            match self.shared.missing(wanted.kind, &asset).await {
                Ok(missing) if missing.is_empty() => return Ok(Some((uri.clone(), Ok(asset)))),
                Ok(_) => {}
                Err(error) if is_of_the_content(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Fetches content from its origin. Whoever stops waiting does not stop the fetch.
    pub(crate) async fn fetch(&self, wanted: Wanted, time: Option<Duration>) -> Answer {
        let time = time.unwrap_or(Duration::MAX).min(self.shared.limits.fetch_time_max);
        let first = wanted.uris[0].clone();
        let flight = self.flight(wanted);
        match tokio::time::timeout(time, flight).await {
            Ok(answer) => answer,
            Err(_) => {
                let text = format!("not there after {} s; the fetch goes on", time.as_secs_f64());
                (first, Err(FetchError::TimedOut(text)))
            }
        }
    }

    /// Joins the fetch of the same content with the same headers, or begins one.
    fn flight(&self, wanted: Wanted) -> Flight {
        let key = record::flight_key(&wanted);
        let mut flights = self.shared.flights.lock().expect("no code that holds this lock panics");
        if let Some(flight) = flights.get(&key) {
            return flight.clone();
        }
        if flights.len() >= FLIGHTS_MAX {
            let text = format!("{FLIGHTS_MAX} fetches go on or wait already");
            return futures::future::ready((wanted.uris[0].clone(), Err(FetchError::Exhausted(text))))
                .boxed()
                .shared();
        }
        let landing = Landing { shared: Arc::clone(&self.shared), key: key.clone() };
        let first = wanted.uris[0].clone();
        let task = tokio::spawn(async move {
            let answer = landing.shared.fetch(wanted).await;
            drop(landing);
            answer
        });
        let flight = task
            .map(move |ended| {
                ended.unwrap_or_else(|_| {
                    let failed = tonic::Status::internal("the fetch failed; the server's log has the reason");
                    (first, Err(FetchError::Store(failed)))
                })
            })
            .boxed()
            .shared();
        flights.insert(key, flight.clone());
        flight
    }
}

/// Takes a fetch from the list of those that go on, however it ends.
struct Landing {
    shared: Arc<AssetsInner>,
    key: Vec<u8>,
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.shared.flights.lock().expect("no code that holds this lock panics").remove(&self.key);
    }
}

impl AssetsInner {
    /// What of an asset is not stored. What it refers to beside is asked for as well, so that it stays.
    async fn missing(&self, kind: Kind, asset: &Asset) -> Result<Vec<Digest>, StoreError> {
        for root in &asset.references_directories {
            match self.missing_of_tree(*root).await {
                Err(error) if is_of_the_content(&error) => {}
                outcome => drop(outcome?),
            }
        }
        self.blobs.find_missing(&asset.references_blobs).await?;
        match kind {
            Kind::Blob => self.blobs.find_missing(&[asset.digest]).await,
            Kind::Directory => self.missing_of_tree(asset.digest).await,
        }
    }

    async fn missing_of_tree(&self, root: Digest) -> Result<Vec<Digest>, StoreError> {
        let found = closure(&*self.blobs, root, TreeLimits::default()).await?;
        let mut digests = found.files();
        digests.extend(found.order);
        let mut missing = found.missing;
        missing.extend(self.blobs.find_missing(&digests).await?);
        Ok(missing)
    }
}

/// Whether a tree cannot be read because of what is in it, and not because the store cannot.
fn is_of_the_content(error: &StoreError) -> bool {
    matches!(error, StoreError::Directory { .. } | StoreError::TreeLimit { .. } | StoreError::TooLarge { .. })
}
