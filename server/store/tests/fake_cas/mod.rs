//! A CAS server in this process that is stricter than servers are, or bad in one chosen way.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};
use wardian_proto::bytestream::byte_stream_server::{ByteStream, ByteStreamServer};
use wardian_proto::bytestream::*;
use wardian_proto::reapi::content_addressable_storage_server::{
    ContentAddressableStorage, ContentAddressableStorageServer,
};
use wardian_proto::reapi::*;
use wardian_proto::{Digest, DigestFunction, DigestFunctions, InstanceName, ReadName, WriteName, rpc};
use wardian_store::backend::{GrpcStore, GrpcStoreLimits, MemoryStore};
use wardian_store::{BlobStore, ByteRange, Upload, collect};

const INSTANCE: &str = "team/main";
const BATCH_BYTES_MAX: usize = 300_000;
const WRITE_BYTES_MAX: usize = 70_000;
const DIGESTS_MAX: usize = 3;

/// What a server does otherwise than it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    Strict,
    /// Changes a byte of whatever is read.
    Lying,
    /// Sends one byte less than was asked for, and one byte more.
    Short,
    Long,
    /// Says that a blob is there as soon as a write begins.
    KnowsAll,
    /// Says that less than everything was committed.
    Forgetful,
    /// Refuses a write after its first message.
    Full,
    /// Does not answer a write whose end it has not seen.
    Patient,
    /// Leaves every blob out of the answers to batches.
    Silent,
}

#[derive(Clone)]
pub(crate) struct Cas {
    pub(crate) blobs: Arc<MemoryStore>,
    manner: Manner,
    /// How many calls to refuse as UNAVAILABLE before serving.
    pub(crate) unavailable: Arc<AtomicU32>,
    /// How many connections to break under their first call.
    pub(crate) broken: Arc<AtomicU32>,
    /// How many bytes arrived by ByteStream, and how many calls of any kind were made.
    pub(crate) written: Arc<AtomicU32>,
    pub(crate) calls: Arc<AtomicU32>,
}

type Answer<T> = Result<Response<T>, Status>;

#[track_caller]
fn refuse(condition: bool, why: &str) -> Result<(), Status> {
    if condition { Err(Status::invalid_argument(why.to_owned())) } else { Ok(()) }
}

fn outcome(result: Result<(), Status>) -> Option<rpc::Status> {
    let status = result.err()?;
    Some(rpc::Status { code: status.code() as i32, message: status.message().into(), details: vec![] })
}

impl Cas {
    fn admit(&self, instance: &str) -> Result<(), Status> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        refuse(instance != INSTANCE, "instance")?;
        let left = self.unavailable.load(Ordering::SeqCst);
        if left > 0 {
            self.unavailable.store(left - 1, Ordering::SeqCst);
            return Err(Status::unavailable("come back later"));
        }
        Ok(())
    }

    fn digests<'a>(
        &self,
        function: i32,
        wire: impl Iterator<Item = &'a Option<wardian_proto::reapi::Digest>>,
    ) -> Result<Vec<Digest>, Status> {
        refuse(function != digest_function::Value::Sha256 as i32, "digest function")?;
        let parse = |d: &Option<_>| Digest::from_wire(DigestFunction::Sha256, d.as_ref());
        let digests = wire.map(parse).collect::<Result<Vec<_>, _>>();
        let digests = digests.map_err(|e| Status::invalid_argument(e.to_string()))?;
        let distinct: std::collections::HashSet<_> = digests.iter().collect();
        refuse(digests.is_empty() || distinct.len() < digests.len(), "no digest, or one twice")?;
        refuse(digests.iter().any(Digest::is_empty_blob), "the empty blob is always there")?;
        Ok(digests)
    }

    fn batch(&self, digests: &[Digest]) -> Result<(), Status> {
        let bytes: u64 = digests.iter().map(Digest::size).sum();
        refuse(bytes > BATCH_BYTES_MAX as u64, "batch is too large")?;
        refuse(digests.len() > DIGESTS_MAX, "too many blobs in a batch")
    }

    fn distort(&self, data: Bytes) -> Bytes {
        let mut data = data.to_vec();
        match self.manner {
            Manner::Lying => *data.last_mut().unwrap() ^= 1,
            Manner::Long => data.push(0),
            Manner::Short => drop(data.pop()),
            _ => {}
        }
        data.into()
    }
}

#[tonic::async_trait]
impl ContentAddressableStorage for Cas {
    async fn find_missing_blobs(
        &self,
        r: Request<FindMissingBlobsRequest>,
    ) -> Answer<FindMissingBlobsResponse> {
        let r = r.into_inner();
        self.admit(&r.instance_name)?;
        let wire: Vec<_> = r.blob_digests.into_iter().map(Some).collect();
        let digests = self.digests(r.digest_function, wire.iter())?;
        refuse(digests.len() > DIGESTS_MAX, "too many digests")?;
        let mut missing = self.blobs.find_missing(&digests).await?;
        // No order is promised, so give one that nobody hopes for.
        missing.reverse();
        let missing_blob_digests = missing.iter().map(Digest::to_wire).collect();
        Ok(Response::new(FindMissingBlobsResponse { missing_blob_digests }))
    }

    async fn batch_update_blobs(
        &self,
        r: Request<BatchUpdateBlobsRequest>,
    ) -> Answer<BatchUpdateBlobsResponse> {
        let r = r.into_inner();
        self.admit(&r.instance_name)?;
        let digests = self.digests(r.digest_function, r.requests.iter().map(|r| &r.digest))?;
        self.batch(&digests)?;
        let mut responses = Vec::new();
        for (digest, request) in digests.into_iter().zip(r.requests) {
            refuse(request.compressor != 0, "compressor")?;
            let put = self.blobs.put(Upload::bytes(digest, request.data)).await;
            let (digest, status) = (Some(digest.to_wire()), outcome(put.map_err(Status::from)));
            responses.push(batch_update_blobs_response::Response { digest, status });
        }
        responses.reverse();
        if self.manner == Manner::Silent {
            responses.clear();
        }
        Ok(Response::new(BatchUpdateBlobsResponse { responses }))
    }

    async fn batch_read_blobs(&self, r: Request<BatchReadBlobsRequest>) -> Answer<BatchReadBlobsResponse> {
        let r = r.into_inner();
        self.admit(&r.instance_name)?;
        let wire: Vec<_> = r.digests.into_iter().map(Some).collect();
        let digests = self.digests(r.digest_function, wire.iter())?;
        self.batch(&digests)?;
        let mut responses = Vec::new();
        for (digest, read) in digests.iter().zip(self.blobs.get_batch(&digests).await) {
            let (data, failure) = match read {
                Ok(data) => (self.distort(data), Ok(())),
                Err(error) => (Bytes::new(), Err(error.into())),
            };
            let (digest, status) = (Some(digest.to_wire()), outcome(failure));
            responses.push(batch_read_blobs_response::Response { digest, data, compressor: 0, status });
        }
        responses.reverse();
        if self.manner == Manner::Silent {
            responses.clear();
        }
        Ok(Response::new(BatchReadBlobsResponse { responses }))
    }

    type GetTreeStream = BoxStream<'static, Result<GetTreeResponse, Status>>;

    async fn get_tree(&self, _: Request<GetTreeRequest>) -> Answer<Self::GetTreeStream> {
        Err(Status::unimplemented("not needed here"))
    }

    async fn split_blob(&self, _: Request<SplitBlobRequest>) -> Answer<SplitBlobResponse> {
        Err(Status::unimplemented("not needed here"))
    }

    async fn splice_blob(&self, _: Request<SpliceBlobRequest>) -> Answer<SpliceBlobResponse> {
        Err(Status::unimplemented("not needed here"))
    }
}

#[tonic::async_trait]
impl ByteStream for Cas {
    type ReadStream = BoxStream<'static, Result<ReadResponse, Status>>;

    async fn read(&self, r: Request<ReadRequest>) -> Answer<Self::ReadStream> {
        let r = r.into_inner();
        let name = ReadName::parse(&r.resource_name, |_| DigestFunctions::all_but_murmur3())
            .map_err(|e| Status::invalid_argument(e.to_string()))?;
        self.admit(name.instance.as_str())?;
        let offset = u64::try_from(r.read_offset).map_err(|_| Status::out_of_range("offset"))?;
        let limit = u64::try_from(r.read_limit).map_err(|_| Status::invalid_argument("limit"))?;
        refuse(offset + limit > name.digest.size(), "reads more than there is")?;
        let range = ByteRange { offset, limit: (limit > 0).then_some(limit) };
        let data = match self.blobs.read(&name.digest, range).await {
            Ok(pieces) => collect(pieces).await?,
            // Half of the servers say so in the first message, not instead of the stream.
            Err(error) if name.digest.size() % 2 == 0 => {
                return Ok(Response::new(futures::stream::iter([Err(error.into())]).boxed()));
            }
            Err(error) => return Err(error.into()),
        };
        let data = self.distort(data);
        let empty = Ok(ReadResponse::default());
        let pieces: Vec<_> =
            data.chunks(50_000).map(|c| Ok(ReadResponse { data: Bytes::copy_from_slice(c) })).collect();
        Ok(Response::new(futures::stream::iter([empty].into_iter().chain(pieces)).boxed()))
    }

    async fn write(&self, r: Request<Streaming<WriteRequest>>) -> Answer<WriteResponse> {
        let mut messages = r.into_inner();
        let mut first = messages.message().await?.ok_or_else(|| Status::invalid_argument("no message"))?;
        let name = WriteName::parse(&first.resource_name, |_| DigestFunctions::all_but_murmur3())
            .map_err(|e| Status::invalid_argument(e.to_string()))?;
        self.admit(name.instance.as_str())?;
        let size = i64::try_from(name.digest.size()).unwrap();
        refuse(name.upload_id.len() != 36, "upload id is no UUID")?;
        match self.manner {
            Manner::KnowsAll => return Ok(Response::new(WriteResponse { committed_size: size })),
            Manner::Full => return Err(Status::resource_exhausted("no room")),
            _ => first.resource_name.clear(),
        }
        let mut data: Vec<u8> = Vec::new();
        let mut next = Some(first);
        let mut finished = false;
        while let Some(message) = next {
            refuse(finished, "a message after the last one")?;
            refuse(!message.resource_name.is_empty(), "name again")?;
            refuse(message.data.is_empty() || message.data.len() > WRITE_BYTES_MAX, "message size")?;
            refuse(message.write_offset != i64::try_from(data.len()).unwrap(), "offset")?;
            data.extend_from_slice(&message.data);
            self.written.fetch_add(u32::try_from(message.data.len()).unwrap(), Ordering::SeqCst);
            finished = message.finish_write;
            next = messages.message().await?;
        }
        if !finished && self.manner == Manner::Patient {
            std::future::pending::<()>().await;
        }
        refuse(!finished, "write was not finished")?;
        self.blobs.put(Upload::bytes(name.digest, data)).await?;
        let committed_size = if self.manner == Manner::Forgetful { size - 1 } else { size };
        Ok(Response::new(WriteResponse { committed_size }))
    }

    async fn query_write_status(
        &self,
        _: Request<QueryWriteStatusRequest>,
    ) -> Answer<QueryWriteStatusResponse> {
        Err(Status::unimplemented("not needed here"))
    }
}

/// Stops the server when the test ends.
pub(crate) struct Running(tokio::task::JoinHandle<()>, pub(crate) Cas);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub(crate) const LIMITS: GrpcStoreLimits = GrpcStoreLimits {
    batch_bytes_max: BATCH_BYTES_MAX as u64,
    batch_blobs_max: DIGESTS_MAX,
    digests_max: DIGESTS_MAX,
    write_bytes_max: WRITE_BYTES_MAX,
    attempts_max: 3,
    unary_time_max: Duration::from_secs(30),
    lease: Duration::ZERO,
};

pub(crate) fn instance() -> InstanceName {
    InstanceName::parse(INSTANCE).unwrap()
}

pub(crate) async fn channel(listener: &TcpListener) -> Channel {
    let address = listener.local_addr().unwrap();
    Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy()
}

pub(crate) async fn serve(manner: Manner, limits: GrpcStoreLimits) -> (GrpcStore, Running) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let channel = channel(&listener).await;
    let cas = Cas {
        blobs: Arc::new(MemoryStore::new(64 << 20)),
        manner,
        unavailable: Arc::default(),
        broken: Arc::default(),
        written: Arc::default(),
        calls: Arc::default(),
    };
    let server = Server::builder()
        .add_service(ContentAddressableStorageServer::new(cas.clone()))
        .add_service(ByteStreamServer::new(cas.clone()))
        .serve_with_incoming(unbroken(listener, Arc::clone(&cas.broken)));
    let task = tokio::spawn(async move { server.await.unwrap() });
    (GrpcStore::new(channel, instance(), limits), Running(task, cas))
}

/// The connections that are to be served.
fn unbroken(listener: TcpListener, broken: Arc<AtomicU32>) -> BoxStream<'static, std::io::Result<TcpStream>> {
    let serve = move |connection: std::io::Result<TcpStream>| {
        let broken = Arc::clone(&broken);
        async move {
            let mut connection = connection.unwrap();
            let left = broken.load(Ordering::SeqCst);
            if left == 0 {
                return Some(Ok(connection));
            }
            broken.store(left - 1, Ordering::SeqCst);
            connection.read_u8().await.unwrap();
            None
        }
    };
    TcpListenerStream::new(listener).filter_map(serve).boxed()
}
