//! The contract of a content-addressable storage.

use std::any::Any;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::BoxStream;
use wardian_proto::Digest;

use crate::{StoreError, Upload};

/// Size of the pieces in which large blobs are read.
pub const READ_CHUNK_BYTES: usize = 256 * 1024;

/// The bytes of a blob, piece by piece. An error ends it.
pub type BlobStream = BoxStream<'static, Result<Bytes, StoreError>>;

/// Which part of a blob to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ByteRange {
    /// First byte.
    pub offset: u64,
    /// How many bytes at the most; `None` for all that follow.
    pub limit: Option<u64>,
}

impl ByteRange {
    /// Returns first byte and length within a blob of this size, or OUT_OF_RANGE.
    pub fn within(self, digest: &Digest) -> Result<(u64, u64), StoreError> {
        let rest = digest
            .size()
            .checked_sub(self.offset)
            .ok_or(StoreError::OutOfRange { digest: *digest, offset: self.offset })?;
        Ok((self.offset, self.limit.map_or(rest, |limit| limit.min(rest))))
    }
}

/// Keeps blobs from being evicted until it is dropped. Dropping it never blocks.
#[must_use = "the blobs may be evicted as soon as this is dropped"]
#[derive(Default)]
pub struct Pin {
    _guard: Option<Box<dyn Any + Send + Sync>>,
}

impl Pin {
    /// A pin that lasts as long as `guard` is not dropped. The default pin is for stores that never evict.
    pub fn new(guard: impl Send + Sync + 'static) -> Self {
        Self { _guard: Some(Box::new(guard)) }
    }
}

/// Content-addressable storage.
///
/// Rules that every implementation keeps, and that the conformance suite checks:
/// - a blob is visible only after all of its bytes were verified;
/// - a digest with the right hash and a wrong size names nothing;
/// - the empty blob is always there;
/// - what [`find_missing`](Self::find_missing) leaves out can be read at that moment, and for
///   [`lease`](Self::lease) after it;
/// - what [`pin`](Self::pin) does not report missing can be read for as long as the pin lives.
#[async_trait]
pub trait BlobStore: Send + Sync + 'static {
    /// Returns the digests that are not stored, each once, in the order asked.
    async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, StoreError>;

    /// How long a blob that `find_missing` left out stays: zero when it is promised for that moment only,
    /// [`Duration::MAX`] when nothing is ever evicted.
    fn lease(&self) -> Duration;

    /// Keeps blobs until the pin is dropped. Returns those that are not stored, like `find_missing`; of them
    /// the pin promises nothing.
    async fn pin(&self, digests: &[Digest]) -> Result<(Pin, Vec<Digest>), StoreError>;

    /// Stores a blob. Storing what is stored already succeeds; the bytes sent must match all the same.
    async fn put(&self, upload: Upload) -> Result<(), StoreError>;

    /// Stores small blobs together, each with its own outcome, in the order given.
    async fn put_batch(&self, uploads: Vec<Upload>) -> Vec<Result<(), StoreError>>;

    /// Opens a blob for reading. Fails with NotFound before the first byte, not in the middle.
    async fn read(&self, digest: &Digest, range: ByteRange) -> Result<BlobStream, StoreError>;

    /// Reads small blobs together, each with its own outcome, in the order given.
    async fn get_batch(&self, digests: &[Digest]) -> Vec<Result<Bytes, StoreError>>;

    /// Reads one blob of at most `size_max` bytes into memory.
    async fn get(&self, digest: &Digest, size_max: u64) -> Result<Bytes, StoreError> {
        get(self, digest, size_max).await
    }

    /// Writes a blob into an open file, from the file's present position.
    async fn copy_to(&self, digest: &Digest, file: std::fs::File) -> Result<(), StoreError> {
        copy_to(self, digest, file).await
    }
}

/// Whoever shares a store has it.
#[async_trait]
impl<S: BlobStore + ?Sized> BlobStore for Arc<S> {
    async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, StoreError> {
        (**self).find_missing(digests).await
    }

    fn lease(&self) -> Duration {
        (**self).lease()
    }

    async fn pin(&self, digests: &[Digest]) -> Result<(Pin, Vec<Digest>), StoreError> {
        (**self).pin(digests).await
    }

    async fn put(&self, upload: Upload) -> Result<(), StoreError> {
        (**self).put(upload).await
    }

    async fn put_batch(&self, uploads: Vec<Upload>) -> Vec<Result<(), StoreError>> {
        (**self).put_batch(uploads).await
    }

    async fn read(&self, digest: &Digest, range: ByteRange) -> Result<BlobStream, StoreError> {
        (**self).read(digest, range).await
    }

    async fn get_batch(&self, digests: &[Digest]) -> Vec<Result<Bytes, StoreError>> {
        (**self).get_batch(digests).await
    }

    async fn get(&self, digest: &Digest, size_max: u64) -> Result<Bytes, StoreError> {
        (**self).get(digest, size_max).await
    }

    async fn copy_to(&self, digest: &Digest, file: std::fs::File) -> Result<(), StoreError> {
        (**self).copy_to(digest, file).await
    }
}

/// Reads one blob into memory, from whatever store.
pub(crate) async fn get<S: BlobStore + ?Sized>(
    store: &S,
    digest: &Digest,
    size_max: u64,
) -> Result<Bytes, StoreError> {
    if digest.size() > size_max {
        return Err(StoreError::TooLarge { digest: *digest, limit_name: "in-memory blob", limit: size_max });
    }
    collect(store.read(digest, ByteRange::default()).await?).await
}

/// Writes a blob into an open file, from whatever store.
pub(crate) async fn copy_to<S: BlobStore + ?Sized>(
    store: &S,
    digest: &Digest,
    mut file: std::fs::File,
) -> Result<(), StoreError> {
    let mut pieces = store.read(digest, ByteRange::default()).await?;
    while let Some(piece) = pieces.next().await {
        let piece = piece?;
        file = blocking(move || {
            file.write_all(&piece).map_err(StoreError::io("write blob to file"))?;
            Ok(file)
        })
        .await?;
    }
    Ok(())
}

/// Reads a stream to its end.
pub async fn collect(mut pieces: BlobStream) -> Result<Bytes, StoreError> {
    let Some(first) = pieces.next().await.transpose()? else { return Ok(Bytes::new()) };
    let Some(second) = pieces.next().await.transpose()? else { return Ok(first) };
    let mut whole = BytesMut::from(first);
    whole.extend_from_slice(&second);
    while let Some(piece) = pieces.next().await {
        whole.extend_from_slice(&piece?);
    }
    Ok(whole.freeze())
}

/// Runs blocking work on the pool made for it.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(join) => std::panic::resume_unwind(join.into_panic()),
    }
}

/// Drops repeated digests and the empty blobs, which are always there; keeps the order.
pub(crate) fn distinct_non_empty(digests: &[Digest]) -> Vec<Digest> {
    let mut seen = std::collections::HashSet::with_capacity(digests.len());
    digests.iter().filter(|d| !d.is_empty_blob() && seen.insert(**d)).copied().collect()
}
