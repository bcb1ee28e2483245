//! What an operator does with workers: pauses, resumes and drains them, and says how much memory they have.

use prost::Message as _;
use wardian_proto::longrunning::operations_client::OperationsClient;
use wardian_proto::longrunning::{CancelOperationRequest, GetOperationRequest, Operation};
use wardian_proto::reapi::execution_stage::Value as Stage;
use wardian_proto::wardian::set_worker_request::Change;
use wardian_proto::wardian::workers_client::WorkersClient;
use wardian_proto::wardian::{SetWorkerRequest, Waiting, WorkerState};
use wardian_tests::{Following, TestAction, get, metadata, until, wait_until};

use super::{Fleet, assert_succeeded, ran_on, waits_for};

pub(super) async fn set(fleet: &Fleet, name: &str, change: Change) {
    let mut workers = WorkersClient::new(fleet.server.channel().await);
    let request = SetWorkerRequest { name: name.into(), change: change.into() };
    workers.set_worker(request).await.unwrap();
}

async fn only(fleet: &Fleet) -> WorkerState {
    let mut states = fleet.states().await;
    assert_eq!(states.len(), 1, "{states:?}");
    states.remove(0)
}

pub(super) async fn operation(fleet: &Fleet, following: &Following) -> Operation {
    let mut operations = OperationsClient::new(fleet.server.channel().await);
    operations.get_operation(GetOperationRequest { name: following.name() }).await.unwrap().into_inner()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_can_be_paused_resumed_and_drained() {
    let mut fleet = Fleet::start(1);
    fleet.until_connected(1).await;
    let (started, go) = (fleet.path("started"), fleet.path("go"));
    let running = fleet.server.begin(&waits_for(&started, &go).build()).await;
    wait_until("the command runs", async || started.exists()).await;

    set(&fleet, "w0", Change::Pause).await;
    let mut waits = fleet.server.begin(&TestAction::new(&["echo", "later"]).build()).await;
    waits.until_stage(Stage::Queued).await;
    // What it has it brings to its end, and it gets nothing for the slots that are free then.
    std::fs::write(&go, "").unwrap();
    assert_succeeded(&running.ended().await.unwrap());
    let paused = only(&fleet).await;
    assert!(paused.paused && paused.connected && paused.running == 0, "{paused:?}");
    assert_eq!(metadata(&operation(&fleet, &waits).await).stage(), Stage::Queued);
    let numbers = get(fleet.server.address, "/metrics").await;
    assert!(numbers.contains(r#"wardian_workers{kind="elsewhere",state="paused"} 1"#), "{numbers}");
    // A worker that was paused is so still when it comes back.
    fleet.workers[0].process.kill();
    let folder = fleet.path("w0");
    fleet.workers[0] = super::worker(&folder, fleet.server.address, "w0");
    fleet.until_connected(1).await;
    assert!(only(&fleet).await.paused);
    assert_eq!(metadata(&operation(&fleet, &waits).await).stage(), Stage::Queued);
    set(&fleet, "w0", Change::Resume).await;
    assert_eq!(ran_on(&waits.ended().await.unwrap()), "w0");

    let (started, go) = (fleet.path("started again"), fleet.path("go again"));
    let running = fleet.server.begin(&waits_for(&started, &go).build()).await;
    wait_until("the command runs", async || started.exists()).await;
    set(&fleet, "w0", Change::Drain).await;
    wait_until("it leaves", async || only(&fleet).await.offer.is_some_and(|offer| offer.leaving)).await;
    let later = fleet.server.begin(&TestAction::new(&["echo", "by another"]).build()).await;
    assert!(fleet.workers[0].process.ended().is_none(), "it ends what it has");
    std::fs::write(&go, "").unwrap();
    let ended = running.ended().await.unwrap();
    assert_succeeded(&ended);
    assert_eq!(ran_on(&ended), "w0");
    until("it has ended", || fleet.workers[0].process.ended().is_some()).await;
    assert!(fleet.workers[0].process.ended().unwrap().success());
    wait_until("it is gone", async || fleet.states().await.is_empty()).await;
    fleet.add_worker("w1");
    assert_eq!(ran_on(&later.ended().await.unwrap()), "w1");
}

/// A guest that runs until it is cancelled, and says how much memory it needs.
fn guest(number: &str) -> TestAction {
    TestAction::wasm("loop", &[number]).platform(&[("OSFamily", "wasi"), ("wasm-memory", "2000000")])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_gets_no_more_than_its_memory_holds() {
    let mut fleet = Fleet::start(0);
    fleet.add_worker_with("w0", &["--memory", "3000000"]);
    fleet.until_connected(1).await;
    let mut first = fleet.server.begin(&guest("1").build()).await;
    first.until_stage(Stage::Executing).await;
    let mut second = fleet.server.begin(&guest("2").build()).await;
    second.until_stage(Stage::Queued).await;
    // What says nothing of memory takes the slot that is free.
    assert_succeeded(&fleet.server.execute(&TestAction::new(&["true"]).build()).await);
    let state = only(&fleet).await;
    assert_eq!(state.memory_used_bytes, 2_000_000);
    assert_eq!(state.offer.unwrap().memory_bytes, Some(3_000_000));
    let partial = metadata(&operation(&fleet, &second).await).partial_execution_metadata.unwrap();
    let why = Waiting::decode(&*partial.auxiliary_metadata[0].value).unwrap().reason;
    assert_eq!(why, "needs 2000000 bytes of memory; no worker has more than 1000000 free");

    let mut operations = OperationsClient::new(fleet.server.channel().await);
    let mut cancel = async |following: &Following| {
        let request = CancelOperationRequest { name: following.name() };
        operations.cancel_operation(request).await.unwrap();
    };
    cancel(&first).await;
    second.until_stage(Stage::Executing).await;
    cancel(&second).await;
    assert_eq!(second.ended().await.unwrap().code(), tonic::Code::Cancelled);
}
