//! Two thousand workers that listen for work: how many look when an action comes, and what that costs.
//!
//!     cargo test --release --workspace --test herd -- --nocapture

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use wardian_proto::{DigestFunction, InstanceName, reapi};
use wardian_scheduler::{
    Bell, Invocation, Job, LocalQueue, Loss, Offer, Operation, Platform, RunId, SchedulerLimits, Tenants,
    WorkQueue as _, WorkerId,
};
use wardian_store::action_cache::ActionCache;
use wardian_store::backend::MemoryStore;

const WORKERS: usize = 2_000;

const ACTIONS: usize = 1_000;

/// How long all of them may take before the test gives up.
const PATIENCE: Duration = Duration::from_secs(60);

fn job(number: usize) -> Job {
    let os = reapi::platform::Property { name: "OSFamily".into(), value: "linux".into() };
    let wire = reapi::Platform { properties: vec![os] };
    let action = DigestFunction::Sha256.digest(&number.to_le_bytes());
    Job {
        instance: InstanceName::default(),
        action,
        requested: action,
        platform: Platform::from_wire(Some(&wire)).unwrap(),
        priority: 0,
        do_not_cache: false,
        invocation: Invocation::default(),
        memory_bytes: 0,
    }
}

/// What the connection of a worker does in a server, without the connection: an action ends as soon as it has begun.
async fn session(queue: LocalQueue, worker: WorkerId, looks: Arc<AtomicUsize>) {
    let bell = queue.bell(worker);
    loop {
        let mut rung = std::pin::pin!(bell.rung());
        rung.as_mut().enable();
        looks.fetch_add(1, Ordering::Relaxed);
        while let Some(given) = queue.assign(worker) {
            tokio::task::yield_now().await;
            queue.complete(worker, given.run, reapi::ExecuteResponse::default()).await;
        }
        queue.sleep(worker);
        rung.await;
    }
}

/// What this thread, which does everything here, has used of a processor, as Linux counts it.
fn processor_time() -> Duration {
    let counted = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = counted.split(' ').next().and_then(|used| used.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or(0))
}

struct Herd {
    queue: LocalQueue,
    looks: Arc<AtomicUsize>,
    bells: Vec<Bell>,
    submitted: usize,
}

impl Herd {
    async fn gather() -> Self {
        let store = Arc::new(MemoryStore::new(1 << 20));
        let action_cache = ActionCache::new(store.clone(), store);
        let queue = LocalQueue::new(SchedulerLimits::default(), Tenants::default(), action_cache);
        let looks = Arc::<AtomicUsize>::default();
        let mut bells = Vec::new();
        for number in 0..WORKERS {
            let offer = Offer {
                name: format!("w{number}"),
                properties: [("OSFamily".into(), vec!["linux".into()])].into(),
                slots: 1,
                memory_bytes: None,
                ahead: 1,
            };
            let worker = queue.join(offer, Duration::from_secs(3600));
            bells.push(queue.bell(worker));
            tokio::spawn(session(queue.clone(), worker, Arc::clone(&looks)));
        }
        let herd = Self { queue, looks, bells, submitted: 0 };
        herd.until_looked(WORKERS).await;
        herd
    }

    async fn until_looked(&self, looks: usize) {
        while self.looks.load(Ordering::Relaxed) < looks {
            tokio::task::yield_now().await;
        }
    }

    /// Sends actions off one after the other; returns how many looked and what it took of the processors, for each.
    async fn submit(&mut self, all_look: bool) -> (f64, Duration) {
        let (looks, used) = (self.looks.load(Ordering::Relaxed), processor_time());
        for _ in 0..ACTIONS {
            self.submitted += 1;
            let operation = self.queue.submit(job(self.submitted), None).unwrap();
            if all_look {
                self.bells.iter().for_each(Bell::ring);
            }
            let mut views = operation.views;
            // It comes to its end when the sender is dropped.
            while views.changed().await.is_ok() {}
        }
        let looks = self.looks.load(Ordering::Relaxed) - looks;
        (looks as f64 / ACTIONS as f64, (processor_time() - used) / ACTIONS as u32)
    }
}

#[tokio::test]
async fn an_action_wakes_those_that_can_take_it_and_no_others() {
    let mut herd = Herd::gather().await;
    let (all, all_cost) = herd.submit(true).await;
    // Those that are on their way still have nothing to do with what follows.
    tokio::task::yield_now().await;
    let (few, few_cost) = herd.submit(false).await;
    println!("each action wakes {all:.1} workers and costs {all_cost:?} when all {WORKERS} look");
    println!("each action wakes {few:.1} workers and costs {few_cost:?} when those look that are called");
    assert!(few < 4.0, "{few} looked for each");
    // Whoever comes at once finds as many.
    let operations: Vec<_> =
        (0..WORKERS).map(|number| herd.queue.submit(job(1_000_000 + number), None).unwrap()).collect();
    let all_end = async {
        for mut operation in operations {
            while operation.views.changed().await.is_ok() {}
        }
    };
    tokio::time::timeout(PATIENCE, all_end).await.expect("every action is taken by somebody");
    assert_eq!(herd.queue.load().live_operations, 0);
}

/// Workers whose connections do nothing but to listen, look, and give back what they are asked for. Nothing that they have
/// ends by itself.
struct Busy {
    queue: LocalQueue,
    looks: Arc<AtomicUsize>,
    /// What each has, the oldest first.
    has: Arc<Mutex<BTreeMap<WorkerId, Vec<RunId>>>>,
}

impl Busy {
    fn new() -> Self {
        let store = Arc::new(MemoryStore::new(1 << 20));
        let action_cache = ActionCache::new(store.clone(), store);
        let queue = LocalQueue::new(SchedulerLimits::default(), Tenants::default(), action_cache);
        Self { queue, looks: Arc::default(), has: Arc::default() }
    }

    fn join(&self, number: usize) {
        let offer = Offer {
            name: format!("w{number}"),
            properties: [("OSFamily".into(), vec!["linux".into()])].into(),
            slots: 1,
            memory_bytes: None,
            ahead: 1,
        };
        let worker = self.queue.join(offer, Duration::from_secs(3600));
        let (queue, looks, has) = (self.queue.clone(), Arc::clone(&self.looks), Arc::clone(&self.has));
        tokio::spawn(async move {
            let bell = queue.bell(worker);
            loop {
                let mut rung = std::pin::pin!(bell.rung());
                rung.as_mut().enable();
                looks.fetch_add(1, Ordering::Relaxed);
                for run in queue.take_questions(worker) {
                    has.lock().unwrap().entry(worker).or_default().retain(|other| *other != run);
                    queue.give_back(worker, run, &Loss::Returned);
                }
                while let Some(given) = queue.assign(worker) {
                    has.lock().unwrap().entry(worker).or_default().push(given.run);
                }
                queue.sleep(worker);
                rung.await;
            }
        });
    }

    /// Waits until every worker has so many runs or more.
    async fn until_each_has(&self, workers: usize, runs: usize) {
        let all_have = async {
            loop {
                let enough = self.has.lock().unwrap().values().filter(|has| has.len() >= runs).count();
                if enough == workers {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, all_have).await.expect("every worker gets its share");
    }

    fn submit(&self, numbers: std::ops::Range<usize>) -> Vec<Operation> {
        numbers.map(|number| self.queue.submit(job(number), None).unwrap()).collect()
    }
}

#[tokio::test]
async fn a_worker_that_joins_asks_one_other_for_what_it_has_ahead() {
    let busy = Busy::new();
    (0..WORKERS).for_each(|number| busy.join(number));
    let begun = busy.submit(0..WORKERS);
    busy.until_each_has(WORKERS, 1).await;
    assert!(busy.has.lock().unwrap().values().all(|has| has.len() == 1), "free slots go first");
    let before = busy.looks.load(Ordering::Relaxed);
    let ahead = busy.submit(WORKERS..2 * WORKERS);
    busy.until_each_has(WORKERS, 2).await;
    let looks = (busy.looks.load(Ordering::Relaxed) - before) as f64 / WORKERS as f64;
    println!("each action that is given ahead wakes {looks:.1} workers");
    assert!(looks < 4.0, "{looks} looked for each");

    let before = busy.looks.load(Ordering::Relaxed);
    busy.join(WORKERS);
    busy.until_each_has(WORKERS + 1, 1).await;
    let looks = busy.looks.load(Ordering::Relaxed) - before;
    assert!(looks < 10, "{looks} looked, for a run that came from one worker to another");
    let has = busy.has.lock().unwrap();
    assert_eq!(has.values().map(Vec::len).sum::<usize>(), 2 * WORKERS, "nothing is lost or with two");
    assert_eq!((begun.len(), ahead.len()), (WORKERS, WORKERS));
}
