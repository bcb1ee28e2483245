//! Splitting and splicing over a store.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, TryStreamExt as _};
use tokio::sync::Semaphore;
use wardian_proto::Digest;

use super::{Chunker, Chunking};
use crate::blob_store::blocking;
use crate::{BlobStore, ByteRange, RecordStore, StoreError, Table, Upload};

/// Blobs that are split at once: each takes a core while it lasts, and a window of memory.
const SPLITS_AT_ONCE_MAX: usize = 2;

/// How long a call waits for its turn to split.
const SPLIT_WAIT_MAX: Duration = Duration::from_secs(60);

/// Bytes of chunks that are collected before they are stored together.
const BATCH_BYTES: usize = 4 << 20;

/// Why chunks cannot be told or joined.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ChunksError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the chunks have {total} bytes together; blob {blob} has {}", blob.size())]
    Sizes { blob: Digest, total: u64 },
    #[error("blob {blob} has more than {limit} chunks, which do not fit one message")]
    TooManyChunks { blob: Digest, limit: usize },
    #[error("{SPLITS_AT_ONCE_MAX} blobs are being split and others wait for {} s", SPLIT_WAIT_MAX.as_secs())]
    Busy,
    #[error("the store has no room for the chunks of blob {0}: the first are gone before the last came")]
    NoRoom(Digest),
}

/// What a splice came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spliced {
    /// The blob is stored, and its chunks as well.
    Stored,
    /// The blob was stored before; some of the chunks are not.
    ChunksMissing,
}

/// Splits and splices the blobs of a store, and remembers where they were cut.
pub struct Chunks {
    blobs: Arc<dyn BlobStore>,
    records: Arc<dyn RecordStore>,
    turns: Semaphore,
}

impl Chunks {
    /// Over a store of blobs, with records for the cuts that were found.
    pub fn new(blobs: Arc<dyn BlobStore>, records: Arc<dyn RecordStore>) -> Self {
        Self { blobs, records, turns: Semaphore::new(SPLITS_AT_ONCE_MAX) }
    }

    /// Returns chunks that make up a blob. They are stored, and promised like what `find_missing` leaves out.
    pub async fn split(
        &self,
        blob: Digest,
        chunking: Chunking,
        chunks_max: usize,
    ) -> Result<Vec<Digest>, ChunksError> {
        if !self.are_stored(&[blob]).await? {
            return Err(StoreError::NotFound(blob).into());
        }
        if blob.size() < chunking.whole_below() {
            return Ok(vec![blob]);
        }
        let key = key(&blob, chunking);
        let known = self.records.get(Table::Chunks, &key).await?;
        if let Some(chunks) = known.and_then(|record| decode(&blob, &record))
            && self.are_stored(&chunks).await?
        {
            check_count(blob, chunks.len(), chunks_max)?;
            return Ok(chunks);
        }
        let turn = tokio::time::timeout(SPLIT_WAIT_MAX, self.turns.acquire()).await;
        let _turn = turn.map_err(|_| ChunksError::Busy)?;
        let chunks = self.cut(blob, chunking, chunks_max).await?;
        // The first were stored a while ago: only now is it known that all are there together.
        if !self.are_stored(&chunks).await? {
            return Err(ChunksError::NoRoom(blob));
        }
        match self.records.put(Table::Chunks, &key, encode(&chunks)).await {
            // Then it is cut again the next time.
            Ok(()) | Err(StoreError::RecordTooLarge { .. } | StoreError::NoSpace(_)) => Ok(chunks),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes a blob of stored chunks. It can be read only after its bytes were found to match.
    pub async fn splice(&self, blob: Digest, chunks: &[Digest]) -> Result<Spliced, ChunksError> {
        let total = chunks.iter().fold(0, |sum: u64, chunk| sum.saturating_add(chunk.size()));
        if total != blob.size() {
            return Err(ChunksError::Sizes { blob, total });
        }
        if self.are_stored(&[blob]).await? {
            let kept = self.are_stored(chunks).await?;
            return Ok(if kept { Spliced::Stored } else { Spliced::ChunksMissing });
        }
        let (_pin, missing) = self.blobs.pin(chunks).await?;
        if let Some(missing) = missing.first() {
            return Err(StoreError::NotFound(*missing).into());
        }
        let blobs = Arc::clone(&self.blobs);
        let pieces = futures::stream::iter(chunks.to_vec())
            .then(move |chunk| {
                let blobs = Arc::clone(&blobs);
                async move { blobs.read(&chunk, ByteRange::default()).await }
            })
            .try_flatten();
        self.blobs.put(Upload::stream(blob, pieces)).await?;
        Ok(Spliced::Stored)
    }

    async fn are_stored(&self, digests: &[Digest]) -> Result<bool, StoreError> {
        Ok(self.blobs.find_missing(digests).await?.is_empty())
    }

    /// Reads the blob once, and stores its chunks as they are found.
    async fn cut(
        &self,
        blob: Digest,
        chunking: Chunking,
        chunks_max: usize,
    ) -> Result<Vec<Digest>, ChunksError> {
        let mut pieces = self.blobs.read(&blob, ByteRange::default()).await?;
        let mut chunker = Chunker::new(chunking);
        let mut digests = Vec::new();
        let mut batch = Vec::new();
        loop {
            let piece = pieces.next().await.transpose()?;
            let is_end = piece.is_none();
            let found;
            (chunker, found) = blocking(move || Ok(cut_piece(chunker, piece.as_deref(), &blob))).await?;
            digests.extend(found.iter().map(|(digest, _)| *digest));
            check_count(blob, digests.len(), chunks_max)?;
            batch.extend(found);
            let bytes: usize = batch.iter().map(|(_, bytes)| bytes.len()).sum();
            if bytes >= BATCH_BYTES || is_end {
                self.store(std::mem::take(&mut batch)).await?;
            }
            if is_end {
                return Ok(digests);
            }
        }
    }

    async fn store(&self, chunks: Vec<(Digest, Bytes)>) -> Result<(), StoreError> {
        let digests: Vec<Digest> = chunks.iter().map(|(digest, _)| *digest).collect();
        let missing = self.blobs.find_missing(&digests).await?;
        for (digest, bytes) in chunks {
            if missing.contains(&digest) {
                self.blobs.put(Upload::bytes(digest, bytes)).await?;
            }
        }
        Ok(())
    }
}

fn check_count(blob: Digest, count: usize, limit: usize) -> Result<(), ChunksError> {
    if count > limit { Err(ChunksError::TooManyChunks { blob, limit }) } else { Ok(()) }
}

type Found = Vec<(Digest, Bytes)>;

/// Adds a piece, or the end, and takes out the chunks that are known then.
fn cut_piece(mut chunker: Chunker, piece: Option<&[u8]>, blob: &Digest) -> (Chunker, Found) {
    chunker.add(piece.unwrap_or_default());
    let mut found = Found::new();
    let next = |chunker: &mut Chunker| match piece {
        Some(_) => chunker.next_chunk(),
        None => chunker.next_at_end(),
    };
    while let Some(chunk) = next(&mut chunker) {
        found.push((blob.function().digest(&chunk), chunk));
    }
    (chunker, found)
}

/// Key of a record: the blob, then how it is cut.
fn key(blob: &Digest, chunking: Chunking) -> Vec<u8> {
    let mut key = format!("{}/{blob}/", blob.function().name()).into_bytes();
    key.extend(chunking.tag());
    key
}

/// The chunks of a blob as a record: hash and size of each.
fn encode(chunks: &[Digest]) -> Bytes {
    let mut record = BytesMut::new();
    for chunk in chunks {
        record.extend_from_slice(chunk.hash());
        record.extend_from_slice(&chunk.size().to_be_bytes());
    }
    record.freeze()
}

/// Reads a record; `None` when it cannot be one of this blob.
fn decode(blob: &Digest, record: &[u8]) -> Option<Vec<Digest>> {
    let hash_bytes = blob.function().hash_bytes();
    if record.is_empty() || !record.len().is_multiple_of(hash_bytes + 8) {
        return None;
    }
    let chunk = |entry: &[u8]| {
        let (hash, size) = entry.split_at(hash_bytes);
        Digest::from_parts(blob.function(), hash, u64::from_be_bytes(size.try_into().ok()?))
    };
    record.chunks(hash_bytes + 8).map(chunk).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::MemoryStore;
    use crate::chunking::tests::noise;
    use crate::chunking::{FastCdc, RepMaxCdc};
    use wardian_proto::DigestFunction;

    const CHUNKS_MAX: usize = 1000;

    fn store(bytes_max: u64) -> (Arc<MemoryStore>, Chunks) {
        let store = Arc::new(MemoryStore::new(bytes_max));
        let chunks = Chunks::new(store.clone(), store.clone());
        (store, chunks)
    }

    async fn put(store: &MemoryStore, function: DigestFunction, data: &[u8]) -> Digest {
        let digest = function.digest(data);
        BlobStore::put(store, Upload::bytes(digest, data.to_vec())).await.unwrap();
        digest
    }

    async fn joined(store: &MemoryStore, chunks: &[Digest]) -> Vec<u8> {
        let read = BlobStore::get_batch(store, chunks).await;
        read.into_iter().flat_map(|bytes| bytes.unwrap().to_vec()).collect()
    }

    fn small() -> [Chunking; 2] {
        [
            Chunking::FastCdc2020(FastCdc::new(4096, 0).unwrap()),
            Chunking::RepMaxCdc(RepMaxCdc::new(2048, 16_384).unwrap()),
        ]
    }

    #[tokio::test]
    async fn chk_02_the_chunks_are_stored_and_make_up_the_blob() {
        let data = noise(500_000);
        for function in [DigestFunction::Sha256, DigestFunction::GitSha1, DigestFunction::Sha512] {
            for chunking in small() {
                let (store, chunks) = store(10 << 20);
                let blob = put(&store, function, &data).await;
                let split = chunks.split(blob, chunking, CHUNKS_MAX).await.unwrap();
                assert!(split.len() > 50, "{}", split.len());
                assert!(split.iter().all(|chunk| chunk.function() == function));
                assert!(joined(&store, &split).await == data);
                // The second time from memory, and with one chunk evicted again from the blob.
                assert_eq!(chunks.split(blob, chunking, CHUNKS_MAX).await.unwrap(), split);
                store.evict(&split[7]);
                assert_eq!(chunks.split(blob, chunking, CHUNKS_MAX).await.unwrap(), split);
                assert!(joined(&store, &split).await == data);
            }
        }
    }

    #[tokio::test]
    async fn small_and_empty_blobs_are_their_own_chunk() {
        let (store, chunks) = store(1 << 20);
        for data in [&b""[..], b"small"] {
            let blob = put(&store, DigestFunction::Sha256, data).await;
            for chunking in small() {
                assert_eq!(chunks.split(blob, chunking, CHUNKS_MAX).await.unwrap(), [blob]);
            }
        }
    }

    #[tokio::test]
    async fn chk_03_what_is_gone_and_what_has_no_room_is_said() {
        let data = noise(500_000);
        let (store, chunks) = store(800_000);
        let blob = DigestFunction::Sha256.digest(&data);
        let split = chunks.split(blob, small()[0], CHUNKS_MAX).await;
        assert!(matches!(split, Err(ChunksError::Store(StoreError::NotFound(_)))));
        put(&store, DigestFunction::Sha256, &data).await;
        let split = chunks.split(blob, small()[0], CHUNKS_MAX).await;
        assert!(matches!(split, Err(ChunksError::Store(StoreError::NoSpace(_)))), "{split:?}");
        let split = chunks.split(blob, small()[0], 3).await;
        assert!(matches!(split, Err(ChunksError::TooManyChunks { limit: 3, .. })));
    }

    #[tokio::test]
    async fn a_record_that_cannot_be_right_is_cut_anew() {
        let data = noise(100_000);
        let (store, chunks) = store(10 << 20);
        let blob = put(&store, DigestFunction::Sha256, &data).await;
        for bad in [&b""[..], b"short", &[0; 40]] {
            let key = key(&blob, small()[0]);
            RecordStore::put(&*store, Table::Chunks, &key, Bytes::copy_from_slice(bad)).await.unwrap();
            let split = chunks.split(blob, small()[0], CHUNKS_MAX).await.unwrap();
            assert!(joined(&store, &split).await == data);
        }
    }

    #[tokio::test]
    async fn chk_11_a_spliced_blob_is_seen_only_when_it_matches() {
        let (store, chunks) = store(1 << 20);
        let function = DigestFunction::Sha256;
        let (a, b) = (put(&store, function, b"one ").await, put(&store, function, b"two").await);
        let blob = function.digest(b"one two");
        let swapped = chunks.splice(blob, &[b, a]).await;
        assert!(matches!(swapped, Err(ChunksError::Store(StoreError::Mismatch { .. }))));
        assert!(BlobStore::get(&*store, &blob, 100).await.is_err());
        let short = chunks.splice(blob, &[a]).await;
        assert!(matches!(short, Err(ChunksError::Sizes { total: 4, .. })));
        let absent = function.digest(b"TWO");
        let missing = chunks.splice(blob, &[a, absent]).await;
        assert!(matches!(missing, Err(ChunksError::Store(StoreError::NotFound(d))) if d == absent));
        let empty = Digest::empty(function);
        assert_eq!(chunks.splice(blob, &[empty, a, empty, b]).await.unwrap(), Spliced::Stored);
        assert_eq!(BlobStore::get(&*store, &blob, 100).await.unwrap(), &b"one two"[..]);
        assert_eq!(chunks.splice(empty, &[]).await.unwrap(), Spliced::Stored);
    }

    #[tokio::test]
    async fn chk_13_a_blob_that_is_there_says_whether_its_chunks_are() {
        let (store, chunks) = store(1 << 20);
        let function = DigestFunction::Sha256;
        let (a, b) = (put(&store, function, b"one ").await, function.digest(b"two"));
        let blob = put(&store, function, b"one two").await;
        assert_eq!(chunks.splice(blob, &[a, b]).await.unwrap(), Spliced::ChunksMissing);
        put(&store, function, b"two").await;
        assert_eq!(chunks.splice(blob, &[a, b]).await.unwrap(), Spliced::Stored);
    }
}
