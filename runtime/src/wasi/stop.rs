//! Why and when a guest is stopped, and what it wrote until then.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio::sync::watch;

use crate::Failure;
use crate::logs::Log;

/// Why the host stopped a guest.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Stopped {
    #[error("cancelled")]
    Cancelled,
    #[error("timed out after {0:?}")]
    TimedOut(Duration),
    #[error("more than {bytes_max} bytes on {stream}")]
    TooMuchOutput { stream: &'static str, bytes_max: usize },
    #[error("more than {0} open files, directories and streams")]
    TooManyHandles(usize),
    /// An input that cannot be read, or a worker that cannot write.
    #[error("{0}")]
    Failed(Box<Failure>),
}

/// The moment at which a guest has to end, and the sign that nobody waits for it any more.
#[derive(Clone)]
pub struct Deadline {
    started: Instant,
    timeout: Duration,
    cancelled: watch::Receiver<bool>,
}

impl Deadline {
    /// Starts the clock of a guest.
    pub fn start(timeout: Duration, cancelled: watch::Receiver<bool>) -> Self {
        Self { started: Instant::now(), timeout, cancelled }
    }

    /// Fails when the guest has to end.
    pub fn check(&self) -> Result<(), Stopped> {
        if *self.cancelled.borrow() {
            Err(Stopped::Cancelled)
        } else if self.elapsed() >= self.timeout {
            Err(self.timed_out())
        } else {
            Ok(())
        }
    }

    /// How long the guest runs.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// How long it may run.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    pub(super) fn timed_out(&self) -> Stopped {
        Stopped::TimedOut(self.timeout)
    }

    /// Waits in this thread, until the guest has to end at the longest.
    pub(super) fn sleep(&self, time: Duration) -> Result<(), Stopped> {
        /// How soon a cancellation is noticed.
        const TICK: Duration = Duration::from_millis(10);
        let until = self.elapsed().saturating_add(time);
        loop {
            self.check()?;
            let left = until.saturating_sub(self.elapsed());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(TICK).min(self.timeout.saturating_sub(self.elapsed())));
        }
    }
}

/// What a guest writes to one of its streams, up to a limit. Clones share it.
#[derive(Clone)]
pub struct Capture {
    shared: Arc<Mutex<Captured>>,
    stream: &'static str,
    bytes_max: usize,
    log: Log,
}

#[derive(Default)]
struct Captured {
    bytes: BytesMut,
    overflowed: bool,
}

impl Capture {
    /// An empty one for the stream of this name.
    pub fn new(stream: &'static str, bytes_max: usize) -> Self {
        Self { shared: Arc::default(), stream, bytes_max, log: Log::default() }
    }

    /// The same, to be followed in a log as well.
    pub fn with_log(self, log: Log) -> Self {
        Self { log, ..self }
    }

    fn lock(&self) -> MutexGuard<'_, Captured> {
        self.shared.lock().expect("no code that holds this lock panics")
    }

    /// How many bytes were written so far.
    pub(crate) fn len(&self) -> usize {
        self.lock().bytes.len()
    }

    /// What was written so far.
    pub fn bytes(&self) -> Bytes {
        self.lock().bytes.clone().freeze()
    }

    /// Set once something did not fit.
    pub fn overflow(&self) -> Option<Stopped> {
        self.lock().overflowed.then(|| self.too_much())
    }

    /// Keeps what fits. What does not ends the guest.
    pub fn append(&self, data: &[u8]) -> Result<(), Stopped> {
        let mut captured = self.lock();
        let room = self.bytes_max - captured.bytes.len();
        let kept = &data[..data.len().min(room)];
        captured.bytes.extend_from_slice(kept);
        self.log.append(kept);
        if data.len() > room {
            captured.overflowed = true;
            return Err(self.too_much());
        }
        Ok(())
    }

    fn too_much(&self) -> Stopped {
        Stopped::TooMuchOutput { stream: self.stream, bytes_max: self.bytes_max }
    }
}
