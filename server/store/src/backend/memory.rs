//! Everything in maps: for tests and for short-lived stores. Nothing survives a drop.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use wardian_proto::Digest;

use crate::blob_store::distinct_non_empty;
use crate::{
    BlobStore, BlobStream, ByteRange, Pin, READ_CHUNK_BYTES, RecordStore, StoreError, Table, Upload,
};

/// A store in memory, bounded by `bytes_max`.
#[derive(Debug)]
pub struct MemoryStore {
    inner: Mutex<Inner>,
    bytes_max: u64,
}

#[derive(Debug, Default)]
struct Inner {
    blobs: HashMap<Digest, Bytes>,
    records: HashMap<(Table, Vec<u8>), Bytes>,
    bytes: u64,
}

impl MemoryStore {
    /// A store that refuses (RESOURCE_EXHAUSTED) what would take its blobs over `bytes_max`.
    pub fn new(bytes_max: u64) -> Self {
        Self { inner: Mutex::default(), bytes_max }
    }

    /// Takes a blob away, as a store that evicts would do.
    #[cfg(test)]
    pub(crate) fn evict(&self, digest: &Digest) {
        let mut inner = self.lock();
        if inner.blobs.remove(digest).is_some() {
            inner.bytes -= digest.size();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().expect("no code that holds this lock panics")
    }

    fn lookup(&self, digest: &Digest) -> Result<Bytes, StoreError> {
        if digest.is_empty_blob() {
            return Ok(Bytes::new());
        }
        self.lock().blobs.get(digest).cloned().ok_or(StoreError::NotFound(*digest))
    }
}

#[async_trait]
impl BlobStore for MemoryStore {
    async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, StoreError> {
        let inner = self.lock();
        let mut missing = distinct_non_empty(digests);
        missing.retain(|d| !inner.blobs.contains_key(d));
        Ok(missing)
    }

    fn lease(&self) -> Duration {
        Duration::MAX
    }

    async fn pin(&self, digests: &[Digest]) -> Result<(Pin, Vec<Digest>), StoreError> {
        Ok((Pin::default(), self.find_missing(digests).await?))
    }

    async fn put(&self, upload: Upload) -> Result<(), StoreError> {
        let declared = upload.digest().size();
        if declared > self.bytes_max {
            return Err(StoreError::NoSpace("memory store"));
        }
        let (verified, data) = upload.into_bytes().await?;
        let mut inner = self.lock();
        if inner.blobs.contains_key(&verified.digest()) {
            return Ok(());
        }
        if inner.bytes + declared > self.bytes_max {
            return Err(StoreError::NoSpace("memory store"));
        }
        inner.bytes += declared;
        inner.blobs.insert(verified.digest(), data);
        Ok(())
    }

    async fn put_batch(&self, uploads: Vec<Upload>) -> Vec<Result<(), StoreError>> {
        let mut outcomes = Vec::with_capacity(uploads.len());
        for upload in uploads {
            outcomes.push(BlobStore::put(self, upload).await);
        }
        outcomes
    }

    async fn read(&self, digest: &Digest, range: ByteRange) -> Result<BlobStream, StoreError> {
        let data = self.lookup(digest)?;
        let (offset, length) = range.within(digest)?;
        let start = usize::try_from(offset).expect("within a blob in memory");
        let mut rest = data.slice(start..start + usize::try_from(length).expect("within a blob in memory"));
        let pieces = std::iter::from_fn(move || {
            let piece = rest.split_to(rest.len().min(READ_CHUNK_BYTES));
            (!piece.is_empty()).then_some(Ok(piece))
        });
        Ok(futures::stream::iter(pieces).boxed())
    }

    async fn get_batch(&self, digests: &[Digest]) -> Vec<Result<Bytes, StoreError>> {
        digests.iter().map(|digest| self.lookup(digest)).collect()
    }
}

#[async_trait]
impl RecordStore for MemoryStore {
    async fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(self.lock().records.get(&(table, key.to_vec())).cloned())
    }

    async fn put(&self, table: Table, key: &[u8], value: Bytes) -> Result<(), StoreError> {
        self.lock().records.insert((table, key.to_vec()), value);
        Ok(())
    }

    async fn delete(&self, table: Table, key: &[u8]) -> Result<(), StoreError> {
        self.lock().records.remove(&(table, key.to_vec()));
        Ok(())
    }
}
