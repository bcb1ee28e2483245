//! `wardian serve`: the server, until a signal ends it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use crate::app::Server;
use crate::config::Config;

/// Serves the remote APIs on one port, with a worker inside.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  wardian serve                                   on 127.0.0.1:8980, data in ./wardian-data
  wardian serve --listen 127.0.0.1:0              on a free port, which it prints
  bazel build --remote_executor=grpc://127.0.0.1:8980 //...

SIGTERM and Ctrl-C drain: running actions may finish, new ones are refused.")]
pub(crate) struct ServeArgs {
    /// Address to listen on; anybody who can reach it can run code here.
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<SocketAddr>,
    /// Folder that holds everything the server keeps.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// TOML file; `wardian config print` shows every key.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Runs the server until SIGTERM or Ctrl-C.
pub(crate) async fn serve(args: ServeArgs) -> anyhow::Result<ExitCode> {
    let mut config = Config::load(args.config.as_deref())?;
    if let Some(listen) = args.listen {
        config.listen = listen;
    }
    if let Some(data) = args.data {
        config.data = data;
    }
    if !config.listen.ip().is_loopback() {
        tracing::warn!(
            listen = %config.listen,
            "not a loopback address, and there is no authentication yet: anybody who can reach this \
             port can run code on this machine"
        );
    }
    // Before the port opens: a signal that comes early must not be lost.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let data = config.data.clone();
    let server = Server::start(config).await?;
    println!("wardian serves grpc://{} (data in {})", server.address(), data.display());
    println!("what to do with it: http://{}/", server.address());
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    eprintln!("draining; once more to stop at once");
    tokio::select! {
        stopped = server.shutdown() => stopped?,
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(ExitCode::SUCCESS)
}
