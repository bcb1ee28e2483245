//! Toolchains by name: registering, resolving, and that nobody gets the result of another one.

use prost::Message as _;
use tonic::Code;
use wardian_proto::wardian::toolchains_client::ToolchainsClient;
use wardian_proto::{Digest, DigestFunction, RelPath, reapi, wardian};
use wardian_server::client::Client;
use wardian_store::tree_builder::TreeBuilder;
use wardian_tests::{Ended, TestAction, TestServer, code, digest, guest};
use wardian_toolchains::Toolchain;

/// The server's Toolchains service.
async fn service(server: &TestServer) -> ToolchainsClient<tonic::transport::Channel> {
    ToolchainsClient::new(server.channel())
}

/// Stores a tree with a module and a note, and returns what would be registered.
async fn tree(server: &TestServer, guest_name: &str, note: &str) -> wardian::Toolchain {
    let module = guest(guest_name);
    let mut tree = TreeBuilder::new();
    let path = |text: &str| RelPath::parse(text).unwrap();
    tree.file(&path("bin/tool"), server.put(module.clone()).await, true).unwrap();
    tree.file(&path("bin/say"), server.put(guest("echo")).await, true).unwrap();
    tree.file(&path("share/note"), server.put(note.to_owned()).await, false).unwrap();
    let built = tree.build(DigestFunction::Sha256);
    server.put_all(&built.directories).await;
    wardian::Toolchain {
        name: "demo".into(),
        version: "1.0.0".into(),
        tree: Some(built.root.to_wire()),
        mount: "opt/wardian/demo".into(),
        tools: vec![
            wardian::Tool {
                name: "tool".into(),
                path: "bin/tool".into(),
                arguments: vec!["opt/wardian/demo/share/note".into()],
            },
            wardian::Tool {
                name: "say".into(),
                path: "bin/say".into(),
                arguments: vec!["{mount}/share".into()],
            },
        ],
        modules: vec![digest(&module).to_wire()],
        license: "Apache-2.0".into(),
        ..Default::default()
    }
}

async fn put(
    server: &TestServer,
    toolchain: wardian::Toolchain,
) -> Result<wardian::Toolchain, tonic::Status> {
    let request = wardian::PutToolchainRequest { toolchain: Some(toolchain) };
    service(server).await.put_toolchain(request).await.map(tonic::Response::into_inner)
}

async fn remove(server: &TestServer, name: &str, version: &str) -> Result<(), tonic::Status> {
    let request = wardian::RemoveToolchainRequest { name: name.into(), version: version.into() };
    service(server).await.remove_toolchain(request).await.map(drop)
}

fn action(toolchain: &str) -> TestAction {
    TestAction::new(&["tool"]).platform(&[("toolchain", toolchain)])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_runs_by_its_name() {
    let server = TestServer::start().await;
    let toolchain = tree(&server, "cat", "in the tree").await;
    put(&server, toolchain.clone()).await.unwrap();
    // The same again changes nothing.
    put(&server, toolchain).await.unwrap();
    for name in ["demo", "demo@1", "demo@1.0.0"] {
        let ended = server.succeed(action(name)).await;
        assert_eq!(server.streams(&ended).await.0, "in the tree", "{name}");
    }
    let say = TestAction::new(&["say", "more"]).platform(&[("toolchain", "demo")]);
    let said = server.streams(&server.succeed(say).await).await.0;
    assert!(said.ends_with("/opt/wardian/demo/share\nmore\n"), "{said:?}");
    // The platform may be in the Command as well.
    let mut older = action("demo");
    #[allow(deprecated)]
    {
        older.command.platform = older.action.platform.take();
    }
    assert_eq!(server.streams(&server.succeed(older).await).await.0, "in the tree");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_goes_into_an_input_root_that_has_something_beside_it() {
    let server = TestServer::start().await;
    put(&server, tree(&server, "cat", "in the tree").await).await.unwrap();
    let beside = action("demo").file("opt/wardian/other", "1").file("a", "2").directory("z");
    assert_eq!(server.streams(&server.succeed(beside).await).await.0, "in the tree");
    for in_the_way in ["opt", "opt/wardian", "opt/wardian/demo", "opt/wardian/demo/x"] {
        let refusal = server.refused(action("demo").file(in_the_way, "1")).await;
        assert_eq!(refusal.code, Code::InvalidArgument, "{in_the_way}: {}", refusal.message);
        assert!(refusal.message.contains("opt/wardian/demo"), "{}", refusal.message);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_registered_is_named() {
    let server = TestServer::start().await;
    let refusal = server.refused(action("gcc@4")).await;
    assert_eq!(refusal.code, Code::FailedPrecondition);
    assert!(refusal.message.contains("gcc@4") && refusal.message.contains("none"), "{}", refusal.message);
    put(&server, tree(&server, "cat", "x").await).await.unwrap();
    for unknown in ["gcc", "demo@2", "demo@1.0.0.0", "demo@10"] {
        let refusal = server.refused(action(unknown)).await;
        assert_eq!(refusal.code, Code::FailedPrecondition, "{unknown}");
        assert!(refusal.message.contains("demo@1.0.0"), "{}", refusal.message);
    }
    for malformed in ["", "@", "Demo", "demo@", "demo@latest", "demo@*", "a/b"] {
        assert_eq!(server.refused(action(malformed)).await.code, Code::InvalidArgument, "{malformed}");
    }
    let mut other = action("demo");
    other.command.arguments[0] = "tol".into();
    let refusal = server.refused(other).await;
    assert_eq!(refusal.code, Code::FailedPrecondition);
    assert!(refusal.message.contains("\"tol\"") && refusal.message.contains("tool"), "{}", refusal.message);
    let native = action("demo").platform(&[("toolchain", "demo"), ("OSFamily", "linux")]);
    assert_eq!(server.refused(native).await.code, Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_tree_is_refused_and_never_serves_the_results_of_the_first() {
    let server = TestServer::start().await;
    let (first, second) = (tree(&server, "cat", "first").await, tree(&server, "cat", "second").await);
    put(&server, first.clone()).await.unwrap();
    let built = server.upload(action("demo")).await;
    let ended = server.execute(&built).await;
    assert_eq!(server.streams(&ended).await.0, "first");
    let again = server.execute(&built).await;
    assert!(again.response.cached_result);
    // What the client sent is what it hears of.
    assert_eq!(metadata(&again).action_digest, Some(built.action.to_wire()));

    let refused = put(&server, second.clone()).await;
    assert_eq!(code(&refused), Code::AlreadyExists);
    remove(&server, "demo", "1.0.0").await.unwrap();
    assert_eq!(code(&remove(&server, "demo", "1.0.0").await), Code::NotFound);
    assert_eq!(server.refusal_of(&built).await.code, Code::FailedPrecondition);
    assert_eq!(code(&cached(&server, built.action).await), Code::NotFound);

    put(&server, second).await.unwrap();
    assert_eq!(code(&cached(&server, built.action).await), Code::NotFound);
    let other = server.execute(&built).await;
    assert!(!other.response.cached_result);
    assert_eq!(server.streams(&other).await.0, "second");
    assert_eq!(cached(&server, built.action).await.unwrap().stdout_digest, other.result().stdout_digest);
}

fn metadata(ended: &Ended) -> reapi::ExecuteOperationMetadata {
    let any = ended.operations.last().unwrap().metadata.as_ref().unwrap();
    reapi::ExecuteOperationMetadata::decode(any.value.as_slice()).unwrap()
}

async fn cached(server: &TestServer, action: Digest) -> Result<reapi::ActionResult, tonic::Status> {
    let request =
        reapi::GetActionResultRequest { action_digest: Some(action.to_wire()), ..Default::default() };
    server.action_cache().get_action_result(request).await.map(tonic::Response::into_inner)
}

#[tokio::test(flavor = "multi_thread")]
async fn registered_toolchains_are_there_after_a_restart() {
    let server = TestServer::start().await;
    let toolchain = put(&server, tree(&server, "cat", "kept").await).await.unwrap();
    let server = TestServer::on(server.shutdown().await, |_| {}).await;
    let url = server.address().to_string().parse().unwrap();
    let client = Client::connect(&url, Default::default()).await.unwrap();
    assert_eq!(client.toolchains().await.unwrap(), [Toolchain::from_wire(toolchain).unwrap()]);
    assert_eq!(client.toolchain("demo@1").await.unwrap().unwrap().label(), "demo@1.0.0");
    assert_eq!(client.toolchain("demo@2").await.unwrap(), None);
    let ended = server.succeed(action("demo")).await;
    assert_eq!(server.streams(&ended).await.0, "kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_records_are_refused() {
    let server = TestServer::start().await;
    let good = tree(&server, "cat", "x").await;
    let gone = DigestFunction::Sha256.digest(b"nowhere").to_wire();
    let missing = wardian::Toolchain { tree: Some(gone), ..good.clone() };
    assert_eq!(code(&put(&server, missing).await), Code::FailedPrecondition);
    let property = reapi::platform::Property { name: "OSFamily".into(), value: "linux".into() };
    let bad = [
        wardian::Toolchain { name: "Demo".into(), ..good.clone() },
        wardian::Toolchain { version: "".into(), ..good.clone() },
        wardian::Toolchain { tree: None, ..good.clone() },
        wardian::Toolchain { mount: "../x".into(), ..good.clone() },
        wardian::Toolchain { mount: "".into(), ..good.clone() },
        wardian::Toolchain { description: "x".repeat(100_000), ..good.clone() },
        wardian::Toolchain { tools: [&good.tools[..], &good.tools].concat(), ..good.clone() },
        wardian::Toolchain { properties: vec![property], ..good.clone() },
    ];
    for bad in bad {
        assert_eq!(code(&put(&server, bad.clone()).await), Code::InvalidArgument, "{}", bad.encoded_len());
    }
    assert!(
        service(&server)
            .await
            .list_toolchains(wardian::ListToolchainsRequest::default())
            .await
            .unwrap()
            .into_inner()
            .toolchains
            .is_empty()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_toolchain_is_an_asset_with_a_uri_of_its_own() {
    use wardian_proto::asset::fetch_client::FetchClient;
    use wardian_proto::asset::{FetchBlobRequest, FetchDirectoryRequest};

    let server = TestServer::start().await;
    let registered = put(&server, tree(&server, "echo", "one").await).await.unwrap();
    let mut client = FetchClient::new(server.channel());
    let ask = |uri: &str| FetchDirectoryRequest { uris: vec![uri.into()], ..Default::default() };
    for uri in ["wardian-toolchain:demo", "wardian-toolchain:demo@1"] {
        let answer = client.fetch_directory(ask(uri)).await.unwrap().into_inner();
        assert_eq!((answer.uri.as_str(), answer.root_directory_digest), (uri, registered.tree.clone()));
    }
    let unknown = client.fetch_directory(ask("wardian-toolchain:other")).await.unwrap().into_inner();
    let status = unknown.status.unwrap();
    assert_eq!(Code::from(status.code), Code::NotFound);
    assert!(status.message.contains("demo@1.0.0"), "{}", status.message);
    assert_eq!(code(&client.fetch_directory(ask("wardian-toolchain:@")).await), Code::InvalidArgument);
    let part = wardian_proto::asset::Qualifier { name: "directory".into(), value: "bin".into() };
    let part = FetchDirectoryRequest { qualifiers: vec![part], ..ask("wardian-toolchain:demo") };
    assert_eq!(code(&client.fetch_directory(part).await), Code::InvalidArgument);
    let blob = FetchBlobRequest { uris: vec!["wardian-toolchain:demo".into()], ..Default::default() };
    assert_eq!(code(&client.fetch_blob(blob).await), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_toolchains_of_one_tree_have_tools_of_their_own() {
    let server = TestServer::start().await;
    let first = tree(&server, "cat", "in the tree").await;
    let second = wardian::Toolchain {
        name: "other".into(),
        tools: vec![wardian::Tool { name: "speak".into(), path: "bin/say".into(), arguments: vec![] }],
        ..first.clone()
    };
    put(&server, first).await.unwrap();
    put(&server, second).await.unwrap();
    for (argument, expected) in [("tool", "in the tree"), ("speak", "/opt/wardian/demo/bin/say\n")] {
        let both = TestAction::new(&[argument]).platform(&[("toolchain", "demo"), ("toolchain", "other")]);
        let said = server.streams(&server.succeed(both).await).await.0;
        assert!(said.contains(expected), "{argument}: {said:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_toolchains_are_listed_in_pages() {
    let server = TestServer::start().await;
    let one = tree(&server, "cat", "x").await;
    let names: Vec<String> = (0..40).map(|number| format!("demo{number:02}")).collect();
    for name in &names {
        let description = "x".repeat(60_000);
        let many = wardian::Toolchain { name: name.clone(), description, ..one.clone() };
        put(&server, many).await.unwrap();
    }
    let mut client = service(&server).await;
    let first = client.list_toolchains(wardian::ListToolchainsRequest::default()).await.unwrap().into_inner();
    assert!((2..40).contains(&first.toolchains.len()), "{}", first.toolchains.len());
    assert!(!first.next_page_token.is_empty());
    let url = server.address().to_string().parse().unwrap();
    let listed = Client::connect(&url, Default::default()).await.unwrap().toolchains().await.unwrap();
    assert_eq!(listed.iter().map(|toolchain| toolchain.name.clone()).collect::<Vec<_>>(), names);
}
