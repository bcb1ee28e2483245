//! The compiling child: `wardian compile-module`, started by a worker and by nobody else.
//!
//! It reads one module from standard input and writes machine code to standard output, which is a private
//! file. The module may be made to hurt a compiler, so before it reads anything the child gives up what it
//! does not need: memory, time, files, network. Dying is one of its ways to say no.

use std::io::{self, Read as _, Write as _};
use std::process::ExitCode;

use rustix::process::{Resource, Rlimit, setrlimit};
use wasmtime::{Engine, Module};

use super::super::engines::{Tier, config, fingerprint};
use super::super::{MAGIC, link};

/// Exit code for a module that cannot be compiled; standard error has the reason.
pub(super) const EXIT_REFUSED: u8 = 2;

/// What the worker asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) tier: Tier,
    /// The [`fingerprint`] of the worker's engine.
    pub(super) engine: String,
    pub(super) module_bytes: u64,
    pub(super) memory_bytes_max: u64,
    pub(super) cpu_seconds_max: u64,
    pub(super) artifact_bytes_max: u64,
    /// How far the child steps back for everybody else, up to 19.
    pub(super) nice: u8,
}

impl Request {
    pub(super) fn to_arguments(&self) -> [String; 7] {
        [
            self.tier.to_string(),
            self.engine.clone(),
            self.module_bytes.to_string(),
            self.memory_bytes_max.to_string(),
            self.cpu_seconds_max.to_string(),
            self.artifact_bytes_max.to_string(),
            self.nice.to_string(),
        ]
    }

    fn parse(arguments: &[String]) -> Result<Self, String> {
        let [tier, engine, numbers @ ..] = arguments else { return Err("arguments are missing".into()) };
        let numbers: Result<Vec<u64>, _> = numbers.iter().map(|number| number.parse()).collect();
        let numbers = numbers.map_err(|error| format!("an argument is no number: {error}"))?;
        let [module_bytes, memory_bytes_max, cpu_seconds_max, artifact_bytes_max, nice] = numbers[..] else {
            return Err("arguments are missing".into());
        };
        Ok(Self {
            tier: tier.parse()?,
            engine: engine.clone(),
            module_bytes,
            memory_bytes_max,
            cpu_seconds_max,
            artifact_bytes_max,
            nice: u8::try_from(nice).map_err(|_| "nice is too large".to_owned())?,
        })
    }
}

/// Why there is no machine code.
enum Refusal {
    /// The module is at fault.
    Module(String),
    /// Something else is.
    Other(String),
}

/// Runs the child. `arguments` are those of the command line, after the name of the command.
pub fn run(arguments: &[String]) -> ExitCode {
    let worked = Request::parse(arguments).map_err(Refusal::Other).and_then(|request| serve(&request));
    let (code, why) = match worked {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Refusal::Module(why)) => (EXIT_REFUSED, why),
        Err(Refusal::Other(why)) => (1, why),
    };
    // Nobody may be left to hear it.
    let _ = writeln!(io::stderr(), "{why}");
    ExitCode::from(code)
}

fn serve(request: &Request) -> Result<(), Refusal> {
    let other = |what: &'static str| move |error: io::Error| Refusal::Other(format!("{what}: {error}"));
    confine(request).map_err(other("could not give up rights"))?;
    let engine =
        Engine::new(&config(request.tier)).map_err(|e| Refusal::Other(format!("no engine: {e:#}")))?;
    if fingerprint(&engine) != request.engine {
        return Err(Refusal::Other("this program is not the one that runs the worker: rebuild it".into()));
    }
    let mut module = Vec::new();
    io::stdin().take(request.module_bytes).read_to_end(&mut module).map_err(other("read module"))?;
    if module.len() as u64 != request.module_bytes {
        return Err(Refusal::Other("the worker went away".into()));
    }
    end_with_worker().map_err(other("start thread"))?;
    let code = compile(&engine, &module).map_err(Refusal::Module)?;
    io::stdout().lock().write_all(&code).map_err(other("write machine code"))
}

fn compile(engine: &Engine, module: &[u8]) -> Result<Vec<u8>, String> {
    if !module.starts_with(MAGIC) {
        return Err("it is no WebAssembly: it does not start with \\0asm".into());
    }
    let compiled = if link::is_component(module) {
        // Validated while it is compiled.
        engine.precompile_component(module)
    } else {
        Module::validate(engine, module).map_err(|error| format!("it is not valid: {error:#}"))?;
        engine.precompile_module(module)
    };
    compiled.map_err(|error| format!("it does not compile: {error:#}"))
}

/// Gives up everything that compiling does not need.
fn confine(request: &Request) -> io::Result<()> {
    let limit = |resource, max| {
        setrlimit(resource, Rlimit { current: Some(max), maximum: Some(max) }).map_err(io::Error::from)
    };
    limit(Resource::Core, 0)?;
    limit(MEMORY, request.memory_bytes_max)?;
    // The signal at the first limit names the reason; the one at the second cannot be caught.
    let (current, maximum) = (Some(request.cpu_seconds_max), Some(request.cpu_seconds_max + 1));
    setrlimit(Resource::Cpu, Rlimit { current, maximum })?;
    limit(Resource::Fsize, request.artifact_bytes_max)?;
    rustix::process::nice(i32::from(request.nice))?;
    platform::confine()
}

/// What is counted as memory: on Linux what is really backed, and not the address space reserved by allocators.
const MEMORY: Resource = if cfg!(target_os = "linux") { Resource::Data } else { Resource::As };

/// Ends this process when standard input does: then the worker is gone, however it ended.
fn end_with_worker() -> io::Result<()> {
    let wait = || {
        // The worker sends nothing more, and keeps the pipe open as long as it wants the answer.
        let _ = io::stdin().read(&mut [0]);
        std::process::exit(1);
    };
    std::thread::Builder::new().name("worker-watch".into()).spawn(wait).map(|_| ())
}

#[cfg(target_os = "linux")]
mod platform {
    use std::{fs, io};

    use landlock::{ABI, Access as _, AccessFs, AccessNet, Ruleset, RulesetAttr as _, Scope};

    use crate::executor::processes;

    /// The rights that are given up, as far as the kernel knows them.
    const RIGHTS: ABI = ABI::V6;

    /// When memory runs out on the machine, this process is the one to end; then no file, no network.
    pub(super) fn confine() -> io::Result<()> {
        processes::ensure_one_thread()?;
        // Some containers have no /proc.
        let _ = fs::write("/proc/self/oom_score_adj", "1000");
        // An older kernel has fewer of these; the limits above hold all the same.
        let ruleset = Ruleset::default()
            .handle_access(AccessFs::from_all(RIGHTS))
            .and_then(|ruleset| ruleset.handle_access(AccessNet::from_all(RIGHTS)))
            .and_then(|ruleset| ruleset.scope(Scope::from_all(RIGHTS)))
            .and_then(Ruleset::create);
        ruleset.and_then(|ruleset| ruleset.restrict_self()).map(|_| ()).map_err(io::Error::other)
    }
}

#[cfg(not(target_os = "linux"))]
mod platform {
    pub(super) fn confine() -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_survives_the_command_line() {
        let request = Request {
            tier: Tier::Metered,
            engine: "0123456789abcdef".into(),
            module_bytes: 1,
            memory_bytes_max: 2,
            cpu_seconds_max: 3,
            artifact_bytes_max: 4,
            nice: 5,
        };
        let arguments = request.to_arguments();
        assert_eq!(Request::parse(&arguments), Ok(request));
        assert!(Request::parse(&arguments[..6]).is_err());
        assert!(Request::parse(&[]).is_err());
        let mut wrong = arguments;
        wrong[6] = "-1".into();
        assert!(Request::parse(&wrong).is_err());
    }
}
