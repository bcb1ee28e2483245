//! The async shell around the state machine: a lock, a clock, and those who wait.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use tokio::sync::{Notify, watch};
use wardian_proto::{InstanceName, reapi, rpc};
use wardian_store::action_cache::ActionCache;

mod bell;
mod remote;
mod restart;

pub use self::bell::Bell;
pub use self::restart::Restored;

use crate::journal::Change;
use crate::state::{LiveRun, Scheduler, Stage, View, Waiting};
use crate::{
    Assignment, Figures, Held, Job, Journal, JournalError, JournalStats, Loss, Offer, OperationName, RunId,
    SchedulerLimits, SubmitError, Tenants, WorkQueue, WorkerId,
};

/// What a worker could not do, so that another one may: its disk is full, or it does not reach the CAS.
const RETRIED: rpc::Code = rpc::Code::Unavailable;

/// How often the queue looks for what is due.
const TICK: Duration = Duration::from_secs(1);

/// How much later than it is due a tick may come before the process counts as having stood still: stopped, swapped out,
/// or on a machine that was.
const TICK_LATE_MAX: Duration = Duration::from_secs(1);

/// What the clients of an action hear that is queued when the server is shut down, and nothing is kept.
const NOT_RUN: &str = "the server is shutting down; the action was not run";

/// The queue of one server process.
#[derive(Clone)]
pub struct LocalQueue {
    shared: Arc<Shared>,
}

struct Shared {
    inner: Mutex<Inner>,
    /// Rung during a shutdown when no worker has anything any more.
    drained: Notify,
    action_cache: ActionCache,
    /// What survives the process; nothing does without.
    journal: Option<Journal>,
    /// Tells runs of this queue from those of others.
    epoch: u64,
}

struct Inner {
    state: Scheduler,
    watchers: HashMap<OperationName, watch::Sender<View>>,
    cancels: HashMap<RunId, watch::Sender<bool>>,
    /// One for each worker that somebody listens for.
    bells: HashMap<WorkerId, Bell>,
    shutting_down: bool,
    /// Workers were told to stop what they run: what they say of it then is of no interest where it is run again.
    stopped: bool,
}

/// What is in a queue at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLoad {
    /// Runs that have not begun.
    pub queued_runs: usize,
    /// Runs that a worker has begun.
    pub running_runs: usize,
    /// Operations that have not ended; several may share a run.
    pub live_operations: usize,
}

/// A client's view of its operation.
#[derive(Debug)]
pub struct Operation {
    /// Its name.
    pub name: OperationName,
    /// Its present state and every later one.
    pub views: watch::Receiver<View>,
    /// Its place in the journal, if it was just taken in.
    noted: Option<u64>,
}

impl LocalQueue {
    /// An empty queue that writes good results to `action_cache`.
    pub fn new(limits: SchedulerLimits, tenants: Tenants, action_cache: ActionCache) -> Self {
        let inner = Inner {
            state: Scheduler::new(limits, tenants),
            watchers: HashMap::new(),
            cancels: HashMap::new(),
            bells: HashMap::new(),
            shutting_down: false,
            stopped: false,
        };
        let shared = Shared {
            inner: Mutex::new(inner),
            drained: Notify::new(),
            action_cache,
            journal: None,
            epoch: uuid::Uuid::new_v4().as_u64_pair().0,
        };
        Self { shared: Arc::new(shared) }
    }

    /// Takes an action in. What is `held` lives until its run ends; of those who share a run the first
    /// one's does.
    pub fn submit(&self, job: Job, held: Option<Held>) -> Result<Operation, SubmitError> {
        // Outside of the update, so that what is left of it is dropped without the lock.
        let mut held = held;
        self.shared.journal.as_ref().map_or(Ok(()), Journal::has_room)?;
        self.update(|inner| {
            if inner.shutting_down {
                return Err(SubmitError::ShuttingDown);
            }
            let name = inner.state.submit(Instant::now(), SystemTime::now(), job)?;
            inner.state.hold(&name, &mut held);
            let view = inner.state.view(&name).expect("just submitted");
            let noted = self.shared.journal.as_ref().map(|journal| {
                let LiveRun { run, queued_at, priority, job } =
                    inner.state.run_of(&name).expect("just submitted");
                journal.note([Change::Live { name: name.clone(), run, queued_at, priority, job }])
            });
            let (sender, views) = watch::channel(view);
            inner.watchers.insert(name.clone(), sender);
            Ok(Operation { name, views, noted })
        })
    }

    /// Waits until an operation that was just taken in survives a restart. It may well have ended by then. When it
    /// cannot be kept it is cancelled.
    pub async fn kept(&self, operation: &Operation) -> Result<(), JournalError> {
        let (Some(journal), Some(noted)) = (&self.shared.journal, operation.noted) else { return Ok(()) };
        let kept = journal.kept(noted).await;
        if kept.is_err() {
            self.cancel(&operation.name);
        }
        kept
    }

    /// Does what is due, again and again. To be run beside the queue for as long as it is used.
    pub async fn keep_ticking(self) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut last = Instant::now();
        loop {
            ticks.tick().await;
            self.update(|inner| {
                let late = last.elapsed().saturating_sub(TICK);
                last = Instant::now();
                if late > TICK_LATE_MAX {
                    tracing::warn!(
                        seconds = late.as_secs(),
                        "the server stood still; workers have as much longer"
                    );
                    inner.state.stood_still(late);
                }
                // Workers cannot be heard of any more then, and what they have is left to the next process.
                if !(inner.shutting_down && self.shared.journal.is_some()) {
                    inner.state.tick(Instant::now());
                }
            });
        }
    }

    #[cfg(test)]
    pub(crate) fn priority_of(&self, name: &OperationName) -> Option<i32> {
        self.lock().state.run_of(name).map(|run| run.priority)
    }

    /// Why an operation waits; `None` when it does not.
    pub fn waiting(&self, name: &OperationName) -> Option<Waiting> {
        self.lock().state.waiting(name)
    }

    /// Finds an operation by name.
    pub fn operation(&self, name: &OperationName) -> Option<Operation> {
        let mut inner = self.lock();
        self.expire(&mut inner);
        let views = match inner.watchers.get(name) {
            Some(sender) => sender.subscribe(),
            // Ended: one last view, and a sender that is gone.
            None => watch::channel(inner.state.view(name)?).1,
        };
        Some(Operation { name: name.clone(), views, noted: None })
    }

    /// Lists operation names of an instance in name order.
    pub fn list(
        &self,
        instance: &InstanceName,
        after: Option<&OperationName>,
        count: usize,
    ) -> Vec<OperationName> {
        self.lock().state.list(instance, after, count)
    }

    /// Cancels one operation; false when there is none of that name.
    pub fn cancel(&self, name: &OperationName) -> bool {
        let status = rpc::Status {
            code: rpc::Code::Cancelled.into(),
            message: "the operation was cancelled".into(),
            details: vec![],
        };
        let response = reapi::ExecuteResponse { status: Some(status), ..Default::default() };
        self.update(|inner| inner.state.cancel(Instant::now(), name, response))
    }

    /// Drops the memory of an operation; false when there is none of that name.
    pub fn delete(&self, name: &OperationName) -> bool {
        let mut inner = self.lock();
        let deleted = inner.state.delete(name);
        // A name that nobody has is whatever a client sent.
        if deleted {
            inner.watchers.remove(name);
            self.note([Change::Forgotten(name.clone())]);
        }
        deleted
    }

    /// Runs that a worker has now, begun or not.
    pub fn running(&self) -> usize {
        self.lock().state.running()
    }

    /// How much there is to do.
    pub fn load(&self) -> QueueLoad {
        let inner = self.lock();
        QueueLoad {
            queued_runs: inner.state.queued() + inner.state.ahead(),
            running_runs: inner.state.running() - inner.state.ahead(),
            live_operations: inner.state.live_operations(),
        }
    }

    /// How the queue stands, and what it has done.
    pub fn figures(&self) -> Figures {
        self.lock().state.figures(Instant::now())
    }

    /// How the journal stands, if there is one. Looks at its folder.
    pub fn journal(&self) -> Option<JournalStats> {
        self.shared.journal.as_ref().map(Journal::stats)
    }

    /// Refuses new actions, and lets every worker that asks for work go home. What no worker has is given up, or left
    /// to the next process where there is a journal: those who follow it come to the end of their stream.
    pub fn shut_down(&self) {
        self.update(|inner| {
            inner.shutting_down = true;
            if self.shared.journal.is_some() {
                inner.let_go_of_queued();
            } else {
                // What workers have not begun comes back, and is given up like what waits here.
                inner.state.pause(Instant::now(), true);
            }
            inner.ring_all();
        });
    }

    /// Waits during a shutdown until no worker has anything any more.
    pub async fn drained(&self) {
        loop {
            let mut rung = std::pin::pin!(self.shared.drained.notified());
            rung.as_mut().enable();
            if self.running() == 0 {
                return;
            }
            rung.await;
        }
    }

    /// Ends the streams of all who wait, as nothing more will happen here. What has not ended is the next process's, or
    /// nobody's: then those who wait for it are told.
    pub fn let_go(&self) {
        if !self.has_journal() {
            let text =
                "the server was shut down before the action ended; what its worker makes of it is lost";
            self.update(|inner| {
                inner.state.end_all(Instant::now(), &unavailable(text));
                inner.ring_all();
            });
        }
        self.lock().watchers.clear();
    }

    /// Whether operations outlive this process.
    pub fn has_journal(&self) -> bool {
        self.shared.journal.is_some()
    }

    /// Whether the queue is shutting down.
    pub fn is_shutting_down(&self) -> bool {
        self.lock().shutting_down
    }

    /// Tells every worker to stop what it runs, whoever waits for it.
    pub fn stop_running(&self) {
        let mut inner = self.lock();
        inner.stopped = true;
        for cancel in inner.cancels.values() {
            cancel.send_replace(true);
        }
        inner.ring_all();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.shared.inner.lock().expect("a panic under this lock is a bug that must not be papered over")
    }

    /// Changes the state and tells everybody what that changed.
    fn update<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        let mut inner = self.lock();
        let changed = change(&mut inner);
        if inner.shutting_down && self.shared.journal.is_none() && inner.state.queued() > 0 {
            // Also what a worker gives back meanwhile: nobody will run it.
            inner.state.end_queued(Instant::now(), &unavailable(NOT_RUN));
        }
        inner.settle(self);
        if inner.shutting_down && inner.state.running() == 0 {
            self.shared.drained.notify_waiters();
        }
        self.expire(&mut inner);
        let released = inner.state.take_released();
        // Letting go of a large input tree takes a moment, in which nobody should have to wait.
        drop(inner);
        drop(released);
        changed
    }

    /// Forgets ended operations that are too old or too many.
    fn expire(&self, inner: &mut Inner) {
        let forgotten = inner.state.expire(Instant::now());
        if !forgotten.is_empty() {
            self.note(forgotten.into_iter().map(Change::Forgotten));
        }
    }

    fn note(&self, changes: impl IntoIterator<Item = Change>) {
        if let Some(journal) = &self.shared.journal {
            journal.note(changes);
        }
    }
}

impl Inner {
    fn assign(&mut self, worker: WorkerId) -> Option<Assignment> {
        if self.shutting_down {
            return None;
        }
        let given = self.state.assign(Instant::now(), worker)?;
        let (sender, cancelled) = watch::channel(false);
        self.cancels.insert(given.run, sender);
        Some(Assignment { run: given.run, job: given.job, queued_at: given.queued_at, cancelled })
    }

    /// Tells everybody what the last mutation changed.
    fn settle(&mut self, queue: &LocalQueue) {
        for name in self.state.take_changed() {
            let Some(view) = self.state.view(&name) else { continue };
            let ended = matches!(view.stage, Stage::Completed(_));
            if let Stage::Completed(response) = &view.stage {
                let (job, response) = (Arc::clone(&view.job), Arc::clone(response));
                queue.note([Change::Ended { name: name.clone(), job, response }]);
            }
            if let Some(sender) = self.watchers.get(&name) {
                sender.send_replace(view);
            }
            if ended {
                self.watchers.remove(&name);
            }
        }
        for run in self.state.take_abandoned() {
            if let Some(cancel) = self.cancels.get(&run) {
                cancel.send_replace(true);
            }
        }
        for run in self.state.take_untied() {
            self.cancels.remove(&run);
        }
        for worker in self.state.take_called(Instant::now()) {
            self.ring(worker);
        }
    }

    /// Ends the streams of those who wait for what no worker has.
    fn let_go_of_queued(&mut self) {
        let state = &self.state;
        self.watchers
            .retain(|name, _| state.view(name).is_some_and(|view| !matches!(view.stage, Stage::Queued)));
    }
}

/// Whether a result may be served to others: the action finished, with exit code 0, and allows it.
fn is_cacheable(job: &Job, response: &reapi::ExecuteResponse) -> bool {
    let ok = response.status.as_ref().is_none_or(|status| status.code == rpc::Code::Ok as i32);
    ok && !job.do_not_cache && response.result.as_ref().is_some_and(|result| result.exit_code == 0)
}

fn unavailable(text: &str) -> reapi::ExecuteResponse {
    let status = rpc::Status { code: rpc::Code::Unavailable.into(), message: text.into(), details: vec![] };
    reapi::ExecuteResponse { status: Some(status), ..Default::default() }
}

fn was_cancelled(response: &reapi::ExecuteResponse) -> bool {
    response.status.as_ref().is_some_and(|status| status.code == rpc::Code::Cancelled as i32)
}

#[async_trait]
impl WorkQueue for LocalQueue {
    async fn register(&self, offer: Offer) -> WorkerId {
        self.update(|inner| inner.state.add_worker(offer))
    }

    async fn unregister(&self, worker: WorkerId) {
        self.remove_worker(worker, &Loss::Left);
    }

    async fn next(&self, worker: WorkerId) -> Option<Assignment> {
        let bell = self.bell(worker);
        loop {
            // Listen before looking, so that work that comes in between is not slept through.
            let mut rung = std::pin::pin!(bell.rung());
            rung.as_mut().enable();
            let given = self.update(|inner| {
                if inner.shutting_down || !inner.state.has_worker(worker) {
                    return Err(());
                }
                let given = inner.assign(worker);
                if given.is_none() {
                    inner.state.sleep(worker);
                }
                Ok(given)
            });
            match given {
                Err(()) => return None,
                Ok(Some(assignment)) => return Some(assignment),
                Ok(None) => rung.await,
            }
        }
    }

    async fn progress(&self, run: RunId, metadata: reapi::ExecutedActionMetadata) {
        self.update(|inner| inner.state.progress(Instant::now(), run, metadata));
    }

    /// Ends a run with its result, or lets another worker try what this one could not do.
    async fn complete(&self, worker: WorkerId, run: RunId, mut response: reapi::ExecuteResponse) {
        if let Some(status) = response.status.as_ref().filter(|status| status.code == i32::from(RETRIED)) {
            return self.give_back(worker, run, &Loss::Unable(status.message.clone()));
        }
        let job = {
            let inner = self.lock();
            let wanted = inner.cancels.get(&run).is_some_and(|cancel| !*cancel.borrow());
            if wanted && was_cancelled(&response) {
                // It is about an earlier start of the run, which somebody else's loss has brought back to this worker.
                drop(inner);
                return self.give_back(worker, run, &Loss::Dropped);
            }
            if inner.stopped && was_cancelled(&response) {
                if self.shared.journal.is_some() {
                    return;
                }
                response = unavailable("the server was shut down before the action ended");
            }
            inner.state.job_of(worker, run)
        };
        // Cached before anybody hears of it: who asks after the answer finds it.
        if let Some(job) = job.filter(|job| is_cacheable(job, &response)) {
            let result = response.result.as_ref().expect("cacheable responses have a result");
            if let Err(error) = self.shared.action_cache.put(&job.instance, &job.action, result).await {
                tracing::warn!(action = %job.action, %error, "result could not be cached");
                response.message = format!("the result could not be cached: {error}");
            }
        }
        // A late report about a run that another worker has now changes nothing.
        self.update(|inner| inner.state.complete(Instant::now(), worker, run, response));
    }
}
