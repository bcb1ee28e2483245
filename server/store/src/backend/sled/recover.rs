//! Opening a store, also one whose process was killed or whose index is lost, and checking it.
//!
//! Records and index are written in this order, and each batch of the index says up to which segment it is
//! complete. After a crash only the segments from there on are looked into: sealed ones by their footer,
//! the one that was open by reading it (at most one segment's size), large ones by their header.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use super::append::Appender;
use super::engine::{Counters, Engine};
use super::evict::location;
use super::index::{Checkpoint, Index, allocated_below};
use super::options::{Sizes, SledOptions};
use super::record::{Entry, Kind, SEGMENT_HEADER_BYTES, key_digest};
use super::segment::{Segment, Shape};
use crate::StoreError;

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Segments looked into.
    pub segments: u64,
    /// Whole records found.
    pub records: u64,
    /// Bytes of those records' values.
    pub bytes: u64,
    /// What is wrong, one line each; empty when nothing is.
    pub damage: Vec<String>,
}

type Segments = BTreeMap<u64, Arc<Segment>>;

impl Engine {
    /// Opens the store in a folder, making it when it is not there.
    pub(super) fn open(folder: &Path, options: SledOptions) -> Result<Self, StoreError> {
        for part in ["segments", "index"] {
            fs::create_dir_all(folder.join(part)).map_err(StoreError::io("create store folder"))?;
        }
        let lock = lock(folder)?;
        let incoming = folder.join("incoming");
        match fs::remove_dir_all(&incoming) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(StoreError::io("empty folder of unfinished uploads")(error));
            }
            _ => fs::create_dir_all(&incoming).map_err(StoreError::io("create upload folder"))?,
        }
        let sizes = Sizes::of(options.capacity(folder, allocated_below(folder))?)?;
        let index = Index::open(folder.join("index"))?;
        let segments = list(&folder.join("segments"))?;
        let checkpoint = index.checkpoint()?;
        let next = segments.keys().next_back().map_or(1, |last| last + 1);
        let from = checkpoint.map_or(0, |checkpoint| checkpoint.segment);
        let next = checkpoint.map_or(next, |checkpoint| checkpoint.next.max(next));
        if checkpoint.is_none() && !segments.is_empty() {
            tracing::warn!(segments = segments.len(), "the index is built again from the segments");
        }
        let segments = enter(segments, &index, from, next, &sizes)?;
        let used = segments.values().map(|segment| segment.charged.load(Ordering::Relaxed)).sum();
        let engine = Self {
            folder: folder.to_owned(),
            options,
            sizes,
            index,
            segments: RwLock::new(segments),
            appender: Mutex::new(Appender::new(next)),
            used: Arc::new(AtomicU64::new(used)),
            evicting: Mutex::default(),
            full_until: AtomicU32::new(0),
            pins: Mutex::default(),
            counters: Counters::default(),
            started: Instant::now(),
            _lock: lock,
        };
        // The capacity may be smaller than last time. What cannot be dropped now is when space is needed.
        let _ = engine.reserve(0);
        Ok(engine)
    }

    /// Reads every record of every segment and compares blobs with their digests.
    pub(super) fn check(&self) -> Result<CheckReport, StoreError> {
        let mut report = CheckReport::default();
        let segments: Vec<_> =
            self.segments.read().unwrap_or_else(|e| e.into_inner()).values().cloned().collect();
        for segment in segments {
            let end = segment.records_end();
            let entries = match segment.scan() {
                Ok(entries) => entries,
                // Dropped meanwhile.
                Err(StoreError::Io { .. }) if segment.state().dead => continue,
                Err(error) => return Err(error),
            };
            report.segments += 1;
            let reached = entries.last().map_or(SEGMENT_HEADER_BYTES, Entry::end);
            if reached < end {
                report.damage.push(format!("segment {:x} is torn at byte {reached}", segment.id));
            }
            for entry in entries {
                report.records += 1;
                report.bytes += entry.payload_len;
                if entry.kind == Kind::Blob && !blob_is_right(&segment, &entry)? {
                    let offset = entry.offset;
                    report.damage.push(format!("segment {:x} has a wrong blob at byte {offset}", segment.id));
                }
            }
        }
        Ok(report)
    }
}

/// How long to wait for another process to let go of the folder, and how often to look.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(3);
const LOCK_RETRY: Duration = Duration::from_millis(50);

fn lock(folder: &Path) -> Result<File, StoreError> {
    let open = StoreError::io("lock store folder");
    let file =
        File::options().write(true).create(true).truncate(false).open(folder.join("lock")).map_err(&open)?;
    let started = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            // A process that is just ending lets go in a moment.
            Err(TryLockError::WouldBlock) if started.elapsed() < LOCK_WAIT_MAX => {
                std::thread::sleep(LOCK_RETRY);
            }
            Err(TryLockError::WouldBlock) => {
                let busy = std::io::ErrorKind::ResourceBusy;
                return Err(open(std::io::Error::new(busy, "another process has it open")));
            }
            Err(TryLockError::Error(error)) => return Err(open(error)),
        }
    }
}

/// Removes the index of a store that is not open; opening builds it again.
pub(super) fn remove_index(folder: &Path) -> Result<(), StoreError> {
    let _lock = lock(folder)?;
    match fs::remove_dir_all(folder.join("index")) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(StoreError::io("remove index")(error))
        }
        _ => Ok(()),
    }
}

fn list(folder: &Path) -> Result<Segments, StoreError> {
    let mut segments = Segments::new();
    for entry in fs::read_dir(folder).map_err(StoreError::io("list segments"))? {
        let entry = entry.map_err(StoreError::io("list segments"))?;
        if let Some((id, shape)) = entry.file_name().to_str().and_then(Segment::parse_name) {
            segments.insert(id, Arc::new(Segment::open(id, shape, entry.path())?));
        }
    }
    Ok(segments)
}

/// Finds the end of each segment's records, and enters the records of segments from `from` on.
fn enter(
    segments: Segments,
    index: &Index,
    from: u64,
    next: u64,
    sizes: &Sizes,
) -> Result<Segments, StoreError> {
    let mut whole = Segments::new();
    let mut generation_bytes = 0;
    for (id, segment) in segments {
        let sealed = segment.shape == Shape::Large || segment.find_footer()?;
        if id < from && sealed {
            whole.insert(id, segment);
            continue;
        }
        let Some(entries) = records(&segment)? else {
            tracing::warn!(segment = id, "a segment without whole records is removed");
            fs::remove_file(&segment.path).map_err(StoreError::io("remove empty segment"))?;
            continue;
        };
        if id >= from
            && (index.is_empty()
                || generation_bytes >= sizes.generation_segments
                || index.newest_bytes() >= sizes.generation_index)
        {
            index.start_generation(id)?;
            generation_bytes = 0;
        }
        generation_bytes += segment.charged.load(Ordering::Relaxed);
        let locations = (0..).zip(&entries).map(|(ordinal, entry)| {
            let location = (entry.kind != Kind::Deleted).then(|| location(&segment, ordinal, entry));
            (entry.key.as_slice(), location)
        });
        // An old segment that had lost its footer must not take back what newer ones say.
        if id >= from {
            index.apply(locations, Checkpoint { segment: id, next })?;
        }
        whole.insert(id, segment);
    }
    if !index.is_empty() {
        index.apply([], Checkpoint { segment: next, next })?;
        index.measure();
    }
    Ok(whole)
}

/// The records of a segment. One that was not sealed is cut after its last whole record and sealed.
fn records(segment: &Segment) -> Result<Option<Vec<Entry>>, StoreError> {
    if segment.shape == Shape::Large {
        return Ok(segment.large_entry()?.map(|entry| vec![entry]));
    }
    if let Some(entries) = segment.read_footer()? {
        return Ok(Some(entries));
    }
    let entries = segment.scan()?;
    let Some(last) = entries.last() else { return Ok(None) };
    segment.set_records_end(last.end());
    segment.seal(&entries)?;
    segment.charged.store(segment.allocated()?, Ordering::Relaxed);
    Ok(Some(entries))
}

fn blob_is_right(segment: &Segment, entry: &Entry) -> Result<bool, StoreError> {
    let Some(digest) = key_digest(&entry.key) else { return Ok(false) };
    let file = segment.file().map_err(StoreError::io("open segment"))?;
    let mut hasher = digest.function().hasher(digest.size());
    let mut at = entry.payload_at();
    let mut buffer = vec![0; crate::READ_CHUNK_BYTES];
    while at < entry.end() {
        let size = buffer.len().min(usize::try_from(entry.end() - at).unwrap_or(usize::MAX));
        std::os::unix::fs::FileExt::read_exact_at(&*file, &mut buffer[..size], at)
            .map_err(StoreError::io("read record"))?;
        hasher.update(&buffer[..size]);
        at += size as u64;
    }
    Ok(hasher.finish() == digest)
}
