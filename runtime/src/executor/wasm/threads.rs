//! The threads that guests run on.
//!
//! They are the guests' own, apart from those that drive the async runtime and from those that do its blocking
//! work, the store's above all: a guest that loops or waits takes none of either. There are as many as there
//! may be guests at once, and each is started when it is first needed.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::Failure;

/// A guest from its start to its end. Whoever waits for it is told from within.
type Guest = Box<dyn FnOnce() + Send>;

/// Threads for guests. Dropping this ends them, each after the guest that it runs.
pub(super) struct GuestThreads {
    shared: Arc<Shared>,
    threads_max: usize,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    runtime: Handle,
}

#[derive(Default)]
struct State {
    /// Guests that no thread has taken yet. Each has somebody who waits for it, so there are no more than
    /// the worker has slots.
    waiting: VecDeque<Guest>,
    threads: usize,
    idle: usize,
    closed: bool,
}

impl GuestThreads {
    /// At most `threads_max` threads, which reach the store through `runtime`.
    pub(super) fn new(threads_max: usize, runtime: Handle) -> Self {
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new(), runtime });
        Self { shared, threads_max: threads_max.max(1) }
    }

    /// Runs a guest and waits for its end. It goes on to its end when this future is dropped.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        guest: impl FnOnce() -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let (tell, told) = oneshot::channel();
        self.enqueue(Box::new(move || {
            // Nobody may be left to hear it.
            let _ = tell.send(catch_unwind(AssertUnwindSafe(guest)));
        }))?;
        match told.await {
            Ok(Ok(ended)) => ended,
            Ok(Err(panic)) => resume_unwind(panic),
            Err(_) => Err(Failure::Internal("the worker is ending".into())),
        }
    }

    fn enqueue(&self, guest: Guest) -> Result<(), Failure> {
        let mut state = self.shared.lock();
        if state.idle <= state.waiting.len() && state.threads < self.threads_max {
            let shared = Arc::clone(&self.shared);
            let started = std::thread::Builder::new().name("guest".into()).spawn(move || shared.serve());
            match started {
                Ok(_) => state.threads += 1,
                Err(error) if state.threads == 0 => {
                    return Err(Failure::io("start a thread for the guest")(error));
                }
                // The others will come to it.
                Err(error) => tracing::warn!(%error, "no further thread for guests"),
            }
        }
        state.waiting.push_back(guest);
        drop(state);
        self.shared.changed.notify_one();
        Ok(())
    }
}

impl Drop for GuestThreads {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code that holds this lock panics")
    }

    /// What each thread does.
    fn serve(&self) {
        let _inside = self.runtime.enter();
        let mut state = self.lock();
        loop {
            if let Some(guest) = state.waiting.pop_front() {
                drop(state);
                guest();
                state = self.lock();
                continue;
            }
            if state.closed {
                return;
            }
            state.idle += 1;
            state = self.changed.wait(state).expect("no code that holds this lock panics");
            state.idle -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    /// How long a guest is waited for before the test has failed.
    const PATIENCE: Duration = Duration::from_secs(30);

    /// A runtime with as few threads as there can be.
    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(1)
            .build()
            .expect("a runtime")
    }

    #[test]
    fn guests_that_wait_hold_up_neither_the_runtime_nor_its_blocking_work() {
        let runtime = runtime();
        let threads = Arc::new(GuestThreads::new(2, runtime.handle().clone()));
        let (arrive, arrived) = mpsc::channel();
        let mut gates = Vec::new();
        let mut guests = Vec::new();
        for number in 0..3 {
            let (open, gate) = mpsc::channel::<()>();
            let (arrive, threads) = (arrive.clone(), Arc::clone(&threads));
            gates.push(open);
            guests.push(runtime.spawn(async move {
                let guest = move || {
                    arrive.send(number).expect("the test listens");
                    // Until the gate is dropped.
                    let _ = gate.recv();
                    Ok(number)
                };
                threads.run(guest).await.expect("it ends well")
            }));
        }
        let first = arrived.recv_timeout(PATIENCE).expect("a guest runs");
        let second = arrived.recv_timeout(PATIENCE).expect("another one runs beside it");
        let sum =
            runtime.block_on(async { tokio::task::spawn_blocking(|| 40 + 2).await.expect("it is done") });
        assert_eq!(sum, 42);
        assert!(arrived.try_recv().is_err(), "the third has no thread");
        drop(gates);
        let third = arrived.recv_timeout(PATIENCE).expect("it gets one");
        let mut started = [first, second, third];
        started.sort_unstable();
        assert_eq!(started, [0, 1, 2]);
        let ended = runtime.block_on(futures::future::join_all(guests));
        assert_eq!(ended.into_iter().map(|guest| guest.expect("no panic")).collect::<Vec<_>>(), [0, 1, 2]);
    }

    #[test]
    fn a_panic_reaches_whoever_waits_and_the_thread_goes_on() {
        let runtime = runtime();
        let threads = Arc::new(GuestThreads::new(1, runtime.handle().clone()));
        let run = |guest: fn() -> Result<u8, Failure>| {
            let threads = Arc::clone(&threads);
            runtime.block_on(runtime.spawn(async move { threads.run(guest).await }))
        };
        assert!(run(|| panic!("as the test wants it")).expect_err("it panicked").is_panic());
        assert_eq!(run(|| Ok(7)).expect("no panic").expect("it ends well"), 7);
        let refused = run(|| Err(Failure::Cancelled)).expect("no panic");
        assert!(matches!(refused, Err(Failure::Cancelled)));
    }
}
