//! Bringing the index up to date, in the background: after a start, and when a database of the index failed.
//!
//! Opening a store only looks at names. Everything else happens here while requests are served or, where the
//! answer is not known yet, wait: the index is opened, and every segment that no checkpoint covers is looked
//! into, newest first. One with a footer was on the disk before the footer was written, and its footer is
//! believed; any other is read, and cut before its first torn record. Entering records is idempotent and in
//! any order gives the same index, because the newer of two records of a key wins.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use super::engine::Engine;
use super::evict::location;
use super::generation::Generation;
use super::record::{Entry, Footer, SEGMENT_HEADER_BYTES};
use super::segment::{Segment, Shape};
use crate::StoreError;

/// What a segment of the smallest records has for each, to guess how much index a segment needs.
const BYTES_PER_RECORD_GUESSED: u64 = 4096;
/// What an entry takes in the index, measured.
const INDEX_BYTES_PER_RECORD: u64 = 256;

/// Records that are entered between two looks at whether the store is being closed.
const RECORDS_BETWEEN_LOOKS: usize = 4096;

/// How far the index has been brought up to date.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// Whether new records can be taken: the end of the store is known.
    pub(super) started: bool,
    /// Bytes of segments looked into.
    pub(super) done_bytes: u64,
    /// Bytes of segments to look into, in all.
    pub(super) total_bytes: u64,
}

impl Progress {
    pub(super) fn left_bytes(&self) -> u64 {
        self.total_bytes - self.done_bytes
    }

    /// Whether every question has an answer.
    pub(super) fn is_complete(&self) -> bool {
        self.started && self.done_bytes == self.total_bytes
    }
}

/// Segments to look into.
#[derive(Default)]
pub(super) struct Pending {
    /// Oldest first; with the offset from which on records are new to the index.
    segments: VecDeque<(Arc<Segment>, u64)>,
    /// The segments at which databases of the index start that have to be made first.
    generations: Vec<u64>,
}

impl Pending {
    pub(super) fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }
}

impl Engine {
    /// Opens the index and finds out what is missing there. Afterwards records are taken.
    pub(super) fn start(&self, names: Vec<(u64, Shape, PathBuf)>) -> Result<Pending, StoreError> {
        let mut segments = BTreeMap::new();
        for (id, shape, path) in names {
            let segment = Segment::open(id, shape, path)?;
            segment.trust_until(0);
            segments.insert(id, Arc::new(segment));
        }
        let used: u64 = segments.values().map(|segment| segment.charged.load(Ordering::Relaxed)).sum();
        self.index.load()?;
        let newest = self.index.generations().first().cloned();
        let used_before = newest.as_ref().map_or(Ok(1), |newest| newest.next_segment())?;
        let next = segments.keys().next_back().map_or(1, |last| last + 1).max(used_before);
        *self.segments.write().unwrap_or_else(PoisonError::into_inner) = segments;
        self.used.store(used, Ordering::Relaxed);
        let first = newest.map_or(0, |newest| newest.first);
        {
            let mut appender = self.appender();
            appender.next = next;
            appender.generation_bytes = self.bytes_from(first);
        }
        let pending = self.pending()?;
        self.announce(&pending);
        self.progress().started = true;
        if self.charge(0, self.sizes.capacity).is_none() {
            // The capacity is smaller than last time. What cannot be dropped now is when space is needed.
            let _ = self.reserve(0);
        }
        Ok(pending)
    }

    fn bytes_from(&self, first: u64) -> u64 {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        segments.range(first..).map(|(_, segment)| segment.charged.load(Ordering::Relaxed)).sum()
    }

    /// The segments that no checkpoint covers. What was not on the disk for sure is not served until it was
    /// looked into.
    fn pending(&self) -> Result<Pending, StoreError> {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner).clone();
        let mut pending = Pending::default();
        let mut covered: Option<(Arc<Generation>, _)> = None;
        let (mut bytes, mut index_bytes) = (u64::MAX, 0);
        for (id, segment) in segments {
            let generation = self.index.generation_of(id);
            if let Some(generation) = &generation
                && covered.as_ref().is_none_or(|(known, _)| !Arc::ptr_eq(known, generation))
            {
                covered = Some((Arc::clone(generation), generation.checkpoint()?));
            }
            let checkpoint = covered.as_ref().and_then(|(_, checkpoint)| *checkpoint);
            let from = match checkpoint {
                Some(checkpoint) if id == checkpoint.open => checkpoint.offset,
                Some(checkpoint) if id < checkpoint.next => {
                    segment.trust_until(u64::MAX);
                    continue;
                }
                _ => 0,
            };
            let charged = segment.charged.load(Ordering::Relaxed);
            if generation.is_none() {
                let full =
                    bytes >= self.sizes.generation_segments || index_bytes >= self.sizes.generation_index;
                if full {
                    pending.generations.push(id);
                    (bytes, index_bytes) = (0, 0);
                }
                bytes += charged;
                index_bytes += (charged / BYTES_PER_RECORD_GUESSED + 1) * INDEX_BYTES_PER_RECORD;
            }
            pending.segments.push_back((segment, from));
        }
        Ok(pending)
    }

    /// Says what has to be looked into before every question has an answer.
    fn announce(&self, pending: &Pending) {
        for (segment, from) in &pending.segments {
            segment.trust_until(*from);
        }
        let highest = pending.segments.back().map_or(0, |(segment, _)| segment.id);
        let total: u64 = pending.segments.iter().map(|(s, _)| s.charged.load(Ordering::Relaxed)).sum();
        if total > 0 {
            let segments = pending.segments.len();
            tracing::info!(segments, bytes = total, "the index is brought up to date from the segments");
        }
        self.index.set_unindexed(highest);
        let mut progress = self.progress();
        (progress.done_bytes, progress.total_bytes) = (0, total);
    }

    /// Looks into the newest of the pending segments; false when there is none left.
    pub(super) fn catch_up(
        &self,
        pending: &mut Pending,
        is_stopping: &dyn Fn() -> bool,
    ) -> Result<bool, StoreError> {
        let Some((segment, from)) = pending.segments.back().cloned() else { return Ok(false) };
        if let Some(first) = pending.generations.iter().rev().find(|first| **first <= segment.id) {
            self.index.start_generation(*first)?;
        }
        match self.enter(&segment, from, is_stopping) {
            Ok(true) => {}
            Ok(false) => return Ok(false),
            Err(StoreError::Io { .. }) if segment.state().dead => {}
            Err(error @ StoreError::Io { .. }) => {
                tracing::error!(%error, segment = segment.id, "a segment cannot be read and is left out of the index");
            }
            Err(error) => return Err(error),
        }
        segment.trust_until(u64::MAX);
        pending.segments.pop_back();
        let charged = segment.charged.load(Ordering::Relaxed);
        self.index.set_unindexed(pending.segments.back().map_or(0, |(segment, _)| segment.id));
        let mut progress = self.progress();
        progress.done_bytes = (progress.done_bytes + charged).min(progress.total_bytes);
        if pending.is_empty() {
            progress.done_bytes = progress.total_bytes;
            // The next flush then writes a checkpoint.
            self.durable.note_write();
        }
        Ok(!pending.is_empty())
    }

    /// Enters a segment's records; false when the store is being closed.
    fn enter(
        &self,
        segment: &Segment,
        from: u64,
        is_stopping: &dyn Fn() -> bool,
    ) -> Result<bool, StoreError> {
        let entries = self.entries(segment, from)?;
        for (ordinal, entry) in (0..).zip(&entries).filter(|(_, entry)| entry.offset >= from) {
            if (ordinal as usize).is_multiple_of(RECORDS_BETWEEN_LOOKS) && is_stopping() {
                return Ok(false);
            }
            let at = location(segment, ordinal, entry);
            if !self.index.insert_if_newer(&entry.key, &at)? {
                break;
            }
        }
        Ok(true)
    }

    /// The records of a segment. One without a footer is read, cut before what is torn, and gets one.
    fn entries(&self, segment: &Segment, from: u64) -> Result<Vec<Entry>, StoreError> {
        if let Some(entries) = segment.read_footer()? {
            return Ok(entries);
        }
        let entries = segment.scan(from)?;
        if !self.appender().is_open(segment) {
            self.seal_scanned(segment, &entries).unwrap_or_else(|error| {
                tracing::warn!(%error, segment = segment.id, "a segment stays without a footer");
            });
        }
        Ok(entries)
    }

    fn seal_scanned(&self, segment: &Segment, entries: &[Entry]) -> Result<(), StoreError> {
        segment.set_records_end(entries.last().map_or(SEGMENT_HEADER_BYTES, Entry::end));
        segment.file().and_then(|file| file.sync_data()).map_err(StoreError::io("flush segment"))?;
        segment.seal(Footer::of(entries))?;
        self.charge_exactly(segment)
    }

    /// Puts empty databases in the place of those that failed, and finds what is to be entered there.
    pub(super) fn repair(&self) -> Result<Option<Pending>, StoreError> {
        let failed: Vec<_> = self.index.generations().iter().filter(|g| g.has_failed()).cloned().collect();
        if failed.is_empty() || !self.disk_takes(0)? {
            return Ok(None);
        }
        {
            // An eviction under way has asked what the index knows: with an empty database it would miss what to keep.
            let _evicting = self.evicting.lock().unwrap_or_else(PoisonError::into_inner);
            // Until it is known what is missing, everything may be.
            self.index.set_unindexed(u64::MAX);
            self.appender().close_segment();
            for generation in failed {
                self.index.replace_failed(&generation)?;
            }
        }
        // What can be sealed is not read again; and it is trusted, because this process wrote it.
        if let Err(error) = self.seal_durable() {
            tracing::warn!(%error, "segments are not sealed before the index is built again");
        }
        let mut pending = self.pending()?;
        pending.segments.iter_mut().for_each(|(_, from)| *from = 0);
        self.announce(&pending);
        pending.segments.iter().for_each(|(segment, _)| segment.trust_until(u64::MAX));
        Ok(Some(pending))
    }
}

/// Names of segments in a folder.
pub(super) fn list(folder: &Path) -> Result<Vec<(u64, Shape, PathBuf)>, StoreError> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(StoreError::io("list segments"))? {
        let entry = entry.map_err(StoreError::io("list segments"))?;
        if let Some((id, shape)) = entry.file_name().to_str().and_then(Segment::parse_name) {
            names.push((id, shape, entry.path()));
        }
    }
    Ok(names)
}
