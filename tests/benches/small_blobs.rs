//! Blobs of 1 to 16 KiB: uploaded, looked for and read in batches.

use tonic::transport::Channel;
use wardian_proto::reapi;
use wardian_proto::reapi::content_addressable_storage_client::ContentAddressableStorageClient;
use wardian_tests::{Blob, Random, random};

use crate::bench::{Bench, Line, Work};

const SIZES: std::ops::RangeInclusive<usize> = 1 << 10..=16 << 10;

/// Blobs in one call, as a client has them that uploads the sources of an action.
const BLOBS_PER_CALL: usize = 50;

const UPDATED_PER_ROUND: usize = 6_000;
const READ_PER_ROUND: usize = 24_000;
const LOOKED_FOR_PER_ROUND: usize = 240_000;

/// What small blobs should be at the least, compared with the other server.
const AIM: f64 = 2.0;

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
        let upload = || {
            stored = blobs(&mut random);
            updates(&stored)
        };
        bench.line(line("BatchUpdateBlobs"), upload, update).await?;
        let look = || repeated(LOOKED_FOR_PER_ROUND, &stored, |blobs| digests(blobs, find_request));
        bench.line(line("FindMissingBlobs"), look, find).await?;
        let reads = || repeated(READ_PER_ROUND, &stored, |blobs| digests(blobs, read_request));
        bench.line(line("BatchReadBlobs"), reads, read).await?;
    }
    Ok(())
}

fn blobs(random: &mut Random) -> Vec<Blob> {
    (0..UPDATED_PER_ROUND).map(|_| Blob::random(random, SIZES)).collect()
}

fn updates(blobs: &[Blob]) -> Work<reapi::BatchUpdateBlobsRequest> {
    let request = |blobs: &[Blob]| reapi::BatchUpdateBlobsRequest {
        requests: blobs
            .iter()
            .map(|blob| reapi::batch_update_blobs_request::Request {
                digest: Some(blob.digest.to_wire()),
                data: blob.data.clone(),
                ..Default::default()
            })
            .collect(),
        ..Default::default()
    };
    repeated(blobs.len(), blobs, request)
}

/// One request for each few blobs, from the start again until `amount` blobs are asked for.
fn repeated<T>(amount: usize, blobs: &[Blob], request: impl Fn(&[Blob]) -> T) -> Work<T> {
    let calls = blobs.chunks(BLOBS_PER_CALL).cycle().take(amount / BLOBS_PER_CALL).map(request).collect();
    Work { calls, amount: amount as f64 }
}

fn digests<T>(blobs: &[Blob], request: impl Fn(Vec<reapi::Digest>) -> T) -> T {
    request(blobs.iter().map(|blob| blob.digest.to_wire()).collect())
}

fn find_request(blob_digests: Vec<reapi::Digest>) -> reapi::FindMissingBlobsRequest {
    reapi::FindMissingBlobsRequest { blob_digests, ..Default::default() }
}

fn read_request(digests: Vec<reapi::Digest>) -> reapi::BatchReadBlobsRequest {
    reapi::BatchReadBlobsRequest { digests, ..Default::default() }
}

async fn update(channel: Channel, request: reapi::BatchUpdateBlobsRequest) -> anyhow::Result<()> {
    let reply = ContentAddressableStorageClient::new(channel).batch_update_blobs(request).await?;
    let refused = reply.into_inner().responses.into_iter().find_map(|r| r.status.filter(|s| s.code != 0));
    anyhow::ensure!(refused.is_none(), "refused: {refused:?}");
    Ok(())
}

async fn find(channel: Channel, request: reapi::FindMissingBlobsRequest) -> anyhow::Result<()> {
    let reply = ContentAddressableStorageClient::new(channel).find_missing_blobs(request).await?;
    anyhow::ensure!(reply.get_ref().missing_blob_digests.is_empty(), "a blob is missing");
    Ok(())
}

async fn read(channel: Channel, request: reapi::BatchReadBlobsRequest) -> anyhow::Result<()> {
    let reply = ContentAddressableStorageClient::new(channel).batch_read_blobs(request).await?;
    for response in reply.into_inner().responses {
        let size = response.digest.map_or(0, |digest| digest.size_bytes);
        anyhow::ensure!(response.data.len() as i64 == size, "a blob is missing: {:?}", response.status);
    }
    Ok(())
}
