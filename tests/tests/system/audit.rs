//! Actions that ask to be run again and compared: platform property `wasi-audit`.

use prost::Message as _;
use tonic::Code;
use wardian_proto::wardian::WasmAudit;
use wardian_runtime::Baseline;
use wardian_tests::{Ended, TestAction, TestServer};

fn audit(ended: &Ended) -> Option<WasmAudit> {
    let metadata = ended.result().execution_metadata.unwrap();
    let found =
        metadata.auxiliary_metadata.iter().find(|any| any.type_url.ends_with("/wardian.v1.WasmAudit"));
    found.map(|any| WasmAudit::decode(&*any.value).unwrap())
}

fn looking(properties: &[(&str, &str)]) -> TestAction {
    let properties = [&[("OSFamily", "wasi")], properties].concat();
    TestAction::wasm("look", &["in"]).file("in", "content").platform(&properties)
}

fn tiers(audit: &WasmAudit) -> Vec<&str> {
    audit.runs.iter().map(|run| run.tier.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audited_action_is_run_at_every_tier_and_found_the_same() {
    let server = TestServer::with(|config| config.worker.compile.baseline = Baseline::All).await;
    for (runs, expected) in [("1", &["metered"][..]), ("4", &["metered", "baseline", "optimized", "metered"])]
    {
        let ended = server.succeed(looking(&[("wasi-audit", runs)])).await;
        let audit = audit(&ended).expect("it was audited");
        assert_eq!(tiers(&audit), expected);
        for run in &audit.runs {
            assert_eq!((run.not_run.as_str(), run.differences_count), ("", 0), "{run:?}");
        }
    }
    assert_eq!(audit(&server.succeed(looking(&[])).await), None);
    assert_eq!(audit(&server.succeed(looking(&[("wasi-audit", "0")])).await), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_differs_is_a_finding_and_no_failure() {
    let server = TestServer::start().await;
    let ended = server.succeed(looking(&[("wasi-audit", "2"), ("wasi-random", "system")])).await;
    let audit = audit(&ended).expect("it was audited");
    // Nobody registered the module, so it has no baseline tier.
    assert_eq!(tiers(&audit), ["metered", "optimized"]);
    for run in audit.runs {
        let [difference] = &run.differences[..] else { panic!("{run:?}") };
        assert_eq!(difference.what, "standard output");
        let digest = ended.result().stdout_digest.unwrap();
        assert_eq!(difference.in_result, format!("{}/{}", digest.hash, digest.size_bytes));
        assert_ne!(difference.in_run, difference.in_result);
        assert_eq!(run.differences_count, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_on_fuel_holds_in_every_run() {
    let server = TestServer::with(|config| config.worker.compile.baseline = Baseline::All).await;
    let ended = server.succeed(looking(&[("wasi-audit", "2"), ("wasm-fuel", "100000")])).await;
    let audit = audit(&ended).expect("it was audited");
    assert_eq!(tiers(&audit), ["metered", "metered"]);
    assert!(audit.runs.iter().all(|run| run.differences_count == 0 && run.not_run.is_empty()), "{audit:?}");
    // What does not finish has no result to compare.
    let stopped = server.run(looking(&[("wasi-audit", "2"), ("wasm-fuel", "10")])).await;
    assert_eq!(stopped.code(), Code::ResourceExhausted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_can_be_audited_too() {
    let server = TestServer::start().await;
    let action = TestAction::wasm_tool(wardian_tests::component_of("copy"), &["in", "out/file"])
        .file("in", "content")
        .directory("out")
        .outputs(&["out"])
        .platform(&[("OSFamily", "wasi"), ("wasi-audit", "2")]);
    let audit = audit(&server.succeed(action).await).expect("it was audited");
    assert_eq!(tiers(&audit), ["metered", "optimized"]);
    assert!(audit.runs.iter().all(|run| run.differences_count == 0 && run.not_run.is_empty()), "{audit:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn more_runs_than_the_server_allows_are_refused_and_so_are_processes() {
    let server = TestServer::with(|config| config.worker.limits.wasm_audit_runs_max = 2).await;
    let refusal = server.refused(looking(&[("wasi-audit", "3")])).await;
    assert_eq!(refusal.code, Code::InvalidArgument);
    assert!(refusal.message.contains("wasm_audit_runs_max"), "{refusal:?}");
    let native = TestAction::new(&["true"]).platform(&[("wasi-audit", "1")]);
    let refusal = server.refused(native).await;
    assert_eq!(refusal.code, Code::InvalidArgument);
    assert!(refusal.message.contains("wasi-audit"), "{refusal:?}");
}
