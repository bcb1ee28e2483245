//! Actions that run as processes of the machine.

use std::path::Path;
use std::time::Duration;

use tonic::Code;
use wardian_tests::{TestAction, TestServer, until};

/// Whether a process is gone, or dead and only waits to be noticed.
fn is_gone(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
    stat.map_or(true, |stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['Z', 'X'])))
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_code_and_both_streams_come_back() {
    let server = TestServer::start().await;
    let ended = server.run(TestAction::sh("echo out; echo err >&2; exit 42", &[])).await;
    assert_eq!((ended.code(), ended.result().exit_code), (Code::Ok, 42));
    assert_eq!(server.streams(&ended).await, ("out\n".into(), "err\n".into()));
    let silent = server.succeed(TestAction::new(&["true"])).await;
    assert_eq!(server.streams(&silent).await, (String::new(), String::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_is_an_exit_code_above_128() {
    let server = TestServer::start().await;
    for (signal, expected) in [("KILL", 137), ("TERM", 143), ("SEGV", 139)] {
        let ended = server.run(TestAction::sh(&format!("kill -{signal} $$"), &[])).await;
        assert_eq!((ended.code(), ended.result().exit_code), (Code::Ok, expected), "{signal}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_environment_holds_what_was_given_and_nothing_else() {
    let server = TestServer::start().await;
    let none = server.succeed(TestAction::new(&["env"])).await;
    assert_eq!(server.streams(&none).await.0, "");
    let some = server.succeed(TestAction::new(&["env"]).env("A", "1").env("B", "two words=x")).await;
    let mut lines: Vec<_> = server.streams(&some).await.0.lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["A=1", "B=two words=x"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn standard_input_is_empty() {
    let server = TestServer::start().await;
    let ended = server.succeed(TestAction::new(&["cat"])).await;
    assert_eq!(server.streams(&ended).await.0, "");
}

const SCRIPT: &str = "#!/bin/sh\necho \"$0 in $(basename \"$(pwd)\")\"\n";

#[tokio::test(flavor = "multi_thread")]
async fn tools_are_found_as_the_api_says() {
    let server = TestServer::start().await;
    let with_tool = |argument: &str| {
        TestAction::new(&[argument]).executable("bin/tool", SCRIPT).file("bin/data", "x").directory("work")
    };
    // Relative to the working directory.
    server.succeed(with_tool("bin/tool")).await;
    server.succeed(with_tool("../bin/tool").working_directory("work")).await;
    server.succeed(with_tool("./tool").working_directory("bin")).await;
    // On the PATH that was given, relative folders included.
    server.succeed(with_tool("tool").env("PATH", "nowhere:bin:/bin:/usr/bin")).await;
    server.succeed(with_tool("tool").env("PATH", "../bin:/bin:/usr/bin").working_directory("work")).await;
    // Absolute.
    server.succeed(with_tool("/bin/sh")).await;
    for absent in ["bin/none", "tool", "work", "bin/data", "/no/such/tool"] {
        let refusal = server.refused(with_tool(absent)).await;
        assert_eq!(refusal.code, Code::FailedPrecondition, "{refusal:?}");
        assert!(refusal.message.contains(absent), "{refusal:?}");
    }
    server.assert_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn argv_0_is_what_the_client_wrote() {
    let server = TestServer::start().await;
    let ended = server.succeed(TestAction::new(&["sh", "-c", "echo $0"])).await;
    assert_eq!(server.streams(&ended).await.0, "sh\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_working_directory_is_inside_the_input_root_and_must_exist() {
    let server = TestServer::start().await;
    let action = TestAction::new(&["cat", "../b/file"]).directory("a/empty").file("a/b/file", "content");
    let ended = server.succeed(action.clone().working_directory("a/empty")).await;
    assert_eq!(server.streams(&ended).await.0, "content");
    for wrong in ["absent", "a/b/file", "..", "/tmp", "a/../a", "a/", "./a"] {
        let refusal = server.refused(action.clone().working_directory(wrong)).await;
        assert_eq!(refusal.code, Code::InvalidArgument, "{wrong}: {refusal:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn inputs_are_laid_out_as_described() {
    let server = TestServer::start().await;
    let script =
        "test -x run; test ! -x data; test -d empty; cat data link large | wc -c; readlink link; ./run";
    let action = TestAction::sh(script, &[])
        .executable("run", "#!/bin/sh\necho ran\n")
        .file("data", "12345")
        .file("large", vec![b'x'; 300_000])
        .symlink("link", "data")
        .symlink("dangling", "no/where")
        .directory("empty/child");
    let ended = server.succeed(action).await;
    let text = server.streams(&ended).await.0;
    assert_eq!(text.split_whitespace().collect::<Vec<_>>(), ["300010", "data", "ran"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_action_cannot_change_the_inputs_of_another() {
    let server = TestServer::start().await;
    for size in [10, 300_000] {
        let content = vec![b'a'; size];
        let spoiler = TestAction::sh("echo spoilt > file; rm -f other; echo spoilt > other", &[])
            .file("file", content.clone())
            .file("other", content.clone());
        server.succeed(spoiler).await;
        let reader = TestAction::new(&["cat", "file"]).file("file", content.clone()).do_not_cache();
        let ended = server.succeed(reader).await;
        assert!(server.streams(&ended).await.0.into_bytes() == content);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timeout_ends_the_whole_process_group_and_keeps_what_there_was() {
    let server = TestServer::start().await;
    let pid = server.folder().join("pid");
    let script = "echo before; echo kept > out; sleep 1000 & echo $! > \"$1\"; wait; echo after";
    let action = TestAction::sh(script, &[&pid]).outputs(&["out"]).timeout(Duration::from_secs(1));
    let built = server.upload(action).await;
    let ended = server.execute(&built).await;
    assert_eq!(ended.code(), Code::DeadlineExceeded);
    assert_eq!(server.streams(&ended).await.0, "before\n");
    assert_eq!(server.get(ended.result().output_files[0].digest.as_ref()).await, "kept\n");
    let pid = std::fs::read_to_string(pid).unwrap();
    until("the child of the command is gone", || is_gone(&pid)).await;
    // Not cached: it is tried again.
    let again = server.execute(&built).await;
    assert_eq!((again.code(), again.response.cached_result), (Code::DeadlineExceeded, false));
    server.assert_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_command_leaves_running_goes_with_it() {
    let server = TestServer::start().await;
    let pid = server.folder().join("pid");
    let ended = server.succeed(TestAction::sh("sleep 1000 & echo $! > \"$1\"; echo over", &[&pid])).await;
    assert_eq!(server.streams(&ended).await.0, "over\n");
    let pid = std::fs::read_to_string(pid).unwrap();
    until("the child of the command is gone", || is_gone(&pid)).await;
}

/// When the machine runs out of memory the kernel shall end the action and not the worker. Without a sandbox that is said
/// of the process when it runs already.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn an_action_goes_before_its_worker() {
    let server = TestServer::start().await;
    let own: i32 = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap().trim().parse().unwrap();
    let expected = (own + 500).min(1000);
    let script = format!("until test $(cat /proc/self/oom_score_adj) = {expected}; do :; done");
    server.succeed(TestAction::sh(&script, &[]).timeout(Duration::from_secs(60))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn timeouts_above_the_limit_are_refused_and_zero_means_none() {
    let max = Duration::from_secs(100);
    let server = TestServer::with(|config| config.worker.limits.action_timeout_max = max).await;
    let action = TestAction::new(&["true"]);
    for timeout in [Duration::ZERO, Duration::from_secs(100)] {
        server.succeed(action.clone().timeout(timeout)).await;
    }
    let refusal = server.refused(action.timeout(max + Duration::from_nanos(1))).await;
    assert_eq!(refusal.code, Code::InvalidArgument);
    assert!(refusal.message.contains("action_timeout_max"), "{refusal:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_own_timeout_holds_when_none_is_asked_for() {
    let max = Duration::from_secs(1);
    let server = TestServer::with(|config| config.worker.limits.action_timeout_max = max).await;
    let refusal = server.refused(TestAction::new(&["sleep", "1000"])).await;
    assert_eq!(refusal.code, Code::DeadlineExceeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_output_than_the_limit_is_refused() {
    let server = TestServer::with(|config| config.worker.limits.stdout_bytes_max = 10_000).await;
    for script in ["cat /dev/zero", "cat /dev/zero >&2"] {
        let ended = server.run(TestAction::sh(script, &[])).await;
        let refusal = ended.refusal().unwrap_or_else(|| panic!("{script} went through"));
        assert_eq!(refusal.code, Code::ResourceExhausted, "{script}");
        assert!(refusal.message.contains("stdout_bytes_max"), "{refusal:?}");
    }
    // It may well have ended before the worker read any of it.
    for _ in 0..20 {
        let action = TestAction::new(&["head", "-c", "10001", "/dev/zero"]).do_not_cache();
        assert_eq!(server.refused(action).await.code, Code::ResourceExhausted);
    }
    let ended =
        server.succeed(TestAction::sh("head -c 10000 /dev/zero; head -c 10000 /dev/zero >&2", &[])).await;
    let (stdout, stderr) = server.streams(&ended).await;
    assert_eq!((stdout.len(), stderr.len()), (10_000, 10_000));
    server.assert_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn native_actions_can_be_turned_off() {
    let server = TestServer::with(|config| config.worker.native = false).await;
    let refusal = server.refused(TestAction::new(&["echo"])).await;
    assert_eq!(refusal.code, Code::FailedPrecondition);
    assert!(refusal.message.contains("worker.native"), "{refusal:?}");
    let refusal =
        server.refused(TestAction::new(&["echo"]).platform(&[("OSFamily", std::env::consts::OS)])).await;
    assert_eq!(refusal.code, Code::FailedPrecondition);
    server.succeed(TestAction::wasm("hello", &[])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_action_locked_up_is_removed_all_the_same() {
    let server = TestServer::start().await;
    let script = "mkdir -p a/b; touch a/b/c; chmod 000 a/b/c a/b a; mkdir ro; touch ro/f; chmod 555 ro";
    server.succeed(TestAction::sh(script, &[])).await;
    server.assert_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_actions_run_through_few_slots() {
    let server = TestServer::start().await;
    let runs = (0..40).map(|i| {
        let action = TestAction::new(&["cat", "number"]).file("number", i.to_string());
        async { server.streams(&server.succeed(action).await).await.0 }
    });
    let texts = futures::future::join_all(runs).await;
    assert_eq!(texts, (0..40).map(|i| i.to_string()).collect::<Vec<_>>());
    assert!(Path::new(&server.staged()).is_dir());
    server.assert_unharmed().await;
}
