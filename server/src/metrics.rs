//! The numbers of a server in the text format of OpenMetrics, which Prometheus reads.
//!
//! docs/metrics.md lists every metric; a test holds the two together.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeGaugeValue, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use wardian_store::layers::{LATENCY_BOUNDS_SECONDS, Operation, Reading};

use crate::stats::{Lookups, ServerStats, Sources, StoreStats};
use crate::stores::Tier;

mod queue;

/// Content type of the format.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Writes every metric as it is now.
pub(crate) fn encode(sources: &Sources) -> String {
    let mut registry = Registry::with_prefix("wardian");
    registry.register_collector(Box::new(Metrics(sources.clone())));
    let mut written = String::new();
    text::encode(&mut written, &registry).expect("writing to a String does not fail");
    written
}

struct Metrics(Sources);

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let stats = self.0.read();
        let mut writer = Writer { encoder: &mut encoder };
        store(&mut writer, &stats.store)?;
        if let Some(server) = &stats.server {
            self::server(&mut writer, server)?;
        }
        queue::all(&mut writer, &self.0.queue, &self.0.fleet)?;
        tiers(&mut writer, &self.0.tiers)?;
        operations(&mut writer, &Operation::ALL.map(|operation| (operation, self.0.meters.read(operation))))
    }
}

fn store(writer: &mut Writer<'_, '_>, stats: &StoreStats) -> fmt::Result {
    writer.gauge("store_capacity_bytes", "What the store may take on disk", stats.capacity_bytes)?;
    writer.gauge("store_used_bytes", "What the store takes on disk, index included", stats.used_bytes)?;
    writer.gauge("store_index_bytes", "Of these, the index", stats.index_bytes)?;
    writer.gauge("store_segments", "Segments that can be read", stats.segments)?;
    writer.counter("store_segments_dropped", "Segments evicted to make room", stats.segments_dropped)?;
    let help = "Bytes copied out of evicted segments because they were in use";
    writer.counter("store_copied_forward_bytes", help, stats.copied_forward_bytes)?;
    let help =
        "Uploads refused because everything in the store was in use; not those that a full disk refuses";
    writer.counter("store_uploads_refused", help, stats.uploads_refused)?;
    writer.counter("store_records_damaged", "Records found damaged, absent since", stats.records_damaged)?;
    writer.counter(
        "store_flushes",
        "Times that everything written was flushed to the disk",
        stats.flushes,
    )?;
    let help = "Bytes of segments that the index does not cover yet";
    writer.gauge("store_unindexed_bytes", help, stats.unindexed_bytes)
}

fn server(writer: &mut Writer<'_, '_>, stats: &ServerStats) -> fmt::Result {
    writer.gauge("queue_queued_runs", "Runs that wait to begin", stats.queued_runs)?;
    writer.gauge("queue_running_runs", "Runs that a worker has begun", stats.running_runs)?;
    let help = "Operations that have not ended; several may share a run";
    writer.gauge("queue_live_operations", help, stats.live_operations)?;
    let help = "Blobs kept because waiting or running actions need them";
    writer.gauge("pinned_input_blobs", help, stats.pinned_input_blobs)?;
    let Lookups { hits, misses, incomplete } = stats.action_cache;
    let outcomes = [("hit", hits), ("miss", misses), ("incomplete", incomplete)];
    let help = "Look-ups in the action cache; an incomplete result is not served";
    writer.counters("action_cache_lookups", help, "outcome", outcomes)
}

/// What each of several stores was asked for; nothing where there is only one.
fn tiers(writer: &mut Writer<'_, '_>, tiers: &[Tier]) -> fmt::Result {
    let help = "Blobs that each of several stores was asked for or sent";
    writer.tiers("store_tier_items", help, tiers, |reading| reading.items)?;
    let help = "Of these, those that it did not have";
    writer.tiers("store_tier_missing", help, tiers, |reading| reading.missing)?;
    writer.tiers("store_tier_bytes", "Bytes of contents that it stored or handed out", tiers, |r| r.bytes)
}

fn operations(writer: &mut Writer<'_, '_>, readings: &[(Operation, Reading)]) -> fmt::Result {
    let by_name = |value: fn(&Reading) -> u64| {
        readings.iter().map(move |(operation, reading)| (operation.name(), value(reading)))
    };
    let help = "Blobs or records that calls to the store were about";
    writer.counters("store_operation_items", help, "operation", by_name(|r| r.items))?;
    let help = "Of these, those that were not found";
    writer.counters("store_operation_missing", help, "operation", by_name(|r| r.missing))?;
    let help = "Bytes of contents that were stored or handed out";
    writer.counters("store_operation_bytes", help, "operation", by_name(|r| r.bytes))?;
    let help = "Calls or items that failed other than by not finding something";
    writer.counters("store_operation_failures", help, "operation", by_name(|r| r.failures))?;
    let help = "Time that calls to the store took; of a read, until it began";
    let observed = readings.iter().map(|(operation, reading)| {
        let (counts, seconds) = (reading.buckets, reading.time.as_secs_f64());
        (operation.name(), Observed { bounds: &LATENCY_BOUNDS_SECONDS, counts, seconds })
    });
    writer.histograms("store_operation_seconds", help, "operation", observed)
}

/// What a histogram has: `counts` has one more for what is above all bounds.
struct Observed<const N: usize> {
    bounds: &'static [f64],
    counts: [u64; N],
    seconds: f64,
}

/// Writes metrics of each kind.
struct Writer<'a, 'e> {
    encoder: &'a mut DescriptorEncoder<'e>,
}

impl Writer<'_, '_> {
    fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let mut metric = self.encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        metric.encode_counter::<NoLabelSet, u64, u64>(&value, None)
    }

    fn counters(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (&'static str, u64)>,
    ) -> fmt::Result {
        let mut metric = self.encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (of, value) in values {
            let labels = [(label, of)];
            metric.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, u64>(&value, None)?;
        }
        Ok(())
    }

    fn tiers(&mut self, name: &str, help: &str, tiers: &[Tier], value: fn(&Reading) -> u64) -> fmt::Result {
        let mut metric = self.encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for tier in tiers {
            for operation in Operation::ALL.into_iter().filter(|operation| operation.is_about_blobs()) {
                let labels = [("tier", tier.name), ("operation", operation.name())];
                let count = value(&tier.meters.read(operation));
                metric.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, u64>(&count, None)?;
            }
        }
        Ok(())
    }

    fn histograms<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (&'static str, Observed<N>)>,
    ) -> fmt::Result {
        let mut metric = self.encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (of, Observed { bounds, counts, seconds }) in values {
            let bounds = bounds.iter().copied().chain([f64::INFINITY]);
            let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
            let labels = [(label, of)];
            let mut family = metric.encode_family(&labels)?;
            family.encode_histogram::<NoLabelSet>(seconds, counts.iter().sum(), &buckets, None)?;
        }
        Ok(())
    }

    fn histogram<const N: usize>(&mut self, name: &str, help: &str, observed: &Observed<N>) -> fmt::Result {
        let mut metric = self.encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        let bounds = observed.bounds.iter().copied().chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(observed.counts).collect();
        let count = observed.counts.iter().sum();
        metric.encode_histogram::<NoLabelSet>(observed.seconds, count, &buckets, None)
    }

    /// A counter whose labels are not known beforehand.
    fn totals(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = ([(&'static str, String); 1], f64)>,
    ) -> fmt::Result {
        let mut metric = self.encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in values {
            metric.encode_family(&labels)?.encode_counter::<NoLabelSet, f64, u64>(&value, None)?;
        }
        Ok(())
    }

    /// A gauge whose labels are not known beforehand.
    fn family<const N: usize, V: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = ([(&'static str, String); N], V)>,
    ) -> fmt::Result {
        let mut metric = self.encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in values {
            metric.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use wardian_runtime::TrustedModules;
    use wardian_scheduler::{LocalQueue, SchedulerLimits, Tenants};
    use wardian_store::action_cache::ActionCache;
    use wardian_store::backend::{SledOptions, SledStore};
    use wardian_store::layers::{Metered, Meters};
    use wardian_store::tree_pins::{TreePinLimits, TreePins};

    use super::*;
    use crate::fleet::{Fleet, FleetLimits};
    use crate::logs::{LogLimits, LogStreams};

    const DOCUMENTED: &str = include_str!("../../docs/metrics.md");

    fn sources(store: &SledStore) -> Sources {
        let meters = Arc::new(Meters::default());
        let blobs = Arc::new(Metered::new(store.clone(), Arc::clone(&meters)));
        let action_cache = ActionCache::new(blobs.clone(), blobs.clone());
        let queue = LocalQueue::new(SchedulerLimits::default(), Tenants::default(), action_cache.clone());
        let logs = LogStreams::new(LogLimits::default());
        let fleet = Fleet::new(
            queue.clone(),
            blobs.clone(),
            logs,
            TrustedModules::default(),
            vec![],
            FleetLimits::default(),
        );
        Sources {
            local: store.clone(),
            tiers: vec![Tier { name: "near", meters: Arc::clone(&meters) }],
            meters,
            queue,
            fleet,
            action_cache,
            tree_pins: Arc::new(TreePins::new(blobs, TreePinLimits::default())),
        }
    }

    /// Name as scraped, kind and text of every metric.
    fn exported(text: &str) -> BTreeSet<(String, String, String)> {
        let lines = |prefix: &'static str| {
            let rest = text.lines().filter_map(move |line| line.strip_prefix(prefix));
            rest.map(|line| line.split_once(' ').expect("a name and more"))
        };
        let described = lines("# HELP ").zip(lines("# TYPE "));
        described
            .map(|((name, help), (typed, kind))| {
                assert_eq!(name, typed);
                let suffix = if kind == "counter" { "_total" } else { "" };
                (format!("{name}{suffix}"), kind.to_owned(), help.to_owned())
            })
            .collect()
    }

    #[tokio::test]
    async fn the_page_lists_exactly_what_is_exported() {
        let folder = tempfile::tempdir().unwrap();
        let store = SledStore::open(folder.path(), SledOptions::default()).unwrap();
        let text = encode(&sources(&store));
        let documented: BTreeSet<_> = DOCUMENTED
            .lines()
            .filter_map(|line| {
                let mut cells = line.strip_prefix("| `")?.split('|').map(|cell| cell.trim().to_owned());
                let mut cell = || cells.next().expect("four cells");
                let (name, kind, _labels, help) = (cell(), cell(), cell(), cell());
                Some((name.trim_end_matches('`').to_owned(), kind, help))
            })
            .collect();
        assert_eq!(exported(&text), documented);
    }

    #[tokio::test]
    async fn counts_and_times_come_out() {
        use wardian_proto::{Digest, DigestFunction, InstanceName};
        use wardian_store::{BlobStore as _, Upload};

        let folder = tempfile::tempdir().unwrap();
        let store = SledStore::open(folder.path(), SledOptions::default()).unwrap();
        let sources = sources(&store);
        let metered = Metered::new(store.clone(), Arc::clone(&sources.meters));
        let (digest, absent): (Digest, Digest) =
            (DigestFunction::Sha256.digest(b"four"), DigestFunction::Sha256.digest(b"absent"));
        metered.put(Upload::bytes(digest, "four")).await.unwrap();
        metered.find_missing(&[digest, absent]).await.unwrap();
        sources.action_cache.get(&InstanceName::default(), &absent).await.unwrap();
        let text = encode(&sources);
        for line in [
            r#"wardian_store_operation_bytes_total{operation="put"} 4"#,
            r#"wardian_store_operation_items_total{operation="find_missing"} 2"#,
            r#"wardian_store_operation_missing_total{operation="find_missing"} 1"#,
            r#"wardian_store_tier_items_total{tier="near",operation="find_missing"} 2"#,
            r#"wardian_store_tier_missing_total{tier="near",operation="find_missing"} 1"#,
            r#"wardian_store_tier_bytes_total{tier="near",operation="put"} 4"#,
            r#"wardian_store_operation_seconds_count{operation="put"} 1"#,
            r#"wardian_store_operation_seconds_bucket{le="+Inf",operation="put"} 1"#,
            r#"wardian_action_cache_lookups_total{outcome="miss"} 1"#,
            "wardian_queue_queued_runs 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in:\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }
}
