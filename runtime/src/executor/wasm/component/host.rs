//! The host of preview-2 components: wasmtime-wasi's own, over a staged folder, with our clocks and random bytes.

use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime::component::{Linker, ResourceTableError};
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::filesystem::FsPerms;
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError, StreamResult};
use wasmtime_wasi::{ResourceTable, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};

use super::super::guest::Bounded;
use super::super::limiter::Limiter;
use super::clocks::{Monotonic, SharedClocks};
use crate::wasi::{Capture, Stopped, seed};

/// What a component is given.
pub(super) struct Given<'a> {
    pub(super) arguments: &'a [String],
    pub(super) environment: &'a [(&'a str, &'a str)],
    pub(super) root: &'a Path,
    pub(super) working_directory: &'a str,
    /// The text that seeds the random bytes; `None` for those of the machine.
    pub(super) seed: Option<&'a str>,
    pub(super) clocks: SharedClocks,
    pub(super) handles_max: usize,
    pub(super) stdout: Stream,
    pub(super) stderr: Stream,
}

/// The state of a component.
pub(super) struct Component {
    context: WasiCtx,
    table: ResourceTable,
    clocks: SharedClocks,
    limiter: Limiter,
}

impl Component {
    /// A host with the command's arguments, environment and directories; everything else stays closed.
    pub(super) fn new(given: Given<'_>, limiter: Limiter) -> wasmtime::Result<Self> {
        let mut wasi = WasiCtxBuilder::new();
        // Blocking this thread is faster for files, and a write is over when it returns.
        wasi.allow_blocking_current_thread(true);
        wasi.args(given.arguments).envs(given.environment);
        wasi.stdout(given.stdout).stderr(given.stderr);
        wasi.wall_clock(given.clocks.clone()).monotonic_clock(given.clocks.clone());
        if let Some(text) = given.seed {
            wasi.secure_random(seed::generator(seed::BYTES, text));
            wasi.insecure_random(seed::generator(seed::INSECURE_BYTES, text));
            wasi.insecure_random_seed(seed::number(text));
        }
        let working_directory = given.root.join(given.working_directory);
        // The root first: Go's runtime takes the first name for its working directory.
        wasi.preopened_dir(given.root, "/", FsPerms::ReadWrite)?;
        wasi.preopened_dir(&working_directory, ".", FsPerms::ReadWrite)?;
        wasi.initial_cwd(".");
        let mut table = ResourceTable::new();
        table.set_max_capacity(given.handles_max);
        Ok(Self { context: wasi.build(), table, clocks: given.clocks, limiter })
    }

    /// Offers everything that a component may import.
    pub(super) fn add_to_linker(linker: &mut Linker<Self>) -> wasmtime::Result<()> {
        wasmtime_wasi::p2::add_to_linker_async(linker)?;
        SharedClocks::add_to_linker(linker, |component| Monotonic {
            clocks: &component.clocks,
            table: &mut component.table,
        })
    }
}

impl WasiView for Component {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.context, table: &mut self.table }
    }
}

impl Bounded for Component {
    fn limiter(&self) -> &Limiter {
        &self.limiter
    }

    fn limiter_mut(&mut self) -> &mut Limiter {
        &mut self.limiter
    }
}

/// Names the limit when a component was ended because its table of handles is full.
pub(super) fn too_many_handles(error: wasmtime::Error, handles_max: usize) -> wasmtime::Error {
    match error.downcast_ref() {
        Some(ResourceTableError::Full) => wasmtime::Error::new(Stopped::TooManyHandles(handles_max)),
        _ => error,
    }
}

/// Where what was written goes on to.
type Forward = Arc<Mutex<dyn FnMut(&[u8]) + Send>>;

/// One of the component's streams. What fits is kept and told at once.
#[derive(Clone)]
pub(super) struct Stream {
    capture: Capture,
    forward: Forward,
}

impl Stream {
    pub(super) fn new(capture: Capture, forward: impl FnMut(&[u8]) + Send + 'static) -> Self {
        Self { capture, forward: Arc::new(Mutex::new(forward)) }
    }

    fn append(&self, data: &[u8]) -> Result<(), Stopped> {
        let mut forward = self.forward.lock().expect("no code that holds this lock panics");
        let before = self.capture.len();
        let appended = self.capture.append(data);
        forward(&data[..self.capture.len() - before]);
        appended
    }
}

impl IsTerminal for Stream {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Stream {
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
impl OutputStream for Stream {
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
impl Pollable for Stream {
    async fn ready(&mut self) {}
}

impl AsyncWrite for Stream {
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
