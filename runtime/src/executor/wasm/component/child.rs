//! The process that runs one component: `wardian run-component`, started by a worker and by nobody else.
//!
//! The host file system of components is not ours and has had holes, so it is given to a process that has little
//! else. Before the component's first instruction the process bounds its memory, processor time, files and
//! descriptors, and on Linux keeps nothing of the file system but the staged input root, and no network.

use std::ffi::OsStr;
use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prost::Message as _;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::watch;
use wasmtime::component::Linker;
use wasmtime::{Engine, Store};
use wasmtime_wasi::p2::bindings::CommandPre;

use super::super::engines::{Tier, config};
use super::super::guest::Bounds;
use super::super::limiter::Limiter;
use super::super::settings::WasmSettings;
use super::clocks::SharedClocks;
use super::host::{Component, Given, Stream, too_many_handles};
use super::wire::{self, End, Failed, Kind, Request};
use crate::executor::Outcome;
use crate::executor::framing;
use crate::wasi::{Capture, ClockPolicy, Clocks, Deadline, RandomPolicy, Stopped};
use crate::{Failure, Limits};

/// Memory of the process beside the component's own: the engine, stacks, what it writes to its streams.
const OWN_MEMORY_BYTES: u64 = 512 << 20;

/// Memory of one element of a table.
const TABLE_ELEMENT_BYTES: u64 = 16;

/// Descriptors of the process beside the component's own.
const OWN_FILES: u64 = 64;

/// Processor time beyond the action's timeout, after which something is wrong with the process.
const CPU_SECONDS_MORE: u64 = 30;

/// Largest piece of a stream in one message.
const PIECE_BYTES: usize = 1 << 20;

/// Runs the process. Standard input is the socket to the worker, standard output the component's machine code.
pub fn run() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody may be left to hear it.
            let _ = writeln!(io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> io::Result<()> {
    let mut socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let request = framing::receive(&mut socket)?;
    let settings = settings(&request)?;
    let tier = settings.tier.ok_or_else(|| io::Error::other("the request names no tier"))?;
    let root = Path::new(OsStr::from_bytes(&request.root)).to_owned();
    let engine = Engine::new(&config(tier)).map_err(io::Error::other)?;
    // SAFETY: the worker opened this file: one of its `Artifacts`, written by our own compiler for this engine.
    let component = unsafe { wasmtime::component::Component::deserialize_file(&engine, MACHINE_CODE) };
    let component = component.map_err(io::Error::other)?;
    confine(&request, &root)?;
    end_with_worker(&socket)?;
    let runner = Runner { request, settings, root, socket: Arc::new(Mutex::new(socket)) };
    let end = runner.run(&engine, &component);
    let end = end.unwrap_or_else(|failure| End { failure: Some(Failed::new(&failure)), ..End::default() });
    let mut socket = runner.socket.lock().expect("no code that holds this lock panics");
    wire::send(&mut *socket, Kind::End, &end.encode_to_vec())?;
    socket.shutdown(Shutdown::Write)
}

/// The machine code by a name that can be opened, even if the file has none any more.
const MACHINE_CODE: &str = "/dev/fd/1";

fn settings(request: &Request) -> io::Result<WasmSettings> {
    let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    let limits = Limits {
        wasm_memory_bytes_max: count(request.wasm_memory_bytes_max),
        wasm_table_elements_max: count(request.wasm_table_elements_max),
        wasm_handles_max: count(request.wasm_handles_max),
        stdout_bytes_max: count(request.stdout_bytes_max),
        wasm_workspace_bytes_max: request.wasm_workspace_bytes_max,
        ..Limits::default()
    };
    let tier: Tier = request.tier.parse().map_err(io::Error::other)?;
    Ok(WasmSettings {
        clock: if request.clock_is_real { ClockPolicy::Real } else { ClockPolicy::Fixed },
        random: if request.random_is_system { RandomPolicy::System } else { RandomPolicy::Action },
        fuel: request.fuel,
        tier: Some(tier),
        audit_runs: 0,
        is_bazel_test: false,
        limits,
    })
}

/// Gives up everything that running the component does not need.
fn confine(request: &Request, root: &Path) -> io::Result<()> {
    let limit = |resource, max: u64| {
        // Whoever started the worker may have left it less.
        let max = getrlimit(resource).maximum.map_or(max, |allowed| allowed.min(max));
        setrlimit(resource, Rlimit { current: Some(max), maximum: Some(max) }).map_err(io::Error::from)
    };
    let tables = request.wasm_table_elements_max.saturating_mul(TABLE_ELEMENT_BYTES);
    limit(Resource::Core, 0)?;
    if cfg!(target_os = "linux") {
        // What is really backed. Elsewhere the address space that the engine reserves would count too.
        let memory = OWN_MEMORY_BYTES.saturating_add(request.wasm_memory_bytes_max).saturating_add(tables);
        limit(Resource::Data, memory)?;
    }
    let seconds = Duration::from_nanos(request.timeout_nanos).as_secs().saturating_add(CPU_SECONDS_MORE);
    limit(Resource::Cpu, seconds)?;
    limit(Resource::Fsize, request.wasm_workspace_bytes_max)?;
    limit(Resource::Nofile, request.wasm_handles_max.saturating_add(OWN_FILES))?;
    platform::confine(root)
}

/// Ends this process when the worker closes the socket, or is gone, however it ended.
fn end_with_worker(socket: &UnixStream) -> io::Result<()> {
    let mut socket = socket.try_clone()?;
    let wait = move || {
        // The worker sends nothing more.
        let _ = socket.read(&mut [0]);
        std::process::exit(1);
    };
    std::thread::Builder::new().name("worker-watch".into()).spawn(wait).map(|_| ())
}

/// One component on its way.
struct Runner {
    request: Request,
    settings: WasmSettings,
    root: std::path::PathBuf,
    socket: Arc<Mutex<UnixStream>>,
}

impl Runner {
    fn run(&self, engine: &Engine, component: &wasmtime::component::Component) -> Result<End, Failure> {
        let command = link(engine, component)
            .map_err(|error| Failure::InvalidArgument(format!("the component cannot run here: {error:#}")))?;
        let (_alive, cancelled) = watch::channel(false);
        let deadline = Deadline::start(Duration::from_nanos(self.request.timeout_nanos), cancelled);
        let bounds = Bounds { settings: &self.settings, deadline: &deadline };
        let bytes_max = self.settings.limits.stdout_bytes_max;
        let stdout = Capture::new("standard output", bytes_max);
        let stderr = Capture::new("standard error", bytes_max);
        let clocks = SharedClocks::new(Clocks::new(self.settings.clock, deadline.clone()));
        let pairs = self.request.environment.chunks_exact(2);
        let environment: Vec<(&str, &str)> = pairs.map(|pair| (&*pair[0], &*pair[1])).collect();
        let given = Given {
            arguments: &self.request.arguments,
            environment: &environment,
            root: &self.root,
            working_directory: &self.request.working_directory,
            seed: (self.settings.random == RandomPolicy::Action).then_some(&*self.request.action),
            clocks: clocks.clone(),
            handles_max: self.settings.limits.wasm_handles_max,
            stdout: self.stream(&stdout, Kind::Stdout),
            stderr: self.stream(&stderr, Kind::Stderr),
        };
        let host = Component::new(given, Limiter::new(&self.settings.limits))
            .map_err(|error| Failure::Internal(format!("make a host for the component: {error:#}")))?;
        let mut store = bounds.store(engine, host)?;
        let ended = self.until_stopped(&command, &mut store, &clocks, &deadline)?;
        let handles_max = self.settings.limits.wasm_handles_max;
        let ended = ended.map_err(|error| too_many_handles(error, handles_max));
        let outcome = bounds.outcome(bounds.end(&store, ended), &stdout, &stderr);
        Ok(told(outcome, stderr.len()))
    }

    /// A stream that keeps what fits, and tells the worker at once.
    fn stream(&self, capture: &Capture, kind: Kind) -> Stream {
        let socket = Arc::clone(&self.socket);
        Stream::new(capture.clone(), move |data| {
            let mut socket = socket.lock().expect("no code that holds this lock panics");
            for piece in data.chunks(PIECE_BYTES) {
                if wire::send(&mut *socket, kind, piece).is_err() {
                    // The worker is gone.
                    std::process::exit(1);
                }
            }
        })
    }

    /// Runs the component on this thread. A runtime beside it does what of files is done in the background.
    fn until_stopped(
        &self,
        command: &CommandPre<Component>,
        store: &mut Store<Component>,
        clocks: &SharedClocks,
        deadline: &Deadline,
    ) -> Result<wasmtime::Result<i32>, Failure> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().max_blocking_threads(1).build();
        let runtime = runtime.map_err(Failure::io("make a runtime for the component"))?;
        let component = async {
            let command = command.instantiate_async(&mut *store).await?;
            let run = command.wasi_cli_run().call_run(&mut *store).await?;
            Ok(i32::from(run.is_err()))
        };
        Ok(runtime.block_on(async {
            tokio::select! {
                biased;
                driven = clocks.drive(component) => driven.map_err(wasmtime::Error::new)?,
                () = tokio::time::sleep(deadline.timeout()) => {
                    Err(wasmtime::Error::new(Stopped::TimedOut(deadline.timeout())))
                }
            }
        }))
    }
}

fn link(
    engine: &Engine,
    component: &wasmtime::component::Component,
) -> wasmtime::Result<CommandPre<Component>> {
    let mut linker = Linker::new(engine);
    Component::add_to_linker(&mut linker)?;
    CommandPre::new(linker.instantiate_pre(component)?)
}

/// The end in the words of the socket. What was written is told already, except for what was added.
fn told(outcome: Outcome, stderr_told: usize) -> End {
    let (finished, failure) = match outcome {
        Outcome::Exited(finished) => (finished, None),
        Outcome::CutShort(finished, failure) => (finished, Some(Failed::new(&failure))),
    };
    End {
        exit_code: finished.exit_code,
        note: finished.stderr[stderr_told..].to_vec(),
        failure,
        usage: finished.usage.map(|usage| *usage),
    }
}

#[cfg(target_os = "linux")]
mod platform {
    use std::io;
    use std::path::Path;

    use landlock::{
        ABI, Access as _, AccessFs, AccessNet, PathBeneath, PathFd, Ruleset, RulesetAttr as _,
        RulesetCreatedAttr as _, Scope,
    };

    use crate::executor::processes;

    /// The rights that are given up, as far as the kernel knows them.
    const RIGHTS: ABI = ABI::V6;

    /// When memory runs out on the machine, this process goes before the worker; no network, and of the file
    /// system only what is below `root`: nothing there is ever executed or made a device.
    pub(super) fn confine(root: &Path) -> io::Result<()> {
        processes::ensure_one_thread()?;
        processes::goes_first("self");
        let special = AccessFs::Execute
            | AccessFs::MakeChar
            | AccessFs::MakeBlock
            | AccessFs::MakeSock
            | AccessFs::MakeFifo
            | AccessFs::IoctlDev;
        let below = PathFd::new(root).map_err(io::Error::other)?;
        // An older kernel has fewer of these; the limits above hold all the same.
        let ruleset = Ruleset::default()
            .handle_access(AccessFs::from_all(RIGHTS))
            .and_then(|ruleset| ruleset.handle_access(AccessNet::from_all(RIGHTS)))
            .and_then(|ruleset| ruleset.scope(Scope::from_all(RIGHTS)))
            .and_then(Ruleset::create)
            .and_then(|rules| rules.add_rule(PathBeneath::new(below, AccessFs::from_all(RIGHTS) & !special)));
        ruleset.and_then(|ruleset| ruleset.restrict_self()).map(|_| ()).map_err(io::Error::other)
    }
}

#[cfg(not(target_os = "linux"))]
mod platform {
    pub(super) fn confine(_: &std::path::Path) -> std::io::Result<()> {
        Ok(())
    }
}
