//! A store on the other side of a Remote Execution API connection: CAS batches and ByteStream.
//!
//! What comes back is checked here: a whole blob against its digest, a part of one by its length, so a
//! wrong server is found out and never believed. Nothing is kept on this side.

mod connection;
mod download;
mod renewal;
mod retry;
mod upload;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
pub use connection::Connection;
use download::Download;
use futures::StreamExt;
use renewal::{Renewals, Renewed};
use tonic::{Code, Request, Response, Status};
use wardian_proto::bytestream::ReadRequest;
use wardian_proto::bytestream::byte_stream_client::ByteStreamClient;
use wardian_proto::reapi::content_addressable_storage_client::ContentAddressableStorageClient;
use wardian_proto::{Compressor, Digest, InstanceName, ReadName, WriteName, reapi, rpc};

use crate::blob_store::distinct_non_empty;
use crate::{BlobStore, BlobStream, ByteRange, Pin, StoreError, Upload};

/// Room in a batch message for what comes beside the blobs' bytes: digests, statuses, framing.
const MESSAGE_OVERHEAD_BYTES: usize = 1 << 20;

/// Batches of one read that are under way at once.
const BATCHES_AT_ONCE_MAX: usize = 4;

/// Smallest limit for a received message: what gRPC programs expect of each other by default.
const MESSAGE_BYTES_MIN: usize = 4 << 20;

/// What one call of a [`GrpcStore`] may carry, and how hard it tries.
#[derive(Clone, Copy, Debug)]
pub struct GrpcStoreLimits {
    /// Bytes of blobs in one batch call. A blob larger than this goes through ByteStream.
    pub batch_bytes_max: u64,
    /// Blobs in one batch call.
    pub batch_blobs_max: usize,
    /// Digests in one FindMissingBlobs call.
    pub digests_max: usize,
    /// Bytes of a blob in one message of a ByteStream write.
    pub write_bytes_max: usize,
    /// How often a call is made while the answer is UNAVAILABLE. Uploads through ByteStream are made once.
    pub attempts_max: u32,
    /// How long one call that answers once may take. Streams have no such limit.
    pub unary_time_max: Duration,
    /// How long the server keeps what it reported present. The API has no way to ask; zero when nothing is
    /// known.
    pub lease: Duration,
}

impl Default for GrpcStoreLimits {
    fn default() -> Self {
        Self {
            batch_bytes_max: 3 << 20,
            batch_blobs_max: 1000,
            digests_max: 10_000,
            write_bytes_max: 512 << 10,
            attempts_max: 4,
            unary_time_max: Duration::from_secs(60),
            lease: Duration::ZERO,
        }
    }
}

/// One instance of a remote CAS. Clones share the connection.
#[derive(Clone, Debug)]
pub struct GrpcStore {
    cas: ContentAddressableStorageClient<Connection>,
    byte_stream: ByteStreamClient<Connection>,
    instance: InstanceName,
    limits: GrpcStoreLimits,
    renewals: Arc<Renewals>,
}

impl GrpcStore {
    /// A store that reaches `instance` through `connection`.
    pub fn new(connection: impl Into<Connection>, instance: InstanceName, limits: GrpcStoreLimits) -> Self {
        let connection = connection.into();
        let batch_bytes_max = usize::try_from(limits.batch_bytes_max).unwrap_or(usize::MAX);
        let message_bytes_max = batch_bytes_max.saturating_add(MESSAGE_OVERHEAD_BYTES).max(MESSAGE_BYTES_MIN);
        Self {
            cas: ContentAddressableStorageClient::new(connection.clone())
                .max_decoding_message_size(message_bytes_max)
                .max_encoding_message_size(message_bytes_max),
            byte_stream: ByteStreamClient::new(connection)
                .max_decoding_message_size(message_bytes_max)
                .max_encoding_message_size(message_bytes_max),
            instance,
            limits,
            renewals: Arc::default(),
        }
    }

    /// Makes an idempotent call that answers once, again while the server is unavailable.
    async fn unary<M, R, F>(
        &self,
        message: M,
        call: impl Fn(ContentAddressableStorageClient<Connection>, Request<M>) -> F + Send,
    ) -> Result<R, Status>
    where
        M: Clone + Send,
        F: Future<Output = Result<Response<R>, Status>> + Send,
    {
        let response = retry::while_unavailable(self.limits.attempts_max, || {
            let mut request = Request::new(message.clone());
            request.set_timeout(self.limits.unary_time_max);
            call(self.cas.clone(), request)
        });
        Ok(response.await?.into_inner())
    }

    /// Asks for one batch; keeps its order, as the answer may come in any.
    async fn find_missing_among(&self, batch: &[Digest]) -> Result<Vec<Digest>, StoreError> {
        let request = reapi::FindMissingBlobsRequest {
            instance_name: self.instance.to_string(),
            blob_digests: batch.iter().map(Digest::to_wire).collect(),
            digest_function: function_of(batch),
        };
        let answer = self
            .unary(request, |mut cas, request| async move { cas.find_missing_blobs(request).await })
            .await
            .map_err(StoreError::Remote)?;
        let missing: HashSet<_> =
            answer.missing_blob_digests.into_iter().map(|d| (d.hash, d.size_bytes)).collect();
        Ok(batch.iter().filter(|d| missing.contains(&wire_key(d))).copied().collect())
    }

    /// Uploads verified blobs in one call and notes the outcome of each at its place.
    async fn update(&self, group: Group<(usize, Bytes)>, outcomes: &mut [Result<(), StoreError>]) {
        if group.members.is_empty() {
            return;
        }
        let mut once = HashSet::new();
        let distinct = group.members.iter().filter(|(digest, _)| once.insert(*digest));
        let requests = distinct.map(|(digest, (_, data))| reapi::batch_update_blobs_request::Request {
            digest: Some(digest.to_wire()),
            data: data.clone(),
            compressor: reapi::compressor::Value::Identity.into(),
        });
        let request = reapi::BatchUpdateBlobsRequest {
            instance_name: self.instance.to_string(),
            requests: requests.collect(),
            digest_function: function_of(&[group.members[0].0]),
        };
        let answer = self
            .unary(request, |mut cas, request| async move { cas.batch_update_blobs(request).await })
            .await;
        let statuses = answer.map(|answer| {
            let statuses = answer.responses.into_iter();
            statuses.filter_map(|r| Some((key(r.digest?), r.status))).collect::<HashMap<_, _>>()
        });
        for (digest, (place, _)) in group.members {
            outcomes[place] = match &statuses {
                Err(status) => Err(StoreError::Remote(status.clone())),
                Ok(statuses) => match statuses.get(&wire_key(&digest)) {
                    None => Err(StoreError::Remote(left_out(&digest))),
                    Some(status) => checked(status.as_ref()).map_err(StoreError::Remote),
                },
            };
        }
    }

    /// Downloads blobs in one call.
    async fn read_group(&self, group: &[Digest]) -> Vec<Result<Bytes, StoreError>> {
        let request = reapi::BatchReadBlobsRequest {
            instance_name: self.instance.to_string(),
            digests: group.iter().map(Digest::to_wire).collect(),
            acceptable_compressors: vec![reapi::compressor::Value::Identity.into()],
            digest_function: function_of(group),
        };
        let answer =
            self.unary(request, |mut cas, request| async move { cas.batch_read_blobs(request).await }).await;
        let answer = match answer {
            Ok(answer) => answer,
            Err(status) => return group.iter().map(|_| Err(StoreError::Remote(status.clone()))).collect(),
        };
        let mut responses: HashMap<_, _> =
            answer.responses.into_iter().filter_map(|mut r| Some((key(r.digest.take()?), r))).collect();
        let mut verdict = |digest: &Digest| {
            let response =
                responses.remove(&wire_key(digest)).ok_or_else(|| StoreError::Remote(left_out(digest)))?;
            checked(response.status.as_ref()).map_err(|status| not_found(digest, status))?;
            let actual = digest.function().digest(&response.data);
            if actual != *digest {
                return Err(StoreError::Mismatch { expected: *digest, actual });
            }
            Ok(response.data)
        };
        group.iter().map(&mut verdict).collect()
    }

    /// Downloads distinct blobs, small ones together.
    async fn read_each(&self, digests: Vec<Digest>) -> HashMap<Digest, Result<Bytes, StoreError>> {
        let mut outcomes = HashMap::with_capacity(digests.len());
        let mut groups = vec![Group::default()];
        for digest in digests {
            if digest.size() > self.limits.batch_bytes_max {
                outcomes.insert(digest, self.get(&digest, u64::MAX).await);
                continue;
            }
            if groups[groups.len() - 1].is_full_for(&digest, &self.limits) {
                groups.push(Group::default());
            }
            let last = groups.len() - 1;
            groups[last].push(digest, ());
        }
        let reads = groups.into_iter().filter(|group| !group.members.is_empty()).map(|group| async move {
            let members: Vec<Digest> = group.members.into_iter().map(|(digest, ())| digest).collect();
            let read = self.read_group(&members).await;
            members.into_iter().zip(read)
        });
        let mut reads = futures::stream::iter(reads).buffer_unordered(BATCHES_AT_ONCE_MAX);
        while let Some(read) = reads.next().await {
            outcomes.extend(read);
        }
        drop(reads);
        outcomes
    }

    /// Begins a ByteStream read and waits for its first message, so that a refusal is known by then.
    async fn open(&self, digest: &Digest, offset: u64, length: u64) -> Result<Download, Status> {
        let (instance, compressor) = (self.instance.clone(), Compressor::Identity);
        let to_the_end = offset + length == digest.size();
        let request = ReadRequest {
            resource_name: ReadName { instance, compressor, digest: *digest }.to_string(),
            read_offset: wire_size(offset),
            read_limit: if to_the_end { 0 } else { wire_size(length) },
        };
        let (first, pieces) = retry::while_unavailable(self.limits.attempts_max, || {
            let (mut client, request) = (self.byte_stream.clone(), request.clone());
            async move {
                let mut pieces = client.read(request).await?.into_inner();
                Ok((pieces.message().await?, pieces))
            }
        })
        .await?;
        Ok(Download::new(digest, length, first, pieces))
    }
}

#[async_trait]
impl BlobStore for GrpcStore {
    async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, StoreError> {
        let mut missing = Vec::new();
        let asked = distinct_non_empty(digests);
        let alike = asked.chunk_by(|a, b| a.function() == b.function());
        for batch in alike.flat_map(|alike| alike.chunks(self.limits.digests_max.max(1))) {
            missing.extend(self.find_missing_among(batch).await?);
        }
        Ok(missing)
    }

    fn lease(&self) -> Duration {
        self.limits.lease
    }

    /// Holds as far as the server keeps its lease: while the pin lives, it is asked for the blobs again in
    /// time. Where no lease is known, the pin is one FindMissingBlobs and no more.
    async fn pin(&self, digests: &[Digest]) -> Result<(Pin, Vec<Digest>), StoreError> {
        let missing = self.find_missing(digests).await?;
        if self.limits.lease.is_zero() {
            return Ok((Pin::default(), missing));
        }
        let absent: HashSet<_> = missing.iter().collect();
        let mut present = distinct_non_empty(digests);
        present.retain(|digest| !absent.contains(digest));
        Ok((Pin::new(Renewed::new(self, present)), missing))
    }

    /// A server that has the blob already may end the upload early; the bytes not sent by then are not
    /// looked at.
    async fn put(&self, upload: Upload) -> Result<(), StoreError> {
        if upload.digest().size() <= self.limits.batch_bytes_max {
            return self.put_batch(vec![upload]).await.pop().expect("one outcome for one upload");
        }
        let name = WriteName {
            instance: self.instance.clone(),
            upload_id: uuid::Uuid::new_v4().to_string(),
            compressor: Compressor::Identity,
            digest: upload.digest(),
        };
        upload::send(self.byte_stream.clone(), name, upload, self.limits.write_bytes_max).await
    }

    async fn put_batch(&self, uploads: Vec<Upload>) -> Vec<Result<(), StoreError>> {
        let mut outcomes: Vec<_> = uploads.iter().map(|_| Ok(())).collect();
        let mut group = Group::default();
        for (place, upload) in uploads.into_iter().enumerate() {
            if upload.digest().size() > self.limits.batch_bytes_max {
                outcomes[place] = self.put(upload).await;
                continue;
            }
            let digest = upload.digest();
            match upload.into_bytes().await {
                Err(error) => outcomes[place] = Err(error),
                Ok(_) if digest.is_empty_blob() => {}
                Ok((_, data)) => {
                    if group.is_full_for(&digest, &self.limits) {
                        self.update(std::mem::take(&mut group), &mut outcomes).await;
                    }
                    group.push(digest, (place, data));
                }
            }
        }
        self.update(group, &mut outcomes).await;
        outcomes
    }

    async fn read(&self, digest: &Digest, range: ByteRange) -> Result<BlobStream, StoreError> {
        let (offset, length) = range.within(digest)?;
        if length == 0 {
            // A read_limit of zero means "no limit", so reading nothing cannot be asked for.
            return match self.find_missing(&[*digest]).await?.is_empty() {
                true => Ok(futures::stream::empty().boxed()),
                false => Err(StoreError::NotFound(*digest)),
            };
        }
        let opened = self.open(digest, offset, length).await;
        Ok(opened.map_err(|status| not_found(digest, status))?.into_stream())
    }

    async fn get_batch(&self, digests: &[Digest]) -> Vec<Result<Bytes, StoreError>> {
        let outcomes = self.read_each(distinct_non_empty(digests)).await;
        let outcome = |digest: &Digest| match outcomes.get(digest) {
            None => Ok(Bytes::new()),
            Some(Ok(data)) => Ok(data.clone()),
            Some(Err(error)) => Err(error.again()),
        };
        digests.iter().map(outcome).collect()
    }
}

/// Blobs that travel in one call.
struct Group<T> {
    members: Vec<(Digest, T)>,
    bytes: u64,
}

impl<T> Default for Group<T> {
    fn default() -> Self {
        Self { members: Vec::new(), bytes: 0 }
    }
}

impl<T> Group<T> {
    fn is_full_for(&self, next: &Digest, limits: &GrpcStoreLimits) -> bool {
        let Some((first, _)) = self.members.first() else { return false };
        let too_large = self.bytes.saturating_add(next.size()) > limits.batch_bytes_max;
        too_large || self.members.len() >= limits.batch_blobs_max || first.function() != next.function()
    }

    fn push(&mut self, digest: Digest, member: T) {
        self.bytes = self.bytes.saturating_add(digest.size());
        self.members.push((digest, member));
    }
}

/// The digest function of a batch, for its request. All members have it.
fn function_of(batch: &[Digest]) -> i32 {
    batch.first().map_or(0, |digest| digest.function().wire() as i32)
}

/// What responses are found by. A server may put anything there, so it is compared, not parsed.
fn key(digest: reapi::Digest) -> (String, i64) {
    (digest.hash, digest.size_bytes)
}

fn wire_key(digest: &Digest) -> (String, i64) {
    key(digest.to_wire())
}

fn wire_size(size: u64) -> i64 {
    i64::try_from(size).expect("no larger than a digest's size, which is at most i64::MAX")
}

/// A status inside of a response: absent means OK.
fn checked(status: Option<&rpc::Status>) -> Result<(), Status> {
    match status {
        Some(status) if status.code != Code::Ok as i32 => {
            Err(Status::new(Code::from(status.code), status.message.clone()))
        }
        _ => Ok(()),
    }
}

fn left_out(digest: &Digest) -> Status {
    Status::internal(format!("the answer says nothing about blob {digest}"))
}

/// The failure of reading one blob.
fn not_found(digest: &Digest, status: Status) -> StoreError {
    match status.code() {
        Code::NotFound => StoreError::NotFound(*digest),
        _ => StoreError::Remote(status),
    }
}
