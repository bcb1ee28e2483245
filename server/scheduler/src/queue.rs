//! The async shell around the state machine: a lock, a clock, and those who wait.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use tokio::sync::{Notify, watch};
use wardian_proto::{InstanceName, reapi, rpc};
use wardian_store::action_cache::ActionCache;

use crate::state::{Scheduler, Stage, View, Waiting};
use crate::{
    Assignment, Held, Job, Offer, OperationName, RunId, SchedulerLimits, SubmitError, Tenants, WorkQueue,
    WorkerId,
};

/// How often the queue looks for what is due.
const TICK: Duration = Duration::from_secs(1);

/// The queue of one server process.
#[derive(Clone)]
pub struct LocalQueue {
    shared: Arc<Shared>,
}

struct Shared {
    inner: Mutex<Inner>,
    /// Rung when there may be something to assign, and at shutdown.
    work: Notify,
    action_cache: ActionCache,
}

struct Inner {
    state: Scheduler,
    watchers: HashMap<OperationName, watch::Sender<View>>,
    cancels: HashMap<RunId, watch::Sender<bool>>,
    shutting_down: bool,
}

/// What is in a queue at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLoad {
    /// Runs that wait for a worker.
    pub queued_runs: usize,
    /// Runs that a worker has.
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
}

impl LocalQueue {
    /// An empty queue that writes good results to `action_cache`.
    pub fn new(limits: SchedulerLimits, tenants: Tenants, action_cache: ActionCache) -> Self {
        let inner = Inner {
            state: Scheduler::new(limits, tenants),
            watchers: HashMap::new(),
            cancels: HashMap::new(),
            shutting_down: false,
        };
        let shared = Shared { inner: Mutex::new(inner), work: Notify::new(), action_cache };
        Self { shared: Arc::new(shared) }
    }

    /// Takes an action in. What is `held` lives until its run ends; of those who share a run the first
    /// one's does.
    pub fn submit(&self, job: Job, held: Option<Held>) -> Result<Operation, SubmitError> {
        // Outside of the update, so that what is left of it is dropped without the lock.
        let mut held = held;
        let operation = self.update(|inner| {
            if inner.shutting_down {
                return Err(SubmitError::ShuttingDown);
            }
            let name = inner.state.submit(Instant::now(), SystemTime::now(), job)?;
            inner.state.hold(&name, &mut held);
            let view = inner.state.view(&name).expect("just submitted");
            let (sender, views) = watch::channel(view);
            inner.watchers.insert(name.clone(), sender);
            Ok(Operation { name, views })
        })?;
        self.shared.work.notify_waiters();
        Ok(operation)
    }

    /// Does what is due, again and again. To be run beside the queue for as long as it is used.
    pub async fn keep_ticking(self) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.update(|inner| inner.state.tick(Instant::now()));
            self.shared.work.notify_waiters();
        }
    }

    /// Why an operation waits; `None` when it does not.
    pub fn waiting(&self, name: &OperationName) -> Option<Waiting> {
        self.lock().state.waiting(name)
    }

    /// Finds an operation by name.
    pub fn operation(&self, name: &OperationName) -> Option<Operation> {
        let mut inner = self.lock();
        inner.state.expire(Instant::now());
        let views = match inner.watchers.get(name) {
            Some(sender) => sender.subscribe(),
            // Ended: one last view, and a sender that is gone.
            None => watch::channel(inner.state.view(name)?).1,
        };
        Some(Operation { name: name.clone(), views })
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
        inner.watchers.remove(name);
        inner.state.delete(name)
    }

    /// Runs that a worker has now.
    pub fn running(&self) -> usize {
        self.lock().state.running()
    }

    /// How much there is to do.
    pub fn load(&self) -> QueueLoad {
        let inner = self.lock();
        QueueLoad {
            queued_runs: inner.state.queued(),
            running_runs: inner.state.running(),
            live_operations: inner.state.live_operations(),
        }
    }

    /// Refuses new actions, gives up those that no worker has, and lets every worker that asks for work go
    /// home.
    pub fn shut_down(&self) {
        let status = rpc::Status {
            code: rpc::Code::Unavailable.into(),
            message: "the server is shutting down; the action was not run".into(),
            details: vec![],
        };
        let response = reapi::ExecuteResponse { status: Some(status), ..Default::default() };
        self.update(|inner| {
            inner.shutting_down = true;
            inner.state.end_queued(Instant::now(), &response);
        });
        self.shared.work.notify_waiters();
    }

    /// Tells every worker to stop what it runs, whoever waits for it.
    pub fn stop_running(&self) {
        for cancel in self.lock().cancels.values() {
            cancel.send_replace(true);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.shared.inner.lock().expect("a panic under this lock is a bug that must not be papered over")
    }

    /// Changes the state and tells everybody what that changed.
    fn update<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        let mut inner = self.lock();
        let changed = change(&mut inner);
        inner.settle(Instant::now());
        let released = inner.state.take_released();
        // Letting go of a large input tree takes a moment, in which nobody should have to wait.
        drop(inner);
        drop(released);
        changed
    }

    fn try_assign(&self, worker: WorkerId) -> Option<Assignment> {
        self.update(|inner| {
            let given = inner.state.assign(Instant::now(), worker)?;
            let (sender, cancelled) = watch::channel(false);
            inner.cancels.insert(given.run, sender);
            Some(Assignment { run: given.run, job: given.job, queued_at: given.queued_at, cancelled })
        })
    }
}

impl Inner {
    /// Tells everybody what the last mutation changed.
    fn settle(&mut self, now: Instant) {
        for name in self.state.take_changed() {
            let Some(view) = self.state.view(&name) else { continue };
            let ended = matches!(view.stage, Stage::Completed(_));
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
        self.state.expire(now);
    }
}

/// Whether a result may be served to others: the action finished, with exit code 0, and allows it.
fn is_cacheable(job: &Job, response: &reapi::ExecuteResponse) -> bool {
    let ok = response.status.as_ref().is_none_or(|status| status.code == rpc::Code::Ok as i32);
    ok && !job.do_not_cache && response.result.as_ref().is_some_and(|result| result.exit_code == 0)
}

#[async_trait]
impl WorkQueue for LocalQueue {
    async fn register(&self, offer: Offer) -> WorkerId {
        self.lock().state.add_worker(offer)
    }

    async fn unregister(&self, worker: WorkerId) {
        self.update(|inner| inner.state.remove_worker(Instant::now(), worker, "left"));
        self.shared.work.notify_waiters();
    }

    async fn next(&self, worker: WorkerId) -> Option<Assignment> {
        loop {
            // Listen before looking, so that work that comes in between is not slept through.
            let mut rung = std::pin::pin!(self.shared.work.notified());
            rung.as_mut().enable();
            if self.lock().shutting_down {
                return None;
            }
            if let Some(assignment) = self.try_assign(worker) {
                return Some(assignment);
            }
            rung.await;
        }
    }

    async fn progress(&self, run: RunId, metadata: reapi::ExecutedActionMetadata) {
        self.update(|inner| inner.state.progress(run, metadata));
    }

    async fn complete(&self, worker: WorkerId, run: RunId, mut response: reapi::ExecuteResponse) {
        let job = {
            let inner = self.lock();
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
        self.update(|inner| {
            // A late report about a run that another worker has now changes nothing.
            if inner.state.job_of(worker, run).is_some() {
                inner.cancels.remove(&run);
            }
            inner.state.complete(Instant::now(), worker, run, response);
        });
        self.shared.work.notify_waiters();
    }
}
