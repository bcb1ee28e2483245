//! Blobs to and from the server: what is missing goes up, what comes down is verified.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use tokio::io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use wardian_proto::Digest;
use wardian_store::{BlobStore, ByteRange, READ_CHUNK_BYTES, StoreError, Upload};

/// Blobs up to this size travel in batches, larger ones in a stream of their own.
const SMALL_BLOB_BYTES_MAX: u64 = 256 << 10;

/// Bytes in one batch. Servers take a little less than 4 MiB in a message.
const BATCH_BYTES_MAX: u64 = 3 << 20;

/// Blobs in one batch.
const BATCH_BLOBS_MAX: usize = 1000;

/// Batches and streams under way at once.
pub(super) const TRANSFERS_MAX: usize = 8;

/// Blobs that an action needs, and where their bytes are.
#[derive(Debug, Default)]
pub struct Blobs(BTreeMap<Digest, Source>);

#[derive(Clone, Debug)]
enum Source {
    Bytes(Bytes),
    File(PathBuf),
}

impl Blobs {
    /// Adds bytes at hand.
    pub fn add_bytes(&mut self, digest: Digest, bytes: Bytes) {
        self.0.entry(digest).or_insert(Source::Bytes(bytes));
    }

    /// Adds a file that was hashed.
    pub fn add_file(&mut self, digest: Digest, path: PathBuf) {
        self.0.entry(digest).or_insert(Source::File(path));
    }

    /// The distinct digests.
    pub fn digests(&self) -> Vec<Digest> {
        self.0.keys().copied().collect()
    }
}

/// What an upload came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Blobs that the server already had.
    pub present: usize,
    /// Blobs that were sent.
    pub blobs: usize,
    /// Bytes that were sent.
    pub bytes: u64,
}

/// Why blobs could not be moved.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum TransferError {
    #[error("{} changed while it was sent; run the command again", .0.display())]
    Changed(PathBuf),
    #[error("{}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("could not write: {0}")]
    Write(std::io::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Stores those of the blobs that the server lacks. `sent` is told the bytes as they go.
pub async fn upload(
    store: &dyn BlobStore,
    blobs: &Blobs,
    sent: &(dyn Fn(u64) + Sync),
) -> Result<Sent, TransferError> {
    let missing = store.find_missing(&blobs.digests()).await?;
    let report = Sent {
        present: blobs.0.len() - missing.len(),
        blobs: missing.len(),
        bytes: missing.iter().map(Digest::size).sum(),
    };
    let missing = missing.iter().map(|digest| (*digest, blobs.0[digest].clone())).collect();
    let groups = batches(missing, |(digest, _)| digest.size());
    let transfers = groups.into_iter().map(|group| send(store, group, sent));
    stream::iter(transfers).buffer_unordered(TRANSFERS_MAX).try_collect::<()>().await?;
    Ok(report)
}

/// Groups small items up to a batch's limits and leaves large ones alone; keeps the order.
pub(super) fn batches<T>(items: Vec<T>, size: impl Fn(&T) -> u64) -> Vec<Vec<T>> {
    let (mut groups, mut group, mut bytes) = (Vec::new(), Vec::new(), 0);
    for item in items {
        let item_bytes = size(&item);
        if item_bytes > SMALL_BLOB_BYTES_MAX {
            groups.push(vec![item]);
            continue;
        }
        if group.len() == BATCH_BLOBS_MAX || bytes + item_bytes > BATCH_BYTES_MAX {
            groups.push(std::mem::take(&mut group));
            bytes = 0;
        }
        bytes += item_bytes;
        group.push(item);
    }
    if !group.is_empty() {
        groups.push(group);
    }
    groups
}

async fn send(
    store: &dyn BlobStore,
    group: Vec<(Digest, Source)>,
    sent: &(dyn Fn(u64) + Sync),
) -> Result<(), TransferError> {
    if let [(digest, source)] = group.as_slice() {
        store.put(source.upload(*digest)).await.map_err(|error| source.blame(error))?;
        sent(digest.size());
        return Ok(());
    }
    let uploads = group.iter().map(|(digest, source)| source.upload(*digest)).collect();
    for ((digest, source), outcome) in group.iter().zip(store.put_batch(uploads).await) {
        outcome.map_err(|error| source.blame(error))?;
        sent(digest.size());
    }
    Ok(())
}

impl Source {
    fn upload(&self, digest: Digest) -> Upload {
        match self {
            Self::Bytes(bytes) => Upload::bytes(digest, bytes.clone()),
            Self::File(path) => Upload::stream(digest, read_file(path.clone())),
        }
    }

    /// Says which file it was.
    fn blame(&self, error: StoreError) -> TransferError {
        match (self, error) {
            (Self::File(path), StoreError::Mismatch { .. } | StoreError::Overrun(_)) => {
                TransferError::Changed(path.clone())
            }
            (Self::File(path), StoreError::Io { source, .. }) => {
                TransferError::Read { path: path.clone(), source }
            }
            (_, error) => error.into(),
        }
    }
}

/// Reads a file piece by piece; it is opened when the first piece is asked for.
fn read_file(path: PathBuf) -> impl Stream<Item = Result<Bytes, StoreError>> + Send {
    let fail = |source| StoreError::Io { operation: "read input file", source };
    stream::try_unfold(None, move |file: Option<tokio::fs::File>| {
        let path = path.clone();
        async move {
            let mut file = match file {
                Some(file) => file,
                None => tokio::fs::File::open(&path).await.map_err(fail)?,
            };
            let mut chunk = bytes::BytesMut::with_capacity(READ_CHUNK_BYTES);
            let read = file.read_buf(&mut chunk).await.map_err(fail)?;
            Ok((read > 0).then(|| (chunk.freeze(), Some(file))))
        }
    })
}

/// Copies a blob into a writer. The store over gRPC fails at the end when the bytes are not the right ones.
pub async fn fetch_into(
    store: &dyn BlobStore,
    digest: Digest,
    mut target: impl AsyncWrite + Unpin,
) -> Result<(), TransferError> {
    let mut pieces = store.read(&digest, ByteRange::default()).await?;
    while let Some(piece) = pieces.next().await {
        target.write_all(&piece?).await.map_err(TransferError::Write)?;
    }
    target.flush().await.map_err(TransferError::Write)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use wardian_store::backend::MemoryStore;

    use super::super::action_spec::DIGEST_FUNCTION;
    use super::*;

    fn blob(text: &str) -> (Digest, Bytes) {
        (DIGEST_FUNCTION.digest(text.as_bytes()), Bytes::copy_from_slice(text.as_bytes()))
    }

    #[test]
    fn batches_keep_their_limits_and_lose_nothing() {
        let sizes = vec![10, SMALL_BLOB_BYTES_MAX + 1, SMALL_BLOB_BYTES_MAX, 0, BATCH_BYTES_MAX * 9];
        let groups = batches(sizes, |size| *size);
        assert_eq!(groups.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1, 3]);
        let groups = batches(vec![SMALL_BLOB_BYTES_MAX; 25], |size| *size);
        assert!(groups.iter().all(|g| g.iter().sum::<u64>() <= BATCH_BYTES_MAX));
        assert_eq!(batches(vec![0; BATCH_BLOBS_MAX + 1], |size| *size).len(), 2);
        assert!(batches(Vec::<u64>::new(), |size| *size).is_empty());
    }

    #[tokio::test]
    async fn only_what_is_missing_is_sent() {
        let store = MemoryStore::new(1 << 20);
        let dir = tempfile::tempdir().unwrap();
        let mut blobs = Blobs::default();
        for text in ["one", "two"] {
            blobs.add_bytes(blob(text).0, blob(text).1);
        }
        std::fs::write(dir.path().join("f"), "three").unwrap();
        blobs.add_file(blob("three").0, dir.path().join("f"));
        store.put(Upload::bytes(blob("one").0, blob("one").1)).await.unwrap();

        let bytes = AtomicU64::new(0);
        let count = |n| {
            bytes.fetch_add(n, Ordering::Relaxed);
        };
        let sent = upload(&store, &blobs, &count).await.unwrap();
        assert_eq!(sent, Sent { present: 1, blobs: 2, bytes: 8 });
        assert_eq!(bytes.load(Ordering::Relaxed), 8);
        assert_eq!(upload(&store, &blobs, &|_| ()).await.unwrap(), Sent { present: 3, ..Sent::default() });
    }

    #[tokio::test]
    async fn a_file_that_changed_or_went_is_named() {
        let store = MemoryStore::new(1 << 20);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, "after").unwrap();
        let mut blobs = Blobs::default();
        blobs.add_file(blob("before").0, path.clone());
        let error = upload(&store, &blobs, &|_| ()).await.unwrap_err();
        assert!(error.to_string().contains("f changed while it was sent"), "{error}");
        std::fs::remove_file(path).unwrap();
        let error = upload(&store, &blobs, &|_| ()).await.unwrap_err();
        assert!(error.to_string().contains("f: No such file"), "{error}");
    }
}
