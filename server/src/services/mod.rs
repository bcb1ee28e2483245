//! The gRPC services: wire messages in, parsed values below, wire messages out.

mod action_cache;
mod byte_stream;
mod capabilities;
mod cas;
mod execution;
mod inline;
mod inputs;
mod operations;
mod routes;

use std::sync::Arc;

use prost::Message as _;
use tonic::{Code, Status};
use wardian_proto::{Digest, DigestError, DigestFunction, InstanceName, ResourceNameError, reapi};
use wardian_runtime::{Failure, Limits};
use wardian_scheduler::LocalQueue;
use wardian_store::BlobStore;
use wardian_store::action_cache::ActionCache;
use wardian_store::tree_pins::TreePins;

use crate::config::RequestLimits;

pub(crate) use routes::{SERVED, routes};

/// Largest message that is accepted. Clients rarely send more than 4 MiB.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// Largest reply that is sent in one message; clients accept 4 MiB unless told otherwise.
const REPLY_BYTES_MAX: usize = (4 << 20) - 64 * 1024;

/// What every service works on.
pub(crate) struct Context {
    pub(crate) blobs: Arc<dyn BlobStore>,
    pub(crate) tree_pins: Arc<TreePins>,
    pub(crate) action_cache: ActionCache,
    pub(crate) queue: LocalQueue,
    pub(crate) instances: Vec<InstanceName>,
    pub(crate) action_cache_update: bool,
    pub(crate) requests: RequestLimits,
    pub(crate) limits: Limits,
}

impl Context {
    /// Parses an instance name and makes sure that it is served.
    fn instance(&self, name: &str) -> Result<InstanceName, Status> {
        let parsed = InstanceName::parse(name).map_err(|e| Status::invalid_argument(e.to_string()))?;
        self.served(parsed)
    }

    fn served(&self, instance: InstanceName) -> Result<InstanceName, Status> {
        if self.instances.contains(&instance) {
            return Ok(instance);
        }
        let known: Vec<String> = self.instances.iter().map(|i| format!("{i:?}")).collect();
        Err(Status::invalid_argument(format!(
            "instance {instance:?} is not served here; served: {} (setting `instances`)",
            known.join(", ")
        )))
    }
}

fn bad_digest(error: DigestError) -> Status {
    Status::invalid_argument(error.to_string())
}

fn bad_name(error: ResourceNameError) -> Status {
    Status::invalid_argument(error.to_string())
}

/// Parses a request's digest under its `digest_function` field.
fn digest(function: i32, wire: Option<&reapi::Digest>) -> Result<Digest, Status> {
    let function = DigestFunction::from_wire(function).map_err(bad_digest)?;
    Digest::from_wire(function, wire).map_err(bad_digest)
}

/// Parses a list of digests under one function.
fn digests(function: i32, wire: &[reapi::Digest]) -> Result<Vec<Digest>, Status> {
    let function = DigestFunction::from_wire(function).map_err(bad_digest)?;
    wire.iter().map(|d| Digest::from_wire(function, Some(d)).map_err(bad_digest)).collect()
}

/// A failure before there is an operation: the status of the call, details included.
fn failure_status(failure: &Failure) -> Status {
    let wire = failure.to_status();
    Status::with_details(Code::from(wire.code), wire.message.clone(), wire.encode_to_vec().into())
}

/// The status of one entry of a batch.
fn entry_status(outcome: Result<(), Status>) -> wardian_proto::rpc::Status {
    match outcome {
        Ok(()) => wardian_proto::rpc::Status::default(),
        Err(status) => wardian_proto::rpc::Status {
            code: status.code().into(),
            message: status.message().to_owned(),
            details: vec![],
        },
    }
}
