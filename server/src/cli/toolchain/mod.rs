//! `wardian toolchain`: compilers and other tools by name.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use wardian_proto::InstanceName;
use wardian_toolchains::{Manifest, Toolchain, builtin, builtin_names, is_version_of};

use super::args::Remote;
use super::follow::until_interrupted;
use super::format;
use super::progress::Progress;
use super::run::EXIT_INTERRUPTED;
use crate::app::Server;
use crate::client::Client;
use crate::config::Config;

mod add;
mod build;
mod check;
mod smoke;

const ABOUT: &str = "\
Toolchains by name: compilers and other tools that were compiled to WebAssembly, with their files.

A manifest says where a toolchain comes from, by exact version and hash, and what its programs are called. `add` fetches \
it with the ordinary package client (your mirror settings apply), stores it on the server and registers it. From then \
on an action with the platform property toolchain=NAME runs its tools by their names, and the same manifest gives \
the same bytes on every machine.";

const EXAMPLES: &str = "\
Examples:
  wardian toolchain search              what this program has manifests for
  wardian toolchain add clang           fetch, check, store, register, compile, try
  wardian toolchain add ./my-tool.toml  a manifest of your own
  wardian run --toolchain clang -- clang -c hello.c -o hello.o";

#[derive(Args, Debug)]
#[command(about = "Add, list and check toolchains", long_about = ABOUT, after_long_help = EXAMPLES)]
pub(crate) struct ToolchainArgs {
    /// Work on this data folder itself, while no server runs on it.
    #[arg(long, value_name = "DIR", global = true)]
    data: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// List the manifests inside of this program.
    Search {
        /// Only those whose name or description holds this.
        #[arg(default_value = "", hide_default_value = true)]
        word: String,
    },
    /// Fetch a toolchain, store and register it, and try it.
    Add(add::AddArgs),
    /// List the registered toolchains.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show a registered toolchain: its tools and what they are given.
    Show {
        /// NAME or NAME@VERSION.
        name: String,
    },
    /// Read every blob of a registered toolchain, and run its smoke test.
    Verify {
        /// NAME, NAME@VERSION, or the path of a manifest.
        name: String,
    },
    /// Have its modules compiled, at each tier of machine code.
    Warm {
        /// NAME or NAME@VERSION.
        name: String,
    },
    /// Print the digest of its tree, for any client to put into an input root.
    Export {
        /// NAME or NAME@VERSION.
        name: String,
    },
    /// Forget a registered toolchain.
    Remove {
        /// NAME@VERSION; NAME alone where only one version is registered.
        name: String,
    },
}

/// Runs the command.
pub(crate) async fn toolchain(remote: &Remote, args: ToolchainArgs) -> anyhow::Result<ExitCode> {
    if let Command::Search { word } = &args.command {
        return search(word);
    }
    let Some(data) = &args.data else {
        return until_stopped(work(&remote.connect().await?, args.command)).await;
    };
    let config = Config { listen: ([127, 0, 0, 1], 0).into(), data: data.clone(), ..Config::default() };
    let server = Server::start(config).await?;
    let client = Client::connect(&server.address().to_string().parse()?, InstanceName::default()).await?;
    let worked = until_stopped(work(&client, args.command)).await;
    drop(client);
    server.shutdown().await?;
    worked
}

/// Gives the work up when somebody wants it to end. Package clients and programs that build are in process groups of
/// their own, which a terminal does not reach: they are killed when the work is dropped.
async fn until_stopped(work: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    let stopped = async {
        #[cfg(unix)]
        if let Ok(mut terminated) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
        {
            terminated.recv().await;
            return;
        }
        std::future::pending().await
    };
    let worked = tokio::select! {
        worked = until_interrupted(work) => worked,
        () = stopped => None,
    };
    worked.unwrap_or_else(|| {
        eprintln!("interrupted");
        Ok(ExitCode::from(EXIT_INTERRUPTED))
    })
}

async fn work(client: &Client, command: Command) -> anyhow::Result<ExitCode> {
    let progress = Progress::lines_elsewhere();
    match command {
        Command::Search { .. } => unreachable!("needs no server"),
        Command::Add(args) => add::add(client, &args, &progress).await?,
        Command::List { json } => list(&client.toolchains().await?, json)?,
        Command::Show { name } => super::print(show(&registered(client, &name).await?))?,
        Command::Verify { name } => {
            let manifest = if is_path(&name) { Some(Given::read(&name)?.manifest) } else { None };
            let label = manifest.as_ref().map_or(name, Manifest::label);
            let toolchain = registered(client, &label).await?;
            let manifest = manifest.or_else(|| builtin_of(&toolchain));
            check::verify(client, &toolchain, manifest.as_ref(), &progress).await?;
        }
        Command::Warm { name } => smoke::warm(client, &registered(client, &name).await?, &progress).await?,
        Command::Export { name } => {
            super::print(format!("{}\n", registered(client, &name).await?.tree))?;
        }
        Command::Remove { name } => {
            let toolchain = registered(client, &name).await?;
            let named =
                client.toolchains().await?.iter().filter(|other| other.name == toolchain.name).count();
            if named > 1 && name != toolchain.label() {
                bail!("{named} versions of {} are registered; write NAME@VERSION", toolchain.name);
            }
            client.remove_toolchain(&toolchain.name, &toolchain.version).await?;
            super::print(format!("removed {}\n", toolchain.label()))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The toolchain that a name means on the server.
pub(super) async fn registered(client: &Client, name: &str) -> anyhow::Result<Toolchain> {
    let found = client.toolchain(name).await?;
    found.with_context(|| {
        format!("toolchain {name} is not registered; `wardian toolchain add {name}` does that")
    })
}

/// A manifest, and the folder beside which its own folders are.
struct Given {
    manifest: Manifest,
    beside: Option<PathBuf>,
}

impl Given {
    /// Reads a manifest of the user's, or one inside of this program.
    fn read(name: &str) -> anyhow::Result<Self> {
        if !is_path(name) {
            let (plain, version) = name.split_once('@').map_or((name, None), |(n, v)| (n, Some(v)));
            let manifest = builtin(plain).with_context(|| {
                let known: Vec<&str> = builtin_names().collect();
                format!("there is no manifest of {plain} in this program; there are {}", known.join(", "))
            })?;
            if let Some(version) = version.filter(|version| !is_version_of(&manifest, version)) {
                bail!("this program has {}, not version {version}", manifest.label());
            }
            return Ok(Self { manifest, beside: None });
        }
        let path = Path::new(name);
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?;
        let manifest = Manifest::parse(&text).with_context(|| name.to_owned())?;
        let beside = path.parent().map(Path::to_owned);
        Ok(Self { manifest, beside })
    }
}

fn is_path(name: &str) -> bool {
    name.contains('/') || name.ends_with(".toml")
}

fn builtin_of(toolchain: &Toolchain) -> Option<Manifest> {
    builtin(&toolchain.name).filter(|manifest| manifest.version == toolchain.version)
}

fn search(word: &str) -> anyhow::Result<ExitCode> {
    let word = word.to_lowercase();
    let mut text = String::new();
    for manifest in builtin_names().filter_map(builtin) {
        let line = format!("{:<12} {:<22} {}\n", manifest.name, manifest.version, manifest.description);
        if line.to_lowercase().contains(&word) {
            text += &line;
        }
    }
    if text.is_empty() {
        eprintln!("no manifest in this program holds {word:?}");
    }
    super::print(text)?;
    Ok(ExitCode::SUCCESS)
}

fn list(toolchains: &[Toolchain], json: bool) -> anyhow::Result<()> {
    if json {
        let value = |toolchain: &Toolchain| {
            serde_json::json!({
                "name": toolchain.name,
                "version": toolchain.version,
                "tree": toolchain.tree.to_string(),
                "mount": toolchain.mount_path(),
                "tools": toolchain.tools.iter().map(|tool| &tool.name).collect::<Vec<_>>(),
            })
        };
        return super::print_json(&toolchains.iter().map(value).collect::<Vec<_>>());
    }
    if toolchains.is_empty() {
        eprintln!("no toolchain is registered; `wardian toolchain search` lists what can be added");
    }
    let mut text = String::new();
    for toolchain in toolchains {
        let tools: Vec<&str> = toolchain.tools.iter().map(|tool| tool.name.as_str()).collect();
        text +=
            &format!("{:<36} {}  {}\n", toolchain.label(), format::short(&toolchain.tree), tools.join(" "));
    }
    super::print(text)
}

fn show(toolchain: &Toolchain) -> String {
    let plain = |text: &str| format::plain(text);
    let mut text = format!(
        "{}\n  {}\n  licence  {}\n  source   {}\n  tree     {}\n  mount    {}\n",
        toolchain.label(),
        plain(&toolchain.description),
        plain(&toolchain.license),
        plain(&toolchain.source),
        toolchain.tree,
        toolchain.mount_path()
    );
    for tool in &toolchain.tools {
        text += &format!("  tool     {}: {} {}\n", tool.name, tool.path, plain(&tool.arguments.join(" ")));
    }
    for (name, value) in &toolchain.environment {
        text += &format!("  variable {}={}\n", plain(name), plain(value));
    }
    for (name, value) in &toolchain.properties {
        text += &format!("  property {}={}\n", plain(name), plain(value));
    }
    for module in &toolchain.modules {
        text += &format!("  module   {module}\n");
    }
    text
}
