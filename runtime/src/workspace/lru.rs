//! A map that forgets what was not used for the longest time, weighed in bytes.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

/// Values by key, together at most `bytes_max` bytes.
pub(super) struct Lru<K, V> {
    slots: HashMap<K, Slot<V>>,
    by_use: BTreeMap<u64, K>,
    clock: u64,
    bytes: usize,
    bytes_max: usize,
}

struct Slot<V> {
    value: V,
    bytes: usize,
    used: u64,
}

impl<K: Copy + Eq + Hash, V: Clone> Lru<K, V> {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { slots: HashMap::new(), by_use: BTreeMap::new(), clock: 0, bytes: 0, bytes_max }
    }

    /// Returns a value and makes it the one used last.
    pub(super) fn get(&mut self, key: &K) -> Option<V> {
        let slot = self.slots.get_mut(key)?;
        self.by_use.remove(&slot.used);
        self.clock += 1;
        slot.used = self.clock;
        self.by_use.insert(slot.used, *key);
        Some(slot.value.clone())
    }

    /// Keeps a value, at the cost of those not used for the longest time. What is too large is not kept.
    pub(super) fn insert(&mut self, key: K, value: V, bytes: usize) {
        self.remove(&key);
        if bytes > self.bytes_max {
            return;
        }
        while self.bytes + bytes > self.bytes_max {
            let (_, oldest) = self.by_use.pop_first().expect("bytes are counted for something");
            self.remove(&oldest);
        }
        self.clock += 1;
        self.bytes += bytes;
        self.by_use.insert(self.clock, key);
        self.slots.insert(key, Slot { value, bytes, used: self.clock });
    }

    fn remove(&mut self, key: &K) {
        if let Some(slot) = self.slots.remove(key) {
            self.by_use.remove(&slot.used);
            self.bytes -= slot.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_used_goes_first() {
        let mut lru = Lru::new(30);
        for key in [1, 2, 3] {
            lru.insert(key, key, 10);
        }
        assert_eq!(lru.get(&1), Some(1));
        lru.insert(4, 4, 10);
        assert_eq!([1, 2, 3, 4].map(|key| lru.get(&key)), [Some(1), None, Some(3), Some(4)]);
        lru.insert(5, 5, 25);
        assert_eq!([1, 3, 4, 5].map(|key| lru.get(&key)), [None, None, None, Some(5)]);
    }

    #[test]
    fn what_is_too_large_is_not_kept_and_bytes_are_counted_once() {
        let mut lru = Lru::new(10);
        lru.insert(1, 1, 8);
        lru.insert(2, 2, 11);
        assert_eq!((lru.get(&1), lru.get(&2)), (Some(1), None));
        lru.insert(1, 7, 4);
        lru.insert(3, 3, 6);
        assert_eq!((lru.get(&1), lru.get(&3), lru.bytes), (Some(7), Some(3), 10));
    }
}
