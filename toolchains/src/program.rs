//! Runs a program of this machine in a process group of its own, within limits. Nothing of the group outlives it.

use std::io;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};

/// How much of the end of a program's messages is kept.
const MESSAGE_BYTES_MAX: usize = 8 << 10;

/// How many of its last lines an error repeats.
const MESSAGE_LINES_MAX: usize = 10;

/// How long is waited for the messages of a program that has ended.
const LAST_WORDS_TIME_MAX: Duration = Duration::from_secs(1);

/// How a program ended.
pub(crate) enum Ended<S> {
    /// With exit code 0.
    Good,
    /// With something else; `message` is the end of what it said on standard error.
    Bad { status: ExitStatus, message: String },
    /// It was stopped: after its time, or because `stop` said so.
    Stopped(S),
}

/// Runs a program to its end, for `time_max` at the most and until `stop` has something to say. Standard input is
/// empty; standard output is as `command` says.
pub(crate) async fn run<S: Default>(
    mut command: Command,
    time_max: Duration,
    stop: impl Future<Output = S>,
) -> io::Result<Ended<S>> {
    let command = command.stdin(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    #[cfg(unix)]
    command.process_group(0);
    let mut child = command.spawn()?;
    // Clients and compilers start programs of their own, which a signal to the first alone would leave running.
    let group = Group::of(&child);
    let stderr = child.stderr.take().expect("stderr is piped");
    let run = async move {
        let mut message = Vec::new();
        let mut all_read = false;
        let status = {
            let mut reading = pin!(tail(stderr, &mut message));
            let status = loop {
                tokio::select! {
                    read = &mut reading, if !all_read => {
                        read?;
                        all_read = true;
                    }
                    status = child.wait() => break status?,
                }
            };
            drop(group);
            if !all_read {
                // A process that left the group may hold standard error open for ever.
                let _ = tokio::time::timeout(LAST_WORDS_TIME_MAX, reading).await;
            }
            status
        };
        Ok((status, message))
    };
    let outcome: io::Result<_> = tokio::select! {
        outcome = tokio::time::timeout(time_max, run) => match outcome {
            Ok(outcome) => outcome,
            Err(_) => return Ok(Ended::Stopped(S::default())),
        },
        why = stop => return Ok(Ended::Stopped(why)),
    };
    let (status, message) = outcome?;
    Ok(if status.success() { Ended::Good } else { Ended::Bad { status, message: last_lines(&message) } })
}

/// A process group that is killed when this is dropped.
struct Group(#[cfg(unix)] Option<rustix::process::Pid>);

impl Group {
    #[cfg(unix)]
    fn of(child: &Child) -> Self {
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        Self(id.and_then(rustix::process::Pid::from_raw))
    }

    #[cfg(not(unix))]
    fn of(_: &Child) -> Self {
        Self()
    }
}

#[cfg(unix)]
impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // An error means that nobody is left.
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }
}

/// Reads to the end and keeps the last bytes.
async fn tail(mut from: impl AsyncRead + Unpin, kept: &mut Vec<u8>) -> io::Result<()> {
    let mut chunk = vec![0; MESSAGE_BYTES_MAX];
    loop {
        match from.read(&mut chunk).await? {
            0 => return Ok(()),
            read => kept.extend_from_slice(&chunk[..read]),
        }
        kept.drain(..kept.len().saturating_sub(MESSAGE_BYTES_MAX));
    }
}

/// The last lines as plain text: what a terminal would take for commands is left out.
fn last_lines(message: &[u8]) -> String {
    let text = String::from_utf8_lossy(message);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = &lines[lines.len().saturating_sub(MESSAGE_LINES_MAX)..];
    let plain = |line: &&str| format!("  {}", line.chars().filter(|c| !c.is_control()).collect::<String>());
    if last.is_empty() {
        "  (nothing)".to_owned()
    } else {
        last.iter().map(plain).collect::<Vec<_>>().join("\n")
    }
}
