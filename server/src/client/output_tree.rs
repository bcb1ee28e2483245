//! An output directory, from a Tree or from Directories in the CAS to a flat list.

use std::collections::HashMap;

use prost::Message;
use wardian_proto::{Digest, Directory, RelPath, reapi};
use wardian_store::BlobStore;
use wardian_store::tree::{TreeLimits, closure};

use super::{OutputError, TransferError};

/// What the outputs of one action may cost on this side.
#[derive(Clone, Copy, Debug)]
pub struct OutputLimits {
    /// Files, directories and symlinks.
    pub entries_max: usize,
    /// Bytes of all files.
    pub bytes_max: u64,
    /// Size of one Tree message.
    pub tree_bytes_max: u64,
}

impl Default for OutputLimits {
    fn default() -> Self {
        Self { entries_max: 200_000, bytes_max: 16 << 30, tree_bytes_max: 64 << 20 }
    }
}

/// What is to be written, each entry with its whole path.
#[derive(Debug, Default)]
pub(super) struct Flat {
    pub(super) files: Vec<FlatFile>,
    pub(super) directories: Vec<RelPath>,
    pub(super) symlinks: Vec<(RelPath, String)>,
    pub(super) bytes: u64,
}

#[derive(Debug)]
pub(super) struct FlatFile {
    pub(super) path: RelPath,
    pub(super) digest: Digest,
    pub(super) is_executable: bool,
}

impl Flat {
    /// Adds a file, within the limits.
    pub(super) fn file(&mut self, file: FlatFile, limits: &OutputLimits) -> Result<(), OutputError> {
        self.bytes = self.bytes.saturating_add(file.digest.size());
        if self.bytes > limits.bytes_max {
            return Err(OutputError::Limit { what: "bytes", limit: limits.bytes_max });
        }
        self.files.push(file);
        self.check_entries(limits)
    }

    pub(super) fn check_entries(&self, limits: &OutputLimits) -> Result<(), OutputError> {
        let entries = self.files.len() + self.directories.len() + self.symlinks.len();
        if entries > limits.entries_max {
            let (what, limit) = ("files, directories and symlinks", limits.entries_max as u64);
            return Err(OutputError::Limit { what, limit });
        }
        Ok(())
    }

    /// Adds everything below an output directory. A small tree that repeats itself can be large here.
    pub(super) fn tree(
        &mut self,
        at: RelPath,
        tree: &Tree,
        limits: &OutputLimits,
    ) -> Result<(), OutputError> {
        let mut left = vec![(at, tree.root)];
        while let Some((at, digest)) = left.pop() {
            let bad = |why: String| OutputError::Message { path: at.clone(), why };
            let directory =
                tree.directories.get(&digest).ok_or_else(|| bad(format!("Directory {digest} is missing")))?;
            let below = |name: &wardian_proto::Segment| {
                RelPath::parse(at.join(name).as_str()).map_err(|error| bad(error.to_string()))
            };
            for entry in &directory.files {
                let (path, is_executable) = (below(&entry.name)?, entry.is_executable);
                self.file(FlatFile { path, digest: entry.digest, is_executable }, limits)?;
            }
            for entry in &directory.symlinks {
                self.symlinks.push((below(&entry.name)?, entry.target.clone()));
            }
            for entry in &directory.directories {
                left.push((below(&entry.name)?, entry.digest));
            }
            self.directories.push(at.clone());
            self.check_entries(limits)?;
        }
        Ok(())
    }
}

/// The Directories of one output directory.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) root: Digest,
    pub(super) directories: HashMap<Digest, Directory>,
}

impl Tree {
    /// Reads an output directory in whichever form the server gives it.
    pub(super) async fn read(
        store: &dyn BlobStore,
        root: Digest,
        wire: &reapi::OutputDirectory,
        limits: &OutputLimits,
    ) -> Result<Self, TransferError> {
        if wire.tree_digest.is_none() {
            let found = closure(store, root, TreeLimits::default()).await?;
            return Ok(Self { root, directories: found.directories });
        }
        let bytes = store.get(&root, limits.tree_bytes_max).await?;
        Self::decode(root, &bytes)
            .map_err(|source| wardian_store::StoreError::Directory { digest: root, source }.into())
    }

    /// Takes a Tree message apart; children are found by the digest of their bytes.
    fn decode(digest: Digest, bytes: &[u8]) -> Result<Self, wardian_proto::DirectoryError> {
        let function = digest.function();
        let message = reapi::Tree::decode(bytes)?;
        let digest_of = |directory: &reapi::Directory| function.digest(&directory.encode_to_vec());
        let root = message.root.unwrap_or_default();
        let root_digest = digest_of(&root);
        let mut directories = HashMap::new();
        for child in message.children.into_iter().chain([root]) {
            directories.insert(digest_of(&child), Directory::from_wire(function, child)?);
        }
        Ok(Self { root: root_digest, directories })
    }
}

#[cfg(test)]
mod tests {
    use super::super::DIGEST_FUNCTION;
    use super::*;

    /// A Tree in which every level names the one below it twice.
    fn doubling(levels: usize) -> reapi::Tree {
        let file = reapi::FileNode {
            name: "f".to_owned(),
            digest: Some(DIGEST_FUNCTION.digest(b"x").to_wire()),
            ..Default::default()
        };
        let mut level = reapi::Directory { files: vec![file], ..Default::default() };
        let mut children = Vec::new();
        for _ in 0..levels {
            let digest = Some(DIGEST_FUNCTION.digest(&level.encode_to_vec()).to_wire());
            let node = |name: &str| reapi::DirectoryNode { name: name.to_owned(), digest: digest.clone() };
            children.push(level);
            level = reapi::Directory { directories: vec![node("a"), node("b")], ..Default::default() };
        }
        reapi::Tree { root: Some(level), children }
    }

    fn decode(tree: &reapi::Tree) -> Tree {
        let bytes = tree.encode_to_vec();
        Tree::decode(DIGEST_FUNCTION.digest(&bytes), &bytes).unwrap()
    }

    #[test]
    fn shared_children_are_expanded_within_the_limit() {
        let mut flat = Flat::default();
        let limits = OutputLimits::default();
        flat.tree(RelPath::parse("out").unwrap(), &decode(&doubling(2)), &limits).unwrap();
        let mut files: Vec<_> = flat.files.iter().map(|f| f.path.as_str()).collect();
        files.sort_unstable();
        assert_eq!(files, ["out/a/a/f", "out/a/b/f", "out/b/a/f", "out/b/b/f"]);
        assert_eq!(flat.directories.len(), 7);

        let error = Flat::default().tree(RelPath::root(), &decode(&doubling(40)), &limits).unwrap_err();
        assert!(error.to_string().contains("more than 200000 files, directories"), "{error}");
    }

    #[test]
    fn a_child_that_is_not_there_is_named() {
        let mut tree = doubling(1);
        tree.children.clear();
        let error =
            Flat::default().tree(RelPath::root(), &decode(&tree), &OutputLimits::default()).unwrap_err();
        assert!(error.to_string().contains("is missing"), "{error}");
    }

    #[test]
    fn bad_names_are_refused() {
        let mut tree = doubling(0);
        tree.root.as_mut().unwrap().files[0].name = "../f".to_owned();
        let bytes = tree.encode_to_vec();
        assert!(Tree::decode(DIGEST_FUNCTION.digest(&bytes), &bytes).is_err());
    }
}
