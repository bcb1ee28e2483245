//! Pins on whole input trees, shared by everybody who needs the same directories.
//!
//! A tree is pinned Directory by Directory. Where two trees have a Directory in common they share its pin
//! and those of everything below it: an action with a source file of its own and a toolchain that is pinned
//! already costs one Directory, however large the toolchain is.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use futures::future::BoxFuture;
use futures::{StreamExt as _, TryStreamExt as _};
use tokio::sync::Semaphore;
use wardian_proto::{Digest, Directory};

use crate::recent::Recent;
use crate::tree::{DirectoryReader, TreeLimits};
use crate::{BlobStore, Pin, StoreError};

/// Trees that are walked at once. Who comes later finds more of its tree pinned.
const WALKS_MAX: usize = 8;

/// Directories of one tree that are pinned at once.
const PINS_AT_ONCE: usize = 16;

/// What remembering a Directory costs beside the digests in it, in bytes.
const CONTENTS_OVERHEAD_BYTES: usize = 128;

/// Limits of [`TreePins`].
#[derive(Clone, Copy, Debug)]
pub struct TreePinLimits {
    /// What one tree may cost to read, as far as it is not pinned already.
    pub tree: TreeLimits,
    /// Blobs that all pinned trees name together.
    pub pinned_blobs_max: usize,
    /// Memory for the contents of Directories that were read before.
    pub cache_bytes_max: u64,
}

impl Default for TreePinLimits {
    fn default() -> Self {
        Self { tree: TreeLimits::default(), pinned_blobs_max: 5_000_000, cache_bytes_max: 32 << 20 }
    }
}

/// What came of pinning a tree.
#[derive(Debug)]
pub enum TreePin {
    /// Every blob of the tree stays until this is dropped.
    Pinned(Arc<PinnedTree>),
    /// These are not stored: Directories, and files of those that are.
    Missing(Vec<Digest>),
}

/// A Directory and everything below it. All of it stays until this is dropped.
pub struct PinnedTree {
    root: Digest,
    /// Levels, this one included. Bounded, because trees are dropped level by level on the stack.
    height: usize,
    shared: Arc<Shared>,
    /// Of the Directory itself and the files in it.
    _blobs: CountedPin,
    /// Of the Directories in it.
    _below: Vec<Arc<PinnedTree>>,
}

impl std::fmt::Debug for PinnedTree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PinnedTree({})", self.root)
    }
}

impl Drop for PinnedTree {
    fn drop(&mut self) {
        let mut pinned = self.shared.pinned();
        // The same tree may have been pinned anew in the meantime; that entry stays.
        if pinned.trees.get(&self.root).is_some_and(|tree| tree.strong_count() == 0) {
            pinned.trees.remove(&self.root);
        }
    }
}

/// The pin on some blobs, which counts towards the limit.
struct CountedPin {
    count: usize,
    shared: Arc<Shared>,
    pin: Pin,
}

impl CountedPin {
    fn new(shared: &Arc<Shared>, count: usize, limit: usize) -> Result<Self, StoreError> {
        let mut pinned = shared.pinned();
        if pinned.blobs + count > limit {
            return Err(StoreError::TooManyPins(limit));
        }
        pinned.blobs += count;
        drop(pinned);
        Ok(Self { count, shared: Arc::clone(shared), pin: Pin::default() })
    }
}

impl Drop for CountedPin {
    fn drop(&mut self) {
        self.shared.pinned().blobs -= self.count;
    }
}

#[derive(Default)]
struct Shared {
    pinned: Mutex<Pinned>,
}

#[derive(Default)]
struct Pinned {
    trees: HashMap<Digest, Weak<PinnedTree>>,
    blobs: usize,
}

impl Shared {
    fn pinned(&self) -> MutexGuard<'_, Pinned> {
        self.pinned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tree(&self, root: &Digest) -> Option<Arc<PinnedTree>> {
        self.pinned().trees.get(root).and_then(Weak::upgrade)
    }
}

/// The distinct blobs that one Directory names.
#[derive(Debug)]
struct Contents {
    files: Box<[Digest]>,
    directories: Box<[Digest]>,
}

impl Contents {
    fn of(directory: &Directory) -> Self {
        let files = directory.files.iter().map(|file| file.digest).collect::<HashSet<_>>();
        let directories = directory.directories.iter().map(|entry| entry.digest).collect::<HashSet<_>>();
        Self { files: files.into_iter().collect(), directories: directories.into_iter().collect() }
    }

    /// What remembering this costs, in bytes.
    fn weight(&self) -> u64 {
        let digests = self.files.len() + self.directories.len();
        (CONTENTS_OVERHEAD_BYTES + digests * size_of::<Digest>()) as u64
    }
}

/// A Directory, the pin on its blobs, and those of them that are missing.
type PinnedOne = Result<(Digest, CountedPin, Vec<Digest>), StoreError>;

/// What a walk knows about a Directory.
enum Known {
    Pinned(Arc<PinnedTree>),
    Read(Arc<Contents>),
}

/// Pins trees in one store.
pub struct TreePins {
    blobs: Arc<dyn BlobStore>,
    limits: TreePinLimits,
    shared: Arc<Shared>,
    contents: Recent<Digest, Arc<Contents>>,
    walks: Semaphore,
}

impl TreePins {
    /// Pins on trees in `blobs`.
    pub fn new(blobs: Arc<dyn BlobStore>, limits: TreePinLimits) -> Self {
        let contents = Recent::new(limits.cache_bytes_max);
        Self { blobs, limits, shared: Arc::default(), contents, walks: Semaphore::new(WALKS_MAX) }
    }

    /// Pins a tree, or says what of it is missing. A tree that is pinned already costs nothing: no look at
    /// the store, and no proof again that its blobs are there.
    ///
    /// Fails when a Directory is none or is not sorted, or when the part that is not pinned yet exceeds the limits.
    pub async fn pin(&self, root: Digest) -> Result<TreePin, StoreError> {
        if let Some(pinned) = self.shared.tree(&root) {
            return Ok(TreePin::Pinned(pinned));
        }
        let _permit = self.walks.acquire().await.expect("never closed");
        let (known, mut missing) = self.walk(root).await?;
        let mut pins = HashMap::new();
        for (directory, pin, absent) in self.pin_each(&known).await? {
            pins.insert(directory, pin);
            missing.extend(absent);
        }
        if !missing.is_empty() {
            let mut seen = HashSet::new();
            missing.retain(|digest| seen.insert(*digest));
            return Ok(TreePin::Missing(missing));
        }
        self.assemble(root, &known, pins).map(TreePin::Pinned)
    }

    /// Blobs that all pinned trees name together.
    pub fn pinned_blobs(&self) -> usize {
        self.shared.pinned().blobs
    }

    /// Goes down to the Directories that are pinned already; the second part is what is not stored.
    async fn walk(&self, root: Digest) -> Result<(HashMap<Digest, Known>, Vec<Digest>), StoreError> {
        let mut reader = DirectoryReader::new(&*self.blobs, root, self.limits.tree);
        let (mut known, mut missing) = (HashMap::new(), Vec::new());
        let mut named = HashSet::from([root]);
        let mut level = vec![root];
        let mut depth = 0;
        while !level.is_empty() {
            if depth > self.limits.tree.depth_max {
                let limit = self.limits.tree.depth_max;
                return Err(StoreError::TreeLimit { root, what: "levels", limit });
            }
            let (mut next, mut unread) = (Vec::new(), Vec::new());
            let mut add = |digest, contents: Arc<Contents>| {
                next.extend(contents.directories.iter().filter(|d| named.insert(**d)));
                known.insert(digest, Known::Read(contents));
            };
            let mut shared = Vec::new();
            for digest in level {
                if let Some(pinned) = self.shared.tree(&digest) {
                    shared.push((digest, Known::Pinned(pinned)));
                } else if let Some(contents) = self.contents.get(&digest) {
                    add(digest, contents);
                } else {
                    unread.push(digest);
                }
            }
            for (digest, directory) in reader.read(&unread).await? {
                let Some(directory) = directory else {
                    missing.push(digest);
                    continue;
                };
                // Who pins a tree is about to run an action over it, and such trees must be canonical.
                directory.check_order().map_err(|source| StoreError::Directory { digest, source })?;
                let contents = Arc::new(Contents::of(&directory));
                self.contents.insert(digest, Arc::clone(&contents), contents.weight());
                add(digest, contents);
            }
            known.extend(shared);
            level = next;
            depth += 1;
        }
        Ok((known, missing))
    }

    /// Pins each Directory that is not pinned yet together with the files in it.
    async fn pin_each(
        &self,
        known: &HashMap<Digest, Known>,
    ) -> Result<Vec<(Digest, CountedPin, Vec<Digest>)>, StoreError> {
        let mut pins = Vec::new();
        for (digest, known) in known {
            if let Known::Read(contents) = known {
                let blobs = [*digest].into_iter().chain(contents.files.iter().copied()).collect();
                pins.push(self.pin_directory(*digest, blobs));
            }
        }
        futures::stream::iter(pins).buffer_unordered(PINS_AT_ONCE).try_collect().await
    }

    /// Pins the blobs of one Directory; owns what it needs, so that many can be under way.
    fn pin_directory(&self, digest: Digest, blobs: Vec<Digest>) -> BoxFuture<'static, PinnedOne> {
        let (store, shared) = (Arc::clone(&self.blobs), Arc::clone(&self.shared));
        let limit = self.limits.pinned_blobs_max;
        Box::pin(async move {
            let mut counted = CountedPin::new(&shared, blobs.len(), limit)?;
            let (pin, missing) = store.pin(&blobs).await?;
            counted.pin = pin;
            Ok((digest, counted, missing))
        })
    }

    /// Builds the tree from its leaves up, without recursion: nobody knows yet how deep it is.
    fn assemble(
        &self,
        root: Digest,
        known: &HashMap<Digest, Known>,
        mut pins: HashMap<Digest, CountedPin>,
    ) -> Result<Arc<PinnedTree>, StoreError> {
        let mut done: HashMap<Digest, Arc<PinnedTree>> = HashMap::new();
        let mut pending = vec![root];
        while let Some(&digest) = pending.last() {
            if done.contains_key(&digest) {
                pending.pop();
                continue;
            }
            let contents = match &known[&digest] {
                Known::Pinned(tree) => {
                    done.insert(digest, Arc::clone(tree));
                    continue;
                }
                Known::Read(contents) => contents,
            };
            let first = pending.len();
            pending.extend(contents.directories.iter().filter(|below| !done.contains_key(below)));
            if pending.len() > first {
                continue;
            }
            let below = contents.directories.iter().map(|below| Arc::clone(&done[below])).collect();
            let blobs = pins.remove(&digest).expect("every Directory that was read was pinned");
            done.insert(digest, self.publish(root, digest, blobs, below)?);
        }
        Ok(done.remove(&root).expect("the root is the last to be done"))
    }

    fn publish(
        &self,
        root: Digest,
        digest: Digest,
        blobs: CountedPin,
        below: Vec<Arc<PinnedTree>>,
    ) -> Result<Arc<PinnedTree>, StoreError> {
        let height = 1 + below.iter().map(|tree| tree.height).max().unwrap_or(0);
        let limit = self.limits.tree.depth_max;
        if height > limit + 1 {
            return Err(StoreError::TreeLimit { root, what: "levels", limit });
        }
        let shared = Arc::clone(&self.shared);
        let tree = Arc::new(PinnedTree { root: digest, height, shared, _blobs: blobs, _below: below });
        self.shared.pinned().trees.insert(digest, Arc::downgrade(&tree));
        Ok(tree)
    }
}

#[cfg(test)]
#[path = "tree_pins_tests.rs"]
mod tests;
