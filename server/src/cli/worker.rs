//! `wardian worker`: runs what a server elsewhere gives it, until a signal ends it.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::args::{Pair, Remote};
use crate::config::Config;
use crate::remote_worker::{RemoteWorker, default_data, machine_name};

/// Run actions for a server that is elsewhere.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  wardian serve --slots 0                                       a server that runs nothing itself
  wardian worker --server grpcs://10.0.0.5:8980 --token-file t --slots 16
  wardian worker --name big --slots 4 --memory 64000000000 --property pool=large

It connects to the server, and again whenever the connection breaks; meanwhile it goes on with what it runs. Its data
folder holds near copies of blobs and compiled modules: it can be deleted while the worker is not running, and two
workers never share one. All that `[worker]` and `[store]` of the configuration say holds for it too; `wardian config
print` shows them.

SIGTERM and Ctrl-C drain: what runs may end (worker.drain_seconds_max), and nothing more is taken; the second signal
stops it at once, and other workers run it again. `wardian workers` shows all workers of a server.")]
pub(crate) struct WorkerArgs {
    /// Name of this worker, which no other of the server may have [default: that of this machine]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Actions run at once [default: processor cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    slots: Option<u32>,
    /// Memory in bytes for actions that say how much they need; without it only slots count.
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1..))]
    memory: Option<u64>,
    /// Further platform property that actions may ask for; may be repeated.
    #[arg(long = "property", value_name = "NAME=VALUE")]
    properties: Vec<Pair>,
    /// Folder of this worker alone [default: wardian-worker-data]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// TOML file; `wardian config print` shows every key.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Runs the worker until SIGTERM or Ctrl-C.
pub(crate) async fn worker(remote: &Remote, args: WorkerArgs) -> anyhow::Result<ExitCode> {
    let mut config = Config::load(args.config.as_deref())?;
    config.data = args.data.unwrap_or_else(default_data);
    config.remote.instance = remote.instance.clone();
    let settings = &mut config.worker;
    // The name of the worker inside a server says nothing of this one.
    settings.name = args
        .name
        .or_else(|| (settings.name != Config::default().worker.name).then(|| settings.name.clone()))
        .or_else(machine_name)
        .context("this machine has no name: give the worker one with --name")?;
    settings.slots = args.slots.map_or(settings.slots, |slots| slots as usize).max(1);
    settings.memory_bytes = args.memory.or(settings.memory_bytes);
    settings.properties.extend(args.properties.into_iter().map(|pair| (pair.name, pair.value)));
    let server = remote.access()?;
    // Before anything runs: a signal that comes early must not be lost.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (name, slots, data) = (settings.name.clone(), settings.slots, config.data.clone());
    let url = server.url.clone();
    let mut worker = RemoteWorker::start(config, server).await?;
    println!("wardian worker {name}: {slots} slots for {url} (data in {})", data.display());
    tokio::select! {
        dismissed = worker.dismissed() => dismissed?,
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    eprintln!("draining; once more to stop at once");
    let again = tokio::select! {
        () = worker.drain() => false,
        _ = terminate.recv() => true,
        _ = interrupt.recv() => true,
    };
    if again {
        worker.stop().await;
    }
    Ok(ExitCode::SUCCESS)
}
