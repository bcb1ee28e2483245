//! ByteStream over the CAS: blobs of any size, piece by piece.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{FutureExt as _, Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};
use wardian_proto::bytestream::{
    QueryWriteStatusRequest, QueryWriteStatusResponse, ReadRequest, ReadResponse, WriteRequest, WriteResponse,
};
use wardian_proto::{Compressor, Digest, InstanceName, ReadName, WriteName};
use wardian_store::{ByteRange, StoreError, Upload};

use super::upload_slots::Slot;
use super::{Context, bad_name, compression};
use crate::auth::{Caller, Verb};

/// Header in which clients may repeat the resource name, for routing.
const RESOURCE_NAME_HEADER: &str = "build.bazel.remote.execution.v2.resource-name";

/// The setting that bounds how long the upload of a blob may send nothing.
const IDLE_LIMIT: &str = "upload_idle_seconds_max";

pub(super) struct ByteStream(pub(super) Arc<Context>);

impl ByteStream {
    async fn is_stored(&self, digest: &Digest) -> Result<bool, Status> {
        Ok(self.0.blobs.find_missing(&[*digest]).await?.is_empty())
    }

    fn parse_write(&self, caller: &Caller, verb: Verb, name: &str) -> Result<WriteName, Status> {
        let name = WriteName::parse(name, |instance| self.0.functions(instance)).map_err(bad_name)?;
        self.0.served(caller, verb, &name.instance)?;
        let (size, max) = (name.digest.size(), self.0.requests.blob_bytes_max);
        if size > max {
            let text = format!("blob has {size} bytes; limit max_cas_blob_size_bytes is {max}");
            return Err(Status::invalid_argument(text));
        }
        Ok(name)
    }
}

fn check_header<T>(request: &Request<T>, name: &str) -> Result<(), Status> {
    match request.metadata().get(RESOURCE_NAME_HEADER) {
        Some(header) if header.as_bytes() != name.as_bytes() => {
            Err(Status::invalid_argument(format!("header {RESOURCE_NAME_HEADER} differs from resource_name")))
        }
        _ => Ok(()),
    }
}

pub(super) fn size_on_the_wire(size: u64) -> i64 {
    i64::try_from(size).expect("digests have sizes below 2^63")
}

#[tonic::async_trait]
impl wardian_proto::bytestream::byte_stream_server::ByteStream for ByteStream {
    type ReadStream = BoxStream<'static, Result<ReadResponse, Status>>;

    async fn read(&self, request: Request<ReadRequest>) -> Result<Response<Self::ReadStream>, Status> {
        check_header(&request, &request.get_ref().resource_name)?;
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        if let Some(log) = self.0.log_name(&caller, Verb::Read, &request.resource_name)? {
            return self.0.read_log(&log, &request).map(Response::new);
        }
        let functions = |instance: &InstanceName| self.0.functions(instance);
        let name = ReadName::parse(&request.resource_name, functions).map_err(bad_name)?;
        self.0.served(&caller, Verb::Read, &name.instance)?;
        let offset = u64::try_from(request.read_offset)
            .map_err(|_| Status::out_of_range(format!("read_offset {} is negative", request.read_offset)))?;
        let limit = match u64::try_from(request.read_limit) {
            Err(_) => return Err(Status::invalid_argument("read_limit is negative")),
            Ok(0) => None,
            Ok(_) if name.compressor != Compressor::Identity => {
                return Err(Status::invalid_argument("compressed reads have no read_limit"));
            }
            Ok(limit) => Some(limit),
        };
        let pieces = self.0.blobs.read(&name.digest, ByteRange { offset, limit }).await?;
        let pieces = compression::compress(name.compressor, pieces);
        let responses = pieces.map(|piece| piece.map(|data| ReadResponse { data }).map_err(Status::from));
        Ok(Response::new(responses.boxed()))
    }

    async fn write(
        &self,
        request: Request<Streaming<WriteRequest>>,
    ) -> Result<Response<WriteResponse>, Status> {
        let caller = Caller::of(&request)?;
        let (metadata, _, mut messages) = request.into_parts();
        let idle = self.0.requests.upload_idle_max;
        let slot = self.0.uploads.begin(Instant::now())?;
        let first = next_piece(&mut messages, idle, &slot).await?;
        let first =
            first.ok_or_else(|| Status::invalid_argument("the stream ended before its first message"))?;
        check_header(&Request::from_parts(metadata, Default::default(), ()), &first.resource_name)?;
        if let Some(log) = self.0.log_name(&caller, Verb::Write, &first.resource_name)? {
            // May take as long as a command runs; what there may be of those is bounded elsewhere.
            drop(slot);
            return self.0.write_log(&log, first, messages).await;
        }
        let name = self.parse_write(&caller, Verb::Write, &first.resource_name)?;
        let committed = |committed_size| Ok(Response::new(WriteResponse { committed_size }));
        let is_compressed = name.compressor != Compressor::Identity;
        // Of an upload that is here already nothing can be spared, and the store looks for itself; but the answer to
        // an encoded one says whether it was stored before.
        if (is_compressed || !first.finish_write) && self.is_stored(&name.digest).await? {
            // Somebody was faster. The rest of the stream is not needed.
            return committed(if is_compressed { -1 } else { size_on_the_wire(name.digest.size()) });
        }
        let received = Arc::new(Received::default());
        let pieces = write_pieces(first, messages, idle, slot, Arc::clone(&received));
        let upload = Upload::stream(name.digest, compression::decompress(name.compressor, pieces));
        match self.0.blobs.put(upload).await {
            // Of a compressed blob: the bytes as they were sent.
            Ok(()) => committed(size_on_the_wire(received.bytes.load(Ordering::Relaxed))),
            // Half-closed without finish_write: not an error, but nothing of it is kept.
            Err(_) if received.is_unfinished.load(Ordering::Relaxed) => committed(0),
            Err(error) => Err(error.into()),
        }
    }

    async fn query_write_status(
        &self,
        request: Request<QueryWriteStatusRequest>,
    ) -> Result<Response<QueryWriteStatusResponse>, Status> {
        let caller = Caller::of(&request)?;
        if let Some(log) = self.0.log_name(&caller, Verb::Write, &request.get_ref().resource_name)? {
            return self.0.query_log(&log).map(Response::new);
        }
        let name = self.parse_write(&caller, Verb::Find, &request.get_ref().resource_name)?;
        if self.is_stored(&name.digest).await? {
            let committed_size = size_on_the_wire(name.digest.size());
            return Ok(Response::new(QueryWriteStatusResponse { committed_size, complete: true }));
        }
        Err(Status::not_found("no such upload; parts of uploads are not kept, so start at offset 0"))
    }
}

pub(super) async fn next_message(
    messages: &mut Streaming<WriteRequest>,
    idle_max: Duration,
    limit: &str,
) -> Result<Option<WriteRequest>, Status> {
    let idle = |_| {
        let seconds = idle_max.as_secs();
        Status::deadline_exceeded(format!("the upload sent nothing for {seconds} s (limit {limit})"))
    };
    tokio::time::timeout(idle_max, messages.message()).await.map_err(idle)?
}

/// The next message of a blob's upload.
async fn next_piece(
    messages: &mut Streaming<WriteRequest>,
    idle_max: Duration,
    slot: &Slot,
) -> Result<Option<WriteRequest>, Status> {
    let message = tokio::select! {
        message = next_message(messages, idle_max, IDLE_LIMIT) => message?,
        given_up = slot.given_up() => return Err(given_up),
    };
    // A message without bytes keeps the stream alive, and no place.
    if message.as_ref().is_some_and(|message| !message.data.is_empty()) {
        slot.heard(Instant::now());
    }
    Ok(message)
}

/// The bytes of an upload's messages, each checked against the protocol as it comes.
fn write_pieces(
    first: WriteRequest,
    messages: Streaming<WriteRequest>,
    idle_max: Duration,
    slot: Slot,
    received: Arc<Received>,
) -> impl Stream<Item = Result<Bytes, StoreError>> + Send + 'static {
    let name = first.resource_name.clone();
    let state = WriteState { name, messages, slot, pending: Some(first), offset: 0, finished: false };
    futures::stream::try_unfold(state, move |mut state| {
        let received = Arc::clone(&received);
        async move {
            if state.finished {
                return Ok(None);
            }
            let message = match state.pending.take() {
                Some(message) => Some(message),
                None => next_piece(&mut state.messages, idle_max, &state.slot)
                    .await
                    .map_err(StoreError::Source)?,
            };
            let Some(message) = message else {
                received.is_unfinished.store(true, Ordering::Relaxed);
                return Err(StoreError::Source(Status::aborted("the stream ended without finish_write")));
            };
            let piece = state.accept(message).map_err(StoreError::Source)?;
            received.bytes.store(state.offset, Ordering::Relaxed);
            Ok(Some((piece, state)))
        }
    })
}

/// What an upload's messages amounted to, for the response.
#[derive(Default)]
struct Received {
    /// Bytes as they were sent.
    bytes: AtomicU64,
    /// Whether the client ended its side without `finish_write`.
    is_unfinished: AtomicBool,
}

struct WriteState {
    name: String,
    messages: Streaming<WriteRequest>,
    /// Until all of it has come.
    slot: Slot,
    pending: Option<WriteRequest>,
    offset: u64,
    finished: bool,
}

impl WriteState {
    fn accept(&mut self, message: WriteRequest) -> Result<Bytes, Status> {
        if !message.resource_name.is_empty() && message.resource_name != self.name {
            return Err(Status::invalid_argument("resource_name changed within one upload"));
        }
        if u64::try_from(message.write_offset) != Ok(self.offset) {
            return Err(Status::invalid_argument(format!(
                "write_offset is {}; the next byte of this upload is {}",
                message.write_offset, self.offset
            )));
        }
        self.offset += message.data.len() as u64;
        self.finished = message.finish_write;
        // Not waited for: a client may keep its side open until it has the answer.
        if self.finished && matches!(self.messages.message().now_or_never(), Some(Ok(Some(_)))) {
            return Err(Status::invalid_argument("a message came after finish_write"));
        }
        Ok(message.data)
    }
}
