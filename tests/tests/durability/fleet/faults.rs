//! Workers that are killed, stopped, cut off, out of disk, or told to stop.

use rustix::process::Signal;
use wardian_proto::longrunning::CancelOperationRequest;
use wardian_proto::longrunning::operations_client::OperationsClient;
use wardian_proto::reapi::execution_stage::Value as Stage;
use wardian_tests::{Following, TestAction, WorkerProcess, get, metadata, soon, wait_until};

use super::proxy::Proxy;
use super::{Fleet, LEASE, assert_succeeded, ran_on, waits_for, worker};

/// Which worker has an operation now.
async fn at(following: &mut Following) -> String {
    following.until_stage(Stage::Executing).await;
    loop {
        let operation = following.next().await.unwrap().expect("the stream goes on");
        let partial = metadata(&operation).partial_execution_metadata.unwrap_or_default();
        if !partial.worker.is_empty() {
            return partial.worker.split('/').next().unwrap().to_owned();
        }
    }
}

fn index(name: &str) -> usize {
    name.strip_prefix('w').unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_worker_ran_is_run_by_another() {
    let mut fleet = Fleet::start(2);
    fleet.until_connected(2).await;
    let (started, go) = (fleet.path("started"), fleet.path("go"));
    let mut following = fleet.server.begin(&waits_for(&started, &go).build()).await;
    let first = at(&mut following).await;
    wait_until("the command runs", async || started.exists()).await;
    fleet.workers[index(&first)].process.kill();
    std::fs::write(&go, "").unwrap();
    let ended = following.ended().await.unwrap();
    assert_succeeded(&ended);
    assert_ne!(ran_on(&ended), first);
    wait_until("it is forgotten", async || fleet.states().await.len() == 1).await;
    let numbers = get(fleet.server.address, "/metrics").await;
    for counted in [
        r#"wardian_workers_gone_total{reason="silent"} 1"#,
        r#"wardian_runs_interrupted_total{reason="silent"} 1"#,
        r#"wardian_workers{kind="elsewhere",state="ready"} 1"#,
    ] {
        assert!(numbers.contains(counted), "{counted} in {numbers}");
    }

    let folder = fleet.path(&first);
    fleet.workers[index(&first)] = worker(&folder, fleet.server.address, &first);
    fleet.until_connected(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_stopped_for_longer_than_its_lease_costs_time_and_nothing_else() {
    let fleet = Fleet::start(2);
    fleet.until_connected(2).await;
    let (started, go) = (fleet.path("started"), fleet.path("go"));
    let mut following = fleet.server.begin(&waits_for(&started, &go).build()).await;
    let first = at(&mut following).await;
    wait_until("the command runs", async || started.exists()).await;
    let stopped = &fleet.workers[index(&first)].process;
    stopped.signal(Signal::STOP);
    wait_until("it is lost", async || fleet.states().await.len() == 1).await;
    std::fs::write(&go, "").unwrap();
    let ended = following.ended().await.unwrap();
    assert_succeeded(&ended);
    assert_ne!(ran_on(&ended), first);
    stopped.signal(Signal::CONT);
    // Its own result is of no use any more, and it is used again.
    fleet.until_connected(2).await;
    wait_until("both are idle", async || fleet.states().await.iter().all(|worker| worker.running == 0)).await;
    assert_succeeded(&fleet.server.execute(&TestAction::new(&["echo", "again"]).build()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_stopped_for_longer_than_the_lease_loses_no_worker() {
    let fleet = Fleet::start(2);
    fleet.until_connected(2).await;
    let (starts, go) = (fleet.path("starts"), fleet.path("go"));
    let script = "echo >> \"$1\"; until [ -e \"$2\" ]; do sleep 0.02; done; echo finished > out";
    let action = TestAction::sh(script, &[&*starts, &*go]).outputs(&["out"]);
    let mut following = fleet.server.begin(&action.build()).await;
    let first = at(&mut following).await;
    wait_until("the command runs", async || starts.exists()).await;
    fleet.server.process.while_stopped(|| std::thread::sleep(3 * LEASE));
    // Long enough for a worker that nobody hears of to be lost.
    tokio::time::sleep(2 * LEASE).await;
    fleet.until_connected(2).await;
    let numbers = get(fleet.server.address, "/metrics").await;
    let silent = "wardian_workers_gone_total{reason=\"silent\"} 0";
    assert!(numbers.lines().any(|line| line == silent), "{numbers}");
    std::fs::write(&go, "").unwrap();
    let ended = following.ended().await.unwrap();
    assert_succeeded(&ended);
    assert_eq!(ran_on(&ended), first);
    assert_eq!(std::fs::read_to_string(&starts).unwrap().lines().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_was_cut_off_goes_on_with_what_nobody_else_took() {
    let mut fleet = Fleet::start(0);
    let proxy = Proxy::to(fleet.server.address).await;
    fleet.add_worker_through("w0", proxy.address);
    fleet.until_connected(1).await;
    let (started, go) = (fleet.path("started"), fleet.path("go"));
    let mut following = fleet.server.begin(&waits_for(&started, &go).build()).await;
    assert_eq!(at(&mut following).await, "w0");
    wait_until("the command runs", async || started.exists()).await;
    proxy.cut();
    wait_until("it is lost", async || fleet.states().await.is_empty()).await;
    following.until_stage(Stage::Queued).await;
    std::fs::write(&go, "").unwrap();
    proxy.mend();
    let ended = soon("the result of the one run", following.ended()).await.unwrap();
    assert_succeeded(&ended);
    assert_eq!(ran_on(&ended), "w0");
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_reaches_the_processes_of_a_worker() {
    let fleet = Fleet::start(1);
    fleet.until_connected(1).await;
    let pids = fleet.path("pids");
    let native = TestAction::sh("sleep 1000 & echo $$ $! > \"$1\"; wait", &[&pids]).build();
    let guest = TestAction::wasm("loop", &[]).build();
    let mut operations = OperationsClient::new(fleet.server.channel().await);
    for built in [native, guest] {
        let mut following = fleet.server.begin(&built).await;
        at(&mut following).await;
        if built.action == native_of(&pids) {
            wait_until("the command runs", async || {
                std::fs::read_to_string(&pids).is_ok_and(|text| text.ends_with('\n'))
            })
            .await;
        }
        let request = CancelOperationRequest { name: following.name() };
        operations.cancel_operation(request).await.unwrap();
        let ended = following.ended().await.unwrap();
        assert_eq!(ended.code(), tonic::Code::Cancelled);
        wait_until("its slot is free", async || fleet.states().await[0].running == 0).await;
    }
    for pid in std::fs::read_to_string(&pids).unwrap().split_whitespace() {
        let gone = || !std::path::Path::new("/proc").join(pid).join("exe").exists();
        wait_until("its processes are gone", async || gone()).await;
    }
}

fn native_of(pids: &std::path::Path) -> wardian_proto::Digest {
    TestAction::sh("sleep 1000 & echo $$ $! > \"$1\"; wait", &[pids]).build().action
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_worker_without_disk_cannot_do_another_does() {
    let Some(disk) = crate::full_disk::Disk::mount() else {
        eprintln!("\n*** NOT TESTED: a worker's full disk. Mounting a tmpfs is not permitted here.\n");
        return;
    };
    // The other one is there from the start, and busy.
    let mut fleet = Fleet::start(0);
    fleet.add_worker("w1");
    let go = fleet.path("go");
    let starts = ["started0", "started1"].map(|name| fleet.path(name));
    let mut busy = Vec::new();
    for started in &starts {
        busy.push(fleet.server.begin(&waits_for(started, &go).build()).await);
    }
    wait_until("both slots are taken", async || starts.iter().all(|started| started.exists())).await;
    let folder = disk.path().join("w0");
    let settings = "[store]\ncapacity_bytes = 33554432\n[worker]\nslots = 2\n";
    let program = std::path::Path::new(crate::SERVER);
    let full = WorkerProcess::start(program, &folder, fleet.server.address, "w0", settings);
    fleet.workers.push(full.expect("it starts"));
    fleet.until_connected(2).await;
    // All but a little of the disk is somebody else's.
    let ballast = std::fs::File::create(disk.path().join("ballast")).unwrap();
    let mut left = crate::full_disk::free_bytes(disk.path());
    while left > 1 << 20 {
        use std::io::Write as _;
        if (&ballast).write_all(&vec![1; 1 << 20]).is_err() {
            break;
        }
        left = crate::full_disk::free_bytes(disk.path());
    }
    let input = wardian_tests::bytes_of(20 << 20, 1);
    let action = TestAction::new(&["sh", "-c", "cat big > out"]).file("big", input).outputs(&["out"]);
    let built = action.build();
    super::upload(&fleet.server, &built).await.unwrap();
    let mut following = fleet.server.begin(&built).await;
    following.until_stage(Stage::Executing).await;
    std::fs::write(&go, "").unwrap();
    let ended = following.ended().await.unwrap();
    assert_succeeded(&ended);
    assert_eq!(ran_on(&ended), "w1");
    for following in busy {
        assert_succeeded(&following.ended().await.unwrap());
    }
}
