//! Benchmarks: `cargo bench -p wardian-tests -- --help`.
//!
//! Servers run as processes of their own; a client in this process gives them all the same work, turn about, so
//! that whatever else the machine does meets each of them. Times are printed and never asserted on.

mod action_cache;
mod bench;
mod executor;
mod fleet;
mod large_blobs;
mod native;
mod peer;
mod prefetch;
mod raw;
mod shares;
mod small_blobs;
mod table;

use std::path::PathBuf;

use clap::Parser;

use bench::Bench;
use peer::{Peer, find_in_path};

/// Measures a server of this build, and other servers beside it.
#[derive(Parser)]
struct Args {
    /// Groups to run: small-blobs, large-blobs, action-cache, executor, fleet, native, shares, prefetch; without any all but the
    /// last two.
    groups: Vec<Group>,
    /// The program `buildbox-casd`, to measure beside ours; without it the one in PATH, if any.
    #[arg(long, value_name = "PATH", env = "WARDIAN_BENCH_CASD")]
    casd: Option<PathBuf>,
    /// How often each line is measured on each server; the table shows medians.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Measure only lines with this in their name; the others of their groups run once, to prepare for them.
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    /// Where the servers keep their data while they are measured; without it the system's temporary folder.
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// Cargo passes this to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Group {
    SmallBlobs,
    LargeBlobs,
    ActionCache,
    Executor,
    Fleet,
    Native,
    /// Takes a minute; only when it is asked for.
    Shares,
    /// The same.
    Prefetch,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let wanted = |group| args.groups.is_empty() || args.groups.contains(&group);
    if wanted(Group::Executor) {
        executor::run(&args.only).await?;
        println!("\n{}\n", table::machine(1));
    }
    if wanted(Group::Fleet) {
        fleet::run(&args.only).await?;
        println!("\n{}\n", table::machine(1));
    }
    if wanted(Group::Native) {
        native::run().await;
        println!("\n{}\n", table::machine(1));
    }
    if args.groups.contains(&Group::Shares) {
        shares::run().await?;
        println!("\n{}\n", table::machine(1));
    }
    if args.groups.contains(&Group::Prefetch) {
        prefetch::run(&args.only).await?;
        println!("\n{}\n", table::machine(1));
    }
    let apart = |group: &Group| {
        matches!(group, Group::Executor | Group::Fleet | Group::Native | Group::Shares | Group::Prefetch)
    };
    if !args.groups.is_empty() && args.groups.iter().all(apart) {
        return Ok(());
    }
    let parent = args.folder.unwrap_or_else(std::env::temp_dir);
    let mut peers = vec![Peer::wardian(&parent)?];
    match args.casd.or_else(|| find_in_path("buildbox-casd")) {
        Some(program) => peers.push(Peer::casd(&program, &parent).await?),
        None => eprintln!("buildbox-casd is not in PATH: only this server is measured (see --casd)"),
    }
    let mut bench = Bench::new(peers, args.rounds, args.only);
    bench.memory("resident when idle", 40)?;
    if wanted(Group::SmallBlobs) {
        small_blobs::run(&mut bench).await?;
    }
    if wanted(Group::LargeBlobs) {
        large_blobs::run(&mut bench).await?;
    }
    if wanted(Group::ActionCache) {
        action_cache::run(&mut bench).await?;
    }
    bench.memory("resident afterwards", 150)?;
    println!("{}\n\n{}", table::machine(args.rounds), bench.results);
    Ok(())
}
