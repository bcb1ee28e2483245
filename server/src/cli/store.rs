//! `wardian store`: look after a store whose server is not running.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Subcommand};
use wardian_store::backend::{SledOptions, SledStore};

use super::format;
use super::progress::Progress;
use crate::config::Config;

/// Check, rebuild or measure a store while no server uses it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  wardian store stats --data wardian-data     how full it is
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
    /// Print how full the store is.
    Stats,
    /// Read every record and report what is damaged; exit code 1 when anything is.
    Check,
    /// Make the index anew from the segments: for an index that was lost or damaged.
    Rebuild,
}

/// Runs the command.
pub(crate) async fn store(args: StoreArgs) -> anyhow::Result<ExitCode> {
    let config = Config::load(args.config.as_deref())?;
    let folder = args.data.unwrap_or(config.data).join("store");
    anyhow::ensure!(folder.is_dir(), "there is no store in {}", folder.display());
    let options = config.store;
    let progress = Progress::quiet_elsewhere();
    match args.command {
        StoreCommand::Stats => print_stats(&open(&folder, options, &progress).await?),
        StoreCommand::Rebuild => {
            let rebuild = tokio::task::spawn_blocking(move || SledStore::rebuild(&folder, options));
            let store = rebuild.await??;
            let task = progress.bytes("rebuilding the index from the segments", 0);
            store.indexed(|done, total| task.set_position(done, total)).await;
            task.finish("the index is rebuilt");
            store.flush().await?;
            print_stats(&store);
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

fn print_stats(store: &SledStore) {
    let stats = store.stats();
    println!("capacity  {}", format::size(stats.capacity_bytes));
    println!("used      {}", format::size(stats.used_bytes));
    println!("index     {}", format::size(stats.index_bytes));
    println!("segments  {}", stats.segments);
}
