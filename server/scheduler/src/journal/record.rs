//! An operation as bytes.

use std::time::SystemTime;

use prost::Message;
use wardian_proto::{Digest, DigestFunction, InstanceName, reapi};

use super::{LeftEnded, LeftLive};
use crate::job::{Invocation, Job, OperationName, RunId};
use crate::platform::Platform;

/// The value under an operation's name.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Record {
    #[prost(string, tag = "1")]
    instance: String,
    #[prost(message, optional, tag = "2")]
    action: Option<reapi::Digest>,
    #[prost(message, optional, tag = "3")]
    requested: Option<reapi::Digest>,
    #[prost(int32, tag = "4")]
    function: i32,
    #[prost(message, optional, tag = "5")]
    platform: Option<reapi::Platform>,
    #[prost(sint32, tag = "6")]
    priority: i32,
    #[prost(bool, tag = "7")]
    do_not_cache: bool,
    #[prost(string, tag = "8")]
    invocation: String,
    #[prost(uint64, tag = "9")]
    memory_bytes: u64,
    /// Of what has not ended.
    #[prost(uint64, tag = "10")]
    run: u64,
    /// When it was queued or, with a response, when it ended.
    #[prost(message, optional, tag = "11")]
    at: Option<prost_types::Timestamp>,
    #[prost(message, optional, tag = "12")]
    response: Option<reapi::ExecuteResponse>,
}

/// What a record says.
#[allow(clippy::large_enum_variant)] // It is taken apart where it is made.
pub(super) enum Decoded {
    Live(LeftLive),
    Ended(LeftEnded),
}

/// The field of a record that the response is in.
const RESPONSE_TAG: u32 = 12;

/// The record of an operation that has not ended.
pub(super) fn live(run: RunId, queued_at: SystemTime, priority: i32, job: &Job) -> Vec<u8> {
    Record { run: run.0, at: Some(queued_at.into()), priority, ..Record::of(job) }.encode_to_vec()
}

/// The record of an operation that has ended. The response may be large and is not copied.
pub(super) fn ended(at: SystemTime, job: &Job, response: &reapi::ExecuteResponse) -> Vec<u8> {
    let mut bytes = Record { at: Some(at.into()), ..Record::of(job) }.encode_to_vec();
    prost::encoding::message::encode(RESPONSE_TAG, response, &mut bytes);
    bytes
}

impl Record {
    fn of(job: &Job) -> Self {
        let property = |(name, value): (&str, &str)| reapi::platform::Property {
            name: name.into(),
            value: value.into(),
        };
        Self {
            instance: job.instance.to_string(),
            action: Some(job.action.to_wire()),
            requested: Some(job.requested.to_wire()),
            function: job.action.function().wire().into(),
            platform: Some(reapi::Platform { properties: job.platform.iter().map(property).collect() }),
            priority: job.priority,
            do_not_cache: job.do_not_cache,
            invocation: job.invocation.to_string(),
            memory_bytes: job.memory_bytes,
            run: 0,
            at: None,
            response: None,
        }
    }

    /// Reads a record; `None` when it is none of ours.
    pub(super) fn decode(name: OperationName, bytes: &[u8]) -> Option<Decoded> {
        let record = Self::decode_wire(bytes)?;
        let at = SystemTime::try_from(record.at?).ok()?;
        let function = DigestFunction::ALL.iter().find(|f| i32::from(f.wire()) == record.function)?;
        let digest = |wire: &Option<reapi::Digest>| Digest::from_wire(*function, wire.as_ref()).ok();
        let pairs = record.platform?.properties.into_iter().map(|p| (p.name, p.value)).collect();
        let job = Job {
            instance: InstanceName::parse(&record.instance).ok()?,
            action: digest(&record.action)?,
            requested: digest(&record.requested)?,
            platform: Platform::from_pairs(pairs),
            priority: record.priority,
            do_not_cache: record.do_not_cache,
            invocation: Invocation::from_client(&record.invocation, ""),
            memory_bytes: record.memory_bytes,
        };
        Some(match record.response {
            Some(response) => Decoded::Ended(LeftEnded { name, ended_at: at, job, response }),
            None => Decoded::Live(LeftLive { name, run: RunId(record.run), queued_at: at, job }),
        })
    }

    fn decode_wire(bytes: &[u8]) -> Option<Self> {
        <Self as Message>::decode(bytes).ok()
    }
}
