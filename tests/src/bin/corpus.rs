//! Runs the corpus; see tests/README.md.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::ensure;
use clap::Parser;
use wardian_proto::InstanceName;
use wardian_server::client::{Client, ServerUrl};
use wardian_tests::corpus::{Corpus, Load, TIERS, Verdict};
use wardian_tests::{ServerProcess, wardian};

/// What every case may be run at: also modules that cases make themselves.
const SETTINGS: &str = "[worker.compile]\nbaseline = \"all\"\n";

/// Run small real actions over real toolchains, and compare what comes of them with the digests that are written down.
#[derive(Parser, Debug)]
struct Arguments {
    /// Only cases with one of these in their name, and those that they take inputs from.
    filters: Vec<String>,
    /// Only at this tier: baseline, optimized or metered. May be repeated.
    #[arg(long, value_parser = TIERS)]
    tier: Vec<String>,
    /// How often each case is run at each tier.
    #[arg(long, default_value_t = 1)]
    repeat: usize,
    /// Keep the processors busy meanwhile.
    #[arg(long)]
    load: bool,
    /// Write the digests that come out into the cases, instead of comparing them.
    #[arg(long)]
    bless: bool,
    /// Folder for the server's data, so that modules are compiled once; without it, one that is gone afterwards.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Folder of the cases.
    #[arg(long, value_name = "DIR", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus"))]
    corpus: PathBuf,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let mut corpus = Corpus::read(&arguments.corpus)?;
    if !arguments.filters.is_empty() {
        corpus.keep(&arguments.filters);
    }
    ensure!(!corpus.is_empty(), "there is no such case");
    let temporary = tempfile::tempdir()?;
    let folder = arguments.data.unwrap_or_else(|| temporary.path().to_owned());
    std::fs::create_dir_all(&folder)?;
    let server = ServerProcess::start(&wardian(), &folder, SETTINGS)?;
    for toolchain in corpus.toolchains() {
        let mut add = Command::new(wardian());
        add.args(["toolchain", "add", &toolchain]).env("WARDIAN_SERVER", server.address.to_string());
        ensure!(add.status()?.success(), "toolchain {toolchain} cannot be added");
    }
    let url: ServerUrl = server.address.to_string().parse()?;
    let client = Client::connect(&url, InstanceName::default()).await?;
    if arguments.bless {
        for name in corpus.bless(&client).await? {
            println!("{name}: blessed");
        }
        return Ok(ExitCode::SUCCESS);
    }
    let _load = arguments.load.then(Load::start);
    let tiers =
        TIERS.iter().filter(|tier| arguments.tier.is_empty() || arguments.tier.iter().any(|t| t == *tier));
    let (mut runs, mut different) = (0, 0);
    for tier in tiers {
        let tell = |case: &str, verdict: Verdict| {
            runs += 1;
            different += usize::from(matches!(verdict, Verdict::Different(_)));
            println!("{case:40} {tier:10} {verdict}");
        };
        corpus.run(&client, tier, arguments.repeat, tell).await?;
    }
    println!("{} cases, {runs} verdicts, {different} different", corpus.len());
    Ok(if different == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
