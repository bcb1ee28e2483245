//! What a segment hides: older records of its keys, in segments that stay when it goes.
//!
//! Of two records of a key the newer one counts, so the newer must not go while the older stays. Segments are dropped
//! oldest first, but one that is nearly all promised is left where it is, and newer ones go before it. What these hide is
//! marked as deleted at the end of the store first. So the segments alone say what the newest record of each
//! key is, whatever was dropped and whatever becomes of the index.

use std::collections::HashMap;
use std::hash::BuildHasher as _;
use std::sync::{Arc, PoisonError};

use super::engine::Engine;
use super::record::{Entry, Kind, is_record_key};
use super::segment::{Segment, Shape};
use crate::StoreError;

impl Engine {
    /// The records of a segment that may hide an older one, by their ordinals. Blobs hide nothing: any whole copy is
    /// as good as the newest. `None` when an older segment could not be read: it may be able to serve again later.
    pub(super) fn hiding(&self, segment: &Segment, entries: &[Entry]) -> Option<Vec<u32>> {
        let mut values: HashMap<u64, Vec<u32>> = HashMap::new();
        let mut damaged: HashMap<&[u8], Vec<u32>> = HashMap::new();
        for (ordinal, entry) in (0..).zip(entries) {
            if is_record_key(&entry.key) {
                values.entry(self.hasher.hash_one(&entry.key)).or_default().push(ordinal);
            } else if entry.kind == Kind::Deleted {
                damaged.entry(&entry.key).or_default().push(ordinal);
            }
        }
        if values.is_empty() && damaged.is_empty() {
            return Some(Vec::new());
        }
        let mut hiding = Vec::new();
        for older in self.older_than(segment.id) {
            for key in self.value_keys(&older)? {
                hiding.extend(values.remove(key).into_iter().flatten());
            }
            // Rare enough to read the segments for it.
            if !damaged.is_empty() {
                for entry in entries_of(&older)?.iter().filter(|entry| entry.kind == Kind::Blob) {
                    hiding.extend(damaged.remove(&*entry.key).into_iter().flatten());
                }
            }
        }
        hiding.sort_unstable();
        Some(hiding)
    }

    fn older_than(&self, id: u64) -> Vec<Arc<Segment>> {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        segments.range(..id).map(|(_, segment)| Arc::clone(segment)).collect()
    }

    /// Hashes of the keys that a segment has values of. It gets no more records: a newer shared one was begun after it.
    fn value_keys<'a>(&self, segment: &'a Segment) -> Option<&'a [u64]> {
        if segment.shape == Shape::Large {
            return Some(&[]);
        }
        if let Some(keys) = segment.value_keys.get() {
            return Some(keys);
        }
        let entries = entries_of(segment)?;
        let values = entries.iter().filter(|entry| entry.kind == Kind::Value);
        let keys = values.map(|entry| self.hasher.hash_one(&entry.key)).collect();
        Some(segment.value_keys.get_or_init(|| keys))
    }
}

/// The records of a segment that stays; `None` when it cannot be read now. One whose file is gone has none.
fn entries_of(segment: &Segment) -> Option<Vec<Entry>> {
    let read = || -> Result<Vec<Entry>, StoreError> {
        if segment.shape == Shape::Large {
            return Ok(segment.large_entry()?.into_iter().collect());
        }
        match segment.read_footer()? {
            Some(entries) => Ok(entries),
            None => segment.scan(u64::MAX),
        }
    };
    match read() {
        Ok(entries) => Some(entries),
        Err(StoreError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            Some(Vec::new())
        }
        Err(error) => {
            tracing::warn!(%error, segment = segment.id, "a segment cannot be looked into");
            None
        }
    }
}
