//! For tests: gives a store a lease of any length.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use wardian_proto::Digest;

use crate::{BlobStore, BlobStream, ByteRange, Pin, StoreError, Upload};

/// A store that says it evicts after `lease`.
pub(super) struct Leased<S> {
    pub(super) inner: S,
    pub(super) lease: Duration,
}

#[async_trait]
impl<S: BlobStore> BlobStore for Leased<S> {
    async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, StoreError> {
        self.inner.find_missing(digests).await
    }

    fn lease(&self) -> Duration {
        self.lease
    }

    async fn pin(&self, digests: &[Digest]) -> Result<(Pin, Vec<Digest>), StoreError> {
        self.inner.pin(digests).await
    }

    async fn put(&self, upload: Upload) -> Result<(), StoreError> {
        self.inner.put(upload).await
    }

    async fn put_batch(&self, uploads: Vec<Upload>) -> Vec<Result<(), StoreError>> {
        self.inner.put_batch(uploads).await
    }

    async fn read(&self, digest: &Digest, range: ByteRange) -> Result<BlobStream, StoreError> {
        self.inner.read(digest, range).await
    }

    async fn get_batch(&self, digests: &[Digest]) -> Vec<Result<Bytes, StoreError>> {
        self.inner.get_batch(digests).await
    }
}
