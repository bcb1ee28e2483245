//! The scheduler as a plain state machine: no clock, no lock, no `async`.
//!
//! A *run* is one execution of an action on a worker; an *operation* is one client's interest in it.
//! Identical actions in flight share a run. Every mutation notes the operations it touched in
//! [`Scheduler::take_changed`], so that the shell can tell those who wait.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use prost::Message as _;
use wardian_proto::{Digest, InstanceName, reapi};

use crate::held::Held;
use crate::platform::{Offer, Platform, Unsatisfiable, unsatisfiable};

/// An action to be run.
#[derive(Clone, Debug)]
pub struct Job {
    /// The instance it was sent to.
    pub instance: InstanceName,
    /// The Action that is run.
    pub action: Digest,
    /// The Action that the client sent; another one where that named toolchains.
    pub requested: Digest,
    /// What the worker must satisfy.
    pub platform: Platform,
    /// Lower runs sooner.
    pub priority: i32,
    /// Neither joined with others nor cached.
    pub do_not_cache: bool,
}

/// The name of one client's operation: `[instance/]operations/UUID`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OperationName(Arc<str>);

impl OperationName {
    /// Makes a new name.
    pub fn new(instance: &InstanceName) -> Self {
        Self(format!("{}operations/{}", instance.prefix(), uuid::Uuid::new_v4()).into())
    }

    /// Takes a client's text; whether such an operation exists is for the scheduler to say.
    pub fn from_client(text: &str) -> Self {
        Self(text.into())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for OperationName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Names a run for as long as the scheduler lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RunId(u64);

/// Names a worker for as long as the scheduler lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerId(u64);

/// Where an operation is.
#[derive(Clone, Debug)]
pub enum Stage {
    /// Waiting for a worker.
    Queued,
    /// A worker has it; the metadata says how far it is.
    Executing(Box<reapi::ExecutedActionMetadata>),
    /// At its end, with the answer.
    Completed(Arc<reapi::ExecuteResponse>),
}

/// Limits of the state machine.
#[derive(Clone, Copy, Debug)]
pub struct SchedulerLimits {
    /// Runs that may wait for a worker.
    pub queued_runs_max: usize,
    /// Operations that have not ended, those that joined another's run included.
    pub live_operations_max: usize,
    /// How long an ended operation can still be asked for.
    pub completed_kept_for: Duration,
    /// How many ended operations can still be asked for.
    pub completed_kept_max: usize,
    /// Sum of the sizes of their responses.
    pub completed_bytes_max: usize,
}

impl Default for SchedulerLimits {
    fn default() -> Self {
        Self {
            queued_runs_max: 100_000,
            live_operations_max: 200_000,
            completed_kept_for: Duration::from_secs(15 * 60),
            completed_kept_max: 10_000,
            completed_bytes_max: 256 << 20,
        }
    }
}

/// Why an action was not taken in.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum SubmitError {
    #[error(transparent)]
    Unsatisfiable(#[from] Unsatisfiable),
    #[error("{0} actions wait for a worker already; limit is {0}")]
    QueueFull(usize),
    #[error("{0} operations have not ended yet; limit is {0}")]
    TooManyOperations(usize),
    #[error("the server is shutting down")]
    ShuttingDown,
}

/// A snapshot of an operation.
#[derive(Clone, Debug)]
pub struct View {
    /// What was asked for.
    pub job: Arc<Job>,
    /// Where it is.
    pub stage: Stage,
}

#[derive(Debug)]
struct Run {
    job: Arc<Job>,
    operations: Vec<OperationName>,
    order: (i32, u64),
    queued_at: SystemTime,
    worker: Option<WorkerId>,
    stage: Stage,
    held: Option<Held>,
}

#[derive(Debug)]
enum Op {
    Live(RunId),
    Ended(View),
}

#[derive(Debug)]
struct Worker {
    offer: Offer,
    running: usize,
}

/// An operation that can still be asked for, and what remembering it costs.
#[derive(Debug)]
struct Ended {
    at: Instant,
    name: OperationName,
    bytes: usize,
}

type Key = (InstanceName, Digest, Digest);

/// The state. See the module's text.
#[derive(Debug, Default)]
pub struct Scheduler {
    limits: SchedulerLimits,
    next_id: u64,
    operations: HashMap<OperationName, Op>,
    runs: HashMap<RunId, Run>,
    joinable: HashMap<Key, RunId>,
    queue: BTreeMap<(i32, u64), RunId>,
    workers: BTreeMap<WorkerId, Worker>,
    ended: VecDeque<Ended>,
    ended_bytes: usize,
    changed: Vec<OperationName>,
    abandoned: Vec<RunId>,
    released: Vec<Held>,
}

impl Scheduler {
    /// An empty scheduler.
    pub fn new(limits: SchedulerLimits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Takes an action in, or joins it to the same action in flight.
    pub fn submit(&mut self, wall: SystemTime, job: Job) -> Result<OperationName, SubmitError> {
        let operation = OperationName::new(&job.instance);
        if self.live_operations() >= self.limits.live_operations_max {
            return Err(SubmitError::TooManyOperations(self.limits.live_operations_max));
        }
        if let Some(id) = self.joinable_run(&job) {
            let run = self.runs.get_mut(&id).expect("joinable runs exist");
            run.operations.push(operation.clone());
            if run.worker.is_none() && job.priority < run.order.0 {
                // As urgent as the most urgent of those who wait for it.
                self.queue.remove(&run.order);
                run.order.0 = job.priority;
                self.queue.insert(run.order, id);
            }
            self.operations.insert(operation.clone(), Op::Live(id));
            self.changed.push(operation.clone());
            self.check();
            return Ok(operation);
        }
        if let Some(why) = unsatisfiable(&job.platform, self.workers.values().map(|w| &w.offer)) {
            return Err(why.into());
        }
        if self.queue.len() >= self.limits.queued_runs_max {
            return Err(SubmitError::QueueFull(self.limits.queued_runs_max));
        }
        let id = self.fresh_id();
        let run = RunId(id);
        let order = (job.priority, id);
        if !job.do_not_cache {
            self.joinable.insert(key(&job), run);
        }
        self.queue.insert(order, run);
        let operations = vec![operation.clone()];
        let (job, stage) = (Arc::new(job), Stage::Queued);
        let entry = Run { job, operations, order, queued_at: wall, worker: None, stage, held: None };
        self.runs.insert(run, entry);
        self.operations.insert(operation.clone(), Op::Live(run));
        self.changed.push(operation.clone());
        self.check();
        Ok(operation)
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

    /// Adds a worker.
    pub fn add_worker(&mut self, offer: Offer) -> WorkerId {
        let id = WorkerId(self.fresh_id());
        self.workers.insert(id, Worker { offer, running: 0 });
        id
    }

    /// Removes a worker; what it ran is queued again at its old place.
    pub fn remove_worker(&mut self, worker: WorkerId) {
        self.workers.remove(&worker);
        let lost: Vec<RunId> =
            self.runs.iter().filter(|(_, r)| r.worker == Some(worker)).map(|(id, _)| *id).collect();
        for id in lost {
            let run = self.runs.get_mut(&id).expect("just listed");
            if run.operations.is_empty() {
                // Nobody waits for it any more.
                self.forget_run(id);
                continue;
            }
            run.worker = None;
            run.stage = Stage::Queued;
            self.queue.insert(run.order, id);
            self.changed.extend(run.operations.iter().cloned());
        }
        self.check();
    }

    /// Gives a worker with a free slot the first run in order that it can serve.
    pub fn assign(&mut self, worker: WorkerId) -> Option<(RunId, Arc<Job>, SystemTime)> {
        let entry = self.workers.get_mut(&worker)?;
        if entry.running >= entry.offer.slots {
            return None;
        }
        let (order, id) = self
            .queue
            .iter()
            .find(|(_, run)| entry.offer.satisfies(&self.runs[*run].job.platform))
            .map(|(order, run)| (*order, *run))?;
        self.queue.remove(&order);
        entry.running += 1;
        let run = self.runs.get_mut(&id).expect("queued runs exist");
        run.worker = Some(worker);
        run.stage = Stage::Executing(Box::default());
        self.changed.extend(run.operations.iter().cloned());
        let assigned = (id, Arc::clone(&run.job), run.queued_at);
        self.check();
        Some(assigned)
    }

    /// Notes how far a run is.
    pub fn progress(&mut self, run: RunId, metadata: reapi::ExecutedActionMetadata) {
        if let Some(run) = self.runs.get_mut(&run).filter(|run| run.worker.is_some()) {
            run.stage = Stage::Executing(Box::new(metadata));
            self.changed.extend(run.operations.iter().cloned());
        }
    }

    /// Ends a run that `worker` had. A report about a run it no longer has is ignored.
    pub fn complete(&mut self, now: Instant, worker: WorkerId, run: RunId, response: reapi::ExecuteResponse) {
        if self.runs.get(&run).is_none_or(|r| r.worker != Some(worker)) {
            return;
        }
        if let Some(worker) = self.workers.get_mut(&worker) {
            worker.running -= 1;
        }
        let ended = self.forget_run(run);
        let response = Arc::new(response);
        for operation in ended.operations {
            self.end(now, operation, Arc::clone(&ended.job), Arc::clone(&response));
        }
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
        let run = match self.operations.get(operation) {
            None => return false,
            Some(Op::Ended(_)) => return true,
            Some(Op::Live(run)) => *run,
        };
        let entry = self.runs.get_mut(&run).expect("live operations have a run");
        entry.operations.retain(|o| o != operation);
        let (job, nobody_waits, queued) =
            (Arc::clone(&entry.job), entry.operations.is_empty(), entry.worker.is_none());
        self.end(now, operation.clone(), job, Arc::new(response));
        if nobody_waits && queued {
            self.forget_run(run);
        } else if nobody_waits {
            // The slot is free only when the worker says so; until then nobody may join.
            self.unjoin(run);
            self.abandoned.push(run);
        }
        self.check();
        true
    }

    /// Ends every operation whose run no worker has.
    pub fn end_queued(&mut self, now: Instant, response: reapi::ExecuteResponse) {
        let response = Arc::new(response);
        for id in self.queue.values().copied().collect::<Vec<_>>() {
            let ended = self.forget_run(id);
            for operation in ended.operations {
                self.end(now, operation, Arc::clone(&ended.job), Arc::clone(&response));
            }
        }
        self.check();
    }

    /// Drops the memory of an operation. What it asked for goes on.
    pub fn delete(&mut self, operation: &OperationName) -> bool {
        match self.operations.remove(operation) {
            None => false,
            Some(Op::Ended(_)) => {
                let kept = &mut self.ended_bytes;
                self.ended.retain(|ended| {
                    let stays = ended.name != *operation;
                    *kept -= if stays { 0 } else { ended.bytes };
                    stays
                });
                true
            }
            Some(Op::Live(run)) => {
                let run = self.runs.get_mut(&run).expect("live operations have a run");
                run.operations.retain(|o| o != operation);
                true
            }
        }
    }

    /// Forgets ended operations that are too old or too many.
    pub fn expire(&mut self, now: Instant) -> Vec<OperationName> {
        let mut forgotten = Vec::new();
        let limits = self.limits;
        while let Some(oldest) = self.ended.front() {
            let old = now.saturating_duration_since(oldest.at) >= limits.completed_kept_for;
            // The newest stays, however large: somebody is about to read it.
            let many = self.ended.len() > limits.completed_kept_max
                || (self.ended.len() > 1 && self.ended_bytes > limits.completed_bytes_max);
            if !old && !many {
                break;
            }
            let Ended { name, bytes, .. } = self.ended.pop_front().expect("front was there");
            self.ended_bytes -= bytes;
            self.operations.remove(&name);
            forgotten.push(name);
        }
        forgotten
    }

    /// The job of a run, as long as `worker` has it.
    pub fn job_of(&self, worker: WorkerId, run: RunId) -> Option<Arc<Job>> {
        self.runs.get(&run).filter(|run| run.worker == Some(worker)).map(|run| Arc::clone(&run.job))
    }

    /// Returns a snapshot of an operation.
    pub fn view(&self, operation: &OperationName) -> Option<View> {
        match self.operations.get(operation)? {
            Op::Ended(view) => Some(view.clone()),
            Op::Live(run) => {
                let run = &self.runs[run];
                Some(View { job: Arc::clone(&run.job), stage: run.stage.clone() })
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
        let mut names: Vec<&OperationName> = self
            .operations
            .iter()
            .filter(|(name, op)| {
                let job = match op {
                    Op::Live(run) => &self.runs[run].job,
                    Op::Ended(view) => &view.job,
                };
                job.instance == *instance && after.is_none_or(|after| *name > after)
            })
            .map(|(name, _)| name)
            .collect();
        names.sort_unstable();
        names.into_iter().take(count).cloned().collect()
    }

    /// Operations that changed since the last call.
    pub fn take_changed(&mut self) -> Vec<OperationName> {
        std::mem::take(&mut self.changed)
    }

    /// Runs that nobody waits for any more although a worker has them, since the last call.
    pub fn take_abandoned(&mut self) -> Vec<RunId> {
        std::mem::take(&mut self.abandoned)
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
        self.operations.len() - self.ended.len()
    }

    /// Runs that a worker has now.
    pub fn running(&self) -> usize {
        self.runs.len() - self.queue.len()
    }

    fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
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

    fn forget_run(&mut self, id: RunId) -> Run {
        self.unjoin(id);
        let mut run = self.runs.remove(&id).expect("callers name a run that exists");
        self.queue.remove(&run.order);
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
        let bytes = response.encoded_len();
        let view = View { job, stage: Stage::Completed(response) };
        self.operations.insert(name.clone(), Op::Ended(view));
        self.ended.push_back(Ended { at: now, name: name.clone(), bytes });
        self.ended_bytes += bytes;
        self.changed.push(name);
    }

    /// What must hold after every mutation. It looks at everything, so only tests can afford it.
    fn check(&self) {
        if !cfg!(test) {
            return;
        }
        assert!(self.queue.iter().all(|(order, id)| {
            self.runs.get(id).is_some_and(|run| run.worker.is_none() && run.order == *order)
        }));
        assert!(self.joinable.values().all(|id| self.runs.contains_key(id)));
        assert_eq!(self.ended_bytes, self.ended.iter().map(|ended| ended.bytes).sum::<usize>());
        assert!(self.workers.values().all(|w| w.running <= w.offer.slots));
    }
}

fn key(job: &Job) -> Key {
    // Those who sent other messages do not share a run, so that each hears of its own.
    (job.instance.clone(), job.action, job.requested)
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
