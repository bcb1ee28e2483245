//! `wardian action`: what an action was made of and what came of it.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use prost::Message;
use serde_json::{Value, json};
use wardian_proto::{Digest, reapi};
use wardian_store::BlobStore as _;
use wardian_store::tree::Closure;

use super::args::Remote;
use super::cas::whole_tree;
use super::format::{self, Timings};
use super::tree_view::{TreeView, ViewArgs, ViewLimits};
use super::usage;
use crate::client::{Client, DIGEST_FUNCTION};

/// Largest Action or Command that is read.
const MESSAGE_BYTES_MAX: u64 = 16 << 20;

#[derive(Args, Debug)]
#[command(about = "Look at an action, its inputs and its result")]
pub(crate) struct ActionArgs {
    #[command(subcommand)]
    command: ActionCommand,
}

#[derive(Subcommand, Debug)]
enum ActionCommand {
    /// Print an action's command, platform, input tree and cached result.
    Show {
        /// Digest of the Action, as `wardian run --json` and build tools print it.
        #[arg(value_name = "HASH/SIZE")]
        digest: Digest,
        #[command(flatten)]
        view: ViewArgs,
    },
}

/// Runs the command.
pub(crate) async fn action(remote: &Remote, args: ActionArgs) -> anyhow::Result<ExitCode> {
    let ActionCommand::Show { digest, view } = args.command;
    let client = remote.connect().await?;
    let shown = Shown::read(&client, digest).await?;
    view.print(|limits| shown.json(limits), |limits| shown.text(limits))?;
    Ok(ExitCode::SUCCESS)
}

/// Everything that the server has about an action.
struct Shown {
    digest: Digest,
    action: reapi::Action,
    command: reapi::Command,
    input_root: Digest,
    /// Why there is no tree is said instead.
    tree: Result<Closure, String>,
    result: Option<reapi::ActionResult>,
}

impl Shown {
    async fn read(client: &Client, digest: Digest) -> anyhow::Result<Self> {
        let action: reapi::Action = message(client, digest, "Action").await?;
        let parse = |wire: Option<&reapi::Digest>| Digest::from_wire(DIGEST_FUNCTION, wire);
        let command_digest =
            parse(action.command_digest.as_ref()).with_context(|| format!("{digest} is no Action"))?;
        let input_root =
            parse(action.input_root_digest.as_ref()).with_context(|| format!("{digest} is no Action"))?;
        let command = message(client, command_digest, "Command").await?;
        let tree = whole_tree(client, input_root).await.map_err(|error| format!("{error:#}"));
        let result = client.action_result(digest).await?;
        Ok(Self { digest, action, command, input_root, tree, result })
    }

    fn text(&self, limits: ViewLimits) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        writeln!(text, "Action       {}", self.digest)?;
        for (name, value) in self.settings() {
            writeln!(text, "  {name:<11}{}", format::plain(&value))?;
        }
        let arguments: Vec<_> = self.command.arguments.iter().map(|a| format::shell_quoted(a)).collect();
        writeln!(text, "\nCommand\n  {}", arguments.join(" "))?;
        for variable in &self.command.environment_variables {
            writeln!(
                text,
                "  env  {}={}",
                format::plain(&variable.name),
                format::shell_quoted(&variable.value)
            )?;
        }
        for output in self.outputs() {
            writeln!(text, "  out  {}", format::plain(output))?;
        }
        writeln!(text, "\nInput root   {}", self.input_root)?;
        match &self.tree {
            Err(why) => writeln!(text, "  {}", format::plain(why))?,
            Ok(tree) => {
                let mut view = TreeView::new(tree, limits);
                writeln!(text, "  {}", view.summary(self.input_root))?;
                for line in view.lines(self.input_root, "  ") {
                    writeln!(text, "{line}")?;
                }
            }
        }
        match &self.result {
            None => writeln!(text, "\nResult       none is cached")?,
            Some(result) => write_result(&mut text, result)?,
        }
        Ok(text)
    }

    /// What is said about the action beside its command.
    fn settings(&self) -> Vec<(&'static str, String)> {
        let mut settings: Vec<(&'static str, String)> = Vec::new();
        for property in self.platform() {
            settings.push(("platform", format!("{}={}", property.name, property.value)));
        }
        if let Some(timeout) = self.action.timeout {
            let timeout = std::time::Duration::try_from(timeout).map(format::duration);
            settings.push(("timeout", timeout.unwrap_or_else(|_| "out of range".to_owned())));
        }
        if self.action.do_not_cache {
            settings.push(("cache", "off (do_not_cache)".to_owned()));
        }
        if !self.action.salt.is_empty() {
            settings.push(("salt", format!("{} bytes", self.action.salt.len())));
        }
        if !self.command.working_directory.is_empty() {
            settings.push(("directory", self.command.working_directory.clone()));
        }
        settings
    }

    #[allow(deprecated)]
    fn platform(&self) -> &[reapi::platform::Property] {
        let platform = self.action.platform.as_ref().or(self.command.platform.as_ref());
        platform.map_or(&[], |platform| &platform.properties)
    }

    #[allow(deprecated)]
    fn outputs(&self) -> impl Iterator<Item = &String> {
        let command = &self.command;
        command.output_paths.iter().chain(&command.output_files).chain(&command.output_directories)
    }

    fn json(&self, limits: ViewLimits) -> Value {
        let tree = match &self.tree {
            Ok(tree) => TreeView::new(tree, limits).json(self.input_root),
            Err(why) => json!({"root": self.input_root.to_string(), "error": why}),
        };
        let environment = self.command.environment_variables.iter();
        let environment: Vec<_> = environment.map(|v| json!({"name": v.name, "value": v.value})).collect();
        let platform = self.platform().iter();
        let platform: Vec<_> = platform.map(|p| json!({"name": p.name, "value": p.value})).collect();
        let timeout = self.action.timeout.and_then(|t| std::time::Duration::try_from(t).ok());
        json!({
            "action_digest": self.digest.to_string(),
            "arguments": self.command.arguments,
            "environment": environment,
            "working_directory": self.command.working_directory,
            "outputs": self.outputs().collect::<Vec<_>>(),
            "platform": platform,
            "timeout_ms": timeout.map(|timeout| timeout.as_secs_f64() * 1e3),
            "do_not_cache": self.action.do_not_cache,
            "input_root": tree,
            "result": self.result.as_ref().map(result_json),
        })
    }
}

pub(super) async fn message<M: Message + Default>(
    client: &Client,
    digest: Digest,
    kind: &str,
) -> anyhow::Result<M> {
    let bytes =
        client.store().get(&digest, MESSAGE_BYTES_MAX).await.with_context(|| format!("{kind} {digest}"))?;
    M::decode(bytes).with_context(|| format!("blob {digest} is no {kind}"))
}

/// The outputs of a result: path, kind, and digest or target.
fn results(result: &reapi::ActionResult) -> Vec<(&str, &'static str, String)> {
    let digest = |wire: &Option<reapi::Digest>| {
        wire.as_ref().map_or_else(String::new, |d| format!("{}/{}", d.hash, d.size_bytes))
    };
    let files = result.output_files.iter().map(|f| (f.path.as_str(), "file", digest(&f.digest)));
    let directories = result.output_directories.iter().map(|d| {
        let wire = if d.tree_digest.is_some() { &d.tree_digest } else { &d.root_directory_digest };
        (d.path.as_str(), "directory", digest(wire))
    });
    let symlinks = result.output_symlinks.iter().map(|s| (s.path.as_str(), "symlink", s.target.clone()));
    let mut all: Vec<_> = files.chain(directories).chain(symlinks).collect();
    all.sort();
    all
}

/// Size of what was printed: inline, or in the CAS.
fn logged(raw: &[u8], digest: Option<&reapi::Digest>) -> u64 {
    digest.map_or(raw.len() as u64, |digest| digest.size_bytes.max(0).unsigned_abs())
}

fn write_result(text: &mut String, result: &reapi::ActionResult) -> std::fmt::Result {
    writeln!(text, "\nResult       exit code {}", result.exit_code)?;
    for (path, kind, what) in results(result) {
        writeln!(text, "  {kind:<9}  {}  {}", format::plain(path), format::plain(&what))?;
    }
    let stdout = format::size(logged(&result.stdout_raw, result.stdout_digest.as_ref()));
    let stderr = format::size(logged(&result.stderr_raw, result.stderr_digest.as_ref()));
    writeln!(text, "  stdout {stdout}, stderr {stderr}")?;
    let Some(metadata) = &result.execution_metadata else { return Ok(()) };
    writeln!(text, "  worker {}", format::plain(&metadata.worker))?;
    if let Some(usage) = usage::of(metadata) {
        usage::write(text, &usage)?;
    }
    if let Some(usage) = usage::native_of(metadata) {
        usage::write_native(text, &usage)?;
    }
    if let Some(audit) = usage::audit_of(metadata) {
        usage::write_audit(text, &audit)?;
    }
    let timings = Timings::of(metadata).named().into_iter();
    let timings: Vec<_> = timings.map(|(name, time)| format!("{name} {}", format::duration(time))).collect();
    if timings.is_empty() { Ok(()) } else { writeln!(text, "  {}", timings.join(", ")) }
}

fn result_json(result: &reapi::ActionResult) -> Value {
    let metadata = result.execution_metadata.clone().unwrap_or_default();
    let outputs = results(result).into_iter();
    let outputs: Vec<_> = outputs
        .map(|(path, kind, what)| match kind {
            "symlink" => json!({"path": path, "kind": kind, "target": what}),
            _ => json!({"path": path, "kind": kind, "digest": what}),
        })
        .collect();
    json!({
        "exit_code": result.exit_code,
        "outputs": outputs,
        "stdout_bytes": logged(&result.stdout_raw, result.stdout_digest.as_ref()),
        "stderr_bytes": logged(&result.stderr_raw, result.stderr_digest.as_ref()),
        "worker": metadata.worker,
        "timings": Timings::of(&metadata),
        "wasm": usage::of(&metadata).as_ref().map(usage::json),
        "native": usage::native_of(&metadata).as_ref().map(usage::native_json),
        "wasm_audit": usage::audit_of(&metadata).as_ref().map(usage::audit_json),
    })
}
