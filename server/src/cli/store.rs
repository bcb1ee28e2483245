//! `wardian store`: look after a store, and read the numbers of one that is being served.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Subcommand};
use wardian_store::backend::{SledOptions, SledStore};

use super::args::Remote;
use super::progress::Progress;
use super::{format, store_stats};
use crate::config::Config;
use crate::stats::Stats;

/// Measure a store; check or rebuild one that no server uses.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  wardian store stats --data wardian-data     how full it is
  wardian store stats --server HOST:PORT      the same of a running server, and what is done with it
  wardian store check --data wardian-data     read everything and report damage
  wardian store rebuild --data wardian-data   make the index anew from the segments")]
pub(crate) struct StoreArgs {
    #[command(subcommand)]
    command: StoreCommand,
    /// The server's data folder; without it, the one of the configuration.
    #[arg(long, value_name = "DIR", global = true)]
    data: Option<PathBuf>,
    /// The server's TOML file.
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum StoreCommand {
    /// Print how full the store is; with --server, also what a running server does with it.
    Stats {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Read every record and report what is damaged; exit code 1 when anything is.
    Check,
    /// Make the index anew from the segments: for an index that was lost or damaged.
    Rebuild,
}

/// Runs the command.
pub(crate) async fn store(remote: &Remote, args: StoreArgs) -> anyhow::Result<ExitCode> {
    let names_a_folder = args.data.is_some() || args.config.is_some();
    if let (StoreCommand::Stats { json }, Some(_), false) = (&args.command, &remote.server, names_a_folder) {
        let stats = remote.connect().await?.stats().await?;
        return print_stats(&stats, *json).map(|()| ExitCode::SUCCESS);
    }
    let config = Config::load(args.config.as_deref())?;
    let folder = args.data.unwrap_or(config.data).join("store");
    anyhow::ensure!(folder.is_dir(), "there is no store in {}", folder.display());
    let options = config.store;
    let progress = Progress::quiet_elsewhere();
    match args.command {
        StoreCommand::Stats { json } => {
            print_stats(&stats_of(&open(&folder, options, &progress).await?), json)?;
        }
        StoreCommand::Rebuild => {
            let rebuild = tokio::task::spawn_blocking(move || SledStore::rebuild(&folder, options));
            let store = rebuild.await??;
            let task = progress.bytes("rebuilding the index from the segments", 0);
            store.indexed(|done, total| task.set_position(done, total)).await;
            task.finish("the index is rebuilt");
            store.flush().await?;
            print_stats(&stats_of(&store), false)?;
        }
        StoreCommand::Check => {
            let store = open(&folder, options, &progress).await?;
            let task = Arc::new(progress.bytes("reading every record", 0));
            let shown = Arc::clone(&task);
            let report = store.check(move |done, total| shown.set_position(done, total)).await?;
            let (segments, records) = (report.segments, report.records);
            let read = format!("{segments} segments, {records} records, {}", format::size(report.bytes));
            task.finish(&read);
            println!("{read}: {}", if report.damage.is_empty() { "no damage" } else { "damaged" });
            for damage in &report.damage {
                println!("  {damage}");
            }
            if !report.damage.is_empty() {
                return Ok(ExitCode::FAILURE);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Opens the store and waits until its index is up to date: after a crash that may take a moment.
async fn open(folder: &Path, options: SledOptions, progress: &Progress) -> anyhow::Result<SledStore> {
    let folder = folder.to_owned();
    let store = tokio::task::spawn_blocking(move || SledStore::open(&folder, options)).await??;
    let task = progress.bytes("bringing the index up to date", 0);
    store.indexed(|done, total| task.set_position(done, total)).await;
    Ok(store)
}

fn stats_of(store: &SledStore) -> Stats {
    Stats { store: store.stats().into(), server: None }
}

fn print_stats(stats: &Stats, json: bool) -> anyhow::Result<()> {
    if json { super::print_json(stats) } else { super::print(store_stats::text(stats)) }
}
