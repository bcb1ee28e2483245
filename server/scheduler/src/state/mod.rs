//! The scheduler as a plain state machine: no clock, no lock, no `async`.
//!
//! A *run* is one execution of an action on a worker; an *operation* is one client's interest in it.
//! Identical actions in flight share a run. Every mutation notes the operations it touched in
//! [`Scheduler::take_changed`], so that the shell can tell those who wait.

mod ahead;
mod calls;
mod classes;
mod figures;
mod operations;
mod restore;
mod run;
mod why;
mod workers;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use wardian_proto::{Digest, InstanceName, reapi, rpc};

pub(crate) use self::run::LiveRun;
pub use self::run::{Attempt, Given, Holding, Stage, View, WaitReason, Waiting};
pub use self::workers::WorkerView;

use self::calls::Stirred;
use self::classes::{ClassKey, Classes};
use self::operations::{Op, Operations};
#[cfg(test)]
use self::run::Phase;
use self::run::{Run, Standing};
use self::workers::Worker;
use crate::fair::{ClassId, FairQueue, Place, TenantLoad};
use crate::figures::Totals;
use crate::held::Held;
use crate::job::{Job, OperationName, RunId, WorkerId};
use crate::limits::{SchedulerLimits, SubmitError, Tenants};
use crate::platform::unsatisfiable;

/// Different platforms, and amounts of memory, that runs may ask for at once.
pub const CLASSES_MAX: usize = 1024;

type Key = (InstanceName, Digest, Digest);

/// What is queued, what runs, what ended, and who works.
#[derive(Debug, Default)]
pub struct Scheduler {
    limits: SchedulerLimits,
    tenants: Tenants,
    last_id: u64,
    operations: Operations,
    runs: HashMap<RunId, Run>,
    joinable: HashMap<Key, RunId>,
    queue: FairQueue,
    classes: Classes,
    workers: BTreeMap<WorkerId, Worker>,
    /// Runs that a worker is kept free for, because they need more memory than is free anywhere.
    kept_free: HashMap<RunId, WorkerId>,
    /// Runs that were given ahead and nobody has asked for yet.
    askable: BTreeMap<ClassId, BTreeSet<RunId>>,
    paused: bool,
    /// Nothing is started until then.
    settling_until: Option<Instant>,
    stirred: Stirred,
    totals: Totals,
    changed: Vec<OperationName>,
    abandoned: Vec<RunId>,
    untied: Vec<RunId>,
    released: Vec<Held>,
}

impl Scheduler {
    /// An empty scheduler.
    pub fn new(limits: SchedulerLimits, tenants: Tenants) -> Self {
        Self { limits, tenants, ..Self::default() }
    }

    /// Takes an action in, or joins it to the same action in flight.
    pub fn submit(&mut self, now: Instant, wall: SystemTime, job: Job) -> Result<OperationName, SubmitError> {
        let operation = OperationName::new(&job.instance);
        if self.live_operations() >= self.limits.live_operations_max {
            return Err(SubmitError::TooManyOperations(self.limits.live_operations_max));
        }
        let tenant = job.instance.clone();
        let limit = self.tenants.policy(&tenant).operations_max;
        if let Some(limit) = limit.filter(|limit| self.operations.live_of(&tenant) >= *limit) {
            return Err(SubmitError::TenantTooManyOperations(limit));
        }
        let run = match self.joinable_run(&job) {
            Some(run) => self.join(run, &operation, job.priority),
            None => self.enqueue(now, wall, &operation, job)?,
        };
        self.operations.live(operation.clone(), run, tenant);
        self.changed.push(operation.clone());
        self.check();
        Ok(operation)
    }

    fn join(&mut self, id: RunId, operation: &OperationName, priority: i32) -> RunId {
        let run = self.runs.get_mut(&id).expect("joinable runs exist");
        run.operations.push(operation.clone());
        if priority >= run.place.priority {
            return id;
        }
        // As urgent as the most urgent of those who wait for it, also when it is queued again.
        if run.worker().is_none() {
            self.queue.remove(id, &run.place);
            run.place.priority = priority;
            self.queue.push(id, &run.place, self.tenants.policy(&run.place.tenant).weight);
        } else {
            run.place.priority = priority;
        }
        id
    }

    fn enqueue(
        &mut self,
        now: Instant,
        wall: SystemTime,
        operation: &OperationName,
        job: Job,
    ) -> Result<RunId, SubmitError> {
        let policy = self.tenants.policy(&job.instance);
        let class =
            ClassKey { platform: job.platform.demands(), memory: job.memory_bytes, avoid: Vec::new() };
        let why = match self.classes.is_served(&class) {
            true => None,
            false => unsatisfiable(&job.platform, self.workers.values().filter_map(Worker::offers)),
        };
        if let Some(why) = why.clone().filter(|_| self.limits.worker_grace.is_zero()) {
            return Err(why.into());
        }
        if self.queue.len() >= self.limits.queued_runs_max {
            return Err(SubmitError::QueueFull(self.limits.queued_runs_max));
        }
        if let Some(limit) = policy.queued_max.filter(|max| self.queue.load(&job.instance).queued >= *max) {
            return Err(SubmitError::TenantQueueFull(limit));
        }
        if self.classes.len() >= CLASSES_MAX && !self.classes.has(&class) {
            return Err(SubmitError::TooManyPlatforms(CLASSES_MAX));
        }
        let id = RunId(self.fresh_id());
        let class = self.classes.join(class, workers::candidates(&self.workers));
        let patient_until = why.map(|_| now + self.limits.worker_grace);
        if let Some(until) = patient_until {
            self.classes.get_mut(class).given_up_at.get_or_insert(until);
        }
        if !job.do_not_cache {
            self.joinable.insert(key(&job), id);
        }
        let place = Place {
            tenant: job.instance.clone(),
            invocation: job.invocation.clone(),
            class,
            priority: job.priority,
            memory: job.memory_bytes,
        };
        self.queue.push(id, &place, policy.weight);
        self.stirred.class(place.class);
        let run = Run {
            job: Arc::new(job),
            operations: vec![operation.clone()],
            place,
            queued_at: wall,
            since: now,
            patient_until,
            standing: Standing::Waiting,
            attempts: Vec::new(),
            came_back: false,
            held: None,
        };
        self.runs.insert(id, run);
        Ok(id)
    }

    /// Gives a run something to hold until it ends, unless it holds something already or has ended.
    pub(crate) fn hold_run(&mut self, run: RunId, held: &mut Option<Held>) {
        if let Some(run) = self.runs.get_mut(&run)
            && run.held.is_none()
        {
            run.held = held.take();
        }
    }

    /// Gives the run of a live operation something to hold until it ends. A run that holds something
    /// already keeps that, and `held` is left as it is.
    pub fn hold(&mut self, operation: &OperationName, held: &mut Option<Held>) {
        if let Some(Op::Live(run)) = self.operations.get(operation) {
            let run = self.runs.get_mut(run).expect("live operations have a run");
            if run.held.is_none() {
                run.held = held.take();
            }
        }
    }

    /// Starts nothing more until it is told otherwise. What runs goes on, and what comes in is queued.
    pub fn pause(&mut self, now: Instant, paused: bool) {
        self.paused = paused;
        self.stirred.all();
        if paused {
            for worker in self.workers.keys().copied().collect::<Vec<_>>() {
                self.ask_for_all(now, worker);
            }
        }
        self.check();
    }

    /// Whether workers may still report what they run from before a restart, so that nothing is started yet.
    fn is_settling(&self, now: Instant) -> bool {
        self.settling_until.is_some_and(|until| now < until)
    }

    /// Notes how far a run is.
    pub fn progress(&mut self, now: Instant, id: RunId, news: reapi::ExecutedActionMetadata) {
        let Some(run) = self.runs.get_mut(&id) else { return };
        let Standing::At { worker, metadata, .. } = &mut run.standing else { return };
        **metadata = news;
        let worker = *worker;
        if run.question().is_some() {
            self.has_begun(now, worker, id);
        } else {
            self.changed.extend(run.operations.iter().cloned());
        }
    }

    /// Ends a run that `worker` had. A report about a run it no longer has is ignored.
    pub fn complete(&mut self, now: Instant, worker: WorkerId, run: RunId, response: reapi::ExecuteResponse) {
        if self.runs.get(&run).is_none_or(|r| r.worker() != Some(worker)) {
            return;
        }
        if let Some(metadata) = response.result.as_ref().and_then(|result| result.execution_metadata.as_ref())
        {
            self.totals.count_result(metadata);
        }
        self.leave_ahead(now, run);
        self.end_run(now, run, response);
        self.check();
    }

    /// Ends one operation as cancelled. Others that share its run are not touched.
    ///
    /// Returns false when there is no such operation. Ended operations stay as they are.
    pub fn cancel(
        &mut self,
        now: Instant,
        operation: &OperationName,
        response: reapi::ExecuteResponse,
    ) -> bool {
        let id = match self.operations.get(operation) {
            None => return false,
            Some(Op::Ended(_)) => return true,
            Some(Op::Live(run)) => *run,
        };
        let run = self.runs.get_mut(&id).expect("live operations have a run");
        run.operations.retain(|o| o != operation);
        let (job, nobody_waits, queued) =
            (Arc::clone(&run.job), run.operations.is_empty(), run.worker().is_none());
        self.end(now, operation.clone(), job, Arc::new(response));
        if nobody_waits && queued {
            self.forget_run(now, id);
        } else if nobody_waits {
            // The slot is free only when the worker says so; until then nobody may join.
            self.stirred.tell(self.runs[&id].worker().expect("it is not queued"));
            self.unjoin(id);
            self.abandoned.push(id);
        }
        self.check();
        true
    }

    /// Ends every operation whose run no worker has.
    pub fn end_queued(&mut self, now: Instant, response: &reapi::ExecuteResponse) {
        let waiting: Vec<RunId> =
            self.runs.iter().filter(|(_, run)| run.worker().is_none()).map(|(id, _)| *id).collect();
        for id in waiting {
            self.end_run(now, id, response.clone());
        }
        self.check();
    }

    /// Ends every operation.
    pub fn end_all(&mut self, now: Instant, response: &reapi::ExecuteResponse) {
        let runs: Vec<RunId> = self.runs.keys().copied().collect();
        for id in runs {
            self.end_run(now, id, response.clone());
        }
        self.check();
    }

    /// Drops the memory of an operation. What it asked for goes on.
    pub fn delete(&mut self, operation: &OperationName) -> bool {
        let removed = self.operations.remove(operation);
        if let Some(Op::Live(run)) = &removed {
            let run = self.runs.get_mut(run).expect("live operations have a run");
            run.operations.retain(|o| o != operation);
            self.operations.no_more_live(&run.job.instance);
        }
        removed.is_some()
    }

    /// Does what is due: takes away workers that were silent for too long, and ends what waited too long for a worker
    /// to join. To be called about once a second.
    pub fn tick(&mut self, now: Instant) {
        self.settling_until = self.settling_until.filter(|until| now < *until);
        self.lose_silent_workers(now);
        self.give_up_questions(now);
        self.ask_the_slow(now);
        self.give_up_unserved(now);
        self.stirred.due();
        self.check();
    }

    /// Forgets ended operations that are too old or too many.
    pub fn expire(&mut self, now: Instant) -> Vec<OperationName> {
        self.operations.expire(now, &self.limits)
    }

    fn give_up_unserved(&mut self, now: Instant) {
        let due: BTreeSet<ClassId> = self
            .classes
            .iter()
            .filter(|(_, class)| class.given_up_at.is_some_and(|at| at <= now))
            .map(|(id, _)| id)
            .collect();
        if due.is_empty() {
            return;
        }
        // What is left of such a class runs already, or came later and is waited for as long.
        due.iter().for_each(|class| self.classes.get_mut(*class).given_up_at = None);
        let mut runs = Vec::new();
        for (id, run) in &self.runs {
            if run.worker().is_some() || !due.contains(&run.place.class) {
                continue;
            }
            match run.patient_until.filter(|until| *until > now) {
                None => runs.push(*id),
                Some(until) => {
                    let next = &mut self.classes.get_mut(run.place.class).given_up_at;
                    *next = Some(next.map_or(until, |next| next.min(until)));
                }
            }
        }
        runs.sort_unstable();
        // Once for all of a class: there may be very many runs, and very many workers that cannot serve them.
        let mut reasons: HashMap<ClassId, String> = HashMap::new();
        for id in runs {
            let run = &self.runs[&id];
            let why = reasons.entry(run.place.class).or_insert_with(|| {
                let offers = self.workers.values().filter_map(Worker::offers);
                let why = unsatisfiable(&run.job.platform, offers);
                why.map_or_else(|| "no worker takes it".to_owned(), |why| why.to_string())
            });
            let waited = now.saturating_duration_since(run.since).as_secs();
            let text = format!("{why}; waited {waited} s for one to join");
            self.end_run(now, id, failed(rpc::Code::FailedPrecondition, text));
        }
    }

    /// The job of a run, as long as `worker` has it.
    pub fn job_of(&self, worker: WorkerId, run: RunId) -> Option<Arc<Job>> {
        self.runs.get(&run).filter(|run| run.worker() == Some(worker)).map(|run| Arc::clone(&run.job))
    }

    /// The run that a live operation waits for.
    pub(crate) fn run_of(&self, operation: &OperationName) -> Option<LiveRun> {
        let Some(Op::Live(id)) = self.operations.get(operation) else { return None };
        let run = &self.runs[id];
        let job = Arc::clone(&run.job);
        Some(LiveRun { run: *id, queued_at: run.queued_at, priority: run.place.priority, job })
    }

    /// Returns a snapshot of an operation.
    pub fn view(&self, operation: &OperationName) -> Option<View> {
        match self.operations.get(operation)? {
            Op::Ended(view) => Some(view.clone()),
            Op::Live(run) => {
                let run = &self.runs[run];
                Some(View { job: Arc::clone(&run.job), stage: run.stage() })
            }
        }
    }

    /// Up to `count` operation names of an instance after `after`, in name order.
    pub fn list(
        &self,
        instance: &InstanceName,
        after: Option<&OperationName>,
        count: usize,
    ) -> Vec<OperationName> {
        self.operations.list(instance, after).take(count).cloned().collect()
    }

    /// Operations that changed since the last call.
    pub fn take_changed(&mut self) -> Vec<OperationName> {
        std::mem::take(&mut self.changed)
    }

    /// Runs that nobody waits for any more although a worker has them, since the last call.
    pub fn take_abandoned(&mut self) -> Vec<RunId> {
        std::mem::take(&mut self.abandoned)
    }

    /// Runs that were taken from the worker that had them, ended or not, since the last call.
    pub fn take_untied(&mut self) -> Vec<RunId> {
        std::mem::take(&mut self.untied)
    }

    /// What ended runs held, since the last call.
    pub fn take_released(&mut self) -> Vec<Held> {
        std::mem::take(&mut self.released)
    }

    /// Runs that wait for a worker.
    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Operations that have not ended.
    pub fn live_operations(&self) -> usize {
        self.operations.live_count()
    }

    /// Runs that a worker has now, begun or not.
    pub fn running(&self) -> usize {
        self.runs.len() - self.queue.len()
    }

    /// What each tenant has that has something.
    pub fn tenants(&self) -> impl Iterator<Item = (&InstanceName, TenantLoad)> {
        self.queue.loads()
    }

    fn fresh_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    fn joinable_run(&self, job: &Job) -> Option<RunId> {
        if job.do_not_cache { None } else { self.joinable.get(&key(job)).copied() }
    }

    fn unjoin(&mut self, run: RunId) {
        let key = key(&self.runs[&run].job);
        if self.joinable.get(&key) == Some(&run) {
            self.joinable.remove(&key);
        }
    }

    /// Ends a run and everybody's wait for it.
    fn end_run(&mut self, now: Instant, id: RunId, response: reapi::ExecuteResponse) {
        let ended = self.forget_run(now, id);
        let response = Arc::new(response);
        for operation in ended.operations {
            self.end(now, operation, Arc::clone(&ended.job), Arc::clone(&response));
        }
    }

    /// Takes a run out of all books.
    fn forget_run(&mut self, now: Instant, id: RunId) -> Run {
        self.unjoin(id);
        let mut run = self.runs.remove(&id).expect("callers name a run that exists");
        match run.standing {
            Standing::Waiting => self.queue.remove(id, &run.place),
            Standing::At { worker, .. } => {
                self.take_from_worker(now, id, &mut run);
                self.promote(now, worker);
            }
        }
        self.classes.leave(run.place.class);
        if let Some(kept) = self.kept_free.remove(&id) {
            self.stirred.worker(kept);
        }
        self.released.extend(run.held.take());
        run
    }

    fn end(
        &mut self,
        now: Instant,
        name: OperationName,
        job: Arc<Job>,
        response: Arc<reapi::ExecuteResponse>,
    ) {
        self.operations.no_more_live(&job.instance);
        self.operations.end(now, name.clone(), job, response);
        self.changed.push(name);
    }

    /// What must hold after every mutation. It looks at everything, so only tests can afford it.
    #[cfg(not(test))]
    fn check(&self) {}

    #[cfg(test)]
    fn check(&self) {
        self.queue.check();
        self.operations.check();
        let waiting = self.runs.values().filter(|run| run.worker().is_none()).count();
        assert_eq!(waiting, self.queue.len());
        assert!(self.joinable.values().all(|id| self.runs.contains_key(id)));
        assert!(self.kept_free.keys().all(|id| self.runs[id].worker().is_none()));
        for (id, worker) in &self.workers {
            // What has ended takes no slot.
            let ended =
                |run: &&RunId| matches!(self.runs[run].standing, Standing::At { phase: Phase::Ended, .. });
            let ended = worker.runs.iter().filter(ended).count();
            assert!(worker.begun() - ended <= worker.offer.slots);
            assert!(worker.runs.len() - ended <= worker.offer.slots + worker.offer.ahead);
            assert!(worker.runs.iter().all(|run| self.runs[run].worker() == Some(*id)));
            let memory: u64 = worker.runs.iter().map(|run| self.runs[run].place.memory).sum();
            assert_eq!(memory, worker.memory_used);
            assert_eq!(worker.ready, worker.readiness());
        }
        for (_, class) in self.classes.iter() {
            let workers = || class.workers.iter().map(|worker| (worker, self.workers[worker].ready));
            assert!(workers().filter(|(_, ready)| ready.idle).map(|(worker, _)| worker).eq(&class.idle));
            assert!(workers().filter(|(_, ready)| ready.free).map(|(worker, _)| worker).eq(&class.free));
            assert!(workers().filter(|(_, ready)| ready.eager).map(|(worker, _)| worker).eq(&class.eager));
        }
        self.check_ahead();
        self.classes.check(|| workers::candidates(&self.workers));
        let running: usize = self.workers.values().map(|worker| worker.runs.len()).sum();
        assert_eq!(running, self.runs.len() - waiting);
    }
}

/// A response of an action that was not run to its end.
fn failed(code: rpc::Code, message: String) -> reapi::ExecuteResponse {
    let status = rpc::Status { code: code.into(), message, details: vec![] };
    reapi::ExecuteResponse { status: Some(status), ..Default::default() }
}

fn key(job: &Job) -> Key {
    // Those who sent other messages do not share a run, so that each hears of its own.
    (job.instance.clone(), job.action, job.requested)
}

#[cfg(test)]
mod ahead_tests;
#[cfg(test)]
mod histories;
#[cfg(test)]
mod loss_tests;
#[cfg(test)]
mod restore_tests;
#[cfg(test)]
mod sharing_tests;
#[cfg(test)]
mod tests;
