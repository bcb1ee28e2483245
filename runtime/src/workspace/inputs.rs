//! Input trees as the store holds them: Directories and pieces of files, read when first looked at.
//!
//! What was read is shared by all actions of a worker through one cache, so a toolchain's folders and
//! headers cost the second action nothing. Nothing here is ever changed.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use tokio::runtime::Handle;
use wardian_proto::{Digest, Directory, RelPath, reapi};
use wardian_store::{BlobStore, ByteRange, Recent, StoreError};

use super::{SYMLINKS_FOLLOWED_MAX, Workspace, WorkspaceLimits, nanos};
use crate::{Failure, Limits};

/// Files are read from the store, and kept, in pieces of this size: a read reads ahead to the end of its piece.
pub(super) const WINDOW_BYTES: u64 = 1 << 20;

/// Share of the cache that Directories get: one part of so many.
const DIRECTORIES_SHARE: usize = 4;

/// The input trees of a worker's store, behind a bounded cache.
pub struct Inputs {
    store: Arc<dyn BlobStore>,
    runtime: Handle,
    directory_bytes_max: u64,
    directories: Recent<Digest, Arc<InputDirectory>>,
    windows: Recent<(Digest, u64), Bytes>,
}

/// One level of an input tree, sorted by name.
#[derive(Debug)]
pub(crate) struct InputDirectory {
    pub(crate) entries: Vec<InputEntry>,
    /// Nanoseconds since 1970, when the input says so.
    pub(super) mtime: Option<u64>,
}

/// One name of an [`InputDirectory`].
#[derive(Debug)]
pub(crate) struct InputEntry {
    pub(crate) name: Box<str>,
    pub(crate) kind: InputKind,
}

/// What a name of an input tree is.
#[derive(Debug, Clone)]
pub(crate) enum InputKind {
    File { digest: Digest, is_executable: bool, mtime: Option<u64> },
    Directory(Digest),
    Symlink(Box<str>),
}

impl InputDirectory {
    fn new(directory: Directory) -> Self {
        let mtime = |properties: &Option<reapi::NodeProperties>| {
            properties.as_ref().and_then(|p| p.mtime.as_ref()).map(nanos)
        };
        let count = directory.files.len() + directory.directories.len() + directory.symlinks.len();
        let mut entries = Vec::with_capacity(count);
        let mut add = |name: &str, kind| entries.push(InputEntry { name: name.into(), kind });
        for file in &directory.files {
            // The execute bit is said in two places; either is enough.
            let mode = file.node_properties.as_ref().and_then(|p| p.unix_mode).unwrap_or(0);
            let is_executable = file.is_executable || mode & 0o111 != 0;
            let mtime = mtime(&file.node_properties);
            add(file.name.as_str(), InputKind::File { digest: file.digest, is_executable, mtime });
        }
        for child in &directory.directories {
            add(child.name.as_str(), InputKind::Directory(child.digest));
        }
        for link in &directory.symlinks {
            add(link.name.as_str(), InputKind::Symlink(link.target.as_str().into()));
        }
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Self { entries, mtime: mtime(&directory.node_properties) }
    }

    /// Where a name is among the entries.
    pub(super) fn find(&self, name: &str) -> Option<usize> {
        self.entries.binary_search_by(|entry| (*entry.name).cmp(name)).ok()
    }

    fn bytes(&self) -> usize {
        let own = |entry: &InputEntry| {
            let target = if let InputKind::Symlink(target) = &entry.kind { target.len() } else { 0 };
            size_of::<InputEntry>() + entry.name.len() + target
        };
        size_of::<Self>() + self.entries.iter().map(own).sum::<usize>()
    }
}

impl Inputs {
    /// Reads from `store`, on `runtime` where a thread that is not async waits, and keeps `bytes_max` bytes.
    pub fn new(
        store: Arc<dyn BlobStore>,
        runtime: Handle,
        bytes_max: usize,
        directory_bytes_max: u64,
    ) -> Arc<Self> {
        let for_directories = bytes_max / DIRECTORIES_SHARE;
        Arc::new(Self {
            store,
            runtime,
            directory_bytes_max,
            directories: Recent::new(for_directories as u64),
            windows: Recent::new((bytes_max - for_directories) as u64),
        })
    }

    /// Returns a Directory. A missing one is a failure that names it.
    pub(crate) async fn directory(&self, digest: &Digest) -> Result<Arc<InputDirectory>, Failure> {
        if let Some(known) = self.directories.get(digest) {
            return Ok(known);
        }
        self.check_size(digest)?;
        let bytes = self.store.get(digest, self.directory_bytes_max).await?;
        self.decode(digest, &bytes)
    }

    /// Returns Directories, those that are not in memory by one read of the store, each with its own outcome.
    pub(crate) async fn directories(&self, digests: &[Digest]) -> Vec<Result<Arc<InputDirectory>, Failure>> {
        let known: Vec<_> = digests.iter().map(|digest| self.directories.get(digest)).collect();
        let is_asked = |digest: &Digest| self.check_size(digest).is_ok();
        let with_known = digests.iter().zip(&known);
        let absent = with_known.filter(|(digest, known)| known.is_none() && is_asked(digest));
        let absent: Vec<Digest> = absent.map(|(digest, _)| *digest).collect();
        let mut read = match absent.is_empty() {
            true => Vec::new().into_iter(),
            false => self.store.get_batch(&absent).await.into_iter(),
        };
        let outcome = |(digest, known): (&Digest, Option<_>)| match known {
            Some(known) => Ok(known),
            None => {
                self.check_size(digest)?;
                self.decode(digest, &read.next().expect("one outcome for each that was asked for")?)
            }
        };
        digests.iter().zip(known).map(outcome).collect()
    }

    fn check_size(&self, digest: &Digest) -> Result<(), Failure> {
        if digest.size() <= self.directory_bytes_max {
            return Ok(());
        }
        let (limit_name, limit) = ("directory message", self.directory_bytes_max);
        Err(StoreError::TooLarge { digest: *digest, limit_name, limit }.into())
    }

    fn decode(&self, digest: &Digest, bytes: &[u8]) -> Result<Arc<InputDirectory>, Failure> {
        let directory = Directory::decode(digest.function(), bytes)
            .map_err(|source| StoreError::Directory { digest: *digest, source })?;
        let directory = Arc::new(InputDirectory::new(directory));
        self.directories.insert(*digest, Arc::clone(&directory), directory.bytes() as u64);
        Ok(directory)
    }

    /// The same for a thread that may wait, which must not be one that drives the async runtime.
    pub(super) fn directory_now(&self, digest: &Digest) -> Result<Arc<InputDirectory>, Failure> {
        if let Some(known) = self.directories.get(digest) {
            return Ok(known);
        }
        self.runtime.block_on(self.directory(digest))
    }

    /// Returns the window of a file that starts at `index * WINDOW_BYTES`, to be called as `directory_now`.
    pub(super) fn window_now(&self, digest: &Digest, index: u64) -> Result<Bytes, Failure> {
        let key = (*digest, index);
        if let Some(known) = self.windows.get(&key) {
            return Ok(known);
        }
        let offset = index * WINDOW_BYTES;
        let expected = WINDOW_BYTES.min(digest.size() - offset);
        let range = ByteRange { offset, limit: Some(expected) };
        let read = async { wardian_store::collect(self.store.read(digest, range).await?).await };
        let bytes = self.runtime.block_on(read)?;
        if bytes.len() as u64 != expected {
            return Err(Failure::Internal(format!(
                "the store gave {} bytes of {digest} from {offset} instead of {expected}",
                bytes.len()
            )));
        }
        // Bytes may be a slice of something larger, which the cache would keep alive unseen.
        let own = Bytes::copy_from_slice(&bytes);
        self.windows.insert(key, own.clone(), own.len() as u64);
        Ok(own)
    }
}

/// An input tree nobody has changed: where tools and working directories are looked up before a run.
#[derive(Clone)]
pub(crate) struct InputTree {
    inputs: Arc<Inputs>,
    root: Digest,
}

/// Where a path of an [`InputTree`] leads.
enum Step {
    Found(InputKind),
    Elsewhere(RelPath),
    Nowhere,
}

impl InputTree {
    pub(crate) fn new(inputs: Arc<Inputs>, root: Digest) -> Self {
        Self { inputs, root }
    }

    /// A workspace over the tree.
    pub(crate) fn workspace(&self, limits: &Limits, spill_folder: PathBuf) -> Workspace {
        Workspace::new(Arc::clone(&self.inputs), self.root, WorkspaceLimits::of(limits), spill_folder)
    }

    /// Finds the file a path leads to, following symlinks inside the tree only.
    pub(crate) async fn file(&self, path: &RelPath) -> Result<Option<Digest>, Failure> {
        let mut path = path.clone();
        for _ in 0..SYMLINKS_FOLLOWED_MAX {
            match self.step(&path).await? {
                Step::Found(InputKind::File { digest, .. }) => return Ok(Some(digest)),
                Step::Elsewhere(next) => path = next,
                Step::Found(_) | Step::Nowhere => break,
            }
        }
        Ok(None)
    }

    /// Whether there is a directory at this path itself.
    pub(crate) async fn has_directory(&self, path: &RelPath) -> Result<bool, Failure> {
        Ok(matches!(self.step(path).await?, Step::Found(InputKind::Directory(_))))
    }

    /// Walks until the end or the first symlink.
    async fn step(&self, path: &RelPath) -> Result<Step, Failure> {
        let mut at = RelPath::root();
        let mut kind = InputKind::Directory(self.root);
        let mut names = path.segments();
        loop {
            let directory = match &kind {
                InputKind::Directory(digest) => self.inputs.directory(digest).await?,
                InputKind::File { .. } if names.next().is_some() => return Ok(Step::Nowhere),
                InputKind::File { .. } => return Ok(Step::Found(kind)),
                InputKind::Symlink(target) => {
                    let rest: Vec<&str> = names.collect();
                    let parent = at.parent().unwrap_or_default();
                    let next = parent.resolve(target).and_then(|path| path.resolve(&rest.join("/")));
                    return Ok(next.map_or(Step::Nowhere, Step::Elsewhere));
                }
            };
            let Some(name) = names.next() else { return Ok(Step::Found(kind)) };
            let Some(index) = directory.find(name) else { return Ok(Step::Nowhere) };
            kind = directory.entries[index].kind.clone();
            at = at.resolve(name).map_err(|e| Failure::InvalidArgument(format!("input root: {e}")))?;
        }
    }
}
