//! Every digest function over the whole system, and what an instance does not offer.

use bytes::Bytes;
use tonic::Code;
use wardian_proto::{Digest, DigestFunction, DigestFunctions, InstanceName, reapi};
use wardian_server::config::Config;
use wardian_store::{BlobStore as _, ByteRange, Upload, collect};
use wardian_tests::{TestAction, TestServer, bytes_of, code};

/// Every function; no server can offer all of them, as MD5 and MURMUR3 look alike.
const SETS: [&[DigestFunction]; 2] = {
    use DigestFunction::*;
    [&[Sha256, Sha1, Md5, Sha384, Sha512, Sha256Tree, Blake3, GitSha1], &[Murmur3]]
};

fn offer(functions: &[DigestFunction]) -> impl FnOnce(&mut Config) {
    let functions = DigestFunctions::new(functions.to_vec()).unwrap();
    move |config| {
        for instance in &mut config.instances {
            instance.digest_functions = functions.clone();
        }
    }
}

async fn find_missing(
    server: &TestServer,
    function: i32,
    digests: &[Digest],
) -> Result<Vec<reapi::Digest>, tonic::Status> {
    let request = reapi::FindMissingBlobsRequest {
        blob_digests: digests.iter().map(Digest::to_wire).collect(),
        digest_function: function,
        ..Default::default()
    };
    Ok(server.cas().find_missing_blobs(request).await?.into_inner().missing_blob_digests)
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_of_every_function_are_stored_apart() {
    for functions in SETS {
        let server = TestServer::with(offer(functions)).await;
        for data in [bytes_of(1000, 1), bytes_of(5_000_000, 2)] {
            stored_apart(&server, functions, &data).await;
        }
    }
}

async fn stored_apart(server: &TestServer, functions: &[DigestFunction], data: &Bytes) {
    let store = server.store();
    for function in functions {
        let digest = function.digest(data);
        assert_eq!(store.find_missing(&[digest]).await.unwrap(), [digest], "{digest} before it is uploaded");
        store.put(Upload::bytes(digest, data.clone())).await.unwrap();
        assert_eq!(store.find_missing(&[digest]).await.unwrap(), []);
        assert!(store.get_batch(&[digest]).await[0].as_ref().unwrap() == data);
        let tail = ByteRange { offset: 900, limit: None };
        assert!(collect(store.read(&digest, tail).await.unwrap()).await.unwrap() == data[900..]);
        let wrong = function.digest(b"something else");
        let wrong = Digest::from_parts(*function, wrong.hash(), data.len() as u64).unwrap();
        assert!(store.put(Upload::bytes(digest, &b"short"[..])).await.is_err());
        assert_eq!(store.find_missing(&[wrong]).await.unwrap(), [wrong]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_empty_blob_of_every_function_is_there() {
    for functions in SETS {
        let server = TestServer::with(offer(functions)).await;
        for function in functions {
            let empty = Digest::empty(*function);
            assert_eq!(find_missing(&server, function.wire().into(), &[empty]).await.unwrap(), []);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn actions_run_and_are_cached_under_every_function() {
    for functions in SETS {
        let server = TestServer::with(offer(functions)).await;
        for &function in functions {
            runs_and_is_cached(&server, function).await;
        }
    }
}

async fn runs_and_is_cached(server: &TestServer, function: DigestFunction) {
    let action = TestAction::sh("cat in; mkdir -p out/deep; cp in out/deep/copy; cp in file", &[])
        .file("in", "some text\n")
        .outputs(&["file", "out"])
        .digest_function(function);
    let built = server.upload(action).await;
    let first = server.execute(&built).await;
    assert_eq!((first.refusal(), first.response.cached_result), (None, false), "{}", function.name());
    let result = first.result();
    let text = function.digest(b"some text\n").to_wire();
    assert_eq!(result.stdout_digest.as_ref(), Some(&text));
    assert_eq!(result.output_files[0].digest.as_ref(), Some(&text));
    let tree = result.output_directories[0].tree_digest.as_ref();
    let tree = Digest::from_wire(function, tree).unwrap();
    let store = server.store();
    let bytes = store.get(&tree, u64::MAX).await.unwrap();
    assert_eq!(function.digest(&bytes), tree);
    assert!(server.execute(&built).await.response.cached_result, "{}", function.name());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unset_function_is_told_by_length_among_those_offered() {
    let server = TestServer::with(offer(&[DigestFunction::Murmur3, DigestFunction::Blake3])).await;
    let data = bytes_of(100, 3);
    let murmur3 = DigestFunction::Murmur3.digest(&data);
    let store = server.store();
    store.put(Upload::bytes(murmur3, data.clone())).await.unwrap();
    assert_eq!(find_missing(&server, 0, &[murmur3]).await.unwrap(), []);
    // 64 digits: BLAKE3 is offered and yet never meant by an unset field.
    let blake3 = DigestFunction::Blake3.digest(&data);
    let status = find_missing(&server, 0, &[blake3]).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    // Digests of two lengths are of two functions, and one request has one.
    assert_eq!(code(&find_missing(&server, 0, &[murmur3, blake3]).await), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn functions_that_are_not_offered_are_refused_and_not_announced() {
    let server = TestServer::start().await;
    let weak = [DigestFunction::Sha1, DigestFunction::Md5, DigestFunction::Murmur3, DigestFunction::GitSha1];
    for function in weak {
        let digest = function.digest(b"x");
        let status = find_missing(&server, function.wire().into(), &[digest]).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains("SHA256, SHA384"), "{status}");
        assert!(server.store().put(Upload::bytes(digest, &b"x"[..])).await.is_err());
    }
    let capabilities = server.capabilities().get_capabilities(reapi::GetCapabilitiesRequest::default()).await;
    let capabilities = capabilities.unwrap().into_inner();
    let announced = capabilities.cache_capabilities.unwrap().digest_functions;
    let default: Vec<i32> =
        DigestFunctions::collision_resistant().iter().map(|function| function.wire().into()).collect();
    assert_eq!(announced, default);
    assert_eq!(capabilities.execution_capabilities.unwrap().digest_functions, default);
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_may_offer_different_functions() {
    let configure = |config: &mut Config| {
        config.instances[1].digest_functions = DigestFunctions::new(vec![DigestFunction::Sha1]).unwrap();
    };
    let server = TestServer::with(configure).await;
    let digest = DigestFunction::Sha1.digest(b"x");
    let limits = wardian_store::backend::GrpcStoreLimits::default();
    let main = wardian_store::backend::GrpcStore::new(
        server.channel(),
        InstanceName::parse("main").unwrap(),
        limits,
    );
    main.put(Upload::bytes(digest, &b"x"[..])).await.unwrap();
    assert_eq!(main.find_missing(&[digest]).await.unwrap(), []);
    assert!(server.store().find_missing(&[digest]).await.is_err());
}
