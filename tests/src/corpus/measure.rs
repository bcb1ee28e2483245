//! What each toolchain costs, as a table: how large it is, how long it takes until it can be used, and to its first
//! result at each tier of machine code. Nothing is asserted but that the results are the same.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use wardian_proto::Digest;
use wardian_server::client::Client;
use wardian_toolchains::{builtin, builtin_names};

use super::case::{Case, Expected};
use super::run;

/// The tiers that are measured.
const TIERS: [&str; 2] = ["baseline", "optimized"];

const MIB: f64 = 1024.0 * 1024.0;

/// Measures the toolchains inside of the program that `wanted` asks for, over a server that has none of them compiled,
/// and tells each line of a table. `add` adds one without compiling it; `compiled` is the worker's folder of machine code.
pub async fn measure(
    client: &Client,
    wanted: impl Fn(&str) -> bool,
    add: impl Fn(&str) -> anyhow::Result<Duration>,
    compiled: &Path,
    mut tell: impl FnMut(String),
) -> anyhow::Result<()> {
    tell(
        "| Toolchain | Modules MiB | Add s | First result s, baseline | warm ms | code MiB | First result s, optimized \
         | warm ms | code MiB | Digests |"
            .to_owned(),
    );
    tell("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |".to_owned());
    for name in builtin_names().filter(|name| wanted(name)) {
        let manifest = builtin(name).context("a manifest of this program")?;
        let Some(smoke) = &manifest.smoke else { continue };
        let added = add(name)?;
        let toolchain = client.toolchain(name).await?.context("it was just added")?;
        let modules: u64 = toolchain.modules.iter().map(Digest::size).sum();
        let mut line =
            format!("| {} | {:.1} | {:.1} |", manifest.label(), modules as f64 / MIB, added.as_secs_f64());
        let case = Case::of_smoke(name, smoke);
        let mut seen: Vec<Expected> = Vec::new();
        for tier in TIERS {
            let mut times = Vec::new();
            for _ in 0..3 {
                let begun = Instant::now();
                let Some(made) = run(client, &case, Some(tier), &Default::default()).await? else { break };
                times.push(begun.elapsed());
                seen.push(made.expected);
            }
            let Some((first, warm)) = times.split_first() else {
                line += " none | | |";
                continue;
            };
            let warm = warm.iter().min().context("it ran three times")?;
            let code = code_bytes(compiled, &toolchain.modules, tier)? as f64 / MIB;
            line += &format!(" {:.1} | {} | {code:.1} |", first.as_secs_f64(), warm.as_millis());
        }
        ensure!(!seen.is_empty(), "{name} runs at no tier");
        let same = seen.iter().all(|made| *made == seen[0]);
        let pinned = smoke.outputs.iter().all(|(path, digest)| {
            digest.is_empty() || seen[0].outputs.get(path).is_some_and(|found| found == digest)
        });
        tell(line + if same && pinned { " the same |" } else { " DIFFERENT |" });
    }
    Ok(())
}

/// Bytes of the machine code of some modules at a tier, as far as they were compiled.
fn code_bytes(compiled: &Path, modules: &[Digest], tier: &str) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(compiled).with_context(|| compiled.display().to_string())? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_one = |module: &Digest| name.starts_with(&format!("sha256-{}-{tier}-", module.hash_hex()));
        if modules.iter().any(is_one) {
            bytes += entry.metadata()?.len();
        }
    }
    Ok(bytes)
}
