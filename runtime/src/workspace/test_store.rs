//! Input trees in memory, for tests and fuzzers.

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use tokio::runtime::Runtime;
use wardian_proto::{Digest, DigestFunction, RelPath};
use wardian_store::backend::MemoryStore;
use wardian_store::tree_builder::TreeBuilder;
use wardian_store::{BlobStore, Upload};

use super::{Inputs, Limits, Workspace, WorkspaceLimits};

/// The store is asynchronous, a workspace is not.
pub(crate) static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().expect("a runtime can be made")
});

/// A store in memory and what reads from it.
pub(crate) struct Store {
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) inputs: Arc<Inputs>,
}

pub(crate) fn limits() -> WorkspaceLimits {
    WorkspaceLimits::of(&Limits::default())
}

pub(crate) fn path(text: &str) -> RelPath {
    RelPath::parse(text).unwrap()
}

impl Store {
    pub(crate) fn new(cache_bytes: usize) -> Self {
        let store = Arc::new(MemoryStore::new(64 << 20));
        let inputs = Inputs::new(store.clone(), RUNTIME.handle().clone(), cache_bytes, 1 << 20);
        Self { store, inputs }
    }

    /// One for tests that make many workspaces.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: LazyLock<Store> = LazyLock::new(|| Store::new(8 << 20));
        &SHARED
    }

    pub(crate) fn put(&self, bytes: impl Into<Bytes>) -> Digest {
        let bytes = bytes.into();
        let digest = DigestFunction::Sha256.digest(&bytes);
        RUNTIME.block_on(BlobStore::put(&*self.store, Upload::bytes(digest, bytes))).unwrap();
        digest
    }

    pub(crate) fn tree(&self, files: &[(&str, &[u8])], links: &[(&str, &str)]) -> Digest {
        let mut tree = TreeBuilder::new();
        for (name, content) in files {
            tree.file(&path(name), self.put(content.to_vec()), false).unwrap();
        }
        for (name, target) in links {
            tree.symlink(&path(name), target).unwrap();
        }
        let built = tree.build(DigestFunction::Sha256);
        for (_, bytes) in built.directories {
            self.put(bytes);
        }
        built.root
    }

    pub(crate) fn workspace(&self, root: Digest) -> Workspace {
        self.workspace_with(root, limits())
    }

    pub(crate) fn workspace_with(&self, root: Digest, limits: WorkspaceLimits) -> Workspace {
        Workspace::new(self.inputs.clone(), root, limits, std::env::temp_dir())
    }
}
