//! One segment file, and what is known about it in memory.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;

use super::generation::Location;
use super::record::{
    self, Entry, Footer, KEY_BYTES_MAX, Parsed, RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES, TRAILER_BYTES,
};
use crate::StoreError;

/// Size of the pieces in which segments are checked.
const SCAN_BUFFER_BYTES: usize = 256 << 10;

/// Charged for a segment's line in its folder.
pub(super) const NAME_BYTES: u64 = 256;

/// Records of one segment at the most: what the smallest take of the largest shared one.
const RECORDS_MAX: usize = 1 << 21;

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
    /// Counts promises, so that eviction sees one that was made while it was looking elsewhere.
    pub(super) promises: u64,
    /// The use of each record, packed; as long as the last record used.
    uses: Vec<u32>,
}

impl State {
    pub(super) fn use_of(&self, ordinal: u32) -> Use {
        self.uses.get(ordinal as usize).copied().map_or_else(Use::default, Use::unpack)
    }

    fn add(&mut self, ordinal: u32, used: Use) {
        let at = (ordinal as usize).min(RECORDS_MAX);
        if self.uses.len() <= at {
            self.uses.resize(at + 1, 0);
        }
        self.uses[at] = used.merge(self.uses[at]);
        self.promises += u64::from(used.leased_until > 0);
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
    /// Where records begin that were not read since the process started, and may not have reached the disk.
    trusted_end: AtomicU64,
    /// Whether a large segment's bytes are known to have their checksum.
    verified: AtomicBool,
    /// Whether a flush failed that was about it: the system may have dropped what it could not write.
    doubtful: AtomicBool,
    /// Bytes that are counted for it, at least what the disk has allocated.
    pub(super) charged: AtomicU64,
    state: Mutex<State>,
    /// Hashes of the keys that it has values of, once they were asked for.
    pub(super) value_keys: OnceLock<Box<[u64]>>,
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
        Self::write_header(&file).inspect_err(|_| {
            // The next attempt has the same number.
            let _ = fs::remove_file(&path);
        })?;
        Ok(Self::new(id, Shape::Shared, path, Some(Arc::new(file)), SEGMENT_HEADER_BYTES))
    }

    pub(super) fn write_header(file: &File) -> Result<(), StoreError> {
        file.write_all_at(&record::segment_header(), 0).map_err(StoreError::io("write segment header"))
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
        segment.charged.store(metadata.blocks() * 512 + NAME_BYTES, Ordering::Relaxed);
        Ok(segment)
    }

    fn new(id: u64, shape: Shape, path: PathBuf, file: Option<Arc<File>>, records_end: u64) -> Self {
        Self {
            id,
            shape,
            path,
            file,
            records_end: AtomicU64::new(records_end),
            trusted_end: AtomicU64::new(u64::MAX),
            verified: AtomicBool::new(false),
            doubtful: AtomicBool::new(false),
            charged: AtomicU64::new(0),
            state: Mutex::default(),
            value_keys: OnceLock::new(),
        }
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

    /// Whether a record at this offset may be served: it was read since the start, or is known to be on disk.
    pub(super) fn is_trusted(&self, offset: u64) -> bool {
        offset < self.trusted_end.load(Ordering::Acquire)
    }

    /// Says from which offset on records must be read before they are served.
    pub(super) fn trust_until(&self, offset: u64) {
        self.trusted_end.store(offset, Ordering::Release);
    }

    /// Whether a large segment's bytes are known to have their checksum.
    pub(super) fn is_verified(&self) -> bool {
        self.verified.load(Ordering::Relaxed)
    }

    pub(super) fn set_verified(&self) {
        self.verified.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_doubtful(&self) -> bool {
        self.doubtful.load(Ordering::Acquire)
    }

    pub(super) fn set_doubtful(&self, doubtful: bool) {
        self.doubtful.store(doubtful, Ordering::Release);
    }

    /// Whether a record's bytes lie within the segment.
    pub(super) fn covers(&self, key: &[u8], location: &Location) -> bool {
        location.end(key).is_some_and(|end| end <= self.records_end())
    }

    /// The open file; for a large segment a newly opened one.
    pub(super) fn file(&self) -> std::io::Result<Arc<File>> {
        match &self.file {
            Some(file) => Ok(Arc::clone(file)),
            None => File::open(&self.path).map(Arc::new),
        }
    }

    /// Bytes to charge for the file: what the disk has allocated for it, and its name.
    pub(super) fn allocated(&self) -> Result<u64, StoreError> {
        let file = self.file().map_err(StoreError::io("open segment"))?;
        Ok(file.metadata().map_err(StoreError::io("look at segment"))?.blocks() * 512 + NAME_BYTES)
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

    /// Reads one record of a shared segment whole; `None` when it is damaged.
    pub(super) fn read_payload(&self, key: &[u8], location: &Location) -> Result<Option<Bytes>, StoreError> {
        let Some(length) = self.record_length(key, location) else { return Ok(None) };
        let mut record = Vec::with_capacity(length);
        let file = self.file().map_err(StoreError::io("open segment"))?;
        let read = StoreError::io("read record");
        while record.len() < length {
            let at = location.offset + record.len() as u64;
            let got = rustix::io::pread(&*file, rustix::buffer::spare_capacity(&mut record), at);
            if got.map_err(|error| read(error.into()))? == 0 {
                return Ok(None);
            }
        }
        record.truncate(length);
        Ok(payload_of(record, key, location))
    }

    /// Reads a record as [`read_payload`](Self::read_payload) does when its bytes are in memory; `None` when
    /// they are not, or are not right.
    #[cfg(target_os = "linux")]
    pub(super) fn read_payload_now(&self, key: &[u8], location: &Location) -> Option<Bytes> {
        use rustix::io::ReadWriteFlags;

        let mut record = vec![0; self.record_length(key, location)?];
        let mut buffers = [std::io::IoSliceMut::new(&mut record)];
        let file = self.file.as_ref()?;
        let got = rustix::io::preadv2(file, &mut buffers, location.offset, ReadWriteFlags::NOWAIT).ok()?;
        if got < record.len() {
            return None;
        }
        payload_of(record, key, location)
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn read_payload_now(&self, _key: &[u8], _location: &Location) -> Option<Bytes> {
        None
    }

    fn record_length(&self, key: &[u8], location: &Location) -> Option<usize> {
        let length = RECORD_HEADER_BYTES + key.len() as u64;
        self.covers(key, location).then(|| usize::try_from(length + location.payload_len).ok())?
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

    /// Reads every record up to the first one that is torn. Payloads are read from `unread` on.
    pub(super) fn scan(&self, unread: u64) -> Result<Vec<Entry>, StoreError> {
        let file = self.file().map_err(StoreError::io("open segment"))?;
        let length = file.metadata().map_err(StoreError::io("look at segment"))?.len();
        let length = length.min(self.records_end());
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
            let torn = parsed.entry.end() > length
                || parsed.entry.offset >= unread && !payload_is_right(&file, &parsed)?;
            if torn {
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
        Ok(parsed.map(|p| p.entry).filter(|e| e.end() <= length))
    }

    /// Writes the bytes of a record once more where they are, so that the next flush is about them. False when
    /// they cannot be read, or are not right.
    pub(super) fn write_again(file: &File, entry: &Entry) -> Result<bool, StoreError> {
        let mut buffer =
            vec![0; SCAN_BUFFER_BYTES.min(usize::try_from(entry.end() - entry.offset).unwrap_or(usize::MAX))];
        let mut at = entry.offset;
        while at < entry.end() {
            let size = buffer.len().min(usize::try_from(entry.end() - at).unwrap_or(usize::MAX));
            if file.read_exact_at(&mut buffer[..size], at).is_err() {
                return Ok(false);
            }
            file.write_all_at(&buffer[..size], at).map_err(StoreError::io("write record again"))?;
            at += size as u64;
        }
        // Only now: these are the bytes that wait for the disk.
        Ok(record_is_right(file, entry).unwrap_or(false))
    }

    /// Opens the file for writing.
    pub(super) fn writable(&self) -> std::io::Result<File> {
        File::options().read(true).write(true).open(&self.path)
    }

    /// Writes the footer behind the records, which must be on the disk.
    pub(super) fn seal(&self, footer: Footer) -> Result<(), StoreError> {
        let file = self.writable().map_err(StoreError::io("open segment"))?;
        let end = self.records_end();
        let footer = footer.finish(end);
        file.write_all_at(&footer, end).map_err(StoreError::io("write footer"))?;
        file.set_len(end + footer.len() as u64).map_err(StoreError::io("cut segment"))
    }
}

/// The payload of a record that was read whole; `None` when it is not the one meant, or damaged.
fn payload_of(record: Vec<u8>, key: &[u8], location: &Location) -> Option<Bytes> {
    let head = RECORD_HEADER_BYTES as usize + key.len();
    let parsed = record::parse_record(&record, location.offset)?;
    let right = parsed.entry.key == key
        && parsed.entry.payload_len == location.payload_len
        && crc32fast::hash(&record[head..]) == parsed.payload_crc;
    right.then(|| Bytes::from(record).slice(head..))
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

/// Whether a record is where it should be, and whole.
fn record_is_right(file: &File, entry: &Entry) -> Result<bool, StoreError> {
    match Segment::read_header(file, entry.offset, entry.end())? {
        Some(parsed) if parsed.entry == *entry => payload_is_right(file, &parsed),
        _ => Ok(false),
    }
}

/// Reads `size` bytes from where a file stands, without clearing the memory first.
pub(super) fn read_piece(file: &File, size: usize) -> std::io::Result<Vec<u8>> {
    let mut piece = Vec::with_capacity(size);
    let mut file = file;
    std::io::Read::by_ref(&mut file).take(size as u64).read_to_end(&mut piece)?;
    Ok(piece)
}
