//! Preview-2 components: each runs in a process of its own, over its staged input root.
//!
//! ```text
//! mod     the worker's side: starts the process, listens to it, judges its end
//! child   the process: gives up its rights, then runs the component
//! wire    what the two say to each other
//! host    what the component is given
//! clocks  its clocks
//! ```

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use prost::Message as _;
use rustix::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::process::Command;
use tokio::sync::watch;

use super::engines::Tier;
use super::guest::STOPPED_EXIT_CODE;
use super::settings::WasmSettings;
use crate::action::ActionSpec;
use crate::executor::native::timed_out;
use crate::executor::{Finished, Outcome, framing};
use crate::logs::Log;
use crate::wasi::{ClockPolicy, RandomPolicy};
use crate::{Failure, Limits};

mod child;
mod clocks;
mod host;
mod wire;

pub use child::run as run_child;

use wire::{End, HEADER_BYTES, Kind, Request};

/// How much longer than its component the process may take: to start, and to say how it ended.
const GRACE: Duration = Duration::from_secs(10);

/// What the process says about its end is kept up to this size.
const LAST_WORDS_BYTES_MAX: u64 = 4096;

/// A component and what it is to do.
pub(super) struct Run<'a> {
    /// The program whose command `run-component` runs components.
    pub(super) program: &'a Path,
    /// Its machine code.
    pub(super) code: &'a File,
    pub(super) tier: Tier,
    pub(super) spec: &'a ActionSpec,
    pub(super) settings: &'a WasmSettings,
    /// The staged input root.
    pub(super) root: &'a Path,
    pub(super) cancelled: watch::Receiver<bool>,
    /// Where its streams can be followed.
    pub(super) stdout: Log,
    pub(super) stderr: Log,
}

/// What a process said until it ended.
#[derive(Default)]
struct Said {
    stdout: BytesMut,
    stderr: BytesMut,
    end: Option<End>,
    stdout_log: Log,
    stderr_log: Log,
}

impl Run<'_> {
    /// Runs the component to its end, its timeout or its cancellation. The process ends with this future.
    pub(super) async fn finish(mut self) -> Result<Outcome, Failure> {
        let started = std::time::Instant::now();
        let request =
            framing::encode(&self.request()).map_err(Failure::io("write request to a component"))?;
        let (mut socket, theirs) = UnixStream::pair().map_err(Failure::io("make a socket"))?;
        let theirs = theirs.into_std().and_then(|socket| socket.set_nonblocking(false).map(|()| socket));
        let theirs = OwnedFd::from(theirs.map_err(Failure::io("make a socket"))?);
        let code = self.code.try_clone().map_err(Failure::io("share file of machine code"))?;
        let mut child = Command::new(self.program)
            .args(["run-component", &self.tier.to_string()])
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::from(code))
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| {
                let program = self.program.display();
                Failure::Internal(format!("the program {program} could not be started: {error}"))
            })?;
        let stderr = child.stderr.take().expect("piped above");
        let last_words = async {
            let mut said = Vec::new();
            let _ = stderr.take(LAST_WORDS_BYTES_MAX).read_to_end(&mut said).await;
            String::from_utf8_lossy(&said).trim().to_owned()
        };
        let (stdout_log, stderr_log) = (self.stdout.clone(), self.stderr.clone());
        let mut said = Said { stdout_log, stderr_log, ..Said::default() };
        let bytes_max = self.settings.limits.stdout_bytes_max;
        let life = async {
            // A process that does not listen says why by its end.
            let _ = socket.write_all(&request).await;
            let heard = said.listen(&mut socket, bytes_max).await;
            // Whoever sends what it should not has nothing more to say.
            drop(socket);
            let (words, status) = tokio::join!(last_words, child.wait());
            Ok::<_, Failure>((heard, words, status.map_err(Failure::io("wait for a component"))?))
        };
        let timeout = self.spec.timeout;
        let ended = tokio::select! {
            ended = life => Ok(ended),
            () = tokio::time::sleep(timeout.saturating_add(GRACE)) => Err(timed_out(timeout)),
            Ok(_) = self.cancelled.wait_for(|stop| *stop) => Err(Failure::Cancelled),
        };
        let duration = started.elapsed();
        let ended = match ended {
            Ok(ended) => ended?,
            Err(stopped) => {
                // Its files are looked at next; nobody may change them any more.
                child.kill().await.map_err(Failure::io("kill a component"))?;
                return Ok(Outcome::CutShort(said.cut_short(duration), stopped));
            }
        };
        let (heard, words, status) = ended;
        let end = match (heard, said.end.take()) {
            (Ok(()), Some(end)) => end,
            (heard, _) => {
                let why = verdict(status, &words, heard, &self.settings.limits, timeout);
                return Ok(Outcome::CutShort(said.cut_short(duration), why));
            }
        };
        said.stderr.extend_from_slice(&end.note);
        let finished = Finished {
            exit_code: end.exit_code,
            stdout: said.stdout.freeze(),
            stderr: said.stderr.freeze(),
            duration,
            usage: end.usage.map(Box::new),
            remark: None,
            native_usage: None,
        };
        Ok(match end.failure {
            None => Outcome::Exited(finished),
            Some(failed) => Outcome::CutShort(finished, failed.into_failure()),
        })
    }

    fn request(&self) -> Request {
        let (spec, settings, limits) = (self.spec, self.settings, &self.settings.limits);
        let environment = spec.environment.iter();
        Request {
            tier: self.tier.to_string(),
            root: self.root.as_os_str().as_bytes().to_vec(),
            working_directory: spec.working_directory.as_str().to_owned(),
            arguments: spec.arguments.clone(),
            environment: environment.flat_map(|(name, value)| [name.clone(), value.clone()]).collect(),
            action: spec.action.to_string(),
            clock_is_real: settings.clock == ClockPolicy::Real,
            random_is_system: settings.random == RandomPolicy::System,
            timeout_nanos: u64::try_from(spec.timeout.as_nanos()).unwrap_or(u64::MAX),
            fuel: settings.fuel,
            wasm_memory_bytes_max: limits.wasm_memory_bytes_max as u64,
            wasm_table_elements_max: limits.wasm_table_elements_max as u64,
            wasm_handles_max: limits.wasm_handles_max as u64,
            stdout_bytes_max: limits.stdout_bytes_max as u64,
            wasm_workspace_bytes_max: limits.wasm_workspace_bytes_max,
        }
    }
}

impl Said {
    /// Takes messages until the last one, or until there are no more.
    async fn listen(&mut self, socket: &mut UnixStream, bytes_max: usize) -> io::Result<()> {
        loop {
            let mut header = [0; HEADER_BYTES];
            match socket.read_exact(&mut header).await {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                Err(error) => return Err(error),
            }
            let (kind, length) = wire::parse_header(header)?;
            let (stream, log) = match kind {
                Kind::Stdout => (&mut self.stdout, &self.stdout_log),
                Kind::Stderr => (&mut self.stderr, &self.stderr_log),
                Kind::End => {
                    let mut bytes = vec![0; length];
                    socket.read_exact(&mut bytes).await?;
                    self.end = Some(End::decode(Bytes::from(bytes)).map_err(io::Error::other)?);
                    return Ok(());
                }
            };
            if length > bytes_max - stream.len() {
                return Err(io::Error::other("it sent more than it was allowed to"));
            }
            let start = stream.len();
            stream.resize(start + length, 0);
            socket.read_exact(&mut stream[start..]).await?;
            log.append(&stream[start..]);
        }
    }

    /// What there is when the process did not say how it ended.
    fn cut_short(self, duration: Duration) -> Finished {
        let (stdout, stderr) = (self.stdout.freeze(), self.stderr.freeze());
        Finished { exit_code: STOPPED_EXIT_CODE, stdout, stderr, duration, ..Finished::default() }
    }
}

/// What the end of a process says that did not tell how its component ended.
fn verdict(
    status: ExitStatus,
    words: &str,
    heard: io::Result<()>,
    limits: &Limits,
    timeout: Duration,
) -> Failure {
    let out_of_memory = words.contains("memory allocation of");
    match status.signal().and_then(Signal::from_named_raw) {
        Some(Signal::XFSZ) => Failure::ResourceExhausted(format!(
            "the component made a file larger than all it may write (limit wasm_workspace_bytes_max is {})",
            limits.wasm_workspace_bytes_max
        )),
        Some(Signal::XCPU) => timed_out(timeout),
        Some(Signal::ABORT) if out_of_memory => Failure::ResourceExhausted(format!(
            "the component and its host had no more memory (limit wasm_memory_bytes_max is {}, and the host's \
             own share)",
            limits.wasm_memory_bytes_max
        )),
        _ => {
            let heard = heard.err().map_or_else(String::new, |error| format!(" ({error})"));
            Failure::Internal(format!("the process of the component ended with {status}{heard}: {words}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict_on(wait_status: i32, words: &str) -> String {
        let heard = Err(io::Error::other("odd"));
        let status = ExitStatus::from_raw(wait_status);
        format!("{:?}", verdict(status, words, heard, &Limits::default(), Duration::from_secs(3)))
    }

    #[test]
    fn the_end_of_a_process_is_the_verdict() {
        for (status, words, verdict) in [
            (Signal::XFSZ.as_raw(), "", "wasm_workspace_bytes_max"),
            (Signal::XCPU.as_raw(), "", "DeadlineExceeded"),
            (Signal::ABORT.as_raw(), "memory allocation of 7 bytes failed", "wasm_memory_bytes_max"),
            (Signal::SEGV.as_raw(), "", "Internal(\"the process of the component ended with signal: 11"),
            (Signal::KILL.as_raw(), "", "signal: 9"),
            (1 << 8, "why", "exit status: 1 (odd): why"),
        ] {
            let told = verdict_on(status, words);
            assert!(told.contains(verdict), "{status}: {told} does not contain {verdict}");
        }
    }

    #[tokio::test]
    async fn a_process_is_not_believed_more_than_it_may_say() {
        async fn hear(messages: &[u8]) -> (io::Result<()>, Said) {
            let (mut ours, mut theirs) = UnixStream::pair().unwrap();
            theirs.write_all(messages).await.unwrap();
            drop(theirs);
            let mut said = Said::default();
            (said.listen(&mut ours, 4).await, said)
        }
        let message = |kind, bytes: &[u8]| [&wire::header(kind, bytes.len())[..], bytes].concat();
        let end = message(Kind::End, &End { exit_code: 7, ..End::default() }.encode_to_vec());
        let (heard, said) =
            hear(&[message(Kind::Stdout, b"ab"), message(Kind::Stderr, b"cdef"), end.clone()].concat()).await;
        assert!(heard.is_ok());
        assert_eq!(
            (&said.stdout[..], &said.stderr[..], said.end.unwrap().exit_code),
            (&b"ab"[..], &b"cdef"[..], 7)
        );
        // Nothing at all is no end.
        let (heard, said) = hear(b"").await;
        assert!(heard.is_ok() && said.end.is_none());
        for wrong in [
            [message(Kind::Stdout, b"abc"), message(Kind::Stdout, b"de"), end].concat(),
            message(Kind::End, b"\xff"),
            vec![9, 0, 0, 0, 0],
            vec![1, 255, 255, 255, 255],
            vec![1, 4, 0, 0, 0, 1],
        ] {
            assert!(hear(&wrong).await.0.is_err(), "{wrong:?}");
        }
    }
}
