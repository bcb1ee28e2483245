//! Large blobs: streamed into a file of their own, and out of it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Seek as _, SeekFrom};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use wardian_proto::Digest;

use super::SledStore;
use super::engine::{Engine, LargeBlob};
use super::incoming::Writer;
use super::record::blob_key;
use super::segment::{payload_is_right, read_piece};
use crate::blob_store::blocking;
use crate::{BlobStream, READ_CHUNK_BYTES, Step, StoreError, Upload};

/// How long an upload waits for another of the same blob before it writes the blob as well.
const TURN_WAIT_MAX: Duration = Duration::from_secs(20);

/// Lets one upload of each large blob write at a time.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<HashMap<Digest, Weak<tokio::sync::Mutex<()>>>>);

impl Turns {
    fn of(&self, digest: &Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(turn) = turns.get(digest).and_then(Weak::upgrade) {
            return turn;
        }
        // The list is then as long as there are uploads under way, and one.
        turns.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::default();
        turns.insert(*digest, Arc::downgrade(&turn));
        turn
    }
}

impl SledStore {
    /// Stores a large blob: writes it, or only verifies the bytes when it is stored already. An upload that
    /// finds another of the same blob under way waits for it first.
    pub(super) async fn put_large(&self, upload: Upload) -> Result<(), StoreError> {
        let digest = upload.digest();
        let turn = self.turns.of(&digest);
        let _turn = tokio::time::timeout(TURN_WAIT_MAX, turn.lock()).await;
        let pin = KeyPin::new(&self.engine, blob_key(&digest));
        let key = pin.key.clone();
        if self.run(move |engine| engine.is_stored(&key)).await? {
            return self.verify_only(upload, &digest).await;
        }
        drop(pin);
        self.write_large(upload).await
    }

    /// Reads an upload to its end, while a pin holds the blob that is stored already.
    async fn verify_only(&self, mut upload: Upload, digest: &Digest) -> Result<(), StoreError> {
        while let Step::Data(_) = upload.next().await? {}
        let key = blob_key(digest);
        let stored = self.run(move |engine| {
            let stored = engine.is_stored(&key)?;
            engine.acknowledge().map(|()| stored)
        });
        // Found damaged meanwhile: the client has to send it again.
        if stored.await? { Ok(()) } else { Err(StoreError::Indexing) }
    }

    async fn write_large(&self, mut upload: Upload) -> Result<(), StoreError> {
        let digest = upload.digest();
        let engine = Arc::clone(&self.engine);
        let mut writer = Writer::start(engine, blob_key(&digest), digest.size());
        let verified = loop {
            match upload.next().await? {
                Step::Data(piece) => writer.push(piece).await?,
                Step::Done(verified) => break verified,
            }
        };
        let finished = writer.finish().await?;
        self.run(move |engine| {
            engine.publish(finished.write()?, &verified)?;
            engine.acknowledge()
        })
        .await
    }

    /// Streams a part of a large blob. Its bytes are compared with their checksum: while they are read when all
    /// of them are, before the first one otherwise; and not again while the store is open.
    pub(super) async fn read_large(
        &self,
        digest: &Digest,
        offset: u64,
        length: u64,
    ) -> Result<BlobStream, StoreError> {
        let digest = *digest;
        let whole = offset == 0 && length == digest.size();
        let blob = self.look_up(move |engine| open_large(engine, &digest, offset, !whole)).await?;
        let unchecked = !blob.segment.is_verified();
        let reading =
            Reading { engine: Arc::clone(&self.engine), crc: crc32fast::Hasher::new(), blob, digest };
        Ok(pieces(reading, length, unchecked))
    }
}

/// Opens a large blob's file at a position within the blob.
pub(super) fn open_large(
    engine: &Engine,
    digest: &Digest,
    offset: u64,
    checked: bool,
) -> Result<LargeBlob, StoreError> {
    let key = blob_key(digest);
    let blob = engine.open_large(&key)?.ok_or(StoreError::NotFound(*digest))?;
    if checked && !blob.segment.is_verified() {
        if !payload_is_right(&blob.file, &blob.parsed)? {
            engine.forget(&key, &blob.location)?;
            return Err(StoreError::NotFound(*digest));
        }
        blob.segment.set_verified();
    }
    let start = blob.parsed.entry.payload_at() + offset;
    (&*blob.file).seek(SeekFrom::Start(start)).map_err(StoreError::io("seek in segment"))?;
    Ok(blob)
}

/// A stream of a large blob.
struct Reading {
    engine: Arc<Engine>,
    blob: LargeBlob,
    digest: Digest,
    crc: crc32fast::Hasher,
}

/// Reads `length` bytes from the file's position, one piece for each poll. The last piece comes only after the
/// checksum was found right.
fn pieces(reading: Reading, length: u64, unchecked: bool) -> BlobStream {
    futures::stream::try_unfold((reading, length), move |(mut reading, left)| async move {
        if left == 0 {
            return Ok(None);
        }
        blocking(move || {
            let size = READ_CHUNK_BYTES.min(usize::try_from(left).unwrap_or(READ_CHUNK_BYTES));
            let piece = read_piece(&reading.blob.file, size).map_err(StoreError::io("read segment"))?;
            if piece.len() < size {
                return Err(reading.damaged());
            }
            let left = left - size as u64;
            if unchecked {
                reading.crc.update(&piece);
                if left == 0 {
                    reading.check()?;
                }
            }
            Ok(Some((Bytes::from(piece), (reading, left))))
        })
        .await
    })
    .boxed()
}

impl Reading {
    fn check(&self) -> Result<(), StoreError> {
        if self.crc.clone().finalize() != self.blob.parsed.payload_crc {
            return Err(self.damaged());
        }
        self.blob.segment.set_verified();
        Ok(())
    }

    /// Makes the blob absent, and says so.
    fn damaged(&self) -> StoreError {
        match self.engine.forget(&blob_key(&self.digest), &self.blob.location) {
            Ok(()) => StoreError::Damaged(format!("blob {} does not have its checksum", self.digest)),
            Err(error) => error,
        }
    }
}

/// Copies a large blob into a file.
pub(super) fn copy_large(engine: &Engine, digest: &Digest, mut file: &File) -> Result<(), StoreError> {
    let blob = open_large(engine, digest, 0, true)?;
    let mut from = std::io::Read::take(&*blob.file, digest.size());
    // On Linux this is copy_file_range: the kernel copies, or shares blocks where it can.
    let copied = std::io::copy(&mut from, &mut file).map_err(StoreError::io("write blob to file"))?;
    if copied == digest.size() {
        Ok(())
    } else {
        Err(StoreError::Damaged(format!("segment of blob {digest} is too short")))
    }
}

/// A pin of one key.
struct KeyPin {
    engine: Arc<Engine>,
    key: Vec<u8>,
}

impl KeyPin {
    fn new(engine: &Arc<Engine>, key: Vec<u8>) -> Self {
        engine.pin(std::slice::from_ref(&key));
        Self { engine: Arc::clone(engine), key }
    }
}

impl Drop for KeyPin {
    fn drop(&mut self) {
        self.engine.unpin(std::slice::from_ref(&self.key));
    }
}
