//! The calls that checks are made of.

use bytes::Bytes;
use futures::stream;
use tonic::{Code, Status};
use wardian_proto::bytestream::{QueryWriteStatusRequest, ReadRequest, WriteRequest};
use wardian_proto::reapi::{
    batch_read_blobs_response, batch_update_blobs_request, batch_update_blobs_response,
};
use wardian_proto::{Compressor, Digest, DigestFunction, reapi};

use super::{Stop, Subject};

/// Bytes in one message of an upload.
const PIECE_BYTES: usize = 64 << 10;

/// The number on the wire.
pub(super) fn wire(compressor: Compressor) -> i32 {
    match compressor {
        Compressor::Identity => 0,
        Compressor::Zstd => 1,
        Compressor::Deflate => 2,
        Compressor::Brotli => 3,
    }
}

/// One entry of a batch update, as it is.
pub(super) fn entry(digest: reapi::Digest, data: Bytes) -> batch_update_blobs_request::Request {
    batch_update_blobs_request::Request { digest: Some(digest), data, ..Default::default() }
}

/// The code of one entry of a batch's response.
pub(super) fn code_of(status: Option<&wardian_proto::rpc::Status>) -> Code {
    status.map_or(Code::Ok, |status| Code::from(status.code))
}

/// The messages of a well-behaved upload: the name in the first, the end in the last.
pub(super) fn messages(name: &str, data: &Bytes, piece_bytes: usize) -> Vec<WriteRequest> {
    let message = |(at, piece): (usize, &[u8])| WriteRequest {
        write_offset: size_of(at * piece_bytes),
        data: data.slice_ref(piece),
        ..Default::default()
    };
    let mut messages: Vec<_> = data.chunks(piece_bytes).enumerate().map(message).collect();
    if messages.is_empty() {
        messages.push(WriteRequest::default());
    }
    messages[0].resource_name = name.to_owned();
    messages.last_mut().expect("there is one at least").finish_write = true;
    messages
}

/// A size as the wire has it.
pub(super) fn size_of(size: usize) -> i64 {
    i64::try_from(size).expect("blobs of checks are small")
}

impl Subject {
    /// The digest by the function that checks use when any will do.
    pub(super) fn digest(&self, data: &[u8]) -> Digest {
        self.function().digest(data)
    }

    /// Asks which of these are missing, naming the function.
    pub(super) async fn missing_of(
        &self,
        function: i32,
        digests: &[reapi::Digest],
    ) -> Result<Vec<reapi::Digest>, Status> {
        let request = reapi::FindMissingBlobsRequest {
            instance_name: self.instance(),
            blob_digests: digests.to_vec(),
            digest_function: function,
        };
        Ok(self.cas().find_missing_blobs(request).await?.into_inner().missing_blob_digests)
    }

    /// Asks which of these are missing.
    pub(super) async fn missing(&self, digests: &[reapi::Digest]) -> Result<Vec<reapi::Digest>, Status> {
        self.missing_of(self.function().wire().into(), digests).await
    }

    /// Whether a blob is there.
    pub(super) async fn has(&self, digest: &Digest) -> Result<bool, Status> {
        Ok(self.missing_of(digest.function().wire().into(), &[digest.to_wire()]).await?.is_empty())
    }

    /// Updates a batch, naming the function.
    pub(super) async fn update_as(
        &self,
        function: DigestFunction,
        requests: Vec<batch_update_blobs_request::Request>,
    ) -> Result<Vec<batch_update_blobs_response::Response>, Status> {
        let request = reapi::BatchUpdateBlobsRequest {
            instance_name: self.instance(),
            requests,
            digest_function: function.wire().into(),
        };
        Ok(self.cas().batch_update_blobs(request).await?.into_inner().responses)
    }

    /// Updates a batch, and returns the codes of its entries.
    pub(super) async fn update(
        &self,
        requests: Vec<batch_update_blobs_request::Request>,
    ) -> Result<Vec<Code>, Status> {
        let responses = self.update_as(self.function(), requests).await?;
        Ok(responses.iter().map(|response| code_of(response.status.as_ref())).collect())
    }

    /// Reads a batch.
    pub(super) async fn batch_read(
        &self,
        function: DigestFunction,
        digests: Vec<reapi::Digest>,
        acceptable_compressors: Vec<i32>,
    ) -> Result<Vec<batch_read_blobs_response::Response>, Status> {
        let request = reapi::BatchReadBlobsRequest {
            instance_name: self.instance(),
            digests,
            acceptable_compressors,
            digest_function: function.wire().into(),
        };
        Ok(self.cas().batch_read_blobs(request).await?.into_inner().responses)
    }

    /// Stores a blob in the usual way, and returns its digest.
    #[track_caller]
    pub(super) fn put(&self, data: &Bytes) -> impl Future<Output = Result<Digest, Stop>> {
        self.put_as(self.function(), data.clone())
    }

    /// Stores a blob under any function.
    #[track_caller]
    pub(super) fn put_as(
        &self,
        function: DigestFunction,
        data: impl Into<Bytes>,
    ) -> impl Future<Output = Result<Digest, Stop>> {
        let (data, place) = (data.into(), std::panic::Location::caller());
        async move {
            let digest = function.digest(&data);
            let outcome = self.write(messages(&self.write_name(&digest), &data, PIECE_BYTES)).await;
            outcome.map(|_| digest).map_err(|status| {
                let message = format!("an upload failed: {}", super::outcome::told(&status));
                Stop::Failed(super::Failure { message, place })
            })
        }
    }

    /// The name by which a blob is read.
    pub(super) fn read_name(&self, digest: &Digest) -> String {
        format!("{}blobs/{digest}", self.prefix())
    }

    /// A name by which a blob is written, with an upload id of its own.
    pub(super) fn write_name(&self, digest: &Digest) -> String {
        format!("{}uploads/{}/blobs/{digest}", self.prefix(), self.upload_id())
    }

    /// The name by which a blob is read in an encoding.
    pub(super) fn encoded_read_name(&self, compressor: Compressor, digest: &Digest) -> String {
        format!("{}compressed-blobs/{}/{digest}", self.prefix(), compressor.name())
    }

    /// A name by which a blob is written in an encoding, with an upload id of its own.
    pub(super) fn encoded_write_name(&self, compressor: Compressor, digest: &Digest) -> String {
        let (prefix, id) = (self.prefix(), self.upload_id());
        format!("{prefix}uploads/{id}/compressed-blobs/{}/{digest}", compressor.name())
    }

    /// Reads a resource, and puts its pieces together.
    pub(super) async fn read(&self, name: &str, offset: i64, limit: i64) -> Result<Bytes, Status> {
        let request = ReadRequest { resource_name: name.into(), read_offset: offset, read_limit: limit };
        let mut pieces = self.byte_stream().read(request).await?.into_inner();
        let mut whole = Vec::new();
        while let Some(piece) = pieces.message().await? {
            whole.extend_from_slice(&piece.data);
        }
        Ok(whole.into())
    }

    /// Reads a blob as it is.
    pub(super) async fn get(&self, digest: &Digest) -> Result<Bytes, Status> {
        self.read(&self.read_name(digest), 0, 0).await
    }

    /// Sends messages, ends the client's side, and returns the committed size.
    pub(super) async fn write(&self, messages: Vec<WriteRequest>) -> Result<i64, Status> {
        Ok(self.byte_stream().write(stream::iter(messages)).await?.into_inner().committed_size)
    }

    /// Asks how far an upload is: the committed size, and whether it is complete.
    pub(super) async fn query(&self, name: &str) -> Result<(i64, bool), Status> {
        let request = QueryWriteStatusRequest { resource_name: name.into() };
        let response = self.byte_stream().query_write_status(request).await?.into_inner();
        Ok((response.committed_size, response.complete))
    }
}
