//! Counts and times every operation; forwards all.

use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use wardian_proto::Digest;

use super::meters::{Meters, Operation};
use crate::{BlobStore, BlobStream, ByteRange, Pin, RecordStore, StoreError, Table, Upload};

/// A store whose operations are counted.
#[derive(Clone, Debug)]
pub struct Metered<S> {
    inner: S,
    meters: Arc<Meters>,
}

impl<S> Metered<S> {
    /// Counts what goes to `inner`. Several stores may share their meters.
    pub fn new(inner: S, meters: Arc<Meters>) -> Self {
        Self { inner, meters }
    }

    /// Runs one call; says what of its outcome is to be counted once it has ended.
    async fn call<T>(
        &self,
        operation: Operation,
        items: usize,
        work: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        let start = Instant::now();
        let outcome = work.await;
        let meter = self.meters.meter(operation);
        meter.ended(start, items);
        meter.outcome(&outcome);
        outcome
    }
}

#[async_trait]
impl<S: BlobStore> BlobStore for Metered<S> {
    async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, StoreError> {
        let operation = Operation::FindMissing;
        let missing = self.call(operation, digests.len(), self.inner.find_missing(digests)).await?;
        self.meters.meter(operation).missing(missing.len());
        Ok(missing)
    }

    fn lease(&self) -> Duration {
        self.inner.lease()
    }

    async fn pin(&self, digests: &[Digest]) -> Result<(Pin, Vec<Digest>), StoreError> {
        let operation = Operation::Pin;
        let (pin, missing) = self.call(operation, digests.len(), self.inner.pin(digests)).await?;
        self.meters.meter(operation).missing(missing.len());
        Ok((pin, missing))
    }

    async fn put(&self, upload: Upload) -> Result<(), StoreError> {
        let (operation, size) = (Operation::Put, upload.digest().size());
        self.call(operation, 1, self.inner.put(upload)).await?;
        self.meters.meter(operation).bytes(size);
        Ok(())
    }

    async fn put_batch(&self, uploads: Vec<Upload>) -> Vec<Result<(), StoreError>> {
        let meter = self.meters.meter(Operation::PutBatch);
        let (start, sizes) = (Instant::now(), uploads.iter().map(|u| u.digest().size()).collect::<Vec<_>>());
        let outcomes = self.inner.put_batch(uploads).await;
        meter.ended(start, sizes.len());
        for (outcome, size) in outcomes.iter().zip(sizes) {
            meter.outcome(outcome);
            meter.bytes(if outcome.is_ok() { size } else { 0 });
        }
        outcomes
    }

    async fn read(&self, digest: &Digest, range: ByteRange) -> Result<BlobStream, StoreError> {
        let pieces = self.call(Operation::Read, 1, self.inner.read(digest, range)).await?;
        let meters = Arc::clone(&self.meters);
        let counted = pieces.inspect(move |piece| {
            let meter = meters.meter(Operation::Read);
            meter.outcome(piece);
            meter.bytes(piece.as_ref().map_or(0, |bytes| bytes.len() as u64));
        });
        Ok(counted.boxed())
    }

    async fn get_batch(&self, digests: &[Digest]) -> Vec<Result<Bytes, StoreError>> {
        let meter = self.meters.meter(Operation::GetBatch);
        let start = Instant::now();
        let outcomes = self.inner.get_batch(digests).await;
        meter.ended(start, digests.len());
        for outcome in &outcomes {
            meter.outcome(outcome);
            meter.bytes(outcome.as_ref().map_or(0, |bytes| bytes.len() as u64));
        }
        outcomes
    }

    async fn get(&self, digest: &Digest, size_max: u64) -> Result<Bytes, StoreError> {
        let bytes = self.call(Operation::Read, 1, self.inner.get(digest, size_max)).await?;
        self.meters.meter(Operation::Read).bytes(bytes.len() as u64);
        Ok(bytes)
    }

    async fn copy_to(&self, digest: &Digest, file: File) -> Result<(), StoreError> {
        self.call(Operation::Read, 1, self.inner.copy_to(digest, file)).await?;
        self.meters.meter(Operation::Read).bytes(digest.size());
        Ok(())
    }
}

#[async_trait]
impl<S: RecordStore> RecordStore for Metered<S> {
    async fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let value = self.call(Operation::GetRecord, 1, self.inner.get(table, key)).await?;
        let meter = self.meters.meter(Operation::GetRecord);
        match &value {
            Some(value) => meter.bytes(value.len() as u64),
            None => meter.missing(1),
        }
        Ok(value)
    }

    async fn put(&self, table: Table, key: &[u8], value: Bytes) -> Result<(), StoreError> {
        let size = value.len() as u64;
        self.call(Operation::PutRecord, 1, self.inner.put(table, key, value)).await?;
        self.meters.meter(Operation::PutRecord).bytes(size);
        Ok(())
    }

    async fn delete(&self, table: Table, key: &[u8]) -> Result<(), StoreError> {
        self.call(Operation::DeleteRecord, 1, self.inner.delete(table, key)).await
    }
}

#[cfg(test)]
mod tests {
    use wardian_proto::DigestFunction;

    use super::*;
    use crate::backend::MemoryStore;
    use crate::collect;

    fn blob(text: &str) -> (Digest, Bytes) {
        (DigestFunction::Sha256.digest(text.as_bytes()), Bytes::copy_from_slice(text.as_bytes()))
    }

    #[tokio::test]
    async fn items_bytes_misses_and_failures_are_counted_apart() {
        let meters = Arc::new(Meters::default());
        let store = Metered::new(MemoryStore::new(1000), Arc::clone(&meters));
        let ((good, data), (other, wrong), (absent, _)) = (blob("good"), blob("other"), blob("absent"));
        let uploads = vec![Upload::bytes(good, data), Upload::bytes(other, "wrong")];
        store.put_batch(uploads).await;
        BlobStore::put(&store, Upload::bytes(other, wrong)).await.unwrap();
        store.find_missing(&[good, absent, other]).await.unwrap();
        assert!(store.read(&absent, ByteRange::default()).await.is_err());
        collect(store.read(&good, ByteRange { offset: 1, limit: None }).await.unwrap()).await.unwrap();
        BlobStore::get(&store, &other, 100).await.unwrap();

        let read = |operation| {
            let Reading { calls, failures, items, missing, bytes, .. } = meters.read(operation);
            [calls, failures, items, missing, bytes]
        };
        assert_eq!(read(Operation::PutBatch), [1, 1, 2, 0, 4]);
        assert_eq!(read(Operation::Put), [1, 0, 1, 0, 5]);
        assert_eq!(read(Operation::FindMissing), [1, 0, 3, 1, 0]);
        assert_eq!(read(Operation::Read), [3, 0, 3, 1, 8]);
        assert_eq!(read(Operation::GetBatch), [0; 5]);
        assert_eq!(meters.read(Operation::Read).buckets.iter().sum::<u64>(), 3);
    }

    use super::super::meters::Reading;
}
