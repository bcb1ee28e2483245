//! `wardian cas`: blobs and directory trees, in and out.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use serde_json::json;
use wardian_proto::{Digest, Directory, RelPath};
use wardian_store::tree::{Closure, TreeLimits, closure};
use wardian_store::{BlobStore as _, StoreError};

use super::args::Remote;
use super::format;
use super::progress::Progress;
use super::tree_view::{TreeView, ViewArgs, listing, listing_json};
use crate::client::{Blobs, Client, InputLimits, LocalTree, OutputWriter, fetch_into, hash_file, upload};

const EXAMPLES: &str = "\
Examples:
  wardian cas put README.md ./src      prints one HASH/SIZE for each; a directory has that of its root
  wardian cas get HASH/SIZE > file     the bytes are checked against the hash
  wardian cas ls HASH/SIZE             one level of a directory tree
  wardian cas tree HASH/SIZE           all of it

A directory's digest can go into an action as it is: wardian run --graft PATH=HASH/SIZE ...";

/// Largest Directory message that is read.
const DIRECTORY_BYTES_MAX: u64 = 16 << 20;

#[derive(Args, Debug)]
#[command(about = "Store, fetch and list blobs and directory trees")]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct CasArgs {
    #[command(subcommand)]
    command: CasCommand,
}

#[derive(Subcommand, Debug)]
enum CasCommand {
    /// Store files and directories and print their digests, one a line.
    Put {
        /// What to store.
        #[arg(required = true, value_name = "FILE|DIR")]
        paths: Vec<PathBuf>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Fetch a blob, checked against its digest.
    Get {
        /// The blob.
        #[arg(value_name = "HASH/SIZE")]
        digest: Digest,
        /// File to write, all of it or nothing; standard output when absent.
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// List one directory.
    Ls {
        /// The directory.
        #[arg(value_name = "HASH/SIZE")]
        digest: Digest,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Draw a directory tree with sizes.
    Tree {
        /// The root directory.
        #[arg(value_name = "HASH/SIZE")]
        digest: Digest,
        #[command(flatten)]
        view: ViewArgs,
    },
}

/// Runs the command.
pub(crate) async fn cas(remote: &Remote, args: CasArgs) -> anyhow::Result<ExitCode> {
    let client = remote.connect().await?;
    match args.command {
        CasCommand::Put { paths, json } => put(&client, &paths, json).await?,
        CasCommand::Get { digest, output: None } => get(&client, digest).await?,
        CasCommand::Get { digest, output: Some(path) } => get_file(&client, digest, &path).await?,
        CasCommand::Ls { digest, json } => list(&client, digest, json).await?,
        CasCommand::Tree { digest, view } => tree(&client, digest, view).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn put(client: &Client, paths: &[PathBuf], json: bool) -> anyhow::Result<()> {
    let progress = Progress::quiet_elsewhere();
    let mut stored = Vec::new();
    for path in paths {
        let shown = path.display();
        let task = progress.spinner(&format!("hashing {shown}"));
        let (digest, blobs, bytes) = tokio::task::block_in_place(|| hash(path))?;
        drop(task);
        let task = progress.bytes(&format!("sending {shown}"), bytes);
        let sent = upload(client.store(), &blobs, &|bytes| task.advance(bytes)).await?;
        stored.push(json!({
            "path": path.to_string_lossy(), "digest": digest.to_string(), "bytes": bytes,
            "sent_blobs": sent.blobs, "sent_bytes": sent.bytes, "already_present": sent.present,
        }));
        if !json {
            super::print(format!("{digest}\n"))?;
        }
    }
    if json { super::print_json(&stored) } else { Ok(()) }
}

/// Hashes a file or directory. Blocks.
fn hash(path: &Path) -> anyhow::Result<(Digest, Blobs, u64)> {
    let metadata = std::fs::metadata(path).with_context(|| path.display().to_string())?;
    if metadata.is_dir() {
        let local = LocalTree::walk(path, InputLimits::default())?;
        let bytes = local.bytes;
        let (root, blobs) = local.finish();
        return Ok((root, blobs, bytes));
    }
    if !metadata.is_file() {
        bail!("{} is neither a file nor a directory", path.display());
    }
    let (digest, _) = hash_file(path)?;
    let mut blobs = Blobs::default();
    blobs.add_file(digest, path.to_owned());
    Ok((digest, blobs, digest.size()))
}

async fn get(client: &Client, digest: Digest) -> anyhow::Result<()> {
    match fetch_into(client.store(), digest, tokio::io::stdout()).await {
        Err(crate::client::TransferError::Write(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            Ok(())
        }
        outcome => Ok(outcome?),
    }
}

async fn get_file(client: &Client, digest: Digest, path: &Path) -> anyhow::Result<()> {
    let name = path.file_name().and_then(|name| name.to_str()).context("--output names no file")?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let new = OutputWriter::open(parent)?.begin(&RelPath::parse(name)?, false)?;
    fetch_into(client.store(), digest, tokio::fs::File::from_std(new.file)).await?;
    Ok(new.place.commit()?)
}

async fn list(client: &Client, digest: Digest, json: bool) -> anyhow::Result<()> {
    let bytes = client.store().get(&digest, DIRECTORY_BYTES_MAX).await?;
    let directory = Directory::decode(digest.function(), &bytes)
        .map_err(|source| StoreError::Directory { digest, source })
        .context("only directories can be listed; `wardian cas get` fetches any blob")?;
    if json { super::print_json(&listing_json(&directory)) } else { super::print(listing(&directory)) }
}

async fn tree(client: &Client, digest: Digest, view: ViewArgs) -> anyhow::Result<()> {
    let tree = whole_tree(client, digest).await?;
    let text = |limits| {
        let mut view = TreeView::new(&tree, limits);
        let mut text = format!("{digest}  ({})\n", view.summary(digest));
        for line in view.lines(digest, "") {
            text += &line;
            text.push('\n');
        }
        Ok(text)
    };
    view.print(|limits| TreeView::new(&tree, limits).json(digest), text)
}

/// Reads every Directory below a root. A root that is not stored is an error.
pub(crate) async fn whole_tree(client: &Client, root: Digest) -> anyhow::Result<Closure> {
    let task = Progress::quiet_elsewhere().spinner(&format!("reading tree {}", format::short(&root)));
    let tree = closure(client.store(), root, TreeLimits::default()).await?;
    drop(task);
    if tree.missing.contains(&root) { Err(StoreError::NotFound(root).into()) } else { Ok(tree) }
}
