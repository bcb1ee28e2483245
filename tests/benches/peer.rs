//! A server to measure: ours, or another that speaks the same API.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};
use wardian_tests::{PATIENCE, Process, ServerProcess};

/// Flow-control windows of the client: large enough that no server waits for it on loopback.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// How often a server that is starting is tried.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// A running server with a folder of its own.
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    server: Server,
    address: SocketAddr,
    // Last, so that the server is gone when its folder is removed.
    _folder: TempDir,
}

enum Server {
    Wardian(ServerProcess),
    Casd(Process),
}

impl Peer {
    /// Starts the server of this build.
    pub(crate) fn wardian(parent: &Path) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir_in(parent)?;
        let program = Path::new(env!("CARGO_BIN_EXE_wardian-under-test"));
        let server = ServerProcess::start(program, folder.path(), "")?;
        let address = server.address;
        Ok(Self { name: "wardian", server: Server::Wardian(server), address, _folder: folder })
    }

    /// Starts buildbox-casd, and returns once it serves.
    pub(crate) async fn casd(program: &Path, parent: &Path) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir_in(parent)?;
        // It cannot say which port it got, so it is told a free one.
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let mut command = Command::new(program);
        command.arg(format!("--bind={address}")).arg(folder.path());
        let server = Server::Casd(Process::start(&mut command)?);
        let mut peer = Self { name: "casd", server, address, _folder: folder };
        tokio::time::timeout(PATIENCE, peer.answers()).await.context("casd does not answer")??;
        Ok(peer)
    }

    async fn answers(&mut self) -> anyhow::Result<()> {
        while self.connect(1).await.is_err() {
            if let Server::Casd(process) = &mut self.server {
                process.check()?;
            }
            tokio::time::sleep(RETRY_INTERVAL).await;
        }
        Ok(())
    }

    /// The process.
    pub(crate) fn process(&self) -> &Process {
        match &self.server {
            Server::Wardian(server) => &server.process,
            Server::Casd(process) => process,
        }
    }

    /// Opens connections.
    pub(crate) async fn connect(&self, connections: usize) -> anyhow::Result<Vec<Channel>> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address))?
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
        futures::future::try_join_all((0..connections).map(|_| async { Ok(endpoint.connect().await?) })).await
    }
}

/// A program of this name in PATH.
pub(crate) fn find_in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|program| program.is_file())
}
