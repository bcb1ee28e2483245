//! `wardian workers`: who runs actions for a server, and what an operator tells them.

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};
use wardian_proto::wardian::WorkerState;
use wardian_proto::wardian::set_worker_request::Change;

use super::args::Remote;
use super::follow::until_interrupted;
use super::format;

/// How often `--watch` looks.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// Clears a terminal and goes to its top.
const CLEAR: &str = "\x1b[2J\x1b[H";

/// List the workers of a server, and tell them what to do.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  wardian workers                who there is, what each runs and offers
  wardian workers --watch        again every second
  wardian workers pause big      gives it nothing more; what it runs goes on
  wardian workers resume big     gives it something again
  wardian workers drain big      gives it nothing more, and ends its process when it has ended what it runs

pause, resume and drain are for operators: callers on the server's own machine, or with a token of theirs. A worker that was paused stays so when it comes back, until the server is started anew; what only it can serve waits.")]
pub(crate) struct WorkersArgs {
    #[command(subcommand)]
    command: Option<WorkersCommand>,
    /// List again every second, until Ctrl-C.
    #[arg(long, short)]
    watch: bool,
    /// Print JSON, one object for each worker.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum WorkersCommand {
    /// Give a worker nothing more; what it runs goes on.
    Pause {
        /// Its name, as the list has it.
        name: String,
    },
    /// Give a worker something again.
    Resume {
        /// Its name, as the list has it.
        name: String,
    },
    /// Give a worker nothing more, and end it when it has ended what it runs.
    Drain {
        /// Its name, as the list has it.
        name: String,
    },
}

/// One worker as it is shown.
#[derive(Debug, PartialEq, serde::Serialize)]
struct Row {
    name: String,
    state: &'static str,
    /// Since it connected or was heard of last.
    #[serde(rename = "since_seconds")]
    since: Option<u64>,
    running: u32,
    /// Given to it and not begun.
    ahead: u32,
    slots: u32,
    memory_used_bytes: u64,
    memory_bytes: Option<u64>,
    address: String,
    version: String,
    properties: Vec<String>,
}

/// Runs the command.
pub(crate) async fn workers(remote: &Remote, args: WorkersArgs) -> anyhow::Result<ExitCode> {
    let client = remote.connect().await?;
    let told = match &args.command {
        Some(WorkersCommand::Pause { name }) => Some((name, Change::Pause)),
        Some(WorkersCommand::Resume { name }) => Some((name, Change::Resume)),
        Some(WorkersCommand::Drain { name }) => Some((name, Change::Drain)),
        None => None,
    };
    if let Some((name, change)) = told {
        client.set_worker(name, change).await?;
        return Ok(ExitCode::SUCCESS);
    }
    loop {
        let now = SystemTime::now();
        let rows: Vec<Row> = client.workers().await?.iter().map(|worker| row(worker, now)).collect();
        let text = if args.json { format::json_lines(&rows)? } else { table(&rows) };
        let clear = args.watch && !args.json && std::io::stdout().is_terminal();
        super::print(format!("{}{text}", if clear { CLEAR } else { "" }))?;
        if !args.watch || until_interrupted(tokio::time::sleep(WATCH_INTERVAL)).await.is_none() {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

fn row(worker: &WorkerState, now: SystemTime) -> Row {
    let offer = worker.offer.clone().unwrap_or_default();
    let state = match worker {
        WorkerState { connected: false, .. } => "not heard of",
        _ if offer.leaving => "leaving",
        WorkerState { paused: true, .. } => "paused",
        WorkerState { inside: true, .. } => "in the server",
        _ => "connected",
    };
    let since = worker.since.and_then(|at| SystemTime::try_from(at).ok());
    Row {
        name: format::plain(&offer.name),
        state,
        since: since.and_then(|at| now.duration_since(at).ok()).map(|age| age.as_secs()),
        running: worker.running,
        ahead: worker.ahead,
        slots: offer.slots,
        memory_used_bytes: worker.memory_used_bytes,
        memory_bytes: offer.memory_bytes,
        address: format::plain(&worker.address),
        version: format::plain(&offer.version),
        properties: offer
            .properties
            .iter()
            .map(|p| format::plain(&format!("{}={}", p.name, p.value)))
            .collect(),
    }
}

/// The rows in columns as wide as they must be; the last is as long as it is.
fn table(rows: &[Row]) -> String {
    if rows.is_empty() {
        return "no worker: start one with `wardian worker --server URL`\n".to_owned();
    }
    let name = rows.iter().map(|row| row.name.len()).max().unwrap_or(0).max("worker".len());
    let address = rows.iter().map(|row| row.address.len()).max().unwrap_or(0).max("address".len());
    let mut text = format!(
        "{:name$}  {:13}  {:>7}  {:>7}  {:>17}  {:address$}  {}\n",
        "worker", "state", "since", "running", "memory", "address", "offers"
    );
    for row in rows {
        let since = row.since.map_or_else(String::new, |seconds| match seconds {
            0..100 => format!("{seconds} s"),
            _ => format::duration(Duration::from_secs(seconds)),
        });
        let memory = row.memory_bytes.map_or_else(String::new, |all| {
            format!("{:.1} of {:.1} GB", row.memory_used_bytes as f64 / 1e9, all as f64 / 1e9)
        });
        let ahead = if row.ahead > 0 { format!("+{}", row.ahead) } else { String::new() };
        let running = format!("{}/{}{ahead}", row.running, row.slots);
        let line = format!(
            "{:name$}  {:13}  {since:>7}  {running:>7}  {memory:>17}  {:address$}  {}",
            row.name,
            row.state,
            row.address,
            row.properties.join(" ")
        );
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use wardian_proto::wardian::WorkerOffer;

    use super::*;

    #[test]
    fn a_worker_is_one_line_and_says_what_a_terminal_can_bear() {
        let offer = WorkerOffer {
            name: "big\x1b[2J".into(),
            slots: 4,
            memory_bytes: Some(8_000_000_000),
            ..Default::default()
        };
        let state = WorkerState {
            offer: Some(offer),
            running: 3,
            memory_used_bytes: 2_000_000_000,
            connected: true,
            since: Some(prost_types::Timestamp { seconds: 100, nanos: 0 }),
            ..Default::default()
        };
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(107);
        let row = row(&state, now);
        assert_eq!((row.name.as_str(), row.state, row.since), (r"big\u{1b}[2J", "connected", Some(7)));
        let text = table(&[row]);
        assert!(text.contains("7 s      3/4      2.0 of 8.0 GB"), "{text}");
    }

    #[test]
    fn nobody_is_said_in_words() {
        assert!(table(&[]).contains("wardian worker"));
    }
}
