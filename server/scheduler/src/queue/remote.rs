//! What workers in processes of their own need of the queue beside [`WorkQueue`](crate::WorkQueue): they come and go
//! with what they run, and may fall silent.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use wardian_proto::reapi;

use super::LocalQueue;
use crate::state::{Holding, WorkerView};
use crate::{Assignment, Job, JournalError, Loss, Offer, RunId, WorkerId};

impl LocalQueue {
    /// Makes a worker known that is lost when nothing is heard of it for the length of its lease.
    pub fn join(&self, offer: Offer, lease: Duration) -> WorkerId {
        self.update(|inner| {
            let worker = inner.state.add_worker(offer);
            inner.state.renew_lease(worker, Instant::now() + lease);
            worker
        })
    }

    /// Notes that a worker is alive; false when it was lost meanwhile.
    pub fn renew(&self, worker: WorkerId, lease: Duration) -> bool {
        self.lock().state.renew_lease(worker, Instant::now() + lease)
    }

    /// Whether there is a worker of that name still.
    pub fn knows(&self, worker: WorkerId) -> bool {
        self.lock().state.has_worker(worker)
    }

    /// Whether there is a worker of this name.
    pub fn has_worker_named(&self, name: &str) -> bool {
        self.lock().state.has_worker_named(name)
    }

    /// The job of a run, as long as a worker has it.
    pub fn job_of(&self, worker: WorkerId, run: RunId) -> Option<Arc<Job>> {
        self.lock().state.job_of(worker, run)
    }

    /// Gives a worker nothing more, or something again; false when there is none of that name.
    pub fn drain(&self, worker: WorkerId, draining: bool) -> bool {
        self.update(|inner| inner.state.drain(Instant::now(), worker, draining))
    }

    /// Gives a worker nothing for now, or something again; false when there is none of that name.
    pub fn pause_worker(&self, worker: WorkerId, paused: bool) -> bool {
        self.update(|inner| inner.state.pause_worker(Instant::now(), worker, paused))
    }

    /// Takes a worker away; what it has is queued again.
    pub fn remove_worker(&self, worker: WorkerId, loss: &Loss) {
        self.update(|inner| inner.state.remove_worker(Instant::now(), worker, loss));
        if self.is_shutting_down() {
            // Those who follow what was just queued again come to the end of their stream.
            self.shut_down();
        }
    }

    /// Every worker, in the order of joining.
    pub fn workers(&self) -> Vec<WorkerView> {
        self.lock().state.workers().collect()
    }

    /// The runs that a worker has.
    pub fn runs_of(&self, worker: WorkerId) -> Vec<RunId> {
        self.lock().state.runs_of(worker)
    }

    /// The next run for a worker, if there is one now.
    pub fn assign(&self, worker: WorkerId) -> Option<Assignment> {
        self.update(|inner| {
            inner.state.wake(worker);
            inner.assign(worker)
        })
    }

    /// To be called by who listens to a worker's bell before it waits for it: it is not rung for work before.
    pub fn sleep(&self, worker: WorkerId) {
        self.update(|inner| inner.state.sleep(worker));
    }

    /// To be called when nobody listens to a worker's bell any more.
    pub fn absent(&self, worker: WorkerId) {
        self.update(|inner| inner.state.absent(worker));
    }

    /// Runs that a worker is to give back unless it has begun them, since the last call.
    pub fn take_questions(&self, worker: WorkerId) -> Vec<RunId> {
        self.lock().state.take_questions(worker)
    }

    /// To be called for a new connection of a worker, which may not have heard what it was asked for on the last one.
    pub fn forget_questions(&self, worker: WorkerId) {
        self.update(|inner| inner.state.forget_questions(Instant::now(), worker));
    }

    /// Notes that a worker that was asked to give a run back has begun it.
    pub fn has_begun(&self, worker: WorkerId, run: RunId) {
        self.update(|inner| inner.state.has_begun(Instant::now(), worker, run));
    }

    /// Whether a worker that says it has a run shall keep it: then what says that it is cancelled.
    pub fn keeps(&self, worker: WorkerId, run: RunId, holding: Holding) -> Option<watch::Receiver<bool>> {
        self.update(|inner| {
            if !inner.state.keeps(Instant::now(), worker, run, holding) {
                return None;
            }
            Some(inner.cancels.entry(run).or_insert_with(|| watch::Sender::new(false)).subscribe())
        })
    }

    /// Queues a run again that a worker was given and does not have.
    pub fn give_back(&self, worker: WorkerId, run: RunId, loss: &Loss) {
        self.update(|inner| inner.state.give_back(Instant::now(), worker, run, loss));
    }

    /// Notes how far a run is that a worker has; a report about one that it has no more is ignored.
    pub fn progress_at(&self, worker: WorkerId, run: RunId, metadata: reapi::ExecutedActionMetadata) {
        self.update(|inner| {
            if inner.state.job_of(worker, run).is_some() {
                inner.state.progress(Instant::now(), run, metadata);
            }
        });
    }

    /// Waits until everything that has happened survives a restart.
    pub async fn settled(&self) -> Result<(), JournalError> {
        match &self.shared.journal {
            Some(journal) => journal.kept(journal.noted()).await,
            None => Ok(()),
        }
    }

    /// The name of a run among those of all queues.
    pub fn run_name(&self, run: RunId) -> String {
        format!("{:016x}-{:016x}", self.shared.epoch, run.0)
    }

    /// Reads the name of a run; `None` when it is of another queue.
    pub fn parse_run_name(&self, name: &str) -> Option<RunId> {
        let (epoch, number) = name.split_once('-')?;
        if u64::from_str_radix(epoch, 16).ok()? != self.shared.epoch {
            return None;
        }
        Some(RunId(u64::from_str_radix(number, 16).ok()?))
    }
}
