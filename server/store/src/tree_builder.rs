//! Makes canonical Directory messages out of paths.
//!
//! Entries are sorted and children come before parents in [`BuiltTree::directories`], so equal trees
//! have equal bytes whoever builds them.

use std::collections::{BTreeMap, btree_map};

use bytes::Bytes;
use prost::Message;
use wardian_proto::{Digest, DigestFunction, RelPath, reapi};

/// Why an entry could not be added.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum TreeBuildError {
    #[error("{0} is there already")]
    Exists(RelPath),
    #[error("{0} is not a directory")]
    NotADirectory(RelPath),
    #[error("the root can only be a directory")]
    Root,
    #[error("the tree has more than {DIRECTORIES_MAX} directories")]
    TooManyDirectories,
}

/// Directories that one tree may have. Long paths that share nothing make many of few names.
const DIRECTORIES_MAX: usize = 200_000;

/// A directory tree under construction.
#[derive(Debug, Default)]
pub struct TreeBuilder {
    root: Level,
    /// Directories that were made, the root left out.
    made: usize,
}

#[derive(Debug, Default)]
struct Level {
    entries: BTreeMap<String, Entry>,
    node_properties: Option<reapi::NodeProperties>,
}

#[derive(Debug)]
enum Entry {
    File(reapi::FileNode),
    Symlink(reapi::SymlinkNode),
    Directory(Level),
    Grafted(Digest),
}

/// The Directory messages of a tree.
#[derive(Debug)]
pub struct BuiltTree {
    /// Digest of the root Directory.
    pub root: Digest,
    /// Every distinct Directory with its bytes, the root last. Grafted trees are not among them.
    pub directories: Vec<(Digest, Bytes)>,
}

impl TreeBuilder {
    /// Starts with an empty root.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a file; missing parents are made.
    pub fn file(
        &mut self,
        path: &RelPath,
        digest: Digest,
        is_executable: bool,
    ) -> Result<(), TreeBuildError> {
        self.file_node(
            path,
            reapi::FileNode { digest: Some(digest.to_wire()), is_executable, ..Default::default() },
        )
    }

    /// Adds a file as a node whose name is taken from the path.
    pub fn file_node(&mut self, path: &RelPath, node: reapi::FileNode) -> Result<(), TreeBuildError> {
        self.insert(path, |name| Entry::File(reapi::FileNode { name, ..node }))
    }

    /// Adds a symlink; missing parents are made.
    pub fn symlink(&mut self, path: &RelPath, target: &str) -> Result<(), TreeBuildError> {
        let target = target.to_owned();
        self.insert(path, |name| Entry::Symlink(reapi::SymlinkNode { name, target, node_properties: None }))
    }

    /// Puts a whole tree that is stored already at a path where nothing is yet.
    pub fn graft(&mut self, path: &RelPath, root: Digest) -> Result<(), TreeBuildError> {
        self.insert(path, |_| Entry::Grafted(root))
    }

    /// Makes sure that a directory is there.
    pub fn directory(&mut self, path: &RelPath) -> Result<(), TreeBuildError> {
        self.level(path).map(|_| ())
    }

    /// Sets the properties of a directory, making it when it is not there.
    pub fn directory_properties(
        &mut self,
        path: &RelPath,
        properties: reapi::NodeProperties,
    ) -> Result<(), TreeBuildError> {
        self.level(path)?.node_properties = Some(properties);
        Ok(())
    }

    /// Returns the finished Directory messages.
    pub fn build(self, function: DigestFunction) -> BuiltTree {
        let mut directories = Vec::new();
        let mut seen = std::collections::HashSet::new();
        let root = self.root.build(function, &mut |digest, bytes| {
            if seen.insert(digest) {
                directories.push((digest, bytes));
            }
        });
        BuiltTree { root, directories }
    }

    fn insert(&mut self, path: &RelPath, entry: impl FnOnce(String) -> Entry) -> Result<(), TreeBuildError> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(TreeBuildError::Root);
        };
        let level = self.level(&parent)?;
        if level.entries.contains_key(name) {
            return Err(TreeBuildError::Exists(path.clone()));
        }
        level.entries.insert(name.to_owned(), entry(name.to_owned()));
        Ok(())
    }

    fn level(&mut self, path: &RelPath) -> Result<&mut Level, TreeBuildError> {
        let mut level = &mut self.root;
        for name in path.segments() {
            let entry = match level.entries.entry(name.to_owned()) {
                btree_map::Entry::Occupied(entry) => entry.into_mut(),
                btree_map::Entry::Vacant(_) if self.made == DIRECTORIES_MAX => {
                    return Err(TreeBuildError::TooManyDirectories);
                }
                btree_map::Entry::Vacant(entry) => {
                    self.made += 1;
                    entry.insert(Entry::Directory(Level::default()))
                }
            };
            match entry {
                Entry::Directory(next) => level = next,
                _ => return Err(TreeBuildError::NotADirectory(path.clone())),
            }
        }
        Ok(level)
    }
}

impl Level {
    fn build(self, function: DigestFunction, done: &mut impl FnMut(Digest, Bytes)) -> Digest {
        let mut message = reapi::Directory { node_properties: self.node_properties, ..Default::default() };
        // A BTreeMap of Strings is sorted by UTF-8 bytes, as the canonical form asks.
        for (name, entry) in self.entries {
            match entry {
                Entry::File(node) => message.files.push(node),
                Entry::Symlink(node) => message.symlinks.push(node),
                Entry::Directory(level) => {
                    let digest = Some(level.build(function, done).to_wire());
                    message.directories.push(reapi::DirectoryNode { name, digest });
                }
                Entry::Grafted(digest) => {
                    message.directories.push(reapi::DirectoryNode { name, digest: Some(digest.to_wire()) });
                }
            }
        }
        let bytes = Bytes::from(message.encode_to_vec());
        let digest = function.digest(&bytes);
        done(digest, bytes);
        digest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::parse(text).unwrap()
    }

    fn digest(text: &str) -> Digest {
        DigestFunction::Sha256.digest(text.as_bytes())
    }

    #[test]
    fn long_paths_that_share_nothing_are_bounded() {
        let mut tree = TreeBuilder::new();
        let path = |number: usize| RelPath::parse(&format!("{number}{}", "/a".repeat(50))).unwrap();
        let refused = (0..DIRECTORIES_MAX).find_map(|number| tree.directory(&path(number)).err());
        assert_eq!(refused, Some(TreeBuildError::TooManyDirectories));
        assert_eq!(tree.made, DIRECTORIES_MAX);
        assert_eq!(tree.directory(&path(0)), Ok(()), "what is there already costs nothing");
    }

    #[test]
    fn order_of_adding_does_not_matter() {
        let files = ["b", "a", "d/x", "d/a", "a.b"];
        let build = |names: &mut dyn Iterator<Item = &&str>| {
            let mut tree = TreeBuilder::new();
            for name in names {
                tree.file(&path(name), digest(name), false).unwrap();
            }
            tree.build(DigestFunction::Sha256).root
        };
        assert_eq!(build(&mut files.iter()), build(&mut files.iter().rev()));
    }

    #[test]
    fn an_empty_tree_is_the_empty_blob() {
        assert!(TreeBuilder::new().build(DigestFunction::Sha256).root.is_empty_blob());
    }

    #[test]
    fn names_are_taken_once_and_files_hold_nothing() {
        let mut tree = TreeBuilder::new();
        tree.file(&path("a"), digest("a"), true).unwrap();
        assert_eq!(tree.symlink(&path("a"), "b"), Err(TreeBuildError::Exists(path("a"))));
        assert_eq!(
            tree.file(&path("a/b"), digest("b"), false),
            Err(TreeBuildError::NotADirectory(path("a")))
        );
        assert_eq!(tree.graft(&RelPath::root(), digest("r")), Err(TreeBuildError::Root));
    }

    #[test]
    fn equal_subtrees_are_one_blob() {
        let mut tree = TreeBuilder::new();
        for dir in ["x", "y"] {
            tree.file(&path(dir).resolve("f").unwrap(), digest("f"), false).unwrap();
        }
        assert_eq!(tree.build(DigestFunction::Sha256).directories.len(), 2);
    }
}
