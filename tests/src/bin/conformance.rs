//! Tries a server, requirement by requirement; see docs/conformance.md.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::ensure;
use clap::Parser;
use wardian_tests::conformance::{Check, Ownership, Report, Subject, Tried, areas, checks, page, try_check};

const EXAMPLES: &str = "\
Examples:
  conformance --server 127.0.0.1:8980                   everything that the server announces
  conformance --server build.example:443 --instance ci  another instance of it
  conformance --server 127.0.0.1:8980 --filter BS-4     one group of requirements
  conformance --list                                    what there is, without a server

A check is skipped when the server does not announce what it is about, and says so. Checks of Wardian's own choices,
where the API leaves a gap, run only against Wardian. Blobs that are written are new with every run, and are small;
nothing is deleted. Actions run /bin/sh and the usual small tools. The exit code is 0 when nothing failed, 1 when something did, 2 when nothing could be tried.";

/// Try a Remote Execution server, requirement by requirement, over gRPC alone.
#[derive(Parser, Debug)]
#[command(name = "conformance", after_help = EXAMPLES, arg_required_else_help = true)]
struct Arguments {
    /// The server: HOST:PORT, without TLS.
    #[arg(long, value_name = "HOST:PORT", required_unless_present_any = ["page", "list"])]
    server: Option<String>,
    /// The instance name.
    #[arg(long, default_value = "")]
    instance: String,
    /// A platform property that every action asks for, where the server runs none without. May be repeated.
    #[arg(long, value_name = "NAME=VALUE", value_parser = property)]
    platform: Vec<(String, String)>,
    /// Only checks whose name or requirement has this in it, whatever its case. May be repeated.
    #[arg(long, value_name = "X")]
    filter: Vec<String>,
    /// Print one JSON document instead of lines.
    #[arg(long)]
    json: bool,
    /// Print what failed and why, and the totals.
    #[arg(long, conflicts_with = "json")]
    quiet: bool,
    /// Hold the server to Wardian's own choices, whatever it is. By default it is asked for a service that only
    /// Wardian has.
    #[arg(long, conflicts_with = "foreign")]
    own: bool,
    /// Hold it to none of them.
    #[arg(long)]
    foreign: bool,
    /// How long one check may take.
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    timeout: u64,
    /// Print the checks and what they prove.
    #[arg(long)]
    list: bool,
    /// Print docs/conformance.md.
    #[arg(long)]
    page: bool,
}

fn property(text: &str) -> Result<(String, String), &'static str> {
    let (name, value) = text.split_once('=').ok_or("a property is NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn matches(check: &Check, filters: &[String]) -> bool {
    let lower = |filter: &String| filter.to_lowercase();
    let within = |filter: String| {
        check.name.contains(&filter) || check.ids.iter().any(|id| id.to_lowercase().contains(&filter))
    };
    filters.is_empty() || filters.iter().map(lower).any(within)
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Whether nothing failed.
async fn run(arguments: Arguments) -> anyhow::Result<bool> {
    if arguments.page {
        print!("{}", page::page());
        return Ok(true);
    }
    let chosen: Vec<Check> = checks().into_iter().filter(|check| matches(check, &arguments.filter)).collect();
    ensure!(!chosen.is_empty(), "no check has {} in it; --list shows them", arguments.filter.join(" or "));
    let Some(server) = arguments.server.as_ref().filter(|_| !arguments.list) else {
        list(&chosen);
        return Ok(true);
    };
    let ownership = match (arguments.own, arguments.foreign) {
        (true, _) => Ownership::Own,
        (_, true) => Ownership::Foreign,
        _ => Ownership::Ask,
    };
    let subject = Subject::connect(server, &arguments.instance, ownership).await?;
    let subject = subject.with_platform(arguments.platform);
    // A check that panics is a failure, and its text is part of the report.
    std::panic::set_hook(Box::new(|_| {}));
    let mut report = Report::default();
    for check in chosen {
        let begun = Instant::now();
        let outcome = try_check(&check, &subject, Duration::from_secs(arguments.timeout)).await;
        let tried = Tried { check, outcome, took: begun.elapsed() };
        if !arguments.json && (!arguments.quiet || tried.has_failed()) {
            println!("{}", tried.line());
        }
        report.0.push(tried);
    }
    if arguments.json {
        println!("{:#}", report.json());
    } else {
        let whose = if subject.is_own() { "Wardian" } else { "not Wardian: its own choices are its own" };
        println!("\n{server}, instance {:?} ({whose})\n{}", arguments.instance, report.summary());
    }
    Ok(report.is_clean())
}

/// The checks, with the words of what they prove.
fn list(checks: &[Check]) {
    let rows: Vec<_> = areas().iter().flat_map(|area| area.rows).collect();
    for check in checks {
        println!("{}", check.name);
        for row in rows.iter().filter(|row| check.ids.contains(&row.id)) {
            println!("    {} ({}): {}", row.id, row.level.word(), row.text);
        }
    }
}
