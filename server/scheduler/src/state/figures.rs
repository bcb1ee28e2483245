//! The state in numbers.

use std::collections::BTreeMap;
use std::time::Instant;

use super::Scheduler;
use crate::figures::{Figures, PlatformFigures, TenantFigures, longest, platform_text};

/// Stands for all platforms that no worker offers.
const UNSERVED: &str = "no worker has it";

impl Scheduler {
    /// How it stands, and what it has done so far.
    pub fn figures(&self, now: Instant) -> Figures {
        let mut tenants: BTreeMap<_, TenantFigures> = BTreeMap::new();
        for (tenant, time) in &self.totals.worker_time {
            tenants.entry(tenant.clone()).or_default().worker_time = *time;
        }
        for (tenant, load) in self.tenants() {
            let figures = tenants.entry(tenant.clone()).or_default();
            (figures.queued, figures.running) = (load.queued, load.running);
        }
        for id in self.workers.values().flat_map(|worker| &worker.runs) {
            let run = &self.runs[id];
            if run.question().is_some() {
                let figures = tenants.entry(run.place.tenant.clone()).or_default();
                (figures.queued, figures.running) = (figures.queued + 1, figures.running - 1);
                continue;
            }
            let so_far = now.saturating_duration_since(run.since);
            tenants.entry(run.place.tenant.clone()).or_default().worker_time += so_far;
        }
        Figures { platforms: self.platforms(), tenants, totals: self.totals.clone() }
    }

    /// What waits, by platform: several classes may ask for the same.
    fn platforms(&self) -> Vec<PlatformFigures> {
        let mut platforms: BTreeMap<String, PlatformFigures> = BTreeMap::new();
        let ahead = self.workers.values().flat_map(|worker| &worker.ahead.runs);
        let ahead = ahead.map(|id| (self.runs[id].place.class, 1, *id));
        for (class, depth, oldest) in self.queue.depths().chain(ahead) {
            let class = self.classes.get(class);
            // What nobody has is whatever clients ask for, without end.
            let platform = if class.workers.is_empty() {
                UNSERVED.to_owned()
            } else {
                platform_text(class.key.platform.iter())
            };
            let oldest = self.runs[&oldest].queued_at;
            let none = PlatformFigures { platform: platform.clone(), queued: 0, oldest };
            let figures = platforms.entry(platform).or_insert(none);
            figures.queued += depth;
            figures.oldest = figures.oldest.min(oldest);
        }
        longest(platforms.into_values().collect())
    }
}
