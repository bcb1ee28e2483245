//! The only way into a store: bytes together with the digest they must match.

use std::fmt;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use wardian_proto::{Digest, Hasher};

use crate::{BlobStream, StoreError};

/// Bytes on their way into a store, hashed as they pass.
pub struct Upload {
    digest: Digest,
    hasher: Hasher,
    body: Body,
}

enum Body {
    Bytes(Option<Bytes>),
    Stream(BoxStream<'static, Result<Bytes, StoreError>>),
}

/// Proof that all bytes of an upload were seen and matched. Only [`Upload::next`] makes one.
#[derive(Debug)]
pub struct Verified(Digest);

impl Verified {
    /// The digest that the bytes were found to have.
    pub fn digest(&self) -> Digest {
        self.0
    }
}

/// What [`Upload::next`] returns.
#[derive(Debug)]
pub enum Step {
    /// The next bytes; not yet known to be right.
    Data(Bytes),
    /// The end; everything that came before is the blob.
    Done(Verified),
}

impl Upload {
    /// An upload of bytes at hand.
    pub fn bytes(digest: Digest, data: impl Into<Bytes>) -> Self {
        Self { digest, hasher: digest.function().hasher(digest.size()), body: Body::Bytes(Some(data.into())) }
    }

    /// An upload of bytes that arrive piece by piece.
    pub fn stream(
        digest: Digest,
        pieces: impl Stream<Item = Result<Bytes, StoreError>> + Send + 'static,
    ) -> Self {
        Self { digest, hasher: digest.function().hasher(digest.size()), body: Body::Stream(pieces.boxed()) }
    }

    /// The digest that the bytes must match.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Takes the upload apart for a layer that hands it on to stores, which verify it in their turn.
    pub(crate) fn into_pieces(self) -> (Digest, BlobStream) {
        let pieces = match self.body {
            Body::Bytes(data) => futures::stream::iter(data.map(Ok)).boxed(),
            Body::Stream(pieces) => pieces,
        };
        (self.digest, pieces)
    }

    /// Returns the next bytes or the verdict. Fails as soon as the bytes cannot match any more.
    pub async fn next(&mut self) -> Result<Step, StoreError> {
        loop {
            let piece = match &mut self.body {
                Body::Bytes(data) => data.take(),
                Body::Stream(pieces) => pieces.next().await.transpose()?,
            };
            let Some(piece) = piece else { return self.verdict().map(Step::Done) };
            if piece.is_empty() {
                continue;
            }
            self.hasher.update(&piece);
            if self.hasher.size() > self.digest.size() {
                return Err(StoreError::Overrun(self.digest));
            }
            return Ok(Step::Data(piece));
        }
    }

    /// Reads the whole upload into memory. For blobs known to be small.
    pub async fn into_bytes(mut self) -> Result<(Verified, Bytes), StoreError> {
        // The one piece that there mostly is, or all of several: many small ones take far more than their bytes.
        let mut only = Bytes::new();
        let mut whole: Vec<u8> = Vec::new();
        loop {
            match self.next().await? {
                Step::Data(piece) if only.is_empty() && whole.is_empty() => only = piece,
                Step::Data(piece) => {
                    whole.extend_from_slice(&std::mem::take(&mut only));
                    whole.extend_from_slice(&piece);
                }
                Step::Done(verified) if whole.is_empty() => return Ok((verified, only)),
                Step::Done(verified) => return Ok((verified, whole.into())),
            }
        }
    }

    fn verdict(&self) -> Result<Verified, StoreError> {
        let actual = self.hasher.clone().finish();
        if actual == self.digest {
            Ok(Verified(actual))
        } else {
            Err(StoreError::Mismatch { expected: self.digest, actual })
        }
    }
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Upload({})", self.digest)
    }
}
