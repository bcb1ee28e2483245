//! Who is called when there may be something for it: a few workers that can take what waits, and not all that listen.
//!
//! A worker that looked and found nothing *sleeps* until it is called. Whatever may let something start *stirs* a class of
//! runs, or a worker. For each stirred class one sleeping worker is called that can take its next run. Whoever looks
//! stirs the classes that it serves, and so hands on what it leaves. Between two calls of
//! [`take_called`](Scheduler::take_called) therefore holds: when a sleeping worker could be given something, a worker was
//! called and has not looked yet. What time alone changes is found by [`tick`](Scheduler::tick), as is the work of
//! a worker that was called and does not look. So are, at the latest, runs that could be given ahead when what went before
//! them is gone: they begin no sooner for being given before their time.

use std::collections::BTreeSet;
use std::time::Instant;

use wardian_proto::InstanceName;

use super::classes::Ready;
use super::{Scheduler, Worker};
use crate::fair::ClassId;
use crate::job::{RunId, WorkerId};

/// Workers without a free slot that are looked at for one that takes a run ahead. What they leave begins all the same as
/// soon as a slot is free.
const EAGER_LOOKED_AT_MAX: usize = 8;

/// What there is for a worker that looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// A run to be begun.
    Begin(RunId),
    /// A run for when it has a free slot.
    Ahead(RunId),
    /// A run that another worker has and has not begun.
    AskFor(RunId),
    /// Nothing, so that memory for a run becomes free.
    KeepFree(RunId),
    Nothing,
}

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
        (entry.asleep, entry.absent) = (true, false);
        self.note_ready(worker);
        self.stirred.worker(worker);
        self.check();
    }

    /// Notes that a worker looks by itself, and has other things to do until it sleeps again.
    pub fn wake(&mut self, worker: WorkerId) {
        if let Some(entry) = self.workers.get_mut(&worker) {
            entry.asleep = false;
            self.note_ready(worker);
        }
    }

    /// Notes that nobody listens on a worker's behalf: what it was called for is for others.
    pub fn absent(&mut self, worker: WorkerId) {
        if let Some(entry) = self.workers.get_mut(&worker) {
            (entry.asleep, entry.absent) = (false, true);
            self.note_ready(worker);
        }
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
            classes.extend(self.askable.keys());
        }
        for class in classes {
            called.extend(self.sleeper_for(now, class, due));
            called.extend(self.asker_for(now, class));
        }
        // What goes first for those that are kept free changes with every start: shares and limits do.
        let kept = self.kept_free.values().copied();
        called.extend(workers.into_iter().chain(kept).filter(|worker| self.has_something_for(now, *worker)));
        called.iter().for_each(|worker| self.wake(*worker));
        self.check();
        called
    }

    /// A sleeping worker that can take the next run of a class.
    fn sleeper_for(&self, now: Instant, class: ClassId, due: bool) -> Option<WorkerId> {
        let entry = self.classes.find(class)?;
        if entry.idle.is_empty() && entry.eager.is_empty() {
            return None;
        }
        let (first, _) = self.queue.next(&[class], |tenant, class| self.may_start(tenant, class))?;
        let mut free = entry
            .idle
            .iter()
            .filter(|worker| !self.is_kept_free(**worker) || self.has_something_for(now, **worker));
        let able = free.clone().find(|worker| self.workers[worker].has_room(entry.key.memory));
        let waited = || now.saturating_duration_since(self.runs[&first].since);
        let wants_one =
            || due && waited() >= self.limits.memory_patience && !self.kept_free.contains_key(&first);
        able.or_else(|| if wants_one() { free.next() } else { None })
            .or_else(|| self.eager_one_for(now, class, first))
            .copied()
    }

    /// A sleeping worker without a free slot that takes the next run of a class ahead.
    fn eager_one_for(&self, now: Instant, class: ClassId, first: RunId) -> Option<&WorkerId> {
        if self.runs[&first].came_back || self.is_somebody_free(class) {
            return None;
        }
        let mut eager = self.classes.get(class).eager.iter().take(EAGER_LOOKED_AT_MAX);
        eager.find(|worker| matches!(self.choice(now, **worker), Choice::Ahead(_)))
    }

    /// A sleeping worker with a free slot that would have a run of a class that another one was given ahead.
    fn asker_for(&self, now: Instant, class: ClassId) -> Option<WorkerId> {
        self.askable.get(&class)?;
        let class = self.classes.get(class);
        let has_room = |worker: &&WorkerId| self.workers[*worker].has_room(class.key.memory);
        let asks = |worker: &&WorkerId| matches!(self.choice(now, **worker), Choice::AskFor(_));
        class.idle.iter().filter(has_room).find(asks).copied()
    }

    /// Whether a sleeping worker would find something if it looked.
    fn has_something_for(&self, now: Instant, worker: WorkerId) -> bool {
        let is_ready = self.workers.get(&worker).is_some_and(|entry| entry.ready.idle || entry.ready.eager);
        let is_something = |choice| matches!(choice, Choice::Begin(_) | Choice::Ahead(_) | Choice::AskFor(_));
        is_ready && is_something(self.choice(now, worker))
    }

    /// What a worker finds when it looks.
    pub(super) fn choice(&self, now: Instant, worker: WorkerId) -> Choice {
        let Some(entry) = self.workers.get(&worker) else { return Choice::Nothing };
        if self.paused || self.is_settling(now) || !entry.takes_work() {
            return Choice::Nothing;
        }
        if entry.free_slots() == 0 {
            return self.next_ahead(worker).map_or(Choice::Nothing, Choice::Ahead);
        }
        let next =
            |classes: &[ClassId]| self.queue.next(classes, |tenant, class| self.may_start(tenant, class));
        let has_room = |class: &ClassId| entry.has_room(self.classes.get(*class).key.memory);
        let mut able = self.able(worker);
        if let Some((first, class)) = next(&able) {
            if has_room(&class) {
                return Choice::Begin(first);
            }
            let patient =
                now.saturating_duration_since(self.runs[&first].since) < self.limits.memory_patience;
            if !patient && self.kept_free.get(&first).is_none_or(|kept| *kept == worker) {
                return Choice::KeepFree(first);
            }
            able.retain(has_room);
            if let Some((run, _)) = next(&able) {
                return Choice::Begin(run);
            }
        }
        self.next_to_ask_for(worker).map_or(Choice::Nothing, Choice::AskFor)
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

    pub(super) fn is_kept_free(&self, worker: WorkerId) -> bool {
        self.kept_free.values().any(|kept| *kept == worker)
    }

    /// Brings the books up to date that say who is ready for what.
    pub(super) fn note_ready(&mut self, worker: WorkerId) {
        let Some(entry) = self.workers.get_mut(&worker) else { return };
        let ready = entry.readiness();
        if std::mem::replace(&mut entry.ready, ready) != ready {
            self.classes.worker_is_ready(worker, ready);
        }
    }
}

impl Worker {
    /// What it is ready for. One that takes no work, or that nobody listens for, is ready for nothing.
    pub(super) fn readiness(&self) -> Ready {
        if !self.takes_work() || self.absent {
            return Ready::default();
        }
        let free = self.free_slots() > 0;
        Ready { idle: self.asleep && free, free, eager: self.asleep && self.room_ahead() > 0 }
    }
}
