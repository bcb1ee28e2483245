//! Where each key's newest record is, in sled, bounded although sled gives no space back.
//!
//! The index is a row of sled databases, its generations. A generation holds the entries of the segments that
//! were started while it was the newest; segments are dropped oldest first, so the oldest generation ends up
//! naming only segments that are gone, and its folder is deleted. Nothing is ever removed from a database.
//! An entry that names a dropped segment means "absent"; finding that out is the caller's part.
//!
//! After a crash, or when a database was lost, records may be missing from the index until the segments were
//! looked into, newest first. Meanwhile the index tells "not there" from "not known yet".

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use super::generation::{Checkpoint, Generation, Location};
use super::record::is_record_key;
use super::remembered::Remembered;
use crate::StoreError;

/// What the databases may grow by between two measurements beyond what entries are counted as: sled writes
/// in pieces of 512 KiB, and was seen to take two of them at once.
const SLACK_BYTES: u64 = 2 << 20;

/// The generations, newest first.
type Generations = Arc<Vec<Arc<Generation>>>;

/// The index of every segment.
pub(super) struct Index {
    folder: PathBuf,
    generations: RwLock<Generations>,
    /// Rows that were looked up lately.
    remembered: Remembered,
    /// Held while the list changes, so that two changes do not undo each other.
    changing: Mutex<()>,
    /// The highest number of a segment whose records may be missing; 0 when none are.
    unindexed: AtomicU64,
}

impl Index {
    /// An index that knows nothing yet: [`load`](Self::load) opens what is in the folder.
    pub(super) fn new(folder: PathBuf) -> Self {
        let (generations, changing) = (RwLock::default(), Mutex::default());
        let (remembered, unindexed) = (Remembered::new(), AtomicU64::new(u64::MAX));
        Self { folder, generations, remembered, changing, unindexed }
    }

    /// Opens the databases. One that cannot be read is removed: its segments count as not indexed.
    pub(super) fn load(&self) -> Result<(), StoreError> {
        let list = StoreError::io("list index folder");
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(&self.folder).map_err(&list)? {
            let entry = entry.map_err(&list)?;
            let Some((first, serial)) = entry.file_name().to_str().and_then(Generation::parse_name) else {
                tracing::warn!(path = %entry.path().display(), "not a part of the index, and left alone");
                continue;
            };
            found.insert(first, serial.max(found.get(&first).copied().unwrap_or(0)));
        }
        let mut generations = Vec::new();
        for (first, serial) in found {
            for old in 0..serial {
                // Missing unless the process was killed while it replaced a database.
                let _ = fs::remove_dir_all(Generation::folder(&self.folder, first, old));
            }
            match Generation::open(&self.folder, first, serial) {
                Ok(generation) => generations.insert(0, Arc::new(generation)),
                Err(StoreError::Database(error)) if is_damage(&error) => {
                    tracing::warn!(%error, first, "a part of the index cannot be read and is built again");
                    fs::remove_dir_all(Generation::folder(&self.folder, first, serial))
                        .map_err(StoreError::io("remove damaged index"))?;
                }
                Err(error) => return Err(error),
            }
        }
        self.replace(generations);
        Ok(())
    }

    /// The generations, newest first.
    pub(super) fn generations(&self) -> Generations {
        Arc::clone(&self.generations.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn replace(&self, generations: Vec<Arc<Generation>>) {
        *self.generations.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(generations);
        self.remembered.clear();
    }

    /// The highest number of a segment whose records may be missing; 0 when none are.
    pub(super) fn unindexed(&self) -> u64 {
        self.unindexed.load(Ordering::Acquire)
    }

    /// Says that only segments up to this number may have records that are missing here.
    pub(super) fn set_unindexed(&self, segment: u64) {
        self.unindexed.store(segment, Ordering::Release);
    }

    /// The newest record of a key. Fails with Indexing when it cannot be known yet.
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Location>, StoreError> {
        // Read first: what is entered after that can only make the answer more certain.
        let unindexed = self.unindexed();
        // A database that failed will be built again.
        let known = self.known(key).map_err(|_| StoreError::Indexing)?;
        match known {
            Some(location) if location.segment > unindexed => Ok(Some(location)),
            // Any whole copy of a blob is as good as the newest.
            Some(location) if !location.deleted && !is_record_key(key) => Ok(Some(location)),
            known if unindexed == 0 => Ok(known),
            _ => Err(StoreError::Indexing),
        }
    }

    /// The newest record of a key among those entered so far.
    pub(super) fn known(&self, key: &[u8]) -> Result<Option<Location>, StoreError> {
        let place = match self.remembered.get(key) {
            Ok(location) => return Ok(Some(location)),
            Err(place) => place,
        };
        for generation in self.generations().iter() {
            if let Some(location) = generation.get(key)? {
                self.remembered.insert(&place, key, location);
                return Ok(Some(location));
            }
        }
        Ok(None)
    }

    /// Enters a record that was just written to the end of the store.
    pub(super) fn insert(&self, key: &[u8], location: &Location) -> Result<(), StoreError> {
        let entered = self.newest().insert(key, location);
        self.remembered.forget(key);
        entered
    }

    /// Enters a record that is found in its segment, unless a newer one is known where it belongs. False when the
    /// part of the index that it belongs to is not there any more.
    pub(super) fn insert_if_newer(&self, key: &[u8], location: &Location) -> Result<bool, StoreError> {
        let Some(generation) = self.generation_of(location.segment) else { return Ok(false) };
        let entered = generation.insert_if_newer(key, location);
        self.remembered.forget(key);
        entered.map(|()| true)
    }

    /// Notes a segment's number before its first record is entered.
    pub(super) fn note_segment(&self, id: u64) -> Result<(), StoreError> {
        self.newest().note_next_segment(id + 1)
    }

    fn newest(&self) -> Arc<Generation> {
        let generations = self.generations();
        Arc::clone(generations.first().expect("a generation is started before the first record"))
    }

    /// The generation that a segment's records belong to.
    pub(super) fn generation_of(&self, segment: u64) -> Option<Arc<Generation>> {
        self.generations().iter().find(|g| g.first <= segment).cloned()
    }

    /// Starts a generation for segments from `first` on, up to where the next one starts.
    pub(super) fn start_generation(&self, first: u64) -> Result<(), StoreError> {
        let _changing = self.changing();
        let mut generations = self.generations().to_vec();
        let place = generations.partition_point(|g| g.first > first);
        if generations.get(place).is_none_or(|g| g.first != first) {
            generations.insert(place, Arc::new(Generation::open(&self.folder, first, 0)?));
            self.replace(generations);
        }
        Ok(())
    }

    /// Puts an empty database in the place of one that failed.
    pub(super) fn replace_failed(&self, failed: &Arc<Generation>) -> Result<(), StoreError> {
        let _changing = self.changing();
        let mut generations = self.generations().to_vec();
        if let Some(place) = generations.iter().position(|g| Arc::ptr_eq(g, failed)) {
            generations[place] = Arc::new(failed.replacement()?);
            self.replace(generations);
            failed.doom();
        }
        Ok(())
    }

    /// Deletes the generations that hold only segments before `segment`.
    pub(super) fn drop_before(&self, segment: u64) {
        let _changing = self.changing();
        let generations = self.generations();
        // A generation ends where the next one starts; the newest has no end.
        let kept = 1 + generations.windows(2).take_while(|pair| pair[0].first > segment).count();
        if kept < generations.len() {
            self.replace(generations[..kept].to_vec());
            generations[kept..].iter().for_each(|generation| generation.doom());
        }
    }

    /// Notes what is covered: the position in the newest generation, and its end in each older one.
    pub(super) fn set_checkpoint(&self, position: &Checkpoint) -> Result<(), StoreError> {
        let generations = self.generations();
        // The open segment may have been closed, and a generation started, since the position was taken.
        let covered = position.next.min(position.open);
        for pair in generations.windows(2).filter(|pair| pair[0].first <= covered) {
            pair[1].close(pair[0].first)?;
        }
        match generations.first() {
            Some(newest) if newest.first <= covered => newest.set_checkpoint(position),
            _ => Ok(()),
        }
    }

    /// Whether any generation has been started.
    pub(super) fn is_empty(&self) -> bool {
        self.generations().is_empty()
    }

    /// What all generations take on disk, at the most.
    pub(super) fn bytes(&self) -> u64 {
        SLACK_BYTES + self.generations().iter().map(|g| g.bytes()).sum::<u64>()
    }

    /// What the newest generation takes on disk.
    pub(super) fn newest_bytes(&self) -> u64 {
        self.generations().first().map_or(0, |g| g.bytes())
    }

    /// Reads some more keys into the filters of databases that were opened; false when there are none left.
    pub(super) fn learn_keys(&self) -> Result<bool, StoreError> {
        for generation in self.generations().iter() {
            if generation.learn_keys()? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether any filter says that a key may be there.
    #[cfg(test)]
    pub(super) fn may_have(&self, key: &[u8]) -> bool {
        self.generations().iter().any(|generation| generation.may_have(key))
    }

    /// Measures the newest generation's folder.
    pub(super) fn measure(&self) {
        if let Some(newest) = self.generations().first() {
            newest.measure();
        }
    }

    /// Writes everything to the disk.
    pub(super) fn flush(&self) -> Result<(), StoreError> {
        self.generations().iter().try_for_each(|generation| generation.flush())
    }
}

/// Whether an error says that a database's files are not what sled wrote.
fn is_damage(error: &sled::Error) -> bool {
    match error {
        sled::Error::Io(error) => {
            matches!(error.kind(), std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::InvalidData)
        }
        _ => true,
    }
}
