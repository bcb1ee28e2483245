//! Large uploads while they arrive: a file that nobody else sees.

use std::fs::{self, File};
use std::io::IoSlice;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tokio::task::JoinHandle;

use super::append::{Charge, INDEX_ENTRY_BYTES, SEGMENT_OVERHEAD_BYTES, write_pieces_at};
use super::engine::Engine;
use super::record::{Kind, RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES, record_header, segment_header};
use crate::StoreError;

/// Bytes that are gathered before they are written.
const WRITE_BYTES: u64 = 1 << 20;

/// Bytes that all uploads together gather before they are written; beyond, each piece is written as it comes. So
/// uploads that stop in the middle hold disk, and no more memory than this.
const GATHERED_BYTES_MAX: u64 = 64 << 20;

/// Bytes that are charged ahead of what has come: as many as have, between these. So an announced size alone evicts
/// next to nothing, however many announce one.
const CHARGED_AHEAD_BYTES_MIN: u64 = 1 << 20;
const CHARGED_AHEAD_BYTES_MAX: u64 = 16 << 20;

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
        let ahead = size.min(CHARGED_AHEAD_BYTES_MIN);
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
        let bytes = pieces.iter().map(|piece| piece.len() as u64).sum();
        self.charge_ahead(bytes)?;
        pieces.iter().for_each(|piece| self.crc.update(piece));
        let mut pieces: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        write_pieces_at(&self.file, &mut pieces, self.written).map_err(StoreError::io("write upload"))?;
        self.written += bytes;
        Ok(())
    }

    fn charge_ahead(&mut self, bytes: u64) -> Result<(), StoreError> {
        if self.ahead < bytes {
            let ahead = self.written.clamp(CHARGED_AHEAD_BYTES_MIN, CHARGED_AHEAD_BYTES_MAX);
            let more = self.uncharged.min(ahead.max(bytes));
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

/// Bytes of uploads that are in memory, here and in all uploads.
#[derive(Debug)]
struct Gathered {
    pieces: Vec<Bytes>,
    bytes: u64,
    of_all: Arc<AtomicU64>,
}

impl Gathered {
    fn new(of_all: Arc<AtomicU64>) -> Self {
        Self { pieces: Vec::new(), bytes: 0, of_all }
    }

    fn push(&mut self, piece: Bytes) {
        self.bytes += piece.len() as u64;
        self.of_all.fetch_add(piece.len() as u64, Ordering::Relaxed);
        self.pieces.push(piece);
    }

    /// Whether it is time to write.
    fn is_enough(&self) -> bool {
        self.bytes >= WRITE_BYTES || self.of_all.load(Ordering::Relaxed) > GATHERED_BYTES_MAX
    }

    fn take(&mut self) -> Self {
        let empty = Self::new(Arc::clone(&self.of_all));
        std::mem::replace(self, empty)
    }
}

impl Drop for Gathered {
    fn drop(&mut self) {
        self.of_all.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Writes an upload's file on the pool for blocking work, one write at a time, while the caller receives and
/// hashes what comes next. Holds at most twice [`WRITE_BYTES`], and one piece.
pub(super) struct Writer {
    writing: JoinHandle<Result<Incoming, StoreError>>,
    gathered: Gathered,
}

impl Writer {
    /// Starts with creating the file of a blob of this size.
    pub(super) fn start(engine: Arc<Engine>, key: Vec<u8>, size: u64) -> Self {
        let gathered = Gathered::new(Arc::clone(&engine.gathered));
        Self { writing: tokio::task::spawn_blocking(move || Incoming::create(engine, &key, size)), gathered }
    }

    /// Takes the next bytes. Waits only for the write before the one it starts.
    pub(super) async fn push(&mut self, piece: Bytes) -> Result<(), StoreError> {
        self.gathered.push(piece);
        if self.gathered.is_enough() {
            let mut incoming = self.written().await?;
            let gathered = self.gathered.take();
            self.writing =
                tokio::task::spawn_blocking(move || incoming.write(&gathered.pieces).map(|()| incoming));
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
    rest: Gathered,
}

impl Finished {
    /// Writes the last bytes.
    pub(super) fn write(mut self) -> Result<Incoming, StoreError> {
        self.incoming.write(&self.rest.pieces)?;
        Ok(self.incoming)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_small_heaps_are_as_good_a_reason_to_write_as_a_large_one() {
        const PIECE_BYTES: u64 = 64 << 10;
        let of_all = Arc::new(AtomicU64::new(0));
        let piece = Bytes::from(vec![0; PIECE_BYTES as usize]);
        let mut uploads = Vec::new();
        while of_all.load(Ordering::Relaxed) < GATHERED_BYTES_MAX {
            let mut upload = Gathered::new(Arc::clone(&of_all));
            upload.push(piece.clone());
            assert!(!upload.is_enough());
            uploads.push(upload);
        }
        let mut last = Gathered::new(Arc::clone(&of_all));
        last.push(piece.clone());
        assert!(last.is_enough());
        let writing = last.take();
        assert_eq!((last.bytes, writing.bytes), (0, PIECE_BYTES));
        assert!(last.is_enough(), "what is being written is in memory as well");
        drop(writing);
        assert!(!last.is_enough());
        (0..WRITE_BYTES / PIECE_BYTES).for_each(|_| uploads[0].push(piece.clone()));
        assert!(uploads[0].is_enough());
        drop(uploads);
        assert_eq!(of_all.load(Ordering::Relaxed), 0);
    }
}
