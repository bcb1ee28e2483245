//! Workers: who there is, what each has, and what it is given next.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use wardian_proto::rpc;

use super::ahead::Ahead;
use super::calls::Choice;
use super::classes::{Candidate, ClassKey, Ready};
use super::run::{Attempt, Given, Holding, Phase, Question, Run, Standing};
use super::{Scheduler, failed};
use crate::figures::{Loss, Timed};
use crate::job::{RunId, WorkerId};
use crate::platform::Offer;

/// Attempts of one run that are remembered, those that no worker got to know of included. A run with more is given up.
const ATTEMPTS_KEPT_MAX: usize = 100;

/// Attempts named in the message of an action that was given up, at the most.
const ATTEMPTS_NAMED_MAX: usize = 8;

/// Somebody who runs things.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) offer: Offer,
    /// What it has, begun or not.
    pub(super) runs: BTreeSet<RunId>,
    pub(super) ahead: Ahead,
    /// What its runs are expected to take of its memory, in bytes.
    pub(super) memory_used: u64,
    /// It finishes what it has and gets nothing more.
    draining: bool,
    /// It gets nothing until it is told otherwise.
    paused: bool,
    /// It looked, found nothing, and waits to be called.
    pub(super) asleep: bool,
    /// Nobody listens on its behalf.
    pub(super) absent: bool,
    /// What it is ready for, as the classes know.
    pub(super) ready: Ready,
    /// When it counts as lost unless it is heard of before.
    lease: Option<Instant>,
}

/// A worker as others see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerView {
    /// Its name here.
    pub id: WorkerId,
    /// What it is and can do.
    pub offer: Offer,
    /// Runs that have one of its slots.
    pub running: usize,
    /// Runs it has beside those, which wait for a slot.
    pub ahead: usize,
    /// What all of them are expected to take of its memory, in bytes.
    pub memory_used: u64,
    /// It gets nothing more.
    pub draining: bool,
    /// It gets nothing for now.
    pub paused: bool,
}

impl Worker {
    /// What it offers, if it can be given something at all, now or later.
    pub(super) fn offers(&self) -> Option<&Offer> {
        (!self.draining && self.offer.slots > 0).then_some(&self.offer)
    }

    /// Whether it can be given something as it is now.
    pub(super) fn takes_work(&self) -> bool {
        self.offers().is_some() && !self.paused
    }

    /// How many of its runs have a slot.
    pub(super) fn begun(&self) -> usize {
        self.runs.len() - self.ahead.runs.len()
    }

    /// Slots that could be given something: those that are kept for what others were asked for are none.
    pub(super) fn free_slots(&self) -> usize {
        self.offer.slots.saturating_sub(self.runs.len() + self.ahead.asking.len())
    }

    /// How much it may be given ahead: nothing as long as a slot is free, kept or not.
    pub(super) fn room_ahead(&self) -> usize {
        if self.runs.len() < self.offer.slots || !self.takes_work() || self.ahead.is_slow {
            return 0;
        }
        (self.offer.slots + self.offer.ahead).saturating_sub(self.runs.len())
    }

    pub(super) fn free_memory(&self) -> u64 {
        let used = self.memory_used + self.ahead.memory_asked();
        self.offer.memory_bytes.map_or(u64::MAX, |all| all.saturating_sub(used))
    }

    fn candidate(&self, id: WorkerId) -> Option<Candidate<'_>> {
        Some(Candidate { id, offer: self.offers()?, takes_work: self.takes_work(), ready: self.ready })
    }

    /// Whether a run fits beside those it has. One that could never fit may run alone.
    pub(super) fn has_room(&self, memory: u64) -> bool {
        (self.runs.is_empty() && self.ahead.asking.is_empty()) || memory <= self.free_memory()
    }
}

/// Those that can be given something.
pub(super) fn candidates(workers: &BTreeMap<WorkerId, Worker>) -> impl Iterator<Item = Candidate<'_>> {
    workers.iter().filter_map(|(id, worker)| worker.candidate(*id))
}

impl Scheduler {
    /// Adds a worker.
    pub fn add_worker(&mut self, offer: Offer) -> WorkerId {
        let id = WorkerId(self.fresh_id());
        let worker = Worker {
            offer,
            runs: BTreeSet::new(),
            ahead: Ahead::default(),
            memory_used: 0,
            draining: false,
            paused: false,
            asleep: false,
            absent: false,
            ready: Ready::default(),
            lease: None,
        };
        self.workers.insert(id, worker);
        self.worker_changed(id);
        id
    }

    /// Whether there is a worker of that name.
    pub fn has_worker(&self, worker: WorkerId) -> bool {
        self.workers.contains_key(&worker)
    }

    /// Says until when a worker counts as alive without being heard of again. A worker that was never spoken of
    /// here is never lost.
    pub fn renew_lease(&mut self, worker: WorkerId, until: Instant) -> bool {
        self.workers.get_mut(&worker).map(|worker| worker.lease = Some(until)).is_some()
    }

    /// Gives a worker nothing more, or something again; false when there is none of that name. What it has not begun it is
    /// asked to give back.
    pub fn drain(&mut self, now: Instant, worker: WorkerId, draining: bool) -> bool {
        let Some(entry) = self.workers.get_mut(&worker) else { return false };
        entry.draining = draining;
        self.takes_other(now, worker);
        true
    }

    /// Gives a worker nothing for now, or something again; false when there is none of that name. What only it can serve
    /// waits for it meanwhile. What it has not begun it is asked to give back.
    pub fn pause_worker(&mut self, now: Instant, worker: WorkerId, paused: bool) -> bool {
        let Some(entry) = self.workers.get_mut(&worker) else { return false };
        entry.paused = paused;
        self.takes_other(now, worker);
        true
    }

    fn takes_other(&mut self, now: Instant, worker: WorkerId) {
        self.stirred.tell(worker);
        let takes_work = self.workers[&worker].takes_work();
        self.kept_free.retain(|_, kept| takes_work || *kept != worker);
        self.worker_changed(worker);
        if !takes_work {
            self.ask_for_all(now, worker);
        }
        self.note_unserved(now);
        self.check();
    }

    /// Removes a worker. What it had is queued again at its old place, for another worker if there is one, or ends
    /// when it was started too often.
    pub fn remove_worker(&mut self, now: Instant, worker: WorkerId, loss: &Loss) {
        let Some(removed) = self.workers.get(&worker) else { return };
        let asked: Vec<RunId> = removed.ahead.asking.keys().copied().collect();
        let (waited, lost): (Vec<RunId>, Vec<RunId>) =
            removed.runs.iter().partition(|id| self.runs[id].is_ahead());
        for id in waited.iter().chain(&lost) {
            self.note_attempt(now, worker, *id, loss);
        }
        for id in asked {
            self.asks_no_more(id);
        }
        self.totals.count_gone(loss);
        self.workers.remove(&worker);
        self.stirred.tell(worker);
        self.kept_free.retain(|_, kept| *kept != worker);
        self.worker_changed(worker);
        for id in lost {
            self.try_again(now, id);
        }
        for id in waited {
            self.queue_again(now, id);
        }
        self.note_unserved(now);
        self.check();
    }

    /// Queues a run again whose worker was lost.
    fn try_again(&mut self, now: Instant, id: RunId) {
        let run = self.runs.get_mut(&id).expect("callers name a run that exists");
        let starts = run.attempts.iter().filter(|attempt| attempt.reason.may_have_begun()).count();
        let given_up = starts >= self.limits.attempts_max || run.attempts.len() >= ATTEMPTS_KEPT_MAX;
        if !run.operations.is_empty() && !given_up {
            let avoid = run.attempts.iter().map(|attempt| attempt.worker.clone()).collect();
            let platform = run.job.platform.demands();
            let key = ClassKey { platform, memory: run.place.memory, avoid };
            let before = run.place.class;
            run.place.class = self.classes.join(key, candidates(&self.workers));
            self.classes.leave(before);
            self.queue.push(id, &run.place, self.tenants.policy(&run.place.tenant).weight);
            self.stirred.class(run.place.class);
            self.changed.extend(run.operations.iter().cloned());
            return;
        }
        let attempts: Vec<String> =
            run.attempts.iter().take(ATTEMPTS_NAMED_MAX).map(ToString::to_string).collect();
        let text = format!("started {starts} times without a result: {}", attempts.join("; "));
        if given_up {
            self.totals.given_up += 1;
        }
        // It must stand somewhere to be taken out like any other.
        self.queue.push(id, &run.place, self.tenants.policy(&run.place.tenant).weight);
        let is_unable = |attempt: &Attempt| matches!(attempt.reason, Loss::Unable(_));
        let code = match self.runs[&id].attempts.iter().all(is_unable) {
            // Nothing is wrong with the action: it may be sent again.
            true => rpc::Code::Unavailable,
            false => rpc::Code::Internal,
        };
        self.end_run(now, id, failed(code, text));
    }

    /// Gives a worker the run that goes next among those it can serve: one to begin when it has a free slot, else one
    /// ahead. When nothing waits for a free slot, others are asked for what they were given ahead.
    pub fn assign(&mut self, now: Instant, worker: WorkerId) -> Option<Given> {
        if !self.workers.get(&worker)?.takes_work() {
            // Others were called when it ceased to.
            return None;
        }
        // What it leaves is for others.
        self.able(worker).into_iter().for_each(|class| self.stirred.class(class));
        for class in self.askable.keys().filter(|class| self.classes.get(**class).workers.contains(&worker)) {
            self.stirred.class(*class);
        }
        let entry = self.workers.get_mut(&worker)?;
        if std::mem::take(&mut entry.absent) {
            self.note_ready(worker);
        }
        loop {
            match self.choice(now, worker) {
                Choice::Begin(run) => return Some(self.give(now, worker, run)),
                Choice::Ahead(run) => return Some(self.give_ahead(now, worker, run)),
                // Each has a slot kept for it, so there are no more than free slots.
                Choice::AskFor(run) => self.ask_for(now, run, Some(worker)),
                Choice::KeepFree(run) => {
                    self.kept_free.insert(run, worker);
                    return None;
                }
                Choice::Nothing => return None,
            }
        }
    }

    fn give(&mut self, now: Instant, worker: WorkerId, id: RunId) -> Given {
        let waited = now.saturating_duration_since(self.runs[&id].since);
        self.totals.count_stage(Timed::Queued, waited);
        let given = self.take_up(now, worker, id, Phase::Begun);
        self.check();
        given
    }

    fn give_ahead(&mut self, now: Instant, worker: WorkerId, id: RunId) -> Given {
        self.totals.ahead_given += 1;
        let given = self.take_up(now, worker, id, Phase::Ahead(Question::None));
        self.check();
        given
    }

    fn take_up(&mut self, now: Instant, worker: WorkerId, id: RunId, phase: Phase) -> Given {
        let run = self.runs.get_mut(&id).expect("queued runs exist");
        let charges = self.queue.start(id, &run.place);
        run.standing = Standing::At { worker, charges, phase, metadata: Box::default() };
        if let Some(kept) = self.kept_free.remove(&id) {
            self.stirred.worker(kept);
        }
        let entry = self.workers.get_mut(&worker).expect("callers name a worker that exists");
        entry.runs.insert(id);
        entry.memory_used += run.place.memory;
        let ahead = run.question().is_some();
        if ahead {
            // Those who wait see no difference, and neither does what is counted by time.
            if entry.ahead.runs.is_empty() {
                entry.ahead.moves(now);
            }
            entry.ahead.runs.push(id);
            self.askable.entry(run.place.class).or_default().insert(id);
        } else {
            run.since = now;
            self.changed.extend(run.operations.iter().cloned());
        }
        let given = Given {
            run: id,
            job: Arc::clone(&run.job),
            queued_at: run.queued_at,
            attempt: run.attempts.len() + 1,
            ahead,
        };
        self.note_ready(worker);
        given
    }

    /// Whether a worker that says it has this shall keep it: it was given the run and still has it, or the run has no
    /// worker and it may as well stay where it is, as long as there is room for it in the books. What has ended needs none.
    pub fn keeps(&mut self, now: Instant, worker: WorkerId, run: RunId, holding: Holding) -> bool {
        let Some(entry) = self.runs.get(&run) else { return false };
        let Some(at) = self.workers.get(&worker) else { return false };
        if let Some(other) = entry.worker() {
            if other == worker && holding != Holding::Waiting {
                self.has_begun(now, worker, run);
            }
            return other == worker;
        }
        let has_slot =
            |id: &&RunId| matches!(self.runs[id].standing, Standing::At { phase: Phase::Begun, .. });
        let all = at.offer.slots + at.offer.ahead;
        let (fits, phase) = match holding {
            Holding::Ended => (true, Phase::Ended),
            Holding::Begun => (at.runs.iter().filter(has_slot).count() < at.offer.slots, Phase::Begun),
            Holding::Waiting => {
                // Settings may have changed since it was given: it is to be one that it would be given now.
                let demands = &self.classes.get(entry.place.class).key.platform;
                let fits = at.takes_work() && at.offer.satisfies(demands) && at.runs.len() < all;
                (fits, Phase::Ahead(Question::None))
            }
        };
        if !fits || (holding != Holding::Ended && !at.has_room(entry.place.memory)) {
            return false;
        }
        let name = &at.offer.name;
        let entry = self.runs.get_mut(&run).expect("looked at just now");
        // It was silent and has gone on all the same: the same start.
        if entry.attempts.last().is_some_and(|a| a.worker == *name && a.reason == Loss::Silent) {
            entry.attempts.pop();
        }
        self.take_up(now, worker, run, phase);
        self.promote(now, worker);
        self.check();
        true
    }

    /// Takes a run from a worker that does not have it, and queues it again like that of a worker that was lost.
    pub fn give_back(&mut self, now: Instant, worker: WorkerId, id: RunId, loss: &Loss) {
        let Some(run) = self.runs.get(&id).filter(|run| run.worker() == Some(worker)) else { return };
        if run.is_ahead() && matches!(loss, Loss::Unable(_)) {
            // It says what came of it, so it has begun; its own word of that is still on its way.
            self.leave_ahead(now, id);
        }
        let waited = self.runs[&id].is_ahead();
        self.note_attempt(now, worker, id, loss);
        if waited {
            self.queue_again(now, id);
        } else {
            self.try_again(now, id);
        }
        self.promote(now, worker);
        self.note_unserved(now);
        self.check();
    }

    /// Takes a run from its worker. One that waited there has not been started.
    fn note_attempt(&mut self, now: Instant, worker: WorkerId, id: RunId, loss: &Loss) {
        let mut run = self.runs.remove(&id).expect("workers have runs that exist");
        let waited = run.is_ahead();
        self.take_from_worker(now, id, &mut run);
        if !waited {
            self.totals.count_retry(loss);
            let name = self.workers[&worker].offer.name.clone();
            run.attempts.push(Attempt { worker: name, reason: loss.clone() });
        }
        self.runs.insert(id, run);
    }

    /// The runs that a worker has.
    pub fn runs_of(&self, worker: WorkerId) -> Vec<RunId> {
        self.workers.get(&worker).map_or_else(Vec::new, |worker| worker.runs.iter().copied().collect())
    }

    /// Whether there is a worker of this name.
    pub fn has_worker_named(&self, name: &str) -> bool {
        self.workers.values().any(|worker| worker.offer.name == name)
    }

    /// Every worker, in the order of joining.
    pub fn workers(&self) -> impl Iterator<Item = WorkerView> {
        self.workers.iter().map(|(id, worker)| WorkerView {
            id: *id,
            offer: worker.offer.clone(),
            running: worker.begun(),
            ahead: worker.ahead.runs.len(),
            memory_used: worker.memory_used,
            draining: worker.draining,
            paused: worker.paused,
        })
    }

    /// Nobody could be heard for so long: no worker is to be lost for it, and nothing given up.
    pub fn stood_still(&mut self, time: Duration) {
        let leases = self.workers.values_mut().filter_map(|worker| worker.lease.as_mut());
        let given_up = self.classes.iter_mut().filter_map(|class| class.given_up_at.as_mut());
        let patient = self.runs.values_mut().filter_map(|run| run.patient_until.as_mut());
        leases
            .chain(&mut self.settling_until)
            .chain(given_up)
            .chain(patient)
            .for_each(|until| *until += time);
    }

    pub(super) fn lose_silent_workers(&mut self, now: Instant) {
        let silent: Vec<WorkerId> = self
            .workers
            .iter()
            .filter(|(_, worker)| worker.lease.is_some_and(|until| until <= now))
            .map(|(id, _)| *id)
            .collect();
        for worker in silent {
            self.remove_worker(now, worker, &Loss::Silent);
        }
    }

    /// Frees what a run has of its worker, and corrects what it was charged. Afterwards it stands nowhere: it must be
    /// queued again or forgotten.
    pub(super) fn take_from_worker(&mut self, now: Instant, id: RunId, run: &mut Run) {
        let question = run.question();
        let Standing::At { worker, charges, .. } = std::mem::replace(&mut run.standing, Standing::Waiting)
        else {
            return;
        };
        if let Some(question) = question {
            self.queue.finish(&run.place, charges, None);
            self.no_longer_ahead(worker, id, run.place.class, question);
        } else {
            let used: Duration = now.saturating_duration_since(run.since);
            self.queue.finish(&run.place, charges, Some(used));
            self.totals.add_worker_time(&run.place.tenant, used);
            run.since = now;
        }
        self.untied.push(id);
        let entry = self.workers.get_mut(&worker).expect("runs stand with workers that exist");
        entry.runs.remove(&id);
        entry.memory_used -= run.place.memory;
        if question.is_none() {
            entry.ahead.moves(now);
        }
        self.note_ready(worker);
        self.stirred.worker(worker);
        let policy = self.tenants.policy(&run.place.tenant);
        if policy.limits_running() {
            // Its next run may be one for other workers.
            self.stirred.all();
        }
    }

    fn worker_changed(&mut self, worker: WorkerId) {
        if let Some(entry) = self.workers.get_mut(&worker) {
            entry.ready = entry.readiness();
        }
        let (classes, workers) = (&mut self.classes, &self.workers);
        let now = workers.get(&worker).and_then(|entry| entry.candidate(worker));
        classes.worker_changed(worker, now, || candidates(workers));
        self.stirred.all();
        // Nobody is kept free for what it may not be given any more.
        let (kept, runs) = (&mut self.kept_free, &self.runs);
        kept.retain(|run, at| {
            runs.get(run).is_some_and(|run| classes.get(run.place.class).workers.contains(at))
        });
    }

    /// Sets the time at which runs are given up that nobody can serve any more.
    fn note_unserved(&mut self, now: Instant) {
        let until = now + self.limits.unserved_max;
        for class in self.classes.iter_mut().filter(|class| class.workers.is_empty()) {
            class.given_up_at.get_or_insert(until);
        }
    }
}
