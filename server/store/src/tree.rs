//! Walking the Directory tree below a digest, level by level, within limits.

use std::collections::{HashMap, HashSet};

use wardian_proto::{Digest, Directory};

use crate::{BlobStore, StoreError};

/// What a walk may cost.
#[derive(Clone, Copy, Debug)]
pub struct TreeLimits {
    /// Distinct Directory messages.
    pub directories_max: usize,
    /// Levels below the root.
    pub depth_max: usize,
    /// Size of one Directory message.
    pub directory_bytes_max: u64,
    /// Size of all Directory messages together.
    pub bytes_max: u64,
    /// Files, directories and symlinks that the Directories name, all together.
    pub entries_max: usize,
}

impl Default for TreeLimits {
    fn default() -> Self {
        Self {
            directories_max: 200_000,
            depth_max: 128,
            directory_bytes_max: 4 << 20,
            bytes_max: 256 << 20,
            entries_max: 1_000_000,
        }
    }
}

/// Directories fetched in one batch, and their size unless there is only one.
const BATCH_DIRECTORIES: usize = 256;
const BATCH_BYTES: u64 = 4 << 20;

/// Takes the next batch off a level.
fn batch<'a>(level: &mut &'a [Digest]) -> &'a [Digest] {
    let mut bytes = 0;
    let fits = |digest: &&Digest| {
        bytes += digest.size();
        bytes <= BATCH_BYTES
    };
    let count = level.iter().take(BATCH_DIRECTORIES).take_while(fits).count().max(1);
    let (batch, rest) = level.split_at(count);
    *level = rest;
    batch
}

/// The distinct Directories below a root.
#[derive(Debug, Default)]
pub struct Closure {
    /// Every Directory that was found, by digest.
    pub directories: HashMap<Digest, Directory>,
    /// The digests of [`Self::directories`], parents before children, the root first.
    pub order: Vec<Digest>,
    /// Directories that are named but not stored.
    pub missing: Vec<Digest>,
}

impl Closure {
    /// Every distinct file digest that the Directories name.
    pub fn files(&self) -> Vec<Digest> {
        let mut seen = HashSet::new();
        let files = self.order.iter().flat_map(|d| &self.directories[d].files);
        files.map(|f| f.digest).filter(|d| seen.insert(*d)).collect()
    }
}

/// Reads Directories of one tree and adds up what they cost.
pub(crate) struct DirectoryReader<'a> {
    store: &'a dyn BlobStore,
    root: Digest,
    limits: TreeLimits,
    bytes: u64,
    directories: usize,
    entries: usize,
}

impl<'a> DirectoryReader<'a> {
    /// A reader of what is below `root`.
    pub(crate) fn new(store: &'a dyn BlobStore, root: Digest, limits: TreeLimits) -> Self {
        Self { store, root, limits, bytes: 0, directories: 0, entries: 0 }
    }

    /// Reads distinct Directories, in the order given; `None` for those that are not stored.
    pub(crate) async fn read(
        &mut self,
        digests: &[Digest],
    ) -> Result<Vec<(Digest, Option<Directory>)>, StoreError> {
        let mut found = Vec::new();
        let mut rest = digests;
        while !rest.is_empty() {
            let batch = batch(&mut rest);
            self.charge(batch)?;
            for (digest, bytes) in batch.iter().zip(self.store.get_batch(batch).await) {
                let directory = match bytes {
                    Ok(bytes) => Some(self.decode(digest, &bytes)?),
                    Err(StoreError::NotFound(_)) => None,
                    Err(error) => return Err(error),
                };
                found.push((*digest, directory));
            }
        }
        Ok(found)
    }

    /// Counts Directories before they are read.
    fn charge(&mut self, batch: &[Digest]) -> Result<(), StoreError> {
        let limits = &self.limits;
        if let Some(large) = batch.iter().find(|d| d.size() > limits.directory_bytes_max) {
            let (limit_name, limit) = ("directory message", limits.directory_bytes_max);
            return Err(StoreError::TooLarge { digest: *large, limit_name, limit });
        }
        self.directories += batch.len();
        if self.directories > limits.directories_max {
            return Err(self.exceeds("directories", limits.directories_max));
        }
        self.bytes = batch.iter().fold(self.bytes, |sum, digest| sum.saturating_add(digest.size()));
        if self.bytes > limits.bytes_max {
            let limit = usize::try_from(limits.bytes_max).unwrap_or(usize::MAX);
            return Err(self.exceeds("bytes of directories", limit));
        }
        Ok(())
    }

    fn decode(&mut self, digest: &Digest, bytes: &[u8]) -> Result<Directory, StoreError> {
        let directory = Directory::decode(digest.function(), bytes)
            .map_err(|source| StoreError::Directory { digest: *digest, source })?;
        self.entries += directory.files.len() + directory.directories.len() + directory.symlinks.len();
        if self.entries > self.limits.entries_max {
            return Err(self.exceeds("entries", self.limits.entries_max));
        }
        Ok(directory)
    }

    fn exceeds(&self, what: &'static str, limit: usize) -> StoreError {
        StoreError::TreeLimit { root: self.root, what, limit }
    }
}

/// Reads every Directory below `root`. Missing ones are reported, not an error; bad ones are an error.
pub async fn closure(store: &dyn BlobStore, root: Digest, limits: TreeLimits) -> Result<Closure, StoreError> {
    let mut reader = DirectoryReader::new(store, root, limits);
    let mut found = Closure::default();
    let mut named = HashSet::from([root]);
    let mut level = vec![root];
    let mut depth = 0;
    while !level.is_empty() {
        if depth > limits.depth_max {
            return Err(StoreError::TreeLimit { root, what: "levels", limit: limits.depth_max });
        }
        let mut next = Vec::new();
        for (digest, directory) in reader.read(&level).await? {
            let Some(directory) = directory else {
                found.missing.push(digest);
                continue;
            };
            next.extend(directory.directories.iter().map(|d| d.digest).filter(|d| named.insert(*d)));
            found.order.push(digest);
            found.directories.insert(digest, directory);
        }
        level = next;
        depth += 1;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use wardian_proto::{DigestFunction, RelPath};

    use super::*;
    use crate::Upload;
    use crate::backend::MemoryStore;
    use crate::tree_builder::TreeBuilder;

    async fn store_tree(store: &MemoryStore, paths: &[&str]) -> Digest {
        let mut tree = TreeBuilder::new();
        for path in paths {
            let digest = DigestFunction::Sha256.digest(path.as_bytes());
            tree.file(&RelPath::parse(path).unwrap(), digest, false).unwrap();
        }
        let built = tree.build(DigestFunction::Sha256);
        for (digest, bytes) in built.directories {
            BlobStore::put(store, Upload::bytes(digest, bytes)).await.unwrap();
        }
        built.root
    }

    #[tokio::test]
    async fn finds_everything_once_parents_first() {
        let store = MemoryStore::new(1 << 20);
        let root = store_tree(&store, &["a/x", "a/b/y", "c/x"]).await;
        let found = closure(&store, root, TreeLimits::default()).await.unwrap();
        assert_eq!((found.order[0], found.order.len(), found.files().len()), (root, 4, 3));
        assert!(found.missing.is_empty());
    }

    #[tokio::test]
    async fn missing_directories_are_listed() {
        let store = MemoryStore::new(1 << 20);
        let absent = DigestFunction::Sha256.digest(b"absent");
        let mut tree = TreeBuilder::new();
        tree.graft(&RelPath::parse("gone").unwrap(), absent).unwrap();
        let built = tree.build(DigestFunction::Sha256);
        let (digest, bytes) = built.directories[0].clone();
        BlobStore::put(&store, Upload::bytes(digest, bytes)).await.unwrap();
        let found = closure(&store, built.root, TreeLimits::default()).await.unwrap();
        assert_eq!(found.missing, [absent]);
    }

    #[tokio::test]
    async fn deep_and_wide_trees_hit_named_limits() {
        let store = MemoryStore::new(1 << 20);
        let root = store_tree(&store, &["1/2/3/4/5/f"]).await;
        let limits = TreeLimits { depth_max: 3, ..TreeLimits::default() };
        let error = closure(&store, root, limits).await.unwrap_err();
        assert!(error.to_string().contains("more than 3 levels"), "{error}");
        for limits in [
            TreeLimits { directories_max: 2, ..TreeLimits::default() },
            TreeLimits { entries_max: 3, ..TreeLimits::default() },
            TreeLimits { bytes_max: 100, ..TreeLimits::default() },
        ] {
            let error = closure(&store, root, limits).await.unwrap_err();
            assert!(matches!(error, StoreError::TreeLimit { .. }), "{error}");
        }
    }
}
