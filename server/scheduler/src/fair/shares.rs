//! Those who share something by weight, and whose turn it is.
//!
//! Start-time fair queueing. Everybody has a *claim*: the service already had, divided by the weight. Whoever has
//! the smallest claim goes first and is charged at the start what its work usually takes; at the end the charge is
//! corrected to what it did take. Whoever comes back from idling starts at the claim of the last one served, so
//! that idling saves nothing up; and who has had more than that is remembered until the others have caught up, so
//! that coming one at a time gains nothing either.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::time::Duration;

use super::ClassId;

/// Service divided by weight, in microseconds times [`SCALE`]. It only grows, by the service of all slots of a fleet:
/// 64 bits would be used up within days.
type Claim = u128;

/// So that a weight of a thousand still leaves whole numbers.
const SCALE: u128 = 1000;

/// What a first piece of work is charged: nobody knows yet how long it takes.
const FIRST_CHARGE_MICROS: u64 = 100_000;

/// The most that one piece of work is charged at its start or in the end: ten years.
const CHARGE_MICROS_MAX: u64 = 315_360_000_000_000;

/// What was charged at a start, to be handed back at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Charge(u64);

#[derive(Debug)]
struct Sharer {
    claim: Claim,
    weight: u32,
    /// How long its work takes, as an average in which the newest counts an eighth.
    usual_micros: u64,
    running: usize,
    /// How much waits in each class.
    waiting: BTreeMap<ClassId, usize>,
}

/// Sharers by key.
#[derive(Debug)]
pub(crate) struct Shares<K> {
    sharers: HashMap<K, Sharer>,
    /// For each class those who have something waiting in it, in the order of their claims.
    ready: HashMap<ClassId, BTreeSet<(Claim, K)>>,
    /// Those who have nothing, and are remembered because they have had more than others.
    idle: BTreeSet<(Claim, K)>,
    /// The claim of the last one that was served.
    now: Claim,
}

impl<K> Default for Shares<K> {
    fn default() -> Self {
        Self { sharers: HashMap::new(), ready: HashMap::new(), idle: BTreeSet::new(), now: 0 }
    }
}

impl<K: Clone + Ord + Hash> Shares<K> {
    /// One more piece of work waits. `weight` counts from now on, and is at least 1.
    pub(crate) fn enter(&mut self, key: &K, weight: u32, class: ClassId) {
        let weight = weight.max(1);
        let now = self.now;
        let sharer = self.sharers.entry(key.clone()).or_insert_with(|| Sharer {
            claim: now,
            weight,
            usual_micros: FIRST_CHARGE_MICROS,
            running: 0,
            waiting: BTreeMap::new(),
        });
        sharer.weight = weight;
        if sharer.is_idle() {
            self.idle.remove(&(sharer.claim, key.clone()));
            sharer.claim = sharer.claim.max(now);
        }
        let waiting = sharer.waiting.entry(class).or_default();
        *waiting += 1;
        if *waiting == 1 {
            let claim = sharer.claim;
            self.ready.entry(class).or_default().insert((claim, key.clone()));
        }
    }

    /// One piece of work waits no more.
    pub(crate) fn leave(&mut self, key: &K, class: ClassId) {
        let sharer = self.sharers.get_mut(key).expect("who leaves has entered");
        let waiting = sharer.waiting.get_mut(&class).expect("who leaves has entered");
        *waiting -= 1;
        if *waiting == 0 {
            sharer.waiting.remove(&class);
            let entry = (sharer.claim, key.clone());
            let ready = self.ready.get_mut(&class).expect("what waits is ready");
            ready.remove(&entry);
            if ready.is_empty() {
                self.ready.remove(&class);
            }
        }
        self.rest(key);
    }

    /// Those who have something waiting in a class, whoever is due first in front.
    pub(crate) fn due(&self, class: ClassId) -> impl Iterator<Item = &(Claim, K)> {
        self.ready.get(&class).into_iter().flatten()
    }

    /// Charges the start of a piece of work.
    pub(crate) fn start(&mut self, key: &K) -> Charge {
        let sharer = self.sharers.get_mut(key).expect("who starts has entered");
        self.now = self.now.max(sharer.claim);
        sharer.running += 1;
        let charge = sharer.usual_micros;
        let claim = sharer.claim + sharer.fair(charge);
        self.claims(key, claim);
        while let Some((claim, key)) = self.idle.first().filter(|(claim, _)| *claim <= self.now).cloned() {
            self.idle.remove(&(claim, key.clone()));
            self.sharers.remove(&key);
        }
        Charge(charge)
    }

    /// Corrects the charge at the end of a piece of work that took `used`, or hands it back when it never began.
    pub(crate) fn finish(&mut self, key: &K, Charge(charged): Charge, used: Option<Duration>) {
        let micros = |used: Duration| u64::try_from(used.as_micros()).unwrap_or(u64::MAX);
        let took = used.map(|used| micros(used).min(CHARGE_MICROS_MAX));
        let sharer = self.sharers.get_mut(key).expect("what runs is not forgotten");
        sharer.running -= 1;
        if let Some(took) = took {
            sharer.usual_micros = (sharer.usual_micros * 7 + took) / 8;
        }
        let used = took.unwrap_or(0);
        let claim = (sharer.claim + sharer.fair(used)).saturating_sub(sharer.fair(charged));
        self.claims(key, claim);
        self.rest(key);
    }

    /// Moves a sharer to another claim.
    fn claims(&mut self, key: &K, claim: Claim) {
        let sharer = self.sharers.get_mut(key).expect("callers name a sharer");
        let before = std::mem::replace(&mut sharer.claim, claim);
        if before == claim {
            return;
        }
        for class in sharer.waiting.keys() {
            let ready = self.ready.get_mut(class).expect("what waits is ready");
            ready.remove(&(before, key.clone()));
            ready.insert((claim, key.clone()));
        }
    }

    /// Forgets a sharer that has nothing, or remembers how much it has had.
    fn rest(&mut self, key: &K) {
        let sharer = &self.sharers[key];
        if !sharer.is_idle() {
            return;
        }
        if sharer.claim > self.now {
            self.idle.insert((sharer.claim, key.clone()));
        } else {
            self.sharers.remove(key);
        }
    }

    /// What must hold after every mutation.
    #[cfg(test)]
    pub(crate) fn check(&self) {
        for (class, ready) in &self.ready {
            assert!(!ready.is_empty());
            assert!(ready.iter().all(|(claim, key)| {
                let sharer = &self.sharers[key];
                sharer.claim == *claim && sharer.waiting[class] > 0
            }));
        }
        let entries: usize = self.sharers.values().map(|sharer| sharer.waiting.len()).sum();
        assert_eq!(entries, self.ready.values().map(BTreeSet::len).sum::<usize>());
        assert!(self.idle.iter().all(|(claim, key)| {
            self.sharers.get(key).is_some_and(|sharer| sharer.is_idle() && sharer.claim == *claim)
        }));
        assert_eq!(self.idle.len(), self.sharers.values().filter(|sharer| sharer.is_idle()).count());
    }
}

impl Sharer {
    /// What service of so many microseconds adds to its claim.
    fn fair(&self, micros: u64) -> Claim {
        u128::from(micros) * SCALE / u128::from(self.weight)
    }

    fn is_idle(&self) -> bool {
        self.running == 0 && self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_never_began_costs_nothing_and_says_nothing_of_how_long_work_takes() {
        let mut shares = Shares::default();
        let class = ClassId(1);
        for _ in 0..3 {
            shares.enter(&"a", 2, class);
        }
        let begun = shares.start(&"a");
        shares.leave(&"a", class);
        let before = (shares.sharers["a"].claim, shares.sharers["a"].usual_micros);
        let ahead = shares.start(&"a");
        shares.leave(&"a", class);
        assert!(shares.sharers["a"].claim > before.0);
        shares.finish(&"a", ahead, None);
        assert_eq!((shares.sharers["a"].claim, shares.sharers["a"].usual_micros), before);
        shares.finish(&"a", begun, Some(Duration::ZERO));
        assert!(shares.sharers["a"].usual_micros < before.1);
        shares.check();
    }

    /// A fleet of 32,768 slots uses 64 bits up within a week.
    #[test]
    fn a_tenant_that_had_years_of_a_fleet_is_still_served_by_its_share() {
        let class = ClassId(1);
        let mut shares = Shares { now: Claim::from(u64::MAX) - 1, ..Shares::default() };
        let (a, b) = ("a".to_owned(), "b".to_owned());
        for _ in 0..100 {
            shares.enter(&a, 1, class);
            shares.enter(&b, 1, class);
        }
        let mut turns = Vec::new();
        for _ in 0..100 {
            let key = shares.due(class).next().expect("both wait").1.clone();
            let charge = shares.start(&key);
            shares.leave(&key, class);
            shares.finish(&key, charge, Some(Duration::from_secs(3600)));
            shares.check();
            turns.push(key);
        }
        assert_eq!(turns.iter().filter(|key| **key == a).count(), 50);
    }
}
