//! Our host over a workspace.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use wardian_proto::{Digest, DigestFunction, RelPath};
use wardian_runtime::Limits;
use wardian_runtime::wasi::{self, Capture, ClockPolicy, Deadline, RandomPolicy, Setting};
use wardian_runtime::workspace::{Access, Inputs, Workspace, WorkspaceLimits};
use wardian_store::backend::MemoryStore;
use wardian_store::tree_builder::TreeBuilder;
use wardian_store::{BlobStore, Upload};
use wasmtime::Module;

use super::{CANARY, STREAM_BYTES_MAX};
use crate::guest::{End, Ended, Entry, Setup};

const STORE_BYTES_MAX: u64 = 64 << 20;
const DIRECTORY_BYTES_MAX: u64 = 1 << 20;
const CACHE_BYTES_MAX: usize = 8 << 20;

/// Longer than any case pretends to sleep.
const TIMEOUT: Duration = Duration::from_secs(100_000);

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().expect("threads can be started")
});

/// A store that can say afterwards whether it is as it was.
struct Store {
    store: Arc<MemoryStore>,
    blobs: HashMap<Digest, Bytes>,
}

impl Store {
    fn new() -> Self {
        let mut store = Self { store: Arc::new(MemoryStore::new(STORE_BYTES_MAX)), blobs: HashMap::new() };
        // Somebody else's, which no tree names.
        store.put(CANARY);
        store
    }

    fn put(&mut self, bytes: impl Into<Bytes>) -> Digest {
        let bytes = bytes.into();
        let digest = DigestFunction::Sha256.digest(&bytes);
        let upload = Upload::bytes(digest, bytes.clone());
        RUNTIME.block_on(self.store.put(upload)).expect("the store has room");
        self.blobs.insert(digest, bytes);
        digest
    }

    fn tree(&mut self, entries: &[(String, Entry)], directory: &str) -> Digest {
        let path = |text: &str| RelPath::parse(text).expect("cases have plain paths");
        let mut tree = TreeBuilder::new();
        tree.directory(&path(directory)).expect("no clash of names");
        for (name, entry) in entries {
            let added = match entry {
                Entry::File(content) => tree.file(&path(name), self.put(content.clone()), false),
                Entry::Symlink(target) => tree.symlink(&path(name), target),
                Entry::Directory => tree.directory(&path(name)),
            };
            added.expect("no clash of names");
        }
        let built = tree.build(DigestFunction::Sha256);
        for (_, bytes) in built.directories {
            self.put(bytes);
        }
        built.root
    }

    fn is_unharmed(&self) -> bool {
        self.blobs.iter().all(|(digest, bytes)| {
            RUNTIME.block_on(self.store.get(digest, STORE_BYTES_MAX)).is_ok_and(|stored| stored == *bytes)
        })
    }
}

/// How much of what a guest writes stays in memory.
#[derive(Clone, Copy)]
pub(super) enum Spill {
    /// What is usual.
    Seldom,
    /// Nothing: everything goes through the file.
    Always,
}

/// Runs a guest over its input tree. Fails when the store is not as it was afterwards.
pub(super) fn run(
    spill_folder: &Path,
    module: &Module,
    setup: &Setup,
    spill: Spill,
) -> Result<Ended, String> {
    let mut store = Store::new();
    let root = store.tree(&setup.entries, &setup.working_directory);
    let inputs =
        Inputs::new(store.store.clone(), RUNTIME.handle().clone(), CACHE_BYTES_MAX, DIRECTORY_BYTES_MAX);
    let mut limits = WorkspaceLimits::of(&Limits::default());
    limits.wasm_path_depth_max = setup.limits.path_depth_max;
    limits.wasm_workspace_bytes_max = setup.limits.bytes_max;
    limits.wasm_workspace_files_max = setup.limits.files_max;
    if let Spill::Always = spill {
        limits.wasm_workspace_memory_bytes_max = 0;
    }
    let mut workspace = Workspace::new(inputs, root, limits, spill_folder.to_owned());
    for (path, entries) in &setup.read_only {
        let tree = store.tree(entries, "");
        let path = RelPath::parse(path).expect("cases have plain paths");
        workspace.graft(&path, tree, Access::ReadOnly).map_err(|error| format!("{error:?}"))?;
    }
    let ended = start(module, workspace, setup);
    if store.is_unharmed() { Ok(ended) } else { Err("a blob in the store was changed".into()) }
}

fn start(module: &Module, workspace: Workspace, setup: &Setup) -> Ended {
    let (_keep, cancelled) = watch::channel(false);
    let stdout = Capture::new("standard output", STREAM_BYTES_MAX);
    let stderr = Capture::new("standard error", STREAM_BYTES_MAX);
    let setting = Setting {
        arguments: setup.arguments.clone(),
        environment: setup.environment.clone(),
        working_directory: RelPath::parse(&setup.working_directory).expect("cases have plain paths"),
        named_directories: vec![],
        action: DigestFunction::Sha256.digest(b"the action"),
        clock: ClockPolicy::Fixed,
        random: RandomPolicy::Action,
        wasm_handles_max: setup.limits.handles_max,
        stdout: stdout.clone(),
        stderr: stderr.clone(),
        deadline: Deadline::start(TIMEOUT, cancelled),
    };
    let host = wasi::Host::new(workspace, setting).expect("the working directory is in the tree");
    let end = match wasi::run_module(module, host).0 {
        Ok(code) => End::Exit(code),
        Err(error) => End::Trap(format!("{error:#}")),
    };
    Ended { end, stdout: stdout.bytes().into(), stderr: stderr.bytes().into() }
}
