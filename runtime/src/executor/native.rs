//! Runs a command as a process of the worker's machine.
//!
//! The process has a cleared environment, a process group of its own and a working directory in the
//! staged input root. It is *not* confined: it can see the machine's files. Use it for your own builds.

use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::BytesMut;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};

use super::{Executor, Files, Finished, Layout, Outcome, Task};
use crate::logs::Log;
use crate::{Failure, Limits};

/// Where bare names are looked up when the Command sets no PATH.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// How long to go on reading after the command ended: something it left behind may hold the pipes.
const LEFTOVER_READ_TIME: Duration = Duration::from_secs(1);

/// Runs processes.
#[derive(Debug)]
pub struct NativeExecutor {
    stdout_bytes_max: usize,
}

impl NativeExecutor {
    /// An executor under these limits.
    pub fn new(limits: &Limits) -> Self {
        Self { stdout_bytes_max: limits.stdout_bytes_max }
    }
}

/// Finds the program that argv[0] names: absolute, relative to the working directory, or on PATH.
fn program(task: &Task<'_>, working_directory: &Path) -> Result<PathBuf, Failure> {
    let name = &task.spec.arguments[0];
    if name.contains('/') {
        // Joining an absolute path gives that path.
        let path = working_directory.join(name);
        return if path.is_file() { Ok(path) } else { Err(not_found(name, "it is no file")) };
    }
    let path = task.spec.environment.iter().find(|(n, _)| n == "PATH").map_or(DEFAULT_PATH, |(_, v)| v);
    for folder in path.split(':') {
        let candidate = working_directory.join(folder).join(name);
        if is_executable(&candidate) {
            return Ok(candidate);
        }
    }
    let hint = if working_directory.join(name).is_file() {
        format!("; for the file of the input root write ./{name}")
    } else {
        String::new()
    };
    Err(not_found(name, &format!("it is not on PATH {path:?}{hint}")))
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
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
        let working_directory = staged.path().join(task.spec.working_directory.as_str());
        let program = program(task, &working_directory)?;
        let started = Instant::now();
        let mut child = Command::new(&program)
            .arg0(&task.spec.arguments[0])
            .args(&task.spec.arguments[1..])
            .env_clear()
            .envs(task.spec.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(&working_directory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| not_found(&task.spec.arguments[0], &error.to_string()))?;
        let group = Group::of(&child);
        let mut stdout =
            Capture::new(child.stdout.take(), self.stdout_bytes_max, "standard output", &task.stdout);
        let mut stderr =
            Capture::new(child.stderr.take(), self.stdout_bytes_max, "standard error", &task.stderr);
        let ended = until_the_end(&mut child, &mut stdout, &mut stderr, task).await;
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
        };
        let outcome = match ended {
            Ok(status) => {
                let code = status.code().or_else(|| status.signal().map(|s| 128 + s)).unwrap_or(-1);
                Outcome::Exited(finished(code))
            }
            Err(failure) => {
                // The group was killed: this returns at once and leaves no zombie.
                let _ = child.wait().await;
                Outcome::CutShort(finished(128 + 9), failure)
            }
        };
        Ok((outcome, files))
    }
}

/// Waits for the process while reading what it writes.
async fn until_the_end(
    child: &mut Child,
    stdout: &mut Capture<impl AsyncRead + Unpin>,
    stderr: &mut Capture<impl AsyncRead + Unpin>,
    task: &Task<'_>,
) -> Result<std::process::ExitStatus, Failure> {
    let mut cancelled = task.cancelled.clone();
    let deadline = tokio::time::sleep(task.spec.timeout);
    tokio::pin!(deadline);
    loop {
        tokio::select! {
            status = child.wait() => return status.map_err(Failure::io("wait for process")),
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
