//! The numbers on the port: for Prometheus, and for `wardian store stats`.

use std::time::Duration;

use wardian_tests::{TestAction, TestServer, get};

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_did_can_be_scraped() {
    let server = TestServer::start().await;
    let built = server.upload(TestAction::new(&["echo", "hello"])).await;
    server.execute(&built).await;
    server.execute(&built).await;
    let text = get(server.address(), "/metrics").await;
    assert!(text.contains("application/openmetrics-text"), "{text}");
    for line in [
        "wardian_action_cache_lookups_total{outcome=\"hit\"} 1",
        "wardian_action_cache_lookups_total{outcome=\"miss\"} 1",
        "wardian_store_operation_seconds_count{operation=\"put_record\"} 1",
        "wardian_queue_live_operations 0",
        "wardian_pinned_input_blobs 0",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_who_works_and_how_long_it_takes_can_be_scraped() {
    let server = TestServer::with(|config| config.scheduler.worker_grace = Duration::from_secs(60)).await;
    let built = server.upload(TestAction::new(&["echo", "hello"])).await;
    server.execute(&built).await;
    let asked = [("pool", "\"large\"")];
    let mut waiting = server.begin(TestAction::new(&["true"]).platform(&asked)).await;
    waiting.next().await.unwrap();
    let text = get(server.address(), "/metrics").await;
    for line in [
        r#"wardian_platform_queued_runs{platform="no worker has it"} 1"#,
        r#"wardian_tenant_queued_runs{tenant="(default)"} 1"#,
        r#"wardian_tenant_running_runs{tenant="(default)"} 0"#,
        r#"wardian_workers{kind="inside",state="ready"} 1"#,
        r#"wardian_workers{kind="elsewhere",state="ready"} 0"#,
        r#"wardian_worker_slots{kind="inside"} 2"#,
        r#"wardian_worker_slots_free{kind="inside"} 2"#,
        r#"wardian_run_stage_seconds_count{stage="queued"} 1"#,
        r#"wardian_run_stage_seconds_count{stage="input_fetch"} 1"#,
        r#"wardian_run_stage_seconds_count{stage="execution"} 1"#,
        r#"wardian_run_stage_seconds_count{stage="output_upload"} 1"#,
        r#"wardian_runs_interrupted_total{reason="unable"} 0"#,
        "wardian_journal_changes_failed_total 0",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} in {text}");
    }
    for begin in [
        "wardian_platform_oldest_queued_seconds{",
        "wardian_tenant_worker_seconds_total{tenant=\"(default)\"}",
    ] {
        let line = text.lines().find(|line| line.starts_with(begin)).expect(begin);
        assert!(line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap() > 0.0, "{line}");
    }
    let changes = text.lines().find_map(|line| line.strip_prefix("wardian_journal_changes_total "));
    assert!(changes.unwrap().parse::<u64>().unwrap() > 0, "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_numbers_come_as_json_over_either_http() {
    let server = TestServer::start().await;
    server.put("some blob").await;
    let stats = server.stats().await;
    assert!(stats.store.used_bytes > 0 && stats.store.used_bytes < stats.store.capacity_bytes);
    let put = stats.server.unwrap().operations["put_batch"];
    assert_eq!((put.calls, put.items, put.bytes, put.failures), (1, 1, 9, 0));
    assert!(get(server.address(), "/stats").await.contains("\"capacity_bytes\""));
}

/// Words of a text that are names of metrics, without what counters and histograms add to theirs.
fn metrics_of(text: &str) -> std::collections::BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let names = words.filter(|word| word.starts_with("wardian_"));
    names
        .map(|name| ["_total", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_alerts_and_documents_name_is_there_to_be_scraped() {
    let server = TestServer::start().await;
    let page = get(server.address(), "/metrics").await;
    let scraped: Vec<_> = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    let alerts = include_str!("../../../docs/alerts.yml");
    for (text, least) in [(include_str!("../../../docs/metrics.md"), 40), (alerts, 10)] {
        let named = metrics_of(text);
        assert!(named.len() >= least, "{named:?}");
        for name in named {
            let is_there = scraped.iter().any(|line| line.split(' ').next() == Some(name));
            assert!(is_there, "{name} is not in {scraped:?}");
        }
    }
    // A label that no metric has makes an alert that is never raised.
    for part in alerts.split('{').skip(1).filter_map(|part| part.split('}').next()) {
        if part.contains("=\"") && !part.contains("job=") {
            assert!(page.contains(part), "{part} is in no line of {page}");
        }
    }
}
