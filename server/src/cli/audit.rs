//! `wardian audit`: whether an action gives the same result however its machine code was made.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use prost::Message as _;
use wardian_proto::{Digest, reapi};
use wardian_store::{BlobStore as _, Upload};

use super::action::{message, results};
use super::args::Remote;
use super::follow::follow;
use super::format;
use super::progress::Progress;
use crate::client::{Client, DIGEST_FUNCTION};

/// The tiers that an action is run at; metered code also counts every instruction.
const TIERS: [&str; 3] = ["optimized", "metered", "baseline"];

const ABOUT: &str = "\
Run an action again, at each tier of machine code, and compare what comes out.

A guest sees nothing of the machine, so its outputs must not depend on which compiler made its machine code, nor on \
when and where it ran. The runs are compared with the cached result, if there is one, else with the first run. The \
baseline tier is left out where the server does not allow it for the action's module.

The exit code is 1 when anything differs. Then the action is not deterministic, or a compiler has a fault.";

#[derive(Args, Debug)]
#[command(about = "Run an action again in other ways and compare the outputs", long_about = ABOUT)]
pub(crate) struct AuditArgs {
    /// Digest of the Action, as `wardian run --json` and build tools print it.
    #[arg(value_name = "HASH/SIZE")]
    digest: Digest,
}

/// Runs the command.
pub(crate) async fn audit(remote: &Remote, args: AuditArgs) -> anyhow::Result<ExitCode> {
    let client = remote.connect().await?;
    let action: reapi::Action = message(&client, args.digest, "Action").await?;
    let command = Digest::from_wire(DIGEST_FUNCTION, action.command_digest.as_ref())
        .with_context(|| format!("{} is no Action", args.digest))?;
    let command: reapi::Command = message(&client, command, "Command").await?;
    let mut audit = Audit::default();
    if let Some(result) = client.action_result(args.digest).await? {
        audit.add("cached", &result);
    }
    let progress = Progress::lines_elsewhere();
    for tier in TIERS {
        match run(&client, variant(&action, &command, tier), tier, &progress).await? {
            Ok(result) => audit.add(tier, &result),
            Err(why) => audit.skip(tier, &why),
        }
    }
    super::print(&audit.text)?;
    anyhow::ensure!(audit.runs > 1, "there are no two runs to compare");
    Ok(if audit.differences == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The same action at a certain tier, kept out of the action cache.
#[allow(deprecated)] // The platform of older clients is in the Command.
fn variant(action: &reapi::Action, command: &reapi::Command, tier: &str) -> reapi::Action {
    let mut platform = action.platform.clone().or(command.platform.clone()).unwrap_or_default();
    let property = reapi::platform::Property { name: "wasm-tier".into(), value: tier.into() };
    platform.properties.push(property);
    reapi::Action { platform: Some(platform), do_not_cache: true, ..action.clone() }
}

/// Runs an action. The inner error is the server's word on why it did not finish.
async fn run(
    client: &Client,
    action: reapi::Action,
    tier: &str,
    progress: &Progress,
) -> anyhow::Result<Result<reapi::ActionResult, String>> {
    let bytes = action.encode_to_vec();
    let digest = DIGEST_FUNCTION.digest(&bytes);
    client.store().put(Upload::bytes(digest, bytes)).await?;
    let task = progress.spinner(tier);
    let outcome = follow(&mut client.execute(digest, true), tier, &task).await?;
    task.finish(&format!("{tier}: done"));
    Ok(match (outcome.result, outcome.failure) {
        (Some(result), None) => Ok(result),
        (_, failure) => Err(failure.map_or("there is no result".into(), |failure| failure.to_string())),
    })
}

/// What was compared so far.
#[derive(Default)]
struct Audit {
    reference: Option<(String, BTreeMap<String, String>)>,
    runs: usize,
    differences: usize,
    text: String,
}

impl Audit {
    fn add(&mut self, name: &str, result: &reapi::ActionResult) {
        self.runs += 1;
        let seen = observations(result);
        let Some((reference, expected)) = &self.reference else {
            self.line(&format!("{name:<10} exit code {}, {} outputs", result.exit_code, seen.len() - 3));
            self.reference = Some((name.to_owned(), seen));
            return;
        };
        let mut lines = Vec::new();
        let all = expected.keys().chain(seen.keys().filter(|what| !expected.contains_key(*what)));
        for what in all {
            let (before, now) = (expected.get(what), seen.get(what));
            if before != now {
                let word = |value: Option<&String>| value.map_or("none".to_owned(), |v| format::plain(v));
                let (before, now) = (word(before), word(now));
                lines.push(format!("  {}: {reference} {before}, {name} {now}", format::plain(what)));
            }
        }
        let verdict = if lines.is_empty() { "the same" } else { "differs" };
        self.differences += lines.len();
        self.line(&format!("{name:<10} {verdict}"));
        lines.iter().for_each(|line| self.line(line));
    }

    fn skip(&mut self, name: &str, why: &str) {
        self.line(&format!("{name:<10} not run: {}", format::plain(why)));
    }

    fn line(&mut self, line: &str) {
        writeln!(self.text, "{line}").expect("text takes everything");
    }
}

/// Everything about a result that must be the same in every run, by name.
fn observations(result: &reapi::ActionResult) -> BTreeMap<String, String> {
    let stream = |raw: &[u8], digest: &Option<reapi::Digest>| match digest {
        Some(digest) => format!("{}/{}", digest.hash, digest.size_bytes),
        None => DIGEST_FUNCTION.digest(raw).to_string(),
    };
    let outputs = results(result).into_iter().map(|(path, kind, what)| (format!("{kind} {path}"), what));
    let others = [
        ("exit code".to_owned(), result.exit_code.to_string()),
        ("standard output".to_owned(), stream(&result.stdout_raw, &result.stdout_digest)),
        ("standard error".to_owned(), stream(&result.stderr_raw, &result.stderr_digest)),
    ];
    outputs.chain(others).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(path: &str, content: &[u8]) -> reapi::ActionResult {
        let digest = Some(DIGEST_FUNCTION.digest(content).to_wire());
        let file = reapi::OutputFile { path: path.into(), digest, ..Default::default() };
        reapi::ActionResult { output_files: vec![file], ..Default::default() }
    }

    #[test]
    fn differences_are_shown_one_by_one() {
        let mut audit = Audit::default();
        audit.add("cached", &result("a", b"1"));
        audit.add("optimized", &result("a", b"1"));
        assert_eq!((audit.runs, audit.differences), (2, 0));
        audit.add("metered", &result("a", b"2"));
        audit.add("baseline", &reapi::ActionResult { exit_code: 3, ..result("b", b"1") });
        audit.skip("other", "FAILED");
        assert_eq!((audit.runs, audit.differences), (4, 4));
        let lines: Vec<&str> = audit.text.lines().collect();
        assert_eq!(
            lines[..3],
            ["cached     exit code 0, 1 outputs", "optimized  the same", "metered    differs"]
        );
        let digest = |content: &[u8]| DIGEST_FUNCTION.digest(content);
        assert_eq!(lines[3], format!("  file a: cached {}, metered {}", digest(b"1"), digest(b"2")));
        assert!(lines.contains(&"  exit code: cached 0, baseline 3"), "{lines:?}");
        assert!(lines.contains(&&*format!("  file b: cached none, baseline {}", digest(b"1"))), "{lines:?}");
        assert_eq!(lines.last(), Some(&"other      not run: FAILED"));
    }
}
