//! Runs a command as a process of the worker's machine.
//!
//! The process has a cleared environment and a copy of the input root of its own. In a sandbox that is nearly all it
//! has (`child.rs`, `file_system.rs`); without one it is *not* confined and can see the machine's files.
//!
//! ```text
//! mod          starts the process, keeps what it writes, ends it
//! groups       limits and accounts of a command as a whole
//! sandbox      whether there can be sandboxes, and the worker's side of one
//! child        the processes inside
//! bubblewrap   the same where another program makes the namespaces
//! file_system  what they see
//! tool         which program argv[0] names
//! wire         what the two sides say to each other
//! system       calls to Linux
//! system_calls which of them commands are refused
//! ```

mod groups;
mod sandbox;
mod tool;

#[cfg(target_os = "linux")]
mod bubblewrap;
#[cfg(target_os = "linux")]
mod child;
#[cfg(target_os = "linux")]
mod file_system;
#[cfg(target_os = "linux")]
mod system;
#[cfg(target_os = "linux")]
mod system_calls;
mod wire;

use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::BytesMut;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};
use wardian_proto::wardian::NativeUsage;

use super::{Executor, Files, Finished, Layout, Outcome, Task, processes};
use crate::logs::Log;
use crate::staged::Staged;
use crate::{Failure, Limits};

#[cfg(target_os = "linux")]
pub use bubblewrap::run_inside;
#[cfg(target_os = "linux")]
pub use child::run as run_child;
use groups::{Account, Group as ControlGroup};
pub use sandbox::{ActionGroups, SandboxBackend, SandboxMode, SandboxSettings, SystemCalls};
use sandbox::{Ears, Sandbox};

/// How long to go on reading after the command ended: something it left behind may hold the pipes.
const LEFTOVER_READ_TIME: Duration = Duration::from_secs(1);

/// How long the processes of a sandbox may take to be gone once it was told to end; then they are killed one by one.
const SANDBOX_END_TIME_MAX: Duration = Duration::from_secs(1);

/// The signal by which the system ends a process when there is no memory left, and which anybody may send.
const SIGKILL: i32 = 9;

/// The signal for a system call that ends the process: one that the filter cannot even tell the meaning of.
const SIGSYS: i32 = 31;

/// The signal for more processor time than is allowed.
const SIGXCPU: i32 = 24;

/// Runs processes.
#[derive(Debug)]
pub struct NativeExecutor {
    stdout_bytes_max: usize,
    /// What makes sandboxes; `None` where commands run beside the worker.
    sandbox: Option<Sandbox>,
    settings: SandboxSettings,
}

impl NativeExecutor {
    /// An executor under these limits. Finds out, by making one, whether there can be sandboxes; `program` is this very
    /// program, and `folder` one of the worker's own.
    pub fn new(
        limits: &Limits,
        settings: &SandboxSettings,
        program: &Path,
        folder: &Path,
    ) -> anyhow::Result<Self> {
        let sandbox = Sandbox::find(settings, program, folder)?;
        Ok(Self { stdout_bytes_max: limits.stdout_bytes_max, sandbox, settings: settings.clone() })
    }

    /// The platform properties that commands may ask for here.
    pub(crate) fn properties(&self) -> Vec<(&'static str, &'static str)> {
        let Some(sandbox) = &self.sandbox else {
            return vec![
                ("sandbox", "none"),
                ("sandbox-backend", "none"),
                ("control-groups", "none"),
                ("network", "on"),
                ("chroot-input-root", "false"),
            ];
        };
        let mut properties = vec![
            ("sandbox", "namespaces"),
            ("sandbox-backend", sandbox.backend()),
            ("control-groups", if sandbox.has_groups() { "v2" } else { "none" }),
            ("network", "off"),
            ("chroot-input-root", "false"),
        ];
        if sandbox.can_change_root() {
            properties.push(("chroot-input-root", "true"));
        }
        if self.settings.network {
            properties.push(("network", "on"));
        }
        properties
    }

    fn is_filtered(&self) -> bool {
        self.sandbox.as_ref().is_some_and(Sandbox::is_filtered)
    }

    /// The process to start, and in a sandbox the socket to it.
    fn command(&self, task: &Task<'_>, staged: &Staged) -> Result<Prepared, Failure> {
        if let Some(sandbox) = &self.sandbox {
            return sandbox.command(task, staged);
        }
        let working_directory = staged.path().join(task.spec.working_directory.as_str());
        let name = &task.spec.arguments[0];
        let path = task.spec.environment.iter().find(|(name, _)| name == "PATH").map(|(_, path)| &**path);
        let program = tool::find(name, path, &working_directory).map_err(|why| not_found(name, &why))?;
        let mut command = Command::new(program);
        command
            .arg0(name)
            .args(&task.spec.arguments[1..])
            .env_clear()
            .envs(task.spec.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(&working_directory)
            .stdin(Stdio::null());
        Ok(Prepared { command, ears: None, group: None })
    }
}

/// A process that is about to be started.
struct Prepared {
    command: Command,
    /// The socket to it, in a sandbox.
    ears: Option<Ears>,
    /// The control group that it joins.
    group: Option<ControlGroup>,
}

fn not_found(name: &str, why: &str) -> Failure {
    Failure::FailedPrecondition(format!("tool {name:?} cannot be run natively: {why}"))
}

#[async_trait]
impl Executor for NativeExecutor {
    fn name(&self) -> &'static str {
        "native"
    }

    async fn awaits(&self, _task: &Task<'_>) -> Option<String> {
        None
    }

    async fn prepare(&self, _task: &Task<'_>) -> Result<Layout, Failure> {
        Ok(Layout::Staged)
    }

    async fn run(&self, task: &Task<'_>, files: Files) -> Result<(Outcome, Files), Failure> {
        let Files::Staged(staged) = &files else {
            return Err(Failure::Internal("a process was given a workspace".into()));
        };
        let Prepared { mut command, mut ears, group: control } = self.command(task, staged)?;
        let started = Instant::now();
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| not_found(&task.spec.arguments[0], &error.to_string()))?;
        // What is left of it is the sandbox's end of the socket: the process must be the only one to have it.
        drop(command);
        let group = Group::of(&child);
        if let Some(id) = child.id().filter(|_| ears.is_none()) {
            processes::goes_first(&id.to_string());
        }
        let mut stdout =
            Capture::new(child.stdout.take(), self.stdout_bytes_max, "standard output", &task.stdout);
        let mut stderr =
            Capture::new(child.stderr.take(), self.stdout_bytes_max, "standard error", &task.stderr);
        let ended = until_the_end(&mut child, &mut stdout, &mut stderr, &mut ears, task).await;
        if let Some(ears) = ears.take().filter(|_| ended.is_err()) {
            // The first process of the sandbox ends all that is inside, and then itself: when it is gone nobody
            // changes the files any more.
            drop(ears);
            let _ = tokio::time::timeout(SANDBOX_END_TIME_MAX, child.wait()).await;
        }
        let account = control.as_ref().map(|control| {
            control.kill();
            control.account()
        });
        // Whatever is left of the group goes, also after a good end: nothing outlives its action.
        drop(group);
        let duration = started.elapsed();
        let leftovers = async { tokio::join!(stdout.read_all(), stderr.read_all()) };
        // What was still in the pipes counts too: a result that was cut short must not pass for a whole one.
        let ended = match (ended, tokio::time::timeout(LEFTOVER_READ_TIME, leftovers).await) {
            (Ok(status), Ok((out, err))) => out.and(err).map(|()| status),
            (ended, _) => ended,
        };
        let finished = |exit_code| Finished {
            exit_code,
            stdout: stdout.bytes.freeze(),
            stderr: stderr.bytes.freeze(),
            duration,
            usage: None,
            remark: account.as_ref().filter(|_| exit_code != 0).and_then(Account::remark),
            native_usage: Some(NativeUsage {
                sandbox: self.sandbox.as_ref().map_or("none", Sandbox::backend).into(),
                ..account.as_ref().map(Account::to_wire).unwrap_or_default()
            }),
        };
        // Then all that was in the group ended at once, and nobody was left to say so.
        let out_of_memory = match &ended {
            Ok(Ended::Code(0)) | Err(Failure::Cancelled | Failure::DeadlineExceeded(_)) => None,
            _ => control
                .as_ref()
                .zip(account.as_ref())
                .and_then(|(group, account)| group.out_of_memory(account)),
        };
        let ended = out_of_memory.map_or(ended, Err);
        let outcome = match ended {
            Ok(Ended::Code(code)) => Outcome::Exited(finished(code)),
            Ok(Ended::Signal(SIGXCPU)) if self.sandbox.is_some() && self.settings.cpu_max.is_some() => {
                let text = "the command used more processor time than worker.sandbox.cpu_seconds_max allows";
                Outcome::CutShort(finished(128 + SIGXCPU), Failure::ResourceExhausted(text.into()))
            }
            Ok(Ended::Signal(signal)) => {
                let mut finished = finished(128 + signal);
                let why = match signal {
                    // With a group it would be known.
                    SIGKILL if control.is_none() => ", perhaps for lack of memory",
                    SIGSYS if self.is_filtered() => {
                        ", perhaps for being a program of another architecture (worker.sandbox.system_calls)"
                    }
                    _ => "",
                };
                finished.remark = Some(format!("the command was ended by signal {signal}{why}"));
                Outcome::Exited(finished)
            }
            Ok(Ended::NoTool(why)) => return Err(not_found(&task.spec.arguments[0], &why)),
            Err(failure) => {
                // The group was killed: this returns at once and leaves no zombie.
                let _ = child.wait().await;
                Outcome::CutShort(finished(128 + 9), failure)
            }
        };
        Ok((outcome, files))
    }
}

/// How a command ended by itself.
enum Ended {
    Code(i32),
    Signal(i32),
    NoTool(String),
}

impl Ended {
    fn of(status: ExitStatus) -> Self {
        status.signal().map_or_else(|| Self::Code(status.code().unwrap_or(-1)), Self::Signal)
    }
}

/// Waits for the process while reading what it writes. Of a sandbox it counts what was said, not how the process
/// that made it ended.
async fn until_the_end(
    child: &mut Child,
    stdout: &mut Capture<impl AsyncRead + Unpin>,
    stderr: &mut Capture<impl AsyncRead + Unpin>,
    ears: &mut Option<Ears>,
    task: &Task<'_>,
) -> Result<Ended, Failure> {
    let mut cancelled = task.cancelled.clone();
    let deadline = tokio::time::sleep(task.spec.timeout);
    tokio::pin!(deadline);
    let exchange = async {
        match ears {
            None => Ok(None),
            Some(ears) => ears.exchange().await.map(Some),
        }
    };
    tokio::pin!(exchange);
    let mut said: Option<Option<Ended>> = None;
    let mut status = None;
    loop {
        if let (Some(status), true) = (status, said.is_some()) {
            return Ok(said.flatten().unwrap_or_else(|| Ended::of(status)));
        }
        tokio::select! {
            ended = child.wait(), if status.is_none() => {
                status = Some(ended.map_err(Failure::io("wait for process"))?);
            }
            heard = &mut exchange, if said.is_none() => said = Some(heard?),
            more = stdout.read_some(), if stdout.open() => more?,
            more = stderr.read_some(), if stderr.open() => more?,
            () = &mut deadline => return Err(timed_out(task.spec.timeout)),
            Ok(_) = cancelled.wait_for(|stop| *stop) => return Err(Failure::Cancelled),
        }
    }
}

pub(crate) fn timed_out(timeout: Duration) -> Failure {
    Failure::DeadlineExceeded(format!(
        "the command ran longer than its timeout of {} s",
        timeout.as_secs_f64()
    ))
}

/// A process group that is killed when this is dropped.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // ESRCH, nobody left, is the usual answer.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// One output stream of a process, kept up to a limit.
struct Capture<R> {
    source: Option<R>,
    bytes: BytesMut,
    bytes_max: usize,
    name: &'static str,
    log: Log,
}

impl<R: AsyncRead + Unpin> Capture<R> {
    fn new(source: Option<R>, bytes_max: usize, name: &'static str, log: &Log) -> Self {
        Self { source, bytes: BytesMut::new(), bytes_max, name, log: log.clone() }
    }

    fn open(&self) -> bool {
        self.source.is_some()
    }

    async fn read_some(&mut self) -> Result<(), Failure> {
        let Some(source) = &mut self.source else { return Ok(()) };
        let before = self.bytes.len();
        let read = source.read_buf(&mut self.bytes).await.map_err(Failure::io("read from process"))?;
        if read == 0 {
            self.source = None;
        }
        let is_too_much = self.bytes.len() > self.bytes_max;
        self.bytes.truncate(self.bytes_max);
        self.log.append(&self.bytes[before..]);
        if is_too_much {
            self.source = None;
            return Err(super::wasm::too_much_output(self.name, self.bytes_max));
        }
        Ok(())
    }

    async fn read_all(&mut self) -> Result<(), Failure> {
        while self.open() {
            self.read_some().await?;
        }
        Ok(())
    }
}
