//! One sled database of the index: where the records of a range of segments are.
//!
//! Records are inserted one by one and never in a sled batch: a batch takes a lock that every sled database
//! of the process shares, and look-ups would wait for it. Nothing needs the batch, because the index is only
//! believed up to the [`Checkpoint`] that is written after the records it covers.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use prost::encoding::{decode_varint, encode_varint};

use super::filter::Filter;
use super::record::RECORD_HEADER_BYTES;
use crate::StoreError;

/// How often sled writes its log to the disk, in milliseconds.
const SLED_FLUSH_MS: u64 = 200;

/// Memory that one generation may use for its page cache.
const SLED_CACHE_BYTES: u64 = 32 << 20;

/// What an entry is counted as on disk until the database's folder is measured again.
const ENTRY_BYTES_CHARGED: u64 = 512;

/// Entries after which a generation's folder is measured again.
const ENTRIES_BETWEEN_MEASUREMENTS: u64 = 256;

/// Keys that are read at once for the filter.
const KEYS_LEARNT_AT_ONCE: usize = 16 << 10;

/// Key of the position up to which segments are indexed. Shorter than every other key.
const CHECKPOINT_KEY: &[u8] = b"c";

/// Key of the number that the next segment has at least. Written before the records of a new segment, so that
/// what is known of them after a crash never seems to be about another segment of the same number.
const NEXT_SEGMENT_KEY: &[u8] = b"n";

/// Where a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Location {
    pub(super) segment: u64,
    /// Which record of the segment it is.
    pub(super) ordinal: u32,
    pub(super) offset: u64,
    pub(super) payload_len: u64,
    /// Whether the record says that its key holds nothing.
    pub(super) deleted: bool,
}

impl Location {
    /// Records are ordered by when they were written.
    pub(super) fn is_newer_than(&self, other: &Self) -> bool {
        (self.segment, self.ordinal) > (other.segment, other.ordinal)
    }

    /// Where the record of this key ends; `None` beyond what a file can hold.
    pub(super) fn end(&self, key: &[u8]) -> Option<u64> {
        let header = RECORD_HEADER_BYTES + key.len() as u64;
        self.offset.checked_add(header)?.checked_add(self.payload_len)
    }

    /// As varints, because sled keeps values of up to 22 bytes without an allocation of their own.
    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(22);
        let fields = [self.segment, u64::from(self.ordinal), self.offset, self.payload_len];
        fields.iter().for_each(|field| encode_varint(*field, &mut bytes));
        bytes.push(u8::from(self.deleted));
        bytes
    }

    fn decode(mut bytes: &[u8]) -> Option<Self> {
        let mut number = || decode_varint(&mut bytes).ok();
        let (segment, ordinal, offset, payload_len) = (number()?, number()?, number()?, number()?);
        let ordinal = u32::try_from(ordinal).ok()?;
        let deleted = match bytes {
            [0] => false,
            [1] => true,
            _ => return None,
        };
        Some(Self { segment, ordinal, offset, payload_len, deleted })
    }
}

/// Up to where records are in the index, and on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Checkpoint {
    /// Every segment with a smaller number is covered ...
    pub(super) next: u64,
    /// ... but of this one, which was being written, only what lies before `offset`.
    pub(super) open: u64,
    pub(super) offset: u64,
}

impl Checkpoint {
    /// Covers all segments below a number.
    pub(super) fn below(next: u64) -> Self {
        Self { next, open: u64::MAX, offset: 0 }
    }

    fn encode(&self) -> Vec<u8> {
        [self.next, self.open, self.offset].map(u64::to_le_bytes).concat()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let number = |at: usize| bytes.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
        Some(Self { next: number(0)?, open: number(8)?, offset: number(16)? })
    }
}

/// A database of the index.
pub(super) struct Generation {
    /// The first segment whose records are here.
    pub(super) first: u64,
    /// Tells apart the databases that replaced one another because they had failed.
    serial: u64,
    folder: PathBuf,
    /// Taken only when the generation is dropped.
    database: Option<sled::Db>,
    /// The keys of records in the database.
    filter: Filter,
    /// The last key that was added to the filter of those the database had when it was opened.
    learnt: Mutex<sled::IVec>,
    measured: AtomicU64,
    unmeasured_entries: AtomicU64,
    /// Set at the first error: sled then refuses everything that writes.
    failed: AtomicBool,
    /// Whether its segments are all covered by a checkpoint of its own.
    closed: AtomicBool,
    /// Whether the folder goes when the last user of the database does.
    doomed: AtomicBool,
}

impl Generation {
    /// The first segment and the serial number that a folder's name stands for.
    pub(super) fn parse_name(name: &str) -> Option<(u64, u64)> {
        let (first, serial) = name.split_once('-')?;
        Some((u64::from_str_radix(first, 16).ok()?, u64::from_str_radix(serial, 16).ok()?))
    }

    pub(super) fn folder(parent: &Path, first: u64, serial: u64) -> PathBuf {
        parent.join(format!("{first:016x}-{serial:x}"))
    }

    pub(super) fn open(parent: &Path, first: u64, serial: u64) -> Result<Self, StoreError> {
        let folder = Self::folder(parent, first, serial);
        let config = sled::Config::new()
            .path(&folder)
            .flush_every_ms(Some(SLED_FLUSH_MS))
            .cache_capacity(SLED_CACHE_BYTES);
        let generation = Self {
            first,
            serial,
            folder,
            database: Some(open_database(&config)?),
            filter: Filter::new(),
            learnt: Mutex::default(),
            measured: AtomicU64::new(0),
            unmeasured_entries: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            doomed: AtomicBool::new(false),
        };
        if !generation.database().was_recovered() {
            generation.filter.set_complete();
        }
        generation.measure();
        Ok(generation)
    }

    /// An empty database for the same segments.
    pub(super) fn replacement(&self) -> Result<Self, StoreError> {
        let parent = self.folder.parent().expect("made by joining");
        Self::open(parent, self.first, self.serial + 1)
    }

    fn database(&self) -> &sled::Db {
        self.database.as_ref().expect("taken only by drop")
    }

    fn checked<T>(&self, outcome: sled::Result<T>) -> Result<T, StoreError> {
        outcome.map_err(|error| {
            if !self.failed.swap(true, Ordering::Relaxed) {
                tracing::warn!(%error, first = self.first, "a part of the index failed and will be built again");
            }
            error.into()
        })
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Location>, StoreError> {
        if !self.filter.may_have(key) {
            return Ok(None);
        }
        let value = self.checked(self.database().get(key))?;
        Ok(value.and_then(|value| Location::decode(&value)))
    }

    /// Enters a record that is newer than every other of its key.
    pub(super) fn insert(&self, key: &[u8], location: &Location) -> Result<(), StoreError> {
        self.filter.add(key);
        self.checked(self.database().insert(key, location.encode()))?;
        self.count_entry();
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn may_have(&self, key: &[u8]) -> bool {
        self.filter.may_have(key)
    }

    /// Adds some more of the keys that the database had when it was opened to the filter; false when all are.
    pub(super) fn learn_keys(&self) -> Result<bool, StoreError> {
        if self.filter.is_complete() || self.has_failed() {
            return Ok(false);
        }
        let mut last = self.learnt.lock().unwrap_or_else(PoisonError::into_inner);
        let after = (std::ops::Bound::Excluded(&*last), std::ops::Bound::Unbounded);
        let mut newest = None;
        for key in self.database().range::<&sled::IVec, _>(after).keys().take(KEYS_LEARNT_AT_ONCE) {
            let key = self.checked(key)?;
            self.filter.add(&key);
            newest = Some(key);
        }
        match newest {
            Some(key) => *last = key,
            None => self.filter.set_complete(),
        }
        Ok(true)
    }

    /// Enters a record unless a newer one of its key is there.
    pub(super) fn insert_if_newer(&self, key: &[u8], location: &Location) -> Result<(), StoreError> {
        self.filter.add(key);
        let database = self.database();
        let mut present = self.checked(database.get(key))?;
        loop {
            let known = present.as_deref().and_then(Location::decode);
            if known.is_some_and(|known| !location.is_newer_than(&known)) {
                return Ok(());
            }
            let entered = database.compare_and_swap(key, present, Some(location.encode()));
            match self.checked(entered)? {
                Ok(()) => break,
                Err(changed) => present = changed.current,
            }
        }
        self.count_entry();
        Ok(())
    }

    fn count_entry(&self) {
        if self.unmeasured_entries.fetch_add(1, Ordering::Relaxed) >= ENTRIES_BETWEEN_MEASUREMENTS {
            self.measure();
        }
    }

    /// What it covers; `None` when that was never written.
    pub(super) fn checkpoint(&self) -> Result<Option<Checkpoint>, StoreError> {
        let value = self.checked(self.database().get(CHECKPOINT_KEY))?;
        Ok(value.and_then(|value| Checkpoint::decode(&value)))
    }

    pub(super) fn set_checkpoint(&self, checkpoint: &Checkpoint) -> Result<(), StoreError> {
        self.checked(self.database().insert(CHECKPOINT_KEY, checkpoint.encode()))?;
        Ok(())
    }

    /// The number that the next segment has at least.
    pub(super) fn next_segment(&self) -> Result<u64, StoreError> {
        let value = self.checked(self.database().get(NEXT_SEGMENT_KEY))?;
        let noted = value.and_then(|value| Some(u64::from_le_bytes(value.as_ref().try_into().ok()?)));
        Ok(noted.unwrap_or(0).max(self.first))
    }

    pub(super) fn note_next_segment(&self, next: u64) -> Result<(), StoreError> {
        self.checked(self.database().insert(NEXT_SEGMENT_KEY, &next.to_le_bytes()))?;
        Ok(())
    }

    /// Writes the last checkpoint, once.
    pub(super) fn close(&self, next: u64) -> Result<(), StoreError> {
        if !self.closed.load(Ordering::Relaxed) {
            self.set_checkpoint(&Checkpoint::below(next))?;
            self.closed.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    pub(super) fn flush(&self) -> Result<(), StoreError> {
        self.checked(self.database().flush())?;
        Ok(())
    }

    pub(super) fn measure(&self) {
        self.unmeasured_entries.store(0, Ordering::Relaxed);
        self.measured.store(allocated_below(&self.folder), Ordering::Relaxed);
    }

    pub(super) fn bytes(&self) -> u64 {
        let entries = self.unmeasured_entries.load(Ordering::Relaxed);
        self.measured.load(Ordering::Relaxed) + entries * ENTRY_BYTES_CHARGED
    }

    /// Deletes the folder as soon as nobody looks anything up there any more.
    pub(super) fn doom(&self) {
        self.doomed.store(true, Ordering::Relaxed);
    }
}

/// sled panics about some kinds of damage instead of reporting them.
fn open_database(config: &sled::Config) -> Result<sled::Db, StoreError> {
    let opened = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| config.open()));
    let panicked = |_| Err(sled::Error::ReportableBug("sled panicked".to_owned()));
    Ok(opened.unwrap_or_else(panicked)?)
}

impl Drop for Generation {
    fn drop(&mut self) {
        drop(self.database.take());
        if *self.doomed.get_mut()
            && let Err(error) = fs::remove_dir_all(&self.folder)
        {
            tracing::warn!(%error, folder = %self.folder.display(), "an old part of the index cannot be removed");
        }
    }
}

/// Bytes allocated on disk for everything below a folder. What vanishes meanwhile counts as nothing.
pub(super) fn allocated_below(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let mut bytes = 0;
    for entry in entries.flatten() {
        let Ok(metadata) = entry.metadata() else { continue };
        bytes += metadata.blocks() * 512;
        if metadata.is_dir() {
            bytes += allocated_below(&entry.path());
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_come_back_and_nothing_else_is_taken_for_one() {
        let small = Location { segment: 300, ordinal: 7, offset: 65_000, payload_len: 0, deleted: true };
        let huge = Location {
            segment: u64::MAX,
            ordinal: u32::MAX,
            offset: u64::MAX,
            payload_len: u64::MAX,
            deleted: false,
        };
        for location in [small, huge] {
            let bytes = location.encode();
            assert_eq!(Location::decode(&bytes), Some(location));
            for cut in 0..bytes.len() {
                assert_eq!(Location::decode(&bytes[..cut]), None, "{cut}");
            }
            assert_eq!(Location::decode(&[&bytes[..], &[0]].concat()), None);
        }
        assert!(small.encode().len() <= 22);
    }
}
