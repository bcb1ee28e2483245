//! Action results: stored, and found complete.

use std::sync::Arc;

use tonic::transport::Channel;
use wardian_proto::reapi;
use wardian_proto::reapi::action_cache_client::ActionCacheClient;
use wardian_proto::reapi::content_addressable_storage_client::ContentAddressableStorageClient;
use wardian_tests::{Blob, Random, random};

use crate::bench::{Bench, Line, Work};

const CONNECTIONS: usize = 16;
const UPDATES_PER_ROUND: usize = 6_000;
const HITS_PER_ROUND: usize = 12_000;
const AIM: f64 = 2.0;

pub(crate) async fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let mut random = random(3);
    // What a compilation leaves: an object file, and a warning on standard error.
    let outputs = [Blob::random(&mut random, 16 << 10..=16 << 10), Blob::random(&mut random, 512..=512)];
    for peer in &bench.peers {
        upload(peer.connect(1).await?.remove(0), &outputs).await?;
    }
    let result = Arc::new(result(&outputs));
    let line = |call: &str| Line {
        name: format!("{call}, {CONNECTIONS} connections"),
        unit: "calls",
        connections: CONNECTIONS,
        aim: AIM,
    };
    let mut actions = Vec::new();
    let updates = || {
        actions = (0..UPDATES_PER_ROUND).map(|_| action(&mut random)).collect();
        Work { calls: actions.clone(), amount: UPDATES_PER_ROUND as f64 }
    };
    let update = move |channel, action| update(channel, action, Arc::clone(&result));
    bench.line(line("UpdateActionResult"), updates, update).await?;
    let hits = || Work {
        calls: actions.iter().cloned().cycle().take(HITS_PER_ROUND).collect(),
        amount: HITS_PER_ROUND as f64,
    };
    bench.line(line("GetActionResult, a hit"), hits, hit).await
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

async fn update(
    channel: Channel,
    action: reapi::Digest,
    result: Arc<reapi::ActionResult>,
) -> anyhow::Result<()> {
    let request = reapi::UpdateActionResultRequest {
        action_digest: Some(action),
        action_result: Some((*result).clone()),
        ..Default::default()
    };
    ActionCacheClient::new(channel).update_action_result(request).await?;
    Ok(())
}

async fn hit(channel: Channel, action: reapi::Digest) -> anyhow::Result<()> {
    let request = reapi::GetActionResultRequest { action_digest: Some(action), ..Default::default() };
    ActionCacheClient::new(channel).get_action_result(request).await?;
    Ok(())
}
