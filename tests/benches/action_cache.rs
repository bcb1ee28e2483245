//! Action results: stored, and found complete.

use bytes::Bytes;
use tonic::transport::Channel;
use wardian_proto::reapi;
use wardian_proto::reapi::content_addressable_storage_client::ContentAddressableStorageClient;
use wardian_tests::{Blob, Random, random};

use crate::bench::{Bench, Line, Work};
use crate::raw::{encode, unary};

const CONNECTIONS: usize = 16;
const UPDATES_PER_ROUND: usize = 6_000;
const HITS_PER_ROUND: usize = 12_000;
const AIM: f64 = 2.0;

const UPDATE: &str = "/build.bazel.remote.execution.v2.ActionCache/UpdateActionResult";
const GET: &str = "/build.bazel.remote.execution.v2.ActionCache/GetActionResult";

pub(crate) async fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let mut random = random(3);
    // What a compilation leaves: an object file, and a warning on standard error.
    let outputs = [Blob::random(&mut random, 16 << 10..=16 << 10), Blob::random(&mut random, 512..=512)];
    for peer in &bench.peers {
        upload(peer.connect(1).await?.remove(0), &outputs).await?;
    }
    let result = result(&outputs);
    let line = |call: &str| Line {
        name: format!("{call}, {CONNECTIONS} connections"),
        unit: "calls",
        connections: CONNECTIONS,
        aim: AIM,
    };
    let mut actions = Vec::new();
    let updates = || {
        actions = (0..UPDATES_PER_ROUND).map(|_| action(&mut random)).collect();
        let calls = actions.iter().map(|action| update_request(action, &result)).collect();
        Work { calls, amount: UPDATES_PER_ROUND as f64 }
    };
    bench
        .line(line("UpdateActionResult"), updates, |channel, request| call(channel, UPDATE, request))
        .await?;
    let hits = || {
        let calls = actions.iter().cycle().take(HITS_PER_ROUND).map(get_request).collect();
        Work { calls, amount: HITS_PER_ROUND as f64 }
    };
    bench.line(line("GetActionResult hit"), hits, |channel, request| call(channel, GET, request)).await
}

fn action(random: &mut Random) -> reapi::Digest {
    Blob::random(random, 140..=140).digest.to_wire()
}

fn result(outputs: &[Blob; 2]) -> reapi::ActionResult {
    let [object, stderr] = outputs.each_ref().map(|blob| Some(blob.digest.to_wire()));
    let object = reapi::OutputFile { path: "out/object.o".into(), digest: object, ..Default::default() };
    reapi::ActionResult { output_files: vec![object], stderr_digest: stderr, ..Default::default() }
}

async fn upload(channel: Channel, blobs: &[Blob]) -> anyhow::Result<()> {
    let requests = blobs.iter().map(|blob| reapi::batch_update_blobs_request::Request {
        digest: Some(blob.digest.to_wire()),
        data: blob.data.clone(),
        ..Default::default()
    });
    let request = reapi::BatchUpdateBlobsRequest { requests: requests.collect(), ..Default::default() };
    ContentAddressableStorageClient::new(channel).batch_update_blobs(request).await?;
    Ok(())
}

fn update_request(action: &reapi::Digest, result: &reapi::ActionResult) -> Bytes {
    encode(reapi::UpdateActionResultRequest {
        action_digest: Some(action.clone()),
        action_result: Some(result.clone()),
        ..Default::default()
    })
}

fn get_request(action: &reapi::Digest) -> Bytes {
    encode(reapi::GetActionResultRequest { action_digest: Some(action.clone()), ..Default::default() })
}

async fn call(channel: Channel, path: &'static str, request: Bytes) -> anyhow::Result<()> {
    // A miss is the status NOT_FOUND, and so an error here.
    let reply = unary(channel, path, request).await?;
    anyhow::ensure!(!reply.is_empty(), "an empty result came");
    Ok(())
}
