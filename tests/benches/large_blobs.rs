//! Blobs of 64 MiB over ByteStream.

use bytes::Bytes;
use futures::StreamExt as _;
use tonic::transport::Channel;
use wardian_proto::Digest;
use wardian_proto::bytestream::byte_stream_client::ByteStreamClient;
use wardian_proto::bytestream::{ReadRequest, WriteRequest};
use wardian_tests::{Blob, Random, random};

use crate::bench::{Bench, Line, Work};

const BLOB_BYTES: usize = 64 << 20;
const CONNECTIONS: usize = 4;

/// Bytes in one message of a write.
const CHUNK_BYTES: usize = 256 << 10;

pub(crate) async fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let mut random = random(2);
    let mut written = Vec::new();
    let line = |call: &str, aim| Line {
        name: format!("ByteStream {call} of 64 MiB, {CONNECTIONS} connections"),
        unit: "MiB",
        connections: CONNECTIONS,
        aim,
    };
    let writes = || {
        written = (0..CONNECTIONS).map(|_| blob(&mut random)).collect();
        work(written.clone())
    };
    bench.line(line("write", 1.3), writes, write).await?;
    let reads = || work(written.iter().map(|blob| blob.digest).cycle().take(2 * CONNECTIONS).collect());
    bench.line(line("read", 2.0), reads, read).await
}

fn work<T>(calls: Vec<T>) -> Work<T> {
    let amount = ((calls.len() * BLOB_BYTES) >> 20) as f64;
    Work { calls, amount }
}

fn blob(random: &mut Random) -> Blob {
    Blob::random(random, BLOB_BYTES..=BLOB_BYTES)
}

async fn write(channel: Channel, blob: Blob) -> anyhow::Result<()> {
    let digest = blob.digest.to_string();
    let name = format!("uploads/{}/blobs/{digest}", &digest[..32]);
    let requests = chunks(name, blob.data);
    let reply = ByteStreamClient::new(channel).write(futures::stream::iter(requests)).await?;
    anyhow::ensure!(reply.get_ref().committed_size == BLOB_BYTES as i64, "not all of it was taken");
    Ok(())
}

fn chunks(name: String, data: Bytes) -> impl Iterator<Item = WriteRequest> + Send {
    (0..data.len()).step_by(CHUNK_BYTES).map(move |offset| WriteRequest {
        resource_name: if offset == 0 { name.clone() } else { String::new() },
        write_offset: offset as i64,
        finish_write: offset + CHUNK_BYTES >= data.len(),
        data: data.slice(offset..data.len().min(offset + CHUNK_BYTES)),
    })
}

async fn read(channel: Channel, digest: Digest) -> anyhow::Result<()> {
    let request = ReadRequest { resource_name: format!("blobs/{digest}"), ..Default::default() };
    let mut pieces = ByteStreamClient::new(channel).read(request).await?.into_inner();
    let mut bytes = 0;
    while let Some(piece) = pieces.next().await {
        bytes += piece?.data.len();
    }
    anyhow::ensure!(bytes == BLOB_BYTES, "{bytes} bytes came");
    Ok(())
}
