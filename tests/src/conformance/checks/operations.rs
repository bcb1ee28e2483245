//! Operations: looked at, waited for, listed, cancelled, forgotten.

use std::collections::HashSet;

use prost::Message as _;
use tonic::{Code, Request, Status};
use wardian_proto::longrunning::{
    CancelOperationRequest, DeleteOperationRequest, GetOperationRequest, ListOperationsRequest,
    ListOperationsResponse, Operation, WaitOperationRequest, operation,
};
use wardian_proto::reapi;
use wardian_proto::reapi::execution_stage::Value as Stage;

use super::super::outcome::{ensure, ensure_eq, refused_as, told};
use super::super::runs::{Run, metadata_of, response_of};
use super::super::{Stop, Subject, Verdict};
use super::{Check, check};

pub(super) const CHECKS: &[Check] = &[
    check!(ops_01_an_operation_is_found_by_its_name: "OPS-01", "OPS-06"),
    check!(ops_01_a_name_that_nobody_knows_is_not_found: "OPS-01"),
    check!(ops_02_what_is_cancelled_ends_as_cancelled: "OPS-02"),
    check!(ops_03_what_is_deleted_is_forgotten: "OPS-03"),
    check!(ops_04_operations_are_listed_in_pages: "OPS-04"),
    check!(ops_04_what_a_listing_cannot_do_is_refused: "OPS-04").own(),
    check!(ops_04_a_filter_lists_what_it_names: "OPS-04").own(),
    check!(ops_05_wait_operation_waits_for_the_end: "OPS-05"),
    check!(ops_06_what_is_done_has_a_response: "OPS-06"),
    check!(ops_07_names_are_distinct: "OPS-07"),
    check!(ops_08_cancelling_one_of_two_leaves_the_other: "OPS-08").own(),
    check!(log_02_operations_name_streams_for_readers: "LOG-02", "LOG-04"),
];

/// A script that goes on until it is cancelled, or for a while where that is not offered.
const LONG: &str = "sleep 30; echo \"$1\"";

/// Where a method is not offered there is nothing to try.
fn offered<T>(outcome: Result<T, Status>, method: &str) -> Result<Result<T, Status>, Stop> {
    match outcome {
        Err(status) if status.code() == Code::Unimplemented => {
            Err(Stop::skipped(format!("{method} answers {}", told(&status))))
        }
        outcome => Ok(outcome),
    }
}

impl Subject {
    async fn get_operation(&self, name: &str) -> Result<Result<Operation, Status>, Stop> {
        let outcome = self.operations().get_operation(GetOperationRequest { name: name.into() }).await;
        offered(outcome.map(tonic::Response::into_inner), "GetOperation")
    }

    async fn cancel_operation(&self, name: &str) -> Result<Result<(), Status>, Stop> {
        let request = CancelOperationRequest { name: name.into() };
        let outcome = self.operations().cancel_operation(request).await;
        offered(outcome.map(drop), "CancelOperation")
    }

    async fn wait_operation(&self, name: &str, seconds: i64) -> Result<Result<Operation, Status>, Stop> {
        let timeout = Some(prost_types::Duration { seconds, nanos: 0 });
        let request = WaitOperationRequest { name: name.into(), timeout };
        let outcome = self.operations().wait_operation(request).await;
        offered(outcome.map(tonic::Response::into_inner), "WaitOperation")
    }

    async fn list(
        &self,
        request: ListOperationsRequest,
    ) -> Result<Result<ListOperationsResponse, Status>, Stop> {
        let outcome = self.operations().list_operations(request).await;
        offered(outcome.map(tonic::Response::into_inner), "ListOperations")
    }

    /// The request for all operations of the instance.
    fn listing(&self, page_size: i32) -> ListOperationsRequest {
        let name = format!("{}operations", self.prefix());
        ListOperationsRequest { name, page_size, ..Default::default() }
    }

    /// Starts an action that goes on, and returns it once it runs.
    async fn running(&self) -> Result<(Run, String), Stop> {
        let built = self.upload(self.script(LONG)).await?;
        let mut run = self.start(&built).await?;
        let name = run.name().await?;
        if run.reaches(Stage::Executing).await? {
            return Ok((run, name));
        }
        Err(Stop::failed("an action that takes a while was done without being executed"))
    }
}

async fn ops_01_an_operation_is_found_by_its_name(subject: &Subject) -> Verdict {
    let (run, name) = subject.running().await?;
    let found = subject.get_operation(&name).await;
    subject.give_up(&name).await;
    let found = found??;
    ensure_eq!(found.name, name, "the operation's name");
    ensure!(!found.done && found.result.is_none(), "it is done while it goes on: {found:?}");
    let digest = |operation: &Operation| metadata_of(operation).map(|metadata| metadata.action_digest);
    ensure_eq!(digest(&found)?, digest(&run.seen[0])?, "its action");
    Ok(())
}

async fn ops_01_a_name_that_nobody_knows_is_not_found(subject: &Subject) -> Verdict {
    let name = format!("{}operations/{}", subject.prefix(), subject.upload_id());
    let outcome = subject.get_operation(&name).await?;
    // The code is usual, and nowhere said.
    subject.chose(outcome, Code::NotFound, "an operation that there is not")?;
    if subject.is_own() {
        refused_as(subject.cancel_operation(&name).await?, Code::NotFound, "cancelling it")?;
        refused_as(subject.wait_operation(&name, 1).await?, Code::NotFound, "waiting for it")?;
    }
    Ok(())
}

async fn ops_02_what_is_cancelled_ends_as_cancelled(subject: &Subject) -> Verdict {
    let (run, name) = subject.running().await?;
    subject.cancel_operation(&name).await??;
    let ended = run.ended().await?;
    if ended.code() == Code::Ok && !subject.is_own() {
        return Err(Stop::skipped("it was not cancelled, which the server may do if it can"));
    }
    ensure_eq!(ended.code(), Code::Cancelled, "the status in the response");
    if subject.is_own() {
        let before = subject.get_operation(&name).await??;
        subject.cancel_operation(&name).await??;
        ensure_eq!(subject.get_operation(&name).await??, before, "cancelled twice");
    }
    Ok(())
}

async fn ops_03_what_is_deleted_is_forgotten(subject: &Subject) -> Verdict {
    let built = subject.upload(subject.script("sleep 2; echo \"$1\"")).await?;
    let mut run = subject.start(&built).await?;
    let name = run.name().await?;
    let request = DeleteOperationRequest { name: name.clone() };
    offered(subject.operations().delete_operation(request).await, "DeleteOperation")??;
    let following = match subject.wait(&name).await {
        Ok(run) => run.status().await,
        Err(status) => Err(status),
    };
    refused_as(following, Code::NotFound, "WaitExecution of an operation that was deleted")?;
    refused_as(subject.get_operation(&name).await?, Code::NotFound, "GetOperation of it")?;
    // Whether it went on, or begins anew: the action is not cancelled by that.
    let ended = subject.execute(&built).await?;
    ensure_eq!((ended.code(), ended.result().exit_code), (Code::Ok, 0), "the same action again");
    Ok(())
}

async fn ops_04_operations_are_listed_in_pages(subject: &Subject) -> Verdict {
    /// Pages that are looked at, so that a server with a long memory is left in peace.
    const PAGES_MAX: usize = 200;
    subject.executes()?;
    // One that is listed by every server that lists any, and some that may be.
    for _ in 0..2 {
        subject.succeed(subject.script("echo \"$1\"")).await?;
    }
    let (_run, name) = subject.running().await?;
    let outcome = all_pages(subject, 2, PAGES_MAX).await;
    let whole = subject.list(subject.listing(0)).await;
    subject.give_up(&name).await;
    let (names, is_all) = outcome?;
    let distinct: HashSet<&String> = names.iter().collect();
    ensure_eq!(distinct.len(), names.len(), "operations in pages of two, each once");
    let is_there = names.contains(&name) || whole??.operations.iter().any(|o| o.name == name);
    ensure!(is_there || !is_all, "the one that runs is not among the {} that are listed", names.len());
    Ok(())
}

/// The names on the first pages, and whether there are no more.
async fn all_pages(subject: &Subject, size: i32, most: usize) -> Result<(Vec<String>, bool), Stop> {
    let mut names = Vec::new();
    let mut request = subject.listing(size);
    for _ in 0..most {
        let page = subject.list(request.clone()).await??;
        let count = page.operations.len();
        ensure!(
            i32::try_from(count).is_ok_and(|count| count <= size),
            "{count} operations on a page of {size}"
        );
        names.extend(page.operations.into_iter().map(|operation| operation.name));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            return Ok((names, true));
        }
    }
    Ok((names, false))
}

async fn ops_04_what_a_listing_cannot_do_is_refused(subject: &Subject) -> Verdict {
    let base = subject.listing(0);
    let partial = ListOperationsRequest { return_partial_success: true, ..base.clone() };
    refused_as(subject.operations().list_operations(partial).await, Code::Unimplemented, "partial success")?;
    for filter in ["colour=green", "done", "done=true OR done=false", "stage=nowhere"] {
        let request = ListOperationsRequest { filter: filter.into(), ..base.clone() };
        refused_as(subject.list(request).await?, Code::InvalidArgument, filter)?;
    }
    refused_as(
        subject.list(subject.listing(-1)).await?,
        Code::InvalidArgument,
        "a page of less than nothing",
    )?;
    Ok(())
}

async fn ops_04_a_filter_lists_what_it_names(subject: &Subject) -> Verdict {
    const HEADER: &str = "build.bazel.remote.execution.v2.requestmetadata-bin";
    let invocation = subject.fresh_name();
    let built = subject.upload(subject.script("echo \"$1\"")).await?;
    let metadata = reapi::RequestMetadata { tool_invocation_id: invocation.clone(), ..Default::default() }
        .encode_to_vec();
    let mut request = Request::new(subject.request(&built));
    request.metadata_mut().insert_bin(HEADER, tonic::metadata::MetadataValue::from_bytes(&metadata));
    let ended = Run::new(subject.execution().execute(request).await?.into_inner()).ended().await?;
    let name = ended.name().to_owned();
    for (filter, is_listed) in [
        (format!("invocation={invocation}"), true),
        (format!("done=true AND invocation=\"{invocation}\""), true),
        (format!("stage=COMPLETED AND action={}", built.action), true),
        (format!("done=false AND invocation={invocation}"), false),
        (format!("invocation={}", subject.fresh_name()), false),
    ] {
        let mut names = Vec::new();
        let mut request = ListOperationsRequest { filter: filter.clone(), ..subject.listing(0) };
        loop {
            let page = subject.list(request.clone()).await??;
            names.extend(page.operations.into_iter().map(|operation| operation.name));
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                break;
            }
        }
        let expected = if is_listed { vec![name.clone()] } else { Vec::new() };
        ensure_eq!(names, expected, "{filter}");
    }
    Ok(())
}

async fn ops_05_wait_operation_waits_for_the_end(subject: &Subject) -> Verdict {
    let (_run, name) = subject.running().await?;
    let soon = subject.wait_operation(&name, 0).await;
    subject.give_up(&name).await;
    ensure!(!soon??.done, "an operation that goes on is done");
    let built = subject.upload(subject.script("sleep 1; echo \"$1\"")).await?;
    let name = subject.start(&built).await?.name().await?;
    let waited = subject.wait_operation(&name, 25).await??;
    ensure_eq!(waited.name, name, "the operation's name");
    if !waited.done && !subject.is_own() {
        return Err(Stop::skipped("it answers before the end, as a server may"));
    }
    ensure!(waited.done, "WaitOperation does not wait");
    ensure_eq!(response_of(&waited)?.result.unwrap_or_default().exit_code, 0, "the exit code");
    Ok(())
}

async fn ops_06_what_is_done_has_a_response(subject: &Subject) -> Verdict {
    let built = subject.upload(subject.script("echo \"$1\"; exit 3")).await?;
    let ended = subject.execute(&built).await?;
    for operation in &ended.operations {
        let has_response = matches!(operation.result, Some(operation::Result::Response(_)));
        ensure_eq!(has_response, operation.done, "a response, as it is done");
        ensure!(has_response || operation.result.is_none(), "Operation.error is set");
    }
    let got = subject.get_operation(ended.name()).await??;
    ensure!(got.done, "it is done, and GetOperation says it is not");
    ensure_eq!(response_of(&got)?.result.unwrap_or_default().exit_code, 3, "the exit code by GetOperation");
    let run = subject.wait(ended.name()).await?;
    let again = run.ended().await?;
    ensure_eq!(again.result().exit_code, 3, "the exit code by WaitExecution");
    Ok(())
}

async fn ops_07_names_are_distinct(subject: &Subject) -> Verdict {
    let mut names = HashSet::new();
    for _ in 0..2 {
        let built = subject.upload(subject.script("echo \"$1\"")).await?;
        let name = subject.start(&built).await?.name().await?;
        ensure!(!name.is_empty(), "an operation without a name");
        if subject.is_own() {
            let id = name.strip_prefix(&format!("{}operations/", subject.prefix())).unwrap_or_default();
            ensure!(uuid::Uuid::parse_str(id).is_ok(), "{name:?} is not [INSTANCE/]operations/UUID");
        }
        ensure!(names.insert(name), "two operations of one name");
    }
    Ok(())
}

async fn ops_08_cancelling_one_of_two_leaves_the_other(subject: &Subject) -> Verdict {
    let built = subject.upload(subject.script("sleep 3; echo \"$1\"")).await?;
    let (mut kept, mut dropped) = (subject.start(&built).await?, subject.start(&built).await?);
    let (name, dropped_name) = (kept.name().await?, dropped.name().await?);
    ensure!(name != dropped_name, "two clients are given one operation");
    subject.cancel_operation(&dropped_name).await??;
    ensure_eq!(dropped.ended().await?.code(), Code::Cancelled, "the one that was cancelled");
    let ended = kept.ended().await?;
    ensure_eq!((ended.code(), ended.result().exit_code), (Code::Ok, 0), "the other");
    Ok(())
}

async fn log_02_operations_name_streams_for_readers(subject: &Subject) -> Verdict {
    let built = subject.upload(subject.script("echo \"$1\"; sleep 30")).await?;
    let mut run = subject.start(&built).await?;
    let name = run.name().await?;
    let outcome = stream_of(subject, &mut run).await;
    subject.give_up(&name).await;
    outcome
}

async fn stream_of(subject: &Subject, run: &mut Run) -> Verdict {
    loop {
        let last = run.seen.last().ok_or_else(|| Stop::failed("a stream without a message"))?;
        let (metadata, done) = (metadata_of(last)?, last.done);
        if !metadata.stdout_stream_name.is_empty() {
            let stream = metadata.stdout_stream_name;
            let id = stream.rsplit_once("logstreams/").map(|(_, id)| id.to_owned()).unwrap_or_default();
            ensure!(!id.is_empty() && !id.contains('/'), "{stream:?} is no name for readers");
            // It is written meanwhile: the first bytes are there before the command has ended.
            let first = subject.read(&stream, 0, 4).await?;
            ensure_eq!(first.len(), 4, "bytes of the running command's output");
            return Ok(());
        }
        if done || run.next().await?.is_none() {
            return Err(Stop::skipped("operations name no log streams"));
        }
    }
}
