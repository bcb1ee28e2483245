//! Running an action again, in the other ways there are, when it asks for that: platform property `wasi-audit`.
//!
//! What differs is told beside the result. It is a finding, and no failure: the result is that of the first run.

use prost::Message as _;
use tokio::sync::watch;
use wardian_proto::reapi;
use wardian_proto::wardian::{WasmAudit, WasmAuditDifference, WasmAuditRun};

use super::{Progress, Worker, unless_cancelled};
use crate::Failure;
use crate::action::ActionSpec;
use crate::audit::{self, Difference};
use crate::executor::{Executor, Outcome, Task};
use crate::logs::Log;
use crate::workspace::InputTree;

/// Differences that are told of one run, and the room they may take: results are kept and sent whole.
const DIFFERENCES_MAX: usize = 100;
const DIFFERENCES_BYTES_MAX: usize = 16 << 10;

/// An action that was run once.
pub(super) struct Audited<'a> {
    pub(super) spec: &'a ActionSpec,
    pub(super) tree: &'a InputTree,
    pub(super) executor: &'a dyn Executor,
    pub(super) cancelled: &'a watch::Receiver<bool>,
}

impl Worker {
    /// Runs the action as often as it asks for, and compares each result with the first. Only a cancellation
    /// ends it early.
    pub(super) async fn audit(
        &self,
        audited: &Audited<'_>,
        result: &reapi::ActionResult,
        progress: &Progress<'_>,
    ) -> Result<WasmAudit, Failure> {
        let spec = audited.spec;
        let variants = audited.executor.variants(&audited.task(spec)).await;
        let runs = usize::try_from(spec.wasm.audit_runs).expect("a small number: it is bounded by a limit");
        let compared_with = spec.wasm.tier.map_or_else(String::new, |tier| tier.to_string());
        let mut audit = WasmAudit { compared_with, runs: Vec::new() };
        for (number, settings) in variants.into_iter().cycle().take(runs).enumerate() {
            let tier = settings.tier.map_or_else(String::new, |tier| tier.to_string());
            progress.report(&format!("running again to compare: {} of {runs}, {tier}", number + 1)).await;
            let again = ActionSpec { wasm: settings, ..spec.clone() };
            let compared = async {
                let second = self.run_again(audited, &again).await?;
                let (store, function) = (&*self.store, spec.action.function());
                let limits = self.config.limits.tree;
                Ok(audit::differences(store, function, limits, result, &second).await?)
            };
            audit.runs.push(match compared.await {
                Ok(differences) => compared_run(tier, differences),
                Err(Failure::Cancelled) => return Err(Failure::Cancelled),
                Err(why) => WasmAuditRun { tier, not_run: why.to_string(), ..Default::default() },
            });
        }
        Ok(audit)
    }

    async fn run_again(
        &self,
        audited: &Audited<'_>,
        spec: &ActionSpec,
    ) -> Result<reapi::ActionResult, Failure> {
        let (executor, cancelled) = (audited.executor, audited.cancelled);
        let task = audited.task(spec);
        let layout = unless_cancelled(cancelled, executor.prepare(&task)).await?;
        let files = unless_cancelled(cancelled, self.lay_out(layout, spec, audited.tree)).await?;
        let (outcome, files) = executor.run(&task, files).await?;
        match outcome {
            Outcome::CutShort(_, failure) => Err(failure),
            Outcome::Exited(finished) => {
                let mut result = self.collect(files, spec).await?;
                self.add_streams(&mut result, finished, spec.action.function()).await?;
                Ok(result)
            }
        }
    }
}

impl Audited<'_> {
    fn task<'a>(&'a self, spec: &'a ActionSpec) -> Task<'a> {
        // Who follows the action follows its first run.
        let (stdout, stderr) = (Log::default(), Log::default());
        Task { spec, tree: self.tree, cancelled: self.cancelled.clone(), stdout, stderr }
    }
}

fn compared_run(tier: String, differences: Vec<Difference>) -> WasmAuditRun {
    let mut run = WasmAuditRun { tier, differences_count: differences.len() as u64, ..Default::default() };
    let mut bytes = 0;
    for difference in differences.into_iter().take(DIFFERENCES_MAX) {
        let told = WasmAuditDifference {
            what: difference.what,
            in_result: difference.first.unwrap_or_default(),
            in_run: difference.second.unwrap_or_default(),
        };
        bytes += told.encoded_len();
        if bytes > DIFFERENCES_BYTES_MAX {
            break;
        }
        run.differences.push(told);
    }
    run
}
