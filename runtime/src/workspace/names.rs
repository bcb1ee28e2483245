//! Making, removing, renaming and linking.

use wardian_proto::{PATH_BYTES_MAX, RelPath};

use super::tree::{Body, Lower, Node};
use super::walk::{Last, Spot};
use super::{Errno, Kind, NodeId, Result, Workspace};

/// The name of a spot that has one. Others, such as `a/..`, exist and are in use.
fn name(spot: &Spot, otherwise: Errno) -> Result<&str> {
    spot.name.as_deref().ok_or_else(|| otherwise.into())
}

impl Workspace {
    /// Makes a directory.
    pub fn create_directory(&mut self, start: NodeId, path: &str) -> Result<NodeId> {
        let spot = self.walk(start, path, Last::Keep)?;
        let name = self.new_name(&spot)?;
        self.check_depth(spot.parent, 1)?;
        let directory = self.new_directory(spot.parent);
        self.plant(spot.parent, name, directory)
    }

    /// Makes the directories of a path that are missing.
    pub fn create_parents(&mut self, start: NodeId, path: &RelPath) -> Result<NodeId> {
        let mut at = start;
        for segment in path.segments() {
            let found = self.walk(at, segment, Last::Follow)?;
            at = match found.node {
                Some(node) => self.expect_directory(node)?,
                None => self.create_directory(at, segment)?,
            };
        }
        Ok(at)
    }

    /// Makes a symlink. Its target may be anything; where it leads is found when it is followed.
    pub fn create_symlink(&mut self, target: &str, start: NodeId, path: &str) -> Result<()> {
        match target {
            "" => return Err(Errno::Noent.into()),
            _ if target.len() > PATH_BYTES_MAX => return Err(Errno::Nametoolong.into()),
            _ if target.contains('\0') => return Err(Errno::Inval.into()),
            _ => {}
        }
        let spot = self.walk(start, path, Last::Keep)?;
        let name = self.new_name(&spot)?;
        if spot.slash {
            return Err(Errno::Noent.into());
        }
        self.charge(target.len() as u64)?;
        let node = Node::new(self.new_inodes(1), Body::Symlink(target.into()), self.now);
        let planted = self.plant(spot.parent, name, node);
        if planted.is_err() {
            self.pages.give_back(target.len() as u64);
        }
        planted.map(|_| ())
    }

    /// The target of a symlink.
    pub fn read_link(&mut self, start: NodeId, path: &str) -> Result<&str> {
        let id = self.find(start, path, Last::NoFollow)?;
        let node = self.node_mut(id);
        let Body::Symlink(target) = &node.body else { return Err(Errno::Inval.into()) };
        node.seen.target = true;
        Ok(target)
    }

    /// Gives a file or symlink a further name.
    pub fn link(&mut self, from: (NodeId, &str), last: Last, to: (NodeId, &str)) -> Result<()> {
        let node = self.find(from.0, from.1, last)?;
        if self.kind(node) == Kind::Directory {
            return Err(Errno::Perm.into());
        }
        let spot = self.walk(to.0, to.1, Last::Keep)?;
        let name = self.new_name(&spot)?;
        if spot.slash {
            return Err(Errno::Noent.into());
        }
        // A name in a tree that can be changed would make what is read-only writable.
        if self.node(node).read_only {
            return Err(Errno::Xdev.into());
        }
        self.charge_file()?;
        let now = self.now;
        let linked = self.node_mut(node);
        linked.links += 1;
        linked.times.changed = now;
        self.set_name(spot.parent, name, node);
        Ok(())
    }

    /// Removes the name of a file or symlink. Whoever has it open keeps it.
    pub fn unlink(&mut self, start: NodeId, path: &str) -> Result<()> {
        let spot = self.walk(start, path, Last::Keep)?;
        let node = spot.node.ok_or(Errno::Noent)?;
        let name = name(&spot, Errno::Isdir)?;
        if self.kind(node) == Kind::Directory {
            return Err(Errno::Isdir.into());
        }
        if spot.slash {
            return Err(Errno::Notdir.into());
        }
        self.check_writable(spot.parent)?;
        self.remove_name(spot.parent, name)
    }

    /// Removes an empty directory.
    pub fn remove_directory(&mut self, start: NodeId, path: &str) -> Result<()> {
        let spot = self.walk(start, path, Last::Keep)?;
        let node = spot.node.ok_or(Errno::Noent)?;
        if self.kind(node) != Kind::Directory {
            return Err(Errno::Notdir.into());
        }
        let name = match &spot.name {
            Some(name) => name,
            None if path.trim_end_matches('/').ends_with("..") => return Err(Errno::Notempty.into()),
            None => return Err(Errno::Inval.into()),
        };
        self.check_not_grafted(node)?;
        self.check_writable(spot.parent)?;
        self.check_empty(node)?;
        self.remove_name(spot.parent, name)
    }

    /// Renames, in place of what is at the new name when that may be replaced.
    pub fn rename(&mut self, from: (NodeId, &str), to: (NodeId, &str)) -> Result<()> {
        let old = self.walk(from.0, from.1, Last::Keep)?;
        let node = old.node.ok_or(Errno::Noent)?;
        let new = self.walk(to.0, to.1, Last::Keep)?;
        let (old_name, new_name) = (name(&old, Errno::Busy)?, name(&new, Errno::Busy)?);
        let is_directory = self.kind(node) == Kind::Directory;
        if (old.slash || new.slash) && !is_directory {
            return Err(Errno::Notdir.into());
        }
        self.check_not_grafted(node)?;
        self.check_writable(old.parent)?;
        self.check_writable(new.parent)?;
        if is_directory {
            if self.is_above(node, new.parent) {
                return Err(Errno::Inval.into());
            }
            let height = self.height(node);
            self.check_depth(new.parent, height)?;
        }
        if let Some(replaced) = new.node {
            if replaced == node {
                return Ok(());
            }
            self.check_replaceable(replaced, is_directory)?;
            self.remove_name(new.parent, new_name)?;
        }
        self.take_name(old.parent, old_name);
        self.set_name(new.parent, new_name, node);
        let now = self.now;
        self.node_mut(node).times.changed = now;
        if is_directory {
            self.directory_mut(node).parent = new.parent;
        }
        Ok(())
    }

    fn check_replaceable(&mut self, replaced: NodeId, by_directory: bool) -> Result<()> {
        match (self.kind(replaced) == Kind::Directory, by_directory) {
            (true, false) => Err(Errno::Isdir.into()),
            (false, true) => Err(Errno::Notdir.into()),
            (true, true) => {
                self.check_not_grafted(replaced)?;
                self.check_empty(replaced)
            }
            (false, false) => Ok(()),
        }
    }

    /// Checks that something can be made at a spot, and returns its name.
    pub(super) fn new_name<'a>(&self, spot: &'a Spot) -> Result<&'a str> {
        let name = name(spot, Errno::Exist)?;
        if spot.node.is_some() {
            return Err(Errno::Exist.into());
        }
        self.check_writable(spot.parent)?;
        Ok(name)
    }

    /// Puts a new node at a name that leads nowhere.
    pub(super) fn plant(&mut self, parent: NodeId, name: &str, node: Node) -> Result<NodeId> {
        self.charge_file()?;
        let id = self.add(node);
        self.set_name(parent, name, id);
        Ok(id)
    }

    fn set_name(&mut self, parent: NodeId, name: &str, node: NodeId) {
        self.directory_mut(parent).names.insert(name.into(), Some(node));
        self.touch(parent);
    }

    /// Takes a name away and leaves its node as it is.
    fn take_name(&mut self, parent: NodeId, name: &str) {
        let directory = self.directory_mut(parent);
        let in_input = match &directory.lower {
            Lower::Read { directory, .. } => directory.find(name).is_some(),
            Lower::None | Lower::Unread(_) => false,
        };
        if in_input {
            directory.names.insert(name.into(), None);
        } else {
            directory.names.remove(name);
        }
        self.touch(parent);
    }

    fn remove_name(&mut self, parent: NodeId, name: &str) -> Result<()> {
        let node = self.lookup(parent, name)?.ok_or(Errno::Noent)?;
        self.take_name(parent, name);
        let now = self.now;
        let removed = self.node_mut(node);
        // The name that an input has was never charged.
        let charged = removed.origin.is_none() || removed.links > 1;
        removed.links -= 1;
        removed.times.changed = now;
        self.files -= usize::from(charged);
        self.release_if_unused(node);
        Ok(())
    }

    fn touch(&mut self, directory: NodeId) {
        let now = self.now;
        let times = &mut self.node_mut(directory).times;
        (times.modified, times.changed) = (now, now);
    }

    fn check_empty(&mut self, directory: NodeId) -> Result<()> {
        let lower = self.lower(directory)?;
        self.node_mut(directory).seen.listed = true;
        let names = &self.directory(directory).names;
        let has_new = names.values().any(Option::is_some);
        let has_old = lower
            .is_some_and(|(lower, _)| lower.entries.iter().any(|entry| !names.contains_key(&entry.name)));
        if has_new || has_old { Err(Errno::Notempty.into()) } else { Ok(()) }
    }

    /// The directory that a tree was grafted at stays where it is.
    fn check_not_grafted(&self, node: NodeId) -> Result<()> {
        match self.node(node).origin {
            Some(super::tree::Origin::Root(_)) => Err(Errno::Busy.into()),
            _ => Ok(()),
        }
    }

    /// Whether `below` is `directory` or below it.
    fn is_above(&self, directory: NodeId, below: NodeId) -> bool {
        let mut at = below;
        while at != directory {
            if at == NodeId::ROOT {
                return false;
            }
            at = self.directory(at).parent;
        }
        true
    }

    /// Levels of directories that were looked at, from this one down.
    fn height(&self, directory: NodeId) -> usize {
        let mut levels = 0;
        let mut level = vec![directory];
        while !level.is_empty() {
            levels += 1;
            let children = level.iter().flat_map(|id| self.directory(*id).names.values().flatten());
            level = children.copied().filter(|id| self.kind(*id) == Kind::Directory).collect();
        }
        levels
    }

    fn charge_file(&mut self) -> Result<()> {
        let max = self.limits.wasm_workspace_files_max;
        if self.files >= max {
            let used = self.files as u64;
            return Err(self.refuse("wasm_workspace_files_max", used, max as u64, Errno::Nospc));
        }
        self.files += 1;
        Ok(())
    }

    pub(super) fn charge(&mut self, bytes: u64) -> Result<()> {
        match self.pages.charge(bytes) {
            Ok(()) => Ok(()),
            Err(full) => Err(self.full(full)),
        }
    }
}
