//! Where the output of a running command can be followed.
//!
//! An executor appends what a command writes as it comes; who reads it, and how much of it is kept, is for
//! others to say. The result of the action does not depend on any of it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use wardian_proto::InstanceName;

/// Makes the streams that commands write to.
pub trait Logs: Send + Sync + 'static {
    /// A new stream for an action of this instance; `None` when there is no room for one.
    fn open(&self, instance: &InstanceName) -> Option<NamedSink>;
}

/// A stream, and the name by which clients read it.
pub struct NamedSink {
    /// The resource name.
    pub name: String,
    /// Where the bytes go.
    pub sink: Box<dyn LogSink>,
}

/// The writing end of a stream. What it cannot keep it drops: a log never stops a command.
pub trait LogSink: Send + Sync + 'static {
    /// Adds bytes.
    fn append(&self, bytes: &[u8]);

    /// Ends the stream; readers come to its end.
    fn finish(&self);
}

/// Streams that nobody can read.
#[derive(Clone, Copy, Debug)]
pub struct NoLogs;

impl Logs for NoLogs {
    fn open(&self, _instance: &InstanceName) -> Option<NamedSink> {
        None
    }
}

/// The stream of one output of a command, if there is one. Clones share it; the last one ends it.
#[derive(Clone, Default)]
pub struct Log(Option<Arc<Open>>);

struct Open {
    named: NamedSink,
    appended: AtomicUsize,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.named.sink.finish();
    }
}

impl Log {
    pub(crate) fn open(logs: &dyn Logs, instance: &InstanceName) -> Self {
        let open = |named| Arc::new(Open { named, appended: AtomicUsize::new(0) });
        Self(logs.open(instance).map(open))
    }

    /// The name by which clients read it; empty when there is none.
    pub fn name(&self) -> &str {
        self.0.as_ref().map_or("", |open| &open.named.name)
    }

    /// Adds bytes that the command wrote.
    pub fn append(&self, bytes: &[u8]) {
        if let Some(open) = &self.0 {
            open.named.sink.append(bytes);
            open.appended.fetch_add(bytes.len(), Ordering::Relaxed);
        }
    }

    /// Adds what is missing of the whole output, such as the note about a trap, and ends the stream.
    pub(crate) fn complete(&self, output: &[u8]) {
        if let Some(open) = &self.0 {
            let appended = open.appended.load(Ordering::Relaxed);
            self.append(output.get(appended..).unwrap_or_default());
            open.named.sink.finish();
        }
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Log({:?})", self.name())
    }
}
