//! A Directory message whose names, digests and symlinks were checked.

use std::collections::HashSet;

use prost::Message;

use crate::reapi;
use crate::{Digest, DigestError, DigestFunction, PathError, Segment};

/// Why a Directory was refused. All of these are the caller's mistake (INVALID_ARGUMENT).
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[allow(missing_docs)]
pub enum DirectoryError {
    #[error("blob is no Directory message: {0}")]
    Decode(#[from] prost::DecodeError),
    #[error("Directory has a bad name: {0}")]
    Name(#[from] PathError),
    #[error("Directory node {name:?}: {source}")]
    Digest { name: String, source: DigestError },
    #[error("Directory names {0:?} twice")]
    Duplicate(String),
    #[error("Directory is not sorted: {later:?} comes before {earlier:?}")]
    Order { later: String, earlier: String },
    #[error("symlink {name:?} has a bad target {target:?}: {why}")]
    Target { name: String, target: String, why: &'static str },
}

/// A file of a [`Directory`].
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct FileEntry {
    pub name: Segment,
    pub digest: Digest,
    pub is_executable: bool,
    pub node_properties: Option<reapi::NodeProperties>,
}

/// A subdirectory of a [`Directory`].
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct DirectoryEntry {
    pub name: Segment,
    pub digest: Digest,
}

/// A symlink of a [`Directory`]. Its target may be anything but empty, too long or with a NUL.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct SymlinkEntry {
    pub name: Segment,
    pub target: String,
}

/// One level of an input tree: every name is a single segment and occurs once.
///
/// The order of entries is no part of the type: what is only looked at may have any. The inputs of actions must be
/// sorted, see [`Directory::check_order`].
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)]
pub struct Directory {
    pub files: Vec<FileEntry>,
    pub directories: Vec<DirectoryEntry>,
    pub symlinks: Vec<SymlinkEntry>,
    pub node_properties: Option<reapi::NodeProperties>,
}

impl Directory {
    /// Decodes and checks the bytes of a Directory blob.
    pub fn decode(function: DigestFunction, bytes: &[u8]) -> Result<Self, DirectoryError> {
        Self::from_wire(function, reapi::Directory::decode(bytes)?)
    }

    /// Checks a decoded message.
    pub fn from_wire(function: DigestFunction, wire: reapi::Directory) -> Result<Self, DirectoryError> {
        let mut names = HashSet::new();
        let mut once = |name: &str| -> Result<Segment, DirectoryError> {
            let segment = Segment::parse(name)?;
            if !names.insert(segment.clone()) {
                return Err(DirectoryError::Duplicate(name.to_owned()));
            }
            Ok(segment)
        };
        let digest = |name: &str, wire: Option<&reapi::Digest>| {
            Digest::from_wire(function, wire)
                .map_err(|source| DirectoryError::Digest { name: name.to_owned(), source })
        };
        let mut directory = Self { node_properties: wire.node_properties, ..Self::default() };
        for node in wire.files {
            directory.files.push(FileEntry {
                name: once(&node.name)?,
                digest: digest(&node.name, node.digest.as_ref())?,
                is_executable: node.is_executable,
                node_properties: node.node_properties,
            });
        }
        for node in wire.directories {
            directory.directories.push(DirectoryEntry {
                name: once(&node.name)?,
                digest: digest(&node.name, node.digest.as_ref())?,
            });
        }
        for node in wire.symlinks {
            let name = once(&node.name)?;
            check_target(&node.name, &node.target)?;
            directory.symlinks.push(SymlinkEntry { name, target: node.target });
        }
        Ok(directory)
    }

    /// Checks that files, directories and symlinks are each sorted by the bytes of their names, as the API has it, so
    /// that equal inputs have equal digests.
    pub fn check_order(&self) -> Result<(), DirectoryError> {
        fn sorted<'a>(names: impl Iterator<Item = &'a Segment>) -> Result<(), DirectoryError> {
            let mut last: Option<&Segment> = None;
            for name in names {
                if let Some(later) = last.filter(|last| last.as_str() > name.as_str()) {
                    let [later, earlier] = [later, name].map(|name| name.as_str().to_owned());
                    return Err(DirectoryError::Order { later, earlier });
                }
                last = Some(name);
            }
            Ok(())
        }
        sorted(self.files.iter().map(|file| &file.name))?;
        sorted(self.directories.iter().map(|directory| &directory.name))?;
        sorted(self.symlinks.iter().map(|link| &link.name))
    }
}

/// Refuses targets that no link can have. Absolute ones are fine (the server announces ALLOWED): what they lead to is for
/// the action's own file system to say, and nothing here follows a link.
fn check_target(name: &str, target: &str) -> Result<(), DirectoryError> {
    let why = if target.is_empty() {
        "it is empty"
    } else if target.contains('\0') {
        "it holds a NUL byte"
    } else if target.len() >= crate::PATH_BYTES_MAX {
        // Linux counts the NUL byte at a link's end.
        "it is longer than a path may be"
    } else {
        return Ok(());
    };
    let target = target.chars().take(120).collect();
    Err(DirectoryError::Target { name: name.to_owned(), target, why })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire_digest() -> Option<reapi::Digest> {
        Some(Digest::empty(DigestFunction::Sha256).to_wire())
    }

    fn file(name: &str) -> reapi::FileNode {
        reapi::FileNode { name: name.into(), digest: wire_digest(), ..Default::default() }
    }

    fn link(name: &str, target: &str) -> reapi::SymlinkNode {
        reapi::SymlinkNode { name: name.into(), target: target.into(), ..Default::default() }
    }

    #[track_caller]
    fn refuses(wire: reapi::Directory) -> DirectoryError {
        Directory::from_wire(DigestFunction::Sha256, wire).unwrap_err()
    }

    #[test]
    fn names_must_be_single_and_unique() {
        for name in ["", ".", "..", "a/b", "a\0b"] {
            let error = refuses(reapi::Directory { files: vec![file(name)], ..Default::default() });
            assert!(matches!(error, DirectoryError::Name(_)), "{name:?}: {error}");
        }
        let directories = vec![reapi::DirectoryNode { name: "a".into(), digest: wire_digest() }];
        let error = refuses(reapi::Directory { files: vec![file("a")], directories, ..Default::default() });
        assert_eq!(error, DirectoryError::Duplicate("a".into()));
    }

    #[test]
    fn digests_must_be_there_and_valid() {
        let node = reapi::FileNode { name: "a".into(), ..Default::default() };
        assert!(matches!(
            refuses(reapi::Directory { files: vec![node], ..Default::default() }),
            DirectoryError::Digest { .. }
        ));
    }

    #[test]
    fn symlink_targets_are_those_that_a_link_can_have() {
        for target in ["", "a\0b", &"a/".repeat(3000)] {
            let wire = reapi::Directory { symlinks: vec![link("l", target)], ..Default::default() };
            assert!(matches!(refuses(wire), DirectoryError::Target { .. }), "{target:?}");
        }
        for target in ["../x", "/lib/ld.so"] {
            let wire = reapi::Directory { symlinks: vec![link("l", target)], ..Default::default() };
            assert!(Directory::from_wire(DigestFunction::Sha256, wire).is_ok(), "{target:?}");
        }
    }

    #[test]
    fn names_are_in_order_when_their_bytes_are() {
        let order = |names: &[&str]| {
            let files = names.iter().map(|name| file(name)).collect();
            let wire = reapi::Directory { files, ..Default::default() };
            Directory::from_wire(DigestFunction::Sha256, wire).unwrap().check_order()
        };
        assert_eq!(order(&["A", "a", "a-b", "a.b", "ab", "\u{e9}", "\u{ff00}", "\u{10000}"]), Ok(()));
        for [later, earlier] in [["b", "a"], ["a", "B"], ["ab", "a-b"], ["\u{10000}", "\u{ff00}"]] {
            let expected = DirectoryError::Order { later: later.into(), earlier: earlier.into() };
            assert_eq!(order(&[later, earlier]), Err(expected));
        }
        // Each list by itself.
        let directories = vec![reapi::DirectoryNode { name: "a".into(), digest: wire_digest() }];
        let wire = reapi::Directory {
            files: vec![file("z")],
            directories,
            symlinks: vec![link("c", "x"), link("b", "x")],
            ..Default::default()
        };
        let directory = Directory::from_wire(DigestFunction::Sha256, wire).unwrap();
        assert!(matches!(directory.check_order(), Err(DirectoryError::Order { .. })));
    }

    #[test]
    fn garbage_is_no_directory() {
        assert!(matches!(
            Directory::decode(DigestFunction::Sha256, b"\xff\xff\xff"),
            Err(DirectoryError::Decode(_))
        ));
    }
}
