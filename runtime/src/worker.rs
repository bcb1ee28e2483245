//! The worker loop: takes assignments, runs them, reports.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;
use tokio::task::JoinSet;
use wardian_proto::{Digest, DigestFunction, pack_any, reapi, rpc};
use wardian_scheduler::{Assignment, Offer, WorkQueue, WorkerId};
use wardian_store::{BlobStore, Upload};

use crate::action::{self, ActionSpec};
use crate::executor::native::{NativeExecutor, SandboxSettings};
use crate::executor::wasm::compile::{CompileSettings, TrustedModules};
use crate::executor::wasm::{WasmExecutor, usage};
use crate::executor::{Executor, Files, Finished, Layout, Outcome, Task};
use crate::input_root::{InputRoot, make_directories};
use crate::logs::{Log, Logs, NoLogs};
use crate::prefetch::known::PATHS_PER_TOOL_MAX;
use crate::prefetch::{self, PrefetchSettings, Prefetcher};
use crate::staged::{self, Staged};
use crate::workspace::InputTree;
use crate::{Failure, Limits, outputs};

mod audit;

use audit::Audited;

/// The type under which a worker reports the names of a command's streams among its auxiliary metadata.
pub const STREAM_NAMES: &str = "build.bazel.remote.execution.v2.ExecuteOperationMetadata";

/// What a worker is made from.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// The name that results carry.
    pub name: String,
    /// A folder of its own: staged input roots and compiled modules.
    pub folder: PathBuf,
    /// Actions run at once.
    pub slots: usize,
    /// Memory for actions that say how much they need, in bytes; `None` when only slots count.
    pub memory_bytes: Option<u64>,
    /// Whether actions that are not Wasm are run as processes of this machine.
    pub native: bool,
    /// How these are confined.
    pub sandbox: SandboxSettings,
    /// Further properties to offer, such as `pool=large`.
    pub properties: Vec<(String, String)>,
    /// Limits of each action.
    pub limits: Limits,
    /// How modules are compiled.
    pub compile: CompileSettings,
}

/// Runs actions until its queue shuts down.
pub struct Worker {
    config: WorkerConfig,
    store: Arc<dyn BlobStore>,
    queue: Arc<dyn WorkQueue>,
    wasm: WasmExecutor,
    native: Option<NativeExecutor>,
    logs: Arc<dyn Logs>,
    prefetcher: Option<Prefetcher>,
}

impl Worker {
    /// Prepares the worker's folder. What an earlier run of the worker left staged there is removed.
    pub fn new(
        config: WorkerConfig,
        store: Arc<dyn BlobStore>,
        queue: Arc<dyn WorkQueue>,
    ) -> anyhow::Result<Self> {
        staged::prepare(&config.folder.join("staged"))?;
        let compiled = config.folder.join("compiled");
        let wasm =
            WasmExecutor::new(&compiled, Arc::clone(&store), config.slots, &config.limits, &config.compile)?;
        let staged = config.folder.join("staged");
        let native =
            || NativeExecutor::new(&config.limits, &config.sandbox, &config.compile.program, &staged);
        let native = config.native.then(native).transpose()?;
        Ok(Self { config, store, queue, wasm, native, logs: Arc::new(NoLogs), prefetcher: None })
    }

    /// Where commands write what can be followed while they run; nowhere unless this is called.
    #[must_use]
    pub fn with_logs(self, logs: Arc<dyn Logs>) -> Self {
        Self { logs, ..self }
    }

    /// Fetches inputs ahead into `near`, which is the part of the store that is here and may hold `near_bytes_max`. For a
    /// worker whose store is elsewhere, and brings large blobs near as a whole when they are read.
    #[must_use]
    pub fn with_prefetch(
        self,
        near: Arc<dyn BlobStore>,
        near_bytes_max: u64,
        settings: PrefetchSettings,
    ) -> Self {
        let source = prefetch::Source {
            store: Arc::clone(&self.store),
            near,
            near_bytes_max,
            inputs: self.wasm.inputs(),
            has_code: self.wasm.code_finder(),
        };
        let prefetcher = Prefetcher::new(source, self.config.limits.clone(), settings);
        Self { prefetcher: settings.enabled.then_some(prefetcher), ..self }
    }

    /// What fetches inputs ahead, so that it can begin before an action has its slot.
    pub fn prefetcher(&self) -> Option<Prefetcher> {
        self.prefetcher.clone()
    }

    /// The modules of registered toolchains; more can be added at any time.
    pub fn trusted(&self) -> TrustedModules {
        self.wasm.trusted()
    }

    fn offer(&self) -> Offer {
        let mut properties: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut add = |name: &str, value: &str| properties.entry(name.into()).or_default().push(value.into());
        add("OSFamily", "wasi");
        add("ISA", "wasm32");
        if let Some(native) = &self.native {
            add("OSFamily", os_family());
            add("ISA", isa());
            for (name, value) in native.properties() {
                add(name, value);
            }
        }
        for (name, value) in &self.config.properties {
            add(name, value);
        }
        let WorkerConfig { name, slots, memory_bytes, .. } = &self.config;
        Offer { name: name.clone(), properties, slots: *slots, memory_bytes: *memory_bytes, ahead: 0 }
    }

    /// Makes the worker known to its queue and starts its slots.
    ///
    /// The set ends when the queue shuts down and every action that was running has ended.
    pub async fn start(self) -> JoinSet<()> {
        let worker = self.queue.register(self.offer()).await;
        let shared = Arc::new(self);
        let mut slots = JoinSet::new();
        for _ in 0..shared.config.slots {
            let shared = Arc::clone(&shared);
            slots.spawn(async move {
                while let Some(assignment) = shared.queue.next(worker).await {
                    shared.serve(worker, assignment).await;
                }
            });
        }
        slots
    }

    async fn serve(self: &Arc<Self>, worker: WorkerId, assignment: Assignment) {
        let (run, action) = (assignment.run, assignment.job.action);
        if let Some(prefetcher) = &self.prefetcher {
            prefetcher.begin(action, assignment.cancelled.clone());
        }
        let shared = Arc::clone(self);
        // A task of its own: a panic in an executor ends one action, not the slot.
        let served = tokio::spawn(async move {
            let mut progress = Progress::new(&shared, &assignment);
            let response = shared.execute(&assignment, &mut progress).await;
            progress.respond(response)
        });
        let response = served.await.unwrap_or_else(|panic| {
            tracing::error!(?panic, "an action panicked the worker");
            let failure = Failure::Internal("the worker failed; its log has the reason".into());
            reapi::ExecuteResponse { status: Some(failure.to_status()), ..Default::default() }
        });
        if let Some(prefetcher) = &self.prefetcher {
            prefetcher.ended(action);
        }
        self.queue.complete(worker, run, response).await;
    }

    async fn execute(
        &self,
        assignment: &Assignment,
        progress: &mut Progress<'_>,
    ) -> Result<(reapi::ActionResult, Option<Failure>), Failure> {
        progress.metadata.input_fetch_start_timestamp = now();
        progress.report("fetching inputs").await;
        let cancelled = &assignment.cancelled;
        let read = action::read(&*self.store, assignment.job.action, &self.config.limits);
        let spec = unless_cancelled(cancelled, read).await?;
        match self.run(&spec, assignment, progress).await {
            Ok((result, Some(failure))) => Ok((result, Some(self.with_all_missing(failure, &spec).await))),
            Ok(ended) => Ok(ended),
            Err(failure) => Err(self.with_all_missing(failure, &spec).await),
        }
    }

    async fn run(
        &self,
        spec: &ActionSpec,
        assignment: &Assignment,
        progress: &mut Progress<'_>,
    ) -> Result<(reapi::ActionResult, Option<Failure>), Failure> {
        let cancelled = &assignment.cancelled;
        let tree = self.wasm.tree(spec.input_root);
        let executor = unless_cancelled(cancelled, self.choose(spec, &tree)).await?;
        // Streams are opened when the command is about to run: waiting actions need none.
        let mut task = Task {
            spec,
            tree: &tree,
            cancelled: cancelled.clone(),
            stdout: Log::default(),
            stderr: Log::default(),
        };
        if spec.wasm.audit_runs > 0 && executor.variants(&task).await.is_empty() {
            return Err(Failure::InvalidArgument(format!(
                "platform property wasi-audit is for WebAssembly, and tool {:?} is none",
                spec.arguments[0]
            )));
        }
        progress.metadata.worker = format!("{}/{}", self.config.name, executor.name());
        let awaited = executor.awaits(&task).await;
        progress.report(awaited.as_deref().unwrap_or("preparing the tool")).await;
        let started = Instant::now();
        let layout = unless_cancelled(cancelled, executor.prepare(&task)).await?;
        let compile_wait = awaited.map(|_| started.elapsed());
        if let Some(wait) = compile_wait {
            progress.note(format!("waited {:.1} s for the tool to be compiled", wait.as_secs_f64()));
        }
        let files = unless_cancelled(cancelled, self.lay_out(layout, spec, &tree)).await?;
        progress.metadata.input_fetch_completed_timestamp = now();
        progress.metadata.execution_start_timestamp = now();
        let open = || Log::open(&*self.logs, &assignment.job.instance);
        (task.stdout, task.stderr) = (open(), open());
        progress.names(&task);
        progress.report("running the command").await;
        let (mut outcome, files) = executor.run(&task, files).await?;
        if let (Some(prefetcher), Files::Workspace(workspace)) = (&self.prefetcher, &files) {
            prefetcher.learn(spec, workspace.files_read(PATHS_PER_TOOL_MAX));
        }
        let Finished { stdout, stderr, .. } = outcome.finished_mut();
        task.stdout.complete(stdout);
        task.stderr.complete(stderr);
        let (mut finished, failure) = match outcome {
            // Nobody would look at what it left.
            Outcome::CutShort(_, Failure::Cancelled) => return Err(Failure::Cancelled),
            Outcome::Exited(finished) => (finished, None),
            Outcome::CutShort(finished, failure) => (finished, Some(failure)),
        };
        progress.message = finished.remark.take().unwrap_or_default();
        progress.metadata.execution_completed_timestamp = now();
        progress.metadata.virtual_execution_duration = finished.duration.try_into().ok();
        progress.metadata.output_upload_start_timestamp = now();
        progress.report("uploading outputs").await;
        if let Some(mut usage) = finished.usage.take() {
            usage.compile_wait = compile_wait.and_then(|wait| wait.try_into().ok());
            if let Some(observations) = usage::split(&mut usage, spec.action.function()) {
                self.store.put(observations).await?;
            }
            progress.metadata.auxiliary_metadata.push(pack_any("wardian.v1.WasmUsage", &*usage));
        }
        if let Some(usage) = finished.native_usage.take() {
            progress.metadata.auxiliary_metadata.push(pack_any("wardian.v1.NativeUsage", &usage));
        }
        let (mut result, failure) = match (self.collect(files, spec).await, failure) {
            (Ok(result), failure) => (result, failure),
            // What was cut short may have left anything; its own failure says more.
            (Err(_), Some(failure)) => (reapi::ActionResult::default(), Some(failure)),
            (Err(failure), None) => (reapi::ActionResult::default(), Some(failure)),
        };
        self.add_streams(&mut result, finished, spec.action.function()).await?;
        progress.metadata.output_upload_completed_timestamp = now();
        if spec.wasm.audit_runs > 0 && failure.is_none() {
            let audited = Audited { spec, tree: &tree, executor, cancelled };
            let audit = self.audit(&audited, &result, progress).await?;
            progress.metadata.auxiliary_metadata.push(pack_any("wardian.v1.WasmAudit", &audit));
        }
        Ok((result, failure))
    }

    /// Makes the files of a command: all of them, or none before the command looks at them.
    async fn lay_out(&self, layout: Layout, spec: &ActionSpec, tree: &InputTree) -> Result<Files, Failure> {
        let (store, limits, folder) = (&*self.store, &self.config.limits, self.staged_folder());
        match layout {
            Layout::Workspace => Ok(Files::Workspace(Box::new(tree.workspace(&spec.wasm.limits, folder)))),
            Layout::Staged => {
                let input = InputRoot::read(store, spec.input_root, limits).await?;
                let staged = Staged::new(&folder)?;
                input.stage(store, staged.path(), limits).await?;
                if let Some(prefetcher) = &self.prefetcher {
                    prefetcher.used(input.files());
                }
                make_directories(staged.path(), spec.made_directories()).await?;
                Ok(Files::Staged(staged))
            }
        }
    }

    async fn collect(&self, files: Files, spec: &ActionSpec) -> Result<reapi::ActionResult, Failure> {
        let (store, limits) = (&*self.store, &self.config.limits);
        match files {
            Files::Staged(staged) => {
                let source = Arc::new(outputs::StagedOutputs::open(staged.path())?);
                outputs::collect(store, source, spec, limits).await
            }
            Files::Workspace(workspace) => {
                let source = Arc::new(outputs::WorkspaceOutputs::new(*workspace));
                outputs::collect(store, source, spec, limits).await
            }
        }
    }

    /// Whoever met a missing input stopped at the first. The client is told of all of them.
    async fn with_all_missing(&self, failure: Failure, spec: &ActionSpec) -> Failure {
        if !matches!(failure, Failure::MissingBlobs(_)) {
            return failure;
        }
        match InputRoot::read(&*self.store, spec.input_root, &self.config.limits).await {
            Err(all @ Failure::MissingBlobs(_)) => all,
            _ => failure,
        }
    }

    fn staged_folder(&self) -> PathBuf {
        self.config.folder.join("staged")
    }

    /// Wasm when the platform says so, or says nothing and the tool is a module; else native.
    async fn choose(&self, spec: &ActionSpec, tree: &InputTree) -> Result<&dyn Executor, Failure> {
        if !tree.has_directory(&spec.working_directory).await? {
            return Err(Failure::InvalidArgument(format!(
                "Command.working_directory {} is not a directory of the input root",
                spec.working_directory
            )));
        }
        let wasm = match action::is_wasm_by_platform(&spec.platform) {
            Some(said) => said,
            None => self.wasm.is_wasm(tree, spec).await?,
        };
        let isa_fits = |isa: &str| (isa == "wasm32") == wasm;
        if let Some((_, isa)) = spec.platform.iter().find(|(name, value)| *name == "ISA" && !isa_fits(value))
        {
            return Err(Failure::FailedPrecondition(format!(
                "platform asks for ISA={isa}, which the executor for this action does not have"
            )));
        }
        if wasm {
            return Ok(&self.wasm);
        }
        let native = self.native.as_ref().map(|native| native as &dyn Executor);
        native.ok_or_else(|| {
            Failure::FailedPrecondition(format!(
                "tool {:?} is no WebAssembly module, and worker {} runs nothing else \
                 (worker.native is off)",
                spec.arguments[0], self.config.name
            ))
        })
    }

    async fn add_streams(
        &self,
        result: &mut reapi::ActionResult,
        finished: Finished,
        function: DigestFunction,
    ) -> Result<(), Failure> {
        let digests: Vec<Digest> =
            [&finished.stdout, &finished.stderr].map(|bytes| function.digest(bytes)).to_vec();
        for (digest, bytes) in digests.iter().zip([finished.stdout, finished.stderr]) {
            self.store.put(Upload::bytes(*digest, bytes)).await?;
        }
        result.exit_code = finished.exit_code;
        result.stdout_digest = Some(digests[0].to_wire());
        result.stderr_digest = Some(digests[1].to_wire());
        Ok(())
    }
}

/// Gives up on preparations when nobody waits for the action any more.
async fn unless_cancelled<T>(
    cancelled: &watch::Receiver<bool>,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let mut cancelled = cancelled.clone();
    tokio::select! {
        done = work => done,
        Ok(_) = cancelled.wait_for(|stop| *stop) => Err(Failure::Cancelled),
    }
}

/// The metadata of one run while it grows.
struct Progress<'a> {
    worker: &'a Worker,
    assignment: &'a Assignment,
    metadata: reapi::ExecutedActionMetadata,
    /// Names of the streams of the running command.
    streams: Option<prost_types::Any>,
    /// What whoever started the action should know.
    message: String,
}

impl<'a> Progress<'a> {
    fn new(worker: &'a Worker, assignment: &'a Assignment) -> Self {
        let metadata = reapi::ExecutedActionMetadata {
            worker: worker.config.name.clone(),
            queued_timestamp: Some(assignment.queued_at.into()),
            worker_start_timestamp: now(),
            ..Default::default()
        };
        Self { worker, assignment, metadata, streams: None, message: String::new() }
    }

    /// Tells whoever waits what happens now, as a `google.protobuf.StringValue`.
    async fn report(&self, doing: &str) {
        let mut metadata = self.metadata.clone();
        metadata.auxiliary_metadata.push(text(doing));
        metadata.auxiliary_metadata.extend(self.streams.clone());
        self.worker.queue.progress(self.assignment.run, metadata).await;
    }

    /// Names the streams of the command in every further report, as an `ExecuteOperationMetadata`: it is for the
    /// operations, and no part of a result.
    fn names(&mut self, task: &Task<'_>) {
        let names = reapi::ExecuteOperationMetadata {
            stdout_stream_name: task.stdout.name().to_owned(),
            stderr_stream_name: task.stderr.name().to_owned(),
            ..Default::default()
        };
        self.streams = Some(pack_any(STREAM_NAMES, &names));
    }

    /// Keeps a remark for whoever looks at the result.
    fn note(&mut self, remark: String) {
        self.metadata.auxiliary_metadata.push(text(&remark));
    }

    fn respond(
        mut self,
        ended: Result<(reapi::ActionResult, Option<Failure>), Failure>,
    ) -> reapi::ExecuteResponse {
        self.metadata.worker_completed_timestamp = now();
        let (result, failure) = match ended {
            Ok((result, failure)) => (Some(result), failure),
            Err(failure) => (None, Some(failure)),
        };
        if let Some(failure) = &failure {
            tracing::info!(action = %self.assignment.job.action, %failure, "action did not finish");
        }
        let metadata = self.metadata;
        let ok = || rpc::Status { code: rpc::Code::Ok.into(), ..Default::default() };
        reapi::ExecuteResponse {
            result: result.map(|r| reapi::ActionResult { execution_metadata: Some(metadata), ..r }),
            status: Some(failure.as_ref().map_or_else(ok, Failure::to_status)),
            message: self.message,
            ..Default::default()
        }
    }
}

fn text(text: &str) -> prost_types::Any {
    pack_any("google.protobuf.StringValue", &text.to_owned())
}

fn now() -> Option<prost_types::Timestamp> {
    Some(SystemTime::now().into())
}

/// This machine's `OSFamily` in the words of the platform lexicon.
fn os_family() -> &'static str {
    std::env::consts::OS
}

/// This machine's base `ISA` in the words of the platform lexicon.
fn isa() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "x86-64",
        "aarch64" => "arm-a64",
        other => other,
    }
}

/// How long a shutdown waits for running actions.
pub const DRAIN_TIME_MAX: Duration = Duration::from_secs(30);
