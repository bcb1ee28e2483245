//! Execution as such, whatever runs: caching, joining, order, platforms, metadata.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bytes::Bytes;
use tonic::Code;
use wardian_proto::longrunning::Operation;
use wardian_proto::reapi;
use wardian_proto::reapi::execution_stage::Value as Stage;
use wardian_tests::{Built, TestAction, TestServer, soon, until};

/// An action that notes each of its runs as a line of a file outside of its input root.
fn noting(log: &Path) -> TestAction {
    TestAction::sh("echo run >> \"$1\"; echo done | tee out", &[log]).outputs(&["out"])
}

/// An action that notes its start, then waits for a file to appear.
fn waiting(log: &Path, go: &Path) -> TestAction {
    let script = "echo run >> \"$1\"; until [ -e \"$2\" ]; do sleep 0.02; done; echo over";
    TestAction::sh(script, &[log, go])
}

fn lines(path: &Path) -> Vec<String> {
    std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

fn paths(server: &TestServer) -> (PathBuf, PathBuf) {
    (server.folder().join("log"), server.folder().join("go"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_run_is_served_from_the_cache() {
    let server = TestServer::start().await;
    let (log, _) = paths(&server);
    let built = server.upload(noting(&log)).await;
    let first = server.execute(&built).await;
    let second = server.execute(&built).await;
    assert!(!first.response.cached_result && second.response.cached_result);
    // Metadata included: it tells of the run that made the result.
    assert_eq!(first.result(), second.result());
    assert_eq!(second.code(), Code::Ok);
    assert_ne!(first.name(), second.name());
    assert_eq!(lines(&log), ["run"]);

    let request =
        reapi::GetActionResultRequest { action_digest: Some(built.action.to_wire()), ..Default::default() };
    let cached = server.action_cache().get_action_result(request).await.unwrap().into_inner();
    assert_eq!(cached, first.result());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cache_is_passed_over_on_request_and_renewed() {
    let server = TestServer::start().await;
    let (log, _) = paths(&server);
    let built = server.upload(noting(&log)).await;
    let first = server.execute(&built).await;
    let request = reapi::ExecuteRequest { skip_cache_lookup: true, ..built.request() };
    let second = server.follow(request).await.unwrap().ended().await.unwrap();
    assert!(!second.response.cached_result);
    assert_eq!(lines(&log).len(), 2);
    assert_ne!(first.result().execution_metadata, second.result().execution_metadata);
    let third = server.execute(&built).await;
    assert!(third.response.cached_result);
    assert_eq!(third.result(), second.result());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_must_not_be_cached_is_not() {
    let server = TestServer::start().await;
    let (log, _) = paths(&server);
    let built = server.upload(noting(&log).do_not_cache()).await;
    for runs in 1..=2 {
        assert!(!server.execute(&built).await.response.cached_result);
        assert_eq!(lines(&log).len(), runs);
    }
    let request =
        reapi::GetActionResultRequest { action_digest: Some(built.action.to_wire()), ..Default::default() };
    assert_eq!(server.action_cache().get_action_result(request).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_commands_are_results_but_not_cached() {
    let server = TestServer::start().await;
    let (log, _) = paths(&server);
    let script = "echo run >> \"$1\"; echo kept > out; exit 3";
    let built = server.upload(TestAction::sh(script, &[&log]).outputs(&["out"])).await;
    for runs in 1..=2 {
        let ended = server.execute(&built).await;
        assert_eq!((ended.code(), ended.result().exit_code), (Code::Ok, 3));
        assert!(!ended.response.cached_result);
        assert_eq!(server.get(ended.result().output_files[0].digest.as_ref()).await, "kept\n");
        assert_eq!(lines(&log).len(), runs);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn salt_makes_another_action() {
    let server = TestServer::start().await;
    let (log, _) = paths(&server);
    for salt in ["a", "b"] {
        let mut action = noting(&log);
        action.action.salt = Bytes::from(salt);
        assert!(!server.succeed(action).await.response.cached_result);
    }
    assert_eq!(lines(&log).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_actions_in_flight_run_once() {
    let server = TestServer::start().await;
    let (log, go) = paths(&server);
    let built = server.upload(waiting(&log, &go)).await;
    let mut followings = Vec::new();
    for _ in 0..5 {
        let mut following = server.follow(built.request()).await.unwrap();
        following.until_stage(Stage::Executing).await;
        followings.push(following);
    }
    std::fs::write(&go, "").unwrap();
    let mut results = Vec::new();
    let mut names = Vec::new();
    for following in followings {
        let ended = following.ended().await.unwrap();
        assert!(!ended.response.cached_result);
        names.push(ended.name().to_owned());
        results.push(ended.result());
    }
    assert_eq!(lines(&log), ["run"]);
    assert!(results.iter().all(|result| *result == results[0]));
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_actions_in_flight_run_apart_when_they_must_not_be_cached() {
    let server = TestServer::start().await;
    let (log, _) = paths(&server);
    // Each ends only when both have begun.
    let script = "echo run >> \"$1\"; until [ $(wc -l < \"$1\") -ge 2 ]; do sleep 0.02; done";
    let built = server.upload(TestAction::sh(script, &[&log]).do_not_cache()).await;
    let both = futures::future::join(server.execute(&built), server.execute(&built));
    let (first, second) = soon("both ends", both).await;
    assert_eq!((first.result().exit_code, second.result().exit_code), (0, 0));
    assert_eq!(lines(&log).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn lower_priorities_run_first_and_equals_in_order() {
    let server = TestServer::with(|config| config.worker.slots = 1).await;
    let (log, go) = paths(&server);
    let mut blocker = server.begin(waiting(&log, &go)).await;
    blocker.until_stage(Stage::Executing).await;
    let mut queued = Vec::new();
    for (name, priority) in [("late", 7), ("first of two", 0), ("second of two", 0), ("early", -3)] {
        let action = TestAction::sh("echo \"$2\" >> \"$1\"", &[&log, Path::new(name)]);
        let built: Built = server.upload(action).await;
        let execution_policy = Some(reapi::ExecutionPolicy { priority });
        let mut following =
            server.follow(reapi::ExecuteRequest { execution_policy, ..built.request() }).await.unwrap();
        following.until_stage(Stage::Queued).await;
        queued.push(following);
    }
    std::fs::write(&go, "").unwrap();
    for following in queued {
        following.ended().await.unwrap();
    }
    assert_eq!(lines(&log), ["run", "early", "first of two", "second of two", "late"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_more() {
    let server = TestServer::with(|config| {
        config.worker.slots = 1;
        config.scheduler.queued_runs_max = 1;
    })
    .await;
    let (log, go) = paths(&server);
    let mut running = server.begin(waiting(&log, &go)).await;
    running.until_stage(Stage::Executing).await;
    let queued = server.begin(TestAction::new(&["echo", "queued"])).await;
    let refusal = server.refused(TestAction::new(&["echo", "one too many"])).await;
    assert_eq!(refusal.code, Code::ResourceExhausted);
    assert!(refusal.message.contains("limit is 1"), "{refusal:?}");
    std::fs::write(&go, "").unwrap();
    assert_eq!(queued.ended().await.unwrap().code(), Code::Ok);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stream_tells_every_stage_and_ends() {
    let server = TestServer::start().await;
    let (log, go) = paths(&server);
    let mut following = server.begin(waiting(&log, &go)).await;
    following.until_stage(Stage::Executing).await;
    until("the command runs", || !lines(&log).is_empty()).await;
    std::fs::write(&go, "").unwrap();
    let ended = following.ended().await.unwrap();
    let last: &Operation = ended.operations.last().unwrap();
    assert!(last.done && ended.operations.len() >= 2);
    assert!(ended.name().starts_with("operations/"), "{}", ended.name());
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_tells_when_what_happened() {
    let server = TestServer::with(|config| config.worker.name = "tester".into()).await;
    let before = SystemTime::now();
    let ended = server.succeed(TestAction::new(&["echo", "hi"])).await;
    let after = SystemTime::now();
    let metadata = ended.result().execution_metadata.unwrap();
    assert!(metadata.worker.starts_with("tester"), "{}", metadata.worker);
    let times: Vec<SystemTime> = [
        metadata.queued_timestamp,
        metadata.worker_start_timestamp,
        metadata.input_fetch_start_timestamp,
        metadata.input_fetch_completed_timestamp,
        metadata.execution_start_timestamp,
        metadata.execution_completed_timestamp,
        metadata.output_upload_start_timestamp,
        metadata.output_upload_completed_timestamp,
        metadata.worker_completed_timestamp,
    ]
    .into_iter()
    .map(|time| time.expect("every timestamp is set").try_into().unwrap())
    .collect();
    assert!(times.is_sorted(), "{times:?}");
    assert!(before <= times[0] && times[8] <= after, "{times:?}");
    let duration = std::time::Duration::try_from(metadata.virtual_execution_duration.unwrap()).unwrap();
    assert!(duration <= after.duration_since(before).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn contents_come_inline_when_asked_for() {
    let server = TestServer::start().await;
    let script = "echo to stdout; echo to stderr >&2; echo to file > out";
    let built = server.upload(TestAction::sh(script, &[]).outputs(&["out"])).await;
    let plain = server.execute(&built).await.result();
    assert!(plain.stdout_raw.is_empty() && plain.output_files[0].contents.is_empty());
    for skip_cache_lookup in [true, false] {
        let request = reapi::ExecuteRequest {
            skip_cache_lookup,
            inline_stdout: true,
            inline_stderr: true,
            inline_output_files: vec!["out".into()],
            ..built.request()
        };
        let result = server.follow(request).await.unwrap().ended().await.unwrap().result();
        assert_eq!(
            (&result.stdout_raw[..], &result.stderr_raw[..]),
            (&b"to stdout\n"[..], &b"to stderr\n"[..])
        );
        assert_eq!(&result.output_files[0].contents[..], b"to file\n");
        assert_eq!(server.get(result.stdout_digest.as_ref()).await, "to stdout\n");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn platforms_that_no_worker_has_are_refused_by_name() {
    let server =
        TestServer::with(|config| config.worker.properties = vec![("pool".into(), "small".into())]).await;
    for (platform, named) in [
        (&[("pool", "large")][..], "pool=large"),
        (&[("pool", "small"), ("gpu", "1")], "gpu=1"),
        (&[("OSFamily", "plan9")], "OSFamily=plan9"),
        (&[("ISA", "z80")], "ISA=z80"),
        (&[("container-image", "docker://x")], "container-image=docker://x"),
    ] {
        let refusal = server.refused(TestAction::new(&["echo"]).platform(platform)).await;
        assert_eq!(refusal.code, Code::FailedPrecondition);
        assert!(refusal.message.contains(named), "{refusal:?}");
    }
    for (platform, why) in [
        (&[("OSFamily", "wasi"), ("ISA", "x86-64")], "ISA=x86-64"),
        (&[("OSFamily", "linux"), ("ISA", "wasm32")], "ISA=wasm32"),
    ] {
        let refusal = server.refused(TestAction::wasm("hello", &[]).platform(platform)).await;
        assert_eq!(refusal.code, Code::FailedPrecondition);
        assert!(refusal.message.contains(why), "{refusal:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn platforms_that_the_worker_has_are_served() {
    let server =
        TestServer::with(|config| config.worker.properties = vec![("pool".into(), "small".into())]).await;
    let mut capital = std::env::consts::OS.to_owned();
    capital[..1].make_ascii_uppercase();
    for platform in [
        &[][..],
        &[("pool", "small")],
        &[("OSFamily", std::env::consts::OS)],
        &[("OSFamily", capital.as_str()), ("pool", "small")],
    ] {
        server.succeed(TestAction::new(&["echo"]).platform(platform)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_actions_platform_wins_over_the_commands() {
    let server = TestServer::start().await;
    let platform = |action: TestAction| action.platform(&[("pool", "none")]).action.platform;
    let mut command_only = TestAction::new(&["echo"]);
    let impossible = platform(TestAction::new(&[]));
    #[allow(deprecated)]
    {
        command_only.command.platform = impossible;
    }
    assert_eq!(server.refused(command_only.clone()).await.code, Code::FailedPrecondition);
    server.succeed(command_only.platform(&[])).await;
}
