//! Who may do what: tokens, rights and instances.

use bytes::Bytes;
use prost::Message as _;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Code, Request, Status};
use wardian_proto::longrunning::ListOperationsRequest;
use wardian_proto::{FILE_DESCRIPTOR_SET, InstanceName, reapi};
use wardian_server::auth::{Token, Verb, Verbs};
use wardian_server::client::{Access, Client};
use wardian_store::backend::Connection;
use wardian_store::{BlobStore as _, Upload};
use wardian_tests::{Raw, TestAction, TestServer, code};

/// Calls a method with one message, and returns what comes of it.
async fn call(server: &TestServer, token: Option<&str>, path: &str, message: Bytes) -> Result<(), Status> {
    let channel = server.channel();
    let connection = match token {
        Some(token) => Connection::with_token(channel, token).unwrap(),
        None => channel.into(),
    };
    let mut grpc = tonic::client::Grpc::new(connection);
    grpc.ready().await.unwrap();
    let path = PathAndQuery::try_from(path).unwrap();
    let mut answers = grpc.server_streaming(Request::new(message), path, Raw).await?.into_inner();
    while answers.message().await?.is_some() {}
    Ok(())
}

/// Every method of every service that there is: its path, and a message about instance `main`.
fn methods() -> Vec<(String, Bytes)> {
    let set = prost_types::FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
    let mut methods = Vec::new();
    for file in &set.file {
        for service in &file.service {
            for method in &service.method {
                let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                methods.push((path.clone(), about_main(&path)));
            }
        }
    }
    methods
}

/// Nearly all requests begin with the name of an instance, or with a name that begins with it.
fn about_main(path: &str) -> Bytes {
    let hash = "0".repeat(64);
    let name = match path.rsplit('/').next().unwrap() {
        "ListOperations" => {
            let request = ListOperationsRequest { name: "main/operations".into(), ..Default::default() };
            return request.encode_to_vec().into();
        }
        "Read" => format!("main/blobs/{hash}/1"),
        "Write" | "QueryWriteStatus" => {
            format!("main/uploads/00000000-0000-0000-0000-000000000000/blobs/{hash}/1")
        }
        "WaitExecution" => "main/operations/none".into(),
        _ if path.starts_with("/google.longrunning.Operations/") => "main/operations/none".into(),
        _ => "main".to_owned(),
    };
    // As a StringValue: field 1.
    name.encode_to_vec().into()
}

fn token(name: &str, verbs: &[Verb], on: &[&str]) -> Token {
    let instances = on.iter().map(|name| InstanceName::parse(name).unwrap()).collect::<Vec<_>>();
    let instances = (!instances.is_empty()).then_some(instances);
    Token::new(name, &secret(name), verbs.iter().copied().collect::<Verbs>(), instances)
}

fn secret(name: &str) -> String {
    format!("secret-of-{name}")
}

const CLIENT: &[Verb] = &[Verb::Find, Verb::Read, Verb::Write, Verb::AcRead, Verb::Execute, Verb::AssetFetch];
const WORKER: &[Verb] = &[Verb::Worker, Verb::Find, Verb::Read, Verb::Write];

async fn server() -> TestServer {
    let all: Vec<Verb> = Verb::ALL.into_iter().filter(|verb| *verb != Verb::Worker).collect();
    TestServer::with(|config| {
        config.tokens = vec![
            token("ci", CLIENT, &["main"]),
            token("elsewhere", &Verb::ALL, &["other"]),
            token("scraper", &[Verb::Metrics], &["other"]),
            token("worker", WORKER, &[]),
            token("operator", &all, &[]),
        ];
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn no_call_is_served_without_a_right() {
    let server = server().await;
    let methods = methods();
    assert!(methods.len() > 25, "{methods:?}");
    for (path, message) in &methods {
        for token in [None, Some("guessed")] {
            let refused = call(&server, token, path, message.clone()).await;
            assert_eq!(code(&refused), Code::Unauthenticated, "{path} with {token:?}: {refused:?}");
        }
        let refused = call(&server, Some(&secret("scraper")), path, message.clone()).await;
        let is_served = refused.as_ref().err().is_none_or(|status| status.code() != Code::Unimplemented);
        if is_served {
            assert_eq!(code(&refused), Code::PermissionDenied, "{path}: {refused:?}");
        }
        // Every right, on another instance. Who registers toolchains and who looks at them is no matter of instances.
        let refused = call(&server, Some(&secret("elsewhere")), path, message.clone()).await;
        if is_served && !path.starts_with("/wardian.v1.") {
            assert_eq!(code(&refused), Code::PermissionDenied, "{path}: {refused:?}");
            assert!(refused.unwrap_err().message().contains("\"main\""), "{path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workers_token_gives_no_rights_of_clients_and_the_reverse() {
    let server = server().await;
    for (path, message) in methods() {
        let is_cas = path.contains("ContentAddressableStorage") || path.contains("ByteStream");
        if is_cas || path.contains("LogStream") || path.contains("Capabilities") || path.contains("Workers") {
            continue;
        }
        let refused = call(&server, Some(&secret("worker")), &path, message.clone()).await;
        let expected = [Code::PermissionDenied, Code::Unimplemented];
        assert!(expected.contains(&code(&refused)), "{path}: {refused:?}");
    }
    for method in ["PutToolchain", "RemoveToolchain"] {
        for name in ["ci", "worker", "elsewhere"] {
            let path = format!("/wardian.v1.Toolchains/{method}");
            let refused = call(&server, Some(&secret(name)), &path, Bytes::new()).await;
            assert_eq!(code(&refused), Code::PermissionDenied, "{method} by {name}: {refused:?}");
        }
    }
    let path = "/wardian.v1.Toolchains/RemoveToolchain";
    let unknown = call(&server, Some(&secret("operator")), path, Bytes::new()).await;
    assert_ne!(code(&unknown), Code::PermissionDenied, "{unknown:?}");
}

fn access(server: &TestServer, name: &str) -> Access {
    let url: wardian_server::client::ServerUrl = server.address().to_string().parse().unwrap();
    Access { token: Some(secret(name)), ..url.into() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_with_a_token_does_what_it_may() {
    let server = server().await;
    let main = InstanceName::parse("main").unwrap();
    let client = Client::reach(&access(&server, "ci"), main.clone()).await.unwrap();
    let built = TestAction::new(&["echo", "fine"]).build();
    for (digest, data) in &built.blobs {
        client.store().put(Upload::bytes(*digest, data.clone())).await.unwrap();
    }
    assert_eq!(client.action_result(built.action).await.unwrap(), None);
    let mut execution = client.execute(built.action, false);
    let outcome = loop {
        if let wardian_server::client::Step::Done(outcome) = execution.next().await.unwrap() {
            break outcome;
        }
    };
    assert_eq!(outcome.result.unwrap().exit_code, 0);
    // Its own operations, and nobody else's.
    assert_eq!(client.operations("", 10).await.unwrap().len(), 1);
    let unnamed = Client::reach(&access(&server, "ci"), InstanceName::default()).await.unwrap();
    let refusal = unnamed.operations("", 10).await.unwrap_err().to_string();
    assert!(refusal.contains("PERMISSION_DENIED") && refusal.contains("execute"), "{refusal}");
    let cancelled = Client::reach(&access(&server, "elsewhere"), main).await.unwrap();
    let refusal = cancelled.cancel_operation(&outcome.operation).await.unwrap_err().to_string();
    assert!(refusal.contains("PERMISSION_DENIED"), "{refusal}");
    // Numbers are for those who read numbers.
    assert!(client.stats().await.is_err());
    let scraper = Client::reach(&access(&server, "scraper"), InstanceName::default()).await.unwrap();
    scraper.stats().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn capabilities_say_what_this_caller_may() {
    let server = server().await;
    let ask = async |name: &str, instance: &str| {
        let connection = access(&server, name).connect().await.unwrap();
        let mut client = reapi::capabilities_client::CapabilitiesClient::new(connection);
        let request = reapi::GetCapabilitiesRequest { instance_name: instance.into() };
        client.get_capabilities(request).await.map(|answer| {
            let answer = answer.into_inner();
            let cache = answer.cache_capabilities.unwrap().action_cache_update_capabilities.unwrap();
            (answer.execution_capabilities.unwrap().exec_enabled, cache.update_enabled)
        })
    };
    assert_eq!(ask("ci", "main").await.unwrap(), (true, false));
    assert_eq!(ask("operator", "main").await.unwrap(), (true, true));
    assert_eq!(ask("worker", "").await.unwrap(), (false, false));
    assert_eq!(code(&ask("ci", "").await), Code::PermissionDenied);
}

#[tokio::test(flavor = "multi_thread")]
async fn health_needs_no_token() {
    let server = server().await;
    server.health().check(tonic_health::pb::HealthCheckRequest::default()).await.unwrap();
}
