//! Large uploads while they arrive: a file that nobody else sees.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use tokio::task::JoinHandle;

use super::append::{Charge, INDEX_ENTRY_BYTES, SEGMENT_OVERHEAD_BYTES};
use super::engine::Engine;
use super::record::{Kind, RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES, record_header, segment_header};
use crate::StoreError;

/// Bytes that are gathered before they are written.
const WRITE_BYTES: usize = 1 << 20;

/// Bytes that are charged ahead of what has come: an announced size alone evicts nothing more.
const CHARGED_AHEAD_BYTES: u64 = 16 << 20;

/// A large upload's file; removed when dropped before it is published.
pub(super) struct Incoming {
    file: File,
    path: Option<PathBuf>,
    written: u64,
    crc: crc32fast::Hasher,
    pub(super) charge: Charge,
    /// Bytes of the blob that are charged and still to come, and those that are not charged yet.
    ahead: u64,
    uncharged: u64,
    engine: Arc<Engine>,
}

impl Incoming {
    /// Starts the file of a blob of this size. Space is charged before it is written.
    pub(super) fn create(engine: Arc<Engine>, key: &[u8], size: u64) -> Result<Self, StoreError> {
        engine.can_hold(size)?;
        let ahead = size.min(CHARGED_AHEAD_BYTES);
        let charge = engine.reserve(ahead + SEGMENT_OVERHEAD_BYTES + 2 * 4096 + INDEX_ENTRY_BYTES)?;
        let path = engine.folder.join("incoming").join(uuid::Uuid::new_v4().simple().to_string());
        let file = File::options().read(true).write(true).create_new(true).open(&path);
        let file = file.map_err(StoreError::io("create upload file"))?;
        // The header is written last.
        let written = SEGMENT_HEADER_BYTES + RECORD_HEADER_BYTES + key.len() as u64;
        let (crc, uncharged) = (crc32fast::Hasher::new(), size - ahead);
        Ok(Self { file, path: Some(path), written, crc, charge, ahead, uncharged, engine })
    }

    /// Writes the next bytes of the blob.
    fn write(&mut self, pieces: &[Bytes]) -> Result<(), StoreError> {
        for piece in pieces {
            self.charge_ahead(piece.len() as u64)?;
            self.file.write_all_at(piece, self.written).map_err(StoreError::io("write upload"))?;
            self.crc.update(piece);
            self.written += piece.len() as u64;
        }
        Ok(())
    }

    fn charge_ahead(&mut self, bytes: u64) -> Result<(), StoreError> {
        if self.ahead < bytes {
            let more = self.uncharged.min(CHARGED_AHEAD_BYTES.max(bytes));
            self.charge.absorb(self.engine.reserve(more)?);
            self.uncharged -= more;
            self.ahead += more;
        }
        self.ahead = self.ahead.saturating_sub(bytes);
        Ok(())
    }

    /// Writes what comes before the bytes of the blob.
    pub(super) fn finish(&mut self, key: &[u8], payload_len: u64) -> Result<(), StoreError> {
        let mut head = segment_header().to_vec();
        head.extend(record_header(Kind::Blob, key, payload_len, self.crc.clone().finalize()));
        self.file.write_all_at(&head, 0).map_err(StoreError::io("write upload"))
    }

    /// Gives the file its final name.
    pub(super) fn rename(&mut self, to: &Path) -> Result<(), StoreError> {
        if let Some(from) = &self.path {
            fs::rename(from, to).map_err(StoreError::io("publish upload"))?;
            self.path = None;
        }
        Ok(())
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if let Some(path) = self.path.take() {
            // A leftover is swept when the store opens; there is nobody to tell here.
            let _ = fs::remove_file(path);
        }
    }
}

/// Writes an upload's file on the pool for blocking work, one write at a time, while the caller receives and
/// hashes what comes next. Holds at most twice [`WRITE_BYTES`], and one piece.
pub(super) struct Writer {
    writing: JoinHandle<Result<Incoming, StoreError>>,
    gathered: Vec<Bytes>,
    gathered_bytes: usize,
}

impl Writer {
    /// Starts with creating the file, by `create`.
    pub(super) fn start(create: impl FnOnce() -> Result<Incoming, StoreError> + Send + 'static) -> Self {
        Self { writing: tokio::task::spawn_blocking(create), gathered: Vec::new(), gathered_bytes: 0 }
    }

    /// Takes the next bytes. Waits only for the write before the one it starts.
    pub(super) async fn push(&mut self, piece: Bytes) -> Result<(), StoreError> {
        self.gathered_bytes += piece.len();
        self.gathered.push(piece);
        if self.gathered_bytes >= WRITE_BYTES {
            let mut incoming = self.written().await?;
            let pieces = std::mem::take(&mut self.gathered);
            self.gathered_bytes = 0;
            self.writing = tokio::task::spawn_blocking(move || incoming.write(&pieces).map(|()| incoming));
        }
        Ok(())
    }

    /// Waits until the file holds all but the last bytes, which are returned.
    pub(super) async fn finish(mut self) -> Result<Finished, StoreError> {
        let incoming = self.written().await?;
        Ok(Finished { incoming, rest: self.gathered })
    }

    async fn written(&mut self) -> Result<Incoming, StoreError> {
        match (&mut self.writing).await {
            Ok(outcome) => outcome,
            Err(join) => std::panic::resume_unwind(join.into_panic()),
        }
    }
}

/// A file, and the bytes that are still to be written to it.
pub(super) struct Finished {
    incoming: Incoming,
    rest: Vec<Bytes>,
}

impl Finished {
    /// Writes the last bytes.
    pub(super) fn write(mut self) -> Result<Incoming, StoreError> {
        self.incoming.write(&self.rest)?;
        Ok(self.incoming)
    }
}
