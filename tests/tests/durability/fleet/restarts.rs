//! A server that is killed, and finds its operations again.

use wardian_proto::reapi::execution_stage::Value as Stage;
use wardian_tests::{TestAction, soon, until, wait_until};

use super::{Fleet, assert_succeeded, follow, ran_on, waits_for};

#[tokio::test(flavor = "multi_thread")]
async fn queued_and_running_operations_survive_their_server() {
    let mut fleet = Fleet::start(1);
    fleet.until_connected(1).await;
    let ended_before = fleet.server.execute(&TestAction::new(&["echo", "before"]).build()).await;
    let gos = ["go0", "go1", "go2"].map(|name| fleet.path(name));
    let starts = ["started0", "started1", "started2"].map(|name| fleet.path(name));
    let mut names = Vec::new();
    // Two slots: the third one waits.
    for (started, go) in starts.iter().zip(&gos) {
        let mut following = fleet.server.begin(&waits_for(started, go).build()).await;
        following.next().await.unwrap();
        names.push(following.name());
    }
    wait_until("both slots are taken", async || starts[0].exists() && starts[1].exists()).await;
    assert!(!starts[2].exists());
    for path in &starts {
        let _ = std::fs::remove_file(path);
    }
    fleet.restart_server();
    // Ended, running and queued ones are there by name.
    let known = follow(&fleet.server, ended_before.name()).await.unwrap().ended().await.unwrap();
    assert_eq!(known.response, ended_before.response);
    let mut running = follow(&fleet.server, &names[0]).await.unwrap();
    soon("the worker's report", running.until_stage(Stage::Executing)).await;
    std::fs::write(&gos[1], "").unwrap();
    let second = follow(&fleet.server, &names[1]).await.unwrap().ended().await.unwrap();
    assert_succeeded(&second);
    wait_until("the third one runs", async || starts[2].exists()).await;
    assert!(!starts[0].exists() && !starts[1].exists(), "what ran was not started again");
    // And once more, with a result that comes while nobody listens.
    fleet.server.process.kill();
    std::fs::write(&gos[0], "").unwrap();
    std::fs::write(&gos[2], "").unwrap();
    fleet.restart_server();
    for name in [&names[0], &names[2]] {
        let ended = follow(&fleet.server, name).await.unwrap().ended().await.unwrap();
        assert_succeeded(&ended);
        assert_eq!(ran_on(&ended), "w0");
    }
    assert!(!starts[0].exists(), "its one run was enough");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_leaves_what_is_queued_to_the_next_process() {
    let mut fleet = Fleet::with(0, "[scheduler]\nworker_grace_seconds = 60\n[worker]\nslots = 0\n");
    let mut following = fleet.server.begin(&TestAction::new(&["echo", "later"]).build()).await;
    following.until_stage(Stage::Queued).await;
    let name = following.name();
    fleet.server.process.signal(rustix::process::Signal::TERM);
    let told = following.ended().await.unwrap_err();
    assert_eq!(told.code(), tonic::Code::Unavailable, "{told}");
    until("it has ended", || fleet.server.process.ended().is_some()).await;
    fleet.restart_server();
    let following = follow(&fleet.server, &name).await.unwrap();
    fleet.add_worker("w0");
    assert_succeeded(&following.ended().await.unwrap());
}
