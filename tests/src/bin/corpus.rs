//! Runs the corpus; see tests/README.md.

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context as _, ensure};
use clap::Parser;
use wardian_proto::InstanceName;
use wardian_server::client::{Client, ServerUrl};
use wardian_tests::corpus::{Corpus, Load, TIERS, Verdict, measure};
use wardian_tests::{ServerProcess, faketime, wardian};

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
    /// Give the server another clock, such as +1000d (needs the Debian package faketime).
    #[arg(long, value_name = "OFFSET")]
    clock: Option<String>,
    /// Measure what the toolchains inside of the program cost instead; the data must be empty to begin with.
    #[arg(long)]
    measure: bool,
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
    ensure!(arguments.measure || !corpus.is_empty(), "there is no such case");
    let temporary = tempfile::tempdir()?;
    let folder = arguments.data.unwrap_or_else(|| temporary.path().to_owned());
    std::fs::create_dir_all(&folder)?;
    let ahead = clock(arguments.clock.as_deref())?;
    let ahead: Vec<_> = ahead.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let server = ServerProcess::start_among(&wardian(), &folder, SETTINGS, &ahead)?;
    let add = |toolchain: &str, options: &[&str]| {
        let mut add = Command::new(wardian());
        add.args(["toolchain", "add", toolchain]).args(options);
        add.env("WARDIAN_SERVER", server.address.to_string());
        let begun = Instant::now();
        ensure!(add.status()?.success(), "toolchain {toolchain} cannot be added");
        Ok(begun.elapsed())
    };
    if arguments.measure {
        let client = Client::connect(&server.address.to_string().parse()?, InstanceName::default()).await?;
        let wanted = |name: &str| arguments.filters.is_empty() || arguments.filters.iter().any(|f| f == name);
        let add = |name: &str| add(name, &["--no-warm", "--no-smoke"]);
        let compiled = folder.join("data/worker/compiled");
        measure(&client, wanted, add, &compiled, |line| println!("{line}")).await?;
        return Ok(ExitCode::SUCCESS);
    }
    for toolchain in corpus.toolchains() {
        add(&toolchain, &[])?;
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

/// The variables that give a process another clock.
fn clock(offset: Option<&str>) -> anyhow::Result<Vec<(&'static str, String)>> {
    let Some(offset) = offset else { return Ok(Vec::new()) };
    let library = faketime().context("--clock needs faketime, which this machine does not have")?;
    Ok(vec![
        ("LD_PRELOAD", library.display().to_string()),
        ("FAKETIME", offset.to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
    ])
}
