//! Two thousand workers that listen for work: how many look when an action comes, and what that costs.
//!
//!     cargo test --release --workspace --test herd -- --nocapture

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use wardian_proto::{DigestFunction, InstanceName, reapi};
use wardian_scheduler::{
    Bell, Invocation, Job, LocalQueue, Offer, Platform, SchedulerLimits, Tenants, WorkQueue as _,
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
async fn session(queue: LocalQueue, worker: wardian_scheduler::WorkerId, looks: Arc<AtomicUsize>) {
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
