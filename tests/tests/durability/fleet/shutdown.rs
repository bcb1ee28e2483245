//! A server that is told to end while workers elsewhere run something, and has no journal for the next process to read.

use rustix::process::Signal;
use wardian_proto::reapi::execution_client::ExecutionClient;
use wardian_tests::{TestAction, until, wait_until};

use super::{Fleet, assert_succeeded, ran_on, waits_for};

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_a_journal_waits_for_what_workers_elsewhere_run() {
    let settings = "[scheduler]\njournal = false\n[worker]\nslots = 0\n";
    let mut fleet = Fleet::with(1, settings);
    fleet.until_connected(1).await;
    let (started, go) = (fleet.path("started"), fleet.path("go"));
    let running = fleet.server.begin(&waits_for(&started, &go).build()).await;
    wait_until("the command runs", async || started.exists()).await;
    // Not one that is answered from the action cache, if it comes early enough to be run.
    let late = TestAction::new(&["true"]).do_not_cache().build();
    super::upload(&fleet.server, &late).await.unwrap();
    let client = ExecutionClient::new(fleet.server.channel().await);
    fleet.server.process.signal(Signal::TERM);
    let refused = async || client.clone().execute(late.request()).await.is_err();
    wait_until("it takes nothing more", refused).await;
    std::fs::write(&go, "").unwrap();
    let ended = running.ended().await.unwrap();
    assert_succeeded(&ended);
    assert_eq!(ran_on(&ended), "w0");
    until("the server has ended", || fleet.server.process.ended().is_some()).await;
    assert!(fleet.server.process.ended().unwrap().success());
}
