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
  wardian serve --slots 0                         with workers elsewhere only: see `wardian worker --help`
  bazel build --remote_executor=grpc://127.0.0.1:8980 //...

SIGTERM and Ctrl-C drain: running actions may finish, new ones are refused. SIGHUP reads the certificates again.")]
pub(crate) struct ServeArgs {
    /// Address to listen on. Other than a loopback address it needs TLS and tokens in the configuration.
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<SocketAddr>,
    /// Serve a network without TLS or without tokens: anybody there may be able to run code on this machine.
    #[arg(long)]
    insecure: bool,
    /// Folder that holds everything the server keeps.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Actions run at once in the server itself; with 0 it leaves all to `wardian worker`.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=1024))]
    slots: Option<u32>,
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
    if let Some(slots) = args.slots {
        config.worker.slots = slots as usize;
    }
    config.insecure = args.insecure;
    // Before the port opens: a signal that comes early must not be lost.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let data = config.data.clone();
    let tls = config.tls.is_some();
    let server = Server::start(config).await?;
    let (grpc, http) = if tls { ("grpcs", "https") } else { ("grpc", "http") };
    println!("wardian serves {grpc}://{} (data in {})", server.address(), data.display());
    println!("what to do with it: {http}://{}/", server.address());
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hang_up.recv() => match server.reload_certificates() {
                Ok(true) => tracing::info!("the certificates were read again"),
                Ok(false) => tracing::info!("SIGHUP: there are no certificates to read again"),
                Err(error) => {
                    let error = format!("{error:#}");
                    tracing::error!(error, "the certificates cannot be read again; the old ones stay");
                }
            },
        }
    }
    eprintln!("draining; once more to stop at once");
    tokio::select! {
        stopped = server.shutdown() => stopped?,
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(ExitCode::SUCCESS)
}
