//! Clients' interest in runs, and the memory of what has ended.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use prost::Message as _;
use wardian_proto::{InstanceName, reapi};

use super::run::{Stage, View};
use crate::job::{Job, OperationName, RunId};
use crate::limits::SchedulerLimits;

/// What has become of an operation.
#[derive(Debug)]
pub(super) enum Op {
    /// It waits for this run.
    Live(RunId),
    /// This came of it.
    Ended(View),
}

/// An operation that can still be asked for, and what remembering it costs.
#[derive(Debug)]
struct Ended {
    at: Instant,
    name: OperationName,
    bytes: usize,
}

/// All operations that can be asked for, by name.
#[derive(Debug, Default)]
pub(super) struct Operations {
    by_name: BTreeMap<OperationName, Op>,
    /// How many have not ended, by tenant.
    live: HashMap<InstanceName, usize>,
    ended: VecDeque<Ended>,
    ended_bytes: usize,
}

impl Operations {
    pub(super) fn get(&self, name: &OperationName) -> Option<&Op> {
        self.by_name.get(name)
    }

    /// Lets an operation wait for a run.
    pub(super) fn live(&mut self, name: OperationName, run: RunId, tenant: InstanceName) {
        self.by_name.insert(name, Op::Live(run));
        *self.live.entry(tenant).or_default() += 1;
    }

    /// Notes that an operation of a tenant waits no more.
    pub(super) fn no_more_live(&mut self, tenant: &InstanceName) {
        let count = self.live.get_mut(tenant).expect("it was live");
        *count -= 1;
        if *count == 0 {
            self.live.remove(tenant);
        }
    }

    /// How many operations of a tenant have not ended.
    pub(super) fn live_of(&self, tenant: &InstanceName) -> usize {
        self.live.get(tenant).copied().unwrap_or(0)
    }

    /// Notes what came of an operation.
    pub(super) fn end(
        &mut self,
        now: Instant,
        name: OperationName,
        job: Arc<Job>,
        response: Arc<reapi::ExecuteResponse>,
    ) {
        let bytes = response.encoded_len();
        self.by_name.insert(name.clone(), Op::Ended(View { job, stage: Stage::Completed(response) }));
        self.ended.push_back(Ended { at: now, name, bytes });
        self.ended_bytes += bytes;
    }

    /// Forgets an operation.
    pub(super) fn remove(&mut self, name: &OperationName) -> Option<Op> {
        let removed = self.by_name.remove(name)?;
        if let Op::Ended(_) = removed {
            let kept = &mut self.ended_bytes;
            self.ended.retain(|ended| {
                let stays = ended.name != *name;
                *kept -= if stays { 0 } else { ended.bytes };
                stays
            });
        }
        Some(removed)
    }

    /// Forgets ended operations that are too old or too many.
    pub(super) fn expire(&mut self, now: Instant, limits: &SchedulerLimits) -> Vec<OperationName> {
        let mut forgotten = Vec::new();
        while let Some(oldest) = self.ended.front() {
            let old = now.saturating_duration_since(oldest.at) >= limits.completed_kept_for;
            // The newest stays, however large: somebody is about to read it.
            let many = self.ended.len() > limits.completed_kept_max
                || (self.ended.len() > 1 && self.ended_bytes > limits.completed_bytes_max);
            if !old && !many {
                break;
            }
            let Ended { name, bytes, .. } = self.ended.pop_front().expect("front was there");
            self.ended_bytes -= bytes;
            self.by_name.remove(&name);
            forgotten.push(name);
        }
        forgotten
    }

    /// How many have not ended.
    pub(super) fn live_count(&self) -> usize {
        self.by_name.len() - self.ended.len()
    }

    /// Names of an instance after `after`, in their order. Those of one instance stand together.
    pub(super) fn list(
        &self,
        instance: &InstanceName,
        after: Option<&OperationName>,
    ) -> impl Iterator<Item = &OperationName> {
        use std::ops::Bound;
        let first = OperationName::first_of(instance);
        let from = match after {
            Some(after) if *after >= first => Bound::Excluded(after.clone()),
            _ => Bound::Included(first.clone()),
        };
        self.by_name
            .range((from, Bound::Unbounded))
            .map(|(name, _)| name)
            .take_while(move |name| name.as_str().starts_with(first.as_str()))
    }

    #[cfg(test)]
    pub(super) fn check(&self) {
        assert_eq!(self.ended_bytes, self.ended.iter().map(|ended| ended.bytes).sum::<usize>());
        let ended = self.by_name.values().filter(|op| matches!(op, Op::Ended(_))).count();
        assert_eq!(ended, self.ended.len());
        assert_eq!(self.live.values().sum::<usize>(), self.live_count());
    }
}
