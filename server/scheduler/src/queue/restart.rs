//! A queue that goes on where an earlier process was.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{Notify, watch};
use wardian_proto::Digest;
use wardian_store::action_cache::ActionCache;

use super::{Inner, LocalQueue, Shared};
use crate::journal::Left;
use crate::state::Scheduler;
use crate::{Held, Journal, RunId, SchedulerLimits, Tenants};

/// How long a process may take from its start until workers can connect to it.
const NOT_SERVED_MAX: Duration = Duration::from_secs(3600);

/// A run that was taken over from an earlier process.
#[derive(Clone, Copy, Debug)]
pub struct Restored {
    /// Its name.
    pub run: RunId,
    /// Its Action.
    pub action: Digest,
}

impl LocalQueue {
    /// A queue that goes on where the process was that wrote the journal. Runs that had not ended are queued again;
    /// none is started before [`settle_for`](Self::settle_for) says how long that is still to be so.
    pub fn restarted(
        limits: SchedulerLimits,
        tenants: Tenants,
        action_cache: ActionCache,
        (journal, left): (Journal, Left),
    ) -> (Self, Vec<Restored>) {
        let mut state = Scheduler::new(limits, tenants);
        let (now, wall) = (Instant::now(), SystemTime::now());
        state.number_from(journal.first_run());
        for ended in left.ended {
            // A clock that was set back makes an operation young again, and no more.
            let ago = wall.duration_since(ended.ended_at).unwrap_or_default();
            state.restore_ended(now, ago, ended.name, ended.job, ended.response);
        }
        let mut restored: Vec<Restored> = Vec::new();
        let mut watchers = HashMap::new();
        for live in left.live {
            let (run, action) = (live.run, live.job.action);
            if restored.last().is_none_or(|last| last.run != run) {
                restored.push(Restored { run, action });
            }
            state.restore(now, live.name.clone(), run, live.queued_at, live.job);
            let view = state.view(&live.name).expect("just restored");
            watchers.insert(live.name, watch::channel(view).0);
        }
        if !restored.is_empty() {
            state.settle_until(now + NOT_SERVED_MAX);
        }
        let inner = Inner {
            state,
            watchers,
            cancels: HashMap::new(),
            bells: HashMap::new(),
            shutting_down: false,
            stopped: false,
        };
        let shared = Shared {
            inner: Mutex::new(inner),
            drained: Notify::new(),
            action_cache,
            epoch: journal.epoch(),
            journal: Some(journal),
        };
        (Self { shared: Arc::new(shared) }, restored)
    }

    /// To be called when workers can connect: says for how long they may name what they run before it is started again.
    pub fn settle_for(&self, takeover: Duration) {
        let mut inner = self.lock();
        if inner.state.settles() {
            inner.state.settle_until(Instant::now() + takeover);
        }
    }

    /// Writes the journal to its end and lets go of it, so that another process can open it. Blocks.
    pub fn close(&self) {
        if let Some(journal) = &self.shared.journal {
            journal.close();
        }
    }

    /// Gives a run something to hold until it ends. One that has ended, or holds something, does without.
    pub fn hold(&self, run: RunId, held: Held) {
        let mut held = Some(held);
        self.update(|inner| inner.state.hold_run(run, &mut held));
    }
}
