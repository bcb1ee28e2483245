//! Refuses whatever would change the store below; forwards the rest.

use std::fs::File;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use wardian_proto::Digest;

use crate::{BlobStore, BlobStream, ByteRange, Pin, RecordStore, StoreError, Table, Upload};

/// A store that takes no uploads. Look-ups still refresh what they find.
#[derive(Clone, Debug)]
pub struct ReadOnly<S> {
    inner: S,
}

impl<S> ReadOnly<S> {
    /// Lets nothing through to `inner` but questions.
    pub fn new(inner: S) -> Self {
        Self { inner }
    }
}

#[async_trait]
impl<S: BlobStore> BlobStore for ReadOnly<S> {
    async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, StoreError> {
        self.inner.find_missing(digests).await
    }

    fn lease(&self) -> Duration {
        self.inner.lease()
    }

    async fn pin(&self, digests: &[Digest]) -> Result<(Pin, Vec<Digest>), StoreError> {
        self.inner.pin(digests).await
    }

    async fn put(&self, _: Upload) -> Result<(), StoreError> {
        Err(StoreError::ReadOnly)
    }

    async fn put_batch(&self, uploads: Vec<Upload>) -> Vec<Result<(), StoreError>> {
        uploads.iter().map(|_| Err(StoreError::ReadOnly)).collect()
    }

    async fn read(&self, digest: &Digest, range: ByteRange) -> Result<BlobStream, StoreError> {
        self.inner.read(digest, range).await
    }

    async fn get_batch(&self, digests: &[Digest]) -> Vec<Result<Bytes, StoreError>> {
        self.inner.get_batch(digests).await
    }

    async fn get(&self, digest: &Digest, size_max: u64) -> Result<Bytes, StoreError> {
        self.inner.get(digest, size_max).await
    }

    async fn copy_to(&self, digest: &Digest, file: File) -> Result<(), StoreError> {
        self.inner.copy_to(digest, file).await
    }
}

#[async_trait]
impl<S: RecordStore> RecordStore for ReadOnly<S> {
    async fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.inner.get(table, key).await
    }

    async fn put(&self, _: Table, _: &[u8], _: Bytes) -> Result<(), StoreError> {
        Err(StoreError::ReadOnly)
    }

    async fn delete(&self, _: Table, _: &[u8]) -> Result<(), StoreError> {
        Err(StoreError::ReadOnly)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use wardian_proto::DigestFunction;

    use super::*;
    use crate::backend::MemoryStore;
    use crate::collect;

    fn blob(text: &'static str) -> (Digest, Bytes) {
        (DigestFunction::Sha256.digest(text.as_bytes()), Bytes::from_static(text.as_bytes()))
    }

    #[tokio::test]
    async fn everything_is_read_and_nothing_written() {
        let below = Arc::new(MemoryStore::new(1000));
        let ((there, data), (new, other)) = (blob("there"), blob("new"));
        below.put(Upload::bytes(there, data.clone())).await.unwrap();
        RecordStore::put(&*below, Table::ActionCache, b"k", data.clone()).await.unwrap();

        let blobs = ReadOnly::new(Arc::clone(&below));
        let refused = |outcome: Result<(), StoreError>| {
            assert_eq!(tonic::Status::from(outcome.unwrap_err()).code(), tonic::Code::PermissionDenied);
        };
        refused(blobs.put(Upload::bytes(new, other.clone())).await);
        let both = vec![Upload::bytes(new, other), Upload::bytes(there, data.clone())];
        blobs.put_batch(both).await.into_iter().for_each(refused);
        assert_eq!(blobs.find_missing(&[there, new]).await.unwrap(), [new]);
        assert_eq!(blobs.pin(&[there, new]).await.unwrap().1, [new]);
        assert_eq!(blobs.lease(), Duration::MAX);
        assert_eq!(blobs.get(&there, 100).await.unwrap(), data);
        assert_eq!(collect(blobs.read(&there, ByteRange::default()).await.unwrap()).await.unwrap(), data);
        assert!(matches!(&blobs.get_batch(&[there, new]).await[..], [Ok(_), Err(StoreError::NotFound(_))]));
        let file = tempfile::NamedTempFile::new().unwrap();
        blobs.copy_to(&there, file.reopen().unwrap()).await.unwrap();
        assert_eq!(std::fs::read(file.path()).unwrap(), data);

        let records = ReadOnly::new(MemoryStore::new(0));
        refused(RecordStore::put(&records, Table::ActionCache, b"k", data).await);
        refused(records.delete(Table::ActionCache, b"k").await);
        assert_eq!(RecordStore::get(&records, Table::ActionCache, b"k").await.unwrap(), None);
    }
}
