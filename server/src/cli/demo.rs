//! `wardian demo`: everything at work on one machine, from an empty store to a program that ran.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use tempfile::TempDir;
use wardian_proto::InstanceName;
use wardian_toolchains::{Clients, Manifest, Package, fetch};

use super::follow::until_interrupted;
use super::progress::Progress;
use super::run::EXIT_INTERRUPTED;
use crate::app::Server;
use crate::client::Client;
use crate::config::Config;

mod job;
mod large;
mod small;
mod table;

const ABOUT: &str = "\
Show everything at work on this machine: compile, link and run a C program, in Wasm.

Starts a server inside this process, fetches clang compiled to WebAssembly (with npm, 27 MB, kept for the next \
time), stores it through the Remote Execution API, and then runs four actions: compile two C files, link them, \
run the result. Then it does so again with the results cached, and once more without the cache, and compares \
all outputs.

The first action also compiles clang itself to machine code, which takes ten seconds or so, and better code follows \
in the background; with --data DIR this is needed only once. Without npm or network the demo is a small one.";

const EXAMPLES: &str = "\
Examples:
  wardian demo                     keeps nothing but the downloaded package
  wardian demo --data ./demo-data  keeps the store; the second time is fast
  wardian demo --small             needs no toolchain and no network";

#[derive(Args, Debug)]
#[command(about = "Compile, link and run a C program on this machine, all in Wasm", long_about = ABOUT, after_long_help = EXAMPLES)]
pub(crate) struct DemoArgs {
    /// Folder for the server's data; a temporary one when absent.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Keep the temporary folder and print where it is.
    #[arg(long, conflicts_with = "data")]
    keep: bool,
    /// Never run npm; use the toolchain only if its package was downloaded before.
    #[arg(long)]
    offline: bool,
    /// Show the small demo: a module of a few hundred bytes instead of a compiler.
    #[arg(long)]
    small: bool,
}

/// Runs the command.
pub(crate) async fn demo(args: DemoArgs) -> anyhow::Result<ExitCode> {
    match until_interrupted(show(args)).await {
        Some(shown) => shown.map(|()| ExitCode::SUCCESS),
        None => {
            eprintln!("interrupted");
            Ok(ExitCode::from(EXIT_INTERRUPTED))
        }
    }
}

async fn show(args: DemoArgs) -> anyhow::Result<()> {
    let progress = Progress::lines_elsewhere();
    let package = if args.small { None } else { toolchain(args.offline, &progress).await };
    let folder = Folder::open(&args)?;

    let task = progress.spinner("starting a server");
    let config =
        Config { listen: ([127, 0, 0, 1], 0).into(), data: folder.path().to_owned(), ..Config::default() };
    let server = Server::start(config).await.context("cannot start the server")?;
    let url = format!("grpc://{}", server.address());
    let client = Client::connect(&url.parse()?, InstanceName::default()).await?;
    task.finish(&format!("server at {url}, data in {}", folder.path().display()));

    let next = match &package {
        Some(package) => large::show(&client, package, &progress).await?,
        None => small::show(&client, &progress).await?,
    };
    drop(client);
    server.shutdown().await?;
    if args.small || package.is_some() {
        progress.say(&next.text(&folder));
    } else {
        progress.say(SMALL_ONLY);
    }
    folder.close()
}

const SMALL_ONLY: &str = "\
This was the small demo: the compiler could not be fetched (the reason is above). Everything else was real.
Once npm and the network are there, `wardian demo` compiles, links and runs a C program.";

/// Fetches the compiler's package, or says why it cannot be had.
async fn toolchain(offline: bool, progress: &Progress) -> Option<Package> {
    match try_toolchain(offline, progress).await {
        Ok(package) => Some(package),
        Err(why) => {
            eprintln!("\nnotice: no compiler, so this is only the small demo.\n{}\n", super::explain(&why));
            None
        }
    }
}

async fn try_toolchain(offline: bool, progress: &Progress) -> anyhow::Result<Package> {
    let manifest = wardian_toolchains::builtin("clang").context("this program has no manifest of clang")?;
    let folder =
        packages_folder().context("there is no home folder to keep the package in; set XDG_CACHE_HOME")?;
    let clients = Clients::on_path(folder);
    let kept = clients.package_path(&manifest);
    if offline && !kept.exists() {
        anyhow::bail!(
            "--offline, and the package was not downloaded before. Run `wardian demo` once with a network, or run \
             `npm pack {}` on another machine and put the file it writes at {}",
            manifest.source.spec(),
            kept.display()
        );
    }
    let task = progress.spinner(&fetching(&manifest, &kept));
    let package = fetch(&manifest, &clients, None).await?;
    task.finish(&format!("{} {} is at {}", manifest.name, manifest.version, package.path().display()));
    Ok(package)
}

fn fetching(manifest: &Manifest, kept: &Path) -> String {
    if kept.exists() {
        return format!("checking the package of {}", manifest.name);
    }
    format!("fetching {} with npm (27 MB; kept for the next time)", manifest.source.spec())
}

/// Where packages are kept, as the XDG base directories say.
pub(super) fn packages_folder() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = cache.or_else(|| Some(std::env::home_dir()?.join(".cache")))?;
    Some(cache.join("wardian/packages"))
}

/// The folder of the server's data.
enum Folder {
    Given(PathBuf),
    Kept(PathBuf),
    Temporary(TempDir),
}

impl Folder {
    fn open(args: &DemoArgs) -> anyhow::Result<Self> {
        if let Some(data) = &args.data {
            return Ok(Self::Given(data.clone()));
        }
        let folder = tempfile::Builder::new().prefix("wardian-demo-").tempdir();
        let folder = folder.context("cannot make a temporary folder; name one with --data DIR")?;
        Ok(if args.keep { Self::Kept(folder.keep()) } else { Self::Temporary(folder) })
    }

    fn path(&self) -> &Path {
        match self {
            Self::Given(path) | Self::Kept(path) => path,
            Self::Temporary(folder) => folder.path(),
        }
    }

    fn close(self) -> anyhow::Result<()> {
        if let Self::Temporary(folder) = self {
            folder.close().context("the temporary folder could not be removed")?;
        }
        Ok(())
    }
}

/// Commands to try after the demo. They work on any store that holds the demo's blobs.
struct Next {
    commands: Vec<(String, String)>,
}

impl Next {
    fn text(&self, folder: &Folder) -> String {
        let program = program();
        let (data, mut text) = match folder {
            Folder::Given(path) | Folder::Kept(path) => (path.as_path(), "Next, try:\n".to_owned()),
            Folder::Temporary(_) => (
                Path::new("demo-data"),
                format!("Next, try it with a store that is kept:\n  {program} demo --data demo-data\n"),
            ),
        };
        let serve = format!("serve --data {}", super::format::shell_quoted(&data.display().to_string()));
        text += &format!("\n  # in one terminal\n  {program} {serve}\n\n  # in another\n");
        for (command, what) in &self.commands {
            text += &format!("  # {what}\n  {program} {command}\n");
        }
        text.truncate(text.trim_end().len());
        text
    }
}

/// How this program was called.
fn program() -> String {
    let called = std::env::args().next().filter(|name| !name.is_empty());
    super::format::shell_quoted(&called.unwrap_or_else(|| "wardian".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_name_the_store_that_is_kept() {
        let next = Next { commands: vec![("cas ls X".to_owned(), "look".to_owned())] };
        let text = next.text(&Folder::Given("my data".into()));
        assert!(text.contains("serve --data 'my data'") && text.ends_with("cas ls X"), "{text}");
        let text = next.text(&Folder::Temporary(tempfile::tempdir().unwrap()));
        assert!(text.contains("demo --data demo-data") && text.contains("serve --data demo-data"), "{text}");
    }
}
