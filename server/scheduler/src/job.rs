//! What is asked for, and the names by which it is spoken of.

use std::fmt;
use std::sync::Arc;

use wardian_proto::{Digest, InstanceName};

use crate::platform::Platform;

/// An action to be run.
#[derive(Clone, Debug)]
pub struct Job {
    /// The instance it was sent to: the tenant.
    pub instance: InstanceName,
    /// The Action that is run.
    pub action: Digest,
    /// The Action that the client sent; another one where that named toolchains.
    pub requested: Digest,
    /// What the worker must satisfy.
    pub platform: Platform,
    /// Lower runs sooner, among those of one invocation.
    pub priority: i32,
    /// Neither joined with others nor cached.
    pub do_not_cache: bool,
    /// What run of a build tool it belongs to.
    pub invocation: Invocation,
    /// What it is expected to take of a worker's memory, in bytes; 0 when nobody knows.
    pub memory_bytes: u64,
}

/// Longest name of an invocation in bytes; a longer one is cut.
const INVOCATION_BYTES_MAX: usize = 128;

/// One run of a build tool, by the `tool_invocation_id` of its RequestMetadata or, without one, by its
/// `correlated_invocations_id`. All that name neither are one invocation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Invocation(Arc<str>);

impl Invocation {
    /// Takes a client's text.
    pub fn from_client(tool_invocation_id: &str, correlated_invocations_id: &str) -> Self {
        let id = if tool_invocation_id.is_empty() { correlated_invocations_id } else { tool_invocation_id };
        let mut end = id.len().min(INVOCATION_BYTES_MAX);
        while !id.is_char_boundary(end) {
            end -= 1;
        }
        Self(id[..end].into())
    }
}

impl Default for Invocation {
    fn default() -> Self {
        Self("".into())
    }
}

impl fmt::Display for Invocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of one client's operation: `[instance/]operations/UUID`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OperationName(Arc<str>);

impl OperationName {
    /// Makes a new name.
    pub fn new(instance: &InstanceName) -> Self {
        Self(format!("{}operations/{}", instance.prefix(), uuid::Uuid::new_v4()).into())
    }

    /// What stands before every name of an instance.
    pub(crate) fn first_of(instance: &InstanceName) -> Self {
        Self(format!("{}operations/", instance.prefix()).into())
    }

    /// Takes a client's text; whether such an operation exists is for the scheduler to say.
    pub fn from_client(text: &str) -> Self {
        Self(text.into())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for OperationName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Names a run. Of two runs the one that came first has the smaller name, also over restarts of a queue that keeps
/// a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RunId(pub(crate) u64);

impl RunId {
    /// A name that another queue gave out.
    pub fn from_number(number: u64) -> Self {
        Self(number)
    }
}

/// Names a worker for as long as the scheduler lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerId(pub(crate) u64);

impl WorkerId {
    /// A name that another queue gave out.
    pub fn from_number(number: u64) -> Self {
        Self(number)
    }
}
