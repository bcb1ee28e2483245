//! Which keys a database of the index may have, in memory: most questions about what is not there end here.
//!
//! A row of Bloom filters, each twice as large as the one before, so that nothing must be known beforehand and
//! nothing is ever copied. A key sets one bit in each of the eight words of one block, which is one line of the
//! processor's cache. At twelve bits for each key, one answer in three hundred of a full filter is "maybe" and
//! should be "no".

use std::hash::{BuildHasher as _, RandomState};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Keys that the smallest filter is for, as a power of two.
const FIRST_KEYS_LOG: u32 = 16;

/// Filters in a row at the most: 17 million keys, 25 MiB. With more keys every answer is "maybe".
const FILTERS_MAX: usize = 8;

const BITS_PER_KEY: usize = 12;
const WORDS_PER_BLOCK: usize = 8;

/// The keys of one database.
pub(super) struct Filter {
    /// Random, so that nobody can choose blobs whose bits coincide.
    hasher: RandomState,
    filters: [OnceLock<Box<[Block]>>; FILTERS_MAX],
    added: AtomicU64,
    /// Whether all keys were added. Before that every answer is "maybe".
    complete: AtomicBool,
}

#[repr(align(64))]
#[derive(Default)]
struct Block([AtomicU64; WORDS_PER_BLOCK]);

impl Filter {
    /// A filter without keys.
    pub(super) fn new() -> Self {
        Self {
            hasher: RandomState::new(),
            filters: Default::default(),
            added: AtomicU64::new(0),
            complete: AtomicBool::new(false),
        }
    }

    /// Says that every key of the database was added, and will be before it is entered there.
    pub(super) fn set_complete(&self) {
        self.complete.store(true, Ordering::Release);
    }

    pub(super) fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Acquire)
    }

    /// Adds a key. Must happen before it is entered in the database.
    pub(super) fn add(&self, key: &[u8]) {
        let number = self.added.fetch_add(1, Ordering::Relaxed);
        let place = ((number >> FIRST_KEYS_LOG) + 1).ilog2() as usize;
        let Some(filter) = self.filters.get(place) else { return };
        let blocks = filter.get_or_init(|| {
            let bits = (1 << FIRST_KEYS_LOG << place) * BITS_PER_KEY;
            (0..bits / size_of::<Block>() / 8).map(|_| Block::default()).collect()
        });
        let hash = self.hasher.hash_one(key);
        for (word, bit) in block(blocks, hash).0.iter().zip(bits(hash)) {
            // Most bits of a key that is added again are set.
            if word.load(Ordering::Relaxed) & bit == 0 {
                word.fetch_or(bit, Ordering::Release);
            }
        }
    }

    /// Whether the database may have a key. False means that it was not entered before this call.
    pub(super) fn may_have(&self, key: &[u8]) -> bool {
        let overflown = self.added.load(Ordering::Relaxed) >> FIRST_KEYS_LOG >= (1 << FILTERS_MAX) - 1;
        if !self.is_complete() || overflown {
            return true;
        }
        let hash = self.hasher.hash_one(key);
        self.filters.iter().filter_map(OnceLock::get).any(|blocks| {
            let words = block(blocks, hash).0.iter();
            words.zip(bits(hash)).all(|(word, bit)| word.load(Ordering::Acquire) & bit != 0)
        })
    }
}

fn block(blocks: &[Block], hash: u64) -> &Block {
    let scaled = (u128::from(hash) * blocks.len() as u128) >> 64;
    &blocks[usize::try_from(scaled).expect("below the number of blocks")]
}

/// One bit for each word of a block.
fn bits(hash: u64) -> [u64; WORDS_PER_BLOCK] {
    // The upper bits chose the block; multiplying mixes the lower ones into all that are used.
    let mixed = (hash & u64::from(u32::MAX)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16;
    std::array::from_fn(|word| 1 << (mixed >> (6 * word) & 63))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_that_was_added_is_found_and_few_others_are() {
        let filter = Filter::new();
        let keys = 300_000_u64;
        assert!(filter.may_have(b"before anything is known"));
        for key in 0..keys {
            filter.add(&key.to_le_bytes());
        }
        assert!(filter.may_have(b"before all is known"));
        filter.set_complete();
        assert!((0..keys).all(|key| filter.may_have(&key.to_le_bytes())));
        let wrong = (keys..2 * keys).filter(|key| filter.may_have(&key.to_le_bytes())).count() as u64;
        assert!(wrong < keys / 50, "{wrong} of {keys}");
    }

    #[test]
    fn a_filter_with_too_many_keys_knows_nothing() {
        let filter = Filter::new();
        filter.set_complete();
        assert!(!filter.may_have(b"k"));
        let full = ((1_u64 << FILTERS_MAX) - 1) << FIRST_KEYS_LOG;
        filter.added.store(full - 1, Ordering::Relaxed);
        filter.add(b"last");
        assert!(filter.may_have(b"k"));
        filter.add(b"one more");
        assert!(filter.may_have(b"one more") && filter.may_have(b"k"));
    }
}
