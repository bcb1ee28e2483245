//! One segment file, and what is known about it in memory.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::index::Location;
use super::record::{
    self, Entry, KEY_BYTES_MAX, Parsed, RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES, TRAILER_BYTES,
};
use crate::StoreError;

/// Size of the pieces in which segments are checked.
const SCAN_BUFFER_BYTES: usize = 256 << 10;

/// What a segment holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// Many records, and a footer once sealed.
    Shared,
    /// One blob.
    Large,
}

/// The use made of one record since it was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Use {
    /// Whether it was read or asked for.
    pub(super) touched: bool,
    /// Until which second of the store's clock it was promised; 0 when it never was.
    pub(super) leased_until: u32,
}

impl Use {
    fn unpack(packed: u32) -> Self {
        Self { touched: packed & 1 == 1, leased_until: packed >> 1 }
    }

    fn merge(self, packed: u32) -> u32 {
        let old = Self::unpack(packed);
        self.leased_until.max(old.leased_until) << 1 | u32::from(self.touched || old.touched)
    }
}

/// What changes about a segment while it can be found.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Set when the segment is dropped: no record of it may be promised any more.
    pub(super) dead: bool,
    /// The use of each record, packed; as long as the last record used.
    uses: Vec<u32>,
}

impl State {
    pub(super) fn use_of(&self, ordinal: u32) -> Use {
        self.uses.get(ordinal as usize).copied().map_or_else(Use::default, Use::unpack)
    }

    fn add(&mut self, ordinal: u32, used: Use) {
        let at = ordinal as usize;
        if self.uses.len() <= at {
            self.uses.resize(at + 1, 0);
        }
        self.uses[at] = used.merge(self.uses[at]);
    }
}

/// A segment that can be read.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) id: u64,
    pub(super) shape: Shape,
    pub(super) path: PathBuf,
    /// The open file of a shared segment. Large ones are opened by each reader: there can be very many.
    file: Option<Arc<File>>,
    /// Where the last record ends.
    records_end: AtomicU64,
    /// Bytes that are counted for it, at least what the disk has allocated.
    pub(super) charged: AtomicU64,
    state: Mutex<State>,
}

impl Segment {
    pub(super) fn path(folder: &Path, id: u64, shape: Shape) -> PathBuf {
        let kind = match shape {
            Shape::Shared => "shared",
            Shape::Large => "large",
        };
        folder.join(format!("{id:016x}.{kind}"))
    }

    /// Number and shape that a file's name stands for.
    pub(super) fn parse_name(name: &str) -> Option<(u64, Shape)> {
        let (id, kind) = name.split_once('.')?;
        let shape = match kind {
            "shared" => Shape::Shared,
            "large" => Shape::Large,
            _ => return None,
        };
        Some((u64::from_str_radix(id, 16).ok()?, shape))
    }

    /// Starts an empty shared segment.
    pub(super) fn create(folder: &Path, id: u64) -> Result<Self, StoreError> {
        let path = Self::path(folder, id, Shape::Shared);
        let file = File::options().read(true).write(true).create_new(true).open(&path);
        let file = file.map_err(StoreError::io("create segment"))?;
        file.write_all_at(&record::segment_header(), 0).map_err(StoreError::io("write segment header"))?;
        Ok(Self::new(id, Shape::Shared, path, Some(Arc::new(file)), SEGMENT_HEADER_BYTES))
    }

    /// A segment whose file is at `path`. A shared one is opened; the caller sets where its records end.
    pub(super) fn open(id: u64, shape: Shape, path: PathBuf) -> Result<Self, StoreError> {
        let metadata = fs::metadata(&path).map_err(StoreError::io("look at segment"))?;
        let file = match shape {
            Shape::Shared => {
                let file = File::options().read(true).write(true).open(&path);
                Some(Arc::new(file.map_err(StoreError::io("open segment"))?))
            }
            Shape::Large => None,
        };
        let segment = Self::new(id, shape, path, file, metadata.len());
        segment.charged.store(metadata.blocks() * 512, Ordering::Relaxed);
        Ok(segment)
    }

    fn new(id: u64, shape: Shape, path: PathBuf, file: Option<Arc<File>>, records_end: u64) -> Self {
        let records_end = AtomicU64::new(records_end);
        Self { id, shape, path, file, records_end, charged: AtomicU64::new(0), state: Mutex::default() }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the use of a record. False when the segment is being dropped: the record must be looked up again.
    pub(super) fn note(&self, ordinal: u32, used: Use) -> bool {
        let mut state = self.state();
        if !state.dead {
            state.add(ordinal, used);
        }
        !state.dead
    }

    pub(super) fn records_end(&self) -> u64 {
        self.records_end.load(Ordering::Acquire)
    }

    pub(super) fn set_records_end(&self, end: u64) {
        self.records_end.store(end, Ordering::Release);
    }

    /// Whether a record's bytes lie within the segment.
    pub(super) fn covers(&self, key: &[u8], location: &Location) -> bool {
        let header = RECORD_HEADER_BYTES + key.len() as u64;
        let end = location.offset.checked_add(header).and_then(|at| at.checked_add(location.payload_len));
        end.is_some_and(|end| end <= self.records_end())
    }

    /// The open file; for a large segment a newly opened one.
    pub(super) fn file(&self) -> std::io::Result<Arc<File>> {
        match &self.file {
            Some(file) => Ok(Arc::clone(file)),
            None => File::open(&self.path).map(Arc::new),
        }
    }

    /// Bytes that the disk has allocated for the file.
    pub(super) fn allocated(&self) -> Result<u64, StoreError> {
        let file = self.file().map_err(StoreError::io("open segment"))?;
        Ok(file.metadata().map_err(StoreError::io("look at segment"))?.blocks() * 512)
    }

    /// Reads the header and key of the record at `offset`.
    pub(super) fn read_header(file: &File, offset: u64, end: u64) -> Result<Option<Parsed>, StoreError> {
        let most = RECORD_HEADER_BYTES + KEY_BYTES_MAX as u64;
        let Some(rest) = end.checked_sub(offset) else { return Ok(None) };
        // Most keys are a digest; a longer one is read again.
        for length in [RECORD_HEADER_BYTES + 48, most] {
            let mut bytes = vec![0; usize::try_from(length.min(rest)).expect("headers are short")];
            file.read_exact_at(&mut bytes, offset).map_err(StoreError::io("read record header"))?;
            if let Some(parsed) = record::parse_record(&bytes, offset) {
                return Ok(Some(parsed));
            }
        }
        Ok(None)
    }

    /// Reads one record of a shared segment whole, or a large one's header; `None` when it is damaged.
    pub(super) fn read_payload(
        &self,
        key: &[u8],
        location: &Location,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        if !self.covers(key, location) {
            return Ok(None);
        }
        let head = RECORD_HEADER_BYTES as usize + key.len();
        let mut bytes = vec![0; head + usize::try_from(location.payload_len).expect("records are small")];
        let file = self.file().map_err(StoreError::io("open segment"))?;
        file.read_exact_at(&mut bytes, location.offset).map_err(StoreError::io("read record"))?;
        let Some(parsed) = record::parse_record(&bytes, location.offset) else { return Ok(None) };
        let right = parsed.entry.key == key
            && parsed.entry.payload_len == location.payload_len
            && crc32fast::hash(&bytes[head..]) == parsed.payload_crc;
        bytes.drain(..head);
        Ok(right.then_some(bytes))
    }

    /// The records by the footer; `None` when there is no whole footer. Sets where the records end.
    pub(super) fn read_footer(&self) -> Result<Option<Vec<Entry>>, StoreError> {
        let file = self.file().map_err(StoreError::io("open segment"))?;
        let length = file.metadata().map_err(StoreError::io("look at segment"))?.len();
        let Some(entries_at) = footer_start(&file, length)? else { return Ok(None) };
        let mut bytes = vec![0; usize::try_from(length - entries_at).expect("footers are small")];
        file.read_exact_at(&mut bytes, entries_at).map_err(StoreError::io("read footer"))?;
        let entries = record::parse_footer(&bytes);
        if entries.is_some() {
            self.set_records_end(entries_at);
        }
        Ok(entries)
    }

    /// Finds the end of the records by the footer's last bytes alone; false when there is no footer.
    pub(super) fn find_footer(&self) -> Result<bool, StoreError> {
        let file = self.file().map_err(StoreError::io("open segment"))?;
        let length = file.metadata().map_err(StoreError::io("look at segment"))?.len();
        let entries_at = footer_start(&file, length)?;
        if let Some(end) = entries_at {
            self.set_records_end(end);
        }
        Ok(entries_at.is_some())
    }

    /// Reads every record up to the first one that is torn, checking headers and payloads.
    pub(super) fn scan(&self) -> Result<Vec<Entry>, StoreError> {
        let file = self.file().map_err(StoreError::io("open segment"))?;
        let length = file.metadata().map_err(StoreError::io("look at segment"))?.len();
        let mut entries = Vec::new();
        let mut start =
            vec![0; usize::try_from(SEGMENT_HEADER_BYTES.min(length)).expect("a header is short")];
        file.read_exact_at(&mut start, 0).map_err(StoreError::io("read segment header"))?;
        if !record::is_segment_header(&start) {
            return Ok(entries);
        }
        let mut offset = SEGMENT_HEADER_BYTES;
        while offset < length {
            let Some(parsed) = Self::read_header(&file, offset, length)? else { break };
            if parsed.entry.end() > length || !payload_is_right(&file, &parsed)? {
                break;
            }
            offset = parsed.entry.end();
            entries.push(parsed.entry);
        }
        Ok(entries)
    }

    /// The record of a large segment, its payload unread; `None` when the header is torn or the file short.
    pub(super) fn large_entry(&self) -> Result<Option<Entry>, StoreError> {
        let file = self.file().map_err(StoreError::io("open segment"))?;
        let length = file.metadata().map_err(StoreError::io("look at segment"))?.len();
        let parsed = Self::read_header(&file, SEGMENT_HEADER_BYTES, length)?;
        Ok(parsed.map(|p| p.entry).filter(|e| e.end() == length))
    }

    /// Writes the footer behind the records.
    pub(super) fn seal(&self, entries: &[Entry]) -> Result<(), StoreError> {
        let file = self.file().map_err(StoreError::io("open segment"))?;
        let end = self.records_end();
        let footer = record::footer(entries, end);
        file.write_all_at(&footer, end).map_err(StoreError::io("write footer"))?;
        file.set_len(end + footer.len() as u64).map_err(StoreError::io("cut segment"))
    }
}

fn footer_start(file: &File, length: u64) -> Result<Option<u64>, StoreError> {
    let Some(at) = length.checked_sub(TRAILER_BYTES) else { return Ok(None) };
    let mut trailer = [0; TRAILER_BYTES as usize];
    file.read_exact_at(&mut trailer, at).map_err(StoreError::io("read footer"))?;
    Ok(record::parse_trailer(&trailer).map(|(start, _)| start).filter(|start| *start <= at))
}

/// Whether a payload has the checksum that its header says.
pub(super) fn payload_is_right(file: &File, parsed: &Parsed) -> Result<bool, StoreError> {
    let mut crc = crc32fast::Hasher::new();
    let mut buffer =
        vec![0; SCAN_BUFFER_BYTES.min(usize::try_from(parsed.entry.payload_len).unwrap_or(usize::MAX))];
    let (mut at, end) = (parsed.entry.payload_at(), parsed.entry.end());
    while at < end {
        let size = buffer.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
        file.read_exact_at(&mut buffer[..size], at).map_err(StoreError::io("read record"))?;
        crc.update(&buffer[..size]);
        at += size as u64;
    }
    Ok(crc.finalize() == parsed.payload_crc)
}

/// Reads `size` bytes from where a file stands, without clearing the memory first.
pub(super) fn read_piece(file: &File, size: usize) -> std::io::Result<Vec<u8>> {
    let mut piece = Vec::with_capacity(size);
    let mut file = file;
    std::io::Read::by_ref(&mut file).take(size as u64).read_to_end(&mut piece)?;
    Ok(piece)
}
