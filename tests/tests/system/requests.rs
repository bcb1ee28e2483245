//! What every service refuses in the same way, and what Capabilities says.

use futures::StreamExt as _;
use prost::Message as _;
use tonic::{Code, Request};
use wardian_proto::bytestream::{QueryWriteStatusRequest, ReadRequest, WriteRequest};
use wardian_proto::longrunning::ListOperationsRequest;
use wardian_proto::reapi;
use wardian_proto::reapi::digest_function::Value as Function;
use wardian_proto::semver::SemVer;
use wardian_tests::{TestAction, TestServer, code, digest};

/// The three parts of a request that every call has in common.
struct Asked<'a> {
    instance: &'a str,
    function: Function,
    digest: Option<reapi::Digest>,
}

impl Default for Asked<'_> {
    fn default() -> Self {
        Self { instance: "", function: Function::Unknown, digest: Some(digest(b"absent").to_wire()) }
    }
}

/// Makes every call that takes a digest and returns the code of each.
async fn every_call(server: &TestServer, asked: &Asked<'_>) -> Vec<(&'static str, Code)> {
    let mut codes = in_messages(server, asked).await;
    codes.extend(in_batches(server, asked).await);
    codes.extend(in_resource_names(server, asked).await);
    codes
}

async fn in_messages(server: &TestServer, asked: &Asked<'_>) -> Vec<(&'static str, Code)> {
    let (instance_name, digest_function) = (asked.instance.to_owned(), i32::from(asked.function));
    let tree = reapi::GetTreeRequest {
        instance_name: instance_name.clone(),
        root_digest: asked.digest.clone(),
        digest_function,
        ..Default::default()
    };
    let get = reapi::GetActionResultRequest {
        instance_name: instance_name.clone(),
        action_digest: asked.digest.clone(),
        digest_function,
        ..Default::default()
    };
    let update = reapi::UpdateActionResultRequest {
        instance_name: instance_name.clone(),
        action_digest: asked.digest.clone(),
        action_result: Some(reapi::ActionResult::default()),
        digest_function,
        ..Default::default()
    };
    let execute = reapi::ExecuteRequest {
        instance_name,
        action_digest: asked.digest.clone(),
        digest_function,
        ..Default::default()
    };
    vec![
        ("GetTree", code(&server.cas().get_tree(tree).await)),
        ("GetActionResult", code(&server.action_cache().get_action_result(get).await)),
        ("UpdateActionResult", code(&server.action_cache().update_action_result(update).await)),
        ("Execute", code(&server.execution().execute(execute).await)),
    ]
}

async fn in_batches(server: &TestServer, asked: &Asked<'_>) -> Vec<(&'static str, Code)> {
    let (instance_name, digest_function) = (asked.instance.to_owned(), i32::from(asked.function));
    let digests: Vec<_> = asked.digest.iter().cloned().collect();
    let find = reapi::FindMissingBlobsRequest {
        instance_name: instance_name.clone(),
        blob_digests: digests.clone(),
        digest_function,
    };
    let read = reapi::BatchReadBlobsRequest {
        instance_name: instance_name.clone(),
        digests,
        digest_function,
        ..Default::default()
    };
    let entry =
        reapi::batch_update_blobs_request::Request { digest: asked.digest.clone(), ..Default::default() };
    let update = reapi::BatchUpdateBlobsRequest { instance_name, requests: vec![entry], digest_function };
    // A bad digest is the fault of one entry; the call itself goes through.
    let update = match server.cas().batch_update_blobs(update).await {
        Ok(response) => Code::from(response.into_inner().responses[0].status.as_ref().unwrap().code),
        Err(status) => status.code(),
    };
    let mut codes = vec![("BatchUpdateBlobs", update)];
    // Both lists may be empty, so "no digest at all" cannot be asked for.
    if asked.digest.is_some() {
        codes.push(("FindMissingBlobs", code(&server.cas().find_missing_blobs(find).await)));
        codes.push(("BatchReadBlobs", code(&server.cas().batch_read_blobs(read).await)));
    }
    codes
}

async fn in_resource_names(server: &TestServer, asked: &Asked<'_>) -> Vec<(&'static str, Code)> {
    let Some(digest) = &asked.digest else { return Vec::new() };
    let prefix = if asked.instance.is_empty() { String::new() } else { format!("{}/", asked.instance) };
    let function = match asked.function {
        Function::Unknown | Function::Sha256 => String::new(),
        other => format!("{}/", other.as_str_name().to_lowercase()),
    };
    let blob = format!("blobs/{function}{}/{}", digest.hash, digest.size_bytes);
    let read = ReadRequest { resource_name: format!("{prefix}{blob}"), ..Default::default() };
    let resource_name = format!("{prefix}uploads/u/{blob}");
    let query = QueryWriteStatusRequest { resource_name: resource_name.clone() };
    let write = WriteRequest { resource_name, finish_write: true, ..Default::default() };
    let mut client = server.byte_stream();
    vec![
        ("Read", code(&client.read(read).await)),
        ("Write", code(&client.write(futures::stream::iter([write])).await)),
        ("QueryWriteStatus", code(&client.query_write_status(query).await)),
    ]
}

#[track_caller]
fn all_invalid(codes: &[(&str, Code)], what: &str) {
    let wrong: Vec<_> = codes.iter().filter(|(_, code)| *code != Code::InvalidArgument).collect();
    assert!(wrong.is_empty(), "{what}: {wrong:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_that_are_not_served_are_refused_everywhere() {
    let server = TestServer::start().await;
    for instance in ["other", "main/sub", "a/blobs", "uploads", "main/operations", "/main", "main/", "a//b"] {
        let asked = Asked { instance, ..Asked::default() };
        all_invalid(&every_call(&server, &asked).await, instance);
        let request = reapi::GetCapabilitiesRequest { instance_name: instance.into() };
        let capabilities = server.capabilities().get_capabilities(request).await;
        all_invalid(&[("GetCapabilities", code(&capabilities))], instance);
    }
    let request = ListOperationsRequest { name: "other/operations".into(), ..Default::default() };
    assert_eq!(code(&server.operations().list_operations(request).await), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_refusal_of_an_instance_names_those_that_are_served() {
    let server = TestServer::start().await;
    let request = reapi::GetCapabilitiesRequest { instance_name: "other".into() };
    let status = server.capabilities().get_capabilities(request).await.unwrap_err();
    assert!(status.message().contains("\"main\""), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_digests_are_refused_everywhere() {
    let server = TestServer::start().await;
    let good = digest(b"absent").to_wire();
    let with = |hash: String, size_bytes| Some(reapi::Digest { hash, size_bytes });
    for (what, digest) in [
        ("upper case", with(good.hash.to_uppercase(), 6)),
        ("short", with(good.hash[1..].to_owned(), 6)),
        ("long", with(format!("0{}", good.hash), 6)),
        ("not hex", with(format!("g{}", &good.hash[1..]), 6)),
        ("no hash", with(String::new(), 6)),
        ("SHA-1's length", with(good.hash[..40].to_owned(), 6)),
        ("negative size", with(good.hash.clone(), -1)),
        ("least size", with(good.hash.clone(), i64::MIN)),
        ("missing", None),
    ] {
        all_invalid(&every_call(&server, &Asked { digest, ..Asked::default() }).await, what);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn digest_functions_that_are_not_offered_are_refused_everywhere() {
    let server = TestServer::start().await;
    for function in [Function::Sha1, Function::Md5, Function::Murmur3, Function::Gitsha1] {
        let codes = every_call(&server, &Asked { function, ..Asked::default() }).await;
        all_invalid(&codes, function.as_str_name());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn naming_sha256_is_the_same_as_naming_nothing() {
    // A server each: the calls leave an action result behind.
    let server = TestServer::start().await;
    let unset = every_call(&server, &Asked::default()).await;
    let server = TestServer::start().await;
    let set = every_call(&server, &Asked { function: Function::Sha256, ..Asked::default() }).await;
    assert_eq!(unset, set);
    assert!(unset.contains(&("GetActionResult", Code::NotFound)), "{unset:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn request_metadata_is_optional_and_may_be_garbage() {
    let server = TestServer::start().await;
    let good =
        reapi::RequestMetadata { tool_invocation_id: "t".into(), ..Default::default() }.encode_to_vec();
    for metadata in [good, b"\xff\xff\xff".to_vec()] {
        let mut request = Request::new(reapi::FindMissingBlobsRequest::default());
        let value = tonic::metadata::MetadataValue::from_bytes(&metadata);
        request.metadata_mut().insert_bin("build.bazel.remote.execution.v2.requestmetadata-bin", value);
        server.cas().find_missing_blobs(request).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn capabilities_say_what_the_server_can_do() {
    let server = TestServer::with(|config| config.requests.blob_bytes_max = 1 << 30).await;
    for instance_name in ["", "main"] {
        let request = reapi::GetCapabilitiesRequest { instance_name: instance_name.into() };
        let got = server.capabilities().get_capabilities(request).await.unwrap().into_inner();
        let version = |major, minor| Some(SemVer { major, minor, ..Default::default() });
        assert_eq!(got.deprecated_api_version, version(2, 0));
        assert_eq!(got.low_api_version, version(2, 3));
        assert_eq!(got.high_api_version, version(2, 12));
        let sha256 = i32::from(Function::Sha256);
        let cache = got.cache_capabilities.unwrap();
        let functions =
            [Function::Sha256, Function::Sha384, Function::Sha512, Function::Sha256tree, Function::Blake3];
        let functions = functions.map(i32::from);
        assert_eq!(cache.digest_functions, functions);
        assert!(cache.action_cache_update_capabilities.unwrap().update_enabled);
        assert!((1..4 << 20).contains(&cache.max_batch_total_size_bytes));
        assert_eq!(cache.max_cas_blob_size_bytes, 1 << 30);
        let allowed = reapi::symlink_absolute_path_strategy::Value::Allowed;
        assert_eq!(cache.symlink_absolute_path_strategy, i32::from(allowed));
        assert_eq!(cache.supported_compressors, [1, 2, 3]);
        assert_eq!(cache.supported_batch_update_compressors, [1, 2, 3]);
        let execution = got.execution_capabilities.unwrap();
        assert!(execution.exec_enabled);
        assert_eq!(execution.digest_function, sha256);
        assert_eq!(execution.digest_functions, functions);
        assert!(execution.supported_node_properties.is_empty());
        let range = &execution.execution_priority_capabilities.unwrap().priorities[0];
        assert!(range.min_priority < 0 && range.max_priority > 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_default_instances_share_blobs_and_run_actions() {
    let server = TestServer::start().await;
    let built = server.upload(TestAction::new(&["echo", "hi"])).await;
    let request = reapi::ExecuteRequest { instance_name: "main".into(), ..built.request() };
    let ended = server.follow(request).await.unwrap().ended().await.unwrap();
    assert!(ended.name().starts_with("main/operations/"), "{}", ended.name());
    let resource_name = format!("main/blobs/{}", built.action);
    let mut stream = server
        .byte_stream()
        .read(ReadRequest { resource_name, ..Default::default() })
        .await
        .unwrap()
        .into_inner();
    assert!(!stream.next().await.unwrap().unwrap().data.is_empty());
}
