//! SplitBlob and SpliceBlob: blobs as lists of chunks.

use tonic::Status;
use wardian_proto::{DigestFunction, reapi};
use wardian_store::chunking::{Chunking, ChunksError, FastCdc, RepMaxCdc, Spliced};

use super::{Context, REPLY_BYTES_MAX};
use crate::auth::{Caller, Verb};

/// The chunkings on offer. Both have the parameters that the API recommends.
pub(super) const FAST_CDC: FastCdc = FastCdc::RECOMMENDED;
pub(super) const REP_MAX_CDC: RepMaxCdc = RepMaxCdc::RECOMMENDED;

/// What a reply spends on a chunk beside the digits of its hash, at the most.
const CHUNK_OVERHEAD_BYTES: usize = 24;

/// The chunking for a number on the wire, and the number that says so. What is not known is as good as none.
fn chosen(wire: i32) -> (Chunking, reapi::chunking_function::Value) {
    use reapi::chunking_function::Value;
    match Value::try_from(wire) {
        Ok(Value::RepMaxCdc) => (Chunking::RepMaxCdc(REP_MAX_CDC), Value::RepMaxCdc),
        _ => (Chunking::FastCdc2020(FAST_CDC), Value::FastCdc2020),
    }
}

fn chunks_max(function: DigestFunction) -> usize {
    REPLY_BYTES_MAX / (2 * function.hash_bytes() + CHUNK_OVERHEAD_BYTES)
}

pub(super) async fn split(
    context: &Context,
    caller: &Caller,
    request: reapi::SplitBlobRequest,
) -> Result<reapi::SplitBlobResponse, Status> {
    let instance = context.instance(caller, Verb::Read, &request.instance_name)?;
    let blob = instance.digest(request.digest_function, request.blob_digest.as_ref())?;
    let (chunking, chunking_function) = chosen(request.chunking_function);
    let chunks = context.chunks.split(blob, chunking, chunks_max(blob.function())).await.map_err(status)?;
    Ok(reapi::SplitBlobResponse {
        chunk_digests: chunks.iter().map(wardian_proto::Digest::to_wire).collect(),
        chunking_function: chunking_function.into(),
    })
}

pub(super) async fn splice(
    context: &Context,
    caller: &Caller,
    request: reapi::SpliceBlobRequest,
) -> Result<reapi::SpliceBlobResponse, Status> {
    let instance = context.instance(caller, Verb::Write, &request.instance_name)?;
    let blob = instance.digest(request.digest_function, request.blob_digest.as_ref())?;
    // The chunks' function is the blob's, also where the request leaves it to be told by the length.
    let function = blob.function().wire().into();
    let chunks = instance.digests(function, &request.chunk_digests)?;
    let max = context.requests.blob_bytes_max;
    if blob.size() > max {
        let text = format!("blob has {} bytes; limit max_cas_blob_size_bytes is {max}", blob.size());
        return Err(Status::invalid_argument(text));
    }
    match context.chunks.splice(blob, &chunks).await.map_err(status)? {
        Spliced::Stored => Ok(reapi::SpliceBlobResponse { blob_digest: Some(blob.to_wire()) }),
        Spliced::ChunksMissing => Err(Status::already_exists(
            "the blob is stored, but not all of these chunks: SplitBlob says which chunks are",
        )),
    }
}

fn status(error: ChunksError) -> Status {
    let text = error.to_string();
    match error {
        ChunksError::Store(error) => error.into(),
        ChunksError::Sizes { .. } => Status::invalid_argument(text),
        ChunksError::TooManyChunks { .. } | ChunksError::NoRoom(_) | ChunksError::Busy => {
            Status::resource_exhausted(text)
        }
    }
}
