//! Executions, followed as any client would: what a message must have is for the checks to say.

use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use tonic::{Code, Status, Streaming};
use wardian_proto::longrunning::{CancelOperationRequest, Operation, operation};
use wardian_proto::reapi::execution_stage::Value as Stage;
use wardian_proto::{Digest, reapi, rpc};

use super::outcome::told;
use super::{Stop, Subject};
use crate::{Built, Ended, PATIENCE, TestAction};

/// The stream of an execution while it is read.
pub(super) struct Run {
    stream: Streaming<Operation>,
    /// Every message so far.
    pub(super) seen: Vec<Operation>,
}

/// Why an action was not run to its end, wherever the server said so.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    pub(super) code: Code,
    pub(super) message: String,
    /// Subjects of the violations of type MISSING, sorted.
    pub(super) missing: Vec<String>,
    /// Whether it is the status in an ExecuteResponse, and not the call's.
    pub(super) is_in_response: bool,
}

impl Fault {
    fn new(code: Code, message: &str, details: &[prost_types::Any], is_in_response: bool) -> Self {
        let failures = details.iter().filter(|any| any.type_url.ends_with("google.rpc.PreconditionFailure"));
        let failures = failures.filter_map(|any| rpc::PreconditionFailure::decode(&*any.value).ok());
        let violations = failures.flat_map(|failure| failure.violations);
        let mut missing: Vec<_> = violations.filter(|v| v.r#type == "MISSING").map(|v| v.subject).collect();
        missing.sort();
        Self { code, message: message.to_owned(), missing, is_in_response }
    }

    fn of_call(status: &Status) -> Self {
        let wire = rpc::Status::decode(Bytes::copy_from_slice(status.details())).unwrap_or_default();
        Self::new(status.code(), status.message(), &wire.details, false)
    }

    /// The fault in a response; `None` when the action was run to its end.
    pub(super) fn of_response(response: &reapi::ExecuteResponse) -> Option<Self> {
        let status = response.status.as_ref().filter(|status| status.code != 0)?;
        Some(Self::new(Code::from(status.code), &status.message, &status.details, true))
    }

    /// It must have the code that the requirement names.
    #[track_caller]
    pub(super) fn must_be(&self, code: Code, what: &str) -> Result<(), Stop> {
        if self.code == code {
            return Ok(());
        }
        let (got, text) = (self.code, &self.message);
        Err(Stop::failed(format!("{what}: should be refused as {code:?}, and was as {got:?} ({text})")))
    }
}

/// The metadata of an operation.
pub(super) fn metadata_of(operation: &Operation) -> Result<reapi::ExecuteOperationMetadata, Stop> {
    let any = operation.metadata.as_ref().ok_or_else(|| Stop::failed("an operation without metadata"))?;
    if !any.type_url.ends_with("/build.bazel.remote.execution.v2.ExecuteOperationMetadata") {
        return Err(Stop::failed(format!("metadata of an operation are a {:?}", any.type_url)));
    }
    reapi::ExecuteOperationMetadata::decode(&*any.value)
        .map_err(|error| Stop::failed(format!("metadata of an operation: {error}")))
}

/// The response of an operation that is done.
pub(super) fn response_of(operation: &Operation) -> Result<reapi::ExecuteResponse, Stop> {
    match &operation.result {
        Some(operation::Result::Response(any))
            if any.type_url.ends_with("/build.bazel.remote.execution.v2.ExecuteResponse") =>
        {
            reapi::ExecuteResponse::decode(&*any.value)
                .map_err(|error| Stop::failed(format!("the response of an operation: {error}")))
        }
        Some(operation::Result::Response(any)) => {
            Err(Stop::failed(format!("the response of an operation is a {:?}", any.type_url)))
        }
        Some(operation::Result::Error(error)) => {
            Err(Stop::failed(format!("Operation.error is set, which it never is: {error:?}")))
        }
        None => Err(Stop::failed("an operation that is done has no response")),
    }
}

impl Run {
    pub(super) fn new(stream: Streaming<Operation>) -> Self {
        Self { stream, seen: Vec::new() }
    }

    /// Waits for the next message; `None` is the end of the stream.
    async fn message(&mut self) -> Result<Option<Result<Operation, Status>>, Stop> {
        let message = tokio::time::timeout(PATIENCE, self.stream.message()).await;
        let waited = PATIENCE.as_secs();
        let message = message.map_err(|_| Stop::failed(format!("no message came within {waited} s")))?;
        if let Ok(Some(operation)) = &message {
            self.seen.push(operation.clone());
        }
        Ok(message.transpose())
    }

    /// Waits for the next message, which must be none of a fault; `None` is the end of the stream.
    pub(super) async fn next(&mut self) -> Result<Option<&Operation>, Stop> {
        match self.message().await? {
            None => Ok(None),
            Some(Ok(_)) => Ok(self.seen.last()),
            Some(Err(status)) => {
                Err(Stop::failed(format!("the stream of an execution broke: {}", told(&status))))
            }
        }
    }

    /// The operation's name, as the first message tells it.
    pub(super) async fn name(&mut self) -> Result<String, Stop> {
        if self.seen.is_empty() {
            self.next().await?;
        }
        let first = self.seen.first().ok_or_else(|| Stop::failed("a stream without a message"))?;
        Ok(first.name.clone())
    }

    /// Waits until the operation is in a stage; `false` when it was done without being seen in it.
    pub(super) async fn reaches(&mut self, stage: Stage) -> Result<bool, Stop> {
        if self.seen.is_empty() {
            self.next().await?;
        }
        loop {
            let last = self.seen.last().ok_or_else(|| Stop::failed("a stream without a message"))?;
            if metadata_of(last)?.stage() == stage {
                return Ok(true);
            }
            if last.done || self.next().await?.is_none() {
                return Ok(false);
            }
        }
    }

    /// Reads to the end.
    pub(super) async fn ended(mut self) -> Result<Ended, Stop> {
        while self.next().await?.is_some() {}
        self.finish()
    }

    /// Reads to the end, which may be a status.
    pub(super) async fn status(mut self) -> Result<(), Status> {
        while self.stream.message().await?.is_some() {}
        Ok(())
    }

    fn finish(self) -> Result<Ended, Stop> {
        let last = self.seen.last().ok_or_else(|| Stop::failed("a stream without a message"))?;
        if !last.done {
            return Err(Stop::failed("the stream ended before its operation was done"));
        }
        let response = response_of(last)?;
        Ok(Ended { operations: self.seen, response })
    }
}

impl Subject {
    /// A native action of a shell script that nobody has run before. `$1` is a word of its own.
    pub(super) fn script(&self, text: &str) -> TestAction {
        TestAction::new(&["/bin/sh", "-euc", text, "sh", &self.fresh_name()])
            .env("PATH", "/usr/bin:/bin")
            .digest_function(self.function())
    }

    /// The request that executes an action on this instance.
    pub(super) fn request(&self, built: &Built) -> reapi::ExecuteRequest {
        reapi::ExecuteRequest { instance_name: self.instance(), ..built.request() }
    }

    /// Sends an uploaded action to Execute, which must take it.
    pub(super) async fn start(&self, built: &Built) -> Result<Run, Stop> {
        self.start_as(self.request(built)).await
    }

    /// Sends a request to Execute, which must take it.
    pub(super) async fn start_as(&self, request: reapi::ExecuteRequest) -> Result<Run, Stop> {
        Ok(Run::new(self.execution().execute(request).await?.into_inner()))
    }

    /// Sends a request to Execute and follows it to its end: how it ended, or why it did not run to its end.
    pub(super) async fn attempt(&self, request: reapi::ExecuteRequest) -> Result<Result<Ended, Fault>, Stop> {
        let mut run = match self.execution().execute(request).await {
            Ok(response) => Run::new(response.into_inner()),
            Err(status) => return Ok(Err(Fault::of_call(&status))),
        };
        while let Some(message) = run.message().await? {
            if let Err(status) = message {
                return Ok(Err(Fault::of_call(&status)));
            }
        }
        let ended = run.finish()?;
        Ok(Fault::of_response(&ended.response).map_or(Ok(ended), Err))
    }

    /// Executes an uploaded action, which must not be run to its end.
    pub(super) async fn fault(&self, built: &Built, what: &str) -> Result<Fault, Stop> {
        self.fault_as(self.request(built), what).await
    }

    /// Sends a request to Execute, which must not be run to its end.
    pub(super) async fn fault_as(&self, request: reapi::ExecuteRequest, what: &str) -> Result<Fault, Stop> {
        match self.attempt(request).await? {
            Err(fault) => Ok(fault),
            Ok(ended) => {
                let code = ended.result().exit_code;
                Err(Stop::failed(format!("{what}: should be refused, and was run (exit code {code})")))
            }
        }
    }

    /// Executes an uploaded action, which must not be run to its end: on our server with the code that we chose where
    /// the API names none.
    pub(super) async fn chose_fault(&self, built: &Built, code: Code, what: &str) -> Result<Fault, Stop> {
        let fault = self.fault(built, what).await?;
        if self.is_own() {
            fault.must_be(code, what)?;
        }
        Ok(fault)
    }

    /// Follows an operation by its name.
    pub(super) async fn wait(&self, name: &str) -> Result<Run, Status> {
        let request = reapi::WaitExecutionRequest { name: name.into() };
        Ok(Run::new(self.execution().wait_execution(request).await?.into_inner()))
    }

    /// Asks for an operation to be cancelled, and does not mind when that is not offered.
    pub(super) async fn give_up(&self, name: &str) {
        let _ = self.operations().cancel_operation(CancelOperationRequest { name: name.into() }).await;
    }

    /// Standard output of a result, wherever it is.
    pub(super) async fn stdout(
        &self,
        function_of: &Built,
        result: &reapi::ActionResult,
    ) -> Result<Bytes, Stop> {
        self.content(function_of, result.stdout_digest.as_ref(), &result.stdout_raw).await
    }

    /// What a result tells inline or by a digest.
    pub(super) async fn content(
        &self,
        function_of: &Built,
        digest: Option<&reapi::Digest>,
        inline: &Bytes,
    ) -> Result<Bytes, Stop> {
        if digest.is_none() || !inline.is_empty() {
            return Ok(inline.clone());
        }
        Ok(self.get(&self.digest_in(function_of, digest)?).await?)
    }

    /// A digest that a result names, which has the function of its action.
    pub(super) fn digest_in(
        &self,
        function_of: &Built,
        wire: Option<&reapi::Digest>,
    ) -> Result<Digest, Stop> {
        Digest::from_wire(function_of.action.function(), wire)
            .map_err(|error| Stop::failed(format!("a result names {wire:?}: {error}")))
    }
}

/// Waits for something that a server may never come to.
pub(super) async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(limit, future).await.ok()
}
