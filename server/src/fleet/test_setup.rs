//! A fleet without a network, for tests.

use std::sync::Arc;

use wardian_proto::wardian;
use wardian_runtime::TrustedModules;
use wardian_scheduler::{LocalQueue, SchedulerLimits, Tenants};
use wardian_store::action_cache::ActionCache;
use wardian_store::backend::MemoryStore;

use super::{Fleet, FleetLimits};
use crate::logs::{LogLimits, LogStreams};

pub(super) fn fleet() -> Fleet {
    let store = Arc::new(MemoryStore::new(1 << 20));
    let action_cache = ActionCache::new(store.clone(), store.clone());
    let queue = LocalQueue::new(SchedulerLimits::default(), Tenants::default(), action_cache);
    let logs = LogStreams::new(LogLimits::default());
    Fleet::new(queue, store, logs, TrustedModules::default(), Vec::new(), FleetLimits::default())
}

pub(super) fn offer() -> wardian::WorkerOffer {
    wardian::WorkerOffer { name: "w".into(), incarnation: "a".into(), slots: 1, ..Default::default() }
}
