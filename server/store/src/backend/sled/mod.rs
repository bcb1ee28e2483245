//! One folder on disk: bytes in append-only segments, and sled to find them.
//!
//! Layout below the folder that [`SledStore::open`] is given:
//!
//! ```text
//! segments/000000000000002a.shared   records of many blobs and values, up to a 32nd of the capacity (64 MiB)
//! segments/000000000000002b.large    one blob of more than 256 KiB (a 128th of a small store's capacity)
//! index/0000000000000001/            sled: where the records of segments from number 1 on are
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
//!   an index that is lost is built again from the segments when the store opens.
//!
//! Values of record tables lie in segments as well: they are evicted like blobs, and survive the index.

mod append;
mod engine;
mod evict;
mod index;
mod options;
mod record;
mod recover;
mod segment;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use wardian_proto::Digest;

use self::append::{Incoming, Item, charge_of};
use self::engine::Engine;
pub use self::options::{CAPACITY_BYTES_MIN, SledOptions};
use self::record::{RECORD_HEADER_BYTES, blob_key, record_key};
pub use self::recover::CheckReport;
use self::segment::{Use, read_piece};
use crate::blob_store::{blocking, distinct_non_empty};
use crate::{
    BlobStore, BlobStream, ByteRange, Pin, READ_CHUNK_BYTES, RecordStore, Step, StoreError, Table, Upload,
    Verified,
};

/// Bytes of a large upload that are gathered before they are written.
const WRITE_BYTES: usize = 1 << 20;

/// A store in one folder.
#[derive(Clone)]
pub struct SledStore {
    engine: Arc<Engine>,
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
    /// Blocks while the index is brought up to date: milliseconds, or seconds when it was lost.
    pub fn open(folder: &Path, options: SledOptions) -> Result<Self, StoreError> {
        Ok(Self { engine: Arc::new(Engine::open(folder, options)?) })
    }

    /// Builds the index of a store anew from its segments, and opens it.
    pub fn rebuild(folder: &Path, options: SledOptions) -> Result<Self, StoreError> {
        recover::remove_index(folder)?;
        Self::open(folder, options)
    }

    /// Reads everything and says what is damaged. Takes as long as reading the disk does.
    pub async fn check(&self) -> Result<CheckReport, StoreError> {
        self.run(Engine::check).await
    }

    /// Writes everything that was acknowledged to the disk.
    pub async fn flush(&self) -> Result<(), StoreError> {
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
        }
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Engine) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let engine = Arc::clone(&self.engine);
        blocking(move || work(&engine)).await
    }

    fn is_large(&self, digest: &Digest) -> bool {
        digest.size() > self.engine.sizes.shared_blob
    }

    /// Streams an upload into a file of its own and publishes it.
    async fn put_large(&self, mut upload: Upload) -> Result<(), StoreError> {
        let digest = upload.digest();
        let mut incoming = self
            .run(move |engine| Ok(Incoming::create(engine, digest.size())?.for_key(&blob_key(&digest))))
            .await?;
        let mut pieces = Vec::new();
        let mut gathered = 0;
        let verified = loop {
            match upload.next().await? {
                Step::Data(piece) => {
                    gathered += piece.len();
                    pieces.push(piece);
                }
                Step::Done(verified) => break verified,
            }
            if gathered >= WRITE_BYTES {
                let full = std::mem::take(&mut pieces);
                gathered = 0;
                incoming = blocking(move || incoming.write(&full).map(|()| incoming)).await?;
            }
        };
        self.run(move |engine| {
            incoming.write(&pieces)?;
            engine.publish(incoming, &verified)
        })
        .await
    }

    /// Stores verified small blobs with one append.
    async fn put_small(&self, blobs: Vec<(Verified, Bytes)>) -> Result<(), StoreError> {
        self.run(move |engine| {
            let mut items = Vec::with_capacity(blobs.len());
            for (verified, data) in blobs {
                let digest = verified.digest();
                if !digest.is_empty_blob() && engine.find(&blob_key(&digest), engine.leased())?.is_none() {
                    items.push(Item::blob(&verified, data));
                }
            }
            store(engine, items)
        })
        .await
    }
}

fn store(engine: &Engine, items: Vec<Item>) -> Result<(), StoreError> {
    if items.is_empty() {
        return Ok(());
    }
    let charge = engine.reserve(charge_of(&items, engine.sizes.segment))?;
    engine.append(items, charge)
}

fn get_blob(engine: &Engine, digest: &Digest) -> Result<Bytes, StoreError> {
    if digest.is_empty_blob() {
        return Ok(Bytes::new());
    }
    engine.read(&blob_key(digest))?.map(Bytes::from).ok_or(StoreError::NotFound(*digest))
}

/// Opens a large blob's file at a position within the blob.
fn open_large(engine: &Engine, digest: &Digest, offset: u64) -> Result<Arc<File>, StoreError> {
    let key = blob_key(digest);
    let (file, location) = engine.open_large(&key)?.ok_or(StoreError::NotFound(*digest))?;
    let start = location.offset + RECORD_HEADER_BYTES + key.len() as u64 + offset;
    (&*file).seek(SeekFrom::Start(start)).map_err(StoreError::io("seek in segment"))?;
    Ok(file)
}

#[async_trait]
impl BlobStore for SledStore {
    async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, StoreError> {
        let asked = distinct_non_empty(digests);
        self.run(move |engine| {
            let mut missing = Vec::new();
            let leased = engine.leased();
            for digest in asked {
                if engine.find(&blob_key(&digest), leased)?.is_none() {
                    missing.push(digest);
                }
            }
            Ok(missing)
        })
        .await
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
        if self.is_large(&upload.digest()) {
            return self.put_large(upload).await;
        }
        let blob = upload.into_bytes().await?;
        self.put_small(vec![blob]).await
    }

    async fn put_batch(&self, uploads: Vec<Upload>) -> Vec<Result<(), StoreError>> {
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
            let file = self.run(move |engine| open_large(engine, &digest, offset)).await?;
            return Ok(file_pieces(file, digest, length));
        }
        let data = self.run(move |engine| get_blob(engine, &digest)).await?;
        let start = usize::try_from(offset).expect("shared blobs are small");
        let part = data.slice(start..start + usize::try_from(length).expect("shared blobs are small"));
        Ok(futures::stream::iter((!part.is_empty()).then_some(Ok(part))).boxed())
    }

    async fn get_batch(&self, digests: &[Digest]) -> Vec<Result<Bytes, StoreError>> {
        let asked = digests.to_vec();
        let read =
            self.run(move |engine| Ok(asked.iter().map(|d| get_blob(engine, d)).collect::<Vec<_>>())).await;
        read.unwrap_or_else(|error| digests.iter().map(|_| Err(again(&error))).collect())
    }

    async fn copy_to(&self, digest: &Digest, mut file: File) -> Result<(), StoreError> {
        let digest = *digest;
        let large = self.is_large(&digest);
        self.run(move |engine| {
            let write = StoreError::io("write blob to file");
            if !large {
                return file.write_all(&get_blob(engine, &digest)?).map_err(write);
            }
            let mut from = open_large(engine, &digest, 0)?;
            // On Linux this is copy_file_range: the kernel copies, or shares blocks where it can.
            let copied =
                std::io::copy(Arc::get_mut(&mut from).expect("newly opened"), &mut file).map_err(write)?;
            if copied == digest.size() { Ok(()) } else { Err(too_short(&digest)) }
        })
        .await
    }
}

/// The failure of a batch, for each of its members.
fn again(error: &StoreError) -> StoreError {
    match error {
        StoreError::NoSpace(what) => StoreError::NoSpace(what),
        StoreError::Io { operation, source } => {
            StoreError::Io { operation, source: std::io::Error::new(source.kind(), source.to_string()) }
        }
        StoreError::Database(error) => StoreError::Database(error.clone()),
        other => StoreError::Damaged(other.to_string()),
    }
}

fn too_short(digest: &Digest) -> StoreError {
    StoreError::Damaged(format!("segment of blob {digest} is too short"))
}

/// Reads `length` bytes from the file's position, one piece for each poll.
fn file_pieces(file: Arc<File>, digest: Digest, length: u64) -> BlobStream {
    futures::stream::try_unfold((file, length), move |(file, left)| async move {
        if left == 0 {
            return Ok(None);
        }
        blocking(move || {
            let size = READ_CHUNK_BYTES.min(usize::try_from(left).unwrap_or(READ_CHUNK_BYTES));
            let piece = read_piece(&file, size).map_err(StoreError::io("read segment"))?;
            if piece.len() < size {
                return Err(too_short(&digest));
            }
            Ok(Some((Bytes::from(piece), (file, left - size as u64))))
        })
        .await
    })
    .boxed()
}

#[async_trait]
impl RecordStore for SledStore {
    async fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let key = record_key(table, key)?;
        self.run(move |engine| Ok(engine.read(&key)?.map(Bytes::from))).await
    }

    async fn put(&self, table: Table, key: &[u8], value: Bytes) -> Result<(), StoreError> {
        let key = record_key(table, key)?;
        if value.len() as u64 > self.engine.sizes.segment / 4 {
            return Err(StoreError::NoSpace("the value is larger than the store's shared segments take"));
        }
        self.run(move |engine| store(engine, vec![Item::value(key, Some(value))])).await
    }

    async fn delete(&self, table: Table, key: &[u8]) -> Result<(), StoreError> {
        let key = record_key(table, key)?;
        self.run(move |engine| {
            if engine.find(&key, Use::default())?.is_none() {
                return Ok(());
            }
            store(engine, vec![Item::value(key, None)])
        })
        .await
    }
}
