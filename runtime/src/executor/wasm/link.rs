//! Makes machine code into something that can be instantiated: loads it, and resolves its imports.

use std::fs::File;
use std::path::Path;

use wardian_proto::Digest;
use wasmtime::{Engine, Linker, Module, Precompiled};

use super::engines::{Engines, Tier};
use super::guest::{self, Guest};
use crate::Failure;

/// A module that can be instantiated.
pub(super) enum Loaded {
    /// A WASI preview-1 command.
    Core(wasmtime::InstancePre<Guest>),
    /// The machine code of a WASI preview-2 command component, for the process that is to run it. It stays open,
    /// so that it is there whatever becomes of the file's name.
    Component(File),
}

/// Bytes 6 and 7 of the preamble tell a component (1) from a core module (0).
pub(super) fn is_component(bytes: &[u8]) -> bool {
    bytes.get(6..8) == Some(&[1, 0])
}

/// Loads a file of machine code. `None`: it is not usable, so it has to be made again.
pub(super) fn load(
    engines: &Engines,
    tier: Tier,
    module: &Digest,
    path: &Path,
) -> Result<Option<Loaded>, Failure> {
    let linked = match Engine::detect_precompiled_file(path) {
        Ok(Some(Precompiled::Component)) => match File::open(path) {
            Ok(file) => return Ok(Some(Loaded::Component(file))),
            Err(error) => return Ok(unusable(path, &error.into())),
        },
        Ok(_) => match load_module(engines, tier, path) {
            Ok(module) => link_module(&module),
            Err(error) => return Ok(unusable(path, &error)),
        },
        Err(error) => return Ok(unusable(path, &error)),
    };
    linked
        .map(Some)
        .map_err(|why| Failure::InvalidArgument(format!("module {module} cannot run here: {why}")))
}

/// Loads a core module into the best engine that has room for what it needs.
fn load_module(engines: &Engines, tier: Tier, path: &Path) -> wasmtime::Result<Module> {
    let mut failure = wasmtime::Error::msg("no engine runs this tier here");
    for engine in engines.of(tier) {
        // SAFETY: the file is one of `Artifacts`: in a folder that only this user can write (0700), under
        // a name that it got after our own compiler had written it for this engine, and unchanged since.
        match unsafe { Module::deserialize_file(engine, path) } {
            Ok(module) => return Ok(module),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

fn unusable(path: &Path, error: &wasmtime::Error) -> Option<Loaded> {
    tracing::warn!(path = %path.display(), "compiled module is not usable: {error:#}");
    None
}

fn link_module(module: &Module) -> Result<Loaded, String> {
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
    let mut linker: Linker<Guest> = Linker::new(module.engine());
    crate::wasi::add_to_linker(&mut linker, guest::preview1).map_err(|e| format!("{e:#}"))?;
    linker.instantiate_pre(module).map(Loaded::Core).map_err(|e| format!("{e:#}"))
}
