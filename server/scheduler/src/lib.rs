//! Which action runs where and when.
//!
//! [`state`] is a plain state machine without clock, lock or `async`; [`queue`] is the thin shell that
//! gives it all three. Workers see only the [`WorkQueue`] trait. Nothing here reads an Action: platform,
//! priority and key come in with the [`Job`].

mod fair;
mod figures;
mod held;
mod job;
pub mod journal;
mod limits;
pub mod platform;
pub mod queue;
pub mod state;

pub use fair::TenantLoad;
pub use figures::{
    BOUNDS_SECONDS, Figures, Histogram, Loss, OTHER_PLATFORMS, PLATFORMS_SHOWN_MAX, PlatformFigures,
    TenantFigures, Timed, Totals,
};
pub use held::Held;
pub use job::{Invocation, Job, OperationName, RunId, WorkerId};
pub use journal::{Journal, JournalError, JournalStats};
pub use limits::{SchedulerLimits, SubmitError, TenantPolicy, Tenants, WEIGHT_MAX};
pub use platform::{Offer, Platform, Unsatisfiable};
pub use queue::{Bell, LocalQueue, Operation, QueueLoad, Restored};
pub use state::Stage;

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::watch;
use wardian_proto::reapi;

/// A run that a worker was given.
#[derive(Clone, Debug)]
pub struct Assignment {
    /// The run, to be named in every report about it.
    pub run: RunId,
    /// What to do.
    pub job: Arc<Job>,
    /// When the run entered the queue.
    pub queued_at: std::time::SystemTime,
    /// Turns true when nobody wants the result any more.
    pub cancelled: watch::Receiver<bool>,
}

/// Where workers get their work and report on it.
#[async_trait]
pub trait WorkQueue: Send + Sync + 'static {
    /// Makes a worker known; from then on actions that match its offer may come to it.
    async fn register(&self, offer: Offer) -> WorkerId;

    /// Takes a worker away. What it still runs is queued again.
    async fn unregister(&self, worker: WorkerId);

    /// Waits for work. `None` means that the queue is shutting down.
    async fn next(&self, worker: WorkerId) -> Option<Assignment>;

    /// Reports what a run is doing, for the eyes of those who wait for it.
    async fn progress(&self, run: RunId, metadata: reapi::ExecutedActionMetadata);

    /// Reports the end of a run.
    async fn complete(&self, worker: WorkerId, run: RunId, response: reapi::ExecuteResponse);
}
