//! One guest from instantiation to its end.

use bytes::BytesMut;
use wardian_proto::wardian::WasmUsage;
use wardian_proto::{Digest, RelPath};
use wasmtime::{Engine, InstancePre, Store, Trap, UpdateDeadline};
use wasmtime_wasi::I32Exit;

use super::limiter::Limiter;
use super::settings::WasmSettings;
use super::usage;
use crate::Failure;
use crate::executor::native::timed_out;
use crate::executor::{Finished, Outcome};
use crate::logs::Log;
use crate::wasi::{self, Capture, Deadline, Host, Setting, Stopped};
use crate::workspace::{FsError, LimitHit, NodeId, Workspace};

/// Exit code of a trap: 128 + SIGABRT, as a shell reports an abort.
const TRAP_EXIT_CODE: i32 = 134;

/// Exit code of a guest that was stopped: 128 + SIGKILL.
pub(super) const STOPPED_EXIT_CODE: i32 = 137;

/// The state of a guest whose memory and tables are bounded.
pub(super) trait Bounded {
    fn limiter(&self) -> &Limiter;
    fn limiter_mut(&mut self) -> &mut Limiter;
}

/// The state of a preview-1 guest.
pub(super) struct Guest {
    host: Box<Host>,
    limiter: Limiter,
}

impl Bounded for Guest {
    fn limiter(&self) -> &Limiter {
        &self.limiter
    }

    fn limiter_mut(&mut self) -> &mut Limiter {
        &mut self.limiter
    }
}

/// The host of a guest.
pub(super) fn preview1(guest: &mut Guest) -> &mut Host {
    &mut guest.host
}

/// Everything a preview-1 guest is given but its files.
pub(super) struct Run {
    pub(super) arguments: Vec<String>,
    pub(super) environment: Vec<(String, String)>,
    pub(super) working_directory: RelPath,
    /// Directories that have to be there for the outputs.
    pub(super) made_directories: Vec<RelPath>,
    /// Those of them that it is given by their absolute paths.
    pub(super) named_directories: Vec<RelPath>,
    pub(super) action: Digest,
    pub(super) deadline: Deadline,
    pub(super) settings: WasmSettings,
    /// Where the guest's streams can be followed.
    pub(super) stdout: Log,
    pub(super) stderr: Log,
}

/// How a guest ended, before that is put into the words of the API.
pub(super) struct End {
    ended: wasmtime::Result<i32>,
    limit_hit: Option<LimitHit>,
    usage: WasmUsage,
}

impl Run {
    /// Runs the guest on this thread, which must not be one that drives the async runtime.
    pub(super) fn finish(
        self,
        pre: &InstancePre<Guest>,
        mut workspace: Workspace,
    ) -> Result<(Outcome, Workspace), Failure> {
        let bytes_max = self.settings.limits.stdout_bytes_max;
        let stdout = Capture::new("standard output", bytes_max).with_log(self.stdout.clone());
        let stderr = Capture::new("standard error", bytes_max).with_log(self.stderr.clone());
        self.make_directories(&mut workspace)?;
        let setting = Setting {
            arguments: self.arguments,
            environment: self.environment,
            working_directory: self.working_directory,
            named_directories: self.named_directories,
            action: self.action,
            clock: self.settings.clock,
            random: self.settings.random,
            wasm_handles_max: self.settings.limits.wasm_handles_max,
            stdout: stdout.clone(),
            stderr: stderr.clone(),
            deadline: self.deadline.clone(),
        };
        let bounds = Bounds { settings: &self.settings, deadline: &self.deadline };
        let host = Box::new(Host::new(workspace, setting)?);
        let limiter = Limiter::new(&self.settings.limits);
        let mut store = bounds.store(pre.module().engine(), Guest { host, limiter })?;
        let ended = wasi::run_to_end(async {
            let instance = pre.instantiate_async(&mut store).await?;
            let entry = instance.get_typed_func::<(), ()>(&mut store, "_start")?;
            entry.call_async(&mut store, ()).await
        });
        let mut end = bounds.end(&store, ended.map(|()| 0));
        let workspace = store.into_data().host.into_workspace();
        end.limit_hit = end.limit_hit.or_else(|| workspace.limit_hit().cloned());
        usage::of_workspace(&workspace, &mut end.usage);
        end.usage.limit_hit = end.limit_hit.as_ref().map(usage::limit_hit);
        Ok((bounds.outcome(end, &stdout, &stderr), workspace))
    }

    /// Makes the leading directories of every output, as the API asks before a run.
    fn make_directories(&self, workspace: &mut Workspace) -> Result<(), Failure> {
        for parent in &self.made_directories {
            workspace.create_parents(NodeId::ROOT, parent).map_err(|error| match error {
                FsError::Failure(failure) => *failure,
                FsError::Errno(errno) => {
                    Failure::InvalidArgument(format!("leading directories of output {parent}: {errno:?}"))
                }
            })?;
        }
        Ok(())
    }
}

/// What bounds a guest of either kind, and puts its end into words.
pub(super) struct Bounds<'a> {
    pub(super) settings: &'a WasmSettings,
    pub(super) deadline: &'a Deadline,
}

impl Bounds<'_> {
    /// A store whose guest is stopped by its timeout and by a cancellation, and whose memory is bounded.
    pub(super) fn store<G: Bounded + 'static>(&self, engine: &Engine, guest: G) -> Result<Store<G>, Failure> {
        let mut store = Store::new(engine, guest);
        store.limiter(|guest| guest.limiter_mut());
        match self.settings.fuel {
            // Only metered code counts; elsewhere this is refused, and there is nothing to set.
            None => drop(store.set_fuel(u64::MAX)),
            Some(fuel) => {
                let set = store.set_fuel(fuel);
                set.map_err(|error| Failure::Internal(format!("give the guest fuel: {error:#}")))?;
            }
        }
        let deadline = self.deadline.clone();
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(move |_| {
            deadline.check().map_err(wasmtime::Error::new)?;
            Ok(UpdateDeadline::Continue(1))
        });
        Ok(store)
    }

    pub(super) fn end<G: Bounded>(&self, store: &Store<G>, ended: wasmtime::Result<i32>) -> End {
        let limiter = store.data().limiter();
        let left = self.settings.fuel.and_then(|_| store.get_fuel().ok());
        let usage = WasmUsage {
            guest_time: self.deadline.elapsed().try_into().ok(),
            memory_bytes_peak: limiter.memory_bytes(),
            fuel_used: self.settings.fuel.zip(left).map(|(given, left)| given.saturating_sub(left)),
            limit_hit: limiter.limit_hit().map(usage::limit_hit),
            ..WasmUsage::default()
        };
        let limit_hit = limiter.limit_hit().cloned();
        End { ended, limit_hit, usage }
    }

    /// Turns the end of a guest into the end of an action.
    pub(super) fn outcome(&self, end: End, stdout: &Capture, stderr: &Capture) -> Outcome {
        let (duration, usage) = (self.deadline.elapsed(), Box::new(end.usage));
        let finished = |exit_code, note: &str| {
            let mut text = BytesMut::from(&stderr.bytes()[..]);
            text.extend_from_slice(note.as_bytes());
            let (stdout, stderr) = (stdout.bytes(), text.freeze());
            Finished { exit_code, stdout, stderr, duration, usage: Some(usage), ..Finished::default() }
        };
        let exit = match end.ended {
            Ok(code) => Ok(code),
            Err(error) => error.downcast_ref::<I32Exit>().map(|exit| exit.0).ok_or(error),
        };
        // Who succeeds although something was refused has got along without it.
        let limit_hit = end.limit_hit.map(|hit| Failure::ResourceExhausted(hit.to_string()));
        let error = match (exit, limit_hit) {
            (Ok(0), _) => return Outcome::Exited(finished(0, "")),
            (Ok(code), None) => return Outcome::Exited(finished(code, "")),
            (Ok(code), Some(failure)) => return Outcome::CutShort(finished(code, ""), failure),
            (Err(error), _) if error.downcast_ref() == Some(&Trap::OutOfFuel) => {
                let fuel = self.settings.fuel.unwrap_or_default();
                let failure = Failure::ResourceExhausted(format!(
                    "the guest used all of its fuel (platform property wasm-fuel is {fuel})"
                ));
                return Outcome::CutShort(finished(STOPPED_EXIT_CODE, ""), failure);
            }
            (Err(error), None) => error,
            (Err(error), Some(failure)) if error.downcast_ref::<Stopped>().is_none() => {
                return Outcome::CutShort(finished(TRAP_EXIT_CODE, &trap_note(&error)), failure);
            }
            (Err(error), Some(_)) => error,
        };
        let overflow = stdout.overflow().or(stderr.overflow());
        if let Some(stopped) = error.downcast_ref::<Stopped>().or(overflow.as_ref()) {
            return Outcome::CutShort(finished(STOPPED_EXIT_CODE, ""), failure(stopped));
        }
        Outcome::Exited(finished(TRAP_EXIT_CODE, &trap_note(&error)))
    }
}

fn trap_note(error: &wasmtime::Error) -> String {
    format!("wardian: the guest trapped: {error:#}\n")
}

fn failure(stopped: &Stopped) -> Failure {
    match stopped {
        Stopped::Cancelled => Failure::Cancelled,
        Stopped::TimedOut(timeout) => timed_out(*timeout),
        Stopped::TooMuchOutput { stream, bytes_max } => super::too_much_output(stream, *bytes_max),
        Stopped::TooManyHandles(max) => Failure::ResourceExhausted(format!(
            "the guest had more than {max} files, directories and streams open (limit wasm_handles_max)"
        )),
        Stopped::Failed(failure) => (**failure).clone(),
    }
}
