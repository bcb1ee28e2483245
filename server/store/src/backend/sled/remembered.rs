//! Rows of the index that were looked up lately, so that sled is not asked again for what is asked for often.
//!
//! A row is remembered only when nothing was entered near it while it was looked up. So what is remembered is
//! what the databases say, at every moment.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::generation::Location;

/// Rows that are remembered, each at the one place that its key has.
const ROWS_MAX: usize = 1 << 16;

/// Rows that share a lock.
const ROWS_PER_SHARD: usize = 64;

/// Longer keys are not remembered: with this all of them take 11 MiB at the most.
const KEY_BYTES_MAX: usize = 96;

/// What was looked up lately.
pub(super) struct Remembered {
    /// Random, so that nobody can choose blobs that share a place.
    hasher: RandomState,
    shards: Box<[Mutex<Shard>]>,
}

#[derive(Default)]
struct Shard {
    /// Counts what was entered.
    entered: u64,
    /// Empty until something is remembered here.
    rows: Vec<Option<(Box<[u8]>, Location)>>,
}

/// Where a key's row would be remembered, and what had been entered there before it was looked up.
pub(super) struct Place {
    shard: usize,
    row: usize,
    entered: u64,
}

impl Remembered {
    pub(super) fn new() -> Self {
        let shards = (0..ROWS_MAX / ROWS_PER_SHARD).map(|_| Mutex::default()).collect();
        Self { hasher: RandomState::new(), shards }
    }

    fn place(&self, key: &[u8]) -> (usize, usize) {
        let row = usize::try_from(self.hasher.hash_one(key) % ROWS_MAX as u64).expect("a small number");
        (row / ROWS_PER_SHARD, row % ROWS_PER_SHARD)
    }

    fn shard(&self, shard: usize) -> MutexGuard<'_, Shard> {
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a key's row, or where to remember it.
    pub(super) fn get(&self, key: &[u8]) -> Result<Location, Place> {
        let (shard, row) = self.place(key);
        let rows = self.shard(shard);
        match rows.rows.get(row) {
            Some(Some((known, location))) if **known == *key => Ok(*location),
            _ => Err(Place { shard, row, entered: rows.entered }),
        }
    }

    /// Remembers the row that was found for the key of this place.
    pub(super) fn insert(&self, place: &Place, key: &[u8], location: Location) {
        if key.len() > KEY_BYTES_MAX {
            return;
        }
        let mut shard = self.shard(place.shard);
        if shard.entered == place.entered {
            if shard.rows.is_empty() {
                shard.rows.resize(ROWS_PER_SHARD, None);
            }
            shard.rows[place.row] = Some((key.into(), location));
        }
    }

    /// Forgets a key. Called after a row of it was entered.
    pub(super) fn forget(&self, key: &[u8]) {
        let (shard, row) = self.place(key);
        let mut shard = self.shard(shard);
        shard.entered += 1;
        if let Some(place) = shard.rows.get_mut(row) {
            *place = None;
        }
    }

    /// Forgets everything. Called after a database was replaced or dropped.
    pub(super) fn clear(&self) {
        for shard in 0..self.shards.len() {
            let mut shard = self.shard(shard);
            shard.entered += 1;
            shard.rows.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn location(segment: u64) -> Location {
        Location { segment, ordinal: 0, offset: 16, payload_len: 1, deleted: false }
    }

    #[test]
    fn what_was_entered_since_is_not_hidden() {
        let remembered = Remembered::new();
        let place = remembered.get(b"k").unwrap_err();
        remembered.insert(&place, b"k", location(1));
        assert_eq!(remembered.get(b"k").ok(), Some(location(1)));
        remembered.forget(b"k");
        let late = remembered.get(b"k").unwrap_err();
        // Looked up, then something newer is entered, and only then would the old row be remembered.
        remembered.forget(b"k");
        remembered.insert(&late, b"k", location(1));
        assert!(remembered.get(b"k").is_err());
        let place = remembered.get(b"k").unwrap_err();
        remembered.clear();
        remembered.insert(&place, b"k", location(1));
        assert!(remembered.get(b"k").is_err());
    }

    #[test]
    fn keys_that_share_a_place_are_told_apart_and_long_ones_left_out() {
        let remembered = Remembered::new();
        let keys: Vec<_> = (0..4 * ROWS_MAX as u64).map(u64::to_le_bytes).collect();
        for (segment, key) in (0..).zip(&keys) {
            let place = remembered.get(key).unwrap_err();
            remembered.insert(&place, key, location(segment));
        }
        let right = (0..).zip(&keys).filter_map(|(s, key)| Some(remembered.get(key).ok()? == location(s)));
        let right: Vec<_> = right.collect();
        assert!(right.len() > ROWS_MAX / 2 && right.iter().all(|right| *right), "{}", right.len());
        let long = [7; KEY_BYTES_MAX + 1];
        let place = remembered.get(&long).unwrap_err();
        remembered.insert(&place, &long, location(1));
        assert!(remembered.get(&long).is_err());
    }
}
