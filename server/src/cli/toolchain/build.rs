//! Builds a toolchain by its recipe: programs of the package here, or actions of another toolchain on the server.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use wardian_proto::RelPath;
use wardian_toolchains::{Builder, Clients, FILE, MADE, Package, STEM, Step, Toolchain, Workshop};

use super::super::format;
use super::super::progress::{Progress, Task};
use super::registered;
use crate::client::{
    ActionSpec, Blobs, Client, InputLimits, LocalTree, OutputLimits, OutputWriter, Step as Stage,
    download_outputs, logged_bytes, upload,
};

/// Actions of one step that are under way together; the server decides how many of them run.
const ACTIONS_MAX: usize = 16;

/// Actions of one step.
const ACTIONS_OF_STEP_MAX: usize = 10_000;

/// Does all steps of a recipe and keeps what comes of them.
pub(super) async fn build(
    client: &Client,
    package: &Package,
    clients: &Clients,
    progress: &Progress,
) -> anyhow::Result<Package> {
    let label = package.manifest().label();
    let task = progress.spinner(&format!("laying out {}", package.manifest().source));
    let shop = Workshop::open(package, clients).await?;
    drop(task);
    let recipe = shop.build().clone();
    let toolchain = match &recipe.builder {
        Builder::Native { .. } => {
            let source = &package.manifest().source;
            progress.say(&format!(
                "{label} is built by programs out of {source}, which run on this machine and are not confined"
            ));
            None
        }
        Builder::Toolchain(name) => Some(registered(client, name).await?),
    };
    let count = recipe.steps.len();
    let mut made = Vec::new();
    for (at, step) in recipe.steps.iter().enumerate() {
        let title = format!("building {label}, step {} of {count}: {}", at + 1, format::plain(&step.name));
        match &toolchain {
            None => {
                let task = progress.spinner(&title);
                shop.run(step).await?;
                task.finish(&title);
            }
            Some(toolchain) => {
                let actions = Actions { client, toolchain, shop: &shop, title: &title, progress };
                made.extend(actions.step(step, &made).await.with_context(|| title.clone())?);
            }
        }
    }
    let task = progress.spinner(&format!("packing what was built of {label}"));
    let built = shop.finish().await?;
    task.finish(&format!("{label} was built; the archive is at {}", built.path().display()));
    Ok(built)
}

/// One step that is done by actions.
struct Actions<'a> {
    client: &'a Client,
    toolchain: &'a Toolchain,
    shop: &'a Workshop,
    title: &'a str,
    progress: &'a Progress,
}

impl Actions<'_> {
    /// Does a step; returns what was made. What the server did before comes from its cache, so a build that was
    /// cut off goes on where it was.
    async fn step(&self, step: &Step, made: &[String]) -> anyhow::Result<Vec<String>> {
        let folder = self.shop.folder(step);
        let calls = calls(step, made, &folder)?;
        let local = tokio::task::block_in_place(|| LocalTree::walk(&folder, InputLimits::default()))?;
        let (root, mut blobs) = local.finish();
        let mut actions = Vec::new();
        for call in calls {
            let environment = self.shop.build().environment.iter().chain(&step.environment);
            let spec = ActionSpec {
                arguments: call.arguments,
                environment: environment.cloned().collect::<BTreeMap<_, _>>(),
                platform: BTreeSet::from([("toolchain".to_owned(), self.toolchain.label())]),
                outputs: call.outputs.clone(),
                ..ActionSpec::default()
            };
            let encoded = spec.encode(root);
            encoded.add_to(&mut blobs);
            actions.push((encoded.digest, spec, call.outputs));
        }
        let task = self.progress.count(self.title, actions.len());
        self.send(&blobs).await?;
        let writer = Arc::new(tokio::task::block_in_place(|| OutputWriter::open(&folder))?);
        let time_left = self.shop.time_left(step)?;
        let outputs: Vec<String> =
            actions.iter().flat_map(|(_, _, outputs)| outputs).map(RelPath::to_string).collect();
        let runs = actions.into_iter().map(|(digest, spec, outputs)| {
            let (writer, task) = (Arc::clone(&writer), &task);
            async move { self.action(digest, &spec, &outputs, writer, task).await }
        });
        let all = stream::iter(runs).buffer_unordered(ACTIONS_MAX).try_collect::<()>();
        match tokio::time::timeout(time_left, all).await {
            Ok(done) => done?,
            Err(_) => drop(self.shop.time_left(step)?),
        }
        task.finish(self.title);
        Ok(outputs)
    }

    async fn send(&self, blobs: &Blobs) -> anyhow::Result<()> {
        upload(self.client.store(), blobs, &|_| ()).await?;
        Ok(())
    }

    async fn action(
        &self,
        digest: wardian_proto::Digest,
        spec: &ActionSpec,
        outputs: &BTreeSet<RelPath>,
        writer: Arc<OutputWriter>,
        task: &Task,
    ) -> anyhow::Result<()> {
        let command = || format::plain(&spec.arguments.join(" "));
        let mut execution = self.client.execute(digest, false);
        let outcome = loop {
            if let Stage::Done(outcome) = execution.next().await? {
                break *outcome;
            }
        };
        if let Some(failure) = outcome.failure {
            return Err(failure).with_context(command);
        }
        let result = outcome.result.context("the server sent no result")?;
        let store = self.client.store();
        if result.exit_code != 0 {
            let stderr = logged_bytes(store, &result.stderr_raw, result.stderr_digest.as_ref()).await?;
            let said = format::plain_lines(&String::from_utf8_lossy(&stderr));
            bail!("{}: exit code {}\n{said}", command(), result.exit_code);
        }
        let fetched = download_outputs(store, &result, outputs, writer, &OutputLimits::default()).await?;
        ensure!(fetched.len() == outputs.len(), "{}: it did not make all of its outputs", command());
        task.advance(1);
        Ok(())
    }
}

/// What one action of a step is.
#[derive(Debug, PartialEq, Eq)]
struct Call {
    arguments: Vec<String>,
    outputs: BTreeSet<RelPath>,
}

/// The actions of a step: one, or one for each file whose name ends as it should.
fn calls(step: &Step, made: &[String], folder: &Path) -> anyhow::Result<Vec<Call>> {
    let Some(end) = &step.each else { return Ok(vec![call(step, made, None)?]) };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        let name = entry.file_name().into_string();
        files
            .extend(name.ok().filter(|name| name.ends_with(end.as_str())).filter(|_| entry.path().is_file()));
    }
    files.sort();
    ensure!(!files.is_empty(), "no file of {} ends with {end}", step.folder);
    ensure!(files.len() <= ACTIONS_OF_STEP_MAX, "{} files; limit is {ACTIONS_OF_STEP_MAX}", files.len());
    files.iter().map(|file| call(step, made, Some((file, end)))).collect()
}

fn call(step: &Step, made: &[String], each: Option<(&String, &String)>) -> anyhow::Result<Call> {
    let filled = |text: &String| match each {
        None => text.clone(),
        Some((file, end)) => {
            text.replace(FILE, file).replace(STEM, file.strip_suffix(end.as_str()).unwrap_or(file))
        }
    };
    let mut arguments = Vec::new();
    for argument in &step.arguments {
        if argument == MADE { arguments.extend_from_slice(made) } else { arguments.push(filled(argument)) }
    }
    let path = |text: &String| RelPath::parse(&filled(text)).with_context(|| format!("output {text:?}"));
    let outputs = step.outputs.iter().map(path).collect::<Result<_, _>>()?;
    Ok(Call { arguments, outputs })
}

#[cfg(test)]
mod tests {
    use wardian_toolchains::Manifest;

    use super::*;

    const RECIPE: &str = r#"
name = "tool"
version = "1"
license = "MIT"
source = "crate:tool@1.0.0"
sha256 = "6230ea1afa9691fa065935cf68c01642ff9b31c183fe8ac64cdfda025df06009"
[[module]]
file = "tool.wasm"
paths = ["bin/tool"]
[build]
sha256 = "6230ea1afa9691fa065935cf68c01642ff9b31c183fe8ac64cdfda025df06009"
toolchain = "clang@22"
[[build.step]]
name = "compile"
each = "*.c"
arguments = ["clang", "-c", "{file}", "-o", "{stem}.o"]
outputs = ["{stem}.o"]
[[build.step]]
name = "link"
arguments = ["wasi-ld", "{made}", "-o", "tool.wasm"]
outputs = ["tool.wasm"]
"#;

    #[test]
    fn a_step_is_one_action_or_one_for_each_file() {
        let folder = tempfile::tempdir().unwrap();
        let steps = Manifest::parse(RECIPE).unwrap().build.unwrap().steps;
        assert!(calls(&steps[0], &[], folder.path()).unwrap_err().to_string().contains(".c"));
        for file in ["b.c", "a.c", "a.h"] {
            std::fs::write(folder.path().join(file), "").unwrap();
        }
        let found = calls(&steps[0], &[], folder.path()).unwrap();
        let arguments: Vec<String> = found.iter().map(|call| call.arguments.join(" ")).collect();
        assert_eq!(arguments, ["clang -c a.c -o a.o", "clang -c b.c -o b.o"]);
        assert_eq!(found[1].outputs, BTreeSet::from([RelPath::parse("b.o").unwrap()]));
        let made = ["a.o".to_owned(), "b.o".to_owned()];
        let link = calls(&steps[1], &made, folder.path()).unwrap();
        assert_eq!(link[0].arguments.join(" "), "wasi-ld a.o b.o -o tool.wasm");
        let escaping = RECIPE.replace("[\"{stem}.o\"]", "[\"../{stem}.o\"]");
        let steps = Manifest::parse(&escaping).unwrap().build.unwrap().steps;
        assert!(calls(&steps[0], &[], folder.path()).is_err());
    }
}
