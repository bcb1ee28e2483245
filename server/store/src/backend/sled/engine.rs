//! The state of an open store, looking records up, and reading them.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::hash::RandomState;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Instant;

use bytes::Bytes;

use super::append::{Appender, Item, charge_of};
use super::catch_up::Progress;
use super::durable::Durable;
use super::generation::Location;
use super::index::Index;
use super::options::{Sizes, SledOptions};
use super::record::Parsed;
use super::segment::{Segment, Shape, Use};
use crate::StoreError;

/// How often a record is looked up anew because it moved meanwhile.
const LOOKUPS_MAX: usize = 16;

/// An open store. Every call may block on the disk.
pub(super) struct Engine {
    pub(super) folder: PathBuf,
    pub(super) options: SledOptions,
    pub(super) sizes: Sizes,
    pub(super) index: Index,
    pub(super) segments: RwLock<BTreeMap<u64, Arc<Segment>>>,
    pub(super) appender: Mutex<Appender>,
    /// Bytes charged for segments and for writes under way.
    pub(super) used: Arc<AtomicU64>,
    /// Bytes of large uploads that are in memory.
    pub(super) gathered: Arc<AtomicU64>,
    /// Held by the one thread that evicts.
    pub(super) evicting: Mutex<()>,
    /// The second up to which the store is known to be full.
    pub(super) full_until: AtomicU32,
    /// Of keys, where hashes of them are kept. Random, so that nobody can choose keys that share one.
    pub(super) hasher: RandomState,
    /// Keys that must not be evicted, with the number of pins.
    pub(super) pins: Mutex<HashMap<Vec<u8>, usize>>,
    pub(super) counters: Counters,
    pub(super) durable: Durable,
    /// How far the index has been brought up to date.
    pub(super) progress: Mutex<Progress>,
    pub(super) started: Instant,
    /// Locked while the store is open, so that no other process opens it.
    pub(super) _lock: File,
}

/// What happened since the store was opened.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) segments_dropped: AtomicU64,
    pub(super) bytes_moved: AtomicU64,
    pub(super) uploads_refused: AtomicU64,
    pub(super) records_damaged: AtomicU64,
}

impl Counters {
    pub(super) fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }
}

impl Engine {
    pub(super) fn appender(&self) -> MutexGuard<'_, Appender> {
        self.appender.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fails with Indexing until the end of the store is known, and records can be added there.
    pub(super) fn is_started(&self) -> Result<(), StoreError> {
        if self.progress().started { Ok(()) } else { Err(StoreError::Indexing) }
    }

    /// What comes before an upload is acknowledged.
    pub(super) fn acknowledge(&self) -> Result<(), StoreError> {
        if self.options.sync { self.make_durable() } else { Ok(()) }
    }

    pub(super) fn segments_folder(&self) -> PathBuf {
        self.folder.join("segments")
    }

    /// Seconds of the store's clock. Starts at 1: 0 means "never".
    pub(super) fn now(&self) -> u32 {
        u32::try_from(self.started.elapsed().as_secs()).unwrap_or(u32::MAX / 4) + 1
    }

    /// The use of a record that was promised to a client.
    pub(super) fn leased(&self) -> Use {
        let lease = u32::try_from(self.options.lease.as_secs()).unwrap_or(u32::MAX / 4).min(u32::MAX / 4);
        // One more, because the present second has begun already.
        let lease = if lease > 0 { lease + 1 } else { 0 };
        Use { touched: true, leased_until: self.now() + lease }
    }

    pub(super) fn segment(&self, id: u64) -> Option<Arc<Segment>> {
        self.segments.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    pub(super) fn insert_segment(&self, segment: Arc<Segment>) {
        self.segments.write().unwrap_or_else(PoisonError::into_inner).insert(segment.id, segment);
    }

    pub(super) fn remove_segment(&self, id: u64) {
        self.segments.write().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }

    /// Finds a record and notes its use. While a lease lasts the record stays. Fails with Indexing when the
    /// index does not know yet.
    pub(super) fn find(&self, key: &[u8], used: Use) -> Result<Option<(Arc<Segment>, Location)>, StoreError> {
        let mut location = self.index.get(key)?;
        for _ in 0..LOOKUPS_MAX {
            let Some(found) = location.filter(|found| !found.deleted) else { return Ok(None) };
            if let Some(segment) = self.segment(found.segment) {
                if !segment.is_trusted(found.offset) {
                    return Err(StoreError::Indexing);
                }
                if !segment.covers(key, &found) {
                    return Ok(None);
                }
                if segment.note(found.ordinal, used) {
                    return Ok(Some((segment, found)));
                }
            }
            // The segment is gone. A record that was kept is entered elsewhere before that.
            let unindexed = self.index.unindexed();
            location = self.index.get(key)?;
            if location == Some(found) {
                return if unindexed == 0 { Ok(None) } else { Err(StoreError::Indexing) };
            }
        }
        Ok(None)
    }

    /// Whether a blob is known to be stored; it is promised then. When that is not known yet, it is written
    /// once more, which does no harm.
    pub(super) fn is_stored(&self, key: &[u8]) -> Result<bool, StoreError> {
        match self.find(key, self.leased()) {
            Ok(found) => Ok(found.is_some()),
            Err(StoreError::Indexing) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Reads a record into memory; `None` when it is absent. A damaged one becomes absent.
    pub(super) fn read(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let used = Use { touched: true, leased_until: 0 };
        for _ in 0..LOOKUPS_MAX {
            let Some((segment, location)) = self.find(key, used)? else { return Ok(None) };
            match segment.read_payload(key, &location) {
                Ok(Some(payload)) => return Ok(Some(payload)),
                Ok(None) => {
                    self.forget(key, &location)?;
                    return Ok(None);
                }
                // A large segment was dropped or renamed between the lookup and the opening.
                Err(StoreError::Io { source, .. }) if moved(&segment, &source) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Reads a record when that takes no waiting: `None` when it would, `Some(None)` when there is no record.
    pub(super) fn read_now(&self, key: &[u8]) -> Option<Option<Bytes>> {
        match self.find(key, Use { touched: true, leased_until: 0 }).ok()? {
            Some((segment, location)) => segment.read_payload_now(key, &location).map(Some),
            None => Some(None),
        }
    }

    /// Opens the file that holds a large blob.
    pub(super) fn open_large(&self, key: &[u8]) -> Result<Option<LargeBlob>, StoreError> {
        let used = Use { touched: true, leased_until: 0 };
        for _ in 0..LOOKUPS_MAX {
            let Some((segment, location)) = self.find(key, used)? else { return Ok(None) };
            let file = match segment.file() {
                Ok(file) => file,
                Err(error) if moved(&segment, &error) => {
                    let current = self.index.known(key)? == Some(location);
                    if current && self.segment(location.segment).is_some() {
                        self.forget(key, &location)?;
                    }
                    continue;
                }
                Err(error) => return Err(StoreError::io("open segment")(error)),
            };
            let end = file.metadata().map_err(StoreError::io("look at segment"))?.len();
            let parsed = Segment::read_header(&file, location.offset, end)?;
            return match parsed.filter(|p| p.entry.key == key && p.entry.end() <= end) {
                Some(parsed) => Ok(Some(LargeBlob { file, parsed, segment, location })),
                None => self.forget(key, &location).map(|()| None),
            };
        }
        Ok(None)
    }

    /// Makes a damaged record absent, so that it is uploaded again. Written down as a record, so that an index
    /// that is built anew does not bring it back.
    pub(super) fn forget(&self, key: &[u8], location: &Location) -> Result<(), StoreError> {
        if self.index.known(key)? != Some(*location) {
            return Ok(());
        }
        tracing::warn!(segment = location.segment, offset = location.offset, "a damaged record is dropped");
        Counters::add(&self.counters.records_damaged, 1);
        let items = vec![Item::forgotten(key, *location)];
        // From the room that is held back for copies: a full store must be able to do this.
        let written = match self.charge(charge_of(&items, self.sizes.segment), self.sizes.capacity) {
            Some(charge) => self.append(items, charge),
            None => Err(StoreError::NoSpace("no room to note a damaged record")),
        };
        written.or_else(|error| {
            tracing::warn!(%error, "a damaged record is dropped until the index is built anew");
            let _appender = self.appender();
            match self.index.known(key)? == Some(*location) {
                true => self.index.insert(key, &Location { deleted: true, ..*location }),
                false => Ok(()),
            }
        })
    }

    /// Writes everything that was acknowledged to the disk.
    pub(super) fn flush(&self) -> Result<(), StoreError> {
        self.seal_durable()?;
        self.index.flush()
    }

    /// Adds a pin to each key.
    pub(super) fn pin(&self, keys: &[Vec<u8>]) {
        let mut pins = self.pins.lock().unwrap_or_else(PoisonError::into_inner);
        for key in keys {
            *pins.entry(key.clone()).or_default() += 1;
        }
    }

    /// Takes a pin from each key.
    pub(super) fn unpin(&self, keys: &[Vec<u8>]) {
        let mut pins = self.pins.lock().unwrap_or_else(PoisonError::into_inner);
        for key in keys {
            if let Some(count) = pins.get_mut(key) {
                *count -= 1;
                if *count == 0 {
                    pins.remove(key);
                }
            }
        }
        self.full_until.store(0, Ordering::Relaxed);
    }

    pub(super) fn is_pinned(&self, key: &[u8]) -> bool {
        self.pins.lock().unwrap_or_else(PoisonError::into_inner).contains_key(key)
    }
}

/// A large blob's file, and what is known about it.
pub(super) struct LargeBlob {
    pub(super) file: Arc<File>,
    pub(super) parsed: Parsed,
    pub(super) segment: Arc<Segment>,
    pub(super) location: Location,
}

fn moved(segment: &Segment, error: &std::io::Error) -> bool {
    segment.shape == Shape::Large && error.kind() == std::io::ErrorKind::NotFound
}
