//! ContentAddressableStorage: look-ups and batches. Trees are in `trees.rs`.

use bytes::Bytes;
use tonic::{Code, Status};
use wardian_proto::{Digest, DigestFunction, reapi};
use wardian_tests::{TestServer, bytes_of, code, digest};

const BATCH_BYTES_MAX: i64 = 4_000_000;

async fn missing(server: &TestServer, asked: &[reapi::Digest]) -> Vec<reapi::Digest> {
    let request = reapi::FindMissingBlobsRequest { blob_digests: asked.to_vec(), ..Default::default() };
    server.cas().find_missing_blobs(request).await.unwrap().into_inner().missing_blob_digests
}

fn entry(digest: Digest, data: Bytes) -> reapi::batch_update_blobs_request::Request {
    reapi::batch_update_blobs_request::Request { digest: Some(digest.to_wire()), data, ..Default::default() }
}

async fn update(
    server: &TestServer,
    requests: Vec<reapi::batch_update_blobs_request::Request>,
) -> Result<Vec<Code>, Status> {
    let request = reapi::BatchUpdateBlobsRequest { requests: requests.clone(), ..Default::default() };
    let responses = server.cas().batch_update_blobs(request).await?.into_inner().responses;
    let echoed: Vec<_> = responses.iter().map(|r| r.digest.clone()).collect();
    assert_eq!(echoed, requests.into_iter().map(|r| r.digest).collect::<Vec<_>>());
    Ok(responses.into_iter().map(|r| Code::from(r.status.unwrap().code)).collect())
}

async fn read(
    server: &TestServer,
    digests: Vec<reapi::Digest>,
) -> Result<Vec<reapi::batch_read_blobs_response::Response>, Status> {
    let request = reapi::BatchReadBlobsRequest {
        digests: digests.clone(),
        // A compressor that nobody has thought of yet.
        acceptable_compressors: vec![77],
        ..Default::default()
    };
    let responses = server.cas().batch_read_blobs(request).await?.into_inner().responses;
    let echoed: Vec<_> = responses.iter().map(|r| r.digest.clone().unwrap()).collect();
    assert_eq!(echoed, digests);
    assert!(responses.iter().all(|r| r.compressor == 0));
    Ok(responses)
}

fn status_of(response: &reapi::batch_read_blobs_response::Response) -> Code {
    Code::from(response.status.as_ref().unwrap().code)
}

#[tokio::test(flavor = "multi_thread")]
async fn find_missing_blobs_names_exactly_those_that_are_absent() {
    let server = TestServer::start().await;
    let small = server.put("small").await.to_wire();
    let large = server.put(bytes_of(100_000, 1)).await.to_wire();
    let absent = [digest(b"x").to_wire(), digest(b"y").to_wire()];
    let asked = [
        absent[1].clone(),
        small.clone(),
        absent[0].clone(),
        large.clone(),
        absent[1].clone(),
        small.clone(),
    ];
    assert_eq!(missing(&server, &asked).await, [absent[1].clone(), absent[0].clone()]);
    assert_eq!(missing(&server, &[]).await, []);
    // The right hash with another size is another blob.
    for stored in [small, large] {
        for size_bytes in [stored.size_bytes + 1, stored.size_bytes - 1, 0] {
            let wrong = reapi::Digest { size_bytes, ..stored.clone() };
            assert_eq!(missing(&server, std::slice::from_ref(&wrong)).await, [wrong]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn find_missing_blobs_takes_many_digests() {
    let server = TestServer::start().await;
    let stored = server.put("one of many").await.to_wire();
    let mut asked: Vec<_> = (0..20_000_u32).map(|i| digest(&i.to_le_bytes()).to_wire()).collect();
    asked.push(stored);
    assert_eq!(missing(&server, &asked).await.len(), 20_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_empty_blob_is_always_there() {
    let server = TestServer::start().await;
    let empty = Digest::empty(DigestFunction::Sha256);
    assert_eq!(missing(&server, &[empty.to_wire()]).await, []);
    let response = &read(&server, vec![empty.to_wire()]).await.unwrap()[0];
    assert_eq!((status_of(response), response.data.len()), (Code::Ok, 0));
    assert_eq!(update(&server, vec![entry(empty, Bytes::new())]).await.unwrap(), [Code::Ok]);
    // Its hash with another size, and another hash with size 0, name nothing.
    let longer = reapi::Digest { size_bytes: 1, ..empty.to_wire() };
    let other = reapi::Digest { size_bytes: 0, ..digest(b"x").to_wire() };
    assert_eq!(missing(&server, &[longer.clone(), other.clone()]).await, [longer, other]);
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_of_a_batch_succeed_and_fail_apart() {
    let server = TestServer::start().await;
    let (good, twin) = (bytes_of(1000, 1), bytes_of(1000, 2));
    let longer = Digest::from_parts(DigestFunction::Sha256, digest(&good).hash(), 1001).unwrap();
    let mut compressed = entry(digest(b"zipped"), Bytes::from_static(b"zipped"));
    compressed.compressor = 77;
    let entries = vec![
        entry(digest(&twin), good.clone()),
        entry(digest(&good), good.clone()),
        entry(longer, good.clone()),
        compressed,
        entry(digest(&good), good.clone()),
    ];
    let invalid = Code::InvalidArgument;
    assert_eq!(update(&server, entries).await.unwrap(), [invalid, Code::Ok, invalid, invalid, Code::Ok]);
    let stored = [digest(&good).to_wire()];
    let absent = [digest(&twin).to_wire(), longer.to_wire(), digest(b"zipped").to_wire()];
    assert_eq!(missing(&server, &[stored.to_vec(), absent.to_vec()].concat()).await, absent);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_over_the_limit_is_refused_whole() {
    let server = TestServer::start().await;
    let half = bytes_of(usize::try_from(BATCH_BYTES_MAX).unwrap() / 2, 1);
    let other = bytes_of(half.len(), 2);
    let one_more = entry(digest(b"1"), Bytes::from_static(b"1"));
    let full = vec![entry(digest(&half), half.clone()), entry(digest(&other), other.clone())];
    let over = [full.clone(), vec![one_more]].concat();
    let refused = update(&server, over).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("max_batch_total_size_bytes"), "{refused}");
    assert_eq!(update(&server, full).await.unwrap(), [Code::Ok, Code::Ok]);

    let (first, second) = (digest(&half).to_wire(), digest(&other).to_wire());
    let fits = read(&server, vec![first.clone(), second.clone()]).await.unwrap();
    assert!(fits[0].data == half && fits[1].data == other);
    let over = read(&server, vec![first, second, digest(b"absent").to_wire()]).await;
    assert_eq!(code(&over), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_batch_limit_can_be_lowered() {
    let server = TestServer::with(|config| config.requests.batch_bytes_max = 10).await;
    let request = reapi::GetCapabilitiesRequest::default();
    let capabilities = server.capabilities().get_capabilities(request).await.unwrap().into_inner();
    assert_eq!(capabilities.cache_capabilities.unwrap().max_batch_total_size_bytes, 10);
    let ten = entry(digest(b"0123456789"), Bytes::from_static(b"0123456789"));
    assert_eq!(update(&server, vec![ten.clone()]).await.unwrap(), [Code::Ok]);
    let refused = update(&server, vec![ten, entry(digest(b"x"), Bytes::from_static(b"x"))]).await;
    assert_eq!(code(&refused), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_over_the_limit_are_refused_by_batches() {
    let server = TestServer::with(|config| config.requests.blob_bytes_max = 5).await;
    let entries = [&b"12345"[..], b"123456"].map(|data| entry(digest(data), Bytes::from_static(data)));
    assert_eq!(update(&server, entries.to_vec()).await.unwrap(), [Code::Ok, Code::InvalidArgument]);
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_of_absent_blobs_fail_one_by_one() {
    let server = TestServer::start().await;
    for size in [10, 100_000] {
        let data = bytes_of(size, 1);
        let stored = server.put(data.clone()).await.to_wire();
        let wrong_size = reapi::Digest { size_bytes: stored.size_bytes + 1, ..stored.clone() };
        let absent = digest(&bytes_of(size, 2)).to_wire();
        let responses = read(&server, vec![absent, stored.clone(), wrong_size, stored]).await.unwrap();
        let codes: Vec<_> = responses.iter().map(status_of).collect();
        assert_eq!(codes, [Code::NotFound, Code::Ok, Code::NotFound, Code::Ok]);
        assert!(responses[1].data == data && responses[3].data == data);
        assert!(responses[0].data.is_empty() && responses[2].data.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_of_many_tiny_blobs_stays_below_the_message_limit() {
    let server = TestServer::start().await;
    // Within the batch limits by size and number, and beyond 4 MiB with what each entry costs.
    let tiny: Vec<Bytes> =
        (0..10_000_u32).map(|i| Bytes::from([&i.to_le_bytes()[..], &[7; 196]].concat())).collect();
    let blobs: Vec<_> = tiny.iter().map(|data| (digest(data), data.clone())).collect();
    server.put_all(&blobs).await;
    let responses = read(&server, blobs.iter().map(|(d, _)| d.to_wire()).collect()).await.unwrap();
    let codes: Vec<_> = responses.iter().map(status_of).collect();
    let served = codes.iter().filter(|code| **code == Code::Ok).count();
    assert!(served > 1000, "{served}");
    assert!(codes.iter().all(|code| matches!(code, Code::Ok | Code::ResourceExhausted)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_too_many_blobs_is_refused() {
    let server = TestServer::start().await;
    let one = digest(b"x");
    let refused = read(&server, vec![one.to_wire(); 10_001]).await;
    assert_eq!(code(&refused), Code::InvalidArgument);
    let refused = update(&server, vec![entry(one, Bytes::from_static(b"x")); 10_001]).await;
    assert_eq!(code(&refused), Code::InvalidArgument);
    assert!(!server.has(one).await);
}
