//! What bounds the queue, and what each tenant may have of it.

use std::collections::BTreeMap;
use std::time::Duration;

use wardian_proto::InstanceName;

use crate::journal::JournalError;
use crate::platform::Unsatisfiable;

/// Limits of the state machine.
#[derive(Clone, Copy, Debug)]
pub struct SchedulerLimits {
    /// Runs that may wait for a worker.
    pub queued_runs_max: usize,
    /// Operations that have not ended, those that joined another's run included.
    pub live_operations_max: usize,
    /// How long an ended operation can still be asked for.
    pub completed_kept_for: Duration,
    /// How many ended operations can still be asked for.
    pub completed_kept_max: usize,
    /// Sum of the sizes of their responses.
    pub completed_bytes_max: usize,
    /// How often a run is started before it is given up: once, and again after each worker that was lost with it.
    pub attempts_max: usize,
    /// How long an action waits for a worker that could serve it to join; zero refuses it at once.
    pub worker_grace: Duration,
    /// How long an action that is queued already waits after the last worker that could serve it has left.
    pub unserved_max: Duration,
    /// How long a run whose turn it is lets others pass that need less memory, until a worker is kept free for it.
    pub memory_patience: Duration,
}

impl Default for SchedulerLimits {
    fn default() -> Self {
        Self {
            queued_runs_max: 100_000,
            live_operations_max: 200_000,
            completed_kept_for: Duration::from_secs(15 * 60),
            completed_kept_max: 10_000,
            completed_bytes_max: 256 << 20,
            attempts_max: 3,
            worker_grace: Duration::ZERO,
            unserved_max: Duration::from_secs(60),
            memory_patience: Duration::from_secs(30),
        }
    }
}

/// Largest weight of a tenant.
pub const WEIGHT_MAX: u32 = 1000;

/// What a tenant may have. What is absent is not bounded for the tenant, only for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TenantPolicy {
    /// Its share of the workers' time beside other tenants that want it too; 1 to [`WEIGHT_MAX`].
    pub weight: u32,
    /// Its runs that workers have at once.
    pub running_max: Option<usize>,
    /// Its runs that wait for a worker.
    pub queued_max: Option<usize>,
    /// What its runs may take together of the workers' memory, in bytes.
    pub memory_bytes_max: Option<u64>,
    /// Its operations that have not ended, those that joined another's run included.
    pub operations_max: Option<usize>,
}

impl TenantPolicy {
    /// Whether what a tenant has running is bounded.
    pub(crate) fn limits_running(&self) -> bool {
        self.running_max.is_some() || self.memory_bytes_max.is_some()
    }
}

impl Default for TenantPolicy {
    fn default() -> Self {
        Self { weight: 1, running_max: None, queued_max: None, memory_bytes_max: None, operations_max: None }
    }
}

/// The policy of every tenant.
#[derive(Clone, Debug, Default)]
pub struct Tenants {
    /// For those without one of their own.
    pub default: TenantPolicy,
    /// By name.
    pub named: BTreeMap<InstanceName, TenantPolicy>,
}

impl Tenants {
    /// What a tenant may have.
    pub fn policy(&self, tenant: &InstanceName) -> TenantPolicy {
        self.named.get(tenant).copied().unwrap_or(self.default)
    }
}

/// Why an action was not taken in.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum SubmitError {
    #[error(transparent)]
    Unsatisfiable(#[from] Unsatisfiable),
    #[error("{0} actions wait for a worker already; limit is {0}")]
    QueueFull(usize),
    #[error("{0} actions of this instance wait for a worker already; limit is {0}")]
    TenantQueueFull(usize),
    #[error("queued actions ask for {0} different platforms already; limit is {0}")]
    TooManyPlatforms(usize),
    #[error("{0} operations have not ended yet; limit is {0}")]
    TooManyOperations(usize),
    #[error("{0} operations of this instance have not ended yet; limit is {0}")]
    TenantTooManyOperations(usize),
    #[error("the server is shutting down")]
    ShuttingDown,
    #[error(transparent)]
    Journal(#[from] JournalError),
}
