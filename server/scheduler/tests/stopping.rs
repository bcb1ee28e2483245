//! A queue that is shut down and keeps nothing: what becomes of what has not ended.

use std::sync::Arc;
use std::time::Duration;

use wardian_proto::{DigestFunction, InstanceName, reapi, rpc};
use wardian_scheduler::{
    Assignment, Invocation, Job, LocalQueue, Loss, Offer, Operation, Platform, SchedulerLimits, Stage,
    Tenants, WorkQueue as _, WorkerId,
};
use wardian_store::action_cache::ActionCache;
use wardian_store::backend::MemoryStore;

/// How long anything may take before a test gives up on it.
const PATIENCE: Duration = Duration::from_secs(60);

struct Stop {
    queue: LocalQueue,
    worker: WorkerId,
    operation: Operation,
    given: Assignment,
}

impl Stop {
    /// A worker elsewhere has begun an action, and the queue is shut down.
    fn begin() -> Self {
        let begun = Self::running();
        begun.queue.shut_down();
        assert!(matches!(begun.operation.views.borrow().stage, Stage::Executing(_)), "it goes on");
        begun
    }

    /// A worker elsewhere has begun an action.
    fn running() -> Self {
        let store = Arc::new(MemoryStore::new(1 << 20));
        let action_cache = ActionCache::new(store.clone(), store);
        let queue = LocalQueue::new(SchedulerLimits::default(), Tenants::default(), action_cache);
        let offer = Offer { name: "w".into(), properties: [].into(), slots: 2, ..Offer::default() };
        let worker = queue.join(offer, Duration::from_secs(3600));
        let action = DigestFunction::Sha256.digest(b"");
        let job = Job {
            instance: InstanceName::default(),
            action,
            requested: action,
            platform: Platform::default(),
            priority: 0,
            do_not_cache: false,
            invocation: Invocation::default(),
            memory_bytes: 0,
        };
        let operation = queue.submit(job, None).expect("there is a worker for it");
        let given = queue.assign(worker).expect("it is the only one");
        Self { queue, worker, operation, given }
    }

    async fn assert_unavailable(&mut self) {
        let views = &mut self.operation.views;
        let ended = views.wait_for(|view| matches!(view.stage, Stage::Completed(_)));
        let view =
            tokio::time::timeout(PATIENCE, ended).await.expect("it ends").expect("and is told").clone();
        let Stage::Completed(response) = view.stage else { panic!("it has ended") };
        let status = response.status.clone().unwrap_or_default();
        assert_eq!(status.code, i32::from(rpc::Code::Unavailable), "{}", status.message);
        tokio::time::timeout(PATIENCE, self.queue.drained()).await.expect("nothing is left");
    }
}

#[tokio::test]
async fn what_a_worker_gives_back_is_given_up() {
    let mut stop = Stop::begin();
    let bell = stop.queue.bell(stop.worker);
    stop.queue.give_back(stop.worker, stop.given.run, &Loss::Returned);
    stop.assert_unavailable().await;
    let mut rung = std::pin::pin!(bell.rung());
    rung.as_mut().enable();
    stop.queue.sleep(stop.worker);
    let called = tokio::time::timeout(Duration::from_millis(10), rung).await;
    assert!(called.is_err(), "nobody is called for what will not be given to anybody");
}

#[tokio::test]
async fn what_was_stopped_is_unavailable_and_not_cancelled() {
    let mut stop = Stop::begin();
    stop.queue.stop_running();
    assert!(*stop.given.cancelled.borrow());
    let status = rpc::Status { code: rpc::Code::Cancelled.into(), ..Default::default() };
    let response = reapi::ExecuteResponse { status: Some(status), ..Default::default() };
    stop.queue.complete(stop.worker, stop.given.run, response).await;
    stop.assert_unavailable().await;
}

#[tokio::test]
async fn what_does_not_end_in_time_is_given_up() {
    let mut stop = Stop::begin();
    let bell = stop.queue.bell(stop.worker);
    let mut rung = std::pin::pin!(bell.rung());
    rung.as_mut().enable();
    stop.queue.let_go();
    stop.assert_unavailable().await;
    tokio::time::timeout(PATIENCE, rung).await.expect("its worker's connection is told");
}

/// The worker was told to stop an earlier start of the run, when another worker had it; that one is lost, and this
/// one has it again.
#[tokio::test]
async fn what_was_cancelled_for_nobody_is_run_again() {
    let mut begun = Stop::running();
    let status = rpc::Status { code: rpc::Code::Cancelled.into(), ..Default::default() };
    let response = reapi::ExecuteResponse { status: Some(status), ..Default::default() };
    begun.queue.complete(begun.worker, begun.given.run, response.clone()).await;
    assert!(matches!(begun.operation.views.borrow_and_update().stage, Stage::Queued));
    let again = begun.queue.assign(begun.worker).expect("it waits for a worker");
    assert_eq!(again.run, begun.given.run);
    // With its client gone it is over.
    assert!(begun.queue.cancel(&begun.operation.name));
    begun.queue.complete(begun.worker, again.run, response).await;
    assert_eq!(begun.queue.load().running_runs + begun.queue.load().queued_runs, 0);
}
