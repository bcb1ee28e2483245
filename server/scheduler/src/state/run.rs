//! One execution of an action, and what clients see of it.

use std::fmt;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use wardian_proto::reapi;

use crate::fair::{Charges, Place};
use crate::figures::Loss;
use crate::held::Held;
use crate::job::{Job, OperationName, RunId, WorkerId};

/// Where an operation is.
#[derive(Clone, Debug)]
pub enum Stage {
    /// Waiting for a worker.
    Queued,
    /// A worker has it; the metadata says how far it is.
    Executing(Box<reapi::ExecutedActionMetadata>),
    /// At its end, with the answer.
    Completed(Arc<reapi::ExecuteResponse>),
}

/// A snapshot of an operation.
#[derive(Clone, Debug)]
pub struct View {
    /// What was asked for.
    pub job: Arc<Job>,
    /// Where it is.
    pub stage: Stage,
}

/// A start that came to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The worker's name.
    pub worker: String,
    /// What became of it.
    pub reason: Loss,
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.worker, self.reason)
    }
}

/// Why an operation waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Since when.
    pub since: SystemTime,
    /// What for.
    pub reason: WaitReason,
    /// Starts that came to nothing.
    pub attempts: Vec<Attempt>,
}

/// What an operation waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum WaitReason {
    Paused,
    Settling,
    NoWorker { why: String },
    TenantRunning { running: usize, limit: usize },
    TenantMemory { bytes: u64, limit: u64 },
    Memory { bytes: u64, most_free: u64 },
    Ahead { worker: String },
    WorkersPaused { workers: usize },
    Busy { workers: usize, queued: usize },
}

impl fmt::Display for WaitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Paused => f.write_str("the queue is paused"),
            Self::Settling => f.write_str("the server was restarted; workers may still report what they run"),
            Self::NoWorker { why } => write!(f, "waiting for a worker to join: {why}"),
            Self::TenantRunning { running, limit } => {
                write!(f, "the instance has {running} actions running; its limit is {limit}")
            }
            Self::TenantMemory { bytes, limit } => {
                write!(
                    f,
                    "running actions of the instance take {bytes} bytes of memory; its limit is {limit}"
                )
            }
            Self::Memory { bytes, most_free } => {
                write!(f, "needs {bytes} bytes of memory; no worker has more than {most_free} free")
            }
            Self::Ahead { worker } => write!(f, "given to worker {worker}, which is busy"),
            Self::WorkersPaused { workers } => {
                write!(f, "all {workers} workers that can run it are paused")
            }
            Self::Busy { workers, queued } => {
                write!(
                    f,
                    "all slots of the {workers} workers that can run it are taken; {queued} such actions wait"
                )
            }
        }
    }
}

/// A run that has not ended, as the journal keeps it.
pub(crate) struct LiveRun {
    pub(crate) run: RunId,
    pub(crate) queued_at: SystemTime,
    /// That of the most urgent of those who wait for it.
    pub(crate) priority: i32,
    pub(crate) job: Arc<Job>,
}

/// One execution.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) job: Arc<Job>,
    pub(super) operations: Vec<OperationName>,
    pub(super) place: Place,
    /// By the wall clock, for results.
    pub(super) queued_at: SystemTime,
    /// Since when it has stood where it stands.
    pub(super) since: Instant,
    /// Until when it waits at least for a worker to join, as there was none when it came.
    pub(super) patient_until: Option<Instant>,
    pub(super) standing: Standing,
    pub(super) attempts: Vec<Attempt>,
    /// It was given ahead once, and came back before it began.
    pub(super) came_back: bool,
    pub(super) held: Option<Held>,
}

/// Where a run stands.
#[derive(Debug)]
pub(super) enum Standing {
    /// In the queue.
    Waiting,
    /// With a worker.
    At { worker: WorkerId, charges: Charges, phase: Phase, metadata: Box<reapi::ExecutedActionMetadata> },
}

/// How far a run is with its worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// It has a slot.
    Begun,
    /// It was given ahead and waits for one.
    Ahead(Question),
    /// It has ended, and its result is about to be taken in.
    Ended,
}

/// Whether a worker is to give back what it was given ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Question {
    /// Nobody wants it.
    None,
    /// It was asked, perhaps for another worker.
    Asked { by: Option<WorkerId> },
    /// It has begun, so that a result will come first that the worker has not reported, or nobody has taken in.
    Begun,
}

/// What a worker says of a run that it has when it connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holding {
    /// It has not begun.
    Waiting,
    /// It runs.
    Begun,
    /// It has ended, and its result comes with the same report.
    Ended,
}

impl Run {
    pub(super) fn worker(&self) -> Option<WorkerId> {
        match &self.standing {
            Standing::Waiting => None,
            Standing::At { worker, .. } => Some(*worker),
        }
    }

    pub(super) fn stage(&self) -> Stage {
        match &self.standing {
            Standing::Waiting => Stage::Queued,
            Standing::At { phase: Phase::Ahead(_), .. } => Stage::Queued,
            Standing::At { metadata, .. } => Stage::Executing(metadata.clone()),
        }
    }

    /// Whether its worker is to give it back; `None` when it was not given ahead, or has begun.
    pub(super) fn question(&self) -> Option<Question> {
        match self.standing {
            Standing::At { phase: Phase::Ahead(question), .. } => Some(question),
            Standing::At { .. } | Standing::Waiting => None,
        }
    }

    /// Whether it waits with its worker, as far as anybody knows.
    pub(super) fn is_ahead(&self) -> bool {
        self.question().is_some_and(|question| question != Question::Begun)
    }
}

/// A run as a worker is given it.
#[derive(Clone, Debug)]
pub struct Given {
    /// Its name in reports.
    pub run: RunId,
    /// What to do.
    pub job: Arc<Job>,
    /// When it was queued.
    pub queued_at: SystemTime,
    /// Which start of it this is; the first is 1.
    pub attempt: usize,
    /// It is to wait until the worker has a free slot.
    pub ahead: bool,
}
