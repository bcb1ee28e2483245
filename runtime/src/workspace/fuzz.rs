//! What fuzzers do with a workspace: a tree of any Directories, and any history of file operations.

use prost::Message as _;
use wardian_proto::{DigestFunction, reapi};

use super::model::{LENGTHS, Model, OFFSETS, Op, compare, empty, step};
use super::test_store::{Store, limits};
use super::{FsError, Kind, Last, NodeId};

/// Names that are looked at in one tree: the same Directory may be in many places.
const NAMES_MAX: usize = 2_000;

/// Directories and files of a tree are looked at, whatever its Directories say. None is changed by that.
pub(crate) fn tree(input: &[u8]) {
    let Ok(tree) = reapi::Tree::decode(input) else { return };
    let Some(root) = tree.root else { return };
    let store = Store::new(1 << 16);
    for child in &tree.children {
        store.put(child.encode_to_vec());
    }
    let root = store.put(root.encode_to_vec());
    let mut workspace = store.workspace(root);
    let mut pending = vec![NodeId::ROOT];
    let mut looked_at = 0;
    while let Some(directory) = pending.pop() {
        // A Directory that is missing, or is none, ends the action of a guest.
        let Ok(listing) = workspace.list(directory) else { continue };
        let names: Vec<_> = listing.iter().map(|entry| (entry.name.to_owned(), entry.kind)).collect();
        workspace.release(listing);
        assert!(
            names.windows(2).all(|pair| pair[0].0 < pair[1].0),
            "names are sorted, and each is there once"
        );
        for (name, kind) in names {
            looked_at += 1;
            if looked_at > NAMES_MAX {
                return;
            }
            assert!(!matches!(&*name, "" | "." | "..") && !name.contains(['/', '\0']), "{name:?}");
            let Ok(node) = workspace.find(directory, &name, Last::Keep) else { continue };
            let stat = match workspace.stat(node) {
                Ok(stat) => stat,
                Err(FsError::Failure(_)) if kind == Kind::Directory => continue,
                Err(error) => panic!("{name:?} was found: {error:?}"),
            };
            assert_eq!(stat.kind, kind, "{name:?}");
            match kind {
                Kind::Directory => pending.push(node),
                // No content is stored, so only empty files can be read.
                Kind::File => assert_eq!(workspace.read(node, 0, &mut [0; 8]).is_ok(), stat.size == 0),
                Kind::Symlink => drop(workspace.find(directory, &name, Last::Follow)),
            }
        }
    }
    workspace.observed();
    assert_eq!(workspace.in_use(), (0, 0), "looking is free");
}

/// A tree with everything that a tree can have.
pub(crate) fn trees() -> Vec<Vec<u8>> {
    let digest = |bytes: &[u8]| Some(DigestFunction::Sha256.digest(bytes).to_wire());
    let link = |name: &str, target: &str| reapi::SymlinkNode {
        name: name.into(),
        target: target.into(),
        ..Default::default()
    };
    let file = |name: &str| reapi::FileNode { name: name.into(), digest: digest(b""), ..Default::default() };
    let below = reapi::Directory {
        files: vec![file("a"), file("b")],
        symlinks: vec![link("up", "../link"), link("round", "round")],
        ..Default::default()
    };
    let named = digest(&below.encode_to_vec());
    let root = reapi::Directory {
        files: vec![reapi::FileNode { is_executable: true, ..file("f") }],
        directories: vec![
            reapi::DirectoryNode { name: "d".into(), digest: named.clone() },
            reapi::DirectoryNode { name: "e".into(), digest: named },
            reapi::DirectoryNode { name: "missing".into(), digest: digest(b"missing") },
        ],
        symlinks: vec![link("link", "d/a"), link("out", "../../etc")],
        ..Default::default()
    };
    vec![
        Vec::new(),
        reapi::Tree { root: Some(below.clone()), children: Vec::new() }.encode_to_vec(),
        reapi::Tree { root: Some(root), children: vec![below] }.encode_to_vec(),
    ]
}

/// Any history of file operations ends as in the model.
pub(crate) fn operations(input: &[u8]) {
    const FILES: [(&str, &[u8]); 3] = [("in/f", b"input"), ("in/sub/f", b""), ("f", b"top")];
    let mut bytes = Source(input);
    let memory = [0, 70_000, 1 << 30][bytes.below(3)];
    let store = Store::shared();
    let root = store.tree(&FILES, &[]);
    let limits = super::WorkspaceLimits { wasm_workspace_memory_bytes_max: memory, ..limits() };
    let mut workspace = store.workspace_with(root, limits);
    let (mut model, mut held) = (Model::input(&FILES), None);
    while let Some(op) = bytes.operation() {
        step(&mut workspace, &mut held, &mut model, op);
    }
    compare(&mut workspace, &model);
    held.into_iter().for_each(|node| workspace.close(node));
    empty(&mut workspace);
    assert_eq!(workspace.in_use(), (0, 0), "whatever was charged is given back");
}

/// Histories to begin with.
pub(crate) fn histories() -> Vec<Vec<u8>> {
    vec![Vec::new(), (0..=255).collect(), (0..=255).rev().collect(), b"\x00\x03\x01\x02\x01".repeat(20)]
}

/// Choices made from bytes.
struct Source<'a>(&'a [u8]);

impl Source<'_> {
    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// A number below `count`; 0 once there are no more bytes.
    fn below(&mut self, count: usize) -> usize {
        usize::from(self.next().unwrap_or(0)) % count
    }

    fn path(&mut self) -> String {
        let names = ["a", "b", "in", "f", "sub", "c"];
        let segments = 1 + self.below(3);
        (0..segments).map(|_| names[self.below(names.len())]).collect::<Vec<_>>().join("/")
    }

    fn offset(&mut self) -> u64 {
        OFFSETS[self.below(OFFSETS.len())]
    }

    fn length(&mut self) -> usize {
        LENGTHS[self.below(LENGTHS.len())]
    }

    fn fill(&mut self) -> u8 {
        1 + self.next().unwrap_or(0) % 8
    }

    fn flag(&mut self) -> bool {
        self.below(2) == 1
    }

    /// The next operation; `None` at the end.
    fn operation(&mut self) -> Option<Op> {
        Some(match self.next()? % 14 {
            0 => Op::Write {
                path: self.path(),
                offset: self.offset(),
                length: self.length(),
                fill: self.fill(),
            },
            1 => Op::Append { path: self.path(), length: self.length(), fill: self.fill() },
            2 => Op::Truncate { path: self.path(), size: self.offset() },
            3 => Op::Create { path: self.path(), exclusive: self.flag(), truncate: self.flag() },
            4 => Op::Read { path: self.path(), offset: self.offset(), length: self.length() },
            5 => Op::Unlink { path: self.path() },
            6 => Op::MakeDirectory { path: self.path() },
            7 => Op::RemoveDirectory { path: self.path() },
            8 => Op::Rename { from: self.path(), to: self.path() },
            9 => Op::Link { from: self.path(), to: self.path() },
            10 => Op::List { path: self.path() },
            11 => Op::Hold { path: self.path() },
            12 => Op::WriteHeld { offset: self.offset(), length: self.length(), fill: self.fill() },
            _ => Op::DropHeld,
        })
    }
}
