//! Runs given ahead: what a worker elsewhere has beside what its slots run, so that it need not wait for the server between
//! two actions.
//!
//! Such a run is the worker's like any other, and still waits in the eyes of everybody else. It begins when a run of the
//! worker ends, in the order in which they were given. A worker with a free slot and nothing to do asks for it, through the
//! server: then the one that has it gives it back, unless it has begun. Whatever came back once is not given ahead again, so
//! that nothing goes to and fro.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use wardian_proto::InstanceName;

use super::Scheduler;
use super::run::{Phase, Question, Standing};
use super::workers::Worker;
use crate::fair::ClassId;
use crate::figures::Timed;
use crate::job::{RunId, WorkerId};

/// For how long a slot is kept for a run that another worker was asked to give back. Then it may be given something else.
const QUESTION_TIME_MAX: Duration = Duration::from_secs(1);

/// For how long a worker may begin nothing before what it has ahead goes back to the queue: others may begin it sooner.
/// It is given nothing ahead then until one of its runs has ended, so that long runs cost one question and no more.
const PATIENCE: Duration = Duration::from_secs(2);

/// A slot that is kept for a run that another worker was asked for.
#[derive(Debug)]
pub(super) struct Kept {
    since: Instant,
    memory: u64,
}

/// What a worker has ahead, and what it has asked others for.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// What it was given and has not begun, the first one in front.
    pub(super) runs: Vec<RunId>,
    /// How many of these it was asked to give back and has not answered for.
    pub(super) asked: usize,
    /// When it was last given something to begin, or had nothing ahead.
    busy_since: Option<Instant>,
    /// What it had was asked back because it began nothing for long.
    pub(super) is_slow: bool,
    /// Of these, those that its connection has not heard of.
    questions: Vec<RunId>,
    /// Runs that others were asked for on its behalf. Each has one of its slots.
    pub(super) asking: BTreeMap<RunId, Kept>,
}

impl Ahead {
    /// Notes that one of the worker's runs has begun or ended.
    pub(super) fn moves(&mut self, now: Instant) {
        (self.busy_since, self.is_slow) = (Some(now), false);
    }

    /// What the runs that were asked for on its behalf will take of its memory, in bytes.
    pub(super) fn memory_asked(&self) -> u64 {
        self.asking.values().map(|kept| kept.memory).sum()
    }
}

impl Scheduler {
    /// What a worker without a free slot may be given ahead: what goes first for it of that for which no slot is free
    /// elsewhere. What goes first is never passed, as it would wait the longer for it.
    pub(super) fn next_ahead(&self, worker: WorkerId) -> Option<RunId> {
        let entry = self.workers.get(&worker)?;
        if entry.room_ahead() == 0 || self.is_kept_free(worker) {
            return None;
        }
        let mut able = self.able(worker);
        able.retain(|class| !self.is_somebody_free(*class));
        // What waits for a slot is not to use up what a tenant may have running.
        let may_wait = |tenant: &InstanceName, class| {
            !self.tenants.policy(tenant).limits_running() && self.may_start(tenant, class)
        };
        let (first, class) = self.queue.next(&able, may_wait)?;
        let fits = entry.has_room(self.classes.get(class).key.memory);
        (fits && !self.runs[&first].came_back).then_some(first)
    }

    /// Whether somebody is about to take what waits in a class.
    pub(super) fn is_somebody_free(&self, class: ClassId) -> bool {
        let class = self.classes.get(class);
        let takes = |worker: &WorkerId| {
            self.workers[worker].has_room(class.key.memory) && !self.is_kept_free(*worker)
        };
        class.free.iter().any(takes)
    }

    /// What a worker with a free slot, for which nothing waits, may have of what others were given ahead: the oldest.
    pub(super) fn next_to_ask_for(&self, worker: WorkerId) -> Option<RunId> {
        let entry = self.workers.get(&worker)?;
        if self.askable.is_empty() || self.is_kept_free(worker) {
            return None;
        }
        let able = |class: &ClassId| {
            let class = self.classes.get(*class);
            class.workers.contains(&worker) && entry.has_room(class.key.memory)
        };
        let runs = self.askable.iter().filter(|(class, _)| able(class));
        // Whoever is away answers nothing.
        let answers = |id: &&RunId| {
            let holder = self.runs[*id].worker();
            holder.is_some_and(|holder| !self.workers[&holder].absent)
        };
        runs.filter_map(|(_, runs)| runs.iter().find(answers)).min().copied()
    }

    /// Asks the worker that has a run ahead to give it back, perhaps for another one that keeps a slot for it.
    pub(super) fn ask_for(&mut self, now: Instant, id: RunId, by: Option<WorkerId>) {
        let run = self.runs.get_mut(&id).expect("callers name a run that exists");
        let Standing::At { worker, phase: phase @ Phase::Ahead(Question::None), .. } = &mut run.standing
        else {
            return;
        };
        *phase = Phase::Ahead(Question::Asked { by });
        let (worker, place) = (*worker, run.place.clone());
        self.not_askable(place.class, id);
        let holder = self.workers.get_mut(&worker).expect("runs stand with workers that exist");
        holder.ahead.asked += 1;
        holder.ahead.questions.push(id);
        self.stirred.tell(worker);
        if let Some(by) = by {
            let asker = self.workers.get_mut(&by).expect("callers name a worker that exists");
            asker.ahead.asking.insert(id, Kept { since: now, memory: place.memory });
            self.note_ready(by);
        }
    }

    /// Asks a worker for everything that it has not begun, as it is to begin nothing.
    pub(super) fn ask_for_all(&mut self, now: Instant, worker: WorkerId) {
        for id in self.workers.get(&worker).map_or_else(Vec::new, |entry| entry.ahead.runs.clone()) {
            self.ask_for(now, id, None);
        }
    }

    /// Asks those for what they have ahead that have begun nothing for long.
    pub(super) fn ask_the_slow(&mut self, now: Instant) {
        let is_slow = |entry: &Worker| {
            let since = entry.ahead.busy_since.filter(|_| !entry.ahead.runs.is_empty());
            since.is_some_and(|since| now.saturating_duration_since(since) >= PATIENCE)
        };
        let slow = self.workers.iter().filter(|(_, entry)| !entry.ahead.is_slow && is_slow(entry));
        for worker in slow.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.workers.get_mut(&worker).expect("it was there just now").ahead.is_slow = true;
            self.ask_for_all(now, worker);
            self.note_ready(worker);
        }
    }

    /// Runs that a worker is to give back unless it has begun them, since the last call.
    pub fn take_questions(&mut self, worker: WorkerId) -> Vec<RunId> {
        self.workers
            .get_mut(&worker)
            .map_or_else(Vec::new, |entry| std::mem::take(&mut entry.ahead.questions))
    }

    /// Notes that a worker has begun a run, by its own word: it is not asked for it any more.
    pub fn has_begun(&mut self, now: Instant, worker: WorkerId, id: RunId) {
        let Some(run) = self.runs.get(&id).filter(|run| run.worker() == Some(worker)) else { return };
        let Some(question) = run.question() else { return };
        self.answered(worker, id, question);
        self.set_question(id, Question::Begun);
        self.promote(now, worker);
        self.check();
    }

    /// Forgets what a worker was asked for: its connection broke, and nobody knows whether it has heard.
    pub fn forget_questions(&mut self, now: Instant, worker: WorkerId) {
        let Some(entry) = self.workers.get_mut(&worker) else { return };
        entry.ahead.questions.clear();
        let is_draining = !entry.takes_work();
        for id in entry.ahead.runs.clone() {
            if let Some(question @ Question::Asked { .. }) = self.runs[&id].question() {
                self.answered(worker, id, question);
                self.set_question(id, Question::None);
            }
        }
        self.promote(now, worker);
        if is_draining {
            self.ask_for_all(now, worker);
        }
        self.check();
    }

    /// Forgets that a run was asked for on behalf of a worker that is gone.
    pub(super) fn asks_no_more(&mut self, id: RunId) {
        if let Some(Question::Asked { .. }) = self.runs[&id].question() {
            self.set_question(id, Question::Asked { by: None });
        }
    }

    fn set_question(&mut self, id: RunId, question: Question) {
        let run = self.runs.get_mut(&id).expect("callers name a run that exists");
        let class = run.place.class;
        if let Standing::At { phase, .. } = &mut run.standing {
            *phase = Phase::Ahead(question);
        }
        if matches!(question, Question::None) {
            self.askable.entry(class).or_default().insert(id);
            self.stirred.class(class);
        } else {
            self.not_askable(class, id);
        }
    }

    /// Frees what waited for the answer to a question.
    fn answered(&mut self, holder: WorkerId, id: RunId, question: Question) {
        let Question::Asked { by } = question else { return };
        let entry = self.workers.get_mut(&holder).expect("runs stand with workers that exist");
        entry.ahead.asked -= 1;
        entry.ahead.questions.retain(|asked| *asked != id);
        if let Some(by) = by
            && let Some(asker) = self.workers.get_mut(&by)
            && asker.ahead.asking.remove(&id).is_some()
        {
            self.note_ready(by);
            self.stirred.worker(by);
        }
    }

    fn not_askable(&mut self, class: ClassId, id: RunId) {
        if let Some(runs) = self.askable.get_mut(&class) {
            runs.remove(&id);
            if runs.is_empty() {
                self.askable.remove(&class);
            }
        }
    }

    /// Lets those begin for which a worker has slots by now: its own word comes later, or with their results.
    pub(super) fn promote(&mut self, now: Instant, worker: WorkerId) {
        while let Some(id) = self.next_to_begin(worker) {
            self.leave_ahead(now, id);
        }
    }

    fn next_to_begin(&self, worker: WorkerId) -> Option<RunId> {
        let entry = self.workers.get(&worker)?;
        // Of what it was asked for nobody knows yet.
        if entry.begun() + entry.ahead.asked >= entry.offer.slots {
            return None;
        }
        let question = |id: &RunId| self.runs[id].question();
        let with = |wanted: Question| entry.ahead.runs.iter().find(|id| question(id) == Some(wanted));
        with(Question::Begun).or_else(|| with(Question::None)).copied()
    }

    /// Notes that a run has begun that was given ahead.
    pub(super) fn leave_ahead(&mut self, now: Instant, id: RunId) {
        let run = self.runs.get_mut(&id).expect("callers name a run that exists");
        let Some(question) = run.question() else { return };
        let Standing::At { worker, phase, .. } = &mut run.standing else { return };
        *phase = Phase::Begun;
        let (worker, class) = (*worker, run.place.class);
        self.totals.count_stage(Timed::Queued, now.saturating_duration_since(run.since));
        run.since = now;
        self.changed.extend(run.operations.iter().cloned());
        self.no_longer_ahead(worker, id, class, question);
        self.workers.get_mut(&worker).expect("runs stand with workers that exist").ahead.moves(now);
        self.note_ready(worker);
    }

    /// Takes a run out of the books on what is given ahead.
    pub(super) fn no_longer_ahead(
        &mut self,
        worker: WorkerId,
        id: RunId,
        class: ClassId,
        question: Question,
    ) {
        self.answered(worker, id, question);
        self.not_askable(class, id);
        let entry = self.workers.get_mut(&worker).expect("runs stand with workers that exist");
        entry.ahead.runs.retain(|ahead| *ahead != id);
    }

    /// Queues a run again at its old place that a worker had and never began.
    pub(super) fn queue_again(&mut self, now: Instant, id: RunId) {
        let run = self.runs.get_mut(&id).expect("callers name a run that exists");
        run.came_back = true;
        self.totals.ahead_returned += 1;
        self.queue.push(id, &run.place, self.tenants.policy(&run.place.tenant).weight);
        self.stirred.class(run.place.class);
        if run.operations.is_empty() {
            self.forget_run(now, id);
        }
    }

    /// Lets slots be used for which the answer to a question is late.
    pub(super) fn give_up_questions(&mut self, now: Instant) {
        let late = |kept: &Kept| now.saturating_duration_since(kept.since) >= QUESTION_TIME_MAX;
        let waiting =
            |(id, entry): (&WorkerId, &Worker)| entry.ahead.asking.values().any(late).then_some(*id);
        for worker in self.workers.iter().filter_map(waiting).collect::<Vec<_>>() {
            let entry = self.workers.get_mut(&worker).expect("it was there just now");
            entry.ahead.asking.retain(|_, kept| !late(kept));
            self.note_ready(worker);
            self.stirred.worker(worker);
        }
    }

    /// Runs that workers were given ahead and have not begun.
    pub fn ahead(&self) -> usize {
        self.workers.values().map(|worker| worker.ahead.runs.len()).sum()
    }

    /// What must hold of runs given ahead.
    #[cfg(test)]
    pub(super) fn check_ahead(&self) {
        let mut askable = 0;
        for (id, worker) in &self.workers {
            let questions = || worker.ahead.runs.iter().map(|run| self.runs[run].question());
            assert!(questions().all(|question| question.is_some()));
            let with_question = worker.runs.iter().filter(|run| self.runs[run].question().is_some()).count();
            assert_eq!(with_question, worker.ahead.runs.len());
            let asked = questions().filter(|q| matches!(q, Some(Question::Asked { .. }))).count();
            assert_eq!(asked, worker.ahead.asked);
            let unasked = questions().filter(|q| *q == Some(Question::None)).count();
            askable += unasked;
            // Whoever has a free slot has begun what it has.
            assert!(unasked == 0 || worker.begun() + asked >= worker.offer.slots);
            assert!(
                worker.ahead.asking.len() + worker.runs.len() <= worker.offer.slots.max(worker.runs.len())
            );
            for run in worker.ahead.asking.keys() {
                let by = Some(Question::Asked { by: Some(*id) });
                assert_eq!(self.runs[run].question(), by, "a slot is kept for what was asked for");
            }
        }
        assert_eq!(askable, self.askable.values().map(std::collections::BTreeSet::len).sum::<usize>());
        for (class, runs) in &self.askable {
            assert!(!runs.is_empty());
            assert!(runs.iter().all(|run| self.runs[run].place.class == *class));
            assert!(runs.iter().all(|run| self.runs[run].question() == Some(Question::None)));
        }
    }
}
