//! Operations: followed, looked at, listed, cancelled, forgotten.

use std::path::{Path, PathBuf};

use prost::Message as _;
use tonic::{Code, Status};
use wardian_proto::longrunning::{
    CancelOperationRequest, DeleteOperationRequest, GetOperationRequest, ListOperationsRequest, Operation,
    WaitOperationRequest,
};
use wardian_proto::reapi::execution_stage::Value as Stage;
use wardian_proto::{reapi, wardian};
use wardian_tests::{Following, TestAction, TestServer, code, soon, until};

/// A native action that says its process id, then waits for a file to appear.
fn waiting(pid: &Path, go: &Path) -> TestAction {
    let script =
        "echo $$ > \"$1.tmp\"; mv \"$1.tmp\" \"$1\"; until [ -e \"$2\" ]; do sleep 0.02; done; echo over";
    TestAction::sh(script, &[pid, go])
}

fn paths(server: &TestServer) -> (PathBuf, PathBuf) {
    (server.folder().join("pid"), server.folder().join("go"))
}

fn is_gone(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
    stat.map_or(true, |stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['Z', 'X'])))
}

async fn get(server: &TestServer, name: &str) -> Result<Operation, Status> {
    let request = GetOperationRequest { name: name.into() };
    server.operations().get_operation(request).await.map(tonic::Response::into_inner)
}

async fn cancel(server: &TestServer, name: &str) -> Code {
    code(&server.operations().cancel_operation(CancelOperationRequest { name: name.into() }).await)
}

async fn delete(server: &TestServer, name: &str) -> Code {
    code(&server.operations().delete_operation(DeleteOperationRequest { name: name.into() }).await)
}

async fn executing(server: &TestServer, action: TestAction) -> Following {
    let mut following = server.begin(action).await;
    following.until_stage(Stage::Executing).await;
    following
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_can_be_waited_for_by_name_during_its_run_and_after() {
    let server = TestServer::start().await;
    let (pid, go) = paths(&server);
    let first = executing(&server, waiting(&pid, &go)).await;
    let name = first.name();
    let mut second = server.wait_execution(&name).await.unwrap();
    // It answers at once, with the present stage.
    second.until_stage(Stage::Executing).await;
    assert!(!get(&server, &name).await.unwrap().done);
    std::fs::write(&go, "").unwrap();
    let (first, second) = (first.ended().await.unwrap(), second.ended().await.unwrap());
    assert_eq!((first.name(), &first.response), (second.name(), &second.response));

    let late = server.wait_execution(&name).await.unwrap().ended().await.unwrap();
    assert_eq!((late.operations.len(), &late.response), (1, &first.response));
    let got = get(&server, &name).await.unwrap();
    assert_eq!(Some(&got), first.operations.last());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queued_operation_says_why_it_waits() {
    let server = TestServer::with(|config| config.worker.slots = 1).await;
    let (pid, go) = paths(&server);
    let first = executing(&server, waiting(&pid, &go)).await;
    let mut second = server.begin(TestAction::sh("exit 0", &[])).await;
    second.until_stage(Stage::Queued).await;
    let operation = get(&server, &second.name()).await.unwrap();
    let metadata = reapi::ExecuteOperationMetadata::decode(&*operation.metadata.unwrap().value).unwrap();
    let partial = metadata.partial_execution_metadata.unwrap();
    assert!(partial.queued_timestamp.is_some());
    let waits = wardian::Waiting::decode(&*partial.auxiliary_metadata[0].value).unwrap();
    assert_eq!(waits.reason, "all slots of the 1 workers that can run it are taken; 1 such actions wait");
    std::fs::write(&go, "").unwrap();
    first.ended().await.unwrap();
    second.ended().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_with_a_full_queue_is_refused_and_told_when_to_ask_again() {
    let server = TestServer::with(|config| {
        config.worker.slots = 1;
        config.instances[0].share.queued_max = Some(1);
    })
    .await;
    let (pid, go) = paths(&server);
    let first = executing(&server, waiting(&pid, &go)).await;
    let mut second = server.begin(TestAction::sh("exit 0", &[])).await;
    second.until_stage(Stage::Queued).await;
    let refusal = server.refused(TestAction::sh("exit 1", &[])).await;
    assert_eq!((refusal.code, refusal.retry_seconds), (Code::ResourceExhausted, Some(1)), "{refusal:?}");
    std::fs::write(&go, "").unwrap();
    first.ended().await.unwrap();
    second.ended().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_operations_are_not_found() {
    let server = TestServer::start().await;
    for name in ["", "operations/", "operations/none", "main/operations/none", "blobs/x", "\u{0}"] {
        let following = match server.wait_execution(name).await {
            Ok(following) => following.ended().await.map(|_| ()),
            Err(status) => Err(status),
        };
        assert_eq!(code(&following), Code::NotFound, "{name:?}");
        assert_eq!(code(&get(&server, name).await), Code::NotFound);
        assert_eq!(cancel(&server, name).await, Code::NotFound);
        assert_eq!(delete(&server, name).await, Code::NotFound);
        let wait = WaitOperationRequest { name: name.into(), timeout: None };
        assert_eq!(code(&server.operations().wait_operation(wait).await), Code::NotFound);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_does_not_cancel() {
    let server = TestServer::start().await;
    let (pid, go) = paths(&server);
    let following = executing(&server, waiting(&pid, &go)).await;
    let name = following.name();
    until("the command runs", || pid.exists()).await;
    drop(following);
    // Whatever the server does about it, it has done by the time it answered another call.
    server.assert_serving().await;
    assert!(!get(&server, &name).await.unwrap().done);
    std::fs::write(&go, "").unwrap();
    let ended = server.wait_execution(&name).await.unwrap().ended().await.unwrap();
    assert_eq!((ended.code(), ended.result().exit_code), (Code::Ok, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn operations_are_listed_by_instance_and_page() {
    let server = TestServer::start().await;
    let mut names = Vec::new();
    let mut elsewhere = Vec::new();
    for i in 0..5 {
        // Run, not cached: the answer from the cache is over before it could be listed.
        let built = server.upload(TestAction::new(&["echo", &i.to_string()])).await;
        names.push(server.execute(&built).await.name().to_owned());
        let request = reapi::ExecuteRequest {
            instance_name: "main".into(),
            skip_cache_lookup: true,
            ..built.request()
        };
        elsewhere.push(server.follow(request).await.unwrap().ended().await.unwrap().name().to_owned());
    }
    names.sort();
    elsewhere.sort();
    for (collection, expected) in
        [("operations", &names), ("", &names), ("main/operations", &elsewhere), ("main", &elsewhere)]
    {
        for page_size in [0, 1, 2, 5, 6] {
            let mut listed = Vec::new();
            let mut page_token = String::new();
            loop {
                let request = ListOperationsRequest {
                    name: collection.into(),
                    page_size,
                    page_token,
                    ..Default::default()
                };
                let page = server.operations().list_operations(request).await.unwrap().into_inner();
                assert!(page_size == 0 || page.operations.len() <= usize::try_from(page_size).unwrap());
                listed.extend(page.operations.into_iter().map(|operation| operation.name));
                page_token = page.next_page_token;
                if page_token.is_empty() {
                    break;
                }
            }
            assert_eq!(listed, *expected, "{collection:?} in pages of {page_size}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn listings_that_are_not_offered_are_refused() {
    let server = TestServer::start().await;
    let base = ListOperationsRequest { name: "operations".into(), ..Default::default() };
    for (request, expected) in [
        (ListOperationsRequest { page_size: -1, ..base.clone() }, Code::InvalidArgument),
        (ListOperationsRequest { name: "none/operations".into(), ..base.clone() }, Code::InvalidArgument),
        (ListOperationsRequest { filter: "colour=green".into(), ..base.clone() }, Code::InvalidArgument),
        (ListOperationsRequest { return_partial_success: true, ..base }, Code::Unimplemented),
    ] {
        assert_eq!(
            code(&server.operations().list_operations(request.clone()).await),
            expected,
            "{request:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_lists_what_it_names_in_pages() {
    let server = TestServer::with(|config| config.worker.slots = 1).await;
    let mut ended = Vec::new();
    for i in 0..3 {
        let built = server.upload(TestAction::new(&["echo", &i.to_string()])).await;
        ended.push(server.execute(&built).await.name().to_owned());
    }
    ended.sort();
    let (pid, go) = paths(&server);
    let built = server.upload(waiting(&pid, &go)).await;
    let mut running = server.follow(built.request()).await.unwrap();
    running.until_stage(Stage::Executing).await;
    until("the command runs", || pid.exists()).await;
    let mut queued = server.begin(TestAction::sh("exit 0", &[])).await;
    queued.until_stage(Stage::Queued).await;
    let listed = async |filter: &str, page_size: i32| {
        let mut names = Vec::new();
        let mut request = ListOperationsRequest {
            name: "operations".into(),
            filter: filter.into(),
            page_size,
            ..Default::default()
        };
        loop {
            let page = server.operations().list_operations(request.clone()).await.unwrap().into_inner();
            assert!(page_size == 0 || page.operations.len() <= usize::try_from(page_size).unwrap());
            names.extend(page.operations.into_iter().map(|operation| operation.name));
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                return names;
            }
        }
    };
    for page_size in [0, 1, 2] {
        assert_eq!(listed("done=true", page_size).await, ended);
        assert_eq!(listed("stage=QUEUED", page_size).await, [queued.name()]);
        assert_eq!(listed("stage=EXECUTING AND worker=local", page_size).await, [running.name()]);
        assert_eq!(listed(&format!("action={}", built.action), page_size).await, [running.name()]);
        assert_eq!(listed("done=false AND worker=nobody", page_size).await, [""; 0]);
        assert_eq!(listed("invocation=nobody", page_size).await, [""; 0]);
    }
    std::fs::write(&go, "").unwrap();
    running.ended().await.unwrap();
    queued.ended().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_command_is_killed() {
    let server = TestServer::start().await;
    let (pid, go) = paths(&server);
    let following = executing(&server, waiting(&pid, &go)).await;
    until("the command runs", || pid.exists()).await;
    let pid = std::fs::read_to_string(&pid).unwrap();
    assert!(!is_gone(&pid));
    let name = following.name();
    assert_eq!(cancel(&server, &name).await, Code::Ok);
    assert_eq!(following.ended().await.unwrap().code(), Code::Cancelled);
    until("the process is gone", || is_gone(&pid)).await;
    let got = get(&server, &name).await.unwrap();
    assert!(got.done);
    // A second time changes nothing.
    assert_eq!(cancel(&server, &name).await, Code::Ok);
    assert_eq!(get(&server, &name).await.unwrap(), got);
    server.assert_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_guest_is_stopped() {
    // One slot: only when the guest is gone can anything else run.
    let server = TestServer::with(|config| config.worker.slots = 1).await;
    for name in ["loop", "sleep"] {
        let following = executing(&server, TestAction::wasm(name, &[])).await;
        assert_eq!(cancel(&server, &following.name()).await, Code::Ok);
        assert_eq!(following.ended().await.unwrap().code(), Code::Cancelled);
        soon("the slot", server.assert_unharmed()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_action_in_the_queue_never_runs() {
    let server = TestServer::with(|config| config.worker.slots = 1).await;
    let (pid, go) = paths(&server);
    let running = executing(&server, waiting(&pid, &go)).await;
    let ran = server.folder().join("ran");
    let queued = TestAction::sh("echo > \"$1\"", &[&ran]);
    let mut queued = server.begin(queued).await;
    queued.until_stage(Stage::Queued).await;
    assert_eq!(cancel(&server, &queued.name()).await, Code::Ok);
    assert_eq!(queued.ended().await.unwrap().code(), Code::Cancelled);
    std::fs::write(&go, "").unwrap();
    assert_eq!(running.ended().await.unwrap().code(), Code::Ok);
    server.assert_unharmed().await;
    assert!(!ran.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_one_of_two_that_were_joined_leaves_the_other() {
    let server = TestServer::start().await;
    let (pid, go) = paths(&server);
    let built = server.upload(waiting(&pid, &go)).await;
    let mut both = Vec::new();
    for _ in 0..2 {
        let mut following = server.follow(built.request()).await.unwrap();
        following.until_stage(Stage::Executing).await;
        both.push(following);
    }
    let (kept, dropped) = (both.remove(0), both.remove(0));
    assert_eq!(cancel(&server, &dropped.name()).await, Code::Ok);
    assert_eq!(dropped.ended().await.unwrap().code(), Code::Cancelled);
    until("the command runs", || pid.exists()).await;
    std::fs::write(&go, "").unwrap();
    let ended = kept.ended().await.unwrap();
    assert_eq!((ended.code(), ended.result().exit_code), (Code::Ok, 0));
    assert!(server.execute(&built).await.response.cached_result);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_cancellation_the_same_action_runs_anew() {
    let server = TestServer::start().await;
    let (pid, go) = paths(&server);
    let built = server.upload(waiting(&pid, &go)).await;
    let mut first = server.follow(built.request()).await.unwrap();
    first.until_stage(Stage::Executing).await;
    assert_eq!(cancel(&server, &first.name()).await, Code::Ok);
    // Whether or not the worker has let go of the cancelled run by now.
    let second = server.follow(built.request()).await.unwrap();
    std::fs::write(&go, "").unwrap();
    assert_eq!(first.ended().await.unwrap().code(), Code::Cancelled);
    assert_eq!(second.ended().await.unwrap().code(), Code::Ok);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_operation_is_forgotten_and_its_action_goes_on() {
    let server = TestServer::start().await;
    let (pid, go) = paths(&server);
    let built = server.upload(waiting(&pid, &go)).await;
    let mut following = server.follow(built.request()).await.unwrap();
    following.until_stage(Stage::Executing).await;
    let name = following.name();
    assert_eq!(delete(&server, &name).await, Code::Ok);
    assert_eq!(following.ended().await.unwrap_err().code(), Code::NotFound);
    assert_eq!(code(&get(&server, &name).await), Code::NotFound);
    assert_eq!(delete(&server, &name).await, Code::NotFound);
    // The next client joins what goes on, or finds its result in the cache.
    let next = server.follow(built.request()).await.unwrap();
    std::fs::write(&go, "").unwrap();
    assert_eq!(next.ended().await.unwrap().code(), Code::Ok);

    let ended = server.run(TestAction::new(&["echo"])).await;
    assert_eq!(delete(&server, ended.name()).await, Code::Ok);
    assert_eq!(code(&get(&server, ended.name()).await), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn wait_operation_waits_as_long_as_it_is_told() {
    let server = TestServer::start().await;
    let (pid, go) = paths(&server);
    let following = executing(&server, waiting(&pid, &go)).await;
    let wait = |seconds, nanos| {
        let timeout = Some(prost_types::Duration { seconds, nanos });
        let request = WaitOperationRequest { name: following.name(), timeout };
        let mut client = server.operations();
        async move { client.wait_operation(request).await.map(tonic::Response::into_inner) }
    };
    assert!(!soon("the answer", wait(0, 1_000_000)).await.unwrap().done);
    assert_eq!(code(&wait(-1, 0).await), Code::InvalidArgument);
    let waiting = tokio::spawn(wait(50, 0));
    std::fs::write(&go, "").unwrap();
    assert!(soon("the end", waiting).await.unwrap().unwrap().done);
}

#[tokio::test(flavor = "multi_thread")]
async fn ended_operations_are_forgotten_when_there_are_too_many() {
    let server = TestServer::with(|config| config.scheduler.completed_kept_max = 2).await;
    let mut names = Vec::new();
    for i in 0..4 {
        names.push(server.run(TestAction::new(&["echo", &i.to_string()])).await.name().to_owned());
    }
    assert_eq!(code(&get(&server, &names[0]).await), Code::NotFound);
    assert!(get(&server, &names[3]).await.unwrap().done);
}
