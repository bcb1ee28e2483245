//! What a worker in a process of its own costs: small actions through a server with two slots inside, with and
//! without its journal, and through one that leaves them to two worker processes of one slot each, which have their next
//! action ahead or do not.

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::stream::{self, StreamExt as _};
use prost::Message as _;
use tonic::transport::Channel;
use wardian_proto::longrunning::operation;
use wardian_proto::reapi;
use wardian_proto::reapi::execution_client::ExecutionClient;
use wardian_store::backend::GrpcStore;
use wardian_store::{BlobStore as _, Upload};
use wardian_tests::{Built, ServerProcess, TestAction, WorkerProcess};

pub(crate) const SERVER: &str = env!("CARGO_BIN_EXE_wardian-under-test");

const NATIVE_ACTIONS: usize = 400;
const WASM_ACTIONS: usize = 2_000;
const IN_FLIGHT: [usize; 3] = [1, 16, 64];

pub(crate) const EMPTY: &str = r#"(module (memory (export "memory") 1) (func (export "_start")))"#;

/// Who runs the actions.
#[derive(Clone, Copy)]
enum Setting {
    InsideWithoutJournal,
    Inside,
    TwoWorkersWithoutAhead,
    TwoWorkers,
}

impl Setting {
    const ALL: [Self; 4] =
        [Self::InsideWithoutJournal, Self::Inside, Self::TwoWorkersWithoutAhead, Self::TwoWorkers];

    fn name(self) -> &'static str {
        match self {
            Self::InsideWithoutJournal => "two slots inside, no journal",
            Self::Inside => "two slots inside",
            Self::TwoWorkersWithoutAhead => "two worker processes, nothing ahead",
            Self::TwoWorkers => "two worker processes",
        }
    }

    fn settings(self) -> &'static str {
        match self {
            Self::InsideWithoutJournal => "[scheduler]\njournal = false\n[worker]\nslots = 2\n",
            Self::Inside => "[worker]\nslots = 2\n",
            Self::TwoWorkersWithoutAhead | Self::TwoWorkers => "[worker]\nslots = 0\n",
        }
    }

    /// The settings of each worker process, if there are any.
    fn workers(self) -> Option<&'static str> {
        match self {
            Self::InsideWithoutJournal | Self::Inside => None,
            Self::TwoWorkersWithoutAhead => Some("[worker]\nslots = 1\nahead_per_slot = 0\n"),
            Self::TwoWorkers => Some("[worker]\nslots = 1\n"),
        }
    }
}

/// Measures the rows with `only` in their name.
pub(crate) async fn run(only: &str) -> anyhow::Result<()> {
    println!("| what | p50 ms | p99 ms | a second |\n|---|---:|---:|---:|");
    for setting in Setting::ALL {
        let folder = tempfile::tempdir()?;
        let server = ServerProcess::start(Path::new(SERVER), folder.path(), setting.settings())?;
        let mut workers = Vec::new();
        if let Some(settings) = setting.workers() {
            for name in ["one", "two"] {
                let program = Path::new(SERVER);
                let folder = folder.path().join(name);
                workers.push(WorkerProcess::start(program, &folder, server.address, name, settings)?);
            }
        }
        for at_once in IN_FLIGHT {
            for native in [true, false] {
                let kind = if native { "native" } else { "WebAssembly" };
                let row = format!("{kind}, {at_once} at once, {}", setting.name());
                if row.contains(only) {
                    measure(&server, &row, native, at_once).await?;
                }
            }
        }
    }
    Ok(())
}

async fn measure(server: &ServerProcess, row: &str, native: bool, at_once: usize) -> anyhow::Result<()> {
    let module = Bytes::from(wat::parse_str(EMPTY)?);
    let count = if native { NATIVE_ACTIONS } else { WASM_ACTIONS };
    let build = |number: usize| {
        let number = format!("{row} {number}");
        match native {
            true => TestAction::new(&["true", &number]),
            false => TestAction::wasm_tool(module.clone(), &[&number]),
        }
        .build()
    };
    let actions: Vec<Built> = (0..=count).map(build).collect();
    let store = server.store(u64::MAX).await;
    let blobs = actions.iter().flat_map(|built| &built.blobs);
    let uploads = blobs.map(|(digest, data)| Upload::bytes(*digest, data.clone())).collect();
    put_all(&store, uploads).await?;
    let channel = server.channel().await;
    // The first one waits for the module to be compiled, or for the workers to connect.
    execute(&channel, actions[0].request()).await?;
    let began = Instant::now();
    let outcomes: Vec<anyhow::Result<Duration>> = stream::iter(&actions[1..])
        .map(|built| {
            let channel = channel.clone();
            async move {
                let began = Instant::now();
                execute(&channel, built.request()).await?;
                Ok(began.elapsed())
            }
        })
        .buffer_unordered(at_once)
        .collect()
        .await;
    let whole = began.elapsed();
    let mut times = outcomes.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    times.sort();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e3;
    println!("| {row} | {:.2} | {:.2} | {:.0} |", at(0.5), at(0.99), count as f64 / whole.as_secs_f64());
    Ok(())
}

async fn put_all(store: &GrpcStore, uploads: Vec<Upload>) -> anyhow::Result<()> {
    for outcome in store.put_batch(uploads).await {
        outcome?;
    }
    Ok(())
}

/// Executes an action, which must succeed.
pub(crate) async fn execute(channel: &Channel, request: reapi::ExecuteRequest) -> anyhow::Result<()> {
    let mut client = ExecutionClient::new(channel.clone());
    let mut operations = client.execute(request).await?.into_inner();
    let mut last = None;
    while let Some(operation) = operations.message().await? {
        last = operation.result;
    }
    let Some(operation::Result::Response(response)) = last else { anyhow::bail!("no response") };
    let response = reapi::ExecuteResponse::decode(&*response.value)?;
    let exit_code = response.result.as_ref().map(|result| result.exit_code);
    anyhow::ensure!(exit_code == Some(0), "{response:?}");
    Ok(())
}
