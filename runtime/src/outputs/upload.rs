//! Uploading what was found, as far as the store does not have it.

use std::collections::HashSet;
use std::io::Read;
use std::sync::Arc;

use bytes::Bytes;
use wardian_proto::Digest;
use wardian_store::{BlobStore, StoreError, Upload};

use super::{FoundFile, OutputSource, PIECE_BYTES, SMALL_FILE_BYTES};
use crate::Failure;
use crate::input_root::blocking;

/// Bytes of small files and Directories uploaded in one batch.
const BATCH_BYTES: usize = 4 << 20;

/// Uploads what the store does not have yet.
pub(super) async fn upload(
    store: &dyn BlobStore,
    source: &Arc<dyn OutputSource>,
    files: Vec<FoundFile>,
    messages: Vec<(Digest, Bytes)>,
) -> Result<(), Failure> {
    let mut digests: Vec<Digest> = files.iter().map(|f| f.digest).collect();
    digests.extend(messages.iter().map(|(digest, _)| *digest));
    let mut missing: HashSet<Digest> = store.find_missing(&digests).await?.into_iter().collect();
    let mut batch = Batch { store, uploads: Vec::new(), bytes: 0 };
    for (digest, bytes) in messages {
        if missing.remove(&digest) {
            batch.add(Upload::bytes(digest, bytes)).await?;
        }
    }
    for file in files {
        if !missing.remove(&file.digest) {
            continue;
        }
        if let Some(content) = file.content {
            batch.add(Upload::bytes(file.digest, content)).await?;
            continue;
        }
        let opened = {
            let (source, path) = (Arc::clone(source), file.path);
            blocking(move || source.open(&path)).await?
        };
        let pieces = pieces(opened.content);
        if file.digest.size() <= SMALL_FILE_BYTES {
            batch.add(Upload::stream(file.digest, pieces)).await?;
        } else {
            store.put(Upload::stream(file.digest, pieces)).await?;
        }
    }
    batch.flush().await
}

/// Small uploads on their way into one call.
struct Batch<'a> {
    store: &'a dyn BlobStore,
    uploads: Vec<Upload>,
    bytes: usize,
}

impl Batch<'_> {
    async fn add(&mut self, upload: Upload) -> Result<(), Failure> {
        self.bytes += usize::try_from(upload.digest().size()).unwrap_or(usize::MAX);
        self.uploads.push(upload);
        // An open file is held for each upload: bound their number too.
        if self.bytes >= BATCH_BYTES || self.uploads.len() >= 128 { self.flush().await } else { Ok(()) }
    }

    async fn flush(&mut self) -> Result<(), Failure> {
        self.bytes = 0;
        let outcomes = self.store.put_batch(std::mem::take(&mut self.uploads)).await;
        outcomes.into_iter().collect::<Result<(), StoreError>>().map_err(Failure::from)
    }
}

fn pieces(
    file: Box<dyn Read + Send>,
) -> impl futures::Stream<Item = Result<Bytes, StoreError>> + Send + 'static {
    futures::stream::try_unfold(file, |mut file| async move {
        let read = tokio::task::spawn_blocking(move || {
            let mut piece = vec![0; PIECE_BYTES];
            let read = file.read(&mut piece)?;
            piece.truncate(read);
            Ok::<_, std::io::Error>((!piece.is_empty()).then_some((Bytes::from(piece), file)))
        });
        read.await
            .map_err(std::io::Error::other)
            .and_then(|outcome| outcome)
            .map_err(|source| StoreError::Io { operation: "read output file", source })
    })
}
