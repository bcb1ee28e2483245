//! The services beside the API: reflection, health, the page for people.

use futures::stream;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_reflection::pb::{v1, v1alpha};
use wardian_tests::{TestServer, code, soon};

const SERVICES: &[&str] = &[
    "build.bazel.remote.asset.v1.Fetch",
    "build.bazel.remote.asset.v1.Push",
    "build.bazel.remote.execution.v2.ActionCache",
    "build.bazel.remote.execution.v2.Capabilities",
    "build.bazel.remote.execution.v2.ContentAddressableStorage",
    "build.bazel.remote.execution.v2.Execution",
    "build.bazel.remote.logstream.v1.LogStreamService",
    "google.bytestream.ByteStream",
    "google.longrunning.Operations",
    "grpc.health.v1.Health",
    "wardian.v1.Toolchains",
    "wardian.v1.Workers",
];

/// Asks a reflection service of either version for its list of services and for one symbol.
macro_rules! reflect {
    ($version:ident, $server:expr) => {{
        use $version::server_reflection_request::MessageRequest;
        use $version::server_reflection_response::MessageResponse;
        let mut client = $version::server_reflection_client::ServerReflectionClient::new($server.channel());
        let ask = |message| $version::ServerReflectionRequest {
            message_request: Some(message),
            ..Default::default()
        };
        let symbol = "build.bazel.remote.execution.v2.Execution.Execute".to_owned();
        let requests = [
            ask(MessageRequest::ListServices(String::new())),
            ask(MessageRequest::FileContainingSymbol(symbol)),
        ];
        let mut responses = client.server_reflection_info(stream::iter(requests)).await.unwrap().into_inner();
        let mut next =
            async || soon("a response", responses.message()).await.unwrap().unwrap().message_response;
        let Some(MessageResponse::ListServicesResponse(list)) = next().await else { panic!("no list") };
        let Some(MessageResponse::FileDescriptorResponse(file)) = next().await else { panic!("no file") };
        assert!(!file.file_descriptor_proto[0].is_empty());
        list.service.into_iter().map(|service| service.name).collect::<Vec<String>>()
    }};
}

#[tokio::test(flavor = "multi_thread")]
async fn both_versions_of_reflection_list_every_service() {
    let server = TestServer::start().await;
    for listed in [reflect!(v1, server), reflect!(v1alpha, server)] {
        for service in SERVICES {
            assert!(listed.iter().any(|name| name == service), "{service} in {listed:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_service_is_healthy() {
    let server = TestServer::start().await;
    for service in SERVICES.iter().filter(|service| !service.starts_with("grpc.")).chain(&[""]) {
        let request = HealthCheckRequest { service: (*service).to_owned() };
        let response = server.health().check(request).await.unwrap().into_inner();
        assert_eq!(response.status(), ServingStatus::Serving, "{service:?}");
    }
    let request = HealthCheckRequest { service: "no.such.Service".into() };
    assert_eq!(code(&server.health().check(request).await), Code::NotFound);
}

/// Sends one HTTP/1.1 request and returns everything that comes back.
async fn http(server: &TestServer, path: &str) -> String {
    send(server, "GET", path, "").await
}

async fn send(server: &TestServer, method: &str, path: &str, headers: &str) -> String {
    let mut connection = tokio::net::TcpStream::connect(server.address()).await.unwrap();
    let host = server.address();
    let request = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n{headers}Connection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    soon("the page", connection.read_to_string(&mut answer)).await.unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn browsers_get_a_page_on_the_same_port() {
    let server = TestServer::start().await;
    let page = http(&server, "/").await;
    assert!(page.starts_with("HTTP/1.1 200"), "{page}");
    assert!(page.contains("Remote Execution") && page.contains(&server.address().to_string()), "{page}");
    let alive = http(&server, "/healthz").await;
    assert!(alive.starts_with("HTTP/1.1 200") && alive.ends_with("ok\n"), "{alive}");
}

#[tokio::test(flavor = "multi_thread")]
async fn web_pages_cannot_make_a_browser_call_the_services() {
    let server = TestServer::start().await;
    let path = "/build.bazel.remote.execution.v2.Capabilities/GetCapabilities";
    for headers in ["Content-Type: text/plain\r\n", "Content-Type: application/grpc\r\n", ""] {
        let headers = format!("{headers}Content-Length: 0\r\n");
        let answer = send(&server, "POST", path, &headers).await;
        assert!(answer.starts_with("HTTP/1.1 415"), "{headers}{answer}");
    }
    assert!(http(&server, path).await.starts_with("HTTP/1.1 404"));
}
