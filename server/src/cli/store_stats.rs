//! The numbers of a store as people read them.

use std::collections::BTreeMap;
use std::time::Duration;

use super::format;
use crate::stats::{OperationStats, ServerStats, Stats, StoreStats};

/// Returns the numbers, one a line, and what a server did in a table below.
pub(crate) fn text(stats: &Stats) -> String {
    let mut lines = store_lines(&stats.store);
    if let Some(server) = &stats.server {
        lines.extend(server_lines(server));
    }
    let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut text: String = lines.iter().map(|(name, value)| format!("{name:width$}  {value}\n")).collect();
    if let Some(server) = &stats.server {
        text += &operations("operation", &server.operations);
        for (tier, operations) in &server.tiers {
            text += &self::operations(&format!("{}:", format::plain(tier)), operations);
        }
    }
    text
}

fn store_lines(stats: &StoreStats) -> Vec<(&'static str, String)> {
    let used =
        format!("{} ({})", format::size(stats.used_bytes), percent(stats.used_bytes, stats.capacity_bytes));
    vec![
        ("capacity", format::size(stats.capacity_bytes)),
        ("used", used),
        ("index", format::size(stats.index_bytes)),
        ("segments", stats.segments.to_string()),
        ("segments dropped", stats.segments_dropped.to_string()),
        ("copied forward", format::size(stats.copied_forward_bytes)),
        ("uploads refused", stats.uploads_refused.to_string()),
        ("records damaged", stats.records_damaged.to_string()),
        ("flushes", stats.flushes.to_string()),
        ("not indexed yet", format::size(stats.unindexed_bytes)),
    ]
}

fn server_lines(stats: &ServerStats) -> Vec<(&'static str, String)> {
    let cache = stats.action_cache;
    let asked = cache.hits + cache.misses + cache.incomplete;
    let hits = format!(
        "{} of {asked} ({}), {} incomplete",
        cache.hits,
        percent(cache.hits, asked),
        cache.incomplete
    );
    vec![
        ("action cache hits", hits),
        ("actions waiting", stats.queued_runs.to_string()),
        ("actions running", stats.running_runs.to_string()),
        ("pinned inputs", format!("{} blobs", stats.pinned_input_blobs)),
        ("version", format::plain(&stats.version)),
    ]
}

fn operations(title: &str, operations: &BTreeMap<String, OperationStats>) -> String {
    let mut text = format!(
        "\n{:14} {:>10} {:>12} {:>7} {:>10} {:>10} {:>9}\n",
        title, "calls", "items", "found", "bytes", "mean", "failures"
    );
    for (name, operation) in operations.iter().filter(|(_, operation)| operation.calls > 0) {
        let OperationStats { calls, failures, items, missing, bytes, seconds } = *operation;
        let found = percent(items.saturating_sub(missing), items);
        let mean = Duration::try_from_secs_f64(seconds / calls as f64).unwrap_or_default();
        let (name, mean) = (format::plain(name), microseconds(mean));
        text += &format!(
            "{name:14} {calls:>10} {items:>12} {found:>7} {:>10} {mean:>10} {failures:>9}\n",
            format::size(bytes)
        );
    }
    text
}

/// A mean that may be far below a millisecond.
fn microseconds(time: Duration) -> String {
    format!("{:.0} us", time.as_secs_f64() * 1e6)
}

fn percent(part: u64, whole: u64) -> String {
    if whole == 0 { "-".into() } else { format!("{:.1} %", part as f64 * 100.0 / whole as f64) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Lookups;

    #[test]
    fn rates_are_shown_and_nothing_is_divided_by_zero() {
        let store = StoreStats {
            capacity_bytes: 1000,
            used_bytes: 250,
            index_bytes: 10,
            segments: 3,
            segments_dropped: 0,
            copied_forward_bytes: 0,
            uploads_refused: 0,
            records_damaged: 0,
            flushes: 0,
            unindexed_bytes: 0,
        };
        let found = OperationStats { calls: 4, failures: 0, items: 10, missing: 3, bytes: 5, seconds: 0.001 };
        let idle = OperationStats { calls: 0, items: 0, missing: 0, ..found };
        let server = ServerStats {
            version: "1".into(),
            action_cache: Lookups { hits: 0, misses: 0, incomplete: 0 },
            operations: [("find_missing".to_owned(), found), ("pin".to_owned(), idle)].into(),
            tiers: [("far".to_owned(), [("get_batch".to_owned(), found)].into())].into(),
            queued_runs: 7,
            running_runs: 2,
            live_operations: 9,
            pinned_input_blobs: 2349,
        };
        let alone = text(&Stats { store, server: None });
        assert!(
            alone.contains("used              250 B (25.0 %)\n") && !alone.contains("waiting"),
            "{alone}"
        );
        let served = text(&Stats { store, server: Some(server) });
        assert!(served.contains("action cache hits  0 of 0 (-), 0 incomplete\n"), "{served}");
        let row = served.lines().find(|line| line.starts_with("find_missing")).unwrap();
        assert_eq!(
            row.split_whitespace().collect::<Vec<_>>().join(" "),
            "find_missing 4 10 70.0 % 5 B 250 us 0"
        );
        let far = served.lines().skip_while(|line| !line.starts_with("far: ")).nth(1).unwrap();
        assert!(far.starts_with("get_batch") && far.contains("70.0 %"), "{served}");
        assert!(!served.contains("pin "), "what was never called is left out");
    }
}
