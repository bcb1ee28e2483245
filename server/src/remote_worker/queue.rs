//! The queue of a server elsewhere, as a worker sees it.
//!
//! What the worker has is a state here, and reports are made of it: the slots change the state and never wait for the
//! network.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use async_trait::async_trait;
use prost::Message as _;
use tokio::sync::{Notify, watch};
use wardian_proto::{Digest, DigestFunction, InstanceName, reapi, rpc, wardian};
use wardian_runtime::Prefetcher;
use wardian_scheduler::{Assignment, Invocation, Job, Offer, Platform, RunId, WorkQueue, WorkerId};

use super::logs::RemoteLogs;

/// Bytes of results in one report; a larger result goes by itself.
const RESULTS_BYTES_PER_REPORT: usize = 4 << 20;

/// Largest result that is reported. The action of a larger one ends with RESOURCE_EXHAUSTED.
const RESULT_BYTES_MAX: usize = 32 << 20;

/// The worker's side of a queue elsewhere. Clones share it.
#[derive(Clone)]
pub(super) struct RemoteQueue {
    shared: Arc<Shared>,
}

struct Shared {
    inner: Mutex<Inner>,
    /// Rung when there is work, or none any more.
    work: Notify,
    /// Rung when there is something to report.
    news: Arc<Notify>,
    /// Rung when something was acknowledged.
    acknowledged: Notify,
    leave: watch::Sender<bool>,
    logs: RemoteLogs,
}

#[derive(Default)]
struct Inner {
    offer: wardian::WorkerOffer,
    offer_unsent: bool,
    /// Which logs are open was not said on this connection.
    logs_unsaid: bool,
    last_id: u64,
    runs: BTreeMap<RunId, Held>,
    names: HashMap<String, RunId>,
    /// What was not begun: each slot takes the first one as soon as it is free.
    given: VecDeque<Assignment>,
    /// Runs that it takes beside those that its slots run.
    ahead: usize,
    orders_seen: u64,
    leaving: bool,
    /// The server was told so, and has answered since.
    leave_reported: bool,
    leave_heard: bool,
    /// What ends now was stopped, and is nobody's business here.
    stopped: bool,
    /// Names of runs that were not begun and are for others, unreported.
    returned: Vec<String>,
    /// Something that was stopped or given back is held no more, and the server does not know.
    gone_unsent: bool,
    /// Fetches the inputs of what was ordered, also before it has a slot.
    prefetcher: Option<Prefetcher>,
    /// It was asked to give something back, and the server waits to hear what became of that.
    answer_unsent: bool,
}

/// A run that this worker has.
struct Held {
    name: String,
    cancel: watch::Sender<bool>,
    metadata: Option<reapi::ExecutedActionMetadata>,
    metadata_unsent: bool,
    result: Option<reapi::ExecuteResponse>,
    result_unsent: bool,
}

/// How urgent it is to report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum News {
    Nothing,
    /// Progress and logs: they may come together.
    Some,
    /// Somebody waits for it.
    Urgent,
}

impl RemoteQueue {
    /// A queue that takes so many runs beside those that slots run.
    pub(super) fn new(logs: RemoteLogs, ahead: usize) -> Self {
        let news = Arc::<Notify>::default();
        logs.ring(Arc::clone(&news));
        let shared = Shared {
            inner: Mutex::new(Inner { ahead, ..Inner::default() }),
            work: Notify::new(),
            news,
            acknowledged: Notify::new(),
            leave: watch::Sender::new(false),
            logs,
        };
        Self { shared: Arc::new(shared) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.shared.inner.lock().expect("no code that holds this lock panics")
    }

    /// Has the inputs of orders fetched as soon as they are taken in.
    pub(super) fn prefetch_with(&self, prefetcher: Prefetcher) {
        self.lock().prefetcher = Some(prefetcher);
    }

    /// Takes nothing more.
    pub(super) fn leave(&self) {
        let mut inner = self.lock();
        inner.leaving = true;
        inner.offer.leaving = true;
        inner.offer_unsent = true;
        // What was not begun goes back: it is held no more.
        for assignment in std::mem::take(&mut inner.given) {
            if let Some(held) = inner.forget(assignment.run) {
                inner.give_back(held.name);
            }
        }
        drop(inner);
        self.shared.work.notify_waiters();
        self.shared.news.notify_one();
    }

    /// Stops what runs, and says nothing of it: another worker runs it again.
    pub(super) fn stop(&self) {
        self.leave();
        let mut inner = self.lock();
        inner.stopped = true;
        for held in inner.runs.values() {
            held.cancel.send_replace(true);
        }
    }

    /// Waits until the server tells the worker to leave.
    pub(super) async fn told_to_leave(&self) {
        // The sender is part of what this holds.
        let _ = self.shared.leave.subscribe().wait_for(|leave| *leave).await;
    }

    /// Waits until the server knows that this worker leaves, and has every result.
    pub(super) async fn parted(&self) {
        loop {
            let mut rung = std::pin::pin!(self.shared.acknowledged.notified());
            rung.as_mut().enable();
            {
                let inner = self.lock();
                if inner.runs.is_empty() && inner.leave_heard && !inner.gone_unsent {
                    return;
                }
            }
            rung.await;
        }
    }

    /// Rung when there is something to report.
    pub(super) async fn rung(&self) {
        self.shared.news.notified().await;
    }

    /// A new connection knows nothing: everything is to be reported again.
    pub(super) fn begin_stream(&self) {
        let mut inner = self.lock();
        inner.offer_unsent = true;
        inner.logs_unsaid = true;
        inner.orders_seen = 0;
        for held in inner.runs.values_mut() {
            held.metadata_unsent = held.metadata.is_some();
            held.result_unsent = held.result.is_some();
        }
    }

    /// What there is to report.
    pub(super) fn news(&self) -> News {
        let inner = self.lock();
        let is_awaited = inner.offer_unsent || inner.gone_unsent || inner.answer_unsent;
        if is_awaited || inner.runs.values().any(|held| held.result_unsent) {
            return News::Urgent;
        }
        let progress = inner.runs.values().any(|held| held.metadata_unsent);
        if progress || self.shared.logs.has_some() { News::Some } else { News::Nothing }
    }

    /// The state as it is now, and what was not reported yet.
    pub(super) fn report(&self) -> wardian::WorkerReport {
        let mut inner = self.lock();
        inner.leave_reported |= inner.leaving;
        if std::mem::take(&mut inner.gone_unsent) {
            // Not before this report was answered is it known.
            inner.leave_heard = false;
        }
        inner.answer_unsent = false;
        let logs_open =
            if std::mem::take(&mut inner.logs_unsaid) { self.shared.logs.unfinished() } else { Vec::new() };
        let mut report = wardian::WorkerReport {
            logs_open,
            offer: std::mem::take(&mut inner.offer_unsent).then(|| inner.offer.clone()),
            held: inner.runs.values().map(|held| held.name.clone()).collect(),
            waiting: inner.given.iter().map(|given| inner.runs[&given.run].name.clone()).collect(),
            orders_seen: inner.orders_seen,
            logs: self.shared.logs.take(),
            returned: std::mem::take(&mut inner.returned),
            ..Default::default()
        };
        let mut bytes = 0;
        for held in inner.runs.values_mut() {
            if held.result_unsent && bytes < RESULTS_BYTES_PER_REPORT {
                bytes += held.result.as_ref().map_or(0, prost::Message::encoded_len);
                held.result_unsent = false;
                held.metadata_unsent = false;
                let (run, response) = (held.name.clone(), held.result.clone());
                report.results.push(wardian::RunResult { run, response });
            }
            if std::mem::take(&mut held.metadata_unsent) {
                let (run, metadata) = (held.name.clone(), held.metadata.clone());
                report.progress.push(wardian::RunProgress { run, metadata });
            }
        }
        report
    }

    /// Does what the server says.
    pub(super) fn take(&self, orders: wardian::WorkerOrders) {
        let mut inner = self.lock();
        inner.orders_seen = orders.sequence;
        inner.leave_heard = inner.leave_reported;
        for name in &orders.cancelled {
            // What was not begun need not be.
            if !inner.give_back_waiting(name)
                && let Some(held) = inner.named(name)
            {
                held.cancel.send_replace(true);
            }
        }
        for name in &orders.acknowledged {
            if let Some(id) = inner.names.get(name).copied()
                && inner.runs[&id].result.is_some()
                // Else it is about the result of an earlier start.
                && !inner.runs[&id].result_unsent
            {
                inner.forget(id);
            }
        }
        for order in orders.runs {
            inner.begin(order);
        }
        for name in &orders.give_back {
            // That it is held and not returned is an answer too.
            inner.give_back_waiting(name);
            inner.answer_unsent = true;
        }
        let news = inner.gone_unsent || inner.answer_unsent;
        drop(inner);
        self.shared.work.notify_waiters();
        self.shared.acknowledged.notify_waiters();
        if news {
            self.shared.news.notify_one();
        }
        if orders.leave {
            self.shared.leave.send_replace(true);
        }
    }
}

impl Inner {
    fn named(&self, name: &str) -> Option<&Held> {
        self.runs.get(self.names.get(name)?)
    }

    fn forget(&mut self, id: RunId) -> Option<Held> {
        let held = self.runs.remove(&id)?;
        self.names.remove(&held.name);
        Some(held)
    }

    /// Lets another worker have what was not begun.
    fn give_back(&mut self, name: String) {
        self.returned.push(name);
        self.gone_unsent = true;
    }

    /// Lets another worker have a run unless it was begun.
    fn give_back_waiting(&mut self, name: &str) -> bool {
        let Some(id) = self.names.get(name).copied() else { return false };
        let Some(at) = self.given.iter().position(|given| given.run == id) else { return false };
        self.given.remove(at);
        let held = self.forget(id).expect("what has a name is held");
        self.give_back(held.name);
        true
    }

    /// Takes a run in. What is not taken is not held, so that the server hears of it.
    fn begin(&mut self, order: wardian::RunOrder) {
        if self.leaving {
            match self.names.get(&order.run).copied() {
                // One that it has and has begun is no other for being named again.
                Some(id) if self.runs[&id].result.is_none() => return,
                // It is to be run once more, so its result was taken.
                Some(id) => drop(self.forget(id)),
                None => {}
            }
            self.give_back(order.run);
            return;
        }
        if let Some(id) = self.names.get(&order.run).copied() {
            if self.runs[&id].result.is_none() {
                return;
            }
            // It is to be run once more, so its result was taken.
            self.forget(id);
        }
        let Some((job, queued_at)) = read(&order) else {
            tracing::error!(run = order.run, "the server's order cannot be read");
            return;
        };
        self.last_id += 1;
        let run = RunId::from_number(self.last_id);
        let (cancel, cancelled) = watch::channel(false);
        let held = Held {
            name: order.run.clone(),
            cancel,
            metadata: None,
            metadata_unsent: false,
            result: None,
            result_unsent: false,
        };
        if let Some(prefetcher) = &self.prefetcher {
            prefetcher.begin(job.action, cancelled.clone());
        }
        // Given back, and given once more before that was said.
        self.returned.retain(|name| *name != order.run);
        self.names.insert(order.run, run);
        self.runs.insert(run, held);
        self.given.push_back(Assignment { run, job: Arc::new(job), queued_at, cancelled });
    }
}

/// The parts of a job that a worker looks at.
fn read(order: &wardian::RunOrder) -> Option<(Job, SystemTime)> {
    let function = DigestFunction::ALL.iter().find(|f| i32::from(f.wire()) == order.digest_function)?;
    let action = Digest::from_wire(*function, order.action_digest.as_ref()).ok()?;
    let job = Job {
        instance: InstanceName::parse(&order.instance_name).ok()?,
        action,
        requested: action,
        platform: Platform::default(),
        priority: 0,
        do_not_cache: false,
        invocation: Invocation::default(),
        memory_bytes: 0,
    };
    let queued = order.queued.and_then(|at| SystemTime::try_from(at).ok());
    Some((job, queued.unwrap_or_else(SystemTime::now)))
}

#[async_trait]
impl WorkQueue for RemoteQueue {
    async fn register(&self, offer: Offer) -> WorkerId {
        let incarnation = uuid::Uuid::new_v4().to_string();
        let mut inner = self.lock();
        let offer = Offer { ahead: inner.ahead, ..offer };
        inner.offer = wardian::WorkerOffer { incarnation, ..crate::fleet::offer_to_wire(&offer) };
        WorkerId::from_number(1)
    }

    async fn unregister(&self, _worker: WorkerId) {
        self.leave();
    }

    async fn next(&self, _worker: WorkerId) -> Option<Assignment> {
        loop {
            // Listen before looking, so that work that comes in between is not slept through.
            let mut rung = std::pin::pin!(self.shared.work.notified());
            rung.as_mut().enable();
            {
                let mut inner = self.lock();
                if inner.leaving {
                    return None;
                }
                if let Some(assignment) = inner.given.pop_front() {
                    return Some(assignment);
                }
            }
            rung.await;
        }
    }

    async fn progress(&self, run: RunId, metadata: reapi::ExecutedActionMetadata) {
        if let Some(held) = self.lock().runs.get_mut(&run) {
            held.metadata = Some(metadata);
            held.metadata_unsent = true;
        }
        self.shared.news.notify_one();
    }

    async fn complete(&self, _worker: WorkerId, run: RunId, mut response: reapi::ExecuteResponse) {
        let bytes = response.encoded_len();
        if bytes > RESULT_BYTES_MAX {
            response = too_large(bytes);
        }
        let mut inner = self.lock();
        if inner.stopped {
            inner.forget(run);
            inner.gone_unsent = true;
            self.shared.acknowledged.notify_waiters();
        } else if let Some(held) = inner.runs.get_mut(&run) {
            held.result = Some(response);
            held.result_unsent = true;
        }
        drop(inner);
        self.shared.news.notify_one();
    }
}

fn too_large(bytes: usize) -> reapi::ExecuteResponse {
    let status = rpc::Status {
        code: rpc::Code::ResourceExhausted.into(),
        message: format!("the result takes {bytes} bytes; limit is {RESULT_BYTES_MAX}"),
        details: vec![],
    };
    reapi::ExecuteResponse { status: Some(status), ..Default::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(sequence: u64) -> wardian::WorkerOrders {
        let run = wardian::RunOrder {
            run: "run-1".into(),
            action_digest: Some(DigestFunction::Sha256.digest(b"action").to_wire()),
            digest_function: DigestFunction::Sha256.wire().into(),
            ..Default::default()
        };
        wardian::WorkerOrders { sequence, runs: vec![run], ..Default::default() }
    }

    #[tokio::test]
    async fn who_leaves_gives_back_what_was_not_begun() {
        let queue = RemoteQueue::new(RemoteLogs::default(), 1);
        let worker = queue.register(Offer::default()).await;
        let named = |sequence, name: &str| {
            let mut orders = order(sequence);
            orders.runs[0].run = name.into();
            orders
        };
        queue.take(named(1, "begun"));
        queue.next(worker).await.unwrap();
        queue.take(named(2, "waits"));
        queue.leave();
        // On its way when the server did not know yet; and one that is there is not given back.
        queue.take(named(3, "late"));
        queue.take(named(4, "begun"));
        assert_eq!(queue.news(), News::Urgent);
        let report = queue.report();
        assert_eq!(
            (report.held, report.returned),
            (vec!["begun".into()], vec!["waits".into(), "late".into()])
        );
        assert!(queue.report().returned.is_empty());
    }

    #[tokio::test]
    async fn a_run_that_is_ordered_again_is_run_again() {
        let queue = RemoteQueue::new(RemoteLogs::default(), 1);
        let worker = queue.register(Offer::default()).await;
        queue.take(order(1));
        // The same order again, as long as it runs, is the same run.
        queue.take(order(2));
        let first = queue.next(worker).await.unwrap().run;
        assert_eq!(queue.lock().given.len(), 0);
        queue.complete(worker, first, reapi::ExecuteResponse::default()).await;
        assert_eq!(queue.report().results.len(), 1);
        // Whether the result is acknowledged in the same message does not matter.
        queue.take(wardian::WorkerOrders { acknowledged: vec!["run-1".into()], ..order(3) });
        let second = queue.next(worker).await.unwrap().run;
        queue.complete(worker, second, reapi::ExecuteResponse::default()).await;
        queue.take(order(4));
        assert!(queue.next(worker).await.unwrap().run > second);
        assert_eq!(queue.report().held, ["run-1"]);
    }

    fn orders(sequence: u64, names: &[&str]) -> wardian::WorkerOrders {
        let one = order(sequence).runs.remove(0);
        let runs = names.iter().map(|name| wardian::RunOrder { run: (*name).into(), ..one.clone() });
        wardian::WorkerOrders { sequence, runs: runs.collect(), ..Default::default() }
    }

    #[tokio::test]
    async fn what_was_not_begun_is_given_back_when_it_is_asked_for() {
        let queue = RemoteQueue::new(RemoteLogs::default(), 2);
        let worker = queue.register(Offer { slots: 1, ..Offer::default() }).await;
        assert_eq!(queue.lock().offer.ahead, 2);
        queue.take(orders(1, &["begun", "next", "last"]));
        queue.next(worker).await.unwrap();
        assert_eq!(queue.report().waiting, ["next", "last"]);
        let give_back = vec!["begun".into(), "next".into(), "unknown".into()];
        queue.take(wardian::WorkerOrders { give_back, ..orders(2, &[]) });
        assert_eq!(queue.news(), News::Urgent);
        let report = queue.report();
        assert_eq!(report.returned, ["next"]);
        assert_eq!((report.held, report.waiting), (vec!["begun".into(), "last".into()], vec!["last".into()]));
        // That it keeps what it has begun is an answer that somebody waits for.
        queue.take(wardian::WorkerOrders { give_back: vec!["begun".into()], ..orders(3, &[]) });
        assert_eq!(queue.news(), News::Urgent);
        let report = queue.report();
        assert_eq!((report.orders_seen, report.returned.len(), report.held.len()), (3, 0, 2));
        assert_eq!(queue.news(), News::Nothing);
    }

    #[tokio::test]
    async fn what_nobody_wants_is_not_begun() {
        let queue = RemoteQueue::new(RemoteLogs::default(), 1);
        let worker = queue.register(Offer::default()).await;
        queue.take(orders(1, &["begun", "next"]));
        let begun = queue.next(worker).await.unwrap();
        let cancelled = vec!["begun".into(), "next".into()];
        queue.take(wardian::WorkerOrders { cancelled, ..orders(2, &[]) });
        assert!(*begun.cancelled.borrow());
        let report = queue.report();
        assert_eq!((report.held, report.returned), (vec!["begun".into()], vec!["next".into()]));
    }
}
