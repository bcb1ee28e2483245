//! `wardian audit`: whether an action gives the same result however its machine code was made.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use prost::Message as _;
use wardian_proto::{Digest, reapi};
use wardian_runtime::audit::{Difference, differences, outputs};
use wardian_store::tree::TreeLimits;
use wardian_store::{BlobStore as _, Upload};

use super::action::message;
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
        audit.add(&client, "cached", result).await?;
    }
    let progress = Progress::lines_elsewhere();
    for tier in TIERS {
        match run(&client, variant(&action, &command, tier), tier, &progress).await? {
            Ok(result) => audit.add(&client, tier, result).await?,
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
    reference: Option<(String, reapi::ActionResult)>,
    runs: usize,
    differences: usize,
    text: String,
}

impl Audit {
    /// Compares a result with the first one, file by file also inside of directories.
    async fn add(&mut self, client: &Client, name: &str, result: reapi::ActionResult) -> anyhow::Result<()> {
        let Some((_, first)) = &self.reference else {
            self.first(name, result);
            return Ok(());
        };
        let limits = TreeLimits::default();
        let found = differences(client.store(), DIGEST_FUNCTION, limits, first, &result).await?;
        self.compared(name, &found);
        Ok(())
    }

    fn first(&mut self, name: &str, result: reapi::ActionResult) {
        self.runs += 1;
        self.line(&format!("{name:<10} exit code {}, {} outputs", result.exit_code, outputs(&result)));
        self.reference = Some((name.to_owned(), result));
    }

    fn compared(&mut self, name: &str, found: &[Difference]) {
        self.runs += 1;
        self.differences += found.len();
        let verdict = if found.is_empty() { "the same" } else { "differs" };
        self.line(&format!("{name:<10} {verdict}"));
        let reference = self.reference.as_ref().map_or("", |(reference, _)| reference).to_owned();
        for Difference { what, first, second } in found {
            let word = |value: &Option<String>| value.as_deref().map_or("none".to_owned(), format::plain);
            let (before, now) = (word(first), word(second));
            self.line(&format!("  {}: {reference} {before}, {name} {now}", format::plain(what)));
        }
    }

    fn skip(&mut self, name: &str, why: &str) {
        self.line(&format!("{name:<10} not run: {}", format::plain(why)));
    }

    fn line(&mut self, line: &str) {
        writeln!(self.text, "{line}").expect("text takes everything");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn difference(what: &str, first: Option<&str>, second: Option<&str>) -> Difference {
        Difference { what: what.into(), first: first.map(Into::into), second: second.map(Into::into) }
    }

    #[test]
    fn differences_are_shown_one_by_one() {
        let mut audit = Audit::default();
        let file = reapi::OutputFile { path: "a".into(), ..Default::default() };
        audit.first("cached", reapi::ActionResult { output_files: vec![file], ..Default::default() });
        audit.compared("optimized", &[]);
        assert_eq!((audit.runs, audit.differences), (2, 0));
        audit.compared("metered", &[difference("file a", Some("1"), Some("2"))]);
        audit.compared(
            "baseline",
            &[difference("exit code", Some("0"), Some("3")), difference("file b", None, Some("1"))],
        );
        audit.skip("other", "FAILED");
        assert_eq!((audit.runs, audit.differences), (4, 3));
        let lines: Vec<&str> = audit.text.lines().collect();
        assert_eq!(
            lines,
            [
                "cached     exit code 0, 1 outputs",
                "optimized  the same",
                "metered    differs",
                "  file a: cached 1, metered 2",
                "baseline   differs",
                "  exit code: cached 0, baseline 3",
                "  file b: cached none, baseline 1",
                "other      not run: FAILED",
            ]
        );
    }
}
