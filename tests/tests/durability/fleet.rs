//! A server and workers in processes of their own, while processes are killed, stopped and cut off from each other:
//! every client gets the right result or a clear status, nothing is lost, and nobody waits for ever.

mod ahead;
mod control;
mod crowd;
mod far;
mod faults;
mod proxy;
mod restarts;
mod secured;
mod shutdown;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;
use tonic::{Code, Status};
use wardian_proto::reapi;
use wardian_proto::reapi::execution_client::ExecutionClient;
use wardian_proto::wardian::workers_client::WorkersClient;
use wardian_proto::wardian::{ListWorkersRequest, WorkerState};
use wardian_store::{BlobStore as _, Upload};
use wardian_tests::{
    Built, Ended, Following, ServerProcess, TestAction, WorkerProcess, digest, until, wait_until,
};

use crate::SERVER;

/// How long a worker counts as alive without being heard of, by these settings.
const LEASE: Duration = Duration::from_secs(2);

/// Short, so that workers are lost soon.
const SETTINGS: &str = "\
[scheduler]
worker_lease_seconds = 2
takeover_seconds = 4
[worker]
slots = 0
";

/// A server and its workers.
struct Fleet {
    folder: TempDir,
    settings: String,
    server: ServerProcess,
    workers: Vec<WorkerProcess>,
}

impl Fleet {
    fn start(workers: usize) -> Self {
        Self::with(workers, SETTINGS)
    }

    fn with(workers: usize, settings: &str) -> Self {
        let mut fleet = Self::on(tempfile::tempdir().expect("a folder"), settings);
        for number in 0..workers {
            fleet.add_worker(&format!("w{number}"));
        }
        fleet
    }

    /// A server on a folder that may have something in it already.
    fn on(folder: TempDir, settings: &str) -> Self {
        let server = ServerProcess::start(Path::new(SERVER), folder.path(), settings).expect("it starts");
        Self { folder, settings: settings.to_owned(), server, workers: Vec::new() }
    }

    fn add_worker(&mut self, name: &str) {
        self.add_worker_through(name, self.server.address);
    }

    fn add_worker_through(&mut self, name: &str, address: SocketAddr) {
        let folder = self.folder.path().join(name);
        self.workers.push(worker(&folder, address, name));
    }

    /// A worker with further arguments; they say where the server is if it is not there as usual.
    fn add_worker_with(&mut self, name: &str, args: &[&str]) {
        let address = self.server.address.to_string();
        let mut all = if args.contains(&"--server") { vec![] } else { vec!["--server", &*address] };
        all.extend(args);
        let folder = self.folder.path().join(name);
        let settings = "[worker]\nslots = 2\n";
        let worker = WorkerProcess::start_with(Path::new(SERVER), &folder, name, settings, &all);
        self.workers.push(worker.expect("the worker starts"));
    }

    /// A file of the test's own.
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Kills the server and starts it again on the same port and data.
    fn restart_server(&mut self) {
        self.server.process.kill();
        let (folder, address) = (self.folder.path(), self.server.address);
        self.server = ServerProcess::start_at(Path::new(SERVER), folder, &self.settings, address)
            .expect("it starts again");
    }

    async fn states(&self) -> Vec<WorkerState> {
        let mut client = WorkersClient::new(self.server.channel().await);
        client.list_workers(ListWorkersRequest {}).await.expect("it lists").into_inner().workers
    }

    async fn until_connected(&self, workers: usize) {
        let connected = async || self.states().await.iter().filter(|worker| worker.connected).count();
        wait_until("workers are connected", async || connected().await == workers).await;
    }
}

fn worker(folder: &Path, server: SocketAddr, name: &str) -> WorkerProcess {
    let settings = "[worker]\nslots = 2\n";
    WorkerProcess::start(Path::new(SERVER), folder, server, name, settings).expect("the worker starts")
}

/// What the worker that has run an action is called.
fn ran_on(ended: &Ended) -> String {
    let metadata = ended.result().execution_metadata.unwrap_or_default();
    metadata.worker.split('/').next().unwrap_or_default().to_owned()
}

/// An action that says where it runs, and then waits for a file.
fn waits_for(started: &Path, go: &Path) -> TestAction {
    let script = "echo > \"$1\"; until [ -e \"$2\" ]; do sleep 0.02; done; echo finished > out";
    TestAction::sh(script, &[started, go]).outputs(&["out"])
}

#[track_caller]
fn assert_succeeded(ended: &Ended) {
    assert_eq!((ended.refusal(), ended.result().exit_code), (None, 0), "{:?}", ended.response);
}

/// Uploads an action.
async fn upload(server: &ServerProcess, built: &Built) -> Result<(), Status> {
    let store = server.store(u64::MAX).await;
    let uploads = built.blobs.iter().map(|(digest, data)| Upload::bytes(*digest, data.clone())).collect();
    match store.put_batch(uploads).await.into_iter().collect::<Result<Vec<()>, _>>() {
        Ok(_) => Ok(()),
        Err(error) => Err(Status::unavailable(error.to_string())),
    }
}

/// Follows an operation by its name.
async fn follow(server: &ServerProcess, name: &str) -> Result<Following, Status> {
    let mut client = ExecutionClient::new(server.channel().await);
    let request = reapi::WaitExecutionRequest { name: name.to_owned() };
    Ok(Following::new(client.wait_execution(request).await?.into_inner()))
}

#[tokio::test(flavor = "multi_thread")]
async fn actions_run_on_workers_and_their_results_come_back() {
    let fleet = Fleet::start(2);
    fleet.until_connected(2).await;
    let native = TestAction::new(&["sh", "-c", "cat in > out; echo said; echo loud >&2"])
        .file("in", "contents")
        .outputs(&["out"])
        .build();
    let ended = fleet.server.execute(&native).await;
    assert_succeeded(&ended);
    assert!(ran_on(&ended).starts_with('w'), "{:?}", ended.result());
    let file = &ended.result().output_files[0];
    assert_eq!(file.digest, Some(digest(b"contents").to_wire()));
    let store = fleet.server.store(u64::MAX).await;
    assert_eq!(store.get(&digest(b"contents"), u64::MAX).await.unwrap(), "contents");
    assert_eq!(store.get(&digest(b"said\n"), u64::MAX).await.unwrap(), "said\n");
    assert!(fleet.server.execute(&native).await.response.cached_result, "the server has cached it");

    let wasm = fleet.server.execute(&TestAction::wasm("hello", &[]).build()).await;
    assert_succeeded(&wasm);
    assert!(ran_on(&wasm).starts_with('w'));

    let asked = TestAction::new(&["true"]).platform(&[("pool", "large")]).build();
    let mut waits = fleet.server.begin(&asked).await;
    waits.until_stage(reapi::execution_stage::Value::Queued).await;
    let folder = fleet.path("large");
    let mut large = worker_with_property(&folder, fleet.server.address);
    assert_eq!(ran_on(&waits.ended().await.unwrap()), "large");
    large.process.signal(rustix::process::Signal::TERM);
    until("it has ended", || large.process.ended().is_some()).await;
    wait_until("it is gone", async || fleet.states().await.len() == 2).await;
}

fn worker_with_property(folder: &Path, server: SocketAddr) -> WorkerProcess {
    let settings = "[worker]\nproperties = [\"pool=large\"]\n";
    WorkerProcess::start(Path::new(SERVER), folder, server, "large", settings).expect("the worker starts")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_one_workers_and_a_mistake_is_told() {
    let fleet = Fleet::start(1);
    fleet.until_connected(1).await;
    let mut client = WorkersClient::new(fleet.server.channel().await);
    let refused = async |client: &mut WorkersClient<tonic::transport::Channel>, name: &str, slots| {
        let offer = wardian_proto::wardian::WorkerOffer {
            name: name.into(),
            incarnation: "other".into(),
            slots,
            ..Default::default()
        };
        let report = wardian_proto::wardian::WorkerReport { offer: Some(offer), ..Default::default() };
        let mut orders = client.work(futures::stream::iter([report])).await.unwrap().into_inner();
        orders.message().await.unwrap_err().code()
    };
    assert_eq!(refused(&mut client, "w0", 1).await, Code::AlreadyExists);
    assert_eq!(refused(&mut client, "w1", 0).await, Code::InvalidArgument);
}
