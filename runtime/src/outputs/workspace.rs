//! Outputs in a workspace. What is still what the input has is neither read nor hashed.

use std::io::{self, Read};
use std::sync::{Arc, Mutex, MutexGuard};

use wardian_proto::{RelPath, Segment};

use super::{OutputFile, OutputKind, OutputSource};
use crate::Failure;
use crate::workspace::{Errno, FsError, Kind, Last, NodeId, Workspace};

/// A workspace whose guest has ended.
pub(crate) struct WorkspaceOutputs {
    workspace: Arc<Mutex<Workspace>>,
}

impl WorkspaceOutputs {
    pub(crate) fn new(workspace: Workspace) -> Self {
        Self { workspace: Arc::new(Mutex::new(workspace)) }
    }

    fn lock(&self) -> MutexGuard<'_, Workspace> {
        lock(&self.workspace)
    }

    /// The node at a path; `None` when there is none.
    fn find(&self, path: &RelPath, last: Last) -> Result<Option<NodeId>, Failure> {
        if path.is_root() {
            return Ok(Some(NodeId::ROOT));
        }
        match self.lock().find(NodeId::ROOT, path.as_str(), last) {
            Ok(node) => Ok(Some(node)),
            // A parent that is a file or a link out of the root holds no output either.
            Err(FsError::Errno(_)) => Ok(None),
            Err(FsError::Failure(failure)) => Err(*failure),
        }
    }

    fn at(&self, path: &RelPath) -> Result<NodeId, Failure> {
        self.find(path, Last::Keep)?.ok_or_else(|| gone(path))
    }
}

fn lock(workspace: &Mutex<Workspace>) -> MutexGuard<'_, Workspace> {
    workspace.lock().expect("no code that holds this lock panics")
}

fn gone(path: &RelPath) -> Failure {
    Failure::Internal(format!("output {path} was there and is gone, though nothing runs"))
}

fn failure(path: &RelPath) -> impl Fn(FsError) -> Failure {
    move |error| match error {
        FsError::Errno(_) => gone(path),
        FsError::Failure(failure) => *failure,
    }
}

impl From<Kind> for OutputKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::File => Self::File,
            Kind::Directory => Self::Directory,
            Kind::Symlink => Self::Symlink,
        }
    }
}

impl OutputSource for WorkspaceOutputs {
    fn kind(&self, path: &RelPath) -> Result<Option<OutputKind>, Failure> {
        let node = self.find(path, Last::Keep)?;
        Ok(node.map(|node| self.lock().kind(node).into()))
    }

    fn target_kind(&self, path: &RelPath) -> Result<Option<OutputKind>, Failure> {
        let node = self.find(path, Last::Follow)?;
        Ok(node.map(|node| self.lock().kind(node).into()))
    }

    fn link_target(&self, path: &RelPath) -> Result<String, Failure> {
        let target = self.lock().read_link(NodeId::ROOT, path.as_str()).map(str::to_owned);
        target.map_err(failure(path))
    }

    fn list(&self, path: &RelPath, names_max: usize) -> Result<Vec<(Segment, OutputKind)>, Failure> {
        let node = self.at(path)?;
        let mut workspace = self.lock();
        let listing = workspace.list(node).map_err(|error| match error {
            FsError::Errno(Errno::Nomem) => Failure::ResourceExhausted(format!(
                "output directory {path} has more names than can be listed"
            )),
            error => failure(path)(error),
        })?;
        let segment = |name| Segment::parse(name).expect("names were checked when they were made");
        let names = listing.iter().take(names_max.saturating_add(1));
        let names = names.map(|entry| (segment(entry.name), entry.kind.into())).collect();
        workspace.release(listing);
        Ok(names)
    }

    fn open(&self, path: &RelPath) -> Result<OutputFile, Failure> {
        let node = self.at(path)?;
        let mut workspace = self.lock();
        let mut look = || {
            let (size, is_executable) = (workspace.size(node)?, workspace.is_executable(node)?);
            Ok((size, is_executable, workspace.unchanged(node)?))
        };
        let (size, is_executable, digest) = look().map_err(failure(path))?;
        let content = Box::new(Content { workspace: Arc::clone(&self.workspace), node, offset: 0 });
        Ok(OutputFile { size, is_executable, digest, content })
    }
}

/// Reads a file from its start.
struct Content {
    workspace: Arc<Mutex<Workspace>>,
    node: NodeId,
    offset: u64,
}

impl Read for Content {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = lock(&self.workspace).read(self.node, self.offset, buf).map_err(|error| match error {
            FsError::Failure(failure) => io::Error::other(failure),
            FsError::Errno(errno) => io::Error::other(errno),
        })?;
        self.offset += read as u64;
        Ok(read)
    }
}
