//! The host of preview-2 components: wasmtime-wasi's own, over a staged folder.

use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime::component::ResourceTableError;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::filesystem::FsPerms;
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError, StreamResult};
use wasmtime_wasi::{ResourceTable, WasiCtx, WasiCtxBuilder, WasiCtxView};

use super::guest::Run;
use crate::Failure;
use crate::wasi::{Capture, Stopped};

/// The host of one component.
pub(super) struct Preview2 {
    context: WasiCtx,
    table: ResourceTable,
}

impl Preview2 {
    /// A host with the command's arguments, environment and directories; everything else stays closed.
    pub(super) fn new(run: &Run, root: &Path, stdout: &Capture, stderr: &Capture) -> Result<Self, Failure> {
        let mut wasi = WasiCtxBuilder::new();
        // Blocking this thread is faster for files, and a write is over when it returns.
        wasi.allow_blocking_current_thread(true);
        wasi.args(&run.arguments).envs(&run.environment);
        wasi.stdout(stdout.clone()).stderr(stderr.clone());
        let open = |error: wasmtime::Error| Failure::Internal(format!("open directory for guest: {error:#}"));
        let working_directory = root.join(run.working_directory.as_str());
        // The root first: Go's runtime takes the first name for its working directory.
        wasi.preopened_dir(root, "/", FsPerms::ReadWrite).map_err(open)?;
        wasi.preopened_dir(&working_directory, ".", FsPerms::ReadWrite).map_err(open)?;
        wasi.initial_cwd(".");
        let mut table = ResourceTable::new();
        table.set_max_capacity(run.settings.limits.wasm_handles_max);
        Ok(Self { context: wasi.build(), table })
    }

    pub(super) fn view(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.context, table: &mut self.table }
    }
}

/// Names the limit when a component was ended because its table of handles is full.
pub(super) fn too_many_handles(error: wasmtime::Error, handles_max: usize) -> wasmtime::Error {
    match error.downcast_ref() {
        Some(ResourceTableError::Full) => wasmtime::Error::new(Stopped::TooManyHandles(handles_max)),
        _ => error,
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
