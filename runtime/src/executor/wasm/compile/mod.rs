//! Compiles modules, each in a child process of its own.
//!
//! What a client sends may be made to exhaust a compiler, or to make it fail. Here it can only end its own
//! child: every limit of the child is enforced by the kernel, and its end is the verdict.

use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use rustix::process::Signal;
use tempfile::NamedTempFile;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wardian_proto::Digest;

use super::engines::Tier;
use crate::Failure;

mod child;
mod settings;
mod trusted;

pub use child::run as run_child;
pub use settings::{Baseline, CompileSettings};
pub use trusted::TrustedModules;

use child::{EXIT_REFUSED, Request};

/// What a child says about its end is kept up to this size.
const MESSAGE_BYTES_MAX: u64 = 4096;

/// Compilations in the background at once.
const BACKGROUND_MAX: usize = 1;

/// How far compilations step back for the worker and its guests. The second is for those nobody waits for.
const NICE: u8 = 10;
const NICE_IN_BACKGROUND: u8 = 19;

/// Exit code of a Rust program that panicked.
const EXIT_PANICKED: i32 = 101;

/// Memory is handed out in units of this size.
const MEMORY_UNIT_BYTES: u64 = 1 << 20;

/// Whether somebody waits for a compilation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Urgency {
    /// Somebody does.
    Foreground,
    /// The module runs already, or will later.
    Background,
}

/// Starts compiling children, as many as their memory allows.
pub(super) struct Compiler {
    settings: CompileSettings,
    memory: Arc<Semaphore>,
    background: Arc<Semaphore>,
}

/// Leave to compile one module.
pub(super) struct Turn {
    urgency: Urgency,
    memory_bytes_max: u64,
    /// Given back when the child is gone.
    _permit: OwnedSemaphorePermit,
}

impl Compiler {
    pub(super) fn new(settings: CompileSettings) -> Self {
        let memory = units(settings.memory_bytes_max).max(units(settings.child_memory_bytes_max));
        Self {
            memory: Arc::new(Semaphore::new(memory as usize)),
            background: Arc::new(Semaphore::new(BACKGROUND_MAX)),
            settings,
        }
    }

    /// Waits until a module of this size may be compiled.
    pub(super) async fn turn(&self, module_bytes: u64, urgency: Urgency) -> Turn {
        let memory_bytes_max = self.settings.memory_bytes_of(module_bytes);
        let permit = match urgency {
            Urgency::Foreground => Arc::clone(&self.memory).acquire_many_owned(units(memory_bytes_max)).await,
            Urgency::Background => Arc::clone(&self.background).acquire_owned().await,
        };
        let permit = permit.expect("these semaphores are never closed");
        Turn { urgency, memory_bytes_max, _permit: permit }
    }

    /// Compiles a module into `artifact`. The child ends with this future, whatever happens.
    pub(super) async fn compile(
        &self,
        turn: Turn,
        module: &Digest,
        bytes: &Bytes,
        tier: Tier,
        engine: String,
        artifact: &NamedTempFile,
    ) -> Result<(), Failure> {
        let settings = &self.settings;
        let request = Request {
            tier,
            engine,
            module_bytes: bytes.len() as u64,
            memory_bytes_max: turn.memory_bytes_max,
            cpu_seconds_max: settings.cpu_max.as_secs(),
            artifact_bytes_max: settings.artifact_bytes_max.min(settings.kept_bytes_max),
            nice: if turn.urgency == Urgency::Foreground { NICE } else { NICE_IN_BACKGROUND },
        };
        let output = artifact.as_file().try_clone().map_err(Failure::io("share file of machine code"))?;
        let ended = run(&settings.program, &request, bytes, output.into());
        let Ok(ended) = tokio::time::timeout(settings.wall_max, ended).await else {
            return Err(exhausted(
                module,
                format!(
                    "took longer than {} s (limit worker.compile.wall_seconds_max)",
                    settings.wall_max.as_secs()
                ),
            ));
        };
        verdict(module, &request, &ended?)
    }
}

/// Memory in the units that the semaphore counts.
fn units(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(MEMORY_UNIT_BYTES)).unwrap_or(u32::MAX >> 4)
}

/// How a child ended.
struct Ended {
    status: ExitStatus,
    /// What it wrote to standard error.
    said: String,
}

/// The environment of the compiler's process, whose memory is limited, for the allocator that the program may have: address space that it
/// keeps for later counts towards the limit.
const ALLOCATOR_SETTINGS: [(&str, &str); 1] = [("_RJEM_MALLOC_CONF", "retain:false")];

/// Runs a child to its end. Dropping the future kills it.
async fn run(program: &Path, request: &Request, module: &Bytes, artifact: Stdio) -> Result<Ended, Failure> {
    let mut child = Command::new(program)
        .arg("compile-module")
        .args(request.to_arguments())
        .env_clear()
        .envs(ALLOCATOR_SETTINGS)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(artifact)
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| {
            Failure::Internal(format!("the compiler {} could not be started: {error}", program.display()))
        })?;
    let mut stdin = child.stdin.take().expect("piped above");
    let stderr = child.stderr.take().expect("piped above");
    let feed = async {
        // A child that stops reading says why by its end.
        let _ = stdin.write_all(module).await;
        // Kept open: the child ends when this closes.
        stdin
    };
    let listen = async {
        let mut said = Vec::new();
        let _ = stderr.take(MESSAGE_BYTES_MAX).read_to_end(&mut said).await;
        String::from_utf8_lossy(&said).trim().to_owned()
    };
    let (_stdin, said, status) = tokio::join!(feed, listen, child.wait());
    Ok(Ended { status: status.map_err(Failure::io("wait for compiler"))?, said })
}

fn exhausted(module: &Digest, what: String) -> Failure {
    Failure::ResourceExhausted(format!("compiling module {module} {what}"))
}

/// What the end of a child says about the module.
fn verdict(module: &Digest, request: &Request, ended: &Ended) -> Result<(), Failure> {
    let Ended { status, said } = ended;
    if status.success() {
        return Ok(());
    }
    let more_than = |what: &str, max: u64, limit: &str| {
        Err(exhausted(module, format!("took more than {max} {what} (limit worker.compile.{limit})")))
    };
    let signal = status.signal().and_then(Signal::from_named_raw);
    let out_of_memory = said.contains("memory allocation of");
    match (signal, status.code()) {
        (Some(Signal::XCPU), _) => {
            more_than("s of processor time", request.cpu_seconds_max, "cpu_seconds_max")
        }
        (Some(Signal::XFSZ), _) => {
            more_than("bytes of machine code", request.artifact_bytes_max, "artifact_bytes_max")
        }
        (Some(Signal::ABORT), _) if out_of_memory => {
            more_than("bytes of memory", request.memory_bytes_max, "child_memory_bytes_max")
        }
        (_, Some(code)) if code == i32::from(EXIT_REFUSED) => {
            Err(Failure::InvalidArgument(format!("module {module}: {said}")))
        }
        // What crashes a compiler is its input, as far as anybody can tell.
        (Some(Signal::ABORT | Signal::SEGV | Signal::BUS | Signal::ILL), _) | (_, Some(EXIT_PANICKED)) => {
            Err(Failure::InvalidArgument(format!(
                "module {module} makes the compiler fail ({status}): {said}"
            )))
        }
        _ => Err(Failure::Internal(format!(
            "compiling module {module}: the compiler ended with {status}: {said}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use wardian_proto::DigestFunction;

    use super::*;

    fn verdict_on(wait_status: i32, said: &str) -> String {
        let module = DigestFunction::Sha256.digest(b"");
        let request = Request {
            tier: Tier::Optimized,
            engine: String::new(),
            module_bytes: 0,
            memory_bytes_max: 11,
            cpu_seconds_max: 22,
            artifact_bytes_max: 33,
            nice: 0,
        };
        let ended = Ended { status: ExitStatus::from_raw(wait_status), said: said.into() };
        match verdict(&module, &request, &ended) {
            Ok(()) => "fine".into(),
            Err(failure) => format!("{failure:?}").replace(&module.to_string(), "M"),
        }
    }

    #[test]
    fn the_end_of_a_child_is_the_verdict() {
        let exit = |code: i32| code << 8;
        for (status, said, verdict) in [
            (exit(0), "", "fine"),
            (exit(2), "it is not valid", "InvalidArgument(\"module M: it is not valid\")"),
            (
                Signal::XCPU.as_raw(),
                "",
                "more than 22 s of processor time (limit worker.compile.cpu_seconds_max)",
            ),
            (Signal::XFSZ.as_raw(), "", "33 bytes of machine code (limit worker.compile.artifact_bytes_max)"),
            (
                Signal::ABORT.as_raw(),
                "memory allocation of 5 bytes failed",
                "ResourceExhausted(\"compiling module M took more than 11 bytes of memory",
            ),
            (
                Signal::ABORT.as_raw(),
                "has overflowed its stack",
                "InvalidArgument(\"module M makes the compiler fail",
            ),
            (Signal::SEGV.as_raw(), "", "SIGSEGV"),
            (exit(101), "panicked at", "InvalidArgument(\"module M makes the compiler fail"),
            (Signal::KILL.as_raw(), "", "Internal(\"compiling module M: the compiler ended with signal: 9"),
            (
                exit(1),
                "no engine",
                "Internal(\"compiling module M: the compiler ended with exit status: 1: no engine",
            ),
        ] {
            let told = verdict_on(status, said);
            assert!(told.contains(verdict), "{status}: {told:?} does not contain {verdict:?}");
        }
    }
}
