//! One run of an action, followed from Execute to its end through broken connections.

use std::time::Duration;

use prost::Message;
use tonic::{Code, Status, Streaming};
use wardian_proto::{longrunning, reapi, rpc};
use wardian_store::backend::Connection;
use wardian_store::is_unavailable;

use super::{ClientError, Failure, MESSAGE_BYTES_MAX};

/// How often in a row a broken stream is taken up again before giving up.
const RETRIES_MAX: u32 = 8;

/// First pause before a retry; it doubles with each.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// Longest pause before a retry.
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(5);

/// Metadata key of the message that tells the server who calls.
const REQUEST_METADATA: &str = "build.bazel.remote.execution.v2.requestmetadata-bin";

/// A run of an action. Dropping it leaves the run to the server; [`Execution::cancel`] stops it.
pub struct Execution {
    connection: Connection,
    request: reapi::ExecuteRequest,
    invocation: String,
    name: Option<String>,
    stream: Option<Streaming<longrunning::Operation>>,
    failures: u32,
}

/// What [`Execution::next`] returns.
#[derive(Debug)]
pub enum Step {
    /// The run goes on.
    Progress(Box<Progress>),
    /// The connection broke and is taken up again after a pause.
    Retry(Failure),
    /// The run is over.
    Done(Box<Outcome>),
}

/// How far a run is.
#[derive(Clone, Debug)]
pub struct Progress {
    /// The stage that the server reports.
    pub stage: reapi::execution_stage::Value,
    /// What is known so far about where and when it runs.
    pub metadata: reapi::ExecutedActionMetadata,
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Name of the operation.
    pub operation: String,
    /// Whether the result came from the action cache.
    pub cached: bool,
    /// Text from the server for the person who started the action.
    pub message: String,
    /// The result. Runs that were cut short may have one beside [`Self::failure`], with what was logged.
    pub result: Option<reapi::ActionResult>,
    /// Why the action could not be run to its end.
    pub failure: Option<Failure>,
}

impl Execution {
    pub(super) fn new(connection: Connection, request: reapi::ExecuteRequest) -> Self {
        let invocation = uuid::Uuid::new_v4().to_string();
        Self { connection, request, invocation, name: None, stream: None, failures: 0 }
    }

    /// Returns the next step. It may be dropped while waiting and called again.
    pub async fn next(&mut self) -> Result<Step, ClientError> {
        match self.receive().await {
            Ok(operation) => {
                self.failures = 0;
                self.name = Some(operation.name.clone());
                if operation.done { outcome(operation).map(Step::Done) } else { progress(&operation) }
            }
            Err(status) => self.failed(status).await,
        }
    }

    /// Asks the server to stop the run. Does nothing when the server has not named it yet.
    pub async fn cancel(&self) -> Result<(), ClientError> {
        let Some(name) = self.name.clone() else { return Ok(()) };
        let mut operations = longrunning::operations_client::OperationsClient::new(self.connection.clone());
        let request = longrunning::CancelOperationRequest { name };
        operations.cancel_operation(request).await.map_err(|s| ClientError::call("CancelOperation", s))?;
        Ok(())
    }

    /// Returns the next message; a stream that ends without a result counts as broken.
    async fn receive(&mut self) -> Result<longrunning::Operation, Status> {
        if self.stream.is_none() {
            self.stream = Some(self.open().await?);
        }
        let stream = self.stream.as_mut().expect("opened above");
        stream.message().await?.ok_or_else(|| Status::unavailable("the stream ended before the action did"))
    }

    /// Starts the action, or finds the operation that was started before.
    async fn open(&self) -> Result<Streaming<longrunning::Operation>, Status> {
        let mut execution = reapi::execution_client::ExecutionClient::new(self.connection.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX);
        let response = match &self.name {
            Some(name) => {
                let request = reapi::WaitExecutionRequest { name: name.clone() };
                execution.wait_execution(self.described(request)).await?
            }
            None => execution.execute(self.described(self.request.clone())).await?,
        };
        Ok(response.into_inner())
    }

    /// Adds who calls and for what invocation.
    fn described<T>(&self, message: T) -> tonic::Request<T> {
        let metadata = reapi::RequestMetadata {
            tool_details: Some(reapi::ToolDetails {
                tool_name: "wardian".to_owned(),
                tool_version: env!("CARGO_PKG_VERSION").to_owned(),
            }),
            action_id: self.request.action_digest.clone().unwrap_or_default().hash,
            tool_invocation_id: self.invocation.clone(),
            ..Default::default()
        };
        let mut request = tonic::Request::new(message);
        let value = tonic::metadata::MetadataValue::from_bytes(&metadata.encode_to_vec());
        request.metadata_mut().insert_bin(REQUEST_METADATA, value);
        request
    }

    async fn failed(&mut self, status: Status) -> Result<Step, ClientError> {
        let call = if self.name.is_some() { "WaitExecution" } else { "Execute" };
        // A server that was started anew does not know the operation: ask for the action once more.
        let forgotten = status.code() == Code::NotFound && self.name.take().is_some();
        if !forgotten && !is_unavailable(&status) {
            return Err(ClientError::call(call, status));
        }
        self.stream = None;
        self.failures += 1;
        let failure = Failure::from(status);
        if self.failures > RETRIES_MAX {
            let (tries, failure) = (self.failures, Box::new(failure));
            return Err(ClientError::Broken { call, tries, failure });
        }
        tokio::time::sleep(pause(self.failures)).await;
        Ok(Step::Retry(failure))
    }
}

fn pause(failures: u32) -> Duration {
    RETRY_PAUSE.saturating_mul(1 << (failures - 1).min(16)).min(RETRY_PAUSE_MAX)
}

fn progress(operation: &longrunning::Operation) -> Result<Step, ClientError> {
    let metadata = match &operation.metadata {
        Some(any) => reapi::ExecuteOperationMetadata::decode(any.value.as_slice())
            .map_err(|error| ClientError::Answer(format!("operation metadata: {error}")))?,
        None => reapi::ExecuteOperationMetadata::default(),
    };
    Ok(Step::Progress(Box::new(Progress {
        stage: metadata.stage(),
        metadata: metadata.partial_execution_metadata.unwrap_or_default(),
    })))
}

fn outcome(operation: longrunning::Operation) -> Result<Box<Outcome>, ClientError> {
    let name = operation.name;
    let response = match operation.result {
        Some(longrunning::operation::Result::Response(any)) => {
            if !any.type_url.ends_with("ExecuteResponse") {
                let text =
                    format!("operation {name} ended with a {:?}, not an ExecuteResponse", any.type_url);
                return Err(ClientError::Answer(text));
            }
            reapi::ExecuteResponse::decode(any.value.as_slice())
                .map_err(|error| ClientError::Answer(format!("ExecuteResponse: {error}")))?
        }
        Some(longrunning::operation::Result::Error(status)) => {
            reapi::ExecuteResponse { status: Some(status), ..Default::default() }
        }
        None => return Err(ClientError::Answer(format!("operation {name} is done but has no result"))),
    };
    let failure = response.status.filter(|s| s.code != i32::from(rpc::Code::Ok)).map(Failure::from);
    if failure.is_none() && response.result.is_none() {
        return Err(ClientError::Answer(format!("operation {name} succeeded but has no ActionResult")));
    }
    Ok(Box::new(Outcome {
        operation: name,
        cached: response.cached_result,
        message: response.message,
        result: response.result,
        failure,
    }))
}

#[cfg(test)]
#[path = "execution_tests.rs"]
mod scripted;

#[cfg(test)]
mod tests {
    use super::*;

    fn done(response: &reapi::ExecuteResponse) -> longrunning::Operation {
        let any = wardian_proto::pack_any("build.bazel.remote.execution.v2.ExecuteResponse", response);
        longrunning::Operation {
            name: "op".to_owned(),
            done: true,
            result: Some(longrunning::operation::Result::Response(any)),
            metadata: None,
        }
    }

    #[test]
    fn pauses_grow_and_stop_growing() {
        assert_eq!(pause(1), RETRY_PAUSE);
        assert_eq!(pause(2), RETRY_PAUSE * 2);
        assert_eq!(pause(RETRIES_MAX), RETRY_PAUSE_MAX);
        assert_eq!(pause(u32::MAX), RETRY_PAUSE_MAX);
    }

    #[test]
    fn a_failed_status_may_come_with_a_result() {
        let status = rpc::Status { code: 4, message: "timeout of 1 s".to_owned(), details: Vec::new() };
        let result = Some(reapi::ActionResult { exit_code: 1, ..Default::default() });
        let response = reapi::ExecuteResponse { result, status: Some(status), ..Default::default() };
        let outcome = outcome(done(&response)).unwrap();
        assert_eq!(outcome.failure.unwrap().to_string(), "DEADLINE_EXCEEDED: timeout of 1 s");
        assert!(outcome.result.is_some());
    }

    #[test]
    fn an_end_without_a_result_is_not_a_success() {
        assert!(outcome(done(&reapi::ExecuteResponse::default())).is_err());
        assert!(outcome(longrunning::Operation { done: true, ..Default::default() }).is_err());
    }
}
