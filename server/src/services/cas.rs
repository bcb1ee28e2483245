//! ContentAddressableStorage: look-ups, batches and trees.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use prost::Message as _;
use tonic::{Request, Response, Status};
use wardian_proto::{Compressor, Digest, DigestFunction, reapi};
use wardian_store::tree::closure;
use wardian_store::{BlobStore, StoreError, Upload};

use super::{Context, REPLY_BYTES_MAX, bad_digest, chunks, compression, entry_status};
use crate::auth::{Caller, Verb};

/// Directories in one GetTree message, whatever the client asks for.
const PAGE_DIRECTORIES_MAX: usize = 1000;

/// Blobs in one batch call.
const BATCH_ENTRIES_MAX: usize = 10_000;

/// What a batch reply spends on an entry beside its data, at the most.
const ENTRY_OVERHEAD_BYTES: usize = 256;

pub(super) struct Cas(pub(super) Arc<Context>);

impl Cas {
    /// Refuses a batch whose blobs are larger than announced, as a whole.
    fn check_batch(&self, sizes: impl ExactSizeIterator<Item = u64>) -> Result<(), Status> {
        if sizes.len() > BATCH_ENTRIES_MAX {
            let text = format!("batch has {} blobs; limit is {BATCH_ENTRIES_MAX}", sizes.len());
            return Err(Status::invalid_argument(text));
        }
        let total = sizes.fold(0_u64, u64::saturating_add);
        let max = self.0.requests.batch_bytes_max;
        if total <= max {
            return Ok(());
        }
        Err(Status::invalid_argument(format!(
            "batch has {total} bytes; limit max_batch_total_size_bytes is {max}: use ByteStream"
        )))
    }

    fn parse_entry(
        &self,
        function: DigestFunction,
        entry: &reapi::batch_update_blobs_request::Request,
    ) -> Result<(Digest, Compressor), Status> {
        let digest = Digest::from_wire(function, entry.digest.as_ref()).map_err(bad_digest)?;
        let compressor = compression::from_wire(entry.compressor).ok_or_else(|| {
            Status::invalid_argument(
                "compressor is not offered: see supported_batch_update_compressors in Capabilities",
            )
        })?;
        // A batch is below this limit anyway; a lower limit may be configured.
        let max = self.0.requests.blob_bytes_max;
        if digest.size() > max {
            let text = format!("blob has {} bytes; limit max_cas_blob_size_bytes is {max}", digest.size());
            return Err(Status::invalid_argument(text));
        }
        Ok((digest, compressor))
    }
}

#[tonic::async_trait]
impl reapi::content_addressable_storage_server::ContentAddressableStorage for Cas {
    type GetTreeStream = BoxStream<'static, Result<reapi::GetTreeResponse, Status>>;

    async fn find_missing_blobs(
        &self,
        request: Request<reapi::FindMissingBlobsRequest>,
    ) -> Result<Response<reapi::FindMissingBlobsResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let instance = self.0.instance(&caller, Verb::Find, &request.instance_name)?;
        let asked = instance.digests(request.digest_function, &request.blob_digests)?;
        let missing = self.0.blobs.find_missing(&asked).await?;
        let missing_blob_digests = missing.iter().map(Digest::to_wire).collect();
        Ok(Response::new(reapi::FindMissingBlobsResponse { missing_blob_digests }))
    }

    async fn batch_update_blobs(
        &self,
        request: Request<reapi::BatchUpdateBlobsRequest>,
    ) -> Result<Response<reapi::BatchUpdateBlobsResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let instance = self.0.instance(&caller, Verb::Write, &request.instance_name)?;
        let first = request.requests.first().and_then(|entry| entry.digest.as_ref());
        let functions = &instance.digest_functions;
        let function = functions
            .resolve(request.digest_function, first.map(|digest| digest.hash.as_str()))
            .map_err(bad_digest)?;
        let parsed: Vec<_> = request.requests.iter().map(|entry| self.parse_entry(function, entry)).collect();
        // What is sent and what it says it becomes: both must fit.
        self.check_batch(parsed.iter().zip(&request.requests).map(|(parsed, entry)| {
            let decoded = parsed.as_ref().map_or(0, |(digest, _)| digest.size());
            decoded.max(entry.data.len() as u64)
        }))?;
        let good = parsed.iter().zip(&request.requests).filter_map(|(parsed, entry)| {
            parsed.as_ref().ok().map(|(digest, compressor)| upload(*digest, *compressor, &entry.data))
        });
        let mut stored = VecDeque::from(self.0.blobs.put_batch(good.collect()).await);
        let mut responses = Vec::with_capacity(parsed.len());
        for (parsed, entry) in parsed.into_iter().zip(request.requests) {
            let outcome = parsed
                .and_then(|_| stored.pop_front().expect("one outcome for each upload").map_err(Status::from));
            let status = Some(entry_status(outcome));
            responses.push(reapi::batch_update_blobs_response::Response { digest: entry.digest, status });
        }
        Ok(Response::new(reapi::BatchUpdateBlobsResponse { responses }))
    }

    async fn batch_read_blobs(
        &self,
        request: Request<reapi::BatchReadBlobsRequest>,
    ) -> Result<Response<reapi::BatchReadBlobsResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let instance = self.0.instance(&caller, Verb::Read, &request.instance_name)?;
        let asked = instance.digests(request.digest_function, &request.digests)?;
        self.check_batch(asked.iter().map(Digest::size))?;
        let compressor = preferred(&request.acceptable_compressors);
        let mut room = REPLY_BYTES_MAX;
        let mut responses = Vec::with_capacity(asked.len());
        for (wire, outcome) in request.digests.into_iter().zip(self.0.blobs.get_batch(&asked).await) {
            let (data, compressor) = match outcome {
                Ok(data) => match compression::compress_small(compressor, &data).await {
                    Some(encoded) => (Ok(encoded), compressor),
                    None => (Ok(data), Compressor::Identity),
                },
                Err(error) => (Err(Status::from(error)), Compressor::Identity),
            };
            // Many tiny blobs can make a reply that is larger than the sum of their sizes.
            let data = data.and_then(|data| {
                let cost = data.len() + ENTRY_OVERHEAD_BYTES;
                room = room.checked_sub(cost).ok_or_else(|| {
                    Status::resource_exhausted("the reply is full; ask for this blob in another call")
                })?;
                Ok(data)
            });
            let (data, outcome) = match data {
                Ok(data) => (data, Ok(())),
                Err(status) => (Bytes::new(), Err(status)),
            };
            responses.push(reapi::batch_read_blobs_response::Response {
                digest: Some(wire),
                data,
                compressor: compression::wire(compressor).into(),
                status: Some(entry_status(outcome)),
            });
        }
        Ok(Response::new(reapi::BatchReadBlobsResponse { responses }))
    }

    async fn get_tree(
        &self,
        request: Request<reapi::GetTreeRequest>,
    ) -> Result<Response<Self::GetTreeStream>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let instance = self.0.instance(&caller, Verb::Read, &request.instance_name)?;
        let root = instance.digest(request.digest_function, request.root_digest.as_ref())?;
        let page = match usize::try_from(request.page_size) {
            Err(_) => return Err(Status::invalid_argument("page_size is negative")),
            Ok(0) => PAGE_DIRECTORIES_MAX,
            Ok(size) => size.min(PAGE_DIRECTORIES_MAX),
        };
        let start = page_start(&root, &request.page_token)?;
        let found = closure(&*self.0.blobs, root, self.0.limits.tree).await?;
        if found.missing.contains(&root) {
            return Err(StoreError::NotFound(root).into());
        }
        if start > 0 && start >= found.order.len() {
            return Err(Status::invalid_argument("page_token lies beyond the end of this tree"));
        }
        let order: VecDeque<Digest> = found.order.into_iter().skip(start).collect();
        let blobs = Arc::clone(&self.0.blobs);
        let pages = futures::stream::try_unfold(Some((order, start)), move |state| {
            let blobs = Arc::clone(&blobs);
            async move {
                let Some((order, at)) = state else { return Ok(None) };
                tree_page(&*blobs, &root, order, at, page).await.map(Some)
            }
        });
        Ok(Response::new(pages.boxed()))
    }

    async fn split_blob(
        &self,
        request: Request<reapi::SplitBlobRequest>,
    ) -> Result<Response<reapi::SplitBlobResponse>, Status> {
        chunks::split(&self.0, &Caller::of(&request)?, request.into_inner()).await.map(Response::new)
    }

    async fn splice_blob(
        &self,
        request: Request<reapi::SpliceBlobRequest>,
    ) -> Result<Response<reapi::SpliceBlobResponse>, Status> {
        chunks::splice(&self.0, &Caller::of(&request)?, request.into_inner()).await.map(Response::new)
    }
}

/// The encoding of a reply: the best one that the client accepts. Numbers it knows and we do not are skipped.
fn preferred(acceptable: &[i32]) -> Compressor {
    let accepted = |c: &&Compressor| acceptable.contains(&compression::wire(**c).into());
    compression::SUPPORTED.iter().find(accepted).copied().unwrap_or(Compressor::Identity)
}

fn upload(digest: Digest, compressor: Compressor, data: &Bytes) -> Upload {
    match compressor {
        Compressor::Identity => Upload::bytes(digest, data.clone()),
        encoded => {
            let pieces = futures::stream::iter([Ok(data.clone())]);
            Upload::stream(digest, compression::decompress(encoded, pieces))
        }
    }
}

/// A page token is `HASH:INDEX`: the root it belongs to, and the first Directory of the next page.
fn page_start(root: &Digest, token: &str) -> Result<usize, Status> {
    if token.is_empty() {
        return Ok(0);
    }
    let index = token.strip_prefix(&root.hash_hex()).and_then(|rest| rest.strip_prefix(':'));
    index
        .and_then(|index| index.parse().ok())
        .ok_or_else(|| Status::invalid_argument("page_token was not made by GetTree for this root"))
}

type PageState = Option<(VecDeque<Digest>, usize)>;

/// Reads the next page: as many Directories as `page` and the reply's size allow.
async fn tree_page(
    blobs: &dyn BlobStore,
    root: &Digest,
    mut order: VecDeque<Digest>,
    at: usize,
    page: usize,
) -> Result<(reapi::GetTreeResponse, PageState), Status> {
    let mut batch = Vec::new();
    let mut bytes: u64 = 0;
    while let Some(next) = order.front() {
        let fits = batch.is_empty() || bytes + next.size() + 16 <= REPLY_BYTES_MAX as u64;
        if batch.len() >= page || !fits {
            break;
        }
        bytes += next.size() + 16;
        batch.extend(order.pop_front());
    }
    let mut directories = Vec::with_capacity(batch.len());
    for content in blobs.get_batch(&batch).await {
        let directory = reapi::Directory::decode(content?)
            .map_err(|error| Status::internal(format!("directory changed while it was read: {error}")))?;
        directories.push(directory);
    }
    let next = at + batch.len();
    if order.is_empty() {
        return Ok((reapi::GetTreeResponse { directories, next_page_token: String::new() }, None));
    }
    let next_page_token = format!("{}:{next}", root.hash_hex());
    Ok((reapi::GetTreeResponse { directories, next_page_token }, Some((order, next))))
}
