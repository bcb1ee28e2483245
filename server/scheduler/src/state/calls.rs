//! Who is called when there may be something for it: a few workers that can take what waits, and not all that listen.
//!
//! A worker that looked and found nothing *sleeps* until it is called. Whatever may let something start *stirs* a class of
//! runs, or a worker. For each stirred class one sleeping worker is called that can take its next run. Whoever looks
//! stirs the classes that it serves, and so hands on what it leaves. Between two calls of
//! [`take_called`](Scheduler::take_called) therefore holds: when a sleeping worker could be given something, a worker was
//! called and has not looked yet. What time alone changes is found by [`tick`](Scheduler::tick), as is the work of
//! a worker that was called and does not look.

use std::collections::BTreeSet;
use std::time::Instant;

use wardian_proto::InstanceName;

use super::{Scheduler, Worker};
use crate::fair::ClassId;
use crate::job::WorkerId;

/// What may have become startable since it was looked at last.
#[derive(Debug, Default)]
pub(super) struct Stirred {
    classes: BTreeSet<ClassId>,
    workers: BTreeSet<WorkerId>,
    all: bool,
    /// It is time to keep workers free for what needs more memory than is free anywhere.
    due: bool,
    /// Those that are to hear of something else than work.
    told: BTreeSet<WorkerId>,
}

impl Stirred {
    /// Something waits that did not.
    pub(super) fn class(&mut self, class: ClassId) {
        self.classes.insert(class);
    }

    /// Somebody can take what it could not.
    pub(super) fn worker(&mut self, worker: WorkerId) {
        self.workers.insert(worker);
    }

    /// Anything may have changed.
    pub(super) fn all(&mut self) {
        self.all = true;
    }

    /// So may what time changes.
    pub(super) fn due(&mut self) {
        (self.all, self.due) = (true, true);
    }

    /// A worker is to look in any case.
    pub(super) fn tell(&mut self, worker: WorkerId) {
        self.told.insert(worker);
    }

    fn is_empty(&self) -> bool {
        self.classes.is_empty() && self.workers.is_empty() && self.told.is_empty() && !self.all
    }
}

impl Scheduler {
    /// Notes that a worker found nothing and waits to be called.
    pub fn sleep(&mut self, worker: WorkerId) {
        let Some(entry) = self.workers.get_mut(&worker) else { return };
        entry.asleep = true;
        self.note_idle(worker);
        self.stirred.worker(worker);
        self.check();
    }

    /// Notes that a worker looks by itself, and has other things to do until it sleeps again.
    pub fn wake(&mut self, worker: WorkerId) {
        if let Some(entry) = self.workers.get_mut(&worker) {
            entry.asleep = false;
            self.note_idle(worker);
        }
    }

    /// Notes that nobody listens on a worker's behalf: what it was called for is for others.
    pub fn absent(&mut self, worker: WorkerId) {
        self.wake(worker);
        self.stirred.all();
        self.check();
    }

    /// Workers that are to look what there is for them, since the last call.
    pub fn take_called(&mut self, now: Instant) -> BTreeSet<WorkerId> {
        if self.stirred.is_empty() {
            return BTreeSet::new();
        }
        let Stirred { mut classes, workers, all, due, told } = std::mem::take(&mut self.stirred);
        let mut called = told;
        if self.paused || self.is_settling(now) {
            // What ends either stirs everything.
            return called;
        }
        if all {
            classes = self.queue.depths().map(|(class, ..)| class).collect();
        }
        for class in classes {
            called.extend(self.sleeper_for(now, class, due));
        }
        // What goes first for those that are kept free changes with every start: shares and limits do.
        let kept = self.kept_free.values().copied();
        called.extend(workers.into_iter().chain(kept).filter(|worker| self.has_something_for(*worker)));
        called.iter().for_each(|worker| self.wake(*worker));
        self.check();
        called
    }

    /// A sleeping worker that can take the next run of a class.
    fn sleeper_for(&self, now: Instant, class: ClassId, due: bool) -> Option<WorkerId> {
        let entry = self.classes.find(class).filter(|entry| !entry.idle.is_empty())?;
        let (first, _) = self.queue.next(&[class], |tenant, class| self.may_start(tenant, class))?;
        let mut free = entry
            .idle
            .iter()
            .filter(|worker| !self.is_kept_free(**worker) || self.has_something_for(**worker));
        let able = free.clone().find(|worker| self.workers[worker].has_room(entry.key.memory));
        let waited = || now.saturating_duration_since(self.runs[&first].since);
        let wants_one =
            || due && waited() >= self.limits.memory_patience && !self.kept_free.contains_key(&first);
        able.or_else(|| if wants_one() { free.next() } else { None }).copied()
    }

    /// Whether a sleeping worker would be given a run if it looked: what [`assign`](Scheduler::assign) does, without
    /// the doing.
    fn has_something_for(&self, worker: WorkerId) -> bool {
        let Some(entry) = self.workers.get(&worker).filter(|entry| entry.idle) else { return false };
        let has_room = |class: &ClassId| entry.has_room(self.classes.get(*class).key.memory);
        let next =
            |classes: &[ClassId]| self.queue.next(classes, |tenant, class| self.may_start(tenant, class));
        let mut able = self.able(worker);
        let Some((first, class)) = next(&able) else { return false };
        if has_room(&class) {
            return true;
        }
        if self.kept_free.get(&first) == Some(&worker) {
            return false;
        }
        able.retain(has_room);
        next(&able).is_some()
    }

    /// The classes that a worker serves in which something waits.
    pub(super) fn able(&self, worker: WorkerId) -> Vec<ClassId> {
        self.queue
            .depths()
            .map(|(class, ..)| class)
            .filter(|class| self.classes.get(*class).workers.contains(&worker))
            .collect()
    }

    /// Whether a tenant's limits let it start one more run of a class.
    pub(super) fn may_start(&self, tenant: &InstanceName, class: ClassId) -> bool {
        self.tenant_limit(tenant, self.classes.get(class).key.memory).is_none()
    }

    fn is_kept_free(&self, worker: WorkerId) -> bool {
        self.kept_free.values().any(|kept| *kept == worker)
    }

    /// Brings the books up to date that say who sleeps and has a free slot.
    pub(super) fn note_idle(&mut self, worker: WorkerId) {
        let Some(entry) = self.workers.get_mut(&worker) else { return };
        let idle = entry.is_idle();
        if std::mem::replace(&mut entry.idle, idle) != idle {
            self.classes.worker_idles(worker, idle);
        }
    }
}

impl Worker {
    /// Whether it sleeps and could be given something.
    pub(super) fn is_idle(&self) -> bool {
        self.asleep && self.takes_work().is_some() && self.free_slots() > 0
    }
}
