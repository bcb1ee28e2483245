//! Starting, stopping, and starting again on the same folder.

use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use wardian_proto::reapi::execution_stage::Value as Stage;
use wardian_server::app::Server;
use wardian_server::config::Config;
use wardian_tests::{TestAction, TestServer, bytes_of, soon, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_lets_running_actions_finish_and_tells_their_clients() {
    let mut server = TestServer::start().await;
    let (started, go) = (server.folder().join("started"), server.folder().join("go"));
    let script = "echo > \"$1\"; until [ -e \"$2\" ]; do sleep 0.02; done; echo finished | tee out";
    let action = TestAction::sh(script, &[&started, &go]).outputs(&["out"]);
    let mut following = server.begin(action).await;
    following.until_stage(Stage::Executing).await;
    until("the command runs", || started.exists()).await;
    let refused = server.upload(TestAction::new(&["echo", "too late"])).await;

    let shutdown = tokio::spawn(server.take_server().shutdown());
    let health = server.health();
    let draining = async || {
        let health = health.clone().check(HealthCheckRequest::default()).await;
        health.is_ok_and(|response| response.into_inner().status().as_str_name() != "SERVING")
    };
    soon("the news of the shutdown", async { while !draining().await {} }).await;
    let status = server.follow(refused.request()).await.err().expect("no new actions are taken in");
    assert_eq!(status.code(), Code::Unavailable);

    std::fs::write(&go, "").unwrap();
    let ended = following.ended().await.unwrap();
    assert_eq!((ended.code(), ended.result().exit_code), (Code::Ok, 0));
    assert_eq!(ended.result().output_files.len(), 1);
    soon("the end of the shutdown", shutdown).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_without_a_journal_gives_up_what_is_queued() {
    let mut server = TestServer::with(|config| {
        config.worker.slots = 1;
        config.journal = false;
    })
    .await;
    let (go, ran) = (server.folder().join("go"), server.folder().join("ran"));
    let mut running = server.begin(TestAction::sh("until [ -e \"$1\" ]; do sleep 0.02; done", &[&go])).await;
    running.until_stage(Stage::Executing).await;
    let mut queued = server.begin(TestAction::sh("echo > \"$1\"", &[&ran])).await;
    queued.until_stage(Stage::Queued).await;
    let shutdown = tokio::spawn(server.take_server().shutdown());
    // Told at once, not when the last running action has ended.
    assert_eq!(queued.ended().await.unwrap().code(), Code::Unavailable);
    std::fs::write(&go, "").unwrap();
    assert_eq!(running.ended().await.unwrap().code(), Code::Ok);
    soon("the end of the shutdown", shutdown).await.unwrap().unwrap();
    assert!(!ran.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_and_results_survive_a_restart() {
    let server = TestServer::start().await;
    let (small, large) = (server.put("small").await, server.put(bytes_of(500_000, 1)).await);
    let action =
        TestAction::sh("echo text > out; head -c 100000 /dev/zero > big", &[]).outputs(&["big", "out"]);
    let first = server.succeed(action.clone()).await;
    let guest = server.succeed(TestAction::wasm("hello", &[])).await;
    let operation = first.name().to_owned();

    let server = TestServer::on(server.shutdown().await, |_| {}).await;
    assert!(server.has(small).await && server.has(large).await);
    assert!(server.get(Some(&large.to_wire())).await == bytes_of(500_000, 1));
    let second = server.succeed(action).await;
    assert!(second.response.cached_result);
    assert_eq!(second.result(), first.result());
    let again = server.succeed(TestAction::wasm("hello", &[])).await;
    assert!(again.response.cached_result);
    assert_eq!(again.result(), guest.result());
    // So do operations, by their names.
    let known = server.wait_execution(&operation).await.unwrap().ended().await.unwrap();
    assert_eq!(known.response, first.response);
}

#[tokio::test(flavor = "multi_thread")]
async fn leftovers_of_a_crash_are_swept() {
    let server = TestServer::start().await;
    let folder = server.shutdown().await;
    let staged = folder.path().join("data/worker/staged/action-left");
    std::fs::create_dir_all(staged.join("deep/er")).unwrap();
    std::fs::write(staged.join("deep/file"), "x").unwrap();
    std::fs::write(folder.path().join("data/store/incoming/left"), "half a blob").unwrap();
    let server = TestServer::on(folder, |_| {}).await;
    server.assert_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_and_a_port_serve_one_server_at_a_time() {
    let server = TestServer::start().await;
    let config =
        Config { listen: server.address(), data: server.folder().join("other"), ..Config::default() };
    let error = Server::start(config).await.err().expect("the port is taken");
    assert!(format!("{error:#}").contains(&server.address().to_string()), "{error:#}");
    let listen = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let config = Config { listen, data: server.folder().join("data"), ..Config::default() };
    let error = Server::start(config).await.err().expect("the folder is in use");
    assert!(format!("{error:#}").contains("another server"), "{error:#}");
    server.assert_unharmed().await;
}
