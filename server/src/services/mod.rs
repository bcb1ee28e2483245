//! The gRPC services: wire messages in, parsed values below, wire messages out.

mod action_cache;
mod asset;
mod byte_stream;
mod capabilities;
mod cas;
mod chunks;
mod compression;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod compression_fuzz;
mod execution;
mod inline;
mod inputs;
mod log_stream;
mod operation_filter;
mod operations;
mod request_metadata;
mod routes;
mod toolchains;
mod upload_slots;
mod workers;

use std::sync::Arc;

use prost::Message as _;
use tonic::{Code, Status};
use wardian_proto::{
    Digest, DigestError, DigestFunctions, InstanceName, ResourceNameError, pack_any, reapi, rpc,
};
use wardian_runtime::{Failure, Limits};
use wardian_scheduler::LocalQueue;
use wardian_store::BlobStore;
use wardian_store::action_cache::ActionCache;
use wardian_store::chunking::Chunks;
use wardian_store::tree_pins::TreePins;
use wardian_toolchains::Registry;

use crate::assets::Assets;
use crate::auth::{Caller, Verb};
use crate::config::RequestLimits;
use crate::fleet::Fleet;
use crate::instance::Instance;
use crate::logs::LogStreams;

pub(crate) use routes::{SERVED, routes};
pub(crate) use upload_slots::UploadSlots;
pub(crate) use workers::REPORT_BYTES_MAX;

/// Largest message that is accepted. Clients rarely send more than 4 MiB.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// Largest reply that is sent in one message; clients accept 4 MiB unless told otherwise.
const REPLY_BYTES_MAX: usize = (4 << 20) - 64 * 1024;

/// What every service works on.
pub(crate) struct Context {
    pub(crate) blobs: Arc<dyn BlobStore>,
    pub(crate) tree_pins: Arc<TreePins>,
    pub(crate) assets: Assets,
    pub(crate) chunks: Chunks,
    pub(crate) logs: LogStreams,
    pub(crate) action_cache: ActionCache,
    pub(crate) toolchains: Arc<Registry>,
    pub(crate) queue: LocalQueue,
    pub(crate) fleet: Fleet,
    pub(crate) instances: Vec<Instance>,
    pub(crate) action_cache_update: bool,
    pub(crate) requests: RequestLimits,
    pub(crate) uploads: UploadSlots,
    pub(crate) limits: Limits,
}

impl Context {
    /// Parses an instance name, and makes sure that it is served and that the caller may do this to it.
    fn instance(&self, caller: &Caller, verb: Verb, name: &str) -> Result<&Instance, Status> {
        let parsed = InstanceName::parse(name).map_err(|e| Status::invalid_argument(e.to_string()))?;
        self.served(caller, verb, &parsed)
    }

    /// The same for what everybody may who may anything there.
    fn any_right_on(&self, caller: &Caller, name: &str) -> Result<&Instance, Status> {
        let parsed = InstanceName::parse(name).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let verb = Verb::ALL.into_iter().find(|verb| caller.may(*verb, &parsed));
        self.served(caller, verb.unwrap_or(Verb::Find), &parsed)
    }

    fn served(&self, caller: &Caller, verb: Verb, name: &InstanceName) -> Result<&Instance, Status> {
        caller.check(verb, name)?;
        self.find_instance(name).ok_or_else(|| {
            let known: Vec<String> = self.instances.iter().map(|i| format!("{:?}", i.name)).collect();
            Status::invalid_argument(format!(
                "instance {name:?} is not served here; served: {} (setting `instances`)",
                known.join(", ")
            ))
        })
    }

    fn find_instance(&self, name: &InstanceName) -> Option<&Instance> {
        self.instances.iter().find(|instance| instance.name == *name)
    }

    /// The digest functions by which resource names of an instance are read.
    fn functions(&self, name: &InstanceName) -> DigestFunctions {
        // A name that is not served is refused once it was read, whatever its hash.
        self.find_instance(name).map_or_else(DigestFunctions::all_but_murmur3, |i| i.digest_functions.clone())
    }
}

impl Instance {
    /// Parses a request's digest under its `digest_function` field.
    fn digest(&self, function: i32, wire: Option<&reapi::Digest>) -> Result<Digest, Status> {
        let hash = wire.map(|wire| wire.hash.as_str());
        let function = self.digest_functions.resolve(function, hash).map_err(bad_digest)?;
        Digest::from_wire(function, wire).map_err(bad_digest)
    }

    /// Parses a list of digests, all under one function: the first tells which if the field does not.
    fn digests(&self, function: i32, wire: &[reapi::Digest]) -> Result<Vec<Digest>, Status> {
        let hash = wire.first().map(|wire| wire.hash.as_str());
        let function = self.digest_functions.resolve(function, hash).map_err(bad_digest)?;
        wire.iter().map(|d| Digest::from_wire(function, Some(d)).map_err(bad_digest)).collect()
    }
}

fn bad_digest(error: DigestError) -> Status {
    Status::invalid_argument(error.to_string())
}

fn bad_name(error: ResourceNameError) -> Status {
    Status::invalid_argument(error.to_string())
}

/// A failure before there is an operation: the status of the call, details included.
fn failure_status(failure: &Failure) -> Status {
    let wire = failure.to_status();
    Status::with_details(Code::from(wire.code), wire.message.clone(), wire.encode_to_vec().into())
}

/// There is no room now: a refusal that says when to ask again.
fn retry_later(text: String, seconds: i64) -> Status {
    let delay = prost_types::Duration { seconds, nanos: 0 };
    let retry = pack_any("google.rpc.RetryInfo", &rpc::RetryInfo { retry_delay: Some(delay) });
    let code = rpc::Code::ResourceExhausted;
    let wire = rpc::Status { code: code.into(), message: text.clone(), details: vec![retry] };
    Status::with_details(Code::ResourceExhausted, text, wire.encode_to_vec().into())
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
