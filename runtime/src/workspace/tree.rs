//! Nodes of a workspace and the names that lead to them.
//!
//! A node is made for what was looked at, never for what merely lies in the input tree.

use std::collections::BTreeMap;
use std::sync::Arc;

use wardian_proto::{Digest, RelPath};

use super::files::FileBody;
use super::inputs::{InputDirectory, InputKind};
use super::observed::Seen;
use super::pages::Pages;
use super::{Errno, FIXED_TIME, Result, Workspace};
use crate::Failure;

/// Where a node is in its workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(u32);

impl NodeId {
    /// The root of the workspace.
    pub const ROOT: Self = Self(0);

    fn index(self) -> usize {
        self.0 as usize
    }
}

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Kind {
    File,
    Directory,
    Symlink,
}

/// What may be done to a grafted tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nothing in it can be changed.
    ReadOnly,
    /// It can be changed as the input root can: for this action alone.
    CopyOnWrite,
}

/// Times in nanoseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Times {
    pub accessed: u64,
    pub modified: u64,
    pub changed: u64,
}

impl Times {
    pub(super) fn all(time: u64) -> Self {
        Self { accessed: time, modified: time, changed: time }
    }
}

/// What is known about a node without looking into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// A number that no other node of this workspace has, in order of being looked at or made.
    pub inode: u64,
    /// What it is.
    pub kind: Kind,
    /// Names that lead to it.
    pub links: u64,
    /// Bytes of a file or of a symlink's target; 0 for a directory.
    pub size: u64,
    /// Its times.
    pub times: Times,
}

pub(super) struct Node {
    pub(super) inode: u64,
    pub(super) body: Body,
    pub(super) links: u32,
    /// Descriptors that hold it open.
    pub(super) handles: u32,
    pub(super) times: Times,
    pub(super) read_only: bool,
    pub(super) origin: Option<Origin>,
    pub(super) seen: Seen,
}

/// Where a node stands in an input tree.
pub(super) enum Origin {
    /// It is the root of a tree, which is found at this path.
    Root(RelPath),
    /// It is entry `index` of the directory `parent` as the input has it.
    Entry { parent: NodeId, index: u32 },
}

pub(super) enum Body {
    File(FileBody),
    Directory(DirectoryBody),
    Symlink(Box<str>),
}

pub(super) struct DirectoryBody {
    pub(super) parent: NodeId,
    pub(super) lower: Lower,
    /// Names that were looked at or changed. `None`: the input's entry of that name was removed.
    pub(super) names: BTreeMap<Box<str>, Option<NodeId>>,
}

/// The input's part of a directory.
#[derive(Clone)]
pub(super) enum Lower {
    None,
    Unread(Digest),
    /// The entries have the inodes from `first_inode` on, in order.
    Read {
        digest: Digest,
        directory: Arc<InputDirectory>,
        first_inode: u64,
    },
}

impl DirectoryBody {
    fn new(parent: NodeId, lower: Lower) -> Self {
        Self { parent, lower, names: BTreeMap::new() }
    }
}

impl Node {
    pub(super) fn new(inode: u64, body: Body, time: u64) -> Self {
        let (times, seen) = (Times::all(time), Seen::default());
        Self { inode, body, links: 1, handles: 0, times, read_only: false, origin: None, seen }
    }

    pub(super) fn kind(&self) -> Kind {
        match self.body {
            Body::File(_) => Kind::File,
            Body::Directory(_) => Kind::Directory,
            Body::Symlink(_) => Kind::Symlink,
        }
    }
}

impl Workspace {
    pub(super) fn plant_root(&mut self, root: Digest) {
        let body = Body::Directory(DirectoryBody::new(NodeId::ROOT, Lower::Unread(root)));
        let mut node = Node::new(self.new_inodes(1), body, FIXED_TIME);
        node.origin = Some(Origin::Root(RelPath::root()));
        self.nodes.push(node);
    }

    /// Puts the stored tree `root` at a path, in place of whatever the input has there.
    ///
    /// Parents that are missing are made. A grafted directory itself can be neither removed nor renamed.
    pub fn graft(&mut self, path: &RelPath, root: Digest, access: Access) -> Result<NodeId> {
        let parent = match path.parent() {
            Some(parent) => self.create_parents(NodeId::ROOT, &parent)?,
            None => {
                return Err(Failure::InvalidArgument("the input root cannot be grafted over".into()).into());
            }
        };
        let body = Body::Directory(DirectoryBody::new(parent, Lower::Unread(root)));
        let mut node = Node::new(self.new_inodes(1), body, FIXED_TIME);
        node.read_only = access == Access::ReadOnly;
        node.origin = Some(Origin::Root(path.clone()));
        let id = self.add(node);
        let name = path.file_name().expect("a path with a parent has a name");
        self.directory_mut(parent).names.insert(name.into(), Some(id));
        Ok(id)
    }

    pub(super) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    pub(super) fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.index()]
    }

    pub(super) fn node_and_pages(&mut self, id: NodeId) -> (&mut Node, &mut Pages) {
        (&mut self.nodes[id.index()], &mut self.pages)
    }

    pub(super) fn nodes(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        (0..).map(NodeId).zip(&self.nodes)
    }

    /// The directory at a node that is known to be one.
    pub(super) fn directory(&self, id: NodeId) -> &DirectoryBody {
        match &self.node(id).body {
            Body::Directory(directory) => directory,
            _ => unreachable!("the caller found a directory here"),
        }
    }

    pub(super) fn directory_mut(&mut self, id: NodeId) -> &mut DirectoryBody {
        match &mut self.node_mut(id).body {
            Body::Directory(directory) => directory,
            _ => unreachable!("the caller found a directory here"),
        }
    }

    /// What a node is.
    pub fn kind(&self, id: NodeId) -> Kind {
        self.node(id).kind()
    }

    /// What is known about a node.
    pub fn stat(&mut self, id: NodeId) -> Result<Stat> {
        self.learn_times(id)?;
        let node = self.node_mut(id);
        node.seen.stat = true;
        let size = match &node.body {
            Body::File(file) => file.size(),
            Body::Symlink(target) => target.len() as u64,
            Body::Directory(_) => 0,
        };
        let links = u64::from(node.links);
        Ok(Stat { inode: node.inode, kind: node.kind(), links, size, times: node.times })
    }

    /// A directory's own times are inside its message.
    fn learn_times(&mut self, id: NodeId) -> Result<()> {
        if self.kind(id) == Kind::Directory { self.lower(id).map(|_| ()) } else { Ok(()) }
    }

    /// Sets the times that are given.
    pub fn set_times(&mut self, id: NodeId, accessed: Option<u64>, modified: Option<u64>) -> Result<()> {
        self.check_writable(id)?;
        self.learn_times(id)?;
        let now = self.now;
        let times = &mut self.node_mut(id).times;
        times.accessed = accessed.unwrap_or(times.accessed);
        times.modified = modified.unwrap_or(times.modified);
        times.changed = now;
        Ok(())
    }

    pub(super) fn check_writable(&self, id: NodeId) -> Result<()> {
        if self.node(id).read_only { Err(Errno::Rofs.into()) } else { Ok(()) }
    }

    /// Takes the next `count` inode numbers and returns the first of them.
    pub(super) fn new_inodes(&mut self, count: usize) -> u64 {
        let first = self.next_inode;
        self.next_inode += count as u64;
        first
    }

    pub(super) fn add(&mut self, node: Node) -> NodeId {
        if let Some(id) = self.vacant.pop() {
            self.nodes[id.index()] = node;
            return id;
        }
        self.nodes.push(node);
        NodeId(u32::try_from(self.nodes.len() - 1).expect("limits on nodes are far below 2^32"))
    }

    /// Gives a node up that no name leads to and nobody holds open.
    pub(super) fn release_if_unused(&mut self, id: NodeId) {
        let (node, pages) = self.node_and_pages(id);
        if node.links > 0 || node.handles > 0 {
            return;
        }
        let is_input = node.origin.is_some();
        match &mut node.body {
            Body::File(file) => pages.release(file.take_pages()),
            Body::Symlink(target) if !is_input => {
                let bytes = target.len();
                *target = "".into();
                pages.give_back(bytes as u64);
            }
            Body::Symlink(_) | Body::Directory(_) => {}
        }
        // What was seen of the input is still to be told.
        if !is_input {
            self.vacant.push(id);
        }
    }

    /// Returns the node that a name of a directory leads to.
    pub(super) fn lookup(&mut self, directory: NodeId, name: &str) -> Result<Option<NodeId>> {
        if let Some(known) = self.directory(directory).names.get(name) {
            return Ok(*known);
        }
        let Some((lower, first_inode)) = self.lower(directory)? else { return Ok(None) };
        let Some(index) = lower.find(name) else {
            self.note_absent(directory, name);
            return Ok(None);
        };
        self.look_at(directory, &lower, first_inode, index).map(Some)
    }

    /// The input's part of a directory, read when it was not yet.
    pub(super) fn lower(&mut self, id: NodeId) -> Result<Option<(Arc<InputDirectory>, u64)>> {
        let digest = match &self.directory(id).lower {
            Lower::None => return Ok(None),
            Lower::Read { directory, first_inode, .. } => {
                return Ok(Some((Arc::clone(directory), *first_inode)));
            }
            Lower::Unread(digest) => *digest,
        };
        let directory = self.inputs.directory_now(&digest)?;
        let first_inode = self.new_inodes(directory.entries.len());
        if let Some(mtime) = directory.mtime {
            self.node_mut(id).times = Times::all(mtime);
        }
        let read = Lower::Read { digest, directory: Arc::clone(&directory), first_inode };
        self.directory_mut(id).lower = read;
        Ok(Some((directory, first_inode)))
    }

    /// Makes the node of an input's entry that is looked at for the first time.
    fn look_at(
        &mut self,
        parent: NodeId,
        lower: &InputDirectory,
        first_inode: u64,
        index: usize,
    ) -> Result<NodeId> {
        if self.input_nodes >= self.limits.input_entries_max {
            return Err(Failure::ResourceExhausted(format!(
                "the guest looked at {} entries of its input root and at one more; \
                 limit input_entries_max is {}",
                self.input_nodes, self.limits.input_entries_max
            ))
            .into());
        }
        let entry = &lower.entries[index];
        let mut time = FIXED_TIME;
        let body = match &entry.kind {
            InputKind::File { digest, is_executable, mtime } => {
                time = mtime.unwrap_or(FIXED_TIME);
                Body::File(FileBody::input(*digest, *is_executable))
            }
            InputKind::Directory(digest) => {
                self.check_depth(parent, 1)?;
                Body::Directory(DirectoryBody::new(parent, Lower::Unread(*digest)))
            }
            InputKind::Symlink(target) => Body::Symlink(target.clone()),
        };
        let mut node = Node::new(first_inode + index as u64, body, time);
        node.read_only = self.node(parent).read_only;
        node.origin =
            Some(Origin::Entry { parent, index: u32::try_from(index).expect("messages are smaller") });
        let id = self.add(node);
        self.input_nodes += 1;
        self.directory_mut(parent).names.insert(entry.name.clone(), Some(id));
        Ok(id)
    }

    pub(super) fn new_directory(&mut self, parent: NodeId) -> Node {
        let body = Body::Directory(DirectoryBody::new(parent, Lower::None));
        Node::new(self.new_inodes(1), body, self.now)
    }

    /// Directories above a node.
    pub(super) fn depth(&self, mut id: NodeId) -> usize {
        let mut depth = 0;
        while id != NodeId::ROOT {
            id = self.directory(id).parent;
            depth += 1;
        }
        depth
    }

    /// Refuses to put a tree of `height` levels below `parent` when that is too deep.
    pub(super) fn check_depth(&mut self, parent: NodeId, height: usize) -> Result<()> {
        let (depth, max) = (self.depth(parent), self.limits.wasm_path_depth_max);
        if depth + height > max {
            return Err(self.refuse("wasm_path_depth_max", depth as u64, max as u64, Errno::Nametoolong));
        }
        Ok(())
    }
}
