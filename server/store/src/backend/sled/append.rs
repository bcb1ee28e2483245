//! Writing: records into the open segment, and the segments of large blobs.
//!
//! One lock is held for one write of bytes that are already in memory, and for entering them in the index.
//! Large blobs are written outside of it, to a file that nobody else sees, and renamed under it. Footers and
//! everything that waits for the disk come later, without the lock: see `durable.rs`.

use std::fs;
use std::io::IoSlice;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use bytes::Bytes;

use super::engine::Engine;
use super::generation::{Checkpoint, Location};
use super::incoming::Incoming;
use super::record::{
    Entry, Footer, Kind, SEGMENT_HEADER_BYTES, TRAILER_BYTES, blob_key, record_cost, record_header,
};
use super::segment::{NAME_BYTES, Segment, Shape, Use};
use crate::{StoreError, Verified};

/// Charged for a segment besides its records: header, trailer, name, the last block, one block of the disk's
/// own list of where the file is.
pub(super) const SEGMENT_OVERHEAD_BYTES: u64 = 2 * 4096 + SEGMENT_HEADER_BYTES + TRAILER_BYTES + NAME_BYTES;

/// Charged for a record's entry in the index until the index is measured.
pub(super) const INDEX_ENTRY_BYTES: u64 = 1024;

/// Pieces given to the system in one write; it takes no more.
const WRITE_PIECES_MAX: usize = 1024;

/// Memory for footers of segments that are not sealed yet. When it is exceeded, uploads wait for the disk.
const UNSEALED_BYTES_MAX: u64 = 16 << 20;

/// A record on its way into the open segment.
pub(super) struct Item {
    kind: Kind,
    key: Vec<u8>,
    /// The record's bytes before the payload, key included.
    header: Vec<u8>,
    payload: Bytes,
    /// Written only if this is still the newest record of the key.
    replaces: Option<Location>,
    /// The use that the record was made of when eviction moves it.
    used: Use,
}

impl Item {
    fn new(kind: Kind, key: Vec<u8>, payload: Bytes, replaces: Option<Location>) -> Self {
        let header = record_header(kind, &key, payload.len() as u64, crc32fast::hash(&payload));
        Self { kind, key, header, payload, replaces, used: Use::default() }
    }

    /// A small blob.
    pub(super) fn blob(verified: &Verified, payload: Bytes) -> Self {
        Self::new(Kind::Blob, blob_key(&verified.digest()), payload, None)
    }

    /// A value of a record table; `None` deletes it.
    pub(super) fn value(key: Vec<u8>, value: Option<Bytes>) -> Self {
        let kind = if value.is_some() { Kind::Value } else { Kind::Deleted };
        Self::new(kind, key, value.unwrap_or_default(), None)
    }

    /// Says that a key holds nothing if this is still its newest record.
    pub(super) fn forgotten(key: &[u8], newest: Location) -> Self {
        Self::new(Kind::Deleted, key.to_vec(), Bytes::new(), Some(newest))
    }

    /// A record that eviction keeps.
    pub(super) fn moved(entry: &Entry, payload: Bytes, from: Location, used: Use) -> Self {
        let used = Use { touched: false, ..used };
        Self { used, ..Self::new(entry.kind, entry.key.clone(), payload, Some(from)) }
    }

    fn cost(&self) -> u64 {
        record_cost(&self.key, self.payload.len() as u64)
    }
}

/// Bytes to charge before appending these items.
pub(super) fn charge_of(items: &[Item], segment_bytes: u64) -> u64 {
    let records: u64 = items.iter().map(|item| item.cost() + INDEX_ENTRY_BYTES).sum();
    // Each segment is at least half full, or takes one record that is at most a quarter.
    records + (2 + 2 * records / segment_bytes) * SEGMENT_OVERHEAD_BYTES
}

/// Bytes charged for something not yet part of a segment; given back when dropped.
pub(super) struct Charge {
    used: Arc<AtomicU64>,
    bytes: u64,
}

impl Charge {
    pub(super) fn new(used: Arc<AtomicU64>, bytes: u64) -> Self {
        Self { used, bytes }
    }

    /// Takes over what another charge has.
    pub(super) fn absorb(&mut self, mut other: Self) {
        self.bytes += std::mem::take(&mut other.bytes);
    }

    /// Hands bytes over to a segment.
    fn move_to(&mut self, segment: &Segment, bytes: u64) {
        debug_assert!(self.bytes >= bytes, "charged {} of {bytes}", self.bytes);
        self.bytes -= bytes.min(self.bytes);
        segment.charged.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// The end of the store, where records are added.
#[derive(Default)]
pub(super) struct Appender {
    open: Option<Open>,
    /// The number of the next segment.
    pub(super) next: u64,
    /// Bytes of segments since the index's newest generation was started.
    pub(super) generation_bytes: u64,
    /// Segments that are complete and wait for their footer.
    unsealed: Vec<Unsealed>,
    unsealed_bytes: u64,
}

/// The segment that is being written.
struct Open {
    segment: Arc<Segment>,
    footer: Footer,
}

/// A segment without a footer, and the footer it will have. One that is dropped meanwhile is not kept open for
/// it: the disk has the space back at once.
pub(super) struct Unsealed {
    pub(super) segment: Weak<Segment>,
    pub(super) footer: Footer,
}

/// What was written since it was last asked for.
pub(super) struct Unsynced {
    /// Everything before it is in `open` or `unsealed`, or was asked for before.
    pub(super) position: Checkpoint,
    pub(super) open: Option<Arc<Segment>>,
    pub(super) unsealed: Vec<Unsealed>,
}

impl Appender {
    pub(super) fn is_open(&self, segment: &Segment) -> bool {
        self.open.as_ref().is_some_and(|open| open.segment.id == segment.id)
    }

    /// Closes the open segment, if there is one. Its footer is written later.
    pub(super) fn close_segment(&mut self) {
        if let Some(open) = self.open.take() {
            self.generation_bytes += open.segment.charged.load(Ordering::Relaxed);
            self.seal_later(&open.segment, open.footer);
        }
    }

    fn seal_later(&mut self, segment: &Arc<Segment>, footer: Footer) {
        self.unsealed_bytes += footer.len();
        self.unsealed.push(Unsealed { segment: Arc::downgrade(segment), footer });
    }

    pub(super) fn take_unsynced(&mut self) -> Unsynced {
        self.unsealed_bytes = 0;
        let open = self.open.as_ref().map(|open| Arc::clone(&open.segment));
        let (number, offset) = open.as_ref().map_or((u64::MAX, 0), |open| (open.id, open.records_end()));
        let position = Checkpoint { next: self.next, open: number, offset };
        Unsynced { position, open, unsealed: std::mem::take(&mut self.unsealed) }
    }
}

impl Engine {
    /// Appends records, except those that replace a record which is not the newest any more. Two uploads of one
    /// small blob at once may both append it: the later record counts then, and both are charged.
    pub(super) fn append(&self, items: Vec<Item>, mut charge: Charge) -> Result<(), StoreError> {
        if self.appender().unsealed_bytes > UNSEALED_BYTES_MAX {
            self.seal_durable()?;
        }
        let mut appender = self.appender();
        let mut wanted = self.wanted(items)?;
        while !wanted.is_empty() {
            self.make_open(&mut appender, &wanted[0], &mut charge)?;
            let open = appender.open.as_mut().expect("just made");
            let mut room = self.room_in(open);
            let fitting = wanted.iter().take_while(|item| {
                let cost = item.cost();
                let fits = cost <= room;
                room = room.saturating_sub(cost);
                fits
            });
            let later = wanted.split_off(fitting.count().max(1));
            let locations = open.write(&wanted, &mut charge)?;
            self.charge_allocated(&open.segment)?;
            self.durable.note_write();
            for (item, location) in wanted.iter().zip(locations) {
                self.index.insert(&item.key, &location)?;
            }
            wanted = later;
        }
        Ok(())
    }

    /// Drops the items that would replace a record which moved on.
    fn wanted(&self, items: Vec<Item>) -> Result<Vec<Item>, StoreError> {
        let mut wanted = Vec::with_capacity(items.len());
        for item in items {
            let current = match &item.replaces {
                Some(old) => self.index.known(&item.key)? == Some(*old),
                None => true,
            };
            if current {
                wanted.push(item);
            }
        }
        Ok(wanted)
    }

    fn room_in(&self, open: &Open) -> u64 {
        self.sizes.segment.saturating_sub(open.segment.records_end() + open.footer.len())
    }

    /// Makes sure that there is an open segment with room for an item.
    fn make_open(&self, appender: &mut Appender, item: &Item, charge: &mut Charge) -> Result<(), StoreError> {
        let full =
            appender.open.as_ref().is_some_and(|o| self.room_in(o) < item.cost() && !o.footer.is_empty());
        if full {
            appender.close_segment();
        }
        self.make_generation(appender)?;
        if appender.open.is_none() {
            self.open_segment(appender, charge)?;
        }
        Ok(())
    }

    fn open_segment(&self, appender: &mut Appender, charge: &mut Charge) -> Result<(), StoreError> {
        let segment = Arc::new(Segment::create(&self.segments_folder(), appender.next)?);
        appender.next += 1;
        charge.move_to(&segment, SEGMENT_OVERHEAD_BYTES);
        self.insert_segment(Arc::clone(&segment));
        self.index.note_segment(segment.id)?;
        appender.open = Some(Open { segment, footer: Footer::default() });
        Ok(())
    }

    /// Starts a generation of the index when the newest has enough. No segment reaches from one into another.
    fn make_generation(&self, appender: &mut Appender) -> Result<(), StoreError> {
        let due = self.index.is_empty()
            || appender.generation_bytes >= self.sizes.generation_segments
            || self.index.newest_bytes() >= self.sizes.generation_index;
        if due {
            appender.close_segment();
            self.index.start_generation(appender.next)?;
            appender.generation_bytes = 0;
        }
        Ok(())
    }

    /// Charges what the disk took for a segment beyond what was charged.
    fn charge_allocated(&self, segment: &Segment) -> Result<(), StoreError> {
        let allocated = segment.allocated()?;
        let charged = segment.charged.fetch_max(allocated, Ordering::Relaxed);
        self.used.fetch_add(allocated.saturating_sub(charged), Ordering::Relaxed);
        Ok(())
    }

    /// Makes a verified large blob visible.
    pub(super) fn publish(&self, mut incoming: Incoming, verified: &Verified) -> Result<(), StoreError> {
        let key = blob_key(&verified.digest());
        let payload_len = verified.digest().size();
        incoming.finish(&key, payload_len)?;
        let mut appender = self.appender();
        if self.is_stored(&key)? {
            return Ok(());
        }
        self.make_generation(&mut appender)?;
        let id = appender.next;
        let path = Segment::path(&self.segments_folder(), id, Shape::Large);
        incoming.rename(&path)?;
        appender.next += 1;
        let segment = Segment::open(id, Shape::Large, path)?;
        segment.set_verified();
        // The footer may take another block.
        let allocated = segment.charged.swap(0, Ordering::Relaxed) + 4096;
        incoming.charge.move_to(&segment, allocated.min(incoming.charge.bytes));
        self.charge_allocated(&segment)?;
        let (segment, offset) = (Arc::new(segment), SEGMENT_HEADER_BYTES);
        let location = Location { segment: id, ordinal: 0, offset, payload_len, deleted: false };
        self.enter_large(&mut appender, segment, &key, &location)
    }

    /// Gives a large segment the newest number, as if its blob had been written anew. False when its blob
    /// is not the one in the index any more, or may have to be written again where it is.
    pub(super) fn renew(&self, old: &Segment, key: &[u8], location: &Location) -> Result<bool, StoreError> {
        let mut appender = self.appender();
        // Held to the end: whoever asks for the blob meanwhile waits, and then finds it under its new number.
        let mut state = old.state();
        if state.dead || old.is_doubtful() || self.index.known(key)? != Some(*location) {
            return Ok(false);
        }
        self.make_generation(&mut appender)?;
        let id = appender.next;
        let path = Segment::path(&self.segments_folder(), id, Shape::Large);
        fs::rename(&old.path, &path).map_err(StoreError::io("renew segment"))?;
        appender.next += 1;
        if self.options.sync {
            // The index may reach the disk at any time from now on, and must not name what is not there.
            self.durable.sync_folder()?;
        }
        let segment = Segment::open(id, Shape::Large, path)?;
        // Not where the file ends: it may have a footer already, which the next one is to replace.
        segment.set_records_end(location.end(key).unwrap_or(old.records_end()));
        segment.charged.store(old.charged.load(Ordering::Relaxed), Ordering::Relaxed);
        if old.is_verified() {
            segment.set_verified();
        }
        segment.note(0, Use { touched: false, ..state.use_of(0) });
        let renewed = Location { segment: id, ..*location };
        let entered = self.enter_large(&mut appender, Arc::new(segment), key, &renewed);
        state.dead = true;
        self.remove_segment(old.id);
        entered.map(|()| true)
    }

    fn enter_large(
        &self,
        appender: &mut Appender,
        segment: Arc<Segment>,
        key: &[u8],
        location: &Location,
    ) -> Result<(), StoreError> {
        appender.generation_bytes += segment.charged.load(Ordering::Relaxed);
        self.insert_segment(Arc::clone(&segment));
        let mut footer = Footer::default();
        footer.push(Kind::Blob, key, location.offset, location.payload_len);
        appender.seal_later(&segment, footer);
        self.durable.note_write();
        self.index.note_segment(location.segment)?;
        self.index.insert(key, location)
    }
}

impl Open {
    /// Writes items behind the last record, in one piece, and says where they are.
    fn write(&mut self, items: &[Item], charge: &mut Charge) -> Result<Vec<Location>, StoreError> {
        let start = self.segment.records_end();
        let mut pieces = Vec::with_capacity(2 * items.len());
        for item in items {
            pieces.extend([IoSlice::new(&item.header), IoSlice::new(&item.payload)]);
        }
        let file = self.segment.file().map_err(StoreError::io("open segment"))?;
        // Half a write that failed lies behind the end of the records and is written over by the next.
        write_pieces_at(&file, &mut pieces, start).map_err(StoreError::io("append to segment"))?;
        let mut locations = Vec::with_capacity(items.len());
        let mut offset = start;
        for item in items {
            let payload_len = item.payload.len() as u64;
            let ordinal = self.footer.push(item.kind, &item.key, offset, payload_len);
            self.segment.note(ordinal, item.used);
            let deleted = item.kind == Kind::Deleted;
            locations.push(Location { segment: self.segment.id, ordinal, offset, payload_len, deleted });
            offset += item.header.len() as u64 + payload_len;
        }
        charge.move_to(&self.segment, items.iter().map(Item::cost).sum());
        self.segment.set_records_end(offset);
        Ok(locations)
    }
}

/// Writes all pieces one behind the other, with as few calls as the system allows.
pub(super) fn write_pieces_at(
    file: &fs::File,
    pieces: &mut [IoSlice<'_>],
    offset: u64,
) -> std::io::Result<()> {
    let (mut left, mut at) = (pieces, offset);
    while !left.is_empty() {
        let some = &left[..left.len().min(WRITE_PIECES_MAX)];
        let written = rustix::io::retry_on_intr(|| rustix::io::pwritev(file, some, at))?;
        if written == 0 {
            return Err(std::io::ErrorKind::WriteZero.into());
        }
        at += written as u64;
        IoSlice::advance_slices(&mut left, written);
    }
    Ok(())
}
