//! `wardian run`: one action, from a local directory to local outputs.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use wardian_proto::{Digest, RelPath, reapi};

use super::args::{Graft, Pair, Remote, duration, relative_path};
use super::follow::{follow, until_interrupted};
use super::progress::Progress;
use super::report::{Report, exit_code};
use crate::client::{
    ActionSpec, Client, ClientError, InputLimits, LocalTree, Outcome, OutputLimits, OutputWriter, Sent,
    download_outputs, logged_bytes, upload,
};

const ABOUT: &str = "\
Run a tool on the server and bring its outputs back.

The input directory is hashed and what the server lacks is sent. The tool sees this tree and nothing else; it \
is the first word after `--`: a path in the tree, or a name that the server knows. Standard output and error of \
the tool come out here, and its exit code is the exit code of this command. When the action could not be run \
at all, the exit code is 1 and standard error says why.

A result that the server has already is not computed again: equal inputs, command and platform give equal \
results.";

const EXAMPLES: &str = "\
Examples:
  Run a WASI module of this directory and bring back what it writes:
    wardian run --input . --output out/result.txt -- ./tool.wasm --fast data.csv

  Compile with a toolchain that the server knows (`wardian toolchain add clang` makes it so):
    wardian run --toolchain clang -- clang -O2 -c hello.c -o hello.o

  Put a tree that the server has already into the input tree (`wardian cas put DIR` prints its digest):
    wardian run --input . --graft tools=HASH/SIZE -- ./tools/tool.wasm

  For scripts:
    wardian run --input . --json --no-cache -- ./tool.wasm | jq .timings";

#[derive(Args, Debug)]
#[command(about = "Run a tool on the server and bring its outputs back", long_about = ABOUT, after_long_help = EXAMPLES)]
pub(crate) struct RunArgs {
    /// Directory that the tool sees; without it the tree is empty.
    #[arg(long, short, value_name = "DIR")]
    input: Option<PathBuf>,
    /// Use a toolchain that the server knows (`wardian toolchain list`): NAME or NAME@VERSION. The tool may then be
    /// named as it is in the toolchain. Without --input the directory is this one, without what .gitignore and
    /// .wardianignore name; without --output the output is what follows -o in the command. May be repeated.
    #[arg(long, short, value_name = "NAME")]
    toolchain: Vec<String>,
    /// Put a directory tree that the server has already at PATH in the input tree. May be repeated.
    #[arg(long, value_name = "PATH=HASH/SIZE")]
    graft: Vec<Graft>,
    /// File or directory to bring back, relative to the working directory. May be repeated.
    #[arg(long, short, value_name = "PATH", value_parser = relative_path)]
    output: Vec<RelPath>,
    /// Environment variable of the tool; nothing else is in its environment. May be repeated; the last wins.
    #[arg(long, short, value_name = "NAME=VALUE")]
    env: Vec<Pair>,
    /// Platform property, such as OSFamily=wasi. May be repeated.
    #[arg(long, short, value_name = "NAME=VALUE")]
    property: Vec<Pair>,
    /// How long the tool may run, such as 90s or 5m; the server's limit when absent.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    timeout: Option<Duration>,
    /// Directory of the input tree in which the tool starts.
    #[arg(long, value_name = "DIR", default_value = "", value_parser = relative_path, hide_default_value = true)]
    working_directory: RelPath,
    /// Local directory below which outputs are written.
    #[arg(long, value_name = "DIR", default_value = ".")]
    output_root: PathBuf,
    /// Run the tool even if the server has a result of this action.
    #[arg(long)]
    no_cache: bool,
    /// Print one JSON object on standard output instead of what the tool printed.
    #[arg(long)]
    json: bool,
    /// The tool and its arguments.
    #[arg(last = true, required = true, value_name = "TOOL")]
    command: Vec<String>,
}

/// How long the server may take to confirm that it stops an action.
const CANCEL_TIME_MAX: Duration = Duration::from_secs(5);

/// What a shell reports for a program that Ctrl-C ended.
pub(crate) const EXIT_INTERRUPTED: u8 = 130;

/// Runs the command.
pub(crate) async fn run(remote: &Remote, args: RunArgs) -> anyhow::Result<ExitCode> {
    let progress = Progress::quiet_elsewhere();
    let started = Instant::now();
    let client = remote.connect().await?;
    let (action, sent) = store_action(&client, &args, &progress).await?;

    let mut execution = client.execute(action, args.no_cache);
    let task = progress.spinner(&args.command[0]);
    let Some(outcome) = until_interrupted(follow(&mut execution, &args.command[0], &task)).await else {
        drop(task);
        let cancelled = tokio::time::timeout(CANCEL_TIME_MAX, execution.cancel()).await;
        let cancelled = cancelled.unwrap_or_else(|_| Err(ClientError::Answer("none came".to_owned())));
        cancelled.context("the action may still be running")?;
        eprintln!("cancelled");
        return Ok(ExitCode::from(EXIT_INTERRUPTED));
    };
    let outcome = outcome?;
    task.set_text("fetching outputs");
    let finished = until_interrupted(finish(&client, &args, &outcome)).await;
    drop(task);
    let Some(finished) = finished else { return Ok(ExitCode::from(EXIT_INTERRUPTED)) };
    let report = Report { action, sent, total: started.elapsed(), outcome: &outcome, finished: finished? };
    if args.json {
        super::print_json(&report.json())?
    } else {
        report.print()?
    }
    Ok(exit_code(&outcome))
}

impl RunArgs {
    fn spec(&self) -> ActionSpec {
        let pair = |pair: &Pair| (pair.name.clone(), pair.value.clone());
        let toolchains = self.toolchain.iter().map(|name| ("toolchain".to_owned(), name.clone()));
        ActionSpec {
            arguments: self.command.clone(),
            environment: self.env.iter().map(pair).collect(),
            platform: self.property.iter().map(pair).chain(toolchains).collect(),
            outputs: self.outputs(),
            working_directory: self.working_directory.clone(),
            timeout: self.timeout,
        }
    }

    fn outputs(&self) -> BTreeSet<RelPath> {
        if self.output.is_empty() && !self.toolchain.is_empty() {
            return named_outputs(&self.command);
        }
        self.output.iter().cloned().collect()
    }

    /// Hashes the input directory and puts the grafts on. Blocks.
    fn input_tree(&self) -> anyhow::Result<LocalTree> {
        let mut local = match &self.input {
            Some(directory) => LocalTree::walk(directory, InputLimits::default())?,
            None if !self.toolchain.is_empty() => {
                LocalTree::walk_unignored(".".as_ref(), InputLimits::default())?
            }
            None => LocalTree::default(),
        };
        for graft in &self.graft {
            let grafted = local.tree.graft(&graft.path, graft.root);
            grafted.with_context(|| format!("--graft {}={}", graft.path, graft.root))?;
        }
        Ok(local)
    }
}

/// What a command says that it writes: `-o PATH`, `-oPATH`, `--output=PATH`, `--outfile=PATH`. Paths that lead
/// elsewhere are left to the tool to complain about.
fn named_outputs(command: &[String]) -> BTreeSet<RelPath> {
    let mut named = BTreeSet::new();
    let mut add = |text: &str| named.extend(relative_path(text).ok().filter(|path| !path.is_root()));
    let mut arguments = command.iter().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "-o" || argument == "--output" {
            if let Some(path) = arguments.next() {
                add(path);
            }
        } else if let Some(path) =
            argument.strip_prefix("--output=").or_else(|| argument.strip_prefix("--outfile="))
        {
            add(path);
        } else if let Some(path) = argument.strip_prefix("-o").filter(|_| !argument.contains('=')) {
            add(path);
        }
    }
    named
}

/// Makes the action and stores everything that it needs. Returns its digest.
async fn store_action(
    client: &Client,
    args: &RunArgs,
    progress: &Progress,
) -> anyhow::Result<(Digest, Sent)> {
    let task = progress.spinner("hashing inputs");
    let local = tokio::task::block_in_place(|| args.input_tree())?;
    drop(task);
    let task = progress.bytes("sending inputs", local.bytes);
    let (root, mut blobs) = local.finish();
    let encoded = args.spec().encode(root);
    encoded.add_to(&mut blobs);
    let sent = upload(client.store(), &blobs, &|bytes| task.advance(bytes)).await?;
    Ok((encoded.digest, sent))
}

/// What was fetched once the action was over.
#[derive(Debug, Default)]
pub(crate) struct Finished {
    pub(crate) stdout: bytes::Bytes,
    pub(crate) stderr: bytes::Bytes,
    pub(crate) outputs: Vec<crate::client::DownloadedOutput>,
    /// Asked for, but not made.
    pub(crate) absent: Vec<RelPath>,
}

async fn finish(client: &Client, args: &RunArgs, outcome: &Outcome) -> anyhow::Result<Finished> {
    let Some(result) = &outcome.result else { return Ok(Finished::default()) };
    let store = client.store();
    let stdout = logged_bytes(store, &result.stdout_raw, result.stdout_digest.as_ref()).await;
    let stderr = logged_bytes(store, &result.stderr_raw, result.stderr_digest.as_ref()).await;
    let (stdout, stderr) = (stdout.context("standard output")?, stderr.context("standard error")?);
    let asked = args.outputs();
    let outputs = if has_outputs(result) {
        let root = args.output_root.clone();
        let writer = tokio::task::block_in_place(|| OutputWriter::open(&root))?;
        download_outputs(store, result, &asked, Arc::new(writer), &OutputLimits::default()).await?
    } else {
        Vec::new()
    };
    let made: BTreeSet<_> = outputs.iter().map(|output| &output.path).collect();
    let absent = asked.iter().filter(|path| !made.contains(path)).cloned().collect();
    Ok(Finished { stdout, stderr, outputs, absent })
}

#[allow(deprecated)]
fn has_outputs(result: &reapi::ActionResult) -> bool {
    !(result.output_files.is_empty()
        && result.output_directories.is_empty()
        && result.output_symlinks.is_empty()
        && result.output_file_symlinks.is_empty()
        && result.output_directory_symlinks.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(command: &str, expected: &[&str]) {
        let command: Vec<String> = command.split(' ').map(str::to_owned).collect();
        let named = named_outputs(&command);
        assert_eq!(named.iter().map(RelPath::as_str).collect::<Vec<_>>(), expected, "{command:?}");
    }

    #[test]
    fn outputs_are_read_off_the_command() {
        check("clang -c a.c -o out/a.o", &["out/a.o"]);
        check("clang -c a.c -oa.o", &["a.o"]);
        check("esbuild a.ts --bundle --outfile=./out/a.js", &["out/a.js"]);
        check("tool --output x --output=y", &["x", "y"]);
        check("tool -o", &[]);
        check("tool -o /etc/passwd -o ../x", &[]);
        check("-o x", &[]);
    }
}
