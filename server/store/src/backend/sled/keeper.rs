//! The thread that looks after an open store: starts it, brings its index up to date, makes it durable.

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::catch_up::Pending;
use super::engine::Engine;
use super::segment::Shape;
use crate::StoreError;

/// How long what was written may wait for the disk.
const FLUSH_INTERVAL: Duration = Duration::from_secs(5);

/// How often the keeper looks whether a database of the index failed, and tries again what did not work.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// Names of the segments that a store has when it is opened.
pub(super) type Names = Vec<(u64, Shape, PathBuf)>;

/// Stops the thread when dropped, after everything was flushed.
pub(super) struct Keeper {
    stop: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Stop {
    asked: Mutex<bool>,
    changed: Condvar,
}

impl Stop {
    fn is_asked(&self) -> bool {
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits, and says whether to stop.
    fn wait(&self, time: Duration) -> bool {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let (asked, _) = self
            .changed
            .wait_timeout_while(asked, time, |asked| !*asked)
            .unwrap_or_else(PoisonError::into_inner);
        *asked
    }
}

impl Keeper {
    pub(super) fn start(engine: Arc<Engine>, names: Names) -> Result<Self, StoreError> {
        let stop = Arc::new(Stop::default());
        let asked = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("store keeper".to_owned());
        let thread = thread.spawn(move || keep(&engine, names, &asked));
        Ok(Self { stop, thread: Some(thread.map_err(StoreError::io("start the store's thread"))?) })
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        *self.stop.asked.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.stop.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was printed when it happened.
            let _ = thread.join();
        }
    }
}

fn keep(engine: &Engine, names: Names, stop: &Stop) {
    let mut pending = loop {
        match engine.start(names.clone()) {
            Ok(pending) => break pending,
            Err(error) => tracing::error!(%error, "the store cannot be started yet"),
        }
        if stop.wait(LOOK_INTERVAL) {
            return;
        }
    };
    let mut flushed = Instant::now();
    loop {
        let idle = match bring_up_to_date(engine, &mut pending, stop, flushed) {
            Ok(()) => pending.is_empty(),
            Err(error) => {
                tracing::warn!(%error, "the index cannot be brought up to date yet");
                true
            }
        };
        let stopping = if idle { stop.wait(LOOK_INTERVAL) } else { stop.is_asked() };
        if stopping || flushed.elapsed() >= FLUSH_INTERVAL {
            flushed = Instant::now();
            if stopping {
                // With all segments sealed, the next start has nothing to look into.
                engine.appender().close_segment();
            }
            if !engine.durable.is_clean() {
                // Logged where it happens.
                let _ = engine.seal_durable();
            }
        }
        if stopping {
            return;
        }
    }
}

/// Looks into pending segments, and then at keys for the index's filters, until there are none left or it is time
/// to flush.
fn bring_up_to_date(
    engine: &Engine,
    pending: &mut Pending,
    stop: &Stop,
    flushed: Instant,
) -> Result<(), StoreError> {
    if let Some(anew) = engine.repair()? {
        *pending = anew;
    }
    let in_time = || !stop.is_asked() && flushed.elapsed() < FLUSH_INTERVAL;
    while in_time() && engine.catch_up(pending, &|| stop.is_asked())? {}
    while in_time() && pending.is_empty() && engine.index.learn_keys()? {}
    Ok(())
}
