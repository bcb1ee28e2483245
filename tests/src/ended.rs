//! What comes back from Execute: followed, checked against the rules for every stream, taken apart.

use bytes::Bytes;
use prost::Message;
use tonic::{Code, Status, Streaming};
use wardian_proto::longrunning::{Operation, operation};
use wardian_proto::reapi::execution_stage::Value as Stage;
use wardian_proto::{reapi, rpc};

use crate::soon;

/// An operation stream while it is read.
pub struct Following {
    stream: Streaming<Operation>,
    operations: Vec<Operation>,
}

impl Following {
    /// Begins to read a stream.
    pub fn new(stream: Streaming<Operation>) -> Self {
        Self { stream, operations: Vec::new() }
    }

    /// The operation's name, once a message has come.
    pub fn name(&self) -> String {
        self.operations.last().expect("no message has come yet").name.clone()
    }

    /// Waits for the next message. `None` is the end of the stream.
    pub async fn next(&mut self) -> Result<Option<Operation>, Status> {
        let next = soon("an operation", self.stream.message()).await?;
        if let Some(operation) = &next {
            check(operation, self.operations.last());
            self.operations.push(operation.clone());
        }
        Ok(next)
    }

    /// Waits until the operation is in a stage.
    pub async fn until_stage(&mut self, stage: Stage) {
        while self.operations.last().is_none_or(|last| metadata(last).stage() != stage) {
            let next = self.next().await.expect("the stream goes on");
            assert!(next.is_some(), "the stream ended before stage {stage:?}");
        }
    }

    /// Reads to the end.
    pub async fn ended(mut self) -> Result<Ended, Status> {
        while self.next().await?.is_some() {}
        let last = self.operations.last().expect("a stream has at least one message");
        let Some(operation::Result::Response(response)) = &last.result else {
            panic!("the stream ended before its operation: {last:?}");
        };
        let response = reapi::ExecuteResponse::decode(&*response.value).expect("an ExecuteResponse");
        Ok(Ended { operations: self.operations, response })
    }
}

/// What must hold for every message of every stream.
fn check(operation: &Operation, previous: Option<&Operation>) {
    assert!(!operation.name.is_empty());
    if let Some(previous) = previous {
        assert_eq!(operation.name, previous.name);
        assert!(!previous.done, "a message came after the end");
        assert_eq!(metadata(operation).action_digest, metadata(previous).action_digest);
    }
    let metadata = metadata(operation);
    assert!(metadata.action_digest.is_some());
    assert_ne!(metadata.stage(), Stage::Unknown);
    assert_eq!(operation.done, metadata.stage() == Stage::Completed);
    match &operation.result {
        None => assert!(!operation.done),
        Some(operation::Result::Response(_)) => assert!(operation.done),
        Some(operation::Result::Error(error)) => panic!("the API forbids Operation.error: {error:?}"),
    }
}

/// The metadata of an operation.
pub fn metadata(operation: &Operation) -> reapi::ExecuteOperationMetadata {
    let any = operation.metadata.as_ref().expect("every operation has metadata");
    assert_eq!(any.type_url, "type.googleapis.com/build.bazel.remote.execution.v2.ExecuteOperationMetadata");
    reapi::ExecuteOperationMetadata::decode(&*any.value).expect("ExecuteOperationMetadata")
}

/// What a worker says that it does for an operation, and its remarks.
pub fn doing(operation: &Operation) -> Vec<String> {
    let metadata = metadata(operation).partial_execution_metadata.unwrap_or_default();
    texts(&metadata)
}

/// The texts among auxiliary metadata.
fn texts(metadata: &reapi::ExecutedActionMetadata) -> Vec<String> {
    let texts = metadata.auxiliary_metadata.iter().filter(|any| any.type_url.ends_with("StringValue"));
    texts.map(|any| String::decode(&*any.value).expect("a StringValue")).collect()
}

/// A finished execution.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Every message of the stream.
    pub operations: Vec<Operation>,
    /// The answer in the last one.
    pub response: reapi::ExecuteResponse,
}

impl Ended {
    /// The code of `ExecuteResponse.status`.
    pub fn code(&self) -> Code {
        self.response.status.as_ref().map_or(Code::Ok, |status| Code::from(status.code))
    }

    /// The result; empty when there is none.
    pub fn result(&self) -> reapi::ActionResult {
        self.response.result.clone().unwrap_or_default()
    }

    /// What the worker remarked on the run.
    pub fn remarks(&self) -> Vec<String> {
        texts(&self.result().execution_metadata.unwrap_or_default())
    }

    /// The operation's name.
    pub fn name(&self) -> &str {
        &self.operations[0].name
    }

    /// The failure, when the action did not finish.
    pub fn refusal(&self) -> Option<Refusal> {
        let status = self.response.status.as_ref()?;
        (status.code != Code::Ok as i32).then(|| Refusal::of_wire(status))
    }
}

/// Why an action did not run to its end, wherever the server said so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The code.
    pub code: Code,
    /// The text.
    pub message: String,
    /// Subjects of the MISSING violations in its details, sorted.
    pub missing: Vec<String>,
    /// When to ask again, in seconds, if its details say so.
    pub retry_seconds: Option<i64>,
}

impl Refusal {
    /// Takes a status inside a response apart.
    fn of_wire(status: &rpc::Status) -> Self {
        let mut missing = Vec::new();
        let mut retry_seconds = None;
        for detail in &status.details {
            if detail.type_url == "type.googleapis.com/google.rpc.RetryInfo" {
                let retry = rpc::RetryInfo::decode(&*detail.value).expect("RetryInfo");
                retry_seconds = retry.retry_delay.map(|delay| delay.seconds);
                continue;
            }
            assert_eq!(detail.type_url, "type.googleapis.com/google.rpc.PreconditionFailure");
            let failure = rpc::PreconditionFailure::decode(&*detail.value).expect("PreconditionFailure");
            for violation in failure.violations {
                assert_eq!(violation.r#type, "MISSING");
                missing.push(violation.subject);
            }
        }
        missing.sort();
        Self { code: Code::from(status.code), message: status.message.clone(), missing, retry_seconds }
    }

    /// Takes the status of a call apart; its details are a whole `google.rpc.Status`.
    pub fn of_call(status: &Status) -> Self {
        if status.details().is_empty() {
            let message = status.message().into();
            return Self { code: status.code(), message, missing: vec![], retry_seconds: None };
        }
        let wire = rpc::Status::decode(Bytes::copy_from_slice(status.details())).expect("google.rpc.Status");
        assert_eq!((Code::from(wire.code), wire.message.as_str()), (status.code(), status.message()));
        Self::of_wire(&wire)
    }
}
