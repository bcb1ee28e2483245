//! ActionCache: what is served, what is hidden, what is stored.

use bytes::Bytes;
use prost::Message as _;
use tonic::{Code, Status};
use wardian_proto::{Digest, reapi};
use wardian_tests::{TestServer, bytes_of, code, digest};

fn action() -> Digest {
    digest(b"an action")
}

async fn get(
    server: &TestServer,
    request: reapi::GetActionResultRequest,
) -> Result<reapi::ActionResult, Status> {
    let request = reapi::GetActionResultRequest { action_digest: Some(action().to_wire()), ..request };
    server.action_cache().get_action_result(request).await.map(tonic::Response::into_inner)
}

async fn update(server: &TestServer, result: reapi::ActionResult) -> Result<reapi::ActionResult, Status> {
    let request = reapi::UpdateActionResultRequest {
        action_digest: Some(action().to_wire()),
        action_result: Some(result),
        ..Default::default()
    };
    server.action_cache().update_action_result(request).await.map(tonic::Response::into_inner)
}

async fn is_hit(server: &TestServer) -> bool {
    match get(server, Default::default()).await {
        Ok(_) => true,
        Err(status) => {
            assert_eq!(status.code(), Code::NotFound);
            false
        }
    }
}

fn file(path: &str, content: &[u8]) -> reapi::OutputFile {
    reapi::OutputFile { path: path.into(), digest: Some(digest(content).to_wire()), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_put_is_got_by_the_same_instance_only() {
    let server = TestServer::start().await;
    assert!(!is_hit(&server).await);
    let put = update(&server, reapi::ActionResult { exit_code: 3, ..Default::default() }).await.unwrap();
    assert_eq!(put.exit_code, 3);
    // The stored bytes are never empty, whatever the client sent.
    assert!(!put.execution_metadata.as_ref().unwrap().worker.is_empty());
    assert_eq!(get(&server, Default::default()).await.unwrap(), put);
    let elsewhere = reapi::GetActionResultRequest { instance_name: "main".into(), ..Default::default() };
    assert_eq!(code(&get(&server, elsewhere).await), Code::NotFound);

    let replaced = update(&server, reapi::ActionResult { exit_code: 4, ..Default::default() }).await.unwrap();
    assert_eq!(get(&server, Default::default()).await.unwrap(), replaced);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_action_digest_of_another_size_is_another_action() {
    let server = TestServer::start().await;
    update(&server, reapi::ActionResult::default()).await.unwrap();
    let wrong = reapi::Digest { size_bytes: 1, ..action().to_wire() };
    let request = reapi::GetActionResultRequest { action_digest: Some(wrong), ..Default::default() };
    assert_eq!(code(&server.action_cache().get_action_result(request).await), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn results_are_hidden_until_files_and_streams_are_stored() {
    let server = TestServer::start().await;
    let large = bytes_of(100_000, 1);
    let result = reapi::ActionResult {
        output_files: vec![file("a", b"a"), file("empty", b""), file("large", &large)],
        stdout_digest: Some(digest(b"out").to_wire()),
        stderr_digest: Some(digest(b"err").to_wire()),
        ..Default::default()
    };
    update(&server, result).await.unwrap();
    for blob in [&b"a"[..], b"out", b"err", &large] {
        assert!(!is_hit(&server).await);
        server.put(Bytes::copy_from_slice(blob)).await;
    }
    assert!(is_hit(&server).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn results_are_hidden_until_everything_inside_their_directories_is_stored() {
    let server = TestServer::start().await;
    let node = |name: &str, content: &[u8]| reapi::FileNode {
        name: name.into(),
        digest: Some(digest(content).to_wire()),
        ..Default::default()
    };
    let child = reapi::Directory { files: vec![node("deep", b"deep")], ..Default::default() };
    let child_bytes = child.encode_to_vec();
    let directories =
        vec![reapi::DirectoryNode { name: "child".into(), digest: Some(digest(&child_bytes).to_wire()) }];
    let root = reapi::Directory { files: vec![node("top", b"top")], directories, ..Default::default() };
    let root_bytes = root.encode_to_vec();
    let tree = reapi::Tree { root: Some(root), children: vec![child] }.encode_to_vec();
    let output = reapi::OutputDirectory {
        path: "out".into(),
        tree_digest: Some(digest(&tree).to_wire()),
        root_directory_digest: Some(digest(&root_bytes).to_wire()),
        ..Default::default()
    };
    update(&server, reapi::ActionResult { output_directories: vec![output], ..Default::default() })
        .await
        .unwrap();
    for blob in [&tree[..], b"top", b"deep", &root_bytes, &child_bytes] {
        assert!(!is_hit(&server).await);
        server.put(Bytes::copy_from_slice(blob)).await;
    }
    assert!(is_hit(&server).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn contents_come_inline_only_when_asked_for_and_only_while_they_fit() {
    let server = TestServer::start().await;
    let large = server.put(bytes_of(3_000_000, 1)).await;
    for blob in [&b"stdout"[..], b"stderr", b"one", b"two"] {
        server.put(Bytes::copy_from_slice(blob)).await;
    }
    let mut result = reapi::ActionResult {
        output_files: vec![file("one", b"one"), file("two", b"two"), file("large", b"")],
        stdout_digest: Some(digest(b"stdout").to_wire()),
        stderr_digest: Some(digest(b"stderr").to_wire()),
        ..Default::default()
    };
    result.output_files[2].digest = Some(large.to_wire());
    update(&server, result).await.unwrap();
    let plain = get(&server, Default::default()).await.unwrap();
    assert!(plain.stdout_raw.is_empty() && plain.stderr_raw.is_empty());
    assert!(plain.output_files.iter().all(|f| f.contents.is_empty()));
    let asked = reapi::GetActionResultRequest {
        inline_stdout: true,
        inline_stderr: true,
        inline_output_files: vec!["two".into(), "large".into(), "unheard of".into()],
        ..Default::default()
    };
    let full = get(&server, asked).await.unwrap();
    assert_eq!((&full.stdout_raw[..], &full.stderr_raw[..]), (&b"stdout"[..], &b"stderr"[..]));
    let contents: Vec<_> = full.output_files.iter().map(|f| &f.contents[..]).collect();
    assert_eq!(contents, [&b""[..], b"two", b""]);
}

#[tokio::test(flavor = "multi_thread")]
async fn inlined_contents_move_to_the_cas() {
    let server = TestServer::start().await;
    let mut result = reapi::ActionResult {
        stdout_raw: Bytes::from_static(b"raw out"),
        stderr_raw: Bytes::from_static(b"raw err"),
        stderr_digest: Some(digest(b"raw err").to_wire()),
        output_files: vec![file("f", b"raw file")],
        ..Default::default()
    };
    result.output_files[0].contents = Bytes::from_static(b"raw file");
    update(&server, result).await.unwrap();
    let got = get(&server, Default::default()).await.unwrap();
    assert!(
        got.stdout_raw.is_empty() && got.stderr_raw.is_empty() && got.output_files[0].contents.is_empty()
    );
    assert_eq!(server.get(got.stdout_digest.as_ref()).await, "raw out");
    assert_eq!(server.get(got.stderr_digest.as_ref()).await, "raw err");
    assert_eq!(server.get(got.output_files[0].digest.as_ref()).await, "raw file");
}

#[tokio::test(flavor = "multi_thread")]
async fn results_that_contradict_themselves_are_refused() {
    let server = TestServer::start().await;
    let mut lying = file("f", b"one thing");
    lying.contents = Bytes::from_static(b"another");
    let bad = Some(reapi::Digest { hash: "short".into(), size_bytes: 1 });
    let directory = reapi::OutputDirectory { tree_digest: bad.clone(), ..Default::default() };
    for (what, result) in [
        ("contents", reapi::ActionResult { output_files: vec![lying], ..Default::default() }),
        ("stdout", reapi::ActionResult { stdout_digest: bad.clone(), ..Default::default() }),
        ("tree", reapi::ActionResult { output_directories: vec![directory], ..Default::default() }),
        (
            "file",
            reapi::ActionResult { output_files: vec![reapi::OutputFile::default()], ..Default::default() },
        ),
    ] {
        assert_eq!(code(&update(&server, result).await), Code::InvalidArgument, "{what}");
    }
    let nothing =
        reapi::UpdateActionResultRequest { action_digest: Some(action().to_wire()), ..Default::default() };
    assert_eq!(code(&server.action_cache().update_action_result(nothing).await), Code::InvalidArgument);
    assert!(!is_hit(&server).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn updates_can_be_turned_off() {
    let server = TestServer::with(|config| config.action_cache_update = false).await;
    assert_eq!(code(&update(&server, reapi::ActionResult::default()).await), Code::PermissionDenied);
    let request = reapi::GetCapabilitiesRequest::default();
    let cache =
        server.capabilities().get_capabilities(request).await.unwrap().into_inner().cache_capabilities;
    assert!(!cache.unwrap().action_cache_update_capabilities.unwrap().update_enabled);
    assert!(!is_hit(&server).await);
}
