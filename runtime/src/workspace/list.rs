//! Directory listings: sorted by name, and fixed when they are made.

use super::tree::Lower;
use super::{Errno, Kind, NodeId, Result, Workspace};

/// Names in all listings that one workspace keeps at once.
const LISTED_NAMES_MAX: usize = 2_000_000;

/// The names that a directory had at one moment.
#[derive(Debug, Default)]
pub struct Listing {
    /// All names, one behind the other.
    names: String,
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    name_end: usize,
    inode: u64,
    kind: Kind,
}

/// One name of a [`Listing`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Listed<'a> {
    pub name: &'a str,
    pub inode: u64,
    pub kind: Kind,
}

impl Listing {
    /// Returns the name at a place.
    pub fn get(&self, index: usize) -> Option<Listed<'_>> {
        let Entry { name_end, inode, kind } = *self.entries.get(index)?;
        let start = index.checked_sub(1).map_or(0, |before| self.entries[before].name_end);
        Some(Listed { name: &self.names[start..name_end], inode, kind })
    }

    /// All names in order.
    pub fn iter(&self) -> impl Iterator<Item = Listed<'_>> {
        (0..self.entries.len()).map_while(|index| self.get(index))
    }

    fn push(&mut self, name: &str, inode: u64, kind: Kind) {
        self.names.push_str(name);
        self.entries.push(Entry { name_end: self.names.len(), inode, kind });
    }
}

impl Workspace {
    /// Lists a directory. The listing is counted until it is given back with [`Self::release`].
    pub fn list(&mut self, id: NodeId) -> Result<Listing> {
        let lower = self.lower(id)?;
        self.node_mut(id).seen.listed = true;
        let (old, first_inode) = match &lower {
            Some((lower, first_inode)) => (&lower.entries[..], *first_inode),
            None => (&[][..], 0),
        };
        let names = &self.directory(id).names;
        let max = LISTED_NAMES_MAX.saturating_sub(self.listed);
        if old.len() + names.len() > max {
            let used = self.listed as u64;
            return Err(self.refuse("listed_names_max", used, LISTED_NAMES_MAX as u64, Errno::Nomem));
        }
        let mut listing = Listing::default();
        let mut old = (first_inode..).zip(old).peekable();
        for (name, node) in names {
            while let Some((inode, entry)) = old.next_if(|(_, entry)| entry.name < *name) {
                listing.push(&entry.name, inode, entry.kind.kind());
            }
            old.next_if(|(_, entry)| entry.name == *name);
            if let Some(node) = node {
                listing.push(name, self.node(*node).inode, self.kind(*node));
            }
        }
        for (inode, entry) in old {
            listing.push(&entry.name, inode, entry.kind.kind());
        }
        self.listed += listing.entries.len();
        Ok(listing)
    }

    /// Gives a listing back.
    pub fn release(&mut self, listing: Listing) {
        self.listed -= listing.entries.len();
    }

    /// What a name leads to now, by inode and kind, without looking at it.
    pub fn entry(&self, directory: NodeId, name: &str) -> Option<(u64, Kind)> {
        let body = self.directory(directory);
        if let Some(known) = body.names.get(name) {
            return known.map(|node| (self.node(node).inode, self.kind(node)));
        }
        let Lower::Read { directory, first_inode, .. } = &body.lower else { return None };
        let index = directory.find(name)?;
        Some((first_inode + index as u64, directory.entries[index].kind.kind()))
    }

    /// The inodes of a directory and of its parent; the root is its own.
    pub fn inodes_of(&self, directory: NodeId) -> (u64, u64) {
        let node = self.node(directory);
        let is_there = node.links > 0;
        let parent = if is_there { self.directory(directory).parent } else { directory };
        (node.inode, self.node(parent).inode)
    }
}
