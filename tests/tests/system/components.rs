//! Preview-2 components: each in a process of its own, with the clocks and random bytes that modules have.

use std::fs;
use std::time::Duration;

use tonic::Code;
use wardian_proto::longrunning::CancelOperationRequest;
use wardian_proto::longrunning::operations_client::OperationsClient;
use wardian_proto::reapi::execution_stage::Value as Stage;
use wardian_tests::{ServerProcess, TestAction, TestServer, component_of, guest, until, wardian};

/// Where the clocks and the random bytes are in what the guest `look` prints. What follows is of the file system.
const TIMES: usize = 32;
const RANDOM: std::ops::Range<usize> = 48..80;

fn looking(properties: &[(&str, &str)]) -> TestAction {
    let properties = [&[("OSFamily", "wasi")], properties].concat();
    TestAction::wasm_tool(component_of("look"), &["in"])
        .file("in", "content")
        .platform(&properties)
        .do_not_cache()
}

async fn printed(server: &TestServer, action: TestAction) -> bytes::Bytes {
    let ended = server.succeed(action).await;
    server.get(ended.result().stdout_digest.as_ref()).await
}

fn number(bytes: &[u8], index: usize) -> u64 {
    u64::from_le_bytes(bytes[8 * index..8 * (index + 1)].try_into().expect("eight bytes"))
}

#[tokio::test(flavor = "multi_thread")]
async fn clocks_and_random_bytes_are_the_same_in_every_run() {
    let server = TestServer::start().await;
    let first = printed(&server, looking(&[])).await;
    assert_eq!(number(&first, 0), 946_684_800_000_000_000);
    assert_eq!(number(&first, 3), number(&first, 0));
    assert_eq!(number(&first, 2) - number(&first, 1), 1_000);
    for _ in 0..20 {
        assert_eq!(printed(&server, looking(&[])).await[..RANDOM.end], first[..RANDOM.end]);
    }
    let real = printed(&server, looking(&[("wasi-clock", "real")])).await;
    assert!(number(&real, 0) > 1_700_000_000_000_000_000, "{}", number(&real, 0));
    let other = printed(&server, looking(&[("wasi-random", "system")])).await;
    assert_eq!(other[..TIMES], first[..TIMES]);
    assert_ne!(other[RANDOM], first[RANDOM]);
    assert_ne!(printed(&server, looking(&[("wasi-random", "system")])).await[RANDOM], other[RANDOM]);
}

#[tokio::test(flavor = "multi_thread")]
async fn sleeping_takes_no_time_on_the_fixed_clock() {
    let server = TestServer::start().await;
    for tool in [guest("nap"), component_of("nap")] {
        let slept = printed(&server, TestAction::wasm_tool(tool, &[])).await;
        let (slept, half_an_hour) = (number(&slept, 0), 1_800_000_000_000);
        assert!((half_an_hour..half_an_hour + 1_000_000).contains(&slept), "{slept}");
    }
    // Who sleeps longer than the action may run has timed out, and need not wait for it either.
    let hours = TestAction::wasm_tool(component_of("sleep"), &[]);
    assert_eq!(server.run(hours).await.code(), Code::DeadlineExceeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_larger_than_all_a_guest_may_write_is_refused() {
    let server = TestServer::start().await;
    let action = TestAction::wasm_tool(component_of("copy"), &["in", "out"])
        .file("in", vec![1; 300_000])
        .outputs(&["out"])
        .platform(&[("OSFamily", "wasi"), ("wasm-workspace-bytes", "100000")]);
    let refusal = server.refused(action).await;
    assert_eq!(refusal.code, Code::ResourceExhausted);
    assert!(refusal.message.contains("wasm_workspace_bytes_max is 100000"), "{refusal:?}");
    server.assert_unharmed().await;
}

/// The processes that a process has started to run components.
pub(crate) fn components_of(parent: u32) -> Vec<u32> {
    let is_one = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|word| word == b"run-component")
            && status.lines().any(|line| line == format!("PPid:\t{parent}"))
    };
    let names = fs::read_dir("/proc").expect("Linux").flatten();
    names.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_one).collect()
}

async fn looping(server: &ServerProcess) -> (u32, wardian_tests::Following) {
    let action = TestAction::wasm_tool(component_of("loop"), &[]).do_not_cache();
    let mut running = server.begin(&action.build()).await;
    running.until_stage(Stage::Executing).await;
    let parent = server.process.id();
    until("the component runs", || !components_of(parent).is_empty()).await;
    (components_of(parent)[0], running)
}

fn is_gone(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.is_empty() || status.contains("State:\tZ")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_process_has_given_up_its_rights_and_ends_with_the_action() {
    let folder = tempfile::tempdir().unwrap();
    let settings = "[worker.limits]\nwasm_workspace_bytes_max = 123456789\nwasm_handles_max = 100\n";
    let server = ServerProcess::start(&wardian(), folder.path(), settings).unwrap();
    let (pid, running) = looping(&server).await;
    let limit = |name: &str| {
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).expect("Linux tells it");
        line.split_whitespace().next().expect("a soft limit").to_owned()
    };
    // The last of them is set after the others.
    until("it has given up its rights", || limit("Max open files") == "164").await;
    assert_eq!(limit("Max file size"), "123456789");
    assert_eq!(limit("Max core file size"), "0");
    assert_ne!(limit("Max data size"), "unlimited");
    assert_ne!(limit("Max cpu time"), "unlimited");
    // Landlock begins with this, where the kernel has it.
    until("it can get no rights any more", || {
        fs::read_to_string(format!("/proc/{pid}/status")).unwrap().contains("NoNewPrivs:\t1")
    })
    .await;
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap();
    assert!(environment.is_empty(), "{environment:?}");

    let name = running.name();
    let mut operations = OperationsClient::new(server.channel().await);
    operations.cancel_operation(CancelOperationRequest { name }).await.unwrap();
    assert_eq!(running.ended().await.unwrap().code(), Code::Cancelled);
    until("the process is gone", || is_gone(pid)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_process_ends_with_the_worker_however_that_ended() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = ServerProcess::start(&wardian(), folder.path(), "").unwrap();
    let (pid, _running) = looping(&server).await;
    server.process.kill();
    until("the process is gone", || is_gone(pid)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_component_wrote_before_its_timeout_is_kept() {
    let server = TestServer::start().await;
    let action = TestAction::wasm_tool(component_of("stdout"), &[])
        .timeout(Duration::from_secs(60))
        .platform(&[("OSFamily", "wasi"), ("wasm-stdout-bytes", "5000")]);
    let ended = server.run(action).await;
    assert_eq!(ended.code(), Code::ResourceExhausted);
    assert_eq!(server.streams(&ended).await.0.len(), 5000);
}
