//! The host of WASI preview-1 commands: all of its functions over a [`Workspace`], and nothing of the machine.
//!
//! ```text
//! preview1   the functions, one by one
//! listing    fd_readdir
//! texts      paths, arguments and environment in the guest's memory
//! io         reading and writing between files, streams and the guest's memory
//! poll       poll_oneoff
//! fds        descriptors and their rights
//! clock      time and random bytes, fixed unless the platform says otherwise
//! stop       timeout, cancellation, captured streams
//! ```
//!
//! The guest's descriptors 3 and 4 are the directories `/` (the input root) and `.` (the Command's working
//! directory); the root comes first because Go's runtime takes the first for its working directory.
//! Functions do not wait for anything but the store, and that in the guest's own thread: their futures are
//! ready at once, so a guest needs no runtime ([`run_to_end`]).

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use wardian_proto::{Digest, RelPath};
use wasmtime_wasi::I32Exit;
use wasmtime_wasi::p1::types::{self, Errno};
use wasmtime_wasi::p1::wasi_snapshot_preview1;

use crate::Failure;
use crate::workspace::{FsError, Last, NodeId, Workspace};

mod clock;
mod fds;
mod io;
mod listing;
mod poll;
mod preview1;
mod stop;
mod texts;

pub use clock::{ClockPolicy, MONOTONIC_START, MONOTONIC_STEP, RandomPolicy};
pub(crate) use clock::{Clocks, seed};
pub use stop::{Capture, Deadline, Stopped};

use clock::Random;
use fds::Fds;

/// What a guest is given beside its files.
pub struct Setting {
    /// Its arguments, the first being its own name.
    pub arguments: Vec<String>,
    /// Its environment.
    pub environment: Vec<(String, String)>,
    /// The directory it is in.
    pub working_directory: RelPath,
    /// Directories that it is given by their absolute paths beside `/` and the working directory. A program of
    /// wasi-libc looks for absolute paths in the latter, unless a longer name fits.
    pub named_directories: Vec<RelPath>,
    /// The action, which seeds the random bytes.
    pub action: Digest,
    /// Its clocks.
    pub clock: ClockPolicy,
    /// Its random bytes.
    pub random: RandomPolicy,
    /// Descriptors that it may have open, streams and preopened directories included.
    pub wasm_handles_max: usize,
    /// Where standard output goes.
    pub stdout: Capture,
    /// Where standard error goes.
    pub stderr: Capture,
    /// When it has to end.
    pub deadline: Deadline,
}

fn find_directory(workspace: &mut Workspace, directory: &RelPath) -> Result<NodeId, Failure> {
    if directory.is_root() {
        return Ok(NodeId::ROOT);
    }
    let found = workspace.find(NodeId::ROOT, &format!("{directory}/"), Last::Follow);
    found.map_err(|error| match error {
        FsError::Failure(failure) => *failure,
        FsError::Errno(_) => Failure::InvalidArgument(format!(
            "Command.working_directory {directory} is not a directory of the input root"
        )),
    })
}

/// The host of one guest.
pub struct Host {
    workspace: Workspace,
    arguments: Vec<Bytes>,
    environment: Vec<Bytes>,
    clocks: Clocks,
    random: Random,
    fds: Fds,
    handles_max: usize,
    stdout: Capture,
    stderr: Capture,
    deadline: Deadline,
}

impl Host {
    /// A host over `workspace`. Fails when the working directory is none.
    pub fn new(mut workspace: Workspace, setting: Setting) -> Result<Self, Failure> {
        let working_directory = find_directory(&mut workspace, &setting.working_directory)?;
        let mut preopens: Vec<(NodeId, Arc<str>)> =
            vec![(NodeId::ROOT, "/".into()), (working_directory, ".".into())];
        for directory in &setting.named_directories {
            let node = find_directory(&mut workspace, directory)?;
            preopens.push((node, format!("/{}", directory.as_str()).into()));
        }
        for (node, _) in &preopens {
            workspace.hold(*node);
        }
        let arguments = setting.arguments.into_iter().map(terminated).collect();
        let variable = |(name, value): (String, String)| terminated(format!("{name}={value}"));
        Ok(Self {
            workspace,
            arguments,
            environment: setting.environment.into_iter().map(variable).collect(),
            clocks: Clocks::new(setting.clock, setting.deadline.clone()),
            random: Random::new(setting.random, &setting.action),
            fds: Fds::new(preopens),
            handles_max: setting.wasm_handles_max,
            stdout: setting.stdout,
            stderr: setting.stderr,
            deadline: setting.deadline,
        })
    }

    /// The files as the guest left them.
    pub fn into_workspace(self) -> Workspace {
        self.workspace
    }

    /// The files as they are.
    pub fn workspace(&self) -> &Workspace {
        &self.workspace
    }

    /// Fails when no further descriptor may be opened.
    fn check_room(&mut self) -> Result<(), types::Error> {
        let (used, allowed) = (self.fds.len(), self.handles_max);
        if used >= allowed {
            let (used, allowed) = (used as u64, allowed as u64);
            return Err(self.workspace.refuse("wasm_handles_max", used, allowed, Errno::Mfile).into());
        }
        Ok(())
    }

    /// Lets go of what a descriptor stood for.
    fn close(&mut self, descriptor: fds::Descriptor) {
        let node = descriptor.node();
        if let fds::Object::Directory(fds::Directory { listing: Some(listing), .. }) = descriptor.object {
            self.workspace.release(listing);
        }
        if let Some(node) = node {
            self.workspace.close(node);
        }
    }

    /// Fails when the guest has to end. Called in every loop of the host's own, where no epoch reaches.
    fn check_deadline(&self) -> Result<(), types::Error> {
        self.deadline.check().map_err(trap)
    }

    /// Tells the workspace the time before something is changed.
    fn keep_time(&mut self) {
        let now = self.clocks.wall();
        self.workspace.set_time(now);
    }
}

fn terminated(text: String) -> Bytes {
    let mut bytes = text.into_bytes();
    bytes.push(0);
    bytes.into()
}

/// Ends the guest.
fn trap(stopped: Stopped) -> types::Error {
    types::Error::trap(wasmtime::Error::new(stopped))
}

impl From<FsError> for types::Error {
    fn from(error: FsError) -> Self {
        match error {
            FsError::Errno(errno) => errno.into(),
            FsError::Failure(failure) => trap(Stopped::Failed(failure)),
        }
    }
}

/// Offers the functions of preview 1 to modules.
pub fn add_to_linker<T: Send + 'static>(
    linker: &mut wasmtime::Linker<T>,
    host: impl Fn(&mut T) -> &mut Host + Copy + Send + Sync + 'static,
) -> wasmtime::Result<()> {
    wasi_snapshot_preview1::add_to_linker(linker, host)
}

/// Runs a guest whose host never waits.
///
/// The calling thread must not drive an async runtime: reading from the store waits in it.
pub fn run_to_end<T>(guest: impl Future<Output = T>) -> T {
    let mut guest = pin!(guest);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        match guest.as_mut().poll(&mut context) {
            Poll::Ready(ended) => return ended,
            // Only the engine gives way, in the middle of collecting garbage; there is nothing to wait for.
            Poll::Pending => {}
        }
    }
}

/// Runs a module by itself and returns its exit code, or why it has none, and the host.
///
/// For tests of the host: no limits but the host's own, no compiled code is kept.
#[doc(hidden)]
pub fn run_module(module: &wasmtime::Module, host: Host) -> (wasmtime::Result<i32>, Host) {
    let mut linker = wasmtime::Linker::new(module.engine());
    let mut store = wasmtime::Store::new(module.engine(), host);
    let ended = add_to_linker(&mut linker, |host| host).and_then(|()| {
        run_to_end(async {
            let instance = linker.instantiate_async(&mut store, module).await?;
            let entry = instance.get_typed_func::<(), ()>(&mut store, "_start")?;
            entry.call_async(&mut store, ()).await
        })
    });
    (exit_code(ended), store.into_data())
}

/// The exit code of a guest that returned or called `proc_exit`.
pub(crate) fn exit_code(ended: wasmtime::Result<()>) -> wasmtime::Result<i32> {
    match ended {
        Ok(()) => Ok(0),
        Err(error) => match error.downcast_ref::<I32Exit>() {
            Some(exit) => Ok(exit.0),
            None => Err(error),
        },
    }
}

#[cfg(test)]
mod tests;
