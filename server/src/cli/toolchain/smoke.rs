//! Small actions with a toolchain: its smoke test, and runs that have its modules compiled.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use wardian_proto::Digest;
use wardian_store::tree_builder::TreeBuilder;
use wardian_toolchains::{Smoke, Tool, Toolchain};

use super::super::follow::follow;
use super::super::format;
use super::super::progress::Progress;
use crate::client::{ActionSpec, Blobs, Client, DIGEST_FUNCTION, LocalTree, Outcome, logged_bytes, upload};

/// The tiers that are compiled ahead: the one that is there first, and the one that runs fastest.
const TIERS: [&str; 2] = ["baseline", "optimized"];

/// How many times longer the optimized tier takes than the baseline one: between five (CPython) and ten (Yosys).
const OPTIMIZED_TIMES_BASELINE: u32 = 9;

/// A baseline compilation that was over sooner was there before, and says nothing about the optimized one.
const COMPILED_TIME_MIN: Duration = Duration::from_millis(500);

/// How long a tool may run that is only started to have it compiled; compiling is not counted.
const WARM_TIME_MAX: Duration = Duration::from_secs(10);

/// Has every module of a toolchain compiled, at each tier that the server has and that can do it.
pub(super) async fn warm(client: &Client, toolchain: &Toolchain, progress: &Progress) -> anyhow::Result<()> {
    let mut tools: Vec<&Tool> = Vec::new();
    for tool in &toolchain.tools {
        if !tools.iter().any(|other| other.path == tool.path) {
            tools.push(tool);
        }
    }
    let parts = tools.len() * TIERS.len();
    let label = toolchain.label();
    let task = progress.count(&format!("compiling {label}"), parts);
    let mut refused = Vec::new();
    for tool in tools {
        let mut before = Duration::ZERO;
        for tier in TIERS {
            let begun = Instant::now();
            let expected = match tier == "optimized" && before > COMPILED_TIME_MIN {
                true => format!(", about {}", format::duration(before * OPTIMIZED_TIMES_BASELINE)),
                false => String::new(),
            };
            let title = format!("compiling {label}: {} ({tier}{expected})", tool.name);
            let spec = ActionSpec {
                arguments: vec![tool.name.clone(), "--version".to_owned()],
                timeout: Some(WARM_TIME_MAX),
                ..spec(toolchain, Some(tier))
            };
            task.set_text(&title);
            let outcome = execute(client, &spec, LocalTree::default(), &title, &task).await?;
            before = begun.elapsed();
            // What the tool said does not matter; that it was started means that it was compiled.
            if let (None, Some(failure)) = (outcome.result, outcome.failure) {
                refused.push(format!("{} ({tier}): {}", tool.name, format::plain(&failure.to_string())));
            } else if before > COMPILED_TIME_MIN {
                progress.note(&format!(
                    "{} ({tier}) was compiled in {}",
                    tool.name,
                    format::duration(before)
                ));
            }
            task.advance(1);
        }
    }
    let refused_count = refused.len();
    for refusal in refused {
        progress.note(&format!("not compiled: {refusal}"));
    }
    task.finish(&format!(
        "compiled {label}: {} of {parts}, counting each module at each tier",
        parts - refused_count
    ));
    Ok(())
}

/// Runs the smoke test, never from the cache.
pub(super) async fn run(
    client: &Client,
    toolchain: &Toolchain,
    smoke: &Smoke,
    progress: &Progress,
) -> anyhow::Result<()> {
    let title = format!("smoke test of {}", toolchain.label());
    let (mut tree, mut blobs) = (TreeBuilder::new(), Blobs::default());
    for (path, text) in &smoke.files {
        let bytes = Bytes::from(text.clone());
        let digest = DIGEST_FUNCTION.digest(&bytes);
        tree.file(path, digest, false)?;
        blobs.add_bytes(digest, bytes);
    }
    let spec = ActionSpec {
        arguments: smoke.arguments.clone(),
        outputs: smoke.outputs.iter().map(|(path, _)| path.clone()).collect(),
        ..spec(toolchain, None)
    };
    let task = progress.spinner(&title);
    let local = LocalTree { tree, blobs, ..LocalTree::default() };
    let outcome = execute(client, &spec, local, &title, &task).await?;
    if let Some(failure) = outcome.failure {
        return Err(failure).context(title);
    }
    let result = outcome.result.context("the server sent no result")?;
    let store = client.store();
    let stdout = logged_bytes(store, &result.stdout_raw, result.stdout_digest.as_ref()).await?;
    let stderr = logged_bytes(store, &result.stderr_raw, result.stderr_digest.as_ref()).await?;
    let said = || format::plain_lines(&String::from_utf8_lossy(&stderr));
    ensure!(
        result.exit_code == smoke.exit_code,
        "{title}: exit code {}, expected {}\n{}",
        result.exit_code,
        smoke.exit_code,
        said()
    );
    if let Some(expected) = &smoke.stdout {
        let stdout = String::from_utf8_lossy(&stdout);
        ensure!(stdout.contains(expected), "{title}: standard output does not hold {expected:?}: {stdout:?}");
    }
    for (path, expected) in &smoke.outputs {
        let made = result.output_files.iter().find(|file| file.path == path.as_str());
        let Some(made) = made else { bail!("{title}: no {path} was made\n{}", said()) };
        let digest = Digest::from_wire(DIGEST_FUNCTION, made.digest.as_ref())?;
        ensure!(
            expected.is_empty() || digest.hash_hex() == *expected,
            "{title}: {path} is {}, expected {expected}",
            digest.hash_hex()
        );
        progress.say(&format!("{path} {digest}"));
    }
    task.finish(&format!("{title} passed"));
    Ok(())
}

fn spec(toolchain: &Toolchain, tier: Option<&str>) -> ActionSpec {
    let property = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let mut platform = std::collections::BTreeSet::from([property("toolchain", &toolchain.label())]);
    platform.extend(tier.map(|tier| property("wasm-tier", tier)));
    ActionSpec { platform, ..ActionSpec::default() }
}

async fn execute(
    client: &Client,
    spec: &ActionSpec,
    local: LocalTree,
    title: &str,
    task: &super::super::progress::Task,
) -> anyhow::Result<Outcome> {
    let (root, mut blobs) = local.finish();
    let encoded = spec.encode(root);
    encoded.add_to(&mut blobs);
    upload(client.store(), &blobs, &|_| ()).await?;
    Ok(follow(&mut client.execute(encoded.digest, true), title, task).await?)
}
