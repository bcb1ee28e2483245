//! From a path to a node. Symlinks are followed inside the tree only: there is nothing else.

use std::borrow::Cow;

use wardian_proto::{PATH_BYTES_MAX, SEGMENT_BYTES_MAX};

use super::tree::Body;
use super::{Errno, Kind, NodeId, Result, SYMLINKS_FOLLOWED_MAX, Workspace};

/// What to do when a path ends at a symlink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Last {
    /// Go where it leads.
    Follow,
    /// Stay at it, unless the path ends with a slash and so asks for a directory.
    NoFollow,
    /// Stay at it: what is done concerns the name.
    Keep,
}

/// Where a path leads.
#[derive(Debug)]
pub(super) struct Spot {
    /// The directory of the last name, or the directory that a path without one leads to.
    pub(super) parent: NodeId,
    /// The last name; `None` for a path that ends with `.`, `..` or at the root.
    pub(super) name: Option<Box<str>>,
    /// What is there.
    pub(super) node: Option<NodeId>,
    /// Whether a slash follows the last name.
    pub(super) slash: bool,
}

/// A text of which the part from `at` on is still to be walked.
struct Rest<'a> {
    text: Cow<'a, str>,
    at: usize,
}

/// The texts to be walked, the next one last: symlinks put their targets before what follows them.
struct Rests<'a>(Vec<Rest<'a>>);

impl<'a> Rests<'a> {
    /// Takes the next name.
    fn next(&mut self) -> Option<Cow<'a, str>> {
        loop {
            let rest = self.0.last_mut()?;
            let slashes = rest.text[rest.at..].bytes().take_while(|byte| *byte == b'/').count();
            let start = rest.at + slashes;
            if start == rest.text.len() {
                self.0.pop();
                continue;
            }
            let end = rest.text[start..].find('/').map_or(rest.text.len(), |length| start + length);
            rest.at = end;
            return Some(match &rest.text {
                Cow::Borrowed(text) => Cow::Borrowed(&text[start..end]),
                Cow::Owned(text) => Cow::Owned(text[start..end].to_owned()),
            });
        }
    }

    /// Whether no name follows.
    fn is_empty(&self) -> bool {
        self.0.iter().all(|rest| rest.text[rest.at..].bytes().all(|byte| byte == b'/'))
    }

    /// Whether a slash follows.
    fn has_slash(&self) -> bool {
        self.0.iter().any(|rest| rest.at < rest.text.len())
    }
}

/// Refuses what no path can be; an absolute one is none that a guest may name relative to a directory.
fn check(path: &str) -> Result<()> {
    if path.is_empty() {
        Err(Errno::Noent.into())
    } else if path.len() > PATH_BYTES_MAX {
        Err(Errno::Nametoolong.into())
    } else if path.contains('\0') {
        Err(Errno::Inval.into())
    } else if path.starts_with('/') {
        Err(Errno::Notcapable.into())
    } else {
        Ok(())
    }
}

impl Workspace {
    /// Walks `path` from the directory `start`.
    ///
    /// Everything but the last name must be there. `..` is the parent in the tree, wherever `start` is, and
    /// ENOTCAPABLE above the root.
    pub(super) fn walk(&mut self, start: NodeId, path: &str, last: Last) -> Result<Spot> {
        check(path)?;
        let mut rests = Rests(vec![Rest { text: Cow::Borrowed(path), at: 0 }]);
        let mut at = self.expect_directory(start)?;
        let mut followed = 0;
        while let Some(name) = rests.next() {
            match &*name {
                "." => continue,
                ".." => {
                    at = self.parent(at)?;
                    continue;
                }
                name if name.len() > SEGMENT_BYTES_MAX => return Err(Errno::Nametoolong.into()),
                _ => {}
            }
            let (is_last, slash) = (rests.is_empty(), rests.has_slash());
            let found = self.lookup(at, &name)?;
            let Some(node) = found else {
                if !is_last {
                    return Err(Errno::Noent.into());
                }
                return Ok(Spot { parent: at, name: Some(name.into()), node: None, slash });
            };
            let follow = match last {
                Last::Follow => true,
                Last::NoFollow => !is_last || slash,
                Last::Keep => !is_last,
            };
            let body = &mut self.node_mut(node);
            if let (Body::Symlink(target), true) = (&body.body, follow) {
                followed += 1;
                if followed > SYMLINKS_FOLLOWED_MAX {
                    return Err(Errno::Loop.into());
                }
                let target = target.to_string();
                body.seen.target = true;
                if target.starts_with('/') {
                    at = NodeId::ROOT;
                }
                rests.0.push(Rest { text: Cow::Owned(target), at: 0 });
                continue;
            }
            if is_last {
                return Ok(Spot { parent: at, name: Some(name.into()), node: Some(node), slash });
            }
            at = self.expect_directory(node)?;
        }
        Ok(Spot { parent: at, name: None, node: Some(at), slash: true })
    }

    /// Returns the node that a path leads to.
    pub fn find(&mut self, start: NodeId, path: &str, last: Last) -> Result<NodeId> {
        let spot = self.walk(start, path, last)?;
        let node = spot.node.ok_or(Errno::Noent)?;
        if spot.slash { self.expect_directory(node) } else { Ok(node) }
    }

    /// The parent of a directory in the tree.
    pub(super) fn parent(&self, directory: NodeId) -> Result<NodeId> {
        if directory == NodeId::ROOT {
            return Err(Errno::Notcapable.into());
        }
        Ok(self.directory(directory).parent)
    }

    /// A directory that is still in the tree, or an error.
    pub(super) fn expect_directory(&self, node: NodeId) -> Result<NodeId> {
        match self.kind(node) {
            Kind::Directory if self.node(node).links == 0 => Err(Errno::Noent.into()),
            Kind::Directory => Ok(node),
            _ => Err(Errno::Notdir.into()),
        }
    }
}
