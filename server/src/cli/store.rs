//! `wardian store`: look after a store whose server is not running.

use std::path::PathBuf;
use std::process::ExitCode;

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
        StoreCommand::Stats => print_stats(&open(folder, options, SledStore::open).await?),
        StoreCommand::Rebuild => {
            let task = progress.spinner("rebuilding the index from the segments");
            let store = open(folder, options, SledStore::rebuild).await?;
            task.finish("the index is rebuilt");
            store.flush().await?;
            print_stats(&store);
        }
        StoreCommand::Check => {
            let store = open(folder, options, SledStore::open).await?;
            let task = progress.spinner("reading every record");
            let report = store.check().await?;
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

async fn open(
    folder: PathBuf,
    options: SledOptions,
    how: fn(&std::path::Path, SledOptions) -> Result<SledStore, wardian_store::StoreError>,
) -> anyhow::Result<SledStore> {
    Ok(tokio::task::spawn_blocking(move || how(&folder, options)).await??)
}

fn print_stats(store: &SledStore) {
    let stats = store.stats();
    println!("capacity  {}", format::size(stats.capacity_bytes));
    println!("used      {}", format::size(stats.used_bytes));
    println!("index     {}", format::size(stats.index_bytes));
    println!("segments  {}", stats.segments);
}
