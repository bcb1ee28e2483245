//! What an action is made of: blobs that are missing, messages that are no messages, trees that are traps.

use bytes::Bytes;
use prost::Message as _;
use tonic::Code;
use wardian_proto::{Digest, reapi};
use wardian_tests::{Built, TestAction, TestServer, digest};

fn subjects(digests: &[Digest]) -> Vec<String> {
    let mut subjects: Vec<_> = digests.iter().map(|digest| format!("blobs/{digest}")).collect();
    subjects.sort();
    subjects
}

/// Uploads all of an action but some blobs, and expects exactly these to be named as missing.
async fn names_missing(server: &TestServer, built: &Built, withheld: &[Digest]) {
    let uploads: Vec<_> = built.blobs.iter().filter(|(d, _)| !withheld.contains(d)).cloned().collect();
    server.put_all(&uploads).await;
    let refusal = server.refusal_of(built).await;
    assert_eq!(refusal.code, Code::FailedPrecondition, "{refusal:?}");
    assert_eq!(refusal.missing, subjects(withheld), "{refusal:?}");
    // With the rest uploaded it runs: the client can act on what it was told.
    server.put_all(&built.blobs).await;
    assert_eq!(server.execute(built).await.code(), Code::Ok);
}

fn action(text: &str) -> TestAction {
    TestAction::new(&["cat", "in/a", "in/deep/b"])
        .file("in/a", format!("a {text}\n"))
        .file("in/deep/b", format!("b {text}\n"))
        .file("in/large", vec![text.len() as u8; 50_000])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_action_is_named() {
    let server = TestServer::start().await;
    let built = action("1").build();
    names_missing(&server, &built, &[built.action]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_command_is_named_with_and_without_a_platform() {
    for (text, platform) in [("one", None), ("two", Some(&[][..]))] {
        // A server each: both actions have the same command.
        let server = TestServer::start().await;
        let action = action(text);
        let built = platform.map_or(action.clone(), |p| action.platform(p)).build();
        names_missing(&server, &built, &[built.command]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_missing_input_is_named() {
    let server = TestServer::start().await;
    let built = action("x").build();
    let files = [digest(b"a x\n"), digest(b"b x\n"), digest(&[1; 50_000])];
    names_missing(&server, &built, &files).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_directories_are_named_beside_missing_files() {
    let server = TestServer::start().await;
    let built = action("y").build();
    let deep = reapi::Directory {
        files: vec![reapi::FileNode {
            name: "b".into(),
            digest: Some(digest(b"b y\n").to_wire()),
            ..Default::default()
        }],
        ..Default::default()
    };
    let deep = digest(&deep.encode_to_vec());
    assert!(built.blobs.iter().any(|(d, _)| *d == deep));
    names_missing(&server, &built, &[deep, digest(b"a y\n")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_input_root_is_named() {
    let server = TestServer::start().await;
    let built = action("z").build();
    names_missing(&server, &built, &[built.input_root]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_missing_inputs_are_all_named() {
    let server = TestServer::start().await;
    let files = (0..2000).map(|i| (format!("d{}/f{i}", i % 7), format!("content {i}")));
    let (mut action, mut withheld) = (TestAction::new(&["true"]), Vec::new());
    for (path, content) in files {
        withheld.push(digest(content.as_bytes()));
        action = action.file(&path, content);
    }
    let built = action.build();
    names_missing(&server, &built, &withheld).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_size_is_a_missing_blob() {
    let server = TestServer::start().await;
    let mut action = TestAction::new(&["true"]);
    let stored = server.put("sixteen bytes ok").await;
    let wrong = reapi::Digest { size_bytes: 15, ..stored.to_wire() };
    let node = reapi::FileNode { name: "f".into(), digest: Some(wrong.clone()), ..Default::default() };
    let root = reapi::Directory { files: vec![node], ..Default::default() }.encode_to_vec();
    action.action.input_root_digest = Some(server.put(root).await.to_wire());
    let refusal = server.refused(action).await;
    assert_eq!(refusal.missing, [format!("blobs/{}/15", wrong.hash)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_that_are_no_messages_are_refused() {
    let server = TestServer::start().await;
    let garbage = server.put(Bytes::from_static(b"\xff\xff\xff\xff garbage")).await.to_wire();
    let mut bad_command = TestAction::new(&["true"]);
    bad_command.action.command_digest = Some(garbage.clone());
    let mut bad_root = TestAction::new(&["true"]);
    bad_root.action.input_root_digest = Some(garbage.clone());
    for action in [bad_command, bad_root] {
        let refusal = server.refused(action).await;
        assert_eq!((refusal.code, &refusal.missing[..]), (Code::InvalidArgument, &[][..]), "{refusal:?}");
    }
    let request = reapi::ExecuteRequest { action_digest: Some(garbage), ..Default::default() };
    assert_eq!(server.follow(request).await.err().unwrap().code(), Code::InvalidArgument);
    server.assert_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn actions_without_digests_are_refused() {
    let server = TestServer::start().await;
    let full = server.upload(TestAction::new(&["true"])).await;
    for action in [
        reapi::Action { input_root_digest: Some(full.input_root.to_wire()), ..Default::default() },
        reapi::Action { command_digest: Some(full.command.to_wire()), ..Default::default() },
    ] {
        let action = server.put(action.encode_to_vec()).await;
        let refusal = server.refusal_of(&Built { action, ..full.clone() }).await;
        assert_eq!(refusal.code, Code::InvalidArgument, "{refusal:?}");
    }
}

async fn directory_is_refused(server: &TestServer, root: reapi::Directory, what: &str) {
    let mut action = TestAction::new(&["true"]);
    action.action.input_root_digest = Some(server.put(root.encode_to_vec()).await.to_wire());
    let refusal = server.refused(action).await;
    assert_eq!(refusal.code, Code::InvalidArgument, "{what}: {refusal:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn directories_with_bad_names_are_refused() {
    let server = TestServer::start().await;
    let empty = server.put("").await.to_wire();
    let file =
        |name: &str| reapi::FileNode { name: name.into(), digest: Some(empty.clone()), ..Default::default() };
    let child = |name: &str| reapi::DirectoryNode { name: name.into(), digest: Some(empty.clone()) };
    let link = |name: &str, target: &str| reapi::SymlinkNode {
        name: name.into(),
        target: target.into(),
        ..Default::default()
    };
    let (files, directories) = (
        |names: &[&str]| names.iter().map(|n| file(n)).collect(),
        |names: &[&str]| names.iter().map(|n| child(n)).collect(),
    );
    let long = "x".repeat(256);
    for name in ["", ".", "..", "/", "a/b", "../x", "/etc/passwd", "a\0b", &long] {
        let as_file = reapi::Directory { files: files(&[name]), ..Default::default() };
        directory_is_refused(&server, as_file, &format!("file {name:?}")).await;
        let as_directory = reapi::Directory { directories: directories(&[name]), ..Default::default() };
        directory_is_refused(&server, as_directory, &format!("directory {name:?}")).await;
        let as_link = reapi::Directory { symlinks: vec![link(name, "target")], ..Default::default() };
        directory_is_refused(&server, as_link, &format!("symlink {name:?}")).await;
    }
    let twice = reapi::Directory { files: files(&["a", "a"]), ..Default::default() };
    directory_is_refused(&server, twice, "a file twice").await;
    let both =
        reapi::Directory { files: files(&["a"]), directories: directories(&["a"]), ..Default::default() };
    directory_is_refused(&server, both, "a file and a directory").await;
    let three =
        reapi::Directory { symlinks: vec![link("a", "b")], files: files(&["a"]), ..Default::default() };
    directory_is_refused(&server, three, "a file and a symlink").await;
    for target in ["", "a\0b"] {
        let bad = reapi::Directory { symlinks: vec![link("l", target)], ..Default::default() };
        directory_is_refused(&server, bad, &format!("symlink to {target:?}")).await;
    }
    server.assert_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_bomb_is_refused_by_a_named_limit() {
    let server = TestServer::start().await;
    // 31 messages, 2^30 paths.
    let mut below = server.put("").await;
    for _ in 0..30 {
        let node = |name: &str| reapi::DirectoryNode { name: name.into(), digest: Some(below.to_wire()) };
        let level = reapi::Directory { directories: vec![node("a"), node("b")], ..Default::default() };
        below = server.put(level.encode_to_vec()).await;
    }
    let mut bomb = TestAction::new(&["true"]);
    bomb.action.input_root_digest = Some(below.to_wire());
    let refusal = server.refused(bomb).await;
    assert_eq!(refusal.code, Code::InvalidArgument);
    assert!(refusal.message.contains("input_entries_max"), "{refusal:?}");
    server.assert_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deep_tree_is_refused_by_a_named_limit() {
    let server = TestServer::start().await;
    let mut below = server.put("").await;
    for _ in 0..200 {
        let node = reapi::DirectoryNode { name: "d".into(), digest: Some(below.to_wire()) };
        below = server
            .put(reapi::Directory { directories: vec![node], ..Default::default() }.encode_to_vec())
            .await;
    }
    let mut deep = TestAction::new(&["true"]);
    deep.action.input_root_digest = Some(below.to_wire());
    let refusal = server.refused(deep).await;
    assert_eq!(refusal.code, Code::InvalidArgument);
    assert!(refusal.message.contains("levels"), "{refusal:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_huge_input_is_refused_by_a_named_limit() {
    let server = TestServer::with(|config| config.worker.limits.input_bytes_max = 10_000).await;
    let small = TestAction::new(&["true"]).file("a", vec![1; 6000]);
    server.succeed(small.clone()).await;
    // The same file again costs its bytes again.
    let refusal = server.refused(small.file("b", vec![1; 6000])).await;
    assert_eq!(refusal.code, Code::InvalidArgument);
    assert!(refusal.message.contains("input_bytes_max"), "{refusal:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_that_cannot_be_are_refused() {
    let server = TestServer::start().await;
    let nothing = TestAction::new(&[]);
    let empty_name = TestAction::new(&[""]);
    let nul = TestAction::new(&["echo", "a\0b"]);
    let twice = TestAction::new(&["env"]).env("A", "1").env("A", "2");
    let no_name = TestAction::new(&["env"]).env("", "1");
    let equals = TestAction::new(&["env"]).env("A=B", "1");
    let mut property = TestAction::new(&["true"]);
    property.command.output_node_properties = vec!["mtime".into()];
    let mut negative = TestAction::new(&["true"]);
    negative.action.timeout = Some(prost_types::Duration { seconds: -1, nanos: 0 });
    let unnamed = TestAction::new(&["true"]).platform(&[("", "x")]);
    for action in [nothing, empty_name, nul, twice, no_name, equals, property, negative, unnamed] {
        let refusal = server.refused(action.clone()).await;
        assert_eq!(refusal.code, Code::InvalidArgument, "{refusal:?}: {action:?}");
    }
    server.assert_unharmed().await;
}
