//! Running one command under limits: the contract, and the two ways to do it.

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;

use crate::Failure;
use crate::action::ActionSpec;
use crate::input_root::InputRoot;

pub mod native;
pub mod wasm;

/// A command ready to run: its input root is staged at `root`.
pub struct Task<'a> {
    /// The action.
    pub spec: &'a ActionSpec,
    /// Its input tree.
    pub(crate) input: &'a InputRoot,
    /// The host folder that holds the staged input root, private to this task.
    pub root: PathBuf,
    /// Turns true when the run should stop.
    pub cancelled: watch::Receiver<bool>,
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
}

/// How a run ended: with an exit code, or cut short with what there was until then.
#[derive(Debug)]
pub enum Outcome {
    /// The command ended by itself.
    Exited(Finished),
    /// A limit or a cancellation ended it.
    CutShort(Finished, Failure),
}

/// Runs commands of one kind.
#[async_trait]
pub trait Executor: Send + Sync + 'static {
    /// The name that results carry.
    fn name(&self) -> &'static str;

    /// What [`prepare`](Self::prepare) would have to wait for, in words for whoever waits.
    fn awaits(&self, task: &Task<'_>) -> Option<String>;

    /// Gets whatever the command needs that takes long, before the clock of the command runs.
    async fn prepare(&self, task: &Task<'_>) -> Result<(), Failure>;

    /// Runs the command to its end, its timeout, or its cancellation.
    async fn run(&self, task: &Task<'_>) -> Result<Outcome, Failure>;
}
