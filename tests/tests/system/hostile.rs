//! Guests that mean harm. After each of them the server is as good as before.

use std::time::Duration;

use bytes::Bytes;
use tonic::Code;
use wardian_server::config::Config;
use wardian_tests::{Ended, Refusal, TestAction, TestServer, component_of, digest, guest, soon};

const MIB: usize = 1 << 20;

fn small_limits(config: &mut Config) {
    // One slot: whatever hangs would be noticed.
    config.worker.slots = 1;
    config.worker.limits.wasm_memory_bytes_max = 64 * MIB;
    config.worker.limits.wasm_table_elements_max = 1_000_000;
    config.worker.limits.wasm_handles_max = 500;
    config.worker.limits.stdout_bytes_max = MIB;
}

/// Runs a guest that must not finish, then checks that the server is unharmed.
async fn stopped(tool: Bytes, timeout: Duration) -> (Ended, Refusal) {
    let server = TestServer::with(small_limits).await;
    let action = TestAction::wasm_tool(tool, &[]).timeout(timeout);
    let ended = soon("the end of a hostile guest", server.run(action)).await;
    let refusal = ended.refusal().unwrap_or_else(|| panic!("the guest got through: {:?}", ended.response));
    soon("a sign of life", server.assert_unharmed()).await;
    (ended, refusal)
}

async fn exhausts(tool: Bytes, limit: &str) {
    let (_, refusal) = stopped(tool, Duration::from_secs(60)).await;
    assert_eq!(refusal.code, Code::ResourceExhausted, "{refusal:?}");
    assert!(refusal.message.contains(limit), "{refusal:?}");
}

async fn times_out(tool: Bytes) {
    let (ended, refusal) = stopped(tool, Duration::from_secs(1)).await;
    assert_eq!(refusal.code, Code::DeadlineExceeded, "{refusal:?}");
    assert!(!ended.response.cached_result);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_loop_is_stopped() {
    times_out(guest("loop")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_loop_in_a_component_is_stopped() {
    times_out(component_of("loop")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sleep_of_centuries_is_stopped() {
    times_out(guest("sleep")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sleep_on_two_clocks_is_stopped() {
    times_out(guest("sleep-on-two")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sleep_in_a_component_is_stopped() {
    times_out(component_of("sleep")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_memory_eater_is_stopped() {
    exhausts(guest("memory"), "wasm_memory_bytes_max").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_memory_eater_in_a_component_is_stopped() {
    exhausts(component_of("memory"), "wasm_memory_bytes_max").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_memories_share_one_limit() {
    exhausts(guest("memories"), "wasm_memory_bytes_max").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_module_that_starts_too_large_is_refused() {
    let module = r#"(module (memory (export "memory") 2000) (func (export "_start")))"#;
    exhausts(wat::parse_str(module).unwrap().into(), "wasm_memory_bytes_max").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_eater_is_stopped() {
    exhausts(guest("table"), "wasm_table_elements_max").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_standard_output_is_stopped() {
    exhausts(guest("stdout"), "stdout_bytes_max").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_standard_error_is_stopped() {
    exhausts(guest("stderr"), "stdout_bytes_max").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_output_of_a_component_is_stopped() {
    exhausts(component_of("stdout"), "stdout_bytes_max").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_used_up_stack_is_a_trap() {
    let server = TestServer::with(small_limits).await;
    let ended = server.run(TestAction::wasm("recursion", &[])).await;
    assert_eq!((ended.code(), ended.result().exit_code), (Code::Ok, 134));
    let stderr = server.streams(&ended).await.1;
    assert!(stderr.contains("stack"), "{stderr}");
    server.assert_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hoarder_of_descriptors_is_stopped() {
    exhausts(guest("descriptors"), "wasm_handles_max").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hoarder_of_descriptors_in_a_component_is_stopped() {
    // The adapter inside the component has a table of its own, which is full first.
    let server = TestServer::with(small_limits).await;
    let ended = server.run(TestAction::wasm_tool(component_of("descriptors"), &[])).await;
    assert_ne!((ended.code(), ended.result().exit_code), (Code::Ok, 0), "it had 100000 directories open");
    server.assert_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_heap_of_garbage_collected_objects_is_stopped() {
    exhausts(guest("garbage"), "wasm_memory_bytes_max").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_that_a_guest_did_not_get_is_not_counted() {
    let server = TestServer::with(small_limits).await;
    server.succeed(TestAction::wasm("own-maximum", &[])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_no_shared_memory() {
    // Waiting on it could not be interrupted. A module that has some fails when it is instantiated.
    let server = TestServer::with(small_limits).await;
    let ended = server.run(TestAction::wasm("shared-memory", &[])).await;
    assert_eq!((ended.code(), ended.result().exit_code), (Code::Ok, 134));
    let stderr = server.streams(&ended).await.1;
    assert!(stderr.contains("shared memor"), "{stderr}");
    server.assert_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_is_given_the_input_root_and_the_working_directory_only() {
    let server = TestServer::start().await;
    let ended = server.succeed(TestAction::wasm("preopens", &[])).await;
    assert_eq!(server.streams(&ended).await.0, "/\n.\n");
}

const SECRET: &str = "the secret beside the data folder";

/// Tries to read the secret through a path and expects nothing of it to come back.
async fn reads_nothing(server: &TestServer, action: TestAction) {
    let ended = server.run(action).await;
    let (stdout, stderr) = server.streams(&ended).await;
    assert_ne!(ended.result().exit_code, 0, "{stdout}");
    assert!(
        !stdout.contains("secret") && !stderr.contains("secret") && !stdout.contains("root:"),
        "{stdout}"
    );
}

/// Paths that would lead from an input root to the secret, were they not stopped.
fn ways_out(server: &TestServer) -> Vec<String> {
    let secret = server.folder().join("secret");
    std::fs::write(&secret, SECRET).unwrap();
    let absolute = secret.to_str().unwrap().to_owned();
    // An input root is `data/worker/staged/X`.
    let relative =
        ["../../../../secret", "sub/../../../../../secret", "./../../../../secret"].map(str::to_owned);
    let climbing = format!("{}{absolute}", "../".repeat(30).trim_end_matches('/'));
    [&relative[..], &[absolute, climbing, "/etc/passwd".into(), "../".repeat(30) + "etc/passwd"]].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_out_of_the_input_root_read_nothing() {
    let server = TestServer::start().await;
    for path in ways_out(&server) {
        for tool in [guest("cat"), component_of("cat")] {
            reads_nothing(&server, TestAction::wasm_tool(tool, &[&path]).directory("sub")).await;
        }
        let from_below = TestAction::wasm("cat", &[&path]).directory("sub/sub").working_directory("sub");
        let mut from_below = from_below;
        from_below.command.arguments[0] = "../bin/tool".into();
        reads_nothing(&server, from_below).await;
    }
    server.assert_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn links_out_of_the_input_root_read_nothing() {
    let server = TestServer::start().await;
    for path in ways_out(&server) {
        // A link among the inputs.
        let (folder, name) = path.rsplit_once('/').unwrap();
        for tool in [guest("cat"), component_of("cat")] {
            let action =
                TestAction::wasm_tool(tool.clone(), &["link"]).symlink("link", &path).directory("sub");
            reads_nothing(&server, action).await;
            let below = format!("link/{name}");
            let action = TestAction::wasm_tool(tool, &[&below]).symlink("link", folder).directory("sub");
            reads_nothing(&server, action).await;
        }
        // A link that the guest makes itself.
        for tool in [guest("symlink-and-cat"), component_of("symlink-and-cat")] {
            reads_nothing(&server, TestAction::wasm_tool(tool, &[&path]).directory("sub")).await;
        }
    }
    assert!(!server.has(digest(SECRET.as_bytes())).await);
    server.assert_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_out_of_the_input_root_write_nothing() {
    let server = TestServer::start().await;
    let target = server.folder().join("planted");
    let absolute = target.to_str().unwrap();
    for path in ["../../../../planted", "sub/../../../../../planted", absolute, "link/planted"] {
        let action = TestAction::wasm("copy", &["from", path])
            .file("from", "planted")
            .directory("sub")
            .symlink("link", "../../../..");
        let ended = server.run(action).await;
        assert_ne!(ended.result().exit_code, 0, "{path}");
        assert!(!target.exists(), "{path}");
    }
    server.assert_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_behind_a_link_out_of_the_input_root_is_not_found() {
    let server = TestServer::start().await;
    std::fs::write(server.folder().join("secret"), guest("hello")).unwrap();
    let mut action = TestAction::wasm("hello", &[]).symlink("link", "../../../../secret");
    action.command.arguments[0] = "link".into();
    assert_eq!(server.refused(action).await.code, Code::FailedPrecondition);
    server.assert_unharmed().await;
}
