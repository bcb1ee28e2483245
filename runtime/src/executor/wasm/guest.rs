//! One guest from instantiation to its end.

use std::path::Path;

use bytes::BytesMut;
use tokio::sync::watch;
use wardian_proto::wardian::WasmUsage;
use wardian_proto::{Digest, RelPath};
use wasmtime::{Engine, InstancePre, Store, Trap, UpdateDeadline};
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi::{I32Exit, WasiCtxView, WasiView};

use super::component::{self, Preview2};
use super::limiter::Limiter;
use super::link::Loaded;
use super::settings::WasmSettings;
use super::usage;
use crate::Failure;
use crate::executor::native::timed_out;
use crate::executor::{Files, Finished, Outcome};
use crate::logs::Log;
use crate::wasi::{self, Capture, Deadline, Host, Setting, Stopped};
use crate::workspace::{FsError, LimitHit, NodeId, Workspace};

/// Exit code of a trap: 128 + SIGABRT, as a shell reports an abort.
const TRAP_EXIT_CODE: i32 = 134;

/// Exit code of a guest that was stopped: 128 + SIGKILL.
const STOPPED_EXIT_CODE: i32 = 137;

/// The state of a guest.
pub(super) struct Guest {
    host: GuestHost,
    limiter: Limiter,
}

/// The WASI host of a guest; which one depends on what the module is.
enum GuestHost {
    Preview1(Box<Host>),
    Preview2(Box<Preview2>),
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        match &mut self.host {
            GuestHost::Preview2(host) => host.view(),
            GuestHost::Preview1(_) => unreachable!("components are started with a preview-2 host"),
        }
    }
}

/// The preview-1 host of a guest that was started from a core module.
pub(super) fn preview1(guest: &mut Guest) -> &mut Host {
    match &mut guest.host {
        GuestHost::Preview1(host) => host,
        GuestHost::Preview2(_) => unreachable!("core modules are started with a preview-1 host"),
    }
}

/// Everything a guest is given but its files.
pub(super) struct Run {
    pub(super) arguments: Vec<String>,
    pub(super) environment: Vec<(String, String)>,
    pub(super) working_directory: RelPath,
    /// Directories that have to be there for the outputs.
    pub(super) output_parents: Vec<RelPath>,
    pub(super) action: Digest,
    pub(super) deadline: Deadline,
    pub(super) cancelled: watch::Receiver<bool>,
    pub(super) settings: WasmSettings,
    /// Where the guest's streams can be followed.
    pub(super) stdout: Log,
    pub(super) stderr: Log,
}

/// How a guest ended, before that is put into the words of the API.
struct End {
    ended: wasmtime::Result<i32>,
    refused: Option<String>,
    limit_hit: Option<LimitHit>,
    usage: WasmUsage,
}

impl Run {
    /// Runs the guest on this thread, which must not be one that drives the async runtime.
    pub(super) fn finish(self, module: &Loaded, files: Files) -> Result<(Outcome, Files), Failure> {
        let bytes_max = self.settings.limits.stdout_bytes_max;
        let stdout = Capture::new("standard output", bytes_max).with_log(self.stdout.clone());
        let stderr = Capture::new("standard error", bytes_max).with_log(self.stderr.clone());
        let (end, files) = match (module, files) {
            (Loaded::Core(pre), Files::Workspace(workspace)) => {
                let (end, workspace) = self.core(pre, *workspace, &stdout, &stderr)?;
                (end, Files::Workspace(Box::new(workspace)))
            }
            (Loaded::Component(pre), Files::Staged(staged)) => {
                let end = self.component(pre, staged.path(), &stdout, &stderr)?;
                (end, Files::Staged(staged))
            }
            _ => return Err(Failure::Internal("a guest was given files of the wrong layout".into())),
        };
        Ok((self.outcome(end, &stdout, &stderr), files))
    }

    /// Runs a preview-1 command.
    fn core(
        &self,
        pre: &InstancePre<Guest>,
        mut workspace: Workspace,
        stdout: &Capture,
        stderr: &Capture,
    ) -> Result<(End, Workspace), Failure> {
        self.make_output_parents(&mut workspace)?;
        let setting = Setting {
            arguments: self.arguments.clone(),
            environment: self.environment.clone(),
            working_directory: self.working_directory.clone(),
            action: self.action,
            clock: self.settings.clock,
            random: self.settings.random,
            wasm_handles_max: self.settings.limits.wasm_handles_max,
            stdout: stdout.clone(),
            stderr: stderr.clone(),
            deadline: self.deadline.clone(),
        };
        let host = GuestHost::Preview1(Box::new(Host::new(workspace, setting)?));
        let mut store = self.store(pre.module().engine(), host)?;
        let ended = wasi::run_to_end(async {
            let instance = pre.instantiate_async(&mut store).await?;
            let entry = instance.get_typed_func::<(), ()>(&mut store, "_start")?;
            entry.call_async(&mut store, ()).await
        });
        let mut end = self.end(&store, ended.map(|()| 0));
        let GuestHost::Preview1(host) = store.into_data().host else {
            unreachable!("it was made above");
        };
        let workspace = host.into_workspace();
        end.limit_hit = workspace.limit_hit().cloned();
        usage::of_workspace(&workspace, &mut end.usage);
        Ok((end, workspace))
    }

    /// Runs a preview-2 command.
    fn component(
        &self,
        pre: &CommandPre<Guest>,
        root: &Path,
        stdout: &Capture,
        stderr: &Capture,
    ) -> Result<End, Failure> {
        let host = GuestHost::Preview2(Box::new(Preview2::new(self, root, stdout, stderr)?));
        let mut store = self.store(pre.engine(), host)?;
        let guest = async {
            let command = pre.instantiate_async(&mut store).await?;
            let run = command.wasi_cli_run().call_run(&mut store).await?;
            Ok(i32::from(run.is_err()))
        };
        let ended = tokio::runtime::Handle::current().block_on(self.until_stopped(guest));
        let handles_max = self.settings.limits.wasm_handles_max;
        Ok(self.end(&store, ended.map_err(|error| component::too_many_handles(error, handles_max))))
    }

    /// Makes the leading directories of every output, as the API asks before a run.
    fn make_output_parents(&self, workspace: &mut Workspace) -> Result<(), Failure> {
        for parent in &self.output_parents {
            workspace.create_parents(NodeId::ROOT, parent).map_err(|error| match error {
                FsError::Failure(failure) => *failure,
                FsError::Errno(errno) => {
                    Failure::InvalidArgument(format!("leading directories of output {parent}: {errno:?}"))
                }
            })?;
        }
        Ok(())
    }

    /// A store whose guest is stopped by its timeout and by a cancellation, and whose memory is bounded.
    fn store(&self, engine: &Engine, host: GuestHost) -> Result<Store<Guest>, Failure> {
        let limiter = Limiter::new(&self.settings.limits);
        let mut store = Store::new(engine, Guest { host, limiter });
        store.limiter(|guest| &mut guest.limiter);
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

    fn end(&self, store: &Store<Guest>, ended: wasmtime::Result<i32>) -> End {
        let limiter = &store.data().limiter;
        let left = self.settings.fuel.and_then(|_| store.get_fuel().ok());
        let usage = WasmUsage {
            guest_time: self.deadline.elapsed().try_into().ok(),
            memory_bytes_peak: limiter.memory_bytes(),
            fuel_used: self.settings.fuel.zip(left).map(|(given, left)| given.saturating_sub(left)),
            ..WasmUsage::default()
        };
        End { ended, refused: limiter.refused(), limit_hit: None, usage }
    }

    /// Ends a component while it waits inside its host, where no epoch reaches it.
    async fn until_stopped(
        &self,
        guest: impl Future<Output = wasmtime::Result<i32>>,
    ) -> wasmtime::Result<i32> {
        let mut cancelled = self.cancelled.clone();
        tokio::select! {
            biased;
            ended = guest => ended,
            () = tokio::time::sleep(self.deadline.timeout()) => {
                Err(wasmtime::Error::new(Stopped::TimedOut(self.deadline.timeout())))
            }
            Ok(_) = cancelled.wait_for(|stop| *stop) => Err(wasmtime::Error::new(Stopped::Cancelled)),
        }
    }

    /// Turns the end of a guest into the end of an action.
    fn outcome(&self, end: End, stdout: &Capture, stderr: &Capture) -> Outcome {
        let (duration, usage) = (self.deadline.elapsed(), Box::new(end.usage));
        let finished = |exit_code, note: &str| {
            let mut text = BytesMut::from(&stderr.bytes()[..]);
            text.extend_from_slice(note.as_bytes());
            let (stdout, stderr) = (stdout.bytes(), text.freeze());
            Finished { exit_code, stdout, stderr, duration, usage: Some(usage) }
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
        let finished = finished(TRAP_EXIT_CODE, &trap_note(&error));
        match end.refused {
            Some(verdict) => Outcome::CutShort(finished, Failure::ResourceExhausted(verdict)),
            None => Outcome::Exited(finished),
        }
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
