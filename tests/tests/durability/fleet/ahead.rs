//! Workers that have their next action before they can begin it, and what becomes of that when something else happens.

use std::path::PathBuf;

use prost::Message as _;
use rustix::process::Signal;
use wardian_proto::reapi::execution_stage::Value as Stage;
use wardian_proto::wardian::Waiting;
use wardian_proto::wardian::set_worker_request::Change;
use wardian_tests::{Following, get, metadata, soon, until, wait_until};

use super::control::{operation, set};
use super::{Fleet, assert_succeeded, follow, ran_on, waits_for};

/// Two actions that say when they have begun, and end when they are told.
struct Pair {
    started: [PathBuf; 2],
    go: [PathBuf; 2],
    following: [Following; 2],
}

/// A worker of one slot that runs the first of two actions and has the other one ahead.
async fn one_ahead(fleet: &mut Fleet) -> Pair {
    fleet.add_worker_with("w0", &["--slots", "1"]);
    fleet.until_connected(1).await;
    let started = ["started0", "started1"].map(|name| fleet.path(name));
    let go = ["go0", "go1"].map(|name| fleet.path(name));
    let mut first = fleet.server.begin(&waits_for(&started[0], &go[0]).build()).await;
    first.next().await.unwrap();
    wait_until("the first one runs", async || started[0].exists()).await;
    let mut second = fleet.server.begin(&waits_for(&started[1], &go[1]).build()).await;
    second.next().await.unwrap();
    wait_until("the second one is ahead", async || fleet.states().await[0].ahead == 1).await;
    assert_eq!(fleet.states().await[0].running, 1);
    Pair { started, go, following: [first, second] }
}

async fn counted(fleet: &Fleet, lines: &[&str]) {
    let numbers = get(fleet.server.address, "/metrics").await;
    for line in lines {
        assert!(numbers.lines().any(|other| other == *line), "{line} in {numbers}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_joins_gets_what_a_busy_one_has_not_begun() {
    let mut fleet = Fleet::start(0);
    let Pair { started, go, following: [first, second] } = one_ahead(&mut fleet).await;
    let waits = metadata(&operation(&fleet, &second).await);
    assert_eq!(waits.stage(), Stage::Queued);
    let partial = waits.partial_execution_metadata.unwrap();
    let why = Waiting::decode(&*partial.auxiliary_metadata[0].value).unwrap();
    assert_eq!((why.reason.as_str(), why.attempts.len()), ("given to worker w0, which is busy", 0));
    counted(&fleet, &["wardian_queue_queued_runs 1", "wardian_queue_running_runs 1"]).await;

    fleet.add_worker_with("w1", &["--slots", "1"]);
    wait_until("the new one runs it", async || started[1].exists()).await;
    std::fs::write(&go[1], "").unwrap();
    let ended = second.ended().await.unwrap();
    assert_succeeded(&ended);
    assert_eq!(ran_on(&ended), "w1");
    counted(
        &fleet,
        &[
            "wardian_runs_given_ahead_total 1",
            "wardian_runs_taken_back_total 1",
            r#"wardian_runs_interrupted_total{reason="returned"} 0"#,
        ],
    )
    .await;
    std::fs::write(&go[0], "").unwrap();
    let ended = first.ended().await.unwrap();
    assert_succeeded(&ended);
    assert_eq!(ran_on(&ended), "w0");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_worker_had_ahead_was_not_started() {
    let mut fleet = Fleet::start(0);
    let Pair { started, go, following } = one_ahead(&mut fleet).await;
    fleet.workers[0].process.signal(Signal::KILL);
    wait_until("it is lost", async || fleet.states().await.is_empty()).await;
    std::fs::remove_file(&started[0]).unwrap();
    assert!(!started[1].exists());
    fleet.add_worker_with("w1", &["--slots", "2"]);
    wait_until("both run", async || started.iter().all(|started| started.exists())).await;
    counted(&fleet, &[r#"wardian_runs_interrupted_total{reason="silent"} 1"#]).await;
    for (go, following) in go.iter().zip(following) {
        std::fs::write(go, "").unwrap();
        let ended = following.ended().await.unwrap();
        assert_succeeded(&ended);
        assert_eq!(ran_on(&ended), "w1");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_worker_has_and_has_not_begun_survives_a_restart_of_its_server() {
    let mut fleet = Fleet::start(0);
    let Pair { started, go, following } = one_ahead(&mut fleet).await;
    let names = following.each_ref().map(Following::name);
    // Once with both where they are.
    fleet.restart_server();
    fleet.until_connected(1).await;
    wait_until("both are known again", async || {
        let state = fleet.states().await.remove(0);
        (state.running, state.ahead) == (1, 1)
    })
    .await;
    let mut first = follow(&fleet.server, &names[0]).await.unwrap();
    soon("the worker's report", first.until_stage(Stage::Executing)).await;
    // Once more, and the first one ends meanwhile.
    std::fs::remove_file(&started[0]).unwrap();
    fleet.server.process.kill();
    std::fs::write(&go[0], "").unwrap();
    fleet.restart_server();
    let first = follow(&fleet.server, &names[0]).await.unwrap().ended().await.unwrap();
    let mut second = follow(&fleet.server, &names[1]).await.unwrap();
    soon("the worker's report", second.until_stage(Stage::Executing)).await;
    wait_until("the second one runs", async || started[1].exists()).await;
    std::fs::write(&go[1], "").unwrap();
    for ended in [first, second.ended().await.unwrap()] {
        assert_succeeded(&ended);
        assert_eq!(ran_on(&ended), "w0");
    }
    assert!(!started[0].exists(), "its one run was enough");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_paused_or_leaves_has_nothing_ahead() {
    let mut fleet = Fleet::start(0);
    let Pair { started, go, following: [first, second] } = one_ahead(&mut fleet).await;
    set(&fleet, "w0", Change::Pause).await;
    wait_until("it gives it back", async || fleet.states().await[0].ahead == 0).await;
    assert_eq!(metadata(&operation(&fleet, &second).await).stage(), Stage::Queued);
    set(&fleet, "w0", Change::Drain).await;
    fleet.add_worker_with("w1", &["--slots", "1"]);
    wait_until("the other one runs it", async || started[1].exists()).await;
    for (go, following, worker) in [(&go[1], second, "w1"), (&go[0], first, "w0")] {
        std::fs::write(go, "").unwrap();
        let ended = following.ended().await.unwrap();
        assert_succeeded(&ended);
        assert_eq!(ran_on(&ended), worker);
    }
    until("it has left", || fleet.workers[0].process.ended().is_some()).await;
}
