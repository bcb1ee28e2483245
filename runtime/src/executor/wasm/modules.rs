//! Compiled modules: made once, kept on disk and in memory.
//!
//! Compiled code is trusted code. It is only ever read from this worker's private folder, where only
//! this module writes; nothing that came from a client or from the CAS is loaded as compiled code. That
//! holds as long as actions are WebAssembly: a native action runs as the worker's own user and, until it is
//! sandboxed, can write wherever the worker can.

use std::collections::HashMap;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use anyhow::Context as _;
use tokio::sync::{OnceCell, Semaphore};
use wardian_proto::Digest;
use wardian_store::BlobStore;
use wasmtime::component::Component;
use wasmtime::{Config, Engine, Linker, Module};

use super::guest::{self, Guest};
use crate::input_root::blocking;
use crate::{Failure, Limits};

/// Compilations at once. One of a large module uses every core and gigabytes of memory.
const COMPILATIONS_MAX: usize = 1;

/// Stack of a guest's own calls. Compilers recurse deeply; 512 KiB, the engine's default, is little.
const GUEST_STACK_BYTES: usize = 8 << 20;

/// Stack of a guest and of the host functions that it calls.
const FIBER_STACK_BYTES: usize = GUEST_STACK_BYTES + (2 << 20);

/// A module that can be instantiated.
pub(super) enum Loaded {
    /// A WASI preview-1 command.
    Core(wasmtime::InstancePre<Guest>),
    /// A WASI preview-2 command component.
    Component(wasmtime_wasi::p2::bindings::CommandPre<Guest>),
}

/// The modules of one engine.
pub(super) struct Modules {
    engine: Engine,
    folder: PathBuf,
    fingerprint: String,
    limits: Limits,
    loaded: Mutex<LoadedModules>,
    compilations: Arc<Semaphore>,
}

type Cell = Arc<OnceCell<Arc<Loaded>>>;

#[derive(Default)]
struct LoadedModules {
    cells: HashMap<Digest, (u64, Cell)>,
    clock: u64,
}

impl Modules {
    pub(super) fn open(folder: &Path, limits: &Limits) -> anyhow::Result<Self> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(folder).context("create folder of compiled modules")?;
        // It may have been there, with other rights. Fails when it is somebody else's.
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700))
            .context("make the folder of compiled modules private")?;
        // Leftovers of a compilation that was killed.
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "tmp") {
                fs::remove_file(path)?;
            }
        }
        let engine = Engine::new(&config()).map_err(anyhow::Error::from)?;
        Ok(Self {
            fingerprint: fingerprint(&engine),
            engine,
            folder: folder.to_owned(),
            limits: limits.clone(),
            loaded: Mutex::default(),
            compilations: Arc::new(Semaphore::new(COMPILATIONS_MAX)),
        })
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Returns a module ready to run, compiling it when this worker never saw it.
    ///
    /// Whoever asks for a module that is being compiled waits for that compilation.
    pub(super) async fn get(&self, store: &dyn BlobStore, digest: &Digest) -> Result<Arc<Loaded>, Failure> {
        let cell = self.cell(digest);
        cell.get_or_try_init(|| self.load_or_compile(store, digest)).await.cloned()
    }

    fn cell(&self, digest: &Digest) -> Cell {
        let mut loaded = self.loaded.lock().expect("no code that holds this lock panics");
        loaded.clock += 1;
        let now = loaded.clock;
        let entry = loaded.cells.entry(*digest).or_default();
        entry.0 = now;
        let cell = Arc::clone(&entry.1);
        if loaded.cells.len() > self.limits.wasm_modules_loaded_max {
            let oldest = loaded.cells.iter().min_by_key(|(_, (used, _))| *used).map(|(digest, _)| *digest);
            loaded.cells.remove(&oldest.expect("there is more than one"));
        }
        cell
    }

    async fn load_or_compile(&self, store: &dyn BlobStore, digest: &Digest) -> Result<Arc<Loaded>, Failure> {
        let path = self.folder.join(format!("{}-{}.cwasm", digest.hash_hex(), self.fingerprint));
        let engine = self.engine.clone();
        let cached = path.clone();
        let name = *digest;
        if let Some(loaded) = blocking(move || load(&engine, &name, &cached)).await? {
            return Ok(Arc::new(loaded));
        }
        let bytes = super::read_module(store, digest, &self.limits).await?;
        let permit = Arc::clone(&self.compilations).acquire_owned().await;
        let (engine, digest) = (self.engine.clone(), *digest);
        blocking(move || {
            // Held to the end of the work, also when nobody waits for it any more.
            let _permit = permit.expect("this semaphore is never closed");
            // Somebody may have gone away while compiling it; the work was finished all the same.
            if let Some(loaded) = load(&engine, &digest, &path)? {
                return Ok(Arc::new(loaded));
            }
            check(&engine, &digest, &bytes)?;
            let started = Instant::now();
            compile(&engine, &digest, &bytes, &path)?;
            tracing::info!(module = %digest, seconds = started.elapsed().as_secs_f64(), "compiled");
            let loaded = load(&engine, &digest, &path)?;
            let gone = || Failure::Internal(format!("compiled module {digest} could not be loaded"));
            loaded.map(Arc::new).ok_or_else(gone)
        })
        .await
    }
}

fn config() -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .cranelift_nan_canonicalization(true)
        .relaxed_simd_deterministic(true)
        .max_wasm_stack(GUEST_STACK_BYTES)
        .async_stack_size(FIBER_STACK_BYTES)
        .wasm_component_model(true)
        .wasm_exceptions(true);
    config
}

/// Engine version, target, and every setting that changes the machine code.
fn fingerprint(engine: &Engine) -> String {
    let mut hasher = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// Refuses what is no command of a kind that can be run, with the reason, before any time is spent.
fn check(engine: &Engine, digest: &Digest, bytes: &[u8]) -> Result<(), Failure> {
    let refuse = |why: String| Err(Failure::InvalidArgument(format!("module {digest}: {why}")));
    if !bytes.starts_with(super::MAGIC) {
        return refuse("it is no WebAssembly: it does not start with \\0asm".into());
    }
    match Module::validate(engine, bytes) {
        Ok(()) => Ok(()),
        // Components are validated while they are compiled.
        Err(_) if is_component(bytes) => Ok(()),
        Err(error) => refuse(format!("it is not valid: {error:#}")),
    }
}

/// Bytes 6 and 7 of the preamble tell a component (1) from a core module (0).
fn is_component(bytes: &[u8]) -> bool {
    bytes.get(6..8) == Some(&[1, 0])
}

/// Compiles into a file that appears whole or not at all.
fn compile(engine: &Engine, digest: &Digest, bytes: &[u8], path: &Path) -> Result<(), Failure> {
    let compiled = if is_component(bytes) {
        engine.precompile_component(bytes)
    } else {
        engine.precompile_module(bytes)
    };
    let compiled = compiled
        .map_err(|error| Failure::InvalidArgument(format!("module {digest} does not compile: {error:#}")))?;
    let folder = path.parent().expect("compiled modules are in a folder");
    let write = || -> std::io::Result<()> {
        let mut file = tempfile::Builder::new().suffix(".tmp").tempfile_in(folder)?;
        file.write_all(&compiled)?;
        // Machine code that was cut short by a power failure must never get the final name.
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    write().map_err(Failure::io("keep compiled module"))
}

/// Loads what a compilation left. `None`: there is nothing usable, so compile.
fn load(engine: &Engine, digest: &Digest, path: &Path) -> Result<Option<Loaded>, Failure> {
    let kind = match Engine::detect_precompiled_file(path) {
        Ok(kind) => kind,
        Err(_) if !path.exists() => return Ok(None),
        Err(error) => return Ok(unusable(path, &error)),
    };
    let linked = match kind {
        Some(wasmtime::Precompiled::Component) => {
            // SAFETY: the file is in a folder that only this user can write (0700), under a name that
            // only `compile` gives, after `precompile_component` of this engine made its bytes.
            match unsafe { Component::deserialize_file(engine, path) } {
                Ok(component) => link_component(engine, &component),
                Err(error) => return Ok(unusable(path, &error)),
            }
        }
        _ => {
            // SAFETY: as above, with `precompile_module`.
            match unsafe { Module::deserialize_file(engine, path) } {
                Ok(module) => link_module(engine, &module),
                Err(error) => return Ok(unusable(path, &error)),
            }
        }
    };
    linked
        .map(Some)
        .map_err(|why| Failure::InvalidArgument(format!("module {digest} cannot run here: {why}")))
}

fn unusable(path: &Path, error: &wasmtime::Error) -> Option<Loaded> {
    tracing::warn!(path = %path.display(), "compiled module is not usable: {error:#}");
    None
}

fn link_module(engine: &Engine, module: &Module) -> Result<Loaded, String> {
    let foreign: Vec<String> = module
        .imports()
        .filter(|import| import.module() != "wasi_snapshot_preview1")
        .map(|import| format!("{}::{}", import.module(), import.name()))
        .collect();
    if !foreign.is_empty() {
        return Err(format!("it imports what WASI preview 1 does not have: {}", foreign.join(", ")));
    }
    if module.get_export("_start").and_then(|export| export.func().cloned()).is_none() {
        return Err("it has no function _start: it is a library, not a command".into());
    }
    let mut linker: Linker<Guest> = Linker::new(engine);
    wasmtime_wasi::p1::add_to_linker_async(&mut linker, guest::preview1).map_err(|e| format!("{e:#}"))?;
    linker.instantiate_pre(module).map(Loaded::Core).map_err(|e| format!("{e:#}"))
}

fn link_component(engine: &Engine, component: &Component) -> Result<Loaded, String> {
    let link = || {
        let mut linker = wasmtime::component::Linker::new(engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
        wasmtime_wasi::p2::bindings::CommandPre::new(linker.instantiate_pre(component)?)
    };
    link().map(Loaded::Component).map_err(|e: wasmtime::Error| format!("{e:#}"))
}
