//! Writing: records into the open segment, and large blobs as segments of their own.
//!
//! One lock is held for one write of bytes that are already in memory and one batch of the index. Large
//! blobs are written outside of it, to a file that nobody else sees, and renamed under it.

use std::collections::HashSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use super::engine::Engine;
use super::index::{Checkpoint, Location};
use super::record::{
    self, Entry, Kind, RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES, TRAILER_BYTES, blob_key, record_cost,
};
use super::segment::{Segment, Shape, Use};
use crate::{StoreError, Verified};

/// Charged for a segment besides its records: header, trailer, the last block, its line in the folder.
const SEGMENT_OVERHEAD_BYTES: u64 = 4096 + SEGMENT_HEADER_BYTES + TRAILER_BYTES + 256;

/// Charged for a record's entry in the index until the index is measured.
const INDEX_ENTRY_BYTES: u64 = 1024;

/// A record on its way into the open segment.
pub(super) struct Item {
    kind: Kind,
    key: Vec<u8>,
    payload: Bytes,
    /// Where the record was, and its use, when eviction moves it.
    moved: Option<(Location, Use)>,
}

impl Item {
    /// A small blob.
    pub(super) fn blob(verified: &Verified, payload: Bytes) -> Self {
        Self { kind: Kind::Blob, key: blob_key(&verified.digest()), payload, moved: None }
    }

    /// A value of a record table; `None` deletes it.
    pub(super) fn value(key: Vec<u8>, value: Option<Bytes>) -> Self {
        let kind = if value.is_some() { Kind::Value } else { Kind::Deleted };
        Self { kind, key, payload: value.unwrap_or_default(), moved: None }
    }

    /// A record that eviction keeps.
    pub(super) fn moved(entry: &Entry, payload: Vec<u8>, from: Location, used: Use) -> Self {
        let used = Use { touched: false, ..used };
        Self { kind: entry.kind, key: entry.key.clone(), payload: payload.into(), moved: Some((from, used)) }
    }

    fn cost(&self) -> u64 {
        record_cost(&self.key, self.payload.len() as u64)
    }

    /// Bytes to charge before writing it.
    pub(super) fn charge(&self) -> u64 {
        // A segment that takes only one record is the worst case.
        self.cost() + INDEX_ENTRY_BYTES
    }
}

/// Bytes to charge before appending these items.
pub(super) fn charge_of(items: &[Item], segment_bytes: u64) -> u64 {
    let records: u64 = items.iter().map(Item::charge).sum();
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
pub(super) struct Appender {
    open: Option<Open>,
    /// The number of the next segment.
    pub(super) next: u64,
    /// Bytes of segments since the index's newest generation was started.
    generation_bytes: u64,
}

struct Open {
    segment: Arc<Segment>,
    entries: Vec<Entry>,
    /// Length of the footer so far.
    footer_bytes: u64,
}

impl Appender {
    pub(super) fn new(next: u64) -> Self {
        Self { open: None, next, generation_bytes: 0 }
    }

    /// Up to where everything is in the index once the present batch is.
    pub(super) fn checkpoint(&self) -> Checkpoint {
        Checkpoint { segment: self.open.as_ref().map_or(self.next, |o| o.segment.id), next: self.next }
    }

    pub(super) fn open_segment(&self) -> Option<Arc<Segment>> {
        self.open.as_ref().map(|open| Arc::clone(&open.segment))
    }
}

impl Engine {
    /// Appends records. Blobs that are stored already are promised instead; the charge covers the rest.
    pub(super) fn append(&self, items: Vec<Item>, mut charge: Charge) -> Result<(), StoreError> {
        let mut touched = Vec::new();
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
            touched.push(Arc::clone(&open.segment));
            let entries = wanted.iter().zip(locations).map(|(item, location)| {
                (item.key.as_slice(), (item.kind != Kind::Deleted).then_some(location))
            });
            self.index.apply(entries, appender.checkpoint())?;
            wanted = later;
        }
        drop(appender);
        if self.options.sync {
            for segment in touched {
                let file = segment.file().map_err(StoreError::io("open segment"))?;
                file.sync_data().map_err(StoreError::io("flush segment"))?;
            }
            self.index.flush()?;
        }
        Ok(())
    }

    /// Drops the items that need not be written: blobs that are stored, records that moved on.
    fn wanted(&self, items: Vec<Item>) -> Result<Vec<Item>, StoreError> {
        let mut seen = HashSet::new();
        let mut wanted = Vec::with_capacity(items.len());
        for item in items {
            let needed = match (&item.moved, item.kind) {
                (Some((from, _)), _) => self.index.get(&item.key)? == Some(*from),
                (None, Kind::Blob) => {
                    seen.insert(item.key.clone()) && self.find(&item.key, self.leased())?.is_none()
                }
                (None, _) => true,
            };
            if needed {
                wanted.push(item);
            }
        }
        Ok(wanted)
    }

    fn room_in(&self, open: &Open) -> u64 {
        let taken = open.segment.records_end() + open.footer_bytes + TRAILER_BYTES;
        self.sizes.segment.saturating_sub(taken)
    }

    /// Makes sure that there is an open segment with room for an item.
    fn make_open(&self, appender: &mut Appender, item: &Item, charge: &mut Charge) -> Result<(), StoreError> {
        let full =
            appender.open.as_ref().is_some_and(|o| self.room_in(o) < item.cost() && !o.entries.is_empty());
        if full || self.index.newest_bytes() >= self.sizes.generation_index {
            self.seal(appender)?;
        }
        if appender.open.is_some() {
            return Ok(());
        }
        let id = self.next_segment(appender)?;
        let segment = Arc::new(Segment::create(&self.segments_folder(), id)?);
        charge.move_to(&segment, SEGMENT_OVERHEAD_BYTES);
        self.insert_segment(Arc::clone(&segment));
        appender.open = Some(Open { segment, entries: Vec::new(), footer_bytes: 0 });
        Ok(())
    }

    /// Takes the number of a new segment, which may be the first of a new generation of the index.
    fn next_segment(&self, appender: &mut Appender) -> Result<u64, StoreError> {
        let due = self.index.is_empty()
            || appender.generation_bytes >= self.sizes.generation_segments
            || self.index.newest_bytes() >= self.sizes.generation_index;
        if due {
            self.seal(appender)?;
            self.index.start_generation(appender.next)?;
            appender.generation_bytes = 0;
        }
        let id = appender.next;
        appender.next += 1;
        Ok(id)
    }

    /// Seals the open segment, if there is one.
    pub(super) fn seal(&self, appender: &mut Appender) -> Result<(), StoreError> {
        let Some(open) = appender.open.take() else { return Ok(()) };
        appender.generation_bytes += open.segment.charged.load(Ordering::Relaxed);
        if self.options.sync {
            let file = open.segment.file().map_err(StoreError::io("open segment"))?;
            file.sync_data().map_err(StoreError::io("flush segment"))?;
        }
        open.segment.seal(&open.entries)
    }

    /// Makes a verified large blob visible.
    pub(super) fn publish(&self, mut incoming: Incoming, verified: &Verified) -> Result<(), StoreError> {
        let key = blob_key(&verified.digest());
        let payload_len = verified.digest().size();
        let header = record::record_header(Kind::Blob, &key, payload_len, incoming.crc.clone().finalize());
        let write = StoreError::io("write upload");
        incoming.file.write_all_at(&record::segment_header(), 0).map_err(&write)?;
        incoming.file.write_all_at(&header, SEGMENT_HEADER_BYTES).map_err(&write)?;
        if self.options.sync {
            incoming.file.sync_data().map_err(StoreError::io("flush upload"))?;
        }
        let mut appender = self.appender();
        if self.find(&key, self.leased())?.is_some() {
            return Ok(());
        }
        let id = self.next_segment(&mut appender)?;
        let path = Segment::path(&self.segments_folder(), id, Shape::Large);
        let from = incoming.path.take().expect("set until published");
        if let Err(error) = fs::rename(&from, &path) {
            incoming.path = Some(from);
            return Err(StoreError::io("publish upload")(error));
        }
        let segment = Segment::open(id, Shape::Large, path)?;
        segment.charged.store(0, Ordering::Relaxed);
        let bytes = incoming.charge.bytes;
        incoming.charge.move_to(&segment, bytes);
        appender.generation_bytes += bytes;
        self.insert_segment(Arc::new(segment));
        let location = Location { segment: id, ordinal: 0, offset: SEGMENT_HEADER_BYTES, payload_len };
        self.index.apply([(key.as_slice(), Some(location))], appender.checkpoint())?;
        drop(appender);
        if self.options.sync { self.index.flush() } else { Ok(()) }
    }

    /// Gives a large segment the newest number, as if its blob had been written anew. False when its blob
    /// is not the one in the index any more.
    pub(super) fn renew(&self, old: &Segment, key: &[u8], location: &Location) -> Result<bool, StoreError> {
        let mut appender = self.appender();
        // Held to the end: whoever asks for the blob meanwhile waits, and then finds it under its new number.
        let mut state = old.state();
        if state.dead || self.index.get(key)? != Some(*location) {
            return Ok(false);
        }
        let id = self.next_segment(&mut appender)?;
        let path = Segment::path(&self.segments_folder(), id, Shape::Large);
        fs::rename(&old.path, &path).map_err(StoreError::io("renew segment"))?;
        let segment = Segment::open(id, Shape::Large, path)?;
        let charged = old.charged.load(Ordering::Relaxed);
        segment.charged.store(charged, Ordering::Relaxed);
        appender.generation_bytes += charged;
        segment.note(0, Use { touched: false, ..state.use_of(0) });
        self.insert_segment(Arc::new(segment));
        let entered =
            self.index.apply([(key, Some(Location { segment: id, ..*location }))], appender.checkpoint());
        state.dead = true;
        self.remove_segment(old.id);
        entered.map(|()| true)
    }
}

impl Open {
    /// Writes items behind the last record, in one piece, and says where they are.
    fn write(&mut self, items: &[Item], charge: &mut Charge) -> Result<Vec<Location>, StoreError> {
        let start = self.segment.records_end();
        let mut bytes = Vec::new();
        let mut entries = Vec::with_capacity(items.len());
        for item in items {
            let (offset, payload_len) = (start + bytes.len() as u64, item.payload.len() as u64);
            let crc = crc32fast::hash(&item.payload);
            bytes.extend_from_slice(&record::record_header(item.kind, &item.key, payload_len, crc));
            bytes.extend_from_slice(&item.payload);
            entries.push(Entry { kind: item.kind, offset, payload_len, key: item.key.clone() });
        }
        let file = self.segment.file().map_err(StoreError::io("open segment"))?;
        // Half a write that failed lies behind the end of the records and is written over by the next.
        file.write_all_at(&bytes, start).map_err(StoreError::io("append to segment"))?;
        let mut locations = Vec::with_capacity(items.len());
        for (item, entry) in items.iter().zip(&entries) {
            let ordinal = u32::try_from(self.entries.len() + locations.len()).expect("segments are small");
            if let Some((_, used)) = item.moved {
                self.segment.note(ordinal, used);
            }
            let (offset, payload_len) = (entry.offset, entry.payload_len);
            locations.push(Location { segment: self.segment.id, ordinal, offset, payload_len });
        }
        let cost: u64 = items.iter().map(Item::cost).sum();
        charge.move_to(&self.segment, cost);
        self.footer_bytes += cost - bytes.len() as u64;
        self.segment.set_records_end(start + bytes.len() as u64);
        self.entries.extend(entries);
        Ok(locations)
    }
}

/// A large upload's file while nobody else can see it; removed when dropped before it is published.
pub(super) struct Incoming {
    file: File,
    path: Option<PathBuf>,
    written: u64,
    crc: crc32fast::Hasher,
    charge: Charge,
}

impl Incoming {
    /// Starts the file of a blob of this size; all of its space is charged first.
    pub(super) fn create(engine: &Engine, size: u64) -> Result<Self, StoreError> {
        let charge = engine.reserve(size + SEGMENT_OVERHEAD_BYTES + 4096 + INDEX_ENTRY_BYTES)?;
        let path = engine.folder.join("incoming").join(uuid::Uuid::new_v4().simple().to_string());
        let file = File::options().read(true).write(true).create_new(true).open(&path);
        let file = file.map_err(StoreError::io("create upload file"))?;
        let start = SEGMENT_HEADER_BYTES + RECORD_HEADER_BYTES;
        Ok(Self { file, path: Some(path), written: start, crc: crc32fast::Hasher::new(), charge })
    }

    /// Leaves room for the key, whose length the digest function decides.
    pub(super) fn for_key(mut self, key: &[u8]) -> Self {
        self.written += key.len() as u64;
        self
    }

    /// Writes the next bytes of the blob.
    pub(super) fn write(&mut self, pieces: &[Bytes]) -> Result<(), StoreError> {
        for piece in pieces {
            self.file.write_all_at(piece, self.written).map_err(StoreError::io("write upload"))?;
            self.crc.update(piece);
            self.written += piece.len() as u64;
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
