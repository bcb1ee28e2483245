//! Why something waits.

use wardian_proto::InstanceName;

use super::Scheduler;
use super::operations::Op;
use super::run::{WaitReason, Waiting};
use super::workers::Worker;
use crate::job::OperationName;
use crate::platform::unsatisfiable;

impl Scheduler {
    /// Why an operation waits; `None` when it does not, or there is no such operation.
    pub fn waiting(&self, operation: &OperationName) -> Option<Waiting> {
        let Op::Live(run) = self.operations.get(operation)? else { return None };
        let run = &self.runs[run];
        if let Some(worker) = run.worker() {
            run.question()?;
            let reason = WaitReason::Ahead { worker: self.workers[&worker].offer.name.clone() };
            return Some(Waiting { since: run.queued_at, reason, attempts: run.attempts.clone() });
        }
        let class = self.classes.get(run.place.class);
        let reason = if self.paused {
            WaitReason::Paused
        } else if self.settling_until.is_some() {
            WaitReason::Settling
        } else if class.workers.is_empty() {
            let offers = self.workers.values().filter_map(Worker::offers);
            let why = unsatisfiable(&run.job.platform, offers);
            WaitReason::NoWorker { why: why.map_or_else(String::new, |why| why.to_string()) }
        } else if let Some(reason) = self.tenant_limit(&run.place.tenant, run.place.memory) {
            reason
        } else if let Some(most_free) = class.free.iter().map(|id| self.workers[id].free_memory()).max() {
            WaitReason::Memory { bytes: run.place.memory, most_free }
        } else if !class.workers.iter().any(|id| self.workers[id].takes_work()) {
            WaitReason::WorkersPaused { workers: class.workers.len() }
        } else {
            // No more than this: everybody who waits asks, and there may be thousands of workers.
            let queued = self.queue.len_of(run.place.class);
            WaitReason::Busy { workers: class.workers.len(), queued }
        };
        Some(Waiting { since: run.queued_at, reason, attempts: run.attempts.clone() })
    }

    /// The limit of its own that keeps a tenant from starting a run that needs so much memory.
    pub(super) fn tenant_limit(&self, tenant: &InstanceName, memory: u64) -> Option<WaitReason> {
        let policy = self.tenants.policy(tenant);
        let load = self.queue.load(tenant);
        if let Some(limit) = policy.running_max.filter(|limit| load.running >= *limit) {
            return Some(WaitReason::TenantRunning { running: load.running, limit });
        }
        // A run that could never fit may run alone.
        let full = |limit: &u64| load.running > 0 && load.memory_bytes.saturating_add(memory) > *limit;
        let limit = policy.memory_bytes_max.filter(full)?;
        Some(WaitReason::TenantMemory { bytes: load.memory_bytes, limit })
    }
}
