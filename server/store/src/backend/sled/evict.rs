//! Making room: space is charged before it is written, and the oldest segment goes first, whole.
//!
//! A record of the segment that is still promised or pinned is copied to the end of the store first; one
//! that was only used since it was written gets that second chance as long as at least half of the segment
//! is won. A segment that is nearly all promised is left where it is: copying it wins nothing. What then goes before
//! it leaves marks of what it hides there: see `hiding.rs`.

use std::collections::HashSet;
use std::fs;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use super::append::{Charge, INDEX_ENTRY_BYTES, Item, charge_of};
use super::engine::{Counters, Engine};
use super::generation::Location;
use super::options::free_bytes;
use super::record::{Entry, Kind, record_cost};
use super::segment::{Segment, Shape, Use};
use crate::StoreError;

/// Charged for the folders themselves and the lock.
const FOLDERS_BYTES: u64 = 64 << 10;

/// Left free on the disk, so that the index, which is written a little later, does not meet a full one.
const DISK_FREE_BYTES_MIN: u64 = 8 << 20;

/// Bytes charged for what is written forward in one append.
const MOVE_BYTES_MAX: u64 = 1 << 20;

/// How many seconds a store that was found full refuses uploads without looking again.
const FULL_SECONDS: u32 = 1;

/// What is written to the end of the store before a segment goes.
struct Kept {
    /// Records that are copied.
    moved: Vec<u32>,
    /// Records that are replaced by a mark that their key holds nothing, and where the index has them.
    marked: Vec<(u32, Location)>,
    /// Whether what is newer than the segment has to be on the disk before it goes.
    must_be_durable: bool,
}

/// How eviction goes about a segment.
#[derive(Clone, Copy, Debug)]
struct Manner {
    /// Whether records that were only used get a second chance.
    second_chance: bool,
    /// Whether to move even what is nearly all promised, because the index needs to shrink.
    force: bool,
}

impl Engine {
    /// Charges bytes before they are written, evicting what is oldest to make room.
    pub(super) fn reserve(&self, bytes: u64) -> Result<Charge, StoreError> {
        // Not counted: a full disk says nothing about the capacity, and more of that would not help.
        if !self.disk_takes(bytes)? {
            return Err(StoreError::NoSpace("the disk is full"));
        }
        if let Some(charge) = self.charge(bytes, self.sizes.fill) {
            return Ok(charge);
        }
        let made = self.make_room(bytes);
        if matches!(made, Err(StoreError::NoSpace(_))) {
            Counters::add(&self.counters.uploads_refused, 1);
        }
        made
    }

    /// Fails when the store and the disk could not hold a blob of this size whatever is dropped.
    pub(super) fn can_hold(&self, size: u64) -> Result<(), StoreError> {
        if size > self.sizes.fill - self.sizes.index {
            return Err(StoreError::NoSpace("the blob is larger than the store's capacity allows"));
        }
        if !self.disk_takes(size)? {
            return Err(StoreError::NoSpace("the disk is full"));
        }
        Ok(())
    }

    /// Whether the disk has room for these bytes.
    pub(super) fn disk_takes(&self, bytes: u64) -> Result<bool, StoreError> {
        Ok(free_bytes(&self.folder)? >= bytes.saturating_add(DISK_FREE_BYTES_MIN))
    }

    /// Charges bytes if they fit now.
    pub(super) fn charge(&self, bytes: u64, limit: u64) -> Option<Charge> {
        let index = self.index.bytes();
        if limit == self.sizes.fill && index > self.sizes.index {
            return None;
        }
        let fits = |used: u64| {
            let whole = used.checked_add(bytes)?;
            (whole.checked_add(index + FOLDERS_BYTES)? <= limit).then_some(whole)
        };
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).ok()?;
        Some(Charge::new(Arc::clone(&self.used), bytes))
    }

    fn make_room(&self, bytes: u64) -> Result<Charge, StoreError> {
        const FULL: StoreError = StoreError::NoSpace("everything in the store is in use");
        let _evicting = self.evicting.lock().unwrap_or_else(PoisonError::into_inner);
        let mut manner = Manner { second_chance: true, force: false };
        let (mut from, mut bound) = (0, self.appender().next);
        loop {
            self.index.measure();
            if let Some(charge) = self.charge(bytes, self.sizes.fill) {
                return Ok(charge);
            }
            if self.full_until.load(Ordering::Relaxed) > self.now() {
                return Err(FULL);
            }
            let oldest = self.oldest(from).filter(|segment| segment.id < bound);
            match oldest {
                Some(segment) => {
                    from = segment.id + 1;
                    manner.force = self.index.bytes() > self.sizes.index;
                    self.evict(&segment, manner)?;
                    self.index.drop_before(self.oldest(0).map_or_else(|| self.appender().next, |s| s.id));
                }
                None if manner.second_chance => {
                    manner.second_chance = false;
                    (from, bound) = (0, self.appender().next);
                }
                None => {
                    self.full_until.store(self.now() + FULL_SECONDS, Ordering::Relaxed);
                    return Err(FULL);
                }
            }
        }
    }

    /// The oldest segment from a number on.
    fn oldest(&self, from: u64) -> Option<Arc<Segment>> {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        segments.range(from..).next().map(|(_, segment)| Arc::clone(segment))
    }

    fn evict(&self, segment: &Arc<Segment>, manner: Manner) -> Result<(), StoreError> {
        match segment.shape {
            Shape::Large => self.evict_large(segment, manner),
            Shape::Shared => self.evict_shared(segment, manner),
        }
    }

    fn evict_large(&self, segment: &Segment, manner: Manner) -> Result<(), StoreError> {
        let entry = match segment.large_entry() {
            Err(StoreError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => None,
            other => other?,
        };
        loop {
            let (used, promises) = {
                let state = segment.state();
                (state.use_of(0), state.promises)
            };
            if let Some(entry) = &entry {
                let location = location(segment, 0, entry);
                let known = self.index.known(&entry.key)?;
                let current = known == Some(location);
                let promised = self.is_promised(&entry.key, used);
                if promised && self.may_be_newest(segment, 0, known) {
                    return Ok(());
                }
                if current && (promised || used.touched && manner.second_chance) {
                    if !promised || manner.force {
                        self.renew(segment, &entry.key, &location)?;
                    }
                    return Ok(());
                }
            }
            if self.drop_segment(segment, promises)? {
                return Ok(());
            }
        }
    }

    fn evict_shared(&self, segment: &Arc<Segment>, manner: Manner) -> Result<(), StoreError> {
        {
            let mut appender = self.appender();
            if appender.is_open(segment) {
                appender.close_segment();
            }
        }
        let entries = match segment.read_footer()? {
            Some(entries) => entries,
            None => segment.scan(u64::MAX)?,
        };
        let mut moved = HashSet::new();
        loop {
            let (uses, promises) = uses(segment, &entries);
            let Some(kept) = self.keep(segment, &entries, &uses, manner)? else { return Ok(()) };
            self.carry_over(&entries, &uses, &moved)?;
            self.move_records(segment, &entries, &uses, &kept.moved)?;
            self.mark_deleted(&entries, &kept.marked)?;
            if kept.must_be_durable {
                // Or a power failure could take the originals and not yet have what stands for them.
                self.make_durable()?;
            }
            moved.extend(kept.moved);
            if self.drop_segment(segment, promises)? {
                return Ok(());
            }
        }
    }

    fn is_promised(&self, key: &[u8], used: Use) -> bool {
        used.leased_until > self.now() || self.is_pinned(key)
    }

    /// Whether a record that the index does not name may be the newest of its key all the same: its segment is yet to be
    /// looked into, as when a failed database was replaced by an empty one.
    fn may_be_newest(&self, segment: &Segment, ordinal: u32, known: Option<Location>) -> bool {
        let is_older = |known: Location| (known.segment, known.ordinal) < (segment.id, ordinal);
        segment.id <= self.index.unindexed() && known.is_none_or(is_older)
    }

    /// What to keep; `None` when it is not worth touching the segment, or not known yet.
    fn keep(
        &self,
        segment: &Segment,
        entries: &[Entry],
        uses: &[Use],
        manner: Manner,
    ) -> Result<Option<Kept>, StoreError> {
        let charged = segment.charged.load(Ordering::Relaxed);
        let (mut promised, mut used_only) = (0, 0);
        let mut moved = Vec::new();
        // A value that may not be the newest of its key must not become it.
        let values_are_known = segment.id > self.index.unindexed() || self.index.unindexed() == 0;
        for ((ordinal, entry), used) in (0..).zip(entries).zip(uses) {
            let cost = record_cost(&entry.key, entry.payload_len);
            let is_promised = self.is_promised(&entry.key, *used);
            let spared = used.touched && manner.second_chance && used_only + cost <= charged / 2;
            let movable = match entry.kind {
                Kind::Blob => true,
                Kind::Value => values_are_known,
                Kind::Deleted => false,
            };
            if entry.kind == Kind::Deleted || !(is_promised || spared) {
                continue;
            }
            let known = self.index.known(&entry.key)?;
            if is_promised && self.may_be_newest(segment, ordinal, known) {
                return Ok(None);
            }
            if !movable || known != Some(location(segment, ordinal, entry)) {
                continue;
            }
            *(if is_promised { &mut promised } else { &mut used_only }) += cost;
            moved.push(ordinal);
        }
        let worth_it = |promised: u64| manner.force || promised <= charged / 4 * 3;
        // What it hides is looked for in all older segments: not for one that stays anyway.
        if !worth_it(promised) {
            return Ok(None);
        }
        let Some(hiding) = self.hiding(segment, entries) else { return Ok(None) };
        if !hiding.is_empty() && !values_are_known {
            return Ok(None);
        }
        let mut marked = Vec::new();
        for ordinal in hiding.iter().filter(|ordinal| moved.binary_search(ordinal).is_err()) {
            let entry = &entries[*ordinal as usize];
            let is_newest = |known: &Location| (known.segment, known.ordinal) == (segment.id, *ordinal);
            if let Some(known) = self.index.known(&entry.key)?.filter(is_newest) {
                promised += record_cost(&entry.key, 0);
                marked.push((*ordinal, known));
            }
        }
        let must_be_durable = !moved.is_empty() || !hiding.is_empty();
        Ok(worth_it(promised).then_some(Kept { moved, marked, must_be_durable }))
    }

    /// Copies records to the end of the store.
    fn move_records(
        &self,
        segment: &Segment,
        entries: &[Entry],
        uses: &[Use],
        keep: &[u32],
    ) -> Result<(), StoreError> {
        let mut batch = Vec::new();
        let mut bytes = 0;
        for &ordinal in keep {
            let entry = &entries[ordinal as usize];
            let from = location(segment, ordinal, entry);
            let Some(payload) = segment.read_payload(&entry.key, &from)? else {
                self.forget(&entry.key, &from)?;
                continue;
            };
            bytes += record_cost(&entry.key, entry.payload_len) + INDEX_ENTRY_BYTES;
            batch.push(Item::moved(entry, payload, from, uses[ordinal as usize]));
            Counters::add(&self.counters.bytes_moved, entry.payload_len);
            if bytes >= MOVE_BYTES_MAX {
                self.append_forward(std::mem::take(&mut batch))?;
                bytes = 0;
            }
        }
        self.append_forward(batch)
    }

    /// Says of records that hide older ones that their keys hold nothing, so that they can go.
    fn mark_deleted(&self, entries: &[Entry], marked: &[(u32, Location)]) -> Result<(), StoreError> {
        let mut batch = Vec::new();
        let mut bytes = 0;
        for (ordinal, newest) in marked {
            let entry = &entries[*ordinal as usize];
            bytes += record_cost(&entry.key, 0) + INDEX_ENTRY_BYTES;
            batch.push(Item::forgotten(&entry.key, *newest));
            if bytes >= MOVE_BYTES_MAX {
                self.append_forward(std::mem::take(&mut batch))?;
                bytes = 0;
            }
        }
        self.append_forward(batch)
    }

    /// Appends records within the room held back for that.
    fn append_forward(&self, batch: Vec<Item>) -> Result<(), StoreError> {
        if batch.is_empty() {
            return Ok(());
        }
        let charge = self.charge(charge_of(&batch, self.sizes.segment), self.sizes.capacity);
        self.append(batch, charge.ok_or(StoreError::NoSpace("no room to copy what is in use"))?)
    }

    /// Repeats on the copies what was promised about the originals meanwhile.
    fn carry_over(&self, entries: &[Entry], uses: &[Use], moved: &HashSet<u32>) -> Result<(), StoreError> {
        for &ordinal in moved {
            let used = uses[ordinal as usize];
            if used.leased_until > self.now() {
                match self.find(&entries[ordinal as usize].key, Use { touched: false, ..used }) {
                    Ok(_) | Err(StoreError::Indexing) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// Drops a segment unless more was promised there than `promises` counts.
    fn drop_segment(&self, segment: &Segment, promises: u64) -> Result<bool, StoreError> {
        {
            let mut state = segment.state();
            if state.promises != promises {
                return Ok(false);
            }
            state.dead = true;
        }
        self.remove_segment(segment.id);
        match fs::remove_file(&segment.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(StoreError::io("remove segment")(error));
            }
            _ => {}
        }
        self.used.fetch_sub(segment.charged.load(Ordering::Relaxed), Ordering::Relaxed);
        Counters::add(&self.counters.segments_dropped, 1);
        Ok(true)
    }
}

/// The use of each record of a segment, and how many promises were counted then.
fn uses(segment: &Segment, entries: &[Entry]) -> (Vec<Use>, u64) {
    let state = segment.state();
    ((0..).zip(entries).map(|(ordinal, _)| state.use_of(ordinal)).collect(), state.promises)
}

/// Where a segment's record is.
pub(super) fn location(segment: &Segment, ordinal: u32, entry: &Entry) -> Location {
    let (offset, payload_len, deleted) = (entry.offset, entry.payload_len, entry.kind == Kind::Deleted);
    Location { segment: segment.id, ordinal, offset, payload_len, deleted }
}
