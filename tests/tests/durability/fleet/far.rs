//! Workers far from their server: inputs come in a few calls, whoever is first to ask for them.

use std::time::Duration;

use wardian_proto::longrunning::CancelOperationRequest;
use wardian_proto::longrunning::operations_client::OperationsClient;
use wardian_proto::reapi::execution_stage::Value as Stage;
use wardian_tests::{Built, Distance, Ended, TestAction, bytes_of, guest, reader_of};

use super::{Fleet, Path, SERVER, WorkerProcess, assert_succeeded, ran_on, wait_until};

/// Long enough that a command which asks for one file after the other asks for few while others come together.
const ONE_WAY: Duration = Duration::from_millis(10);

const DIRECTORIES: usize = 20;
const FILES: usize = 200;

/// Calls that an action may take over the distance, for its inputs and its results, with what a connection takes: far
/// fewer than files.
const CALLS_MAX: u64 = 60;

/// A server and a worker far from it.
struct Far {
    fleet: Fleet,
    distance: Distance,
}

impl Far {
    async fn with(prefetch: &str) -> Self {
        let mut fleet = Fleet::start(0);
        let distance = Distance::to(fleet.server.address, ONE_WAY).await;
        let settings = format!("[worker]\nslots = 2\n[worker.prefetch]\n{prefetch}\n");
        let folder = fleet.folder.path().join("far");
        let worker = WorkerProcess::start(Path::new(SERVER), &folder, distance.address, "far", &settings);
        fleet.workers.push(worker.expect("the worker starts"));
        fleet.until_connected(1).await;
        Self { fleet, distance }
    }

    /// Executes an action and counts the calls until its result is there.
    async fn run(&self, action: &Built) -> (Ended, u64) {
        let before = self.distance.calls();
        let ended = self.fleet.server.execute(action).await;
        assert_eq!(ran_on(&ended), "far");
        (ended, self.distance.calls() - before)
    }
}

fn paths() -> Vec<String> {
    (0..FILES).map(|number| format!("d{:02}/f{number:03}", number % DIRECTORIES)).collect()
}

/// An action over files that no other has.
fn with_files(mut action: TestAction, seed: u8) -> TestAction {
    for (number, path) in paths().iter().enumerate() {
        let mut content = bytes_of(1000 + number, seed).to_vec();
        content.extend(path.as_bytes());
        action = action.file(path, content);
    }
    action
}

#[tokio::test(flavor = "multi_thread")]
async fn the_inputs_of_an_action_come_in_a_few_calls() {
    let far = Far::with("").await;
    let module = reader_of(&paths());
    let wasm =
        |seed: u8| with_files(TestAction::wasm_tool(module.clone(), &[&seed.to_string()]), seed).build();
    for seed in [1, 2] {
        let (ended, calls) = far.run(&wasm(seed)).await;
        assert_succeeded(&ended);
        assert!(calls < CALLS_MAX, "{calls} calls");
    }
    let native = with_files(TestAction::new(&["sh", "-c", "cat d*/f* | wc -c"]), 3).build();
    let (ended, calls) = far.run(&native).await;
    assert_succeeded(&ended);
    assert!(calls < CALLS_MAX, "{calls} calls");
    // What is near is not asked for again: another action over the same tree.
    let again = with_files(TestAction::new(&["sh", "-c", "cat d*/f* | wc -l"]), 3).build();
    let (ended, calls) = far.run(&again).await;
    assert_succeeded(&ended);
    assert!(calls < 10, "{calls} calls");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_it_each_file_that_a_module_opens_is_a_call() {
    let far = Far::with("enabled = false").await;
    let module = reader_of(&paths());
    let (ended, calls) = far.run(&with_files(TestAction::wasm_tool(module, &[]), 1).build()).await;
    assert_succeeded(&ended);
    assert!(calls >= (FILES + DIRECTORIES) as u64, "{calls} calls");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_above_its_bound_is_run_all_the_same() {
    let far = Far::with("bytes_per_action_max = 50000").await;
    let module = reader_of(&paths());
    for seed in [1_u8, 2] {
        let action = TestAction::wasm_tool(module.clone(), &[&seed.to_string()]);
        let (ended, calls) = far.run(&with_files(action, seed).build()).await;
        assert_succeeded(&ended);
        assert!(calls > 100, "{calls} calls: what does not fit is read when it is looked at");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_action_asks_for_nothing_more() {
    let far = Far::with("").await;
    let mut action = TestAction::wasm_tool(guest("loop"), &[]);
    for number in 0..40 {
        action = action.file(&format!("large/{number}"), bytes_of(1 << 20, number));
    }
    let mut running = far.fleet.server.begin(&action.build()).await;
    // Its inputs are on their way, or its module is compiled, or it runs for ever.
    running.until_stage(Stage::Executing).await;
    let mut operations = OperationsClient::new(far.fleet.server.channel().await);
    let request = CancelOperationRequest { name: running.name() };
    operations.cancel_operation(request).await.expect("it is cancelled");
    drop(running);
    wait_until("the worker has nothing", async || {
        far.fleet.states().await.iter().all(|worker| worker.running == 0)
    })
    .await;
    // The worker serves on, and what the other began does not stand in its way.
    let (ended, _) = far.run(&TestAction::wasm("hello", &[]).build()).await;
    assert_succeeded(&ended);
}
