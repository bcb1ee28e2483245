//! Blobs of 1 to 16 KiB: uploaded, looked for and read in batches.

use bytes::Bytes;
use prost::Message as _;
use tonic::transport::Channel;
use wardian_proto::reapi;
use wardian_tests::{Blob, Random, random};

use crate::bench::{Bench, Line, Work};
use crate::raw::{encode, unary};

const SIZES: std::ops::RangeInclusive<usize> = 1 << 10..=16 << 10;

/// Blobs in one call, as a client has them that uploads the sources of an action.
const BLOBS_PER_CALL: usize = 50;

const UPDATED_PER_ROUND: usize = 6_000;
const READ_PER_ROUND: usize = 24_000;
const LOOKED_FOR_PER_ROUND: usize = 240_000;

/// What small blobs should be at the least, compared with the other server.
const AIM: f64 = 2.0;

const UPDATE: &str = "/build.bazel.remote.execution.v2.ContentAddressableStorage/BatchUpdateBlobs";
const FIND: &str = "/build.bazel.remote.execution.v2.ContentAddressableStorage/FindMissingBlobs";
const READ: &str = "/build.bazel.remote.execution.v2.ContentAddressableStorage/BatchReadBlobs";

/// A request, and how many bytes of blobs it moves.
#[derive(Clone)]
struct Call {
    request: Bytes,
    blob_bytes: usize,
}

pub(crate) async fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let mut random = random(1);
    for connections in [8, 32] {
        let line = |call: &str| Line {
            name: format!("{call}, {connections} connections"),
            unit: "blobs",
            connections,
            aim: AIM,
        };
        let mut stored = Vec::new();
        let updates = || {
            stored = blobs(&mut random);
            work(UPDATED_PER_ROUND, &stored, update_request)
        };
        bench.line(line("BatchUpdateBlobs"), updates, update).await?;
        let looks = || work(LOOKED_FOR_PER_ROUND, &stored, find_request);
        bench.line(line("FindMissingBlobs"), looks, find).await?;
        let reads = || work(READ_PER_ROUND, &stored, read_request);
        bench.line(line("BatchReadBlobs"), reads, read).await?;
    }
    Ok(())
}

fn blobs(random: &mut Random) -> Vec<Blob> {
    (0..UPDATED_PER_ROUND).map(|_| Blob::random(random, SIZES)).collect()
}

/// One call for each few blobs, from the start again until it is `amount` blobs.
fn work(amount: usize, blobs: &[Blob], request: impl Fn(&[Blob]) -> Bytes) -> Work<Call> {
    let call = |blobs: &[Blob]| Call {
        request: request(blobs),
        blob_bytes: blobs.iter().map(|blob| blob.data.len()).sum(),
    };
    let calls: Vec<_> = blobs.chunks(BLOBS_PER_CALL).map(call).collect();
    let calls = calls.iter().cycle().take(amount / BLOBS_PER_CALL).cloned().collect();
    Work { calls, amount: amount as f64 }
}

fn update_request(blobs: &[Blob]) -> Bytes {
    let requests = blobs.iter().map(|blob| reapi::batch_update_blobs_request::Request {
        digest: Some(blob.digest.to_wire()),
        data: blob.data.clone(),
        ..Default::default()
    });
    encode(reapi::BatchUpdateBlobsRequest { requests: requests.collect(), ..Default::default() })
}

fn find_request(blobs: &[Blob]) -> Bytes {
    encode(reapi::FindMissingBlobsRequest { blob_digests: digests(blobs), ..Default::default() })
}

fn read_request(blobs: &[Blob]) -> Bytes {
    encode(reapi::BatchReadBlobsRequest { digests: digests(blobs), ..Default::default() })
}

fn digests(blobs: &[Blob]) -> Vec<reapi::Digest> {
    blobs.iter().map(|blob| blob.digest.to_wire()).collect()
}

async fn update(channel: Channel, call: Call) -> anyhow::Result<()> {
    let reply = unary(channel, UPDATE, call.request).await?;
    let reply = reapi::BatchUpdateBlobsResponse::decode(reply)?;
    let refused = reply.responses.into_iter().find_map(|r| r.status.filter(|s| s.code != 0));
    anyhow::ensure!(refused.is_none(), "refused: {refused:?}");
    Ok(())
}

async fn find(channel: Channel, call: Call) -> anyhow::Result<()> {
    let reply = unary(channel, FIND, call.request).await?;
    anyhow::ensure!(reply.is_empty(), "a blob is missing");
    Ok(())
}

async fn read(channel: Channel, call: Call) -> anyhow::Result<()> {
    let reply = unary(channel, READ, call.request).await?;
    anyhow::ensure!(reply.len() > call.blob_bytes, "a blob is missing");
    Ok(())
}
