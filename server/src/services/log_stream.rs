//! LogStream: streams that grow while they are read. Reading and writing them goes through ByteStream.

use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use tonic::{Request, Response, Status, Streaming};
use wardian_proto::LogName;
use wardian_proto::bytestream::{
    QueryWriteStatusResponse, ReadRequest, ReadResponse, WriteRequest, WriteResponse,
};
use wardian_proto::logstream::log_stream_service_server::LogStreamService;
use wardian_proto::logstream::{CreateLogStreamRequest, LogStream};

use super::Context;
use super::byte_stream::{next_message, size_on_the_wire};
use crate::auth::{Caller, Verb};
use crate::logs::Committed;

pub(super) struct LogStreams(pub(super) Arc<Context>);

#[tonic::async_trait]
impl LogStreamService for LogStreams {
    async fn create_log_stream(
        &self,
        request: Request<CreateLogStreamRequest>,
    ) -> Result<Response<LogStream>, Status> {
        let caller = Caller::of(&request)?;
        let instance = self.0.instance(&caller, Verb::Write, &request.get_ref().parent)?;
        let name = self.0.logs.create(&instance.name, caller.name())?;
        let write_resource_name = name.for_the_writer().expect("a new stream has a token");
        Ok(Response::new(LogStream { name: name.for_readers(), write_resource_name }))
    }
}

impl Context {
    /// The log stream that a resource name names; `None` when it names something else.
    pub(super) fn log_name(
        &self,
        caller: &Caller,
        verb: Verb,
        resource_name: &str,
    ) -> Result<Option<LogName>, Status> {
        let Some(name) = LogName::parse(resource_name) else { return Ok(None) };
        self.served(caller, verb, &name.instance)?;
        Ok(Some(name))
    }

    pub(super) fn read_log(
        &self,
        name: &LogName,
        request: &ReadRequest,
    ) -> Result<BoxStream<'static, Result<ReadResponse, Status>>, Status> {
        if name.token.is_some() {
            return Err(Status::invalid_argument("a write_resource_name cannot be read"));
        }
        let offset = u64::try_from(request.read_offset)
            .map_err(|_| Status::out_of_range(format!("read_offset {} is negative", request.read_offset)))?;
        let limit = match u64::try_from(request.read_limit) {
            Err(_) => return Err(Status::invalid_argument("read_limit is negative")),
            Ok(limit) => (limit > 0).then_some(limit),
        };
        let pieces = self.logs.read(name, offset, limit)?;
        Ok(pieces.map(|piece| piece.map(|data| ReadResponse { data })).boxed())
    }

    /// Adds what comes to a log stream, each message as it comes.
    pub(super) async fn write_log(
        &self,
        name: &LogName,
        first: WriteRequest,
        mut messages: Streaming<WriteRequest>,
    ) -> Result<Response<WriteResponse>, Status> {
        let resource_name = first.resource_name.clone();
        let mut next = Some(first);
        let mut committed = self.logs.committed(name)?;
        while let Some(message) = next {
            if !message.resource_name.is_empty() && message.resource_name != resource_name {
                return Err(Status::invalid_argument("resource_name changed within one write"));
            }
            let offset = u64::try_from(message.write_offset)
                .map_err(|_| Status::invalid_argument("write_offset is negative"))?;
            committed = self.logs.write(name, offset, &message.data, message.finish_write)?;
            // Also when somebody else ended it: nothing can follow.
            if committed.is_complete {
                break;
            }
            next = next_message(&mut messages, self.logs.idle_max(), "logs.idle_seconds_max").await?;
        }
        Ok(Response::new(WriteResponse { committed_size: size_on_the_wire(committed.bytes) }))
    }

    pub(super) fn query_log(&self, name: &LogName) -> Result<QueryWriteStatusResponse, Status> {
        let Committed { bytes, is_complete } = self.logs.committed(name)?;
        Ok(QueryWriteStatusResponse { committed_size: size_on_the_wire(bytes), complete: is_complete })
    }
}
