//! Follows a run and says what it waits for.

use prost::Message as _;
use wardian_proto::reapi;
use wardian_proto::reapi::execution_stage::Value as Stage;
use wardian_proto::wardian::Waiting;

use super::format;
use super::progress::Task;
use crate::client::{ClientError, Execution, Outcome, Progress, Step};

/// Follows a run to its end; `task` shows the stages, each described for `what`.
pub(crate) async fn follow(
    execution: &mut Execution,
    what: &str,
    task: &Task,
) -> Result<Outcome, ClientError> {
    loop {
        match execution.next().await? {
            Step::Progress(progress) => task.set_text(&format!("{what}: {}", describe(&progress))),
            Step::Retry(failure) => {
                let failure = format::plain(&failure.to_string());
                task.set_text(&format!("{what}: connection lost, trying again ({failure})"));
            }
            Step::Done(outcome) => return Ok(*outcome),
        }
    }
}

fn describe(progress: &Progress) -> String {
    let worker = format::plain(&progress.metadata.worker);
    match progress.stage {
        Stage::CacheCheck => "looking for a cached result".to_owned(),
        Stage::Queued => match waiting(&progress.metadata) {
            Some(waiting) => format!("waiting ({})", format::plain(&waiting.reason)),
            None => "waiting for a worker".to_owned(),
        },
        Stage::Executing => match doing(&progress.metadata) {
            Some(doing) => format!("{} ({worker})", format::plain(&doing)),
            None => "running".to_owned(),
        },
        Stage::Completed => "done".to_owned(),
        Stage::Unknown => "under way".to_owned(),
    }
}

/// Why an operation waits, when the server says so.
pub(super) fn waiting(metadata: &reapi::ExecutedActionMetadata) -> Option<Waiting> {
    let found = metadata.auxiliary_metadata.iter().find(|any| any.type_url.ends_with("/wardian.v1.Waiting"));
    found.and_then(|any| Waiting::decode(&*any.value).ok())
}

/// What the worker says that it does now: the last text among the auxiliary metadata. Others are remarks.
pub(super) fn doing(metadata: &reapi::ExecutedActionMetadata) -> Option<String> {
    let text = metadata
        .auxiliary_metadata
        .iter()
        .rfind(|any| any.type_url.ends_with("/google.protobuf.StringValue"))?;
    String::decode(text.value.as_slice()).ok()
}

/// Returns what the work comes to, or nothing when Ctrl-C came first.
pub(crate) async fn until_interrupted<T>(work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        outcome = work => Some(outcome),
        _ = tokio::signal::ctrl_c() => None,
    }
}
