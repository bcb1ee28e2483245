//! One guest from instantiation to its end.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncWrite;
use tokio::sync::watch;
use wasmtime::component::ResourceTableError;
use wasmtime::{ResourceLimiter, Store, UpdateDeadline};
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::filesystem::FsPerms;
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError, StreamResult};
use wasmtime_wasi::{I32Exit, ResourceTable, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};

use super::link::Loaded;
use crate::executor::native::timed_out;
use crate::executor::{Finished, Outcome};
use crate::{Failure, Limits};

/// Exit code of a trap: 128 + SIGABRT, as a shell reports an abort.
const TRAP_EXIT_CODE: i32 = 134;

/// The state of a guest.
pub(super) struct Guest {
    context: Host,
    limiter: Limiter,
}

/// The WASI host of a guest; which one depends on what the module is.
enum Host {
    Preview1(Box<WasiP1Ctx>),
    Preview2(Box<Preview2>),
}

struct Preview2 {
    context: WasiCtx,
    table: ResourceTable,
}

impl Host {
    fn view(&mut self) -> WasiCtxView<'_> {
        match self {
            Self::Preview2(host) => WasiCtxView { ctx: &mut host.context, table: &mut host.table },
            Self::Preview1(context) => context.ctx(),
        }
    }

    fn handles(&mut self) -> &mut ResourceTable {
        self.view().table
    }
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.context.view()
    }
}

/// The preview-1 host of a guest that was started from a core module.
pub(super) fn preview1(guest: &mut Guest) -> &mut WasiP1Ctx {
    match &mut guest.context {
        Host::Preview1(context) => context,
        Host::Preview2(_) => unreachable!("core modules are started with a preview-1 host"),
    }
}

/// Everything a guest is given.
pub(super) struct Run {
    pub(super) arguments: Vec<String>,
    pub(super) environment: Vec<(String, String)>,
    pub(super) root: PathBuf,
    pub(super) working_directory: PathBuf,
    pub(super) timeout: Duration,
    pub(super) cancelled: watch::Receiver<bool>,
    pub(super) limits: Limits,
}

impl Run {
    /// Runs the guest on this thread, which must not be one that drives the async runtime.
    pub(super) fn finish(self, module: &Loaded) -> Result<Outcome, Failure> {
        let stdout = Capture::new("standard output", self.limits.stdout_bytes_max);
        let stderr = Capture::new("standard error", self.limits.stdout_bytes_max);
        let mut wasi = self.wasi(module, &stdout, &stderr)?;
        let limiter = Limiter::new(&self.limits);
        let started = Instant::now();
        let (mut context, engine) = match module {
            Loaded::Core(pre) => (Host::Preview1(Box::new(wasi.build_p1())), pre.module().engine()),
            Loaded::Component(pre) => {
                let host = Preview2 { context: wasi.build(), table: ResourceTable::new() };
                (Host::Preview2(Box::new(host)), pre.engine())
            }
        };
        context.handles().set_max_capacity(self.limits.wasm_handles_max);
        let mut store = Store::new(engine, Guest { context, limiter });
        self.watch(&mut store, started);
        let ended = tokio::runtime::Handle::current().block_on(self.until_stopped(start(module, &mut store)));
        let ended = ended.map_err(|error| self.too_many_handles(error));
        Ok(outcome(ended, &store.data().limiter, &stdout, &stderr, started.elapsed()))
    }

    /// Ends the guest while it waits inside the host, where no epoch reaches it.
    async fn until_stopped(
        &self,
        guest: impl Future<Output = wasmtime::Result<i32>>,
    ) -> wasmtime::Result<i32> {
        let mut cancelled = self.cancelled.clone();
        tokio::select! {
            biased;
            ended = guest => ended,
            () = tokio::time::sleep(self.timeout) => Err(wasmtime::Error::new(Stopped::TimedOut(self.timeout))),
            Ok(_) = cancelled.wait_for(|stop| *stop) => Err(wasmtime::Error::new(Stopped::Cancelled)),
        }
    }

    /// Names the limit when a guest was ended because its table of handles is full.
    fn too_many_handles(&self, error: wasmtime::Error) -> wasmtime::Error {
        match error.downcast_ref() {
            Some(ResourceTableError::Full) => {
                wasmtime::Error::new(Stopped::TooManyHandles(self.limits.wasm_handles_max))
            }
            _ => error,
        }
    }

    /// Arguments, environment and directories; everything else stays closed.
    fn wasi(&self, module: &Loaded, stdout: &Capture, stderr: &Capture) -> Result<WasiCtxBuilder, Failure> {
        let mut wasi = WasiCtxBuilder::new();
        // Blocking this thread is faster for files, and a write is over when it returns. A preview-1 guest
        // that sleeps would then sleep in the thread itself, past its timeout; a component would not.
        wasi.allow_blocking_current_thread(matches!(module, Loaded::Component(_)));
        wasi.args(&self.arguments).envs(&self.environment);
        wasi.stdout(stdout.clone()).stderr(stderr.clone());
        let open = |error: wasmtime::Error| Failure::Internal(format!("open directory for guest: {error:#}"));
        // The root first: Go's runtime takes the first name for its working directory.
        wasi.preopened_dir(&self.root, "/", FsPerms::ReadWrite).map_err(open)?;
        wasi.preopened_dir(&self.working_directory, ".", FsPerms::ReadWrite).map_err(open)?;
        wasi.initial_cwd(".");
        Ok(wasi)
    }

    /// Lets the guest be stopped by its timeout and by a cancellation, and bounds its memory.
    fn watch(&self, store: &mut Store<Guest>, started: Instant) {
        store.limiter(|guest| &mut guest.limiter);
        let (timeout, cancelled) = (self.timeout, self.cancelled.clone());
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(move |_| {
            if *cancelled.borrow() {
                Err(wasmtime::Error::new(Stopped::Cancelled))
            } else if started.elapsed() >= timeout {
                Err(wasmtime::Error::new(Stopped::TimedOut(timeout)))
            } else {
                Ok(UpdateDeadline::Continue(1))
            }
        });
    }
}

/// Instantiates a command and calls its entry; returns its exit code.
async fn start(module: &Loaded, store: &mut Store<Guest>) -> wasmtime::Result<i32> {
    match module {
        Loaded::Core(pre) => {
            let instance = pre.instantiate_async(&mut *store).await?;
            let entry = instance.get_typed_func::<(), ()>(&mut *store, "_start")?;
            entry.call_async(store, ()).await?;
            Ok(0)
        }
        Loaded::Component(pre) => {
            let command = pre.instantiate_async(&mut *store).await?;
            let run = command.wasi_cli_run().call_run(store).await?;
            Ok(i32::from(run.is_err()))
        }
    }
}

/// Why the host stopped a guest.
#[derive(Debug, thiserror::Error)]
enum Stopped {
    #[error("cancelled")]
    Cancelled,
    #[error("timed out")]
    TimedOut(Duration),
    #[error("too much output on {0}")]
    TooMuchOutput(&'static str, usize),
    #[error("too many open files, directories and streams")]
    TooManyHandles(usize),
}

/// Turns the end of a guest into the end of an action.
fn outcome(
    ended: wasmtime::Result<i32>,
    limiter: &Limiter,
    stdout: &Capture,
    stderr: &Capture,
    duration: Duration,
) -> Outcome {
    let finished = |exit_code, note: &str| {
        let mut text = BytesMut::from(&stderr.bytes()[..]);
        text.extend_from_slice(note.as_bytes());
        Finished { exit_code, stdout: stdout.bytes(), stderr: text.freeze(), duration }
    };
    let error = match ended {
        Ok(code) => return Outcome::Exited(finished(code, "")),
        Err(error) => error,
    };
    if let Some(exit) = error.downcast_ref::<I32Exit>() {
        return Outcome::Exited(finished(exit.0, ""));
    }
    if let Some(stopped) =
        error.downcast_ref::<Stopped>().or(stdout.overflow().or(stderr.overflow()).as_ref())
    {
        let failure = match stopped {
            Stopped::Cancelled => Failure::Cancelled,
            Stopped::TimedOut(timeout) => timed_out(*timeout),
            Stopped::TooMuchOutput(stream, max) => super::too_much_output(stream, *max),
            Stopped::TooManyHandles(max) => Failure::ResourceExhausted(format!(
                "the guest had more than {max} files, directories and streams open (limit wasm_handles_max)"
            )),
        };
        return Outcome::CutShort(finished(128 + 9, ""), failure);
    }
    let finished = finished(TRAP_EXIT_CODE, &format!("wardian: the guest trapped: {error:#}\n"));
    match limiter.refused() {
        Some(verdict) => Outcome::CutShort(finished, Failure::ResourceExhausted(verdict)),
        None => Outcome::Exited(finished),
    }
}

/// Bounds a guest's memory and tables, all of them together, and remembers what it refused.
struct Limiter {
    memory_bytes: Budget,
    table_elements: Budget,
    refused: Option<String>,
}

/// What a guest has of one resource, and how much of it it may have.
struct Budget {
    used: usize,
    max: usize,
}

impl Budget {
    /// Takes the growth of one memory or table from what is left; returns whether it fits.
    ///
    /// Growth beyond the `own_max` that the module declares fails whatever is said here, so it costs
    /// nothing.
    fn grow(&mut self, current: usize, desired: usize, own_max: Option<usize>) -> bool {
        if own_max.is_some_and(|max| desired > max) {
            return true;
        }
        let total = self.used.saturating_add(desired.saturating_sub(current));
        let fits = total <= self.max;
        if fits {
            self.used = total;
        }
        fits
    }
}

impl Limiter {
    fn new(limits: &Limits) -> Self {
        Self {
            memory_bytes: Budget { used: 0, max: limits.wasm_memory_bytes_max },
            table_elements: Budget { used: 0, max: limits.wasm_table_elements_max },
            refused: None,
        }
    }

    fn refused(&self) -> Option<String> {
        self.refused.clone()
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        own_max: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let fits = self.memory_bytes.grow(current, desired, own_max);
        if !fits {
            let Budget { used, max } = self.memory_bytes;
            let more = desired.saturating_sub(current);
            self.refused = Some(format!(
                "the guest had {used} bytes of memory and asked for {more} more; \
                 limit wasm_memory_bytes_max is {max}"
            ));
        }
        Ok(fits)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        own_max: Option<usize>,
    ) -> wasmtime::Result<bool> {
        // A pooled table's maximum is the limit itself, which decides below.
        let own_max = own_max.filter(|max| *max < self.table_elements.max);
        let fits = self.table_elements.grow(current, desired, own_max);
        if !fits {
            let Budget { used, max } = self.table_elements;
            let more = desired.saturating_sub(current);
            self.refused = Some(format!(
                "the guest had {used} table elements and asked for {more} more; \
                 limit wasm_table_elements_max is {max}"
            ));
        }
        Ok(fits)
    }
}

/// What a guest writes to one of its streams, up to a limit.
#[derive(Clone)]
struct Capture {
    shared: Arc<Mutex<Captured>>,
    name: &'static str,
    bytes_max: usize,
}

#[derive(Default)]
struct Captured {
    bytes: BytesMut,
    overflowed: bool,
}

impl Capture {
    fn new(name: &'static str, bytes_max: usize) -> Self {
        Self { shared: Arc::default(), name, bytes_max }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Captured> {
        self.shared.lock().expect("no code that holds this lock panics")
    }

    fn bytes(&self) -> Bytes {
        self.lock().bytes.clone().freeze()
    }

    fn overflow(&self) -> Option<Stopped> {
        self.lock().overflowed.then_some(Stopped::TooMuchOutput(self.name, self.bytes_max))
    }

    /// Keeps what fits. What does not ends the guest.
    fn append(&self, data: &[u8]) -> Result<(), Stopped> {
        let mut captured = self.lock();
        let room = self.bytes_max - captured.bytes.len();
        captured.bytes.extend_from_slice(&data[..data.len().min(room)]);
        if data.len() > room {
            captured.overflowed = true;
            return Err(Stopped::TooMuchOutput(self.name, self.bytes_max));
        }
        Ok(())
    }
}

impl IsTerminal for Capture {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Capture {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }

    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }
}

/// Largest single write that a guest may make to a stream.
const WRITE_BYTES_MAX: usize = 1 << 20;

#[async_trait::async_trait]
impl OutputStream for Capture {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.append(&bytes).map_err(|stopped| StreamError::Trap(wasmtime::Error::new(stopped)))
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_BYTES_MAX)
    }
}

#[async_trait::async_trait]
impl Pollable for Capture {
    async fn ready(&mut self) {}
}

impl AsyncWrite for Capture {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, data: &[u8]) -> Poll<std::io::Result<usize>> {
        Poll::Ready(self.append(data).map(|()| data.len()).map_err(std::io::Error::other))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
