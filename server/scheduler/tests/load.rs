//! What a long queue costs: memory for each operation that waits, and how the time to find the next one grows.
//!
//!     cargo test --release --workspace --test load -- --nocapture

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use wardian_proto::{DigestFunction, InstanceName, reapi};
use wardian_scheduler::{
    Invocation, Job, Journal, LocalQueue, Offer, Platform, SchedulerLimits, Tenants, WorkQueue as _,
};
use wardian_store::action_cache::ActionCache;
use wardian_store::backend::MemoryStore;

const QUEUED: usize = 100_000;

/// An operation that waits may take so much memory in the queue, with everything that is kept for those who watch it.
const BYTES_FOR_EACH_MAX: usize = 2048;

/// How often, and how many times, it is looked whether the database has let go of what it wrote.
const FLUSH_LOOK_INTERVAL: Duration = Duration::from_millis(100);
const FLUSH_LOOKS_MAX: usize = 300;

/// The system's allocator, counting what is allocated.
struct Counting;

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call goes to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

fn job(number: usize) -> Job {
    let property =
        |name: &str, value: &str| reapi::platform::Property { name: name.into(), value: value.into() };
    let wire = reapi::Platform { properties: vec![property("ISA", "wasm32"), property("OSFamily", "wasi")] };
    Job {
        instance: InstanceName::parse("main").unwrap(),
        action: DigestFunction::Sha256.digest(&number.to_le_bytes()),
        requested: DigestFunction::Sha256.digest(&number.to_le_bytes()),
        platform: Platform::from_wire(Some(&wire)).unwrap(),
        priority: 0,
        do_not_cache: false,
        invocation: Invocation::from_client(&format!("4b5a0e5e-3a5c-4d5e-9a51-{:012}", number % 64), ""),
        memory_bytes: 0,
    }
}

/// Takes a hundred runs out and ends them, and says how long one took.
async fn take(queue: &LocalQueue, worker: wardian_scheduler::WorkerId) -> Duration {
    let start = Instant::now();
    for _ in 0..100 {
        let given = queue.next(worker).await.unwrap();
        queue.complete(worker, given.run, reapi::ExecuteResponse::default()).await;
    }
    start.elapsed() / 100
}

fn new_queue(journal: Option<&std::path::Path>) -> LocalQueue {
    let store = Arc::new(MemoryStore::new(1 << 20));
    let (limits, tenants) = (SchedulerLimits::default(), Tenants::default());
    let action_cache = ActionCache::new(store.clone(), store);
    let Some(folder) = journal else { return LocalQueue::new(limits, tenants, action_cache) };
    let journal = Journal::open(folder).unwrap();
    LocalQueue::restarted(limits, tenants, action_cache, journal).0
}

// One test: what is allocated is counted for all of the process.
#[tokio::test]
async fn a_hundred_thousand_operations_wait_in_little_memory() {
    let folder = tempfile::tempdir().unwrap();
    fill(new_queue(None), None).await;
    fill(new_queue(Some(folder.path())), Some(folder.path())).await;
    // And once more by the next process.
    let journal = Journal::open(folder.path()).unwrap();
    let store = Arc::new(MemoryStore::new(1 << 20));
    let action_cache = ActionCache::new(store.clone(), store);
    let (limits, tenants) = (SchedulerLimits::default(), Tenants::default());
    let (queue, restored) = LocalQueue::restarted(limits, tenants, action_cache, journal);
    assert_eq!((restored.len(), queue.load().queued_runs), (QUEUED - 200, QUEUED - 200));
}

/// Waits until the journal's database has everything: what it holds until then it does not hold for long.
fn until_written(journal: Option<&std::path::Path>) {
    let is_log = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with("log-"))
    };
    while journal.is_some_and(|folder| std::fs::read_dir(folder).unwrap().any(is_log)) {
        std::thread::yield_now();
    }
}

async fn fill(queue: LocalQueue, journal: Option<&std::path::Path>) {
    let properties = [("OSFamily".into(), vec!["wasi".into()]), ("ISA".into(), vec!["wasm32".into()])];
    let offer = Offer { name: "w".into(), properties: properties.into(), slots: 1, ..Offer::default() };
    let worker = queue.register(offer).await;

    let few: Vec<_> = (0..1_000).map(|number| queue.submit(job(number), None).unwrap()).collect();
    let with_few = take(&queue, worker).await;
    queue.settled().await.unwrap();
    until_written(journal);
    let before = ALLOCATED.load(Ordering::Relaxed);
    let many: Vec<_> =
        (0..QUEUED - 1_000).map(|number| queue.submit(job(number + 1_000), None).unwrap()).collect();
    queue.settled().await.unwrap();
    until_written(journal);
    let each = || (ALLOCATED.load(Ordering::Relaxed) - before) / many.len();
    // The database has a few megabytes of its own until it has flushed.
    for _ in 0..FLUSH_LOOKS_MAX {
        if each() <= BYTES_FOR_EACH_MAX {
            break;
        }
        tokio::time::sleep(FLUSH_LOOK_INTERVAL).await;
    }
    let each = each();
    let with_many = take(&queue, worker).await;
    println!("{each} bytes for each operation that waits, with a journal: {}", journal.is_some());
    println!("to take one and end it: {with_few:?} with 1,000 waiting, {with_many:?} with {QUEUED}");
    assert!(each <= BYTES_FOR_EACH_MAX, "{each} bytes");
    drop((few, many));
    queue.close();
}
