//! Which workers can serve which runs.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Instant;

use crate::fair::ClassId;
use crate::job::WorkerId;
use crate::platform::{Offer, Platform};

/// Classes that have no run any more and are kept for the next one, so that nobody need be matched anew for each action.
pub(super) const UNUSED_KEPT_MAX: usize = 64;

/// What makes runs alike in the eyes of workers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct ClassKey {
    pub(super) platform: Platform,
    /// In bytes.
    pub(super) memory: u64,
    /// Names of workers that were lost with such a run. They get it again only when there is nobody else: a worker
    /// that comes back has a new id, but its old name.
    pub(super) avoid: Vec<String>,
}

/// Runs that the same workers can serve.
#[derive(Debug)]
pub(super) struct Class {
    pub(super) key: ClassKey,
    /// Those that can.
    pub(super) workers: BTreeSet<WorkerId>,
    /// Those of them that sleep and have a free slot.
    pub(super) idle: BTreeSet<WorkerId>,
    /// Those that have a free slot, asleep or not.
    pub(super) free: BTreeSet<WorkerId>,
    /// Those that sleep and have no free slot, and take something ahead.
    pub(super) eager: BTreeSet<WorkerId>,
    /// All of them are avoided, or paused: there is nobody else. Only of interest where somebody is avoided.
    only_lost: bool,
    /// Without any, when its runs are given up.
    pub(super) given_up_at: Option<Instant>,
    /// How many runs are of this class, waiting or not.
    members: usize,
}

/// All classes that have a run, and some that had one.
#[derive(Debug, Default)]
pub(super) struct Classes {
    ids: HashMap<ClassKey, ClassId>,
    classes: BTreeMap<ClassId, Class>,
    /// Those without a run.
    unused: BTreeSet<ClassId>,
    last_id: u64,
}

/// A worker, as far as it matters who can serve what.
pub(super) struct Candidate<'a> {
    pub(super) id: WorkerId,
    pub(super) offer: &'a Offer,
    /// Not while it is paused.
    pub(super) takes_work: bool,
    pub(super) ready: Ready,
}

/// What a worker is ready for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ready {
    /// It sleeps and has a free slot.
    pub(super) idle: bool,
    /// It has a free slot.
    pub(super) free: bool,
    /// It sleeps and has no free slot, and takes something ahead.
    pub(super) eager: bool,
}

impl ClassKey {
    /// Whether a worker is one to wait for rather than give something to those that are avoided.
    fn prefers(&self, worker: &Candidate<'_>) -> bool {
        self.avoid.is_empty() || worker.takes_work && !self.avoid.contains(&worker.offer.name)
    }
}

impl Class {
    /// Computes who can serve it from all there are.
    fn match_up<'a>(&mut self, candidates: impl Iterator<Item = Candidate<'a>>) {
        let able: Vec<_> = candidates.filter(|c| c.offer.satisfies(&self.key.platform)).collect();
        let fresh = |c: &&Candidate<'_>| self.key.prefers(c);
        let only_lost = !able.iter().any(|c| fresh(&c));
        let members = || able.iter().filter(|c| only_lost || fresh(c));
        self.workers = members().map(|c| c.id).collect();
        self.idle = members().filter(|c| c.ready.idle).map(|c| c.id).collect();
        self.free = members().filter(|c| c.ready.free).map(|c| c.id).collect();
        self.eager = members().filter(|c| c.ready.eager).map(|c| c.id).collect();
        self.only_lost = only_lost;
    }

    /// Notes that a worker is there, or has changed; true when those that are avoided may have to do.
    fn comes(&mut self, now: &Candidate<'_>) -> bool {
        let is_preferred = self.key.prefers(now);
        if !is_preferred && !self.workers.is_empty() && !self.only_lost {
            // It may have been one.
            return self.goes(now.id);
        }
        if is_preferred && self.only_lost {
            for workers in [&mut self.workers, &mut self.idle, &mut self.free, &mut self.eager] {
                workers.clear();
            }
        }
        self.only_lost = !is_preferred;
        self.workers.insert(now.id);
        self.is_ready(now.id, now.ready);
        false
    }

    /// Notes that a worker takes nothing more; true when those that are avoided may have to do.
    fn goes(&mut self, worker: WorkerId) -> bool {
        let was_there = self.workers.remove(&worker);
        self.is_ready(worker, Ready::default());
        was_there && self.workers.is_empty() && !self.only_lost && !self.key.avoid.is_empty()
    }

    fn is_ready(&mut self, worker: WorkerId, ready: Ready) {
        let Ready { idle, free, eager } = ready;
        for (set, is_in) in [(&mut self.idle, idle), (&mut self.free, free), (&mut self.eager, eager)] {
            if is_in {
                set.insert(worker);
            } else {
                set.remove(&worker);
            }
        }
    }
}

impl Classes {
    /// Counts a run in, and says which class it is of.
    pub(super) fn join<'a>(
        &mut self,
        key: ClassKey,
        candidates: impl Iterator<Item = Candidate<'a>>,
    ) -> ClassId {
        if let Some(id) = self.ids.get(&key) {
            let class = self.classes.get_mut(id).expect("ids and classes agree");
            class.members += 1;
            if self.unused.remove(id) {
                // What was said of its last runs is not meant for this one.
                class.given_up_at = None;
            }
            return *id;
        }
        self.last_id += 1;
        let id = ClassId(self.last_id);
        let mut class = Class {
            key: key.clone(),
            workers: BTreeSet::new(),
            idle: BTreeSet::new(),
            free: BTreeSet::new(),
            eager: BTreeSet::new(),
            only_lost: false,
            given_up_at: None,
            members: 1,
        };
        class.match_up(candidates);
        self.ids.insert(key, id);
        self.classes.insert(id, class);
        id
    }

    /// Whether there is such a class, with a worker.
    pub(super) fn is_served(&self, key: &ClassKey) -> bool {
        self.ids.get(key).is_some_and(|id| !self.classes[id].workers.is_empty())
    }

    /// Whether there is such a class with a run.
    pub(super) fn has(&self, key: &ClassKey) -> bool {
        self.ids.get(key).is_some_and(|id| !self.unused.contains(id))
    }

    /// Counts a run out.
    pub(super) fn leave(&mut self, id: ClassId) {
        let class = self.classes.get_mut(&id).expect("runs are of a class");
        class.members -= 1;
        if class.members > 0 {
            return;
        }
        self.unused.insert(id);
        // A class that avoids somebody is one run's, and has to be matched anew for every worker that comes.
        let is_singular = !class.key.avoid.is_empty();
        let dropped = if is_singular { Some(id) } else { self.unused.first().copied() };
        if let Some(dropped) = dropped.filter(|_| is_singular || self.unused.len() > UNUSED_KEPT_MAX) {
            self.unused.remove(&dropped);
            let class = self.classes.remove(&dropped).expect("unused classes are there");
            self.ids.remove(&class.key);
        }
    }

    /// Brings every class up to date with a worker. `now` is none when it takes no more work. All candidates are looked
    /// at only for a class that this leaves without any: many workers may go at once, each with runs of their own classes.
    pub(super) fn worker_changed<'a, C>(
        &mut self,
        worker: WorkerId,
        now: Option<Candidate<'_>>,
        candidates: impl Fn() -> C,
    ) where
        C: Iterator<Item = Candidate<'a>>,
    {
        for class in self.classes.values_mut() {
            let others_must_do = match now.as_ref().filter(|now| now.offer.satisfies(&class.key.platform)) {
                Some(now) => class.comes(now),
                None => class.goes(worker),
            };
            if others_must_do {
                class.match_up(candidates());
            }
            if !class.workers.is_empty() {
                class.given_up_at = None;
            }
        }
    }

    /// Notes in every class of a worker what it is ready for.
    pub(super) fn worker_is_ready(&mut self, worker: WorkerId, ready: Ready) {
        for class in self.classes.values_mut().filter(|class| class.workers.contains(&worker)) {
            class.is_ready(worker, ready);
        }
    }

    pub(super) fn get(&self, id: ClassId) -> &Class {
        &self.classes[&id]
    }

    pub(super) fn find(&self, id: ClassId) -> Option<&Class> {
        self.classes.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: ClassId) -> &mut Class {
        self.classes.get_mut(&id).expect("runs are of a class")
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (ClassId, &Class)> {
        self.classes.iter().map(|(id, class)| (*id, class))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Class> {
        self.classes.values_mut()
    }

    /// How many have a run.
    pub(super) fn len(&self) -> usize {
        self.classes.len() - self.unused.len()
    }

    /// That all that was brought up to date worker by worker is what matching anew gives.
    #[cfg(test)]
    pub(super) fn check<'a, C>(&self, candidates: impl Fn() -> C)
    where
        C: Iterator<Item = Candidate<'a>>,
    {
        for class in self.classes.values() {
            let mut anew = Class {
                key: class.key.clone(),
                workers: BTreeSet::new(),
                idle: BTreeSet::new(),
                free: BTreeSet::new(),
                eager: BTreeSet::new(),
                only_lost: false,
                given_up_at: None,
                members: 0,
            };
            anew.match_up(candidates());
            let sets =
                |class: &Class| [&class.workers, &class.idle, &class.free, &class.eager].map(BTreeSet::clone);
            assert_eq!(sets(class), sets(&anew), "{:?}", class.key);
        }
    }
}
