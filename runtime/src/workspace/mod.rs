//! The files of one WASI preview-1 action: its input tree with a copy-on-write layer on top.
//!
//! ```text
//! inputs     Directories and file contents as the store holds them, read when first looked at
//! tree       nodes: names that lead to files, directories and symlinks; grafts
//! walk       from a path to a node; symlinks stay inside the tree
//! names      making, removing, renaming and linking
//! files      opening, reading, writing, cutting; contents are pages over a blob
//! pages      the bytes that were written: in memory, then in an unlinked private file
//! list       directory listings
//! observed   what was looked at of the input tree
//! ```
//!
//! There is no host path anywhere: what a guest calls `/etc/passwd` is a name in this tree or nothing.
//! Nothing is copied or made for inputs that nobody looks at. A workspace belongs to one action and one
//! thread; only the cache behind it is shared.

use std::path::PathBuf;
use std::sync::Arc;

use wardian_proto::Digest;
pub use wasmtime_wasi::p1::types::Errno;

use crate::{Failure, Limits};

mod files;
mod inputs;
mod list;
mod names;
mod observed;
mod pages;
mod tree;
mod walk;

pub use files::OpenFile;
pub use inputs::Inputs;
pub(crate) use inputs::{InputDirectory, InputKind, InputTree};
pub use list::{Listed, Listing};
pub use observed::{Observed, Ranges};
pub use tree::{Access, Kind, NodeId, Stat, Times};
pub use walk::Last;

use observed::AbsentNames;
use pages::Pages;
use tree::Node;

/// Symlinks followed while one path is looked up, as Linux does.
pub(crate) const SYMLINKS_FOLLOWED_MAX: usize = 40;

/// The time that inputs and, on the fixed clock, everything else have: 2000-01-01T00:00:00Z, in
/// nanoseconds since 1970.
pub const FIXED_TIME: u64 = 946_684_800 * 1_000_000_000;

/// What one workspace may hold. The names are those of the configuration.
#[derive(Clone, Debug)]
pub struct WorkspaceLimits {
    /// Bytes that were written and not removed.
    pub wasm_workspace_bytes_max: u64,
    /// How many of them are held in memory; the rest is in a private file.
    pub wasm_workspace_memory_bytes_max: u64,
    /// Files, directories and symlinks that were made and not removed.
    pub wasm_workspace_files_max: usize,
    /// Directories above a file.
    pub wasm_path_depth_max: usize,
    /// Nodes of the input tree that were looked at.
    pub input_entries_max: usize,
}

impl WorkspaceLimits {
    /// Those among a worker's limits that concern a workspace.
    pub fn of(limits: &Limits) -> Self {
        Self {
            wasm_workspace_bytes_max: limits.wasm_workspace_bytes_max,
            wasm_workspace_memory_bytes_max: limits.wasm_workspace_memory_bytes_max,
            wasm_workspace_files_max: limits.wasm_workspace_files_max,
            wasm_path_depth_max: limits.wasm_path_depth_max,
            input_entries_max: limits.input_entries_max,
        }
    }
}

/// Why an operation on a workspace did not succeed.
#[derive(Debug)]
pub enum FsError {
    /// What the guest is told.
    Errno(Errno),
    /// What ends the action: an input that cannot be read, or a worker that cannot write.
    Failure(Box<Failure>),
}

impl From<Errno> for FsError {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

impl From<Failure> for FsError {
    fn from(failure: Failure) -> Self {
        Self::Failure(Box::new(failure))
    }
}

/// What an operation on a workspace returns.
pub type Result<T, E = FsError> = std::result::Result<T, E>;

/// A limit that a guest ran into: it was told an errno and may have gone on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitHit {
    /// The limit's name in the configuration.
    pub name: &'static str,
    /// What was in use.
    pub used: u64,
    /// What was allowed.
    pub allowed: u64,
}

impl std::fmt::Display for LimitHit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, used, allowed } = self;
        write!(f, "the guest had {used} and asked for more; limit {name} is {allowed}")
    }
}

/// What a workspace was used for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkspaceUsage {
    /// Bytes that reads returned, of inputs and of written files alike.
    pub bytes_read: u64,
    /// Bytes that writes took.
    pub bytes_written: u64,
    /// Input files of which something was read.
    pub files_read: u64,
    /// Files that were made, and input files that were changed.
    pub files_written: u64,
    /// Most bytes that the workspace held at once.
    pub bytes_peak: u64,
}

/// The files of one action.
pub struct Workspace {
    inputs: Arc<Inputs>,
    limits: WorkspaceLimits,
    nodes: Vec<Node>,
    /// Places in `nodes` that may be taken again.
    vacant: Vec<NodeId>,
    next_inode: u64,
    pages: Pages,
    /// Nodes and further names that were made and not removed.
    files: usize,
    /// Nodes that stand for something of an input tree.
    input_nodes: usize,
    listed: usize,
    absent: AbsentNames,
    now: u64,
    usage: WorkspaceUsage,
    limit_hit: Option<LimitHit>,
}

impl Workspace {
    /// A workspace over the input tree `root`. What does not fit into memory goes to a file below
    /// `spill_folder` that has no name there.
    pub fn new(inputs: Arc<Inputs>, root: Digest, limits: WorkspaceLimits, spill_folder: PathBuf) -> Self {
        let pages = Pages::new(spill_folder, &limits);
        let mut workspace = Self {
            inputs,
            limits,
            nodes: Vec::new(),
            vacant: Vec::new(),
            next_inode: 1,
            pages,
            files: 0,
            input_nodes: 0,
            listed: 0,
            absent: AbsentNames::default(),
            now: FIXED_TIME,
            usage: WorkspaceUsage::default(),
            limit_hit: None,
        };
        workspace.plant_root(root);
        workspace
    }

    /// Sets the time that changes get from now on, in nanoseconds since 1970.
    pub fn set_time(&mut self, now: u64) {
        self.now = now;
    }

    /// The first limit that the guest ran into.
    pub fn limit_hit(&self) -> Option<&LimitHit> {
        self.limit_hit.as_ref()
    }

    /// What it was used for so far.
    pub fn usage(&self) -> WorkspaceUsage {
        WorkspaceUsage { bytes_peak: self.pages.bytes_peak(), ..self.usage }
    }

    /// Bytes and files that are counted now.
    #[cfg(any(test, feature = "fuzzing"))]
    fn in_use(&self) -> (u64, usize) {
        (self.pages.bytes(), self.files)
    }

    /// Remembers that a limit was hit and returns what the guest is told.
    pub(crate) fn refuse(&mut self, name: &'static str, used: u64, allowed: u64, errno: Errno) -> FsError {
        self.limit_hit.get_or_insert(LimitHit { name, used, allowed });
        FsError::Errno(errno)
    }
}

/// A point in time as nanoseconds since 1970, nearest to what can be said so.
fn nanos(time: &prost_types::Timestamp) -> u64 {
    let seconds = u64::try_from(time.seconds).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(time.nanos).unwrap_or(0))
}

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
#[cfg(any(test, feature = "fuzzing"))]
mod model;
#[cfg(test)]
mod model_tests;
#[cfg(any(test, feature = "fuzzing"))]
mod test_store;
#[cfg(test)]
mod tests;
