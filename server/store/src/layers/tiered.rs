//! A near store in front of a far one: what is read or written is kept near as well.
//!
//! The far store alone says what there is. `find_missing`, `pin` and `lease` are its own; an upload has
//! succeeded when it has taken it. The near store may lose anything at any moment, and may refuse
//! whatever it likes: that costs a read from afar and nothing else. A blob that only the near store
//! still has is reported missing and can be read all the same, for digests name contents.
//!
//! What several read at once comes from afar once (`flights.rs`): small blobs always, larger ones as far as
//! `joined_bytes_max` says. These are near before the first of their bytes is handed out.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use wardian_proto::Digest;

use super::flights::{Flights, Landed};
use crate::blob_store::distinct_non_empty;
use crate::{BlobStore, BlobStream, ByteRange, Pin, StoreError, Upload};

/// Blobs up to this size are held in memory on their way; larger ones go by in pieces.
const WHOLE_BYTES_MAX: u64 = 256 << 10;

/// Pieces of a large blob that wait for the near store before whoever reads or sends it has to wait too.
const PIECES_WAITING_MAX: usize = 4;

/// A near store over a far one.
pub struct Tiered<N, F> {
    near: Arc<N>,
    far: Arc<F>,
    copying: Arc<Copying>,
    /// Blobs that are held in memory on their way.
    small: Arc<Flights<Bytes>>,
    /// Larger ones, which go into the near store.
    large: Arc<Flights<()>>,
    joined_bytes_max: u64,
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
        Self {
            near: Arc::new(near),
            far: Arc::new(far),
            copying: Arc::default(),
            small: Arc::default(),
            large: Arc::default(),
            joined_bytes_max: WHOLE_BYTES_MAX,
        }
    }

    /// Brings whole blobs up to this size near before they are read, so that readers can wait for one another. It is for
    /// those who need a blob whole anyway: the first bytes come when the last are near.
    #[must_use]
    pub fn joining(self, joined_bytes_max: u64) -> Self {
        Self { joined_bytes_max, ..self }
    }

    /// Reads distinct blobs from afar into memory and keeps them near.
    async fn fetch(&self, digests: &[Digest]) -> Vec<Result<Bytes, StoreError>> {
        let fetch = |wanted: Vec<Digest>| {
            let (near, far) = (Arc::clone(&self.near), Arc::clone(&self.far));
            async move {
                // Whoever fetched them last may have ended since they were looked for.
                let mut landed: Landed<Bytes> = HashMap::with_capacity(wanted.len());
                let found = near.get_batch(&wanted).await;
                landed.extend(wanted.iter().copied().zip(found).filter(|(_, outcome)| outcome.is_ok()));
                let absent: Vec<Digest> =
                    wanted.into_iter().filter(|digest| !landed.contains_key(digest)).collect();
                let fetched = far.get_batch(&absent).await;
                let kept = absent.iter().zip(&fetched);
                let kept =
                    kept.filter_map(|(digest, outcome)| Some((*digest, outcome.as_ref().ok()?.clone())));
                keep(&*near, kept.collect()).await;
                landed.extend(absent.into_iter().zip(fetched));
                landed
            }
        };
        self.small.bring(digests, fetch).await
    }

    /// Brings a large blob near. That it is not there afterwards means that the near store did not take it.
    async fn bring_near(&self, digest: &Digest) -> Result<(), StoreError> {
        let fetch = |wanted: Vec<Digest>| {
            let (near, far) = (Arc::clone(&self.near), Arc::clone(&self.far));
            async move {
                let mut landed: Landed<()> = HashMap::new();
                for digest in wanted {
                    let outcome =
                        match near.find_missing(&[digest]).await.is_ok_and(|missing| missing.is_empty()) {
                            true => Ok(()),
                            false => match far.read(&digest, ByteRange::default()).await {
                                Ok(pieces) => {
                                    note_failure(&near.put(Upload::stream(digest, pieces)).await);
                                    Ok(())
                                }
                                Err(error) => Err(error),
                            },
                        };
                    landed.insert(digest, outcome);
                }
                landed
            }
        };
        self.large.bring(&[*digest], fetch).await.pop().expect("one outcome for one digest")
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
}

/// Keeps blobs that the far store has.
async fn keep(near: &impl BlobStore, blobs: Vec<(Digest, Bytes)>) {
    if blobs.is_empty() {
        return;
    }
    let uploads = blobs.into_iter().map(|(digest, data)| Upload::bytes(digest, data)).collect();
    near.put_batch(uploads).await.iter().for_each(note_failure);
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
        keep(&*self.near, stored).await;
        outcomes
    }

    async fn read(&self, digest: &Digest, range: ByteRange) -> Result<BlobStream, StoreError> {
        let (offset, length) = range.within(digest)?;
        if let Ok(pieces) = self.near.read(digest, range).await {
            return Ok(pieces);
        }
        let is_whole = length == digest.size();
        if digest.size() <= WHOLE_BYTES_MAX {
            let blob = self.fetch(&[*digest]).await.pop().expect("one outcome for one digest")?;
            let (start, end) = (offset as usize, (offset + length) as usize);
            return Ok(futures::stream::iter([Ok(blob.slice(start..end))]).boxed());
        }
        if (is_whole && digest.size() <= self.joined_bytes_max) || self.large.has(digest) {
            self.bring_near(digest).await?;
            if let Ok(pieces) = self.near.read(digest, range).await {
                return Ok(pieces);
            }
        }
        let pieces = self.far.read(digest, range).await?;
        Ok(if is_whole { self.copied(*digest, pieces) } else { pieces })
    }

    async fn get_batch(&self, digests: &[Digest]) -> Vec<Result<Bytes, StoreError>> {
        let mut outcomes = self.near.get_batch(digests).await;
        let absent: Vec<usize> = (0..outcomes.len()).filter(|place| outcomes[*place].is_err()).collect();
        if absent.is_empty() {
            return outcomes;
        }
        let asked: Vec<Digest> = absent.iter().map(|place| digests[*place]).collect();
        let asked = distinct_non_empty(&asked);
        let fetched: HashMap<Digest, _> = asked.iter().copied().zip(self.fetch(&asked).await).collect();
        for place in absent {
            outcomes[place] = match fetched.get(&digests[place]) {
                Some(Ok(data)) => Ok(data.clone()),
                Some(Err(error)) => Err(error.again()),
                None => Ok(Bytes::new()),
            };
        }
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
