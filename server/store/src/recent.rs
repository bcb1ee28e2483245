//! A bounded memory of what was used lately, for everything that caches by digest.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Values by key, within a bound on what they weigh together.
///
/// There are two halves. What is used moves into the younger one; when that is full, what is left in the
/// older one is forgotten at once and the halves change places. So nothing that was used within the last half
/// of the bound is ever lost, and no list has to be kept in order.
pub struct Recent<K, V> {
    halves: Mutex<Halves<K, V>>,
    half_weight_max: u64,
}

struct Halves<K, V> {
    young: HashMap<K, (V, u64)>,
    young_weight: u64,
    old: HashMap<K, (V, u64)>,
}

impl<K: Eq + Hash + Copy, V: Clone> Recent<K, V> {
    /// An empty memory. A value heavier than half of `weight_max` is not remembered.
    pub fn new(weight_max: u64) -> Self {
        let halves = Halves { young: HashMap::new(), young_weight: 0, old: HashMap::new() };
        Self { halves: Mutex::new(halves), half_weight_max: weight_max / 2 }
    }

    /// Returns the value under a key, which counts as a use of it.
    pub fn get(&self, key: &K) -> Option<V> {
        let mut halves = self.halves();
        if let Some((value, _)) = halves.young.get(key) {
            return Some(value.clone());
        }
        let (value, weight) = halves.old.remove(key)?;
        self.add(&mut halves, *key, value.clone(), weight);
        Some(value)
    }

    /// Remembers a value in place of an older one.
    pub fn insert(&self, key: K, value: V, weight: u64) {
        let mut halves = self.halves();
        halves.remove(&key);
        self.add(&mut halves, key, value, weight);
    }

    /// Forgets a key.
    pub fn remove(&self, key: &K) {
        self.halves().remove(key);
    }

    fn add(&self, halves: &mut Halves<K, V>, key: K, value: V, weight: u64) {
        if weight > self.half_weight_max {
            return;
        }
        if halves.young_weight + weight > self.half_weight_max {
            halves.old = std::mem::take(&mut halves.young);
            halves.young_weight = 0;
        }
        halves.young_weight += weight;
        halves.young.insert(key, (value, weight));
    }

    fn halves(&self) -> MutexGuard<'_, Halves<K, V>> {
        self.halves.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash, V> Halves<K, V> {
    fn remove(&mut self, key: &K) {
        self.old.remove(key);
        if let Some((_, weight)) = self.young.remove(key) {
            self.young_weight -= weight;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_stays_and_the_bound_holds() {
        let recent = Recent::new(20);
        for key in 0..1000 {
            recent.insert(key, key, 1);
            assert_eq!(recent.get(&0), Some(0), "used all the time, after {key}");
            let halves = recent.halves();
            let weight =
                |half: &HashMap<i32, (i32, u64)>| half.values().map(|(_, weight)| weight).sum::<u64>();
            assert_eq!(weight(&halves.young), halves.young_weight);
            assert!(weight(&halves.young) + weight(&halves.old) <= 20);
        }
        assert_eq!((recent.get(&999), recent.get(&992), recent.get(&900)), (Some(999), Some(992), None));
    }

    #[test]
    fn values_are_replaced_and_removed_from_either_half() {
        let recent = Recent::new(4);
        for key in [1, 2, 3] {
            recent.insert(key, "first", 1);
        }
        recent.insert(1, "second", 2);
        assert_eq!(recent.get(&1), Some("second"));
        recent.insert(3, "too heavy", 3);
        assert_eq!(recent.get(&3), None);
        recent.remove(&1);
        assert_eq!(recent.get(&1), None);
        assert_eq!(recent.halves().young_weight, 0);
    }
}
