//! SplitBlob and SpliceBlob (CHK).

use tonic::{Code, Status};
use wardian_proto::{Digest, DigestFunction, reapi};
use wardian_tests::{Blob, TestServer, bytes_of, code, digest, random};

const FAST_CDC: i32 = reapi::chunking_function::Value::FastCdc2020 as i32;
const REP_MAX_CDC: i32 = reapi::chunking_function::Value::RepMaxCdc as i32;

async fn split(
    server: &TestServer,
    blob: &Digest,
    chunking_function: i32,
) -> Result<reapi::SplitBlobResponse, Status> {
    let request = reapi::SplitBlobRequest {
        blob_digest: Some(blob.to_wire()),
        digest_function: blob.function().wire().into(),
        chunking_function,
        ..Default::default()
    };
    Ok(server.cas().split_blob(request).await?.into_inner())
}

async fn splice(server: &TestServer, blob: &Digest, chunks: &[Digest]) -> Result<reapi::Digest, Status> {
    let request = reapi::SpliceBlobRequest {
        blob_digest: Some(blob.to_wire()),
        chunk_digests: chunks.iter().map(Digest::to_wire).collect(),
        ..Default::default()
    };
    let response = server.cas().splice_blob(request).await?.into_inner();
    Ok(response.blob_digest.expect("a response names the blob"))
}

#[tokio::test(flavor = "multi_thread")]
async fn chk_01_and_20_both_chunkings_are_announced_with_their_parameters() {
    let server = TestServer::start().await;
    let got = server.capabilities().get_capabilities(reapi::GetCapabilitiesRequest::default()).await.unwrap();
    let cache = got.into_inner().cache_capabilities.unwrap();
    assert!(cache.split_blob_support && cache.splice_blob_support);
    let fast = cache.fast_cdc_2020_params.unwrap();
    assert_eq!((fast.avg_chunk_size_bytes, fast.seed), (524_288, 0));
    let rep_max = cache.rep_max_cdc_params.unwrap();
    assert_eq!((rep_max.min_chunk_size_bytes, rep_max.horizon_size_bytes), (262_144, 2_097_152));
}

#[tokio::test(flavor = "multi_thread")]
async fn chk_02_to_08_a_blob_is_split_and_made_again_elsewhere() {
    let (near, far) = (TestServer::start().await, TestServer::start().await);
    let blob = Blob::random(&mut random(1), 9_000_000..=9_000_000);
    near.put(blob.data.clone()).await;
    // A number that nobody knows is a wish that cannot be met.
    for (asked, used) in [(FAST_CDC, FAST_CDC), (REP_MAX_CDC, REP_MAX_CDC), (0, FAST_CDC), (77, FAST_CDC)] {
        let response = split(&near, &blob.digest, asked).await.unwrap();
        assert_eq!(response.chunking_function, used);
        let chunks: Vec<Digest> = response
            .chunk_digests
            .iter()
            .map(|wire| Digest::from_wire(DigestFunction::Sha256, Some(wire)).unwrap())
            .collect();
        assert!((8..=36).contains(&chunks.len()), "{} chunks", chunks.len());
        let mut whole = Vec::new();
        for chunk in &chunks {
            let data = near.get(Some(&chunk.to_wire())).await;
            far.put(data.clone()).await;
            whole.extend_from_slice(&data);
        }
        assert!(whole == blob.data, "the chunks make up the blob");
        assert_eq!(splice(&far, &blob.digest, &chunks).await.unwrap(), blob.digest.to_wire());
        assert!(far.get(Some(&blob.digest.to_wire())).await == blob.data, "chk_17: an ordinary read works");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn chk_04_chunks_have_the_function_of_the_blob() {
    let server = TestServer::start().await;
    let data = Blob::random(&mut random(2), 5_000_000..=5_000_000).data;
    let blob = DigestFunction::Blake3.digest(&data);
    let name = format!("uploads/u/blobs/{blob}");
    super::byte_stream::write(&server, super::byte_stream::messages(&name, &data, 1_000_000)).await.unwrap();
    let chunks = split(&server, &blob, REP_MAX_CDC).await.unwrap().chunk_digests;
    let mut at = 0;
    for chunk in chunks {
        let size = usize::try_from(chunk.size_bytes).unwrap();
        assert_eq!(chunk, DigestFunction::Blake3.digest(&data[at..at + size]).to_wire());
        at += size;
    }
    assert_eq!(at, data.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn chk_10_to_13_splices_that_cannot_be_are_refused_and_leave_nothing() {
    let server = TestServer::start().await;
    let (a, b) = (server.put(bytes_of(1000, 1)).await, server.put(bytes_of(2000, 2)).await);
    let whole = [bytes_of(1000, 1), bytes_of(2000, 2)].concat();
    let blob = digest(&whole);
    assert_eq!(code(&splice(&server, &blob, &[b, a]).await), Code::InvalidArgument);
    assert_eq!(code(&splice(&server, &blob, &[a]).await), Code::InvalidArgument);
    assert_eq!(code(&splice(&server, &blob, &[a, digest(&[7; 2000])]).await), Code::NotFound);
    let nameless = reapi::SpliceBlobRequest { chunk_digests: vec![a.to_wire()], ..Default::default() };
    assert_eq!(code(&server.cas().splice_blob(nameless).await), Code::InvalidArgument);
    assert!(!server.has(blob).await);
    assert_eq!(splice(&server, &blob, &[a, b]).await.unwrap(), blob.to_wire());
    assert_eq!(splice(&server, &blob, &[a, b]).await.unwrap(), blob.to_wire());
    let elsewhere = [digest(&whole[..1500]), digest(&whole[1500..])];
    assert_eq!(code(&splice(&server, &blob, &elsewhere).await), Code::AlreadyExists);
    server.assert_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn chk_03_a_blob_that_is_not_there_cannot_be_split() {
    let server = TestServer::start().await;
    assert_eq!(code(&split(&server, &digest(b"not stored"), 0).await), Code::NotFound);
    assert_eq!(
        code(&server.cas().split_blob(reapi::SplitBlobRequest::default()).await),
        Code::InvalidArgument
    );
    let small = server.put(bytes_of(10, 1)).await;
    let response = split(&server, &small, REP_MAX_CDC).await.unwrap();
    assert_eq!(response.chunk_digests, [small.to_wire()]);
}
