//! What waits, who works, and how long it takes.

use std::fmt;
use std::time::SystemTime;

use wardian_proto::InstanceName;
use wardian_scheduler::{BOUNDS_SECONDS, Figures, Histogram, LocalQueue, Timed};

use super::{Observed, Writer};
use crate::fleet::{Fleet, Standing};

/// Stands for the instance without a name: an empty label is none.
const NAMELESS: &str = "(default)";

pub(super) fn all(writer: &mut Writer<'_, '_>, queue: &LocalQueue, fleet: &Fleet) -> fmt::Result {
    let figures = queue.figures();
    platforms(writer, &figures)?;
    tenants(writer, &figures)?;
    workers(writer, fleet)?;
    runs(writer, &figures)?;
    journal(writer, queue)
}

fn platforms(writer: &mut Writer<'_, '_>, figures: &Figures) -> fmt::Result {
    let labels = |platform: &String| [("platform", platform.clone())];
    let depths = figures.platforms.iter().map(|p| (labels(&p.platform), p.queued as u64));
    writer.family(
        "platform_queued_runs",
        "Runs that wait, by the properties they ask for; together those of which no worker has all",
        depths,
    )?;
    let now = SystemTime::now();
    let age = |oldest: SystemTime| now.duration_since(oldest).unwrap_or_default().as_secs_f64();
    let ages = figures.platforms.iter().map(|p| (labels(&p.platform), age(p.oldest)));
    writer.family("platform_oldest_queued_seconds", "How long the oldest of them has waited", ages)
}

fn tenants(writer: &mut Writer<'_, '_>, figures: &Figures) -> fmt::Result {
    let labels = |tenant: &InstanceName| {
        let name = tenant.to_string();
        [("tenant", if name.is_empty() { NAMELESS.to_owned() } else { name })]
    };
    let tenants = || figures.tenants.iter().map(|(tenant, figures)| (labels(tenant), figures));
    let help = "Runs of an instance that wait";
    writer.family("tenant_queued_runs", help, tenants().map(|(l, f)| (l, f.queued as u64)))?;
    let help = "Runs of an instance that a worker has begun";
    writer.family("tenant_running_runs", help, tenants().map(|(l, f)| (l, f.running as u64)))?;
    let help = "For how long runs of an instance had slots, all in all";
    writer.totals("tenant_worker_seconds", help, tenants().map(|(l, f)| (l, f.worker_time.as_secs_f64())))
}

fn workers(writer: &mut Writer<'_, '_>, fleet: &Fleet) -> fmt::Result {
    let kinds = ["inside", "elsewhere"].into_iter().zip(fleet.figures());
    let kinds: Vec<_> = kinds.map(|(name, figures)| (name.to_owned(), figures)).collect();
    let by_kind = |value: fn(&crate::fleet::KindFigures) -> u64| {
        kinds.iter().map(move |(kind, figures)| ([("kind", kind.clone())], value(figures)))
    };
    let states = kinds.iter().flat_map(|(kind, figures)| {
        Standing::ALL.into_iter().map(move |(state, name)| {
            ([("kind", kind.clone()), ("state", name.to_owned())], figures.workers[state as usize])
        })
    });
    writer.family("workers", "Workers, by where they are and how they stand", states)?;
    writer.family("worker_slots", "Actions that workers can run at once", by_kind(|f| f.slots))?;
    let help = "Of these, those that could be given something now";
    writer.family("worker_slots_free", help, by_kind(|f| f.slots_free))?;
    let help = "Runs that workers have been given and have no slot for yet";
    writer.family("worker_runs_ahead", help, by_kind(|f| f.runs_ahead))
}

fn runs(writer: &mut Writer<'_, '_>, figures: &Figures) -> fmt::Result {
    let totals = &figures.totals;
    let stages = Timed::ALL.map(|stage| (stage.name(), observed(totals.stage(stage))));
    let help = "How long runs took in each stage; waiting is counted for each start";
    writer.histograms("run_stage_seconds", help, "stage", stages)?;
    let help = "Runs that a worker did not bring to an end, by reason; most are run again";
    writer.counters("runs_interrupted", help, "reason", totals.retries())?;
    let help = "Of these, those that were given up because they were started too often";
    writer.counter("runs_given_up", help, totals.given_up)?;
    let help = "How often a run was given to a worker before that had a free slot";
    writer.counter("runs_given_ahead", help, totals.ahead_given)?;
    let help = "How often such a run came back before it began, mostly for a worker with a free slot";
    writer.counter("runs_taken_back", help, totals.ahead_returned)?;
    let help = "Workers that are gone, by reason; silent ones were not heard of for their lease";
    writer.counters("workers_gone", help, "reason", totals.gone())
}

/// All zero without a journal.
fn journal(writer: &mut Writer<'_, '_>, queue: &LocalQueue) -> fmt::Result {
    let stats = queue.journal().unwrap_or_default();
    let help = "What the journal of operations takes on disk";
    writer.gauge("journal_disk_bytes", help, stats.disk_bytes)?;
    let help = "Changes that the journal has not written yet";
    writer.gauge("journal_pending_changes", help, stats.pending)?;
    writer.counter("journal_changes", "Changes that the journal has written", stats.changes)?;
    let help = "Changes that it could not write: what they say does not survive a restart";
    writer.counter("journal_changes_failed", help, stats.failed)?;
    let help = "How long it took to write the changes of each batch";
    writer.histogram("journal_batch_seconds", help, &observed(&stats.batches))?;
    let help = "How long it took to bring the journal's database up to date and flush it";
    writer.histogram("journal_flush_seconds", help, &observed(&stats.flushes))
}

fn observed(histogram: &Histogram) -> Observed<{ BOUNDS_SECONDS.len() + 1 }> {
    let Histogram { buckets: counts, sum } = *histogram;
    Observed { bounds: &BOUNDS_SECONDS, counts, seconds: sum.as_secs_f64() }
}
