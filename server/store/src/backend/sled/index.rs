//! Where each key's newest record is, in sled, bounded although sled gives no space back.
//!
//! The index is a row of sled databases, its generations. A generation holds the entries of the segments that
//! were started while it was the newest; segments are dropped oldest first, so the oldest generation ends up
//! naming only segments that are gone, and its folder is deleted. Nothing is ever removed from a database.
//! An entry that names a dropped segment means "absent"; finding that out is the caller's part.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use crate::StoreError;

/// How often sled writes its log to the disk, in milliseconds.
const SLED_FLUSH_MS: u64 = 200;

/// Memory that one generation may use for its page cache.
const SLED_CACHE_BYTES: u64 = 16 << 20;

/// What an entry is counted as on disk until the database's folder is measured again.
const ENTRY_BYTES_CHARGED: u64 = 512;

/// Entries after which a generation's folder is measured again.
const ENTRIES_BETWEEN_MEASUREMENTS: u64 = 2048;

/// What the newest database may grow by between two measurements beyond its entries: sled writes in pieces
/// of 512 KiB.
const NEWEST_SLACK_BYTES: u64 = 1 << 20;

/// Key of the position up to which segments are indexed. Shorter than every other key.
const CHECKPOINT_KEY: &[u8] = b"c";

/// Where a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Location {
    pub(super) segment: u64,
    /// Which record of the segment it is.
    pub(super) ordinal: u32,
    pub(super) offset: u64,
    pub(super) payload_len: u64,
}

impl Location {
    fn encode(&self) -> [u8; 28] {
        let mut bytes = [0; 28];
        bytes[..8].copy_from_slice(&self.segment.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.ordinal.to_le_bytes());
        bytes[12..20].copy_from_slice(&self.offset.to_le_bytes());
        bytes[20..].copy_from_slice(&self.payload_len.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; 28] = bytes.try_into().ok()?;
        Some(Self {
            segment: u64::from_le_bytes(bytes[..8].try_into().ok()?),
            ordinal: u32::from_le_bytes(bytes[8..12].try_into().ok()?),
            offset: u64::from_le_bytes(bytes[12..20].try_into().ok()?),
            payload_len: u64::from_le_bytes(bytes[20..].try_into().ok()?),
        })
    }
}

/// Up to where segments are indexed: nothing before the open segment needs to be looked at again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Checkpoint {
    /// The oldest segment that may have records the index does not know.
    pub(super) segment: u64,
    /// The number of the next segment.
    pub(super) next: u64,
}

struct Generation {
    /// The first segment whose entries are here.
    first: u64,
    folder: PathBuf,
    database: sled::Db,
    measured: AtomicU64,
    unmeasured_entries: AtomicU64,
}

impl Generation {
    fn open(parent: &Path, first: u64) -> Result<Self, StoreError> {
        let folder = parent.join(format!("{first:016x}"));
        let database = sled::Config::new()
            .path(&folder)
            .flush_every_ms(Some(SLED_FLUSH_MS))
            .cache_capacity(SLED_CACHE_BYTES)
            .open()?;
        let generation = Self {
            first,
            folder,
            database,
            measured: AtomicU64::new(0),
            unmeasured_entries: AtomicU64::new(0),
        };
        generation.measure();
        Ok(generation)
    }

    fn measure(&self) {
        self.unmeasured_entries.store(0, Ordering::Relaxed);
        self.measured.store(allocated_below(&self.folder), Ordering::Relaxed);
    }

    fn bytes(&self) -> u64 {
        let entries = self.unmeasured_entries.load(Ordering::Relaxed);
        self.measured.load(Ordering::Relaxed) + entries * ENTRY_BYTES_CHARGED
    }
}

/// The generations, newest first.
type Generations = Arc<Vec<Arc<Generation>>>;

/// The index of every segment.
pub(super) struct Index {
    folder: PathBuf,
    generations: RwLock<Generations>,
    /// Held while the list changes, so that a start and a drop do not undo each other.
    changing: Mutex<()>,
}

impl Index {
    /// Opens what is in `folder`. A database that cannot be read is removed together with all others: the
    /// index is then empty, and without a checkpoint.
    pub(super) fn open(folder: PathBuf) -> Result<Self, StoreError> {
        fs::create_dir_all(&folder).map_err(StoreError::io("create index folder"))?;
        let generations = match Self::open_all(&folder) {
            Err(StoreError::Database(
                error @ (sled::Error::Corruption { .. } | sled::Error::Unsupported(_)),
            )) => {
                tracing::warn!(%error, "the index is damaged and is built again");
                fs::remove_dir_all(&folder).map_err(StoreError::io("remove damaged index"))?;
                fs::create_dir_all(&folder).map_err(StoreError::io("create index folder"))?;
                Vec::new()
            }
            other => other?,
        };
        Ok(Self { folder, generations: RwLock::new(Arc::new(generations)), changing: Mutex::default() })
    }

    fn open_all(folder: &Path) -> Result<Vec<Arc<Generation>>, StoreError> {
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(folder).map_err(StoreError::io("list index folder"))? {
            let name = entry.map_err(StoreError::io("list index folder"))?.file_name();
            if let Some(first) = name.to_str().and_then(|name| u64::from_str_radix(name, 16).ok()) {
                found.insert(first, Arc::new(Generation::open(folder, first)?));
            }
        }
        Ok(found.into_values().rev().collect())
    }

    fn generations(&self) -> Generations {
        Arc::clone(&self.generations.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn replace(&self, generations: Vec<Arc<Generation>>) {
        *self.generations.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(generations);
    }

    /// The newest record of a key; `None` when there is none or when it was forgotten.
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Location>, StoreError> {
        for generation in self.generations().iter() {
            if let Some(value) = generation.database.get(key)? {
                return Ok(Location::decode(&value));
            }
        }
        Ok(None)
    }

    /// Enters records (`None` forgets a key) and the position up to which all are entered, at once.
    pub(super) fn apply<'a>(
        &self,
        entries: impl IntoIterator<Item = (&'a [u8], Option<Location>)>,
        checkpoint: Checkpoint,
    ) -> Result<(), StoreError> {
        let mut batch = sled::Batch::default();
        let mut count = 1;
        for (key, location) in entries {
            match location {
                Some(location) => batch.insert(key, &location.encode()),
                None => batch.insert(key, &[]),
            }
            count += 1;
        }
        let position = [checkpoint.segment.to_le_bytes(), checkpoint.next.to_le_bytes()].concat();
        batch.insert(CHECKPOINT_KEY, position);
        let generations = self.generations();
        let newest = generations.first().expect("a generation is started before the first record");
        newest.database.apply_batch(batch)?;
        let unmeasured = newest.unmeasured_entries.fetch_add(count, Ordering::Relaxed) + count;
        if unmeasured >= ENTRIES_BETWEEN_MEASUREMENTS {
            newest.measure();
        }
        Ok(())
    }

    /// The newest position recorded; `None` when the index is new or lost.
    pub(super) fn checkpoint(&self) -> Result<Option<Checkpoint>, StoreError> {
        for generation in self.generations().iter() {
            let Some(value) = generation.database.get(CHECKPOINT_KEY)? else { continue };
            let number =
                |at: usize| value.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes);
            if let (Some(segment), Some(next)) = (number(0), number(8)) {
                return Ok(Some(Checkpoint { segment, next }));
            }
        }
        Ok(None)
    }

    /// Starts a generation for segments from `first` on. What the one before holds is on the disk first, so
    /// that the newest checkpoint never claims what an older database lost.
    pub(super) fn start_generation(&self, first: u64) -> Result<(), StoreError> {
        let _changing = self.changing();
        let mut generations = self.generations().to_vec();
        if let Some(newest) = generations.first() {
            newest.database.flush()?;
            newest.measure();
            if newest.first == first {
                return Ok(());
            }
        }
        generations.insert(0, Arc::new(Generation::open(&self.folder, first)?));
        self.replace(generations);
        Ok(())
    }

    /// Deletes the generations that hold only segments before `segment`.
    pub(super) fn drop_before(&self, segment: u64) -> Result<(), StoreError> {
        let changing = self.changing();
        let generations = self.generations();
        // A generation ends where the next one starts; the newest has no end.
        let kept = 1 + generations.windows(2).take_while(|pair| pair[0].first > segment).count();
        if kept >= generations.len() {
            return Ok(());
        }
        let mut keep = generations.to_vec();
        let dropped = keep.split_off(kept);
        drop(generations);
        self.replace(keep);
        drop(changing);
        for mut generation in dropped {
            // Lookups hold a generation for microseconds.
            while Arc::get_mut(&mut generation).is_none() {
                std::thread::sleep(Duration::from_millis(1));
            }
            let folder = generation.folder.clone();
            drop(generation);
            fs::remove_dir_all(folder).map_err(StoreError::io("remove old index"))?;
        }
        Ok(())
    }

    /// Whether any generation has been started.
    pub(super) fn is_empty(&self) -> bool {
        self.generations().is_empty()
    }

    /// What all generations take on disk.
    pub(super) fn bytes(&self) -> u64 {
        NEWEST_SLACK_BYTES + self.generations().iter().map(|g| g.bytes()).sum::<u64>()
    }

    /// What the newest generation takes on disk.
    pub(super) fn newest_bytes(&self) -> u64 {
        self.generations().first().map_or(0, |g| g.bytes())
    }

    /// Measures the newest generation's folder.
    pub(super) fn measure(&self) {
        if let Some(newest) = self.generations().first() {
            newest.measure();
        }
    }

    /// Writes everything to the disk.
    pub(super) fn flush(&self) -> Result<(), StoreError> {
        if let Some(newest) = self.generations().first() {
            newest.database.flush()?;
        }
        Ok(())
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
