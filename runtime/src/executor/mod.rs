//! Running one command under limits: the contract, and the two ways to do it.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;
use wardian_proto::wardian::{NativeUsage, WasmUsage};

use crate::Failure;
use crate::action::ActionSpec;
use crate::executor::wasm::WasmSettings;
use crate::logs::Log;
use crate::staged::Staged;
use crate::workspace::{InputTree, Workspace};

mod framing;
pub mod native;
mod processes;
pub mod wasm;

/// A command to be run.
pub struct Task<'a> {
    /// The action.
    pub spec: &'a ActionSpec,
    /// Its input tree, to look things up in.
    pub(crate) tree: &'a InputTree,
    /// Turns true when the run should stop.
    pub cancelled: watch::Receiver<bool>,
    /// Where its standard output can be followed.
    pub stdout: Log,
    /// Where its standard error can be followed.
    pub stderr: Log,
}

/// How a command wants its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// As private copies in a folder of the worker.
    Staged,
    /// As a workspace, of which nothing is read before the command looks at it.
    Workspace,
}

/// The files of a command, before and after it ran.
pub enum Files {
    /// A folder that holds the input root.
    #[allow(private_interfaces)]
    Staged(Staged),
    /// A workspace over it.
    Workspace(Box<Workspace>),
}

/// What a command wrote and how it ended.
#[derive(Debug, Default)]
pub struct Finished {
    /// Exit code; 128 + n for signal n, 134 for a Wasm trap.
    pub exit_code: i32,
    /// Standard output.
    pub stdout: Bytes,
    /// Standard error.
    pub stderr: Bytes,
    /// How long the command ran, by the clock that enforces the timeout.
    pub duration: Duration,
    /// What a WebAssembly guest used.
    pub usage: Option<Box<WasmUsage>>,
    /// What a process and all that it started used, where that is known.
    pub native_usage: Option<NativeUsage>,
    /// What whoever started the action should know about the exit code.
    pub remark: Option<String>,
}

/// How a run ended: with an exit code, or cut short with what there was until then.
#[derive(Debug)]
pub enum Outcome {
    /// The command ended by itself.
    Exited(Finished),
    /// A limit or a cancellation ended it.
    CutShort(Finished, Failure),
}

impl Outcome {
    /// What there was at the end.
    pub(crate) fn finished_mut(&mut self) -> &mut Finished {
        match self {
            Self::Exited(finished) | Self::CutShort(finished, _) => finished,
        }
    }
}

/// Runs commands of one kind.
#[async_trait]
pub trait Executor: Send + Sync + 'static {
    /// The name that results carry.
    fn name(&self) -> &'static str;

    /// What [`prepare`](Self::prepare) would have to wait for, in words for whoever waits.
    async fn awaits(&self, task: &Task<'_>) -> Option<String>;

    /// Other ways to run the command that must give the same result; none where there is but one way.
    async fn variants(&self, _: &Task<'_>) -> Vec<WasmSettings> {
        Vec::new()
    }

    /// Gets whatever the command needs that takes long, before the clock of the command runs, and says how
    /// the command wants its files.
    async fn prepare(&self, task: &Task<'_>) -> Result<Layout, Failure>;

    /// Runs the command over files of that layout to its end, its timeout, or its cancellation, and gives the
    /// files back.
    async fn run(&self, task: &Task<'_>, files: Files) -> Result<(Outcome, Files), Failure>;
}
