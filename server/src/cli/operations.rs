//! `wardian operations`: what a server has to do, what it does, and why something waits.

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};
use prost::Message as _;
use wardian_proto::longrunning::{self, operation};
use wardian_proto::reapi;
use wardian_proto::reapi::execution_stage::Value as Stage;

use super::args::Remote;
use super::follow::{doing, until_interrupted, waiting};
use super::format;

/// Operations that are listed, at the most.
const LISTED_MAX: usize = 10_000;

/// What is listed without being told.
const NOT_ENDED: &str = "done=false";

/// How often `--watch` looks.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// Clears a terminal and goes to its top.
const CLEAR: &str = "\x1b[2J\x1b[H";

/// List what a server has to do: which operations wait, why, and what runs where.
#[derive(Args, Debug)]
#[command(after_help = "\
A filter is NAME=VALUE terms with AND between them, a value with spaces in double quotes: done=true or false,
stage=QUEUED, EXECUTING or COMPLETED, invocation=ID, action=HASH or HASH/SIZE, worker=NAME.

Examples:
  wardian operations             what waits and what runs
  wardian operations --all       also what has ended and can still be asked for
  wardian operations --watch     again every second
  wardian operations --filter 'stage=QUEUED AND invocation=ID'
                                 of one run of a build tool what waits
  wardian operations cancel NAME stop one; others that wait for the same action go on")]
pub(crate) struct OperationsArgs {
    #[command(subcommand)]
    command: Option<OperationsCommand>,
    /// Also list operations that have ended.
    #[arg(long, short)]
    all: bool,
    /// List what passes a filter instead, ended or not.
    #[arg(long, value_name = "FILTER", conflicts_with = "all")]
    filter: Option<String>,
    /// List again every second, until Ctrl-C.
    #[arg(long, short)]
    watch: bool,
    /// Print JSON, one object for each operation.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum OperationsCommand {
    /// Cancel an operation.
    Cancel {
        /// Its name, as the list has it.
        name: String,
    },
}

/// One operation as it is shown.
#[derive(Debug, PartialEq, serde::Serialize)]
struct Row {
    name: String,
    action: String,
    stage: &'static str,
    /// Since it was queued.
    #[serde(rename = "age_seconds", serialize_with = "seconds")]
    age: Option<Duration>,
    worker: String,
    /// Why it waits, what is done for it, or how it ended.
    detail: String,
}

fn seconds<S: serde::Serializer>(age: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    serde::Serialize::serialize(&age.map(|age| age.as_secs()), serializer)
}

/// Runs the command.
pub(crate) async fn operations(remote: &Remote, args: OperationsArgs) -> anyhow::Result<ExitCode> {
    let client = remote.connect().await?;
    if let Some(OperationsCommand::Cancel { name }) = &args.command {
        client.cancel_operation(name).await?;
        return Ok(ExitCode::SUCCESS);
    }
    let filter = match &args.filter {
        Some(filter) => filter,
        None if args.all => "",
        None => NOT_ENDED,
    };
    loop {
        let now = SystemTime::now();
        let operations = client.operations(filter, LISTED_MAX).await?;
        let rows: Vec<Row> = operations.iter().map(|operation| row(operation, now)).collect();
        let text = match (args.json, rows.is_empty()) {
            (true, _) => format::json_lines(&rows)?,
            (_, true) if args.filter.is_some() => "nothing passes the filter\n".to_owned(),
            _ => table(&rows),
        };
        let clear = args.watch && !args.json && std::io::stdout().is_terminal();
        super::print(format!("{}{text}", if clear { CLEAR } else { "" }))?;
        if !args.watch || until_interrupted(tokio::time::sleep(WATCH_INTERVAL)).await.is_none() {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

fn row(operation: &longrunning::Operation, now: SystemTime) -> Row {
    let metadata = operation.metadata.as_ref();
    let metadata = metadata.and_then(|any| reapi::ExecuteOperationMetadata::decode(&*any.value).ok());
    let metadata = metadata.unwrap_or_default();
    let mut executed = metadata.partial_execution_metadata.clone().unwrap_or_default();
    let (stage, detail) = match metadata.stage() {
        _ if operation.done => {
            let (detail, ended) = ended(operation);
            executed = ended.unwrap_or(executed);
            ("ended", detail)
        }
        Stage::Queued => ("waiting", waiting(&executed).map_or_else(String::new, describe_waiting)),
        Stage::Executing => ("running", doing(&executed).unwrap_or_default()),
        _ => ("starting", String::new()),
    };
    let queued = executed.queued_timestamp.and_then(|at| SystemTime::try_from(at).ok());
    Row {
        name: format::plain(&operation.name),
        action: metadata
            .action_digest
            .map_or_else(String::new, |d| format::plain(&format!("{}/{}", d.hash, d.size_bytes))),
        stage,
        age: queued.and_then(|at| now.duration_since(at).ok()),
        worker: format::plain(&executed.worker),
        detail: format::plain(&detail),
    }
}

fn describe_waiting(waiting: wardian_proto::wardian::Waiting) -> String {
    let mut text = waiting.reason;
    for attempt in waiting.attempts {
        let _ = write!(text, "; {} {}", attempt.worker, attempt.reason);
    }
    text
}

/// How an operation ended, and what is known of its run.
fn ended(operation: &longrunning::Operation) -> (String, Option<reapi::ExecutedActionMetadata>) {
    let response = match &operation.result {
        Some(operation::Result::Response(any)) => reapi::ExecuteResponse::decode(&*any.value).ok(),
        Some(operation::Result::Error(error)) => return (error.message.clone(), None),
        None => None,
    };
    let Some(response) = response else { return ("without an answer".into(), None) };
    let detail = match (&response.status, &response.result) {
        (Some(status), _) if status.code != 0 => status.message.clone(),
        (_, Some(result)) => format!("exit code {}", result.exit_code),
        _ => String::new(),
    };
    (detail, response.result.and_then(|result| result.execution_metadata))
}

/// The rows in columns as wide as they must be; the last is as long as it is.
fn table(rows: &[Row]) -> String {
    if rows.is_empty() {
        return "nothing waits and nothing runs\n".to_owned();
    }
    let age = |row: &Row| row.age.map_or_else(String::new, age);
    let name = rows.iter().map(|row| row.name.len()).max().unwrap_or(0);
    let worker = rows.iter().map(|row| row.worker.len()).max().unwrap_or(0).max("worker".len());
    let mut text =
        format!("{:name$}  {:8}  {:>7}  {:worker$}  {}\n", "operation", "stage", "age", "worker", "");
    for row in rows {
        let line = format!(
            "{:name$}  {:8}  {:>7}  {:worker$}  {}",
            row.name,
            row.stage,
            age(row),
            row.worker,
            row.detail
        );
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

/// An age in whole seconds: nobody waits for less.
fn age(age: Duration) -> String {
    match age.as_secs() {
        seconds @ 0..100 => format!("{seconds} s"),
        _ => format::duration(age),
    }
}

#[cfg(test)]
mod tests {
    use wardian_proto::{pack_any, wardian};

    use super::*;

    fn queued(reason: &str) -> longrunning::Operation {
        let waiting = wardian::Waiting {
            reason: reason.into(),
            attempts: vec![wardian::Attempt { worker: "w1".into(), reason: "was lost".into() }],
            ..Default::default()
        };
        let partial = reapi::ExecutedActionMetadata {
            queued_timestamp: Some(prost_types::Timestamp { seconds: 100, nanos: 0 }),
            auxiliary_metadata: vec![pack_any("wardian.v1.Waiting", &waiting)],
            ..Default::default()
        };
        let metadata = reapi::ExecuteOperationMetadata {
            stage: Stage::Queued.into(),
            partial_execution_metadata: Some(partial),
            ..Default::default()
        };
        longrunning::Operation {
            name: "operations/x".into(),
            metadata: Some(pack_any("build.bazel.remote.execution.v2.ExecuteOperationMetadata", &metadata)),
            ..Default::default()
        }
    }

    #[test]
    fn what_waits_says_why_and_since_when() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(141);
        let row = row(&queued("all slots are taken\x1b[2J"), now);
        assert_eq!((row.stage, row.age), ("waiting", Some(Duration::from_secs(41))));
        assert_eq!(row.detail, r"all slots are taken\u{1b}[2J; w1 was lost");
        let text = table(&[row]);
        assert!(text.contains("operations/x  waiting") && text.contains("   41 s"), "{text}");
    }

    #[test]
    fn what_a_server_should_not_say_is_shown_all_the_same() {
        let row = row(&longrunning::Operation { done: true, ..Default::default() }, SystemTime::now());
        assert_eq!((row.stage, row.detail.as_str()), ("ended", "without an answer"));
    }
}
