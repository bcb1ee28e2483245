//! A near store in front of a far one: what is read or written is kept near as well.
//!
//! The far store alone says what there is. `find_missing`, `pin` and `lease` are its own; an upload has
//! succeeded when it has taken it. The near store may lose anything at any moment, and may refuse
//! whatever it likes: that costs a read from afar and nothing else. A blob that only the near store
//! still has is reported missing and can be read all the same, for digests name contents.

use std::collections::HashSet;
use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use wardian_proto::Digest;

use crate::{BlobStore, BlobStream, ByteRange, Pin, StoreError, Upload};

/// Blobs up to this size are held in memory on their way; larger ones go by in pieces.
const WHOLE_BYTES_MAX: u64 = 256 << 10;

/// Pieces of a large blob that wait for the near store before whoever reads or sends it has to wait too.
const PIECES_WAITING_MAX: usize = 4;

/// A near store over a far one.
pub struct Tiered<N, F> {
    near: Arc<N>,
    far: F,
    copying: Arc<Copying>,
}

/// The large blobs that are on their way into the near store: each once.
#[derive(Default)]
struct Copying {
    digests: Mutex<HashSet<Digest>>,
}

impl Copying {
    fn digests(&self) -> MutexGuard<'_, HashSet<Digest>> {
        self.digests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a blob off the list when its copy is made or given up.
struct Listed {
    digest: Digest,
    copying: Arc<Copying>,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.copying.digests().remove(&self.digest);
    }
}

impl<N: BlobStore, F: BlobStore> Tiered<N, F> {
    /// Keeps in `near` what goes to and comes from `far`.
    pub fn new(near: N, far: F) -> Self {
        Self { near: Arc::new(near), far, copying: Arc::default() }
    }

    /// Passes pieces on, and into the near store at the same pace. Nothing is kept of pieces that break off.
    fn copied(&self, digest: Digest, pieces: BlobStream) -> BlobStream {
        if !self.copying.digests().insert(digest) {
            return pieces;
        }
        let listed = Listed { digest, copying: Arc::clone(&self.copying) };
        // A channel, because the near store asks for pieces at its own time.
        let (sender, receiver) = mpsc::channel(PIECES_WAITING_MAX);
        let near = Arc::clone(&self.near);
        tokio::spawn(async move {
            let _listed = listed;
            let copy = Upload::stream(digest, ReceiverStream::new(receiver));
            note_failure(&near.put(copy).await);
        });
        let pass_on = move |(mut pieces, mut sender): (BlobStream, Option<mpsc::Sender<_>>)| async move {
            let piece = pieces.next().await?;
            if let (Ok(bytes), Some(near)) = (&piece, &sender) {
                // A near store that has given up is left alone.
                if near.send(Ok(bytes.clone())).await.is_err() {
                    sender = None;
                }
            }
            Some((piece, (pieces, sender)))
        };
        futures::stream::unfold((pieces, Some(sender)), pass_on).boxed()
    }

    /// Keeps blobs that the far store has.
    async fn keep(&self, blobs: Vec<(Digest, Bytes)>) {
        if blobs.is_empty() {
            return;
        }
        let uploads = blobs.into_iter().map(|(digest, data)| Upload::bytes(digest, data)).collect();
        self.near.put_batch(uploads).await.iter().for_each(note_failure);
    }
}

/// What the near store does not take is not worth more than a line in the log.
fn note_failure(outcome: &Result<(), StoreError>) {
    if let Err(error) = outcome {
        tracing::debug!(%error, "a blob is not kept near");
    }
}

#[async_trait]
impl<N: BlobStore, F: BlobStore> BlobStore for Tiered<N, F> {
    async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, StoreError> {
        self.far.find_missing(digests).await
    }

    fn lease(&self) -> Duration {
        self.far.lease()
    }

    async fn pin(&self, digests: &[Digest]) -> Result<(Pin, Vec<Digest>), StoreError> {
        self.far.pin(digests).await
    }

    async fn put(&self, upload: Upload) -> Result<(), StoreError> {
        if upload.digest().size() <= WHOLE_BYTES_MAX {
            return self.put_batch(vec![upload]).await.pop().expect("one outcome for one upload");
        }
        let (digest, pieces) = upload.into_pieces();
        self.far.put(Upload::stream(digest, self.copied(digest, pieces))).await
    }

    async fn put_batch(&self, uploads: Vec<Upload>) -> Vec<Result<(), StoreError>> {
        let mut outcomes = Vec::with_capacity(uploads.len());
        let (mut places, mut whole) = (Vec::new(), Vec::new());
        for (place, upload) in uploads.into_iter().enumerate() {
            outcomes.push(Ok(()));
            if upload.digest().size() > WHOLE_BYTES_MAX {
                outcomes[place] = self.put(upload).await;
                continue;
            }
            match upload.into_bytes().await {
                Ok((verified, data)) => {
                    places.push(place);
                    whole.push((verified.digest(), data));
                }
                Err(error) => outcomes[place] = Err(error),
            }
        }
        let uploads = whole.iter().map(|(digest, data)| Upload::bytes(*digest, data.clone())).collect();
        let mut stored = Vec::new();
        for ((outcome, place), blob) in self.far.put_batch(uploads).await.into_iter().zip(places).zip(whole) {
            if outcome.is_ok() {
                stored.push(blob);
            }
            outcomes[place] = outcome;
        }
        self.keep(stored).await;
        outcomes
    }

    async fn read(&self, digest: &Digest, range: ByteRange) -> Result<BlobStream, StoreError> {
        let (_, length) = range.within(digest)?;
        if let Ok(pieces) = self.near.read(digest, range).await {
            return Ok(pieces);
        }
        let pieces = self.far.read(digest, range).await?;
        Ok(if length == digest.size() { self.copied(*digest, pieces) } else { pieces })
    }

    async fn get_batch(&self, digests: &[Digest]) -> Vec<Result<Bytes, StoreError>> {
        let mut outcomes = self.near.get_batch(digests).await;
        let absent: Vec<usize> = (0..outcomes.len()).filter(|place| outcomes[*place].is_err()).collect();
        if absent.is_empty() {
            return outcomes;
        }
        let asked: Vec<Digest> = absent.iter().map(|place| digests[*place]).collect();
        let mut fetched = Vec::new();
        for ((place, digest), outcome) in absent.iter().zip(&asked).zip(self.far.get_batch(&asked).await) {
            if let Ok(data) = &outcome {
                fetched.push((*digest, data.clone()));
            }
            outcomes[*place] = outcome;
        }
        self.keep(fetched).await;
        outcomes
    }

    async fn get(&self, digest: &Digest, size_max: u64) -> Result<Bytes, StoreError> {
        if digest.size() <= WHOLE_BYTES_MAX.min(size_max) {
            return self.get_batch(&[*digest]).await.pop().expect("one outcome for one digest");
        }
        crate::blob_store::get(self, digest, size_max).await
    }

    async fn copy_to(&self, digest: &Digest, file: File) -> Result<(), StoreError> {
        if self.near.find_missing(&[*digest]).await.is_ok_and(|missing| missing.is_empty()) {
            return self.near.copy_to(digest, file).await;
        }
        crate::blob_store::copy_to(self, digest, file).await
    }
}

#[cfg(test)]
#[path = "tiered_tests.rs"]
mod tests;
