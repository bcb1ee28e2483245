//! A layer that has some blobs beside the store: those that somebody handed over because they are about to be read.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use wardian_proto::{Digest, DigestFunction};

use crate::{BlobStore, BlobStream, ByteRange, Pin, Recent, StoreError, Upload};

/// What one blob takes beside its bytes.
const ENTRY_BYTES: u64 = 256;

/// Blobs at hand, within a bound on what they take. Clones share them.
#[derive(Clone)]
pub struct AtHand {
    blobs: Arc<Recent<Digest, Bytes>>,
}

impl AtHand {
    /// Nothing yet, and never more than this.
    pub fn new(bytes_max: u64) -> Self {
        Self { blobs: Arc::new(Recent::new(bytes_max)) }
    }

    /// Takes a blob, whatever it is: it can only be found by its own digest.
    pub fn take(&self, function: DigestFunction, blob: Bytes) {
        let weight = blob.len() as u64 + ENTRY_BYTES;
        self.blobs.insert(function.digest(&blob), blob, weight);
    }
}

/// A store with some blobs at hand. They are read from there; all else is asked of the store, which alone says what
/// there is.
pub struct Handed<S> {
    inner: S,
    at_hand: AtHand,
}

impl<S> Handed<S> {
    /// Reads what is at hand from there and all else from `inner`.
    pub fn new(inner: S, at_hand: AtHand) -> Self {
        Self { inner, at_hand }
    }
}

#[async_trait]
impl<S: BlobStore> BlobStore for Handed<S> {
    async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, StoreError> {
        self.inner.find_missing(digests).await
    }

    fn lease(&self) -> Duration {
        self.inner.lease()
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
        let Some(blob) = self.at_hand.blobs.get(digest) else { return self.inner.read(digest, range).await };
        let (offset, length) = range.within(digest)?;
        // Both are within a blob that is in memory.
        let (offset, length) = (offset as usize, length as usize);
        Ok(Box::pin(futures::stream::iter([Ok(blob.slice(offset..offset + length))])))
    }

    async fn get_batch(&self, digests: &[Digest]) -> Vec<Result<Bytes, StoreError>> {
        let mut outcomes: Vec<_> =
            digests.iter().map(|digest| self.at_hand.blobs.get(digest).map(Ok)).collect();
        let absent: Vec<Digest> = digests
            .iter()
            .zip(&outcomes)
            .filter(|(_, found)| found.is_none())
            .map(|(digest, _)| *digest)
            .collect();
        if !absent.is_empty() {
            let mut read = self.inner.get_batch(&absent).await.into_iter();
            outcomes
                .iter_mut()
                .filter(|outcome| outcome.is_none())
                .for_each(|outcome| *outcome = read.next());
        }
        outcomes.into_iter().map(|outcome| outcome.expect("one outcome for one digest")).collect()
    }

    async fn get(&self, digest: &Digest, size_max: u64) -> Result<Bytes, StoreError> {
        match self.at_hand.blobs.get(digest).filter(|blob| blob.len() as u64 <= size_max) {
            Some(blob) => Ok(blob),
            None => self.inner.get(digest, size_max).await,
        }
    }

    async fn copy_to(&self, digest: &Digest, file: File) -> Result<(), StoreError> {
        self.inner.copy_to(digest, file).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::MemoryStore;
    use crate::collect;

    /// A store that has nothing, with a blob at hand.
    fn handed(blob: &'static [u8]) -> (Digest, Handed<MemoryStore>) {
        let at_hand = AtHand::new(4096);
        at_hand.take(DigestFunction::Sha256, Bytes::from_static(blob));
        (DigestFunction::Sha256.digest(blob), Handed::new(MemoryStore::new(1 << 20), at_hand))
    }

    #[tokio::test]
    async fn what_is_at_hand_is_read_from_there() {
        let (digest, store) = handed(b"at hand");
        assert_eq!(store.get(&digest, 7).await.unwrap(), "at hand");
        let range = ByteRange { offset: 3, limit: Some(2) };
        assert_eq!(collect(store.read(&digest, range).await.unwrap()).await.unwrap(), "ha");
        assert!(store.get(&digest, 6).await.is_err(), "larger than whoever asks can take");
        let behind = DigestFunction::Sha256.digest(b"behind");
        store.put(Upload::bytes(behind, "behind")).await.unwrap();
        let absent = DigestFunction::Sha256.digest(b"absent");
        let read = store.get_batch(&[behind, digest, absent, digest]).await;
        let texts: Vec<_> = read.iter().map(|outcome| outcome.as_ref().ok().map(|b| &b[..])).collect();
        assert_eq!(texts, [Some(&b"behind"[..]), Some(b"at hand"), None, Some(b"at hand")]);
    }

    #[tokio::test]
    async fn it_says_nothing_about_what_is_stored() {
        let (digest, store) = handed(b"at hand");
        assert_eq!(store.find_missing(&[digest]).await.unwrap(), [digest]);
        let (_pin, missing) = store.pin(&[digest]).await.unwrap();
        assert_eq!(missing, [digest]);
    }
}
