//! Runs a command as a WebAssembly guest: WASI preview-1 modules and preview-2 command components.
//!
//! A guest sees the staged input root, its arguments and its environment, and nothing else of the
//! machine: no network, no other directory, no host environment.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use wardian_proto::{FileEntry, RelPath};
use wardian_store::{BlobStore, ByteRange, StoreError};

use super::{Executor, Outcome, Task};
use crate::input_root::{InputRoot, blocking};
use crate::{Failure, Limits};

mod artifacts;
pub mod compile;
mod engines;
mod guest;
mod link;
mod modules;

use compile::{CompileSettings, TrustedModules};
use engines::Tier;
use modules::Modules;

/// How often a running guest is asked whether it should stop.
const EPOCH_TICK: Duration = Duration::from_millis(10);

/// The first bytes of every module and component.
const MAGIC: &[u8; 4] = b"\0asm";

/// Runs guests in one engine.
pub struct WasmExecutor {
    modules: Modules,
    store: Arc<dyn BlobStore>,
    limits: Limits,
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
        Ok(Self { modules, store, limits: limits.clone(), ticker })
    }

    /// The modules of registered toolchains; more can be added at any time.
    pub fn trusted(&self) -> TrustedModules {
        self.modules.trusted().clone()
    }

    /// The values of the platform property `wasm-tier` that actions may have here.
    pub(crate) fn tiers(&self) -> Vec<String> {
        self.modules.tiers().iter().map(ToString::to_string).collect()
    }

    /// Runs a module in a folder with nothing around it, to measure what that costs.
    #[doc(hidden)]
    pub async fn run_bare(&self, module: &wardian_proto::Digest, folder: &Path) -> Result<Outcome, Failure> {
        let module = self.modules.get(module, None).await?;
        let (_, cancelled) = tokio::sync::watch::channel(false);
        let run = guest::Run {
            arguments: vec!["bare".into()],
            environment: vec![],
            root: folder.to_owned(),
            working_directory: folder.to_owned(),
            timeout: self.limits.action_timeout_max,
            cancelled,
            limits: self.limits.clone(),
        };
        blocking(move || run.finish(&module.loaded)).await
    }

    /// Whether argv[0] leads to a file of the input root that starts like a Wasm module.
    pub(crate) async fn is_wasm(
        &self,
        input: &InputRoot,
        spec: &crate::action::ActionSpec,
    ) -> Result<bool, Failure> {
        if !spec.arguments[0].contains('/') {
            return Ok(false);
        }
        let Ok(path) = tool_path(&spec.working_directory, &spec.arguments[0]) else { return Ok(false) };
        let Some(file) = input.file(&path) else { return Ok(false) };
        if self.modules.knows(&file.digest, None) {
            return Ok(true);
        }
        let head = ByteRange { offset: 0, limit: Some(MAGIC.len() as u64) };
        let head = wardian_store::collect(self.store.read(&file.digest, head).await?).await?;
        Ok(head[..] == MAGIC[..])
    }

    fn tool<'a>(&self, task: &Task<'a>) -> Result<&'a FileEntry, Failure> {
        let spec = task.spec;
        let candidates = candidates(&spec.working_directory, &spec.arguments[0], &spec.environment);
        let found = candidates.iter().find_map(|path| task.input.file(path));
        found.ok_or_else(|| {
            let looked: Vec<String> = candidates.iter().take(8).map(ToString::to_string).collect();
            Failure::FailedPrecondition(format!(
                "tool {:?} is not in the input root (looked for {})",
                spec.arguments[0],
                looked.join(", ")
            ))
        })
    }
}

impl Drop for WasmExecutor {
    fn drop(&mut self) {
        self.ticker.store(false, Ordering::Relaxed);
    }
}

/// The platform property that names the tier to run at. An audit compares tiers; nobody else needs it.
pub(crate) const TIER_PROPERTY: &str = "wasm-tier";

/// The tier that an action asks for.
fn tier(spec: &crate::action::ActionSpec) -> Result<Option<Tier>, Failure> {
    let tier = spec.platform.get(TIER_PROPERTY).map(str::parse).transpose();
    tier.map_err(|why| Failure::InvalidArgument(format!("platform property {TIER_PROPERTY}: {why}")))
}

/// A tool's path with a slash, as a path of the input root. The guest's `/` is the input root.
fn tool_path(working_directory: &RelPath, name: &str) -> Result<RelPath, wardian_proto::PathError> {
    match name.strip_prefix('/') {
        Some(absolute) => RelPath::root().resolve(absolute),
        None => working_directory.resolve(name),
    }
}

/// Where argv[0] may be: its path, or for a bare name each folder of PATH, then the working directory.
fn candidates(working_directory: &RelPath, name: &str, environment: &[(String, String)]) -> Vec<RelPath> {
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

    fn awaits(&self, task: &Task<'_>) -> Option<String> {
        // Without a tool, `prepare` fails and says why.
        let tool = self.tool(task).ok()?;
        self.modules.awaits(&tool.digest, tier(task.spec).ok()?)
    }

    /// Compiles the module, or waits for whoever compiles it already.
    async fn prepare(&self, task: &Task<'_>) -> Result<(), Failure> {
        let tool = self.tool(task)?;
        self.modules.get(&tool.digest, tier(task.spec)?).await.map(|_| ())
    }

    async fn run(&self, task: &Task<'_>) -> Result<Outcome, Failure> {
        let tool = self.tool(task)?;
        let module = self.modules.get(&tool.digest, tier(task.spec)?).await?;
        let run = guest::Run {
            arguments: task.spec.arguments.clone(),
            environment: task.spec.environment.clone(),
            root: task.root.clone(),
            working_directory: task.root.join(task.spec.working_directory.as_str()),
            timeout: task.spec.timeout,
            cancelled: task.cancelled.clone(),
            limits: self.limits.clone(),
        };
        // A thread of its own: a guest that loops must not stall the runtime.
        blocking(move || run.finish(&module.loaded)).await
    }
}

/// Reads a module's bytes; a missing blob is named as such.
async fn read_module(
    store: &dyn BlobStore,
    digest: &wardian_proto::Digest,
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
