//! What was looked at of the input tree, exactly: a deterministic guest gives the same result for every
//! input root that agrees on all of it.
//!
//! What would take too much room is widened, never dropped: many ranges of a file become one that spans them,
//! many absent names of a directory become a listing of it.

use std::collections::{BTreeSet, HashMap};

use wardian_proto::{Digest, PATH_BYTES_MAX};

use super::tree::{Body, Lower, Node, Origin};
use super::{Kind, NodeId, Workspace};

/// Separate ranges of one file that are remembered.
const RANGES_MAX: usize = 64;

/// Absent names that are remembered for a whole workspace.
const ABSENT_NAMES_MAX: usize = 100_000;

/// What was seen of a node beyond that it is there and of its kind.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Size and times.
    pub(super) stat: bool,
    /// All names of a directory.
    pub(super) listed: bool,
    /// Where a symlink leads.
    pub(super) target: bool,
    /// Bytes of a file.
    pub(super) content: Ranges,
}

/// Parts of a file, in order and apart from each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    /// Adds the bytes from `start` up to, but not with, `end`.
    fn add(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        // The usual case: reading on.
        if let Some(last) = self.0.last_mut()
            && last.0 <= start
            && start <= last.1
        {
            last.1 = last.1.max(end);
            return;
        }
        let from = self.0.partition_point(|range| range.1 < start);
        let to = self.0.partition_point(|range| range.0 <= end);
        let joined = self.0[from..to]
            .iter()
            .fold((start, end), |joined, range| (joined.0.min(range.0), joined.1.max(range.1)));
        self.0.splice(from..to, [joined]);
        if self.0.len() > RANGES_MAX {
            let (first, last) = (self.0[0].0, self.0[RANGES_MAX].1);
            self.0 = vec![(first, last)];
        }
    }

    /// First byte, and the first one behind, of each range.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        self.0.iter().copied()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Names that were looked for in vain, by directory of the input.
#[derive(Default)]
pub(super) struct AbsentNames {
    by_directory: HashMap<NodeId, BTreeSet<Box<str>>>,
    count: usize,
}

/// Something of an input tree that was looked at, and what of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Its name; for the root of a tree the path it is found at.
    pub name: String,
    /// The digest of the file or Directory; `None` for a symlink.
    pub digest: Option<Digest>,
    /// Whether size or times were looked at.
    pub stat: bool,
    /// Whether all names of the directory were.
    pub listed: bool,
    /// Whether the symlink's target was.
    pub target: bool,
    /// Which parts of the file were read.
    pub content: Ranges,
    /// Names that were looked for in the directory and are not in it, sorted.
    pub absent: Vec<String>,
    /// What was looked at below, sorted by name.
    pub children: Vec<Observed>,
}

impl Workspace {
    pub(super) fn note_content(&mut self, id: NodeId, start: u64, end: u64) {
        let seen = &mut self.node_mut(id).seen;
        let is_first = seen.content.is_empty();
        seen.content.add(start, end);
        self.usage.files_read += u64::from(is_first);
    }

    pub(super) fn note_absent(&mut self, directory: NodeId, name: &str) {
        if self.node(directory).seen.listed {
            return;
        }
        if self.absent.count >= ABSENT_NAMES_MAX {
            self.node_mut(directory).seen.listed = true;
            let known = self.absent.by_directory.remove(&directory);
            self.absent.count -= known.map_or(0, |names| names.len());
            return;
        }
        let names = self.absent.by_directory.entry(directory).or_default();
        if !names.contains(name) {
            names.insert(name.into());
            self.absent.count += 1;
        }
    }

    /// What was looked at: one for the input root, then one for each grafted tree.
    pub fn observed(&self) -> Vec<Observed> {
        let mut below: HashMap<NodeId, Vec<NodeId>> = HashMap::new();
        for (id, node) in self.nodes() {
            if let Some(Origin::Entry { parent, .. }) = node.origin {
                below.entry(parent).or_default().push(id);
            }
        }
        let roots = self.nodes().filter_map(|(id, node)| match &node.origin {
            Some(Origin::Root(path)) => Some((id, path.as_str().to_owned())),
            _ => None,
        });
        roots.map(|(id, name)| self.observe(id, name, &below)).collect()
    }

    /// Some of the files of the input root of which something was read, with the paths they have in it.
    pub(crate) fn files_read(&self, count_max: usize) -> Vec<(String, Digest)> {
        let read = self.nodes().filter(|(_, node)| !node.seen.content.is_empty());
        let files = read.filter_map(|(id, node)| Some((self.input_path(id)?, input_digest(node)?)));
        files.filter(|(path, _)| path.len() <= PATH_BYTES_MAX).take(count_max).collect()
    }

    /// Where a node is in the input root; nothing for what is elsewhere.
    fn input_path(&self, mut id: NodeId) -> Option<String> {
        let mut names = Vec::new();
        loop {
            let node = self.node(id);
            match node.origin.as_ref()? {
                Origin::Entry { parent, .. } => {
                    names.push(self.input_name(*parent, node));
                    id = *parent;
                }
                Origin::Root(path) => {
                    names.reverse();
                    return path.is_root().then(|| names.join("/"));
                }
            }
        }
    }

    fn observe(&self, id: NodeId, name: String, below: &HashMap<NodeId, Vec<NodeId>>) -> Observed {
        let node = self.node(id);
        let children = below.get(&id).map_or(&[][..], Vec::as_slice);
        let mut children: Vec<Observed> = children
            .iter()
            .map(|child| self.observe(*child, self.input_name(id, self.node(*child)), below))
            .collect();
        children.sort_by(|a, b| a.name.cmp(&b.name));
        let absent = self.absent.by_directory.get(&id).filter(|_| !node.seen.listed);
        Observed {
            name,
            digest: input_digest(node),
            stat: node.seen.stat,
            listed: node.seen.listed,
            target: node.seen.target,
            content: node.seen.content.clone(),
            absent: absent.into_iter().flatten().map(|name| name.to_string()).collect(),
            children,
        }
    }

    /// The name that a node has in the input, whatever it is called now.
    fn input_name(&self, parent: NodeId, node: &Node) -> String {
        match (&self.directory(parent).lower, &node.origin) {
            (Lower::Read { directory, .. }, Some(Origin::Entry { index, .. })) => {
                directory.entries[*index as usize].name.to_string()
            }
            _ => unreachable!("a node of the input was found in a directory that was read"),
        }
    }
}

fn input_digest(node: &Node) -> Option<Digest> {
    match &node.body {
        Body::File(file) => file.input_digest(),
        Body::Directory(directory) => match directory.lower {
            Lower::Read { digest, .. } | Lower::Unread(digest) => Some(digest),
            Lower::None => None,
        },
        Body::Symlink(_) => None,
    }
}

impl super::inputs::InputKind {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::File { .. } => Kind::File,
            Self::Directory(_) => Kind::Directory,
            Self::Symlink(_) => Kind::Symlink,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(added: &[(u64, u64)]) -> Vec<(u64, u64)> {
        let mut ranges = Ranges::default();
        for (start, end) in added {
            ranges.add(*start, *end);
        }
        ranges.0
    }

    #[test]
    fn ranges_that_touch_are_one() {
        assert_eq!(ranges(&[(0, 4), (4, 8), (2, 6), (8, 8)]), [(0, 8)]);
        assert_eq!(ranges(&[(10, 20), (0, 5), (30, 40)]), [(0, 5), (10, 20), (30, 40)]);
        assert_eq!(ranges(&[(10, 20), (30, 40), (15, 30)]), [(10, 40)]);
        assert_eq!(ranges(&[(10, 20), (0, 50)]), [(0, 50)]);
        assert_eq!(ranges(&[(10, 20), (5, 10)]), [(5, 20)]);
    }

    #[test]
    fn too_many_ranges_become_one_that_spans_them() {
        let many: Vec<_> = (0..=RANGES_MAX as u64).map(|i| (i * 10, i * 10 + 1)).collect();
        assert_eq!(ranges(&many[1..]).len(), RANGES_MAX);
        assert_eq!(ranges(&many), [(0, RANGES_MAX as u64 * 10 + 1)]);
    }
}
