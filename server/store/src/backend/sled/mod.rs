//! One folder on disk: bytes in append-only segments, and sled to find them.
//!
//! Layout below the folder that [`SledStore::open`] is given:
//!
//! ```text
//! segments/000000000000002a.shared   records of many blobs and values, up to a 32nd of the capacity (64 MiB)
//! segments/000000000000002b.large    one blob of more than 256 KiB (a 128th of a small store's capacity)
//! index/0000000000000001-0/          sled: where the records of segments from number 1 on are
//! incoming/                          large uploads that are not verified yet; emptied when the store opens
//! lock                               held while the store is open
//! ```
//!
//! - **Exact.** A blob is entered only after its bytes were verified. What `find_missing` reports present is
//!   leased for [`SledOptions::lease`], what is [pinned](SledStore::pin) for as long as the pin lives.
//!   Leases end when the process does.
//! - **Bounded.** Bytes are charged before they are written; when they do not fit, the oldest segment is
//!   dropped whole, after what is in use there was copied forward. A store full of what is leased or pinned
//!   refuses uploads with NoSpace.
//! - **Crash-safe.** A killed process loses nothing that was acknowledged; a torn record is never served;
//!   an index that is lost is built again from the segments. Opening looks at names only; while the index is
//!   brought up to date in the background, look-ups whose answer is not known yet wait.
//!
//! Values of record tables lie in segments as well: they are evicted like blobs, and survive the index.

mod append;
mod catch_up;
mod check;
mod durable;
mod engine;
mod evict;
mod filter;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod generation;
mod hiding;
mod incoming;
mod index;
mod keeper;
mod large;
mod opening;
mod options;
mod record;
mod remembered;
mod segment;
mod small;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use wardian_proto::Digest;

use self::append::Item;
pub use self::check::CheckReport;
use self::engine::Engine;
use self::keeper::Keeper;
use self::large::{Turns, copy_large};
pub use self::options::{CAPACITY_BYTES_MIN, SledOptions, SledTuning};
use self::record::{blob_key, record_key};
use self::segment::Use;
use self::small::{again, find_missing, get_blob, get_blob_now, store};
use crate::blob_store::{blocking, distinct_non_empty};
use crate::{BlobStore, BlobStream, ByteRange, Pin, RecordStore, StoreError, Table, Upload};

/// How long a call waits at the most for the index to be brought up to date; then it fails with Indexing.
const INDEXING_WAIT_MAX: Duration = Duration::from_secs(20);

/// How long it waits before it looks again: first, and at the most.
const INDEXING_LOOK_MIN: Duration = Duration::from_millis(2);
const INDEXING_LOOK_MAX: Duration = Duration::from_millis(500);

/// Keys that are looked up, and bytes that are read, without leaving the caller's thread: the index and small
/// records are nearly always in memory, and two thread switches cost more than looking there.
const KEYS_AT_ONCE_MAX: usize = 256;
const BYTES_AT_ONCE_MAX: u64 = 1 << 20;

/// A store in one folder.
#[derive(Clone)]
pub struct SledStore {
    engine: Arc<Engine>,
    turns: Arc<Turns>,
    _keeper: Arc<Keeper>,
}

/// The state of a store in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SledStats {
    /// The bound on everything below.
    pub capacity_bytes: u64,
    /// Bytes on disk or charged for writes under way, the index included.
    pub used_bytes: u64,
    /// Of these, bytes of the index.
    pub index_bytes: u64,
    /// Segments that can be read.
    pub segments: u64,
    /// Segments dropped to make room since the store was opened.
    pub segments_dropped: u64,
    /// Bytes of records copied forward because they were in use.
    pub bytes_moved: u64,
    /// Uploads refused because everything was in use.
    pub uploads_refused: u64,
    /// Records found damaged, and absent since.
    pub records_damaged: u64,
    /// How often everything written was flushed to the disk.
    pub flushes: u64,
    /// Bytes of segments that must be looked into before every question has an answer.
    pub unindexed_bytes: u64,
}

/// Keeps blobs from being evicted until it is dropped.
struct PinnedKeys {
    engine: Arc<Engine>,
    keys: Vec<Vec<u8>>,
}

impl Drop for PinnedKeys {
    fn drop(&mut self) {
        self.engine.unpin(&self.keys);
    }
}

impl SledStore {
    /// Opens the store in `folder`, making it when it is not there. Fails when another process has it open.
    ///
    /// Returns at once, however large the store is and whatever happened to it. Calls whose answer is not known
    /// before the index was brought up to date wait for that, 20 seconds at the most; [`indexed`](Self::indexed)
    /// tells when it is done.
    pub fn open(folder: &Path, options: SledOptions) -> Result<Self, StoreError> {
        Self::open_with(folder, options, None)
    }

    /// Opens a store with other thresholds than it would choose, to measure them.
    pub fn open_tuned(folder: &Path, options: SledOptions, tuning: SledTuning) -> Result<Self, StoreError> {
        Self::open_with(folder, options, Some(tuning))
    }

    fn open_with(
        folder: &Path,
        options: SledOptions,
        tuning: Option<SledTuning>,
    ) -> Result<Self, StoreError> {
        let (engine, names) = Engine::open(folder, options, tuning)?;
        let engine = Arc::new(engine);
        let keeper = Arc::new(Keeper::start(Arc::clone(&engine), names)?);
        Ok(Self { engine, turns: Arc::default(), _keeper: keeper })
    }

    /// Opens a store whose index is then built anew from its segments.
    pub fn rebuild(folder: &Path, options: SledOptions) -> Result<Self, StoreError> {
        opening::remove_index(folder)?;
        Self::open(folder, options)
    }

    /// Waits until the index is up to date. `progress` is told the bytes of segments looked into, and to be.
    pub async fn indexed(&self, mut progress: impl FnMut(u64, u64)) {
        loop {
            let now = *self.engine.progress();
            progress(now.done_bytes, now.total_bytes);
            if now.is_complete() {
                return;
            }
            tokio::time::sleep(INDEXING_LOOK_MAX / 10).await;
        }
    }

    /// Reads everything and says what is damaged. Takes as long as reading the disk does. `progress` is told
    /// the bytes read and the bytes to read.
    pub async fn check(
        &self,
        progress: impl Fn(u64, u64) + Send + 'static,
    ) -> Result<CheckReport, StoreError> {
        self.started().await?;
        self.run(move |engine| Ok(engine.check(&progress))).await
    }

    /// Writes everything that was acknowledged to the disk.
    pub async fn flush(&self) -> Result<(), StoreError> {
        self.started().await?;
        self.run(Engine::flush).await
    }

    /// The state of the store in numbers.
    pub fn stats(&self) -> SledStats {
        let engine = &self.engine;
        let index_bytes = engine.index.bytes();
        let counters = &engine.counters;
        SledStats {
            capacity_bytes: engine.sizes.capacity,
            used_bytes: engine.used.load(Ordering::Relaxed) + index_bytes,
            index_bytes,
            segments: engine.segments.read().unwrap_or_else(|e| e.into_inner()).len() as u64,
            segments_dropped: counters.segments_dropped.load(Ordering::Relaxed),
            bytes_moved: counters.bytes_moved.load(Ordering::Relaxed),
            uploads_refused: counters.uploads_refused.load(Ordering::Relaxed),
            records_damaged: counters.records_damaged.load(Ordering::Relaxed),
            flushes: engine.durable.passes(),
            unindexed_bytes: engine.progress().left_bytes(),
        }
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Engine) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let engine = Arc::clone(&self.engine);
        blocking(move || work(&engine)).await
    }

    /// Runs a look-up. Waits while the answer is not known because the index is brought up to date.
    async fn look_up<T: Send + 'static>(
        &self,
        work: impl Fn(&Engine) -> Result<T, StoreError> + Clone + Send + 'static,
    ) -> Result<T, StoreError> {
        let deadline = Instant::now() + INDEXING_WAIT_MAX;
        let mut pause = INDEXING_LOOK_MIN;
        loop {
            match self.run(work.clone()).await {
                Err(StoreError::Indexing) if Instant::now() < deadline => tokio::time::sleep(pause).await,
                outcome => return outcome,
            }
            pause = (pause * 2).min(INDEXING_LOOK_MAX);
        }
    }

    /// Waits until records can be added.
    async fn started(&self) -> Result<(), StoreError> {
        match self.engine.is_started() {
            Ok(()) => Ok(()),
            Err(_) => self.look_up(Engine::is_started).await,
        }
    }

    fn is_large(&self, digest: &Digest) -> bool {
        digest.size() > self.engine.sizes.shared_blob
    }
}

#[async_trait]
impl BlobStore for SledStore {
    async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, StoreError> {
        let asked: Arc<[Digest]> = distinct_non_empty(digests).into();
        if asked.len() <= KEYS_AT_ONCE_MAX {
            match find_missing(&self.engine, &asked) {
                Err(StoreError::Indexing) => {}
                found => return found,
            }
        }
        self.look_up(move |engine| find_missing(engine, &asked)).await
    }

    fn lease(&self) -> Duration {
        self.engine.options.lease
    }

    async fn pin(&self, digests: &[Digest]) -> Result<(Pin, Vec<Digest>), StoreError> {
        let keys: Vec<_> = distinct_non_empty(digests).iter().map(blob_key).collect();
        self.engine.pin(&keys);
        let pin = Pin::new(PinnedKeys { engine: Arc::clone(&self.engine), keys });
        // After the pin: eviction then either sees it, or has dropped the blob and it is reported.
        let missing = self.find_missing(digests).await?;
        Ok((pin, missing))
    }

    async fn put(&self, upload: Upload) -> Result<(), StoreError> {
        self.started().await?;
        if self.is_large(&upload.digest()) {
            return self.put_large(upload).await;
        }
        let blob = upload.into_bytes().await?;
        self.put_small(vec![blob]).await
    }

    async fn put_batch(&self, uploads: Vec<Upload>) -> Vec<Result<(), StoreError>> {
        if let Err(error) = self.started().await {
            return uploads.iter().map(|_| Err(again(&error))).collect();
        }
        let mut outcomes = Vec::with_capacity(uploads.len());
        let (mut small, mut places) = (Vec::new(), Vec::new());
        for (place, upload) in uploads.into_iter().enumerate() {
            outcomes.push(Ok(()));
            if self.is_large(&upload.digest()) {
                outcomes[place] = self.put_large(upload).await;
                continue;
            }
            match upload.into_bytes().await {
                Ok(blob) => {
                    small.push(blob);
                    places.push(place);
                }
                Err(error) => outcomes[place] = Err(error),
            }
        }
        if let Err(error) = self.put_small(small).await {
            for &place in &places {
                outcomes[place] = Err(again(&error));
            }
        }
        outcomes
    }

    async fn read(&self, digest: &Digest, range: ByteRange) -> Result<BlobStream, StoreError> {
        let (offset, length) = range.within(digest)?;
        let digest = *digest;
        if self.is_large(&digest) {
            return self.read_large(&digest, offset, length).await;
        }
        let data = match get_blob_now(&self.engine, &digest) {
            Some(read) => read?,
            None => self.look_up(move |engine| get_blob(engine, &digest)).await?,
        };
        let start = usize::try_from(offset).expect("shared blobs are small");
        let part = data.slice(start..start + usize::try_from(length).expect("shared blobs are small"));
        Ok(futures::stream::iter((!part.is_empty()).then_some(Ok(part))).boxed())
    }

    async fn get_batch(&self, digests: &[Digest]) -> Vec<Result<Bytes, StoreError>> {
        let bytes: u64 = digests.iter().map(Digest::size).fold(0, u64::saturating_add);
        if digests.len() <= KEYS_AT_ONCE_MAX && bytes <= BYTES_AT_ONCE_MAX {
            let read: Option<Vec<_>> = digests.iter().map(|d| get_blob_now(&self.engine, d)).collect();
            if let Some(read) = read {
                return read;
            }
        }
        let asked: Arc<[Digest]> = digests.into();
        let read = self.look_up(move |engine| {
            let read = asked.iter().map(|digest| match get_blob(engine, digest) {
                Err(StoreError::Indexing) => Err(StoreError::Indexing),
                outcome => Ok(outcome),
            });
            read.collect::<Result<Vec<_>, _>>()
        });
        let read = read.await;
        read.unwrap_or_else(|error| digests.iter().map(|_| Err(again(&error))).collect())
    }

    async fn copy_to(&self, digest: &Digest, file: File) -> Result<(), StoreError> {
        let digest = *digest;
        let large = self.is_large(&digest);
        let file = Arc::new(file);
        self.look_up(move |engine| {
            let mut file = &*file;
            match large {
                true => copy_large(engine, &digest, file),
                false => {
                    file.write_all(&get_blob(engine, &digest)?).map_err(StoreError::io("write blob to file"))
                }
            }
        })
        .await
    }
}

#[async_trait]
impl RecordStore for SledStore {
    async fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let key = record_key(table, key)?;
        match self.engine.read_now(&key) {
            Some(read) => Ok(read),
            None => self.look_up(move |engine| engine.read(&key)).await,
        }
    }

    async fn put(&self, table: Table, key: &[u8], value: Bytes) -> Result<(), StoreError> {
        let key = record_key(table, key)?;
        let (bytes, limit) = (value.len() as u64, self.engine.sizes.segment / 4);
        if bytes > limit {
            return Err(StoreError::RecordTooLarge { what: "value", bytes, limit });
        }
        self.started().await?;
        self.run(move |engine| store(engine, vec![Item::value(key, Some(value))])).await
    }

    async fn delete(&self, table: Table, key: &[u8]) -> Result<(), StoreError> {
        let key = record_key(table, key)?;
        self.started().await?;
        self.run(move |engine| match engine.find(&key, Use::default()) {
            Ok(None) => engine.acknowledge(),
            Ok(Some(_)) | Err(StoreError::Indexing) => store(engine, vec![Item::value(key, None)]),
            Err(error) => Err(error),
        })
        .await
    }
}
