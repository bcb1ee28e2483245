//! One ByteStream read: what arrives is checked before it is handed on.

use bytes::Bytes;
use futures::StreamExt;
use tonic::Streaming;
use wardian_proto::bytestream::ReadResponse;
use wardian_proto::{Digest, Hasher};

use crate::{BlobStream, StoreError};

/// The bytes asked for, as they arrive.
pub(super) struct Download {
    digest: Digest,
    first: Option<ReadResponse>,
    pieces: Streaming<ReadResponse>,
    left: u64,
    /// Hashes along when the whole blob is read.
    whole: Option<Hasher>,
}

impl Download {
    /// A download of `length` bytes that `first` begins.
    pub(super) fn new(
        digest: &Digest,
        length: u64,
        first: Option<ReadResponse>,
        pieces: Streaming<ReadResponse>,
    ) -> Self {
        let whole = (length == digest.size()).then(|| digest.function().hasher(digest.size()));
        Self { digest: *digest, first, pieces, left: length, whole }
    }

    pub(super) fn into_stream(self) -> BlobStream {
        futures::stream::try_unfold(self, Self::next).boxed()
    }

    async fn next(mut self) -> Result<Option<(Bytes, Self)>, StoreError> {
        loop {
            let message = match self.first.take() {
                Some(first) => Some(first),
                None => self.pieces.message().await.map_err(StoreError::Remote)?,
            };
            match message {
                Some(message) if message.data.is_empty() => {}
                Some(message) => {
                    self.check(&message.data)?;
                    return Ok(Some((message.data, self)));
                }
                None if self.left == 0 => return Ok(None),
                None => return Err(self.cut_short()),
            }
        }
    }

    /// Looks at a piece before anyone else does: the last one of a wrong blob is never handed on.
    fn check(&mut self, data: &Bytes) -> Result<(), StoreError> {
        self.left = self.left.checked_sub(data.len() as u64).ok_or_else(|| {
            StoreError::Damaged(format!("remote store sent more of blob {} than asked for", self.digest))
        })?;
        let Some(hasher) = &mut self.whole else { return Ok(()) };
        hasher.update(data);
        if self.left > 0 {
            return Ok(());
        }
        let actual = hasher.clone().finish();
        match actual == self.digest {
            true => Ok(()),
            false => Err(StoreError::Mismatch { expected: self.digest, actual }),
        }
    }

    fn cut_short(self) -> StoreError {
        match self.whole {
            Some(hasher) => StoreError::Mismatch { expected: self.digest, actual: hasher.finish() },
            None => StoreError::Damaged(format!(
                "remote store ended {} bytes before the part asked for of blob {}",
                self.left, self.digest
            )),
        }
    }
}
