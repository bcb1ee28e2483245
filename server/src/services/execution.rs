//! Execution: actions in, operations out.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use prost::Message as _;
use tokio::sync::watch;
use tonic::{Request, Response, Status};
use wardian_proto::longrunning::{self, operation};
use wardian_proto::{Digest, DigestFunction, InstanceName, pack_any, reapi, rpc, wardian};
use wardian_runtime::{Failure, STREAM_NAMES, action};
use wardian_scheduler::state::{View, Waiting};
use wardian_scheduler::{Job, JournalError, Operation, OperationName, Platform, Stage, SubmitError};

use super::inline::Inline;
use super::request_metadata;
use super::{Context, failure_status, retry_later};
use crate::auth::{Caller, Verb};

/// Files that one request may ask to have inlined.
const INLINE_FILES_MAX: usize = 10_000;

/// How often whoever follows a queued operation is told what it waits for.
const QUEUED_NEWS_INTERVAL: Duration = Duration::from_secs(10);

/// When a client that met a full queue may ask again: actions that wait are gone one by one, so soon.
const FULL_QUEUE_RETRY_SECONDS: i64 = 1;

pub(super) struct Execution(pub(super) Arc<Context>);

type OperationStream = BoxStream<'static, Result<longrunning::Operation, Status>>;

/// Where the output of a running command can be read. Empty when it cannot.
#[derive(Clone, Default)]
struct StreamNames {
    stdout: String,
    stderr: String,
}

impl StreamNames {
    /// Finds the names among what the worker reported.
    fn of(metadata: &reapi::ExecutedActionMetadata) -> Self {
        let packed = metadata.auxiliary_metadata.iter().find(|any| is_stream_names(any));
        let names = packed.and_then(|any| reapi::ExecuteOperationMetadata::decode(&*any.value).ok());
        names.map_or_else(Self::default, |names| Self {
            stdout: names.stdout_stream_name,
            stderr: names.stderr_stream_name,
        })
    }
}

fn is_stream_names(any: &prost_types::Any) -> bool {
    any.type_url.rsplit('/').next() == Some(STREAM_NAMES)
}

/// What a client wants inside its response.
#[derive(Clone, Default)]
struct InlineHints {
    stdout: bool,
    stderr: bool,
    output_files: Vec<String>,
}

#[tonic::async_trait]
impl reapi::execution_server::Execution for Execution {
    type ExecuteStream = OperationStream;
    type WaitExecutionStream = OperationStream;

    async fn execute(
        &self,
        request: Request<reapi::ExecuteRequest>,
    ) -> Result<Response<OperationStream>, Status> {
        let invocation = request_metadata::invocation(request.metadata());
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let instance = self.0.instance(&caller, Verb::Execute, &request.instance_name)?;
        let action_digest = instance.digest(request.digest_function, request.action_digest.as_ref())?;
        if request.inline_output_files.len() > INLINE_FILES_MAX {
            let text = format!("inline_output_files has more than {INLINE_FILES_MAX} paths");
            return Err(Status::invalid_argument(text));
        }
        let hints = InlineHints {
            stdout: request.inline_stdout,
            stderr: request.inline_stderr,
            output_files: request.inline_output_files,
        };
        let limits = &self.0.limits;
        let blobs = &*self.0.blobs;
        let action =
            action::read_action(blobs, &action_digest, limits).await.map_err(|f| failure_status(&f))?;
        action::timeout(&action, limits).map_err(|f| failure_status(&f))?;
        // In the response: a long list does not fit the headers that the status of a call travels in.
        let missing = |failure: Failure| {
            let response = reapi::ExecuteResponse { status: Some(failure.to_status()), ..Default::default() };
            Ok(Response::new(done_at_once(&instance.name, &action_digest, &response)))
        };
        // From here on `run` is what is run, cached and joined; the client goes on hearing of what it sent.
        let (run, action, blobs_of_it) = match self.0.effective(instance, action_digest, &action).await {
            Ok(None) => (action_digest, action, None),
            Ok(Some(effective)) => (effective.digest, effective.action.clone(), Some(effective)),
            Err(failure @ Failure::MissingBlobs(_)) => return missing(failure),
            Err(failure) => return Err(failure_status(&failure)),
        };
        if !request.skip_cache_lookup
            && !action.do_not_cache
            && let Some(result) = self.0.action_cache.get(&instance.name, &run).await?
        {
            return Ok(Response::new(self.cached(&instance.name, action_digest, result, hints).await));
        }
        if let Some(effective) = &blobs_of_it {
            self.0.store_effective(effective).await.map_err(|f| failure_status(&f))?;
        }
        // Before the action waits for anything: what is there now is there when a worker wants it.
        let inputs = match self.0.pin_inputs(run, &action).await {
            Ok(inputs) => inputs,
            Err(failure @ Failure::MissingBlobs(_)) => return missing(failure),
            Err(failure) => return Err(failure_status(&failure)),
        };
        let platform =
            action::read_platform(blobs, &action, &run, limits).await.map_err(|f| failure_status(&f))?;
        let sandboxed = instance.demands_sandbox(&platform);
        let platform = instance.placed(platform);
        let job = Job {
            instance: instance.name.clone(),
            action: run,
            requested: action_digest,
            memory_bytes: memory_needed(&platform),
            platform,
            invocation,
            priority: request.execution_policy.map_or(0, |policy| policy.priority),
            do_not_cache: action.do_not_cache,
        };
        let submitted = self.0.queue.submit(job, Some(inputs));
        let operation = submitted.map_err(|error| match error {
            SubmitError::Unsatisfiable(_) if sandboxed => Status::failed_precondition(format!(
                "{error}; native actions of instance {:?} run in sandboxes only (its setting `native`), and an action \
                 for WebAssembly says so with OSFamily=wasi",
                instance.name.as_str()
            )),
            error => submit_status(error),
        })?;
        // Before the client learns its name.
        self.0.queue.kept(&operation).await.map_err(|error| submit_status(error.into()))?;
        Ok(Response::new(follow(Arc::clone(&self.0), operation, hints)))
    }

    async fn wait_execution(
        &self,
        request: Request<reapi::WaitExecutionRequest>,
    ) -> Result<Response<OperationStream>, Status> {
        let operation = find(&self.0, &Caller::of(&request)?, &request.get_ref().name)?;
        Ok(Response::new(follow(Arc::clone(&self.0), operation, InlineHints::default())))
    }
}

impl Execution {
    async fn cached(
        &self,
        instance: &InstanceName,
        action: Digest,
        result: reapi::ActionResult,
        hints: InlineHints,
    ) -> OperationStream {
        let response = reapi::ExecuteResponse {
            result: Some(result),
            cached_result: true,
            status: Some(rpc::Status::default()),
            ..Default::default()
        };
        let response = with_inlined(&self.0, &action, &response, &hints).await;
        done_at_once(instance, &action, &response)
    }
}

/// What an action says it needs of a worker's memory: its limit, as it may use all of it. 0 when it does not say.
fn memory_needed(platform: &Platform) -> u64 {
    platform.get("wasm-memory").and_then(|bytes| bytes.parse().ok()).unwrap_or(0)
}

/// A stream of one message: the operation is done before it began.
fn done_at_once(
    instance: &InstanceName,
    action: &Digest,
    response: &reapi::ExecuteResponse,
) -> OperationStream {
    let operation = completed(&OperationName::new(instance), action, response);
    futures::stream::iter([Ok(operation)]).boxed()
}

fn submit_status(error: SubmitError) -> Status {
    let text = error.to_string();
    match error {
        SubmitError::Unsatisfiable(_) => Status::failed_precondition(text),
        SubmitError::QueueFull(_)
        | SubmitError::TenantQueueFull(_)
        | SubmitError::TenantTooManyOperations(_)
        | SubmitError::TooManyPlatforms(_)
        | SubmitError::TooManyOperations(_)
        | SubmitError::Journal(JournalError::Behind(_) | JournalError::BehindBytes(_)) => {
            retry_later(text, FULL_QUEUE_RETRY_SECONDS)
        }
        SubmitError::ShuttingDown | SubmitError::Journal(_) => Status::unavailable(text),
    }
}

/// Finds an operation by its name.
pub(super) fn find(context: &Context, caller: &Caller, name: &str) -> Result<Operation, Status> {
    let name = own_operation(caller, name)?;
    context.queue.operation(&name).ok_or_else(|| unknown_operation(name.as_str()))
}

/// The name of an operation that the caller may look at and cancel. Names begin with their instance, so that this is
/// known without asking whether there is such an operation.
pub(super) fn own_operation(caller: &Caller, name: &str) -> Result<OperationName, Status> {
    let prefix =
        name.rsplit_once("operations/").map(|(prefix, _)| prefix.strip_suffix('/').unwrap_or(prefix));
    let instance = prefix.and_then(|prefix| InstanceName::parse(prefix).ok());
    let instance = instance.ok_or_else(|| unknown_operation(name))?;
    if !caller.may(Verb::Admin, &instance) {
        caller.check(Verb::Execute, &instance)?;
    }
    Ok(OperationName::from_client(name))
}

pub(super) fn unknown_operation(name: &str) -> Status {
    Status::not_found(format!("no operation {name:?}: unknown, or ended some time ago"))
}

/// Streams an operation's present state and every change until it ends.
fn follow(context: Arc<Context>, operation: Operation, hints: InlineHints) -> OperationStream {
    struct Follow {
        context: Arc<Context>,
        name: OperationName,
        views: watch::Receiver<View>,
        hints: InlineHints,
        first: bool,
        ended: bool,
    }
    let Operation { name, views, .. } = operation;
    let state = Follow { context, name, views, hints, first: true, ended: false };
    futures::stream::unfold(state, |mut state| async move {
        if state.ended {
            return None;
        }
        // The sender goes when the operation ends, or when somebody deleted it.
        if !state.first && !changed_or_still_queued(&mut state.views).await {
            state.ended = true;
            let status = if state.context.queue.is_shutting_down() {
                Status::unavailable(if state.context.queue.has_journal() {
                    "the server is shutting down; WaitExecution finds the operation when it is back"
                } else {
                    "the server is shutting down and forgets the operation; execute the action again"
                })
            } else {
                Status::not_found("the operation was deleted")
            };
            return Some((Err(status), state));
        }
        state.first = false;
        let view = state.views.borrow_and_update().clone();
        let operation = match &view.stage {
            Stage::Completed(response) => {
                state.ended = true;
                let response =
                    with_inlined(&state.context, &view.job.requested, response, &state.hints).await;
                completed(&state.name, &view.job.requested, &response)
            }
            _ => describe(&state.context, &state.name, &view),
        };
        Some((Ok(operation), state))
    })
    .boxed()
}

/// Waits until there is something to say: a change, or for a while nothing of an operation that is queued, because
/// what it waits for may be something else by now. False when nothing more will come.
async fn changed_or_still_queued(views: &mut watch::Receiver<View>) -> bool {
    let queued = matches!(views.borrow().stage, Stage::Queued);
    tokio::select! {
        changed = views.changed() => changed.is_ok(),
        () = tokio::time::sleep(QUEUED_NEWS_INTERVAL), if queued => true,
    }
}

async fn with_inlined(
    context: &Context,
    action: &Digest,
    response: &reapi::ExecuteResponse,
    hints: &InlineHints,
) -> reapi::ExecuteResponse {
    let mut response = response.clone();
    if let Some(result) = &mut response.result {
        let inline = Inline { stdout: hints.stdout, stderr: hints.stderr, output_files: &hints.output_files };
        inline.apply(&*context.blobs, action.function(), result).await;
    }
    response
}

/// The wire form of an operation in whatever state.
pub(super) fn describe(context: &Context, name: &OperationName, view: &View) -> longrunning::Operation {
    use reapi::execution_stage::Value;
    let (stage, partial) = match &view.stage {
        Stage::Completed(response) => return completed(name, &view.job.requested, response),
        Stage::Queued => (Value::Queued, context.queue.waiting(name).map(waiting)),
        Stage::Executing(metadata) => (Value::Executing, Some((**metadata).clone())),
    };
    let streams = partial.as_ref().map_or_else(StreamNames::default, StreamNames::of);
    longrunning::Operation {
        name: name.to_string(),
        metadata: Some(metadata(stage, &view.job.requested, partial, &streams)),
        done: false,
        result: None,
    }
}

/// What is known of a run that no worker has: why not.
fn waiting(waiting: Waiting) -> reapi::ExecutedActionMetadata {
    let attempts = waiting.attempts.into_iter();
    let since = waiting.since.into();
    let message = wardian::Waiting {
        since: Some(since),
        reason: waiting.reason.to_string(),
        attempts: attempts
            .map(|a| wardian::Attempt { worker: a.worker, reason: a.reason.to_string() })
            .collect(),
    };
    reapi::ExecutedActionMetadata {
        queued_timestamp: Some(since),
        auxiliary_metadata: vec![pack_any("wardian.v1.Waiting", &message)],
        ..Default::default()
    }
}

fn completed(
    name: &OperationName,
    action: &Digest,
    response: &reapi::ExecuteResponse,
) -> longrunning::Operation {
    let packed = pack_any("build.bazel.remote.execution.v2.ExecuteResponse", response);
    longrunning::Operation {
        name: name.to_string(),
        metadata: Some(metadata(
            reapi::execution_stage::Value::Completed,
            action,
            None,
            &StreamNames::default(),
        )),
        done: true,
        result: Some(operation::Result::Response(packed)),
    }
}

fn metadata(
    stage: reapi::execution_stage::Value,
    action: &Digest,
    mut partial_execution_metadata: Option<reapi::ExecutedActionMetadata>,
    streams: &StreamNames,
) -> prost_types::Any {
    if let Some(metadata) = &mut partial_execution_metadata {
        metadata.auxiliary_metadata.retain(|any| !is_stream_names(any));
    }
    let function: DigestFunction = action.function();
    let metadata = reapi::ExecuteOperationMetadata {
        stage: stage.into(),
        action_digest: Some(action.to_wire()),
        stdout_stream_name: streams.stdout.clone(),
        stderr_stream_name: streams.stderr.clone(),
        partial_execution_metadata,
        digest_function: function.wire().into(),
    };
    pack_any("build.bazel.remote.execution.v2.ExecuteOperationMetadata", &metadata)
}
