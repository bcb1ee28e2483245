//! One action of the demo: store its inputs, run it, note what came of it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use wardian_proto::{Digest, RelPath};
use wardian_store::tree_builder::TreeBuilder;

use super::super::follow::follow;
use super::super::format;
use super::super::progress::Progress;
use crate::client::{ActionSpec, Blobs, Client, DIGEST_FUNCTION, LocalTree, Outcome, logged_bytes, upload};

/// An action that makes one file.
pub(super) struct Job {
    pub(super) title: String,
    pub(super) arguments: Vec<String>,
    pub(super) output: &'static str,
    tree: TreeBuilder,
    blobs: Blobs,
}

/// What came of a job.
#[derive(Clone, Debug)]
pub(super) struct Ran {
    pub(super) title: String,
    pub(super) action: Digest,
    pub(super) worker: String,
    pub(super) time: Duration,
    pub(super) cached: bool,
    pub(super) output: Digest,
    pub(super) stdout: Bytes,
}

impl Job {
    /// Starts a job that runs a command line and makes `output`.
    pub(super) fn new(title: &str, command: &str, output: &'static str) -> Self {
        let arguments = command.split_whitespace().map(str::to_owned).collect();
        Self { title: title.to_owned(), arguments, output, tree: TreeBuilder::new(), blobs: Blobs::default() }
    }

    /// Adds an input file whose bytes are at hand.
    pub(super) fn source(mut self, path: &str, bytes: impl Into<Bytes>) -> anyhow::Result<Self> {
        let bytes = bytes.into();
        let digest = DIGEST_FUNCTION.digest(&bytes);
        self.blobs.add_bytes(digest, bytes);
        self.stored(path, digest)
    }

    /// Adds an input file that the server has already.
    pub(super) fn stored(mut self, path: &str, digest: Digest) -> anyhow::Result<Self> {
        self.tree.file(&RelPath::parse(path)?, digest, path.ends_with(".wasm"))?;
        Ok(self)
    }

    /// Adds a tree that the server has already.
    pub(super) fn graft(mut self, path: &str, root: Digest) -> anyhow::Result<Self> {
        self.tree.graft(&RelPath::parse(path)?, root)?;
        Ok(self)
    }

    /// Runs the job. A tool that reports an error is an error here.
    pub(super) async fn run(
        self,
        client: &Client,
        progress: &Progress,
        no_cache: bool,
    ) -> anyhow::Result<Ran> {
        let title = self.title.clone();
        let task = progress.spinner(&title);
        let started = Instant::now();
        let action = self.store(client).await.with_context(|| format!("{title}: inputs"))?;
        let mut execution = client.execute(action, no_cache);
        let outcome = follow(&mut execution, &title, &task).await?;
        let time = started.elapsed();
        let ran = Ran::of(client, title, action, time, outcome).await?;
        task.finish(&ran.to_string());
        Ok(ran)
    }

    async fn store(self, client: &Client) -> anyhow::Result<Digest> {
        let spec = ActionSpec {
            arguments: self.arguments,
            platform: [("OSFamily".to_owned(), "wasi".to_owned())].into(),
            outputs: [RelPath::parse(self.output)?].into(),
            ..ActionSpec::default()
        };
        let local = LocalTree { tree: self.tree, blobs: self.blobs, ..LocalTree::default() };
        let (root, mut blobs) = local.finish();
        let encoded = spec.encode(root);
        encoded.add_to(&mut blobs);
        upload(client.store(), &blobs, &|_| ()).await?;
        Ok(encoded.digest)
    }
}

impl Ran {
    async fn of(
        client: &Client,
        title: String,
        action: Digest,
        time: Duration,
        outcome: Outcome,
    ) -> anyhow::Result<Self> {
        if let Some(failure) = outcome.failure {
            return Err(failure).with_context(|| format!("{title}: the action could not be run"));
        }
        let result = outcome.result.context("the server sent no result")?;
        let log = |raw, digest| async move { logged_bytes(client.store(), raw, digest).await };
        let stdout = log(&result.stdout_raw, result.stdout_digest.as_ref()).await?;
        if result.exit_code != 0 {
            let stderr = log(&result.stderr_raw, result.stderr_digest.as_ref()).await?;
            let stderr = String::from_utf8_lossy(&stderr);
            bail!("{title}: exit code {}\n{}", result.exit_code, format::plain_lines(&stderr));
        }
        let output = result.output_files.first().with_context(|| format!("{title}: no output was made"))?;
        Ok(Self {
            title,
            action,
            worker: result.execution_metadata.unwrap_or_default().worker,
            time,
            cached: outcome.cached,
            output: Digest::from_wire(DIGEST_FUNCTION, output.digest.as_ref())?,
            stdout,
        })
    }
}

impl std::fmt::Display for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let how =
            if self.cached { "cached".to_owned() } else { format!("ran on {}", format::plain(&self.worker)) };
        write!(
            f,
            "{}: {how}, {} {}",
            self.title,
            format::size(self.output.size()),
            format::short(&self.output)
        )
    }
}
