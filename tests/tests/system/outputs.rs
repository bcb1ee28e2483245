//! What comes back of what a command left behind.

use prost::Message as _;
use tonic::Code;
use wardian_proto::{Digest, DigestFunction, reapi};
use wardian_tests::{TestAction, TestServer, digest};

async fn result(server: &TestServer, action: TestAction) -> reapi::ActionResult {
    server.succeed(action).await.result()
}

async fn tree(server: &TestServer, directory: &reapi::OutputDirectory) -> reapi::Tree {
    reapi::Tree::decode(server.get(directory.tree_digest.as_ref()).await).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn files_directories_and_links_are_told_apart() {
    let server = TestServer::start().await;
    let script = "echo plain > file; echo '#!/bin/sh' > run; chmod +x run; mkdir -p dir/sub; echo x > dir/sub/x; \
                  ln -s file link; ln -s dir dirlink; ln -s nowhere dangling; echo dropped > other";
    let outputs = ["dangling", "dir", "dirlink", "file", "link", "never/made", "run"];
    let result = result(&server, TestAction::sh(script, &[]).outputs(&outputs)).await;
    let mut files: Vec<_> = result.output_files.iter().map(|f| (f.path.as_str(), f.is_executable)).collect();
    files.sort();
    assert_eq!(files, [("file", false), ("run", true)]);
    assert_eq!(
        server.get(result.output_files.iter().find(|f| f.path == "file").unwrap().digest.as_ref()).await,
        "plain\n"
    );
    assert_eq!(result.output_directories.len(), 1);
    assert_eq!(result.output_directories[0].path, "dir");
    let mut links: Vec<_> =
        result.output_symlinks.iter().map(|l| (l.path.as_str(), l.target.as_str())).collect();
    links.sort();
    assert_eq!(links, [("dangling", "nowhere"), ("dirlink", "dir"), ("link", "file")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_are_relative_to_the_working_directory_and_may_climb_inside_the_root() {
    let server = TestServer::start().await;
    let script = "echo a > ../x; echo b > made/by/server/y; echo c > z";
    let action = TestAction::sh(script, &[]).directory("work/dir").working_directory("work/dir").outputs(&[
        "../x",
        "made/by/server/y",
        "z",
    ]);
    let result = result(&server, action).await;
    let paths: Vec<_> = result.output_files.iter().map(|f| f.path.as_str()).collect();
    assert_eq!(paths, ["../x", "made/by/server/y", "z"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn leading_directories_are_made_and_the_outputs_are_not() {
    let server = TestServer::start().await;
    let script = "test -d a/b; test ! -e a/b/c; test -d d; test ! -e d/e";
    result(&server, TestAction::sh(script, &[]).outputs(&["a/b/c", "d/e"])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn outputs_that_leave_the_root_are_refused() {
    let server = TestServer::start().await;
    let action = TestAction::new(&["true"]).directory("work").working_directory("work");
    for path in ["/etc/passwd", "../../x", "a/../../../x", "dir/", "a\0b"] {
        let refusal = server.refused(action.clone().outputs(&[path])).await;
        assert_eq!(refusal.code, Code::InvalidArgument, "{path:?}: {refusal:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn outputs_behind_links_out_of_the_root_are_not_followed() {
    let server = TestServer::start().await;
    let secret = server.folder().join("secret");
    std::fs::create_dir(&secret).unwrap();
    std::fs::write(secret.join("key"), "the secret").unwrap();
    let script = "up=$(pwd | sed 's,[^/]*,..,g; s,^/,,'); ln -s \"$up$1\" door; test -e door/key";
    let action = TestAction::sh(script, &[&secret]).outputs(&["door/key"]);
    let ended = server.run(action).await;
    assert!(ended.result().output_files.is_empty(), "{:?}", ended.result());
    assert!(!server.has(digest(b"the secret")).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_older_fields_are_served() {
    let server = TestServer::start().await;
    let script = "echo x > f; mkdir -p d/e; ln -s f l; ln -s d m";
    let mut action = TestAction::sh(script, &[]);
    #[allow(deprecated)]
    {
        action.command.output_files = vec!["absent".into(), "f".into(), "l".into()];
        action.command.output_directories = vec!["d".into(), "m".into(), "none".into()];
    }
    let result = result(&server, action).await;
    assert_eq!(result.output_files.iter().map(|f| f.path.as_str()).collect::<Vec<_>>(), ["f"]);
    assert_eq!(result.output_directories.iter().map(|d| d.path.as_str()).collect::<Vec<_>>(), ["d"]);
    #[allow(deprecated)]
    {
        assert_eq!(result.output_file_symlinks[0].path, "l");
        assert_eq!(result.output_directory_symlinks[0].path, "m");
    }
    assert!(result.output_symlinks.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_older_fields_refuse_the_wrong_kind() {
    let server = TestServer::start().await;
    for (files, directories) in
        [(&["d"][..], &[][..]), (&[], &["f"]), (&["m"], &[]), (&[], &["l"]), (&["none"], &[])]
    {
        let mut action = TestAction::sh("echo x > f; mkdir d; ln -s f l; ln -s d m; ln -s gone none", &[]);
        let texts = |texts: &[&str]| texts.iter().map(|t| (*t).to_owned()).collect();
        #[allow(deprecated)]
        {
            action.command.output_files = texts(files);
            action.command.output_directories = texts(directories);
        }
        let refusal = server.refused(action).await;
        assert_eq!(refusal.code, Code::FailedPrecondition, "{files:?} {directories:?}: {refusal:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_holds_every_directory_once_parents_first() {
    let server = TestServer::start().await;
    let script = "mkdir -p out/a/same out/b/same out/empty; echo x > out/a/same/f; echo x > out/b/same/f; \
                  echo '#!/bin/sh' > out/run; chmod +x out/run; ln -s run out/link";
    let result = result(&server, TestAction::sh(script, &[]).outputs(&["out"])).await;
    let output = &result.output_directories[0];
    assert!(output.is_topologically_sorted && output.root_directory_digest.is_none());
    let tree = tree(&server, output).await;
    let root = tree.root.unwrap();
    assert!(root.files[0].is_executable);
    assert_eq!((root.symlinks[0].name.as_str(), root.symlinks[0].target.as_str()), ("link", "run"));
    // `a` and `b` are equal: one Directory, and one more for `same`, and the empty one.
    assert_eq!(tree.children.len(), 3);
    let mut named: Vec<Digest> = Vec::new();
    for (i, directory) in [root].iter().chain(&tree.children).enumerate() {
        let own = digest(&directory.encode_to_vec());
        assert!(i == 0 || named.contains(&own), "a child came before its parent");
        let children = directory.directories.iter().map(|d| d.digest.as_ref());
        named.extend(children.map(|d| Digest::from_wire(DigestFunction::Sha256, d).unwrap()));
        assert!(directory.files.iter().map(|f| &f.name).is_sorted());
        assert!(directory.directories.iter().map(|d| &d.name).is_sorted());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_directory_is_an_output_too() {
    let server = TestServer::start().await;
    let result = result(&server, TestAction::new(&["mkdir", "out"]).outputs(&["out"])).await;
    let bytes = server.get(result.output_directories[0].tree_digest.as_ref()).await;
    assert_eq!(&bytes[..], b"\x0a\x00");
}

#[tokio::test(flavor = "multi_thread")]
async fn directories_come_in_the_format_asked_for() {
    use reapi::command::OutputDirectoryFormat as Format;
    let server = TestServer::start().await;
    for (format, has_tree, has_root) in [
        (i32::from(Format::TreeOnly), true, false),
        (i32::from(Format::DirectoryOnly), false, true),
        (i32::from(Format::TreeAndDirectory), true, true),
        (99, true, false),
    ] {
        let mut action = TestAction::sh("mkdir -p out/sub; echo x > out/sub/f", &[]).outputs(&["out"]);
        action.command.output_directory_format = format;
        let output = result(&server, action).await.output_directories.remove(0);
        assert_eq!(
            (output.tree_digest.is_some(), output.root_directory_digest.is_some()),
            (has_tree, has_root)
        );
        if has_root {
            let request = reapi::GetTreeRequest {
                root_digest: output.root_directory_digest.clone(),
                ..Default::default()
            };
            let page = server.cas().get_tree(request).await.unwrap().into_inner().message().await.unwrap();
            assert_eq!(page.unwrap().directories.len(), 2);
        }
        if has_root && has_tree {
            let root = tree(&server, &output).await.root.unwrap();
            assert_eq!(Some(digest(&root.encode_to_vec()).to_wire()), output.root_directory_digest);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn special_files_are_refused() {
    let server = TestServer::start().await;
    for script in ["mkfifo out", "mkdir out; mkfifo out/pipe"] {
        let refusal = server.refused(TestAction::sh(script, &[]).outputs(&["out"])).await;
        assert_eq!(refusal.code, Code::FailedPrecondition, "{script}: {refusal:?}");
    }
    server.assert_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn absolute_links_are_outputs_as_they_are_and_never_followed() {
    let server = TestServer::start().await;
    let script = "readlink in; rmdir out/folder; ln -s /etc/passwd out/link; ln -s /etc out/folder; ln -s /etc/passwd link";
    let action = TestAction::sh(script, &[]).symlink("in", "/no/such/place").outputs(&[
        "link",
        "out",
        "out/folder/passwd",
        "in",
    ]);
    let ended = server.succeed(action).await;
    assert_eq!(server.streams(&ended).await.0, "/no/such/place\n");
    let result = ended.result();
    let links: Vec<_> = result.output_symlinks.iter().map(|l| (l.path.as_str(), l.target.as_str())).collect();
    assert_eq!(links, [("link", "/etc/passwd"), ("in", "/no/such/place")]);
    assert!(result.output_files.is_empty(), "{:?}", result.output_files);
    let root = tree(&server, &result.output_directories[0]).await.root.unwrap();
    let targets: Vec<_> = root.symlinks.iter().map(|l| (l.name.as_str(), l.target.as_str())).collect();
    assert_eq!(targets, [("folder", "/etc"), ("link", "/etc/passwd")]);
    server.assert_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_outputs_are_refused_by_a_named_limit() {
    let server = TestServer::with(|config| {
        config.worker.limits.output_entries_max = 20;
        config.worker.limits.output_bytes_max = 10_000;
    })
    .await;
    for (script, limit) in [
        ("mkdir out; for i in $(seq 30); do : > out/$i; done", "output_entries_max"),
        ("head -c 10001 /dev/zero > out", "output_bytes_max"),
        ("mkdir out; head -c 6000 /dev/zero > out/a; head -c 6000 /dev/zero > out/b", "output_bytes_max"),
    ] {
        let refusal = server.refused(TestAction::sh(script, &[]).outputs(&["out"])).await;
        assert_eq!(refusal.code, Code::ResourceExhausted, "{script}");
        assert!(refusal.message.contains(limit), "{refusal:?}");
    }
    server.assert_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_holes_is_refused_by_its_size() {
    let server = TestServer::start().await;
    let refusal = server.refused(TestAction::new(&["truncate", "-s", "1T", "out"]).outputs(&["out"])).await;
    assert_eq!(refusal.code, Code::ResourceExhausted);
    assert!(refusal.message.contains("output_bytes_max"), "{refusal:?}");
    server.assert_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_and_large_outputs_arrive_whole() {
    let server = TestServer::start().await;
    let script = "mkdir out; for i in $(seq 300); do echo file $i > out/$i; done; head -c 5000000 /dev/zero > out/large";
    let result = result(&server, TestAction::sh(script, &[]).outputs(&["out"])).await;
    let root = tree(&server, &result.output_directories[0]).await.root.unwrap();
    assert_eq!(root.files.len(), 301);
    for file in root.files.iter().filter(|f| f.name == "300" || f.name == "large") {
        let content = server.get(file.digest.as_ref()).await;
        assert!(content == "file 300\n" || content.len() == 5_000_000);
    }
}
