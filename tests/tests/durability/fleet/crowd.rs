//! A thousand small actions while workers and the server are killed and stopped.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use prost::Message as _;
use rustix::process::Signal;
use tokio::time::Instant;
use tonic::{Code, Status};
use wardian_proto::longrunning::{Operation, operation};
use wardian_proto::reapi;
use wardian_proto::reapi::execution_client::ExecutionClient;
use wardian_store::backend::{GrpcStore, GrpcStoreLimits};
use wardian_store::{BlobStore as _, Upload};
use wardian_tests::{Built, TestAction, digest, wait_until};

use super::{Fleet, worker};

const ACTIONS: usize = 1000;
const CLIENTS: usize = 16;
const WORKERS: usize = 3;

/// How long one action may take, with all that happens meanwhile.
const DEADLINE: Duration = Duration::from_secs(120);

/// Pause of a client before it asks again.
const PAUSE: Duration = Duration::from_millis(100);

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_actions_come_to_their_end_whatever_happens() {
    let mut fleet = Fleet::start(WORKERS);
    fleet.until_connected(WORKERS).await;
    let url = format!("http://{}", fleet.server.address);
    let done = Arc::new(AtomicUsize::new(0));
    let clients = tokio::spawn({
        let done = Arc::clone(&done);
        async move {
            let run = |number: usize| {
                let (url, done) = (url.clone(), Arc::clone(&done));
                async move {
                    let outcome = one(&url, number).await;
                    done.fetch_add(1, Ordering::Relaxed);
                    outcome
                }
            };
            futures::stream::iter(0..ACTIONS).map(run).buffer_unordered(CLIENTS).collect::<Vec<_>>().await
        }
    });
    let until = async |share: usize| {
        wait_until("clients get on", async || done.load(Ordering::Relaxed) >= ACTIONS * share / 100).await;
    };
    until(10).await;
    fleet.workers[0].process.kill();
    until(20).await;
    fleet.workers[0] = worker(&fleet.path("w0"), fleet.server.address, "w0");
    fleet.restart_server();
    until(35).await;
    fleet.workers[1].process.signal(Signal::STOP);
    until(50).await;
    fleet.restart_server();
    until(60).await;
    fleet.workers[1].process.signal(Signal::CONT);
    fleet.workers[2].process.kill();
    until(75).await;
    fleet.workers[2] = worker(&fleet.path("w2"), fleet.server.address, "w2");
    fleet.restart_server();
    let outcomes = clients.await.unwrap();
    let failures: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).collect();
    assert!(failures.is_empty(), "{} of {ACTIONS} failed: {failures:?}", failures.len());
    fleet.until_connected(WORKERS).await;
    wait_until("nothing is left", async || fleet.states().await.iter().all(|worker| worker.running == 0))
        .await;
}

/// What a patient client does for one action. An error is the status of the action; anything else that goes wrong is
/// tried again.
async fn one(url: &str, number: usize) -> Result<(), Status> {
    let text = format!("result of {number}\n");
    let script = format!("sleep 0.0{}; cat in", number % 5);
    let built = TestAction::new(&["sh", "-c", &script]).file("in", text.clone()).build();
    let deadline = Instant::now() + DEADLINE;
    let mut name = None;
    loop {
        assert!(Instant::now() < deadline, "action {number} did not end in time");
        match tokio::time::timeout_at(deadline, attempt(url, &built, &mut name)).await {
            Err(_) => panic!("action {number} ({name:?}) hangs"),
            Ok(Ok(response)) => return check(&response, &text),
            Ok(Err(status)) if status.code() == Code::NotFound => name = None,
            Ok(Err(_)) => {}
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn check(response: &reapi::ExecuteResponse, text: &str) -> Result<(), Status> {
    if let Some(status) = response.status.as_ref().filter(|status| status.code != 0) {
        return Err(Status::new(Code::from(status.code), status.message.clone()));
    }
    let result = response.result.as_ref().expect("a success has a result");
    assert_eq!(result.exit_code, 0);
    assert_eq!(result.stdout_digest, Some(digest(text.as_bytes()).to_wire()));
    Ok(())
}

async fn attempt(
    url: &str,
    built: &Built,
    name: &mut Option<String>,
) -> Result<reapi::ExecuteResponse, Status> {
    let endpoint = tonic::transport::Endpoint::from_shared(url.to_owned()).expect("a URL");
    let channel = endpoint.connect().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let mut client = ExecutionClient::new(channel.clone());
    let mut stream = match name {
        Some(name) => {
            let request = reapi::WaitExecutionRequest { name: name.clone() };
            client.wait_execution(request).await?.into_inner()
        }
        None => {
            let limits = GrpcStoreLimits { attempts_max: 1, ..GrpcStoreLimits::default() };
            let store = GrpcStore::new(channel, Default::default(), limits);
            let uploads = built.blobs.iter().map(|(digest, data)| Upload::bytes(*digest, data.clone()));
            for outcome in store.put_batch(uploads.collect()).await {
                outcome.map_err(|error| Status::unavailable(error.to_string()))?;
            }
            client.execute(built.request()).await?.into_inner()
        }
    };
    while let Some(Operation { name: now, result, .. }) = stream.message().await? {
        *name = Some(now);
        if let Some(operation::Result::Response(response)) = result {
            return Ok(reapi::ExecuteResponse::decode(&*response.value).expect("an ExecuteResponse"));
        }
    }
    Err(Status::unavailable("the stream ended early"))
}
