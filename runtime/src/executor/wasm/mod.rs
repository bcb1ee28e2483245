//! Runs a command as a WebAssembly guest: WASI preview-1 modules and preview-2 command components.
//!
//! A guest sees its input root, its arguments and its environment, and nothing else of the machine: no
//! network, no other directory, no host environment. Modules run over a workspace on a thread of the worker,
//! components over a staged folder in a process of their own.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::runtime::Handle;
use wardian_proto::{Digest, RelPath};
use wardian_scheduler::Platform;
use wardian_store::{BlobStore, ByteRange, StoreError};

use super::{Executor, Files, Layout, Outcome, Task};
use crate::action::ActionSpec;
use crate::logs::Log;
use crate::wasi::Deadline;
use crate::workspace::{InputTree, Inputs};
use crate::{Failure, Limits};

mod artifacts;
pub mod compile;
pub mod component;
mod engines;
mod guest;
mod limiter;
mod link;
mod modules;
mod refusals;
mod settings;
mod threads;
pub(crate) mod usage;

use compile::{CompileSettings, TrustedModules};
pub(crate) use engines::Tier;
use link::Loaded;
use modules::Modules;
pub use settings::WasmSettings;
use threads::GuestThreads;

/// How often a running guest is asked whether it should stop.
const EPOCH_TICK: Duration = Duration::from_millis(10);

/// The first bytes of every module and component.
const MAGIC: &[u8; 4] = b"\0asm";

/// Runs guests in one engine.
pub struct WasmExecutor {
    modules: Modules,
    store: Arc<dyn BlobStore>,
    inputs: Arc<Inputs>,
    limits: Limits,
    threads: GuestThreads,
    /// Runs components.
    program: PathBuf,
    ticker: Arc<AtomicBool>,
}

impl WasmExecutor {
    /// An executor that keeps compiled modules in `folder`, which must be private to this worker, and runs
    /// as many guests at once as there are `slots`. Must be called inside of a tokio runtime.
    pub fn new(
        folder: &Path,
        store: Arc<dyn BlobStore>,
        slots: usize,
        limits: &Limits,
        settings: &CompileSettings,
    ) -> anyhow::Result<Self> {
        let modules = Modules::open(folder, Arc::clone(&store), slots, limits, settings.clone())?;
        modules.warm(&settings.warm);
        let ticker = Arc::new(AtomicBool::new(true));
        let (engines, running) = (modules.engines(), Arc::clone(&ticker));
        std::thread::Builder::new().name("epoch-ticker".into()).spawn(move || {
            while running.load(Ordering::Relaxed) {
                std::thread::sleep(EPOCH_TICK);
                engines.iter().for_each(wasmtime::Engine::increment_epoch);
            }
        })?;
        let (cache_bytes_max, message_bytes_max) =
            (limits.wasm_input_cache_bytes_max, limits.tree.directory_bytes_max);
        let inputs = Inputs::new(Arc::clone(&store), Handle::current(), cache_bytes_max, message_bytes_max);
        let threads = GuestThreads::new(slots, Handle::current());
        let (limits, program) = (limits.clone(), settings.program.clone());
        Ok(Self { modules, store, inputs, limits, threads, program, ticker })
    }

    /// The modules of registered toolchains; more can be added at any time.
    pub fn trusted(&self) -> TrustedModules {
        self.modules.trusted().clone()
    }

    /// The input tree of an action.
    pub(crate) fn tree(&self, root: Digest) -> InputTree {
        InputTree::new(Arc::clone(&self.inputs), root)
    }

    /// What the input trees of all actions are read through.
    pub(crate) fn inputs(&self) -> Arc<Inputs> {
        Arc::clone(&self.inputs)
    }

    /// Says whether there is machine code of a module, for as long as it is asked.
    pub(crate) fn code_finder(&self) -> Box<dyn Fn(&Digest) -> bool + Send + Sync> {
        self.modules.finder()
    }

    /// Runs a module over an empty input root with nothing around it, to measure what that costs.
    #[doc(hidden)]
    pub async fn run_bare(&self, module: &Digest, spill_folder: &Path) -> Result<Outcome, Failure> {
        let ready = self.modules.get(module, None).await?;
        let (_, cancelled) = tokio::sync::watch::channel(false);
        let run = guest::Run {
            arguments: vec!["bare".into()],
            environment: vec![],
            working_directory: RelPath::root(),
            made_directories: vec![],
            named_directories: vec![],
            action: *module,
            deadline: Deadline::start(self.limits.action_timeout_max, cancelled),
            settings: WasmSettings::parse(&Platform::default(), &self.limits)?,
            stdout: Log::default(),
            stderr: Log::default(),
        };
        let tree = self.tree(Digest::empty(module.function()));
        let files = Files::Workspace(Box::new(tree.workspace(&self.limits, spill_folder.to_owned())));
        self.on_thread(ready.loaded, run, files).await.map(|(outcome, _)| outcome)
    }

    /// Runs a preview-1 module on a thread of the guests.
    async fn on_thread(
        &self,
        module: Arc<Loaded>,
        run: guest::Run,
        files: Files,
    ) -> Result<(Outcome, Files), Failure> {
        let guest = move || match (&*module, files) {
            (Loaded::Core(pre), Files::Workspace(workspace)) => {
                let (outcome, workspace) = run.finish(pre, *workspace)?;
                Ok((outcome, Files::Workspace(Box::new(workspace))))
            }
            _ => Err(Failure::Internal("a guest was given files of the wrong layout".into())),
        };
        self.threads.run(guest).await
    }

    /// Whether argv[0] leads to a file of the input root that starts like a Wasm module.
    pub(crate) async fn is_wasm(&self, tree: &InputTree, spec: &ActionSpec) -> Result<bool, Failure> {
        if !spec.arguments[0].contains('/') {
            return Ok(false);
        }
        let Ok(path) = tool_path(&spec.working_directory, &spec.arguments[0]) else { return Ok(false) };
        let Some(file) = tree.file(&path).await? else { return Ok(false) };
        if self.modules.knows(&file, None) {
            return Ok(true);
        }
        let head = ByteRange { offset: 0, limit: Some(MAGIC.len() as u64) };
        let head = wardian_store::collect(self.store.read(&file, head).await?).await?;
        Ok(head[..] == MAGIC[..])
    }

    /// Finds the module that argv[0] names.
    async fn tool(&self, task: &Task<'_>) -> Result<Digest, Failure> {
        let spec = task.spec;
        let candidates = candidates(&spec.working_directory, &spec.arguments[0], &spec.environment);
        for path in &candidates {
            if let Some(file) = task.tree.file(path).await? {
                return Ok(file);
            }
        }
        let looked: Vec<String> = candidates.iter().take(8).map(ToString::to_string).collect();
        Err(Failure::FailedPrecondition(format!(
            "tool {:?} is not in the input root (looked for {})",
            spec.arguments[0],
            looked.join(", ")
        )))
    }

    fn settings<'a>(&self, task: &Task<'a>) -> Result<&'a WasmSettings, Failure> {
        let settings = &task.spec.wasm;
        match settings.tier {
            Some(tier) if !self.modules.tiers().contains(&tier) => Err(Failure::FailedPrecondition(format!(
                "platform property wasm-tier={tier} asks for what this worker does not have (setting \
                 worker.compile.baseline)"
            ))),
            _ => Ok(settings),
        }
    }
}

impl Drop for WasmExecutor {
    fn drop(&mut self) {
        self.ticker.store(false, Ordering::Relaxed);
    }
}

/// A tool's path with a slash, as a path of the input root. The guest's `/` is the input root.
fn tool_path(working_directory: &RelPath, name: &str) -> Result<RelPath, wardian_proto::PathError> {
    match name.strip_prefix('/') {
        Some(absolute) => RelPath::root().resolve(absolute),
        None => working_directory.resolve(name),
    }
}

/// Where argv[0] may be: its path, or for a bare name each folder of PATH, then the working directory.
pub(crate) fn candidates(
    working_directory: &RelPath,
    name: &str,
    environment: &[(String, String)],
) -> Vec<RelPath> {
    if name.contains('/') {
        return tool_path(working_directory, name).into_iter().collect();
    }
    let path = environment.iter().find(|(n, _)| n == "PATH").map_or("", |(_, value)| value);
    let folders = path.split(':').filter(|folder| !folder.is_empty());
    let on_path = folders.filter_map(|f| tool_path(working_directory, &format!("{f}/{name}")).ok());
    on_path.chain(working_directory.resolve(name)).collect()
}

pub(crate) fn too_much_output(stream: &str, bytes_max: usize) -> Failure {
    Failure::ResourceExhausted(format!(
        "the command wrote more than {bytes_max} bytes to {stream} (limit stdout_bytes_max)"
    ))
}

#[async_trait]
impl Executor for WasmExecutor {
    fn name(&self) -> &'static str {
        "wasm"
    }

    async fn awaits(&self, task: &Task<'_>) -> Option<String> {
        // Without a tool or with bad properties, `prepare` fails and says why.
        let (tool, settings) = (self.tool(task).await.ok()?, self.settings(task).ok()?);
        self.modules.awaits(&tool, settings.tier)
    }

    /// The same at each tier of machine code, those first that it does not run at otherwise. Only one of them
    /// counts fuel, and where that is a limit there is no other.
    async fn variants(&self, task: &Task<'_>) -> Vec<WasmSettings> {
        let settings = &task.spec.wasm;
        let Ok(tool) = self.tool(task).await else { return Vec::new() };
        if settings.fuel.is_some() {
            return vec![settings.clone()];
        }
        let first = settings.tier.unwrap_or(Tier::Optimized);
        let mut tiers = self.modules.tiers_of(&tool);
        tiers.sort_by_key(|tier| *tier == first);
        tiers.into_iter().map(|tier| WasmSettings { tier: Some(tier), ..settings.clone() }).collect()
    }

    /// Compiles the module, or waits for whoever compiles it already.
    async fn prepare(&self, task: &Task<'_>) -> Result<Layout, Failure> {
        let settings = self.settings(task)?;
        let module = self.modules.get(&self.tool(task).await?, settings.tier).await?;
        Ok(match *module.loaded {
            Loaded::Core(_) => Layout::Workspace,
            Loaded::Component(_) => Layout::Staged,
        })
    }

    async fn run(&self, task: &Task<'_>, files: Files) -> Result<(Outcome, Files), Failure> {
        let settings = self.settings(task)?;
        let tool = self.tool(task).await?;
        let module = self.modules.get(&tool, settings.tier).await?;
        let spec = task.spec;
        let (mut outcome, files) = match (&*module.loaded, files) {
            (Loaded::Component(code), Files::Staged(staged)) => {
                let run = component::Run {
                    program: &self.program,
                    code,
                    tier: module.tier,
                    spec,
                    settings,
                    root: staged.path(),
                    cancelled: task.cancelled.clone(),
                    stdout: task.stdout.clone(),
                    stderr: task.stderr.clone(),
                };
                (run.finish().await?, Files::Staged(staged))
            }
            (_, files) => {
                let run = guest::Run {
                    arguments: spec.arguments.clone(),
                    environment: spec.environment.clone(),
                    working_directory: spec.working_directory.clone(),
                    made_directories: spec.made_directories(),
                    named_directories: spec.directories.clone(),
                    action: spec.action,
                    deadline: Deadline::start(spec.timeout, task.cancelled.clone()),
                    settings: settings.clone(),
                    stdout: task.stdout.clone(),
                    stderr: task.stderr.clone(),
                };
                self.on_thread(Arc::clone(&module.loaded), run, files).await?
            }
        };
        if let Some(usage) = &mut outcome.finished_mut().usage {
            usage.module_digest = Some(tool.to_wire());
            usage.compiler = compiler(module.tier).to_owned();
        }
        Ok((outcome, files))
    }
}

/// The compiler of a tier.
fn compiler(tier: Tier) -> &'static str {
    match tier {
        Tier::Baseline => "winch",
        Tier::Optimized | Tier::Metered => "cranelift",
    }
}

/// Reads a module's bytes; a missing blob is named as such.
async fn read_module(
    store: &dyn BlobStore,
    digest: &Digest,
    limits: &Limits,
) -> Result<bytes::Bytes, Failure> {
    match store.get(digest, limits.wasm_module_bytes_max).await {
        Ok(bytes) => Ok(bytes),
        Err(StoreError::TooLarge { .. }) => Err(Failure::InvalidArgument(format!(
            "module {digest} is larger than {} bytes (limit wasm_module_bytes_max)",
            limits.wasm_module_bytes_max
        ))),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &str, name: &str, path: Option<&str>) -> Vec<String> {
        let environment: Vec<_> = path.map(|p| ("PATH".to_owned(), p.to_owned())).into_iter().collect();
        let directory = RelPath::parse(directory).unwrap();
        candidates(&directory, name, &environment).iter().map(|p| p.as_str().to_owned()).collect()
    }

    #[test]
    fn tools_are_looked_up_inside_the_input_root() {
        assert_eq!(names("", "bin/clang", None), ["bin/clang"]);
        assert_eq!(names("work", "../bin/clang", None), ["bin/clang"]);
        assert_eq!(names("work", "/bin/clang", None), ["bin/clang"]);
        assert_eq!(names("work", "tool", None), ["work/tool"]);
        assert_eq!(names("work", "tool", Some("/bin:sub")), ["bin/tool", "work/sub/tool", "work/tool"]);
        assert_eq!(names("work", "../../etc/passwd", None), Vec::<String>::new());
        assert_eq!(names("", "/../x", None), Vec::<String>::new());
    }
}
