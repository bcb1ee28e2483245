//! The numbers of a server at a moment, as JSON at `/stats` and for `wardian store stats`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use wardian_scheduler::LocalQueue;
use wardian_store::action_cache::ActionCache;
use wardian_store::backend::{SledStats, SledStore};
use wardian_store::layers::{Meters, Operation, Reading};
use wardian_store::tree_pins::TreePins;

use crate::fleet::Fleet;
use crate::stores::Tier;

/// Where a server serves its numbers.
pub const STATS_PATH: &str = "/stats";

/// Everything at once. Of a store that is not being served there is only the first part.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Stats {
    /// The folder.
    pub store: StoreStats,
    /// What a running server knows beside that.
    pub server: Option<ServerStats>,
}

/// The store's folder. Counts are since it was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct StoreStats {
    pub capacity_bytes: u64,
    pub used_bytes: u64,
    pub index_bytes: u64,
    pub segments: u64,
    pub segments_dropped: u64,
    pub copied_forward_bytes: u64,
    pub uploads_refused: u64,
    pub records_damaged: u64,
    pub flushes: u64,
    pub unindexed_bytes: u64,
}

impl From<SledStats> for StoreStats {
    fn from(stats: SledStats) -> Self {
        Self {
            capacity_bytes: stats.capacity_bytes,
            used_bytes: stats.used_bytes,
            index_bytes: stats.index_bytes,
            segments: stats.segments,
            segments_dropped: stats.segments_dropped,
            copied_forward_bytes: stats.bytes_moved,
            uploads_refused: stats.uploads_refused,
            records_damaged: stats.records_damaged,
            flushes: stats.flushes,
            unindexed_bytes: stats.unindexed_bytes,
        }
    }
}

/// The server around the store. Counts are since it was started.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct ServerStats {
    pub version: String,
    pub action_cache: Lookups,
    /// By the operation's name.
    pub operations: BTreeMap<String, OperationStats>,
    /// By tier and the operation's name: what went to the folder and to the remote store, if there is one.
    #[serde(default)]
    pub tiers: BTreeMap<String, BTreeMap<String, OperationStats>>,
    pub queued_runs: u64,
    pub running_runs: u64,
    pub live_operations: u64,
    pub pinned_input_blobs: u64,
}

/// What look-ups in the action cache came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Lookups {
    pub hits: u64,
    pub misses: u64,
    pub incomplete: u64,
}

/// One operation of the store.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct OperationStats {
    /// Calls that ended.
    pub calls: u64,
    /// Calls or items that failed other than by not finding something.
    pub failures: u64,
    /// Blobs or records asked for or sent.
    pub items: u64,
    /// Of these, those that were not found.
    pub missing: u64,
    /// Bytes of contents.
    pub bytes: u64,
    /// Time of all calls together.
    pub seconds: f64,
}

/// Where the numbers come from.
#[derive(Clone)]
pub(crate) struct Sources {
    pub(crate) local: SledStore,
    pub(crate) meters: std::sync::Arc<Meters>,
    pub(crate) tiers: Vec<Tier>,
    pub(crate) action_cache: ActionCache,
    pub(crate) queue: LocalQueue,
    pub(crate) fleet: Fleet,
    pub(crate) tree_pins: std::sync::Arc<TreePins>,
}

impl Sources {
    /// Reads all numbers.
    pub(crate) fn read(&self) -> Stats {
        let (load, lookups) = (self.queue.load(), self.action_cache.stats());
        let server = ServerStats {
            version: env!("CARGO_PKG_VERSION").into(),
            action_cache: Lookups {
                hits: lookups.hits,
                misses: lookups.misses,
                incomplete: lookups.incomplete,
            },
            operations: operations(&self.meters),
            tiers: self.tiers.iter().map(|tier| (tier.name.into(), operations(&tier.meters))).collect(),
            queued_runs: load.queued_runs as u64,
            running_runs: load.running_runs as u64,
            live_operations: load.live_operations as u64,
            pinned_input_blobs: self.tree_pins.pinned_blobs() as u64,
        };
        Stats { store: self.local.stats().into(), server: Some(server) }
    }
}

fn operations(meters: &Meters) -> BTreeMap<String, OperationStats> {
    Operation::ALL.map(|operation| (operation.name().into(), meters.read(operation).into())).into()
}

impl From<Reading> for OperationStats {
    fn from(reading: Reading) -> Self {
        Self {
            calls: reading.calls,
            failures: reading.failures,
            items: reading.items,
            missing: reading.missing,
            bytes: reading.bytes,
            seconds: reading.time.as_secs_f64(),
        }
    }
}
