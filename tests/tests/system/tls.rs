//! TLS on the port, and what a server that is open to a network asks for.

use std::path::PathBuf;

use tempfile::TempDir;
use wardian_proto::InstanceName;
use wardian_server::app::Server;
use wardian_server::auth::{Token, Verbs};
use wardian_server::client::{Access, Client, ServerUrl};
use wardian_server::config::Config;
use wardian_server::tls::TlsSettings;
use wardian_store::{BlobStore as _, Upload};
use wardian_tests::{digest, make_certificates};

fn config(folder: &TempDir) -> Config {
    let path = |file: &str| folder.path().join(file);
    let tls = TlsSettings { certificate: path("server.pem"), key: path("server.key"), client_ca: None };
    Config {
        listen: ([127, 0, 0, 1], 0).into(),
        data: path("data"),
        tls: Some(tls),
        tokens: vec![Token::new("all", "the-token", Verbs::all(), None)],
        ..Config::default()
    }
}

fn access(server: &Server, scheme: &str, authority: Option<PathBuf>) -> Access {
    let url: ServerUrl = format!("{scheme}://{}", server.address()).parse().unwrap();
    Access { tls_ca: authority, token: Some("the-token".into()), ..url.into() }
}

async fn round_trip(access: &Access) -> Result<(), String> {
    let client = Client::reach(access, InstanceName::default()).await.map_err(|error| error.to_string())?;
    let blob = digest(b"over TLS");
    let put = client.store().put(Upload::bytes(blob, "over TLS")).await;
    put.map_err(|error| error.to_string())?;
    assert_eq!(client.store().get(&blob, 100).await.unwrap(), "over TLS");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_knows_the_authority_comes_through_and_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    make_certificates(folder.path(), "server");
    make_certificates(folder.path(), "stranger");
    let server = Server::start(config(&folder)).await.unwrap();
    let ca = |name: &str| Some(folder.path().join(format!("{name}-ca.pem")));
    round_trip(&access(&server, "grpcs", ca("server"))).await.unwrap();
    let refusal = round_trip(&access(&server, "grpcs", ca("stranger"))).await.unwrap_err();
    assert!(refusal.contains("certificate"), "{refusal}");
    round_trip(&access(&server, "grpc", None)).await.unwrap_err();
    let wrong = Access { token: Some("another".into()), ..access(&server, "grpcs", ca("server")) };
    let refusal = round_trip(&wrong).await.unwrap_err();
    assert!(refusal.contains("token"), "{refusal}");
    // New certificates are for new connections; broken ones change nothing.
    for (from, to) in [("stranger.pem", "server.pem"), ("stranger.key", "server.key")] {
        std::fs::copy(folder.path().join(from), folder.path().join(to)).unwrap();
    }
    assert!(server.reload_certificates().unwrap());
    round_trip(&access(&server, "grpcs", ca("stranger"))).await.unwrap();
    round_trip(&access(&server, "grpcs", ca("server"))).await.unwrap_err();
    std::fs::write(folder.path().join("server.pem"), "nonsense").unwrap();
    server.reload_certificates().unwrap_err();
    round_trip(&access(&server, "grpcs", ca("stranger"))).await.unwrap();
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_may_ask_clients_for_certificates() {
    let folder = tempfile::tempdir().unwrap();
    make_certificates(folder.path(), "server");
    make_certificates(folder.path(), "client");
    let path = |file: &str| folder.path().join(file);
    let mut config = config(&folder);
    config.tls.as_mut().unwrap().client_ca = Some(path("client-ca.pem"));
    let server = Server::start(config).await.unwrap();
    let without = access(&server, "grpcs", Some(path("server-ca.pem")));
    round_trip(&without).await.unwrap_err();
    let by = |name: &str| Access {
        tls_identity: Some((path(&format!("{name}.pem")), path(&format!("{name}.key")))),
        ..without.clone()
    };
    round_trip(&by("server")).await.unwrap_err();
    round_trip(&by("client")).await.unwrap();
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_client_holds_up_nobody() {
    let folder = tempfile::tempdir().unwrap();
    make_certificates(folder.path(), "server");
    let server = Server::start(config(&folder)).await.unwrap();
    let silent: Vec<_> = (0..20).map(|_| std::net::TcpStream::connect(server.address()).unwrap()).collect();
    round_trip(&access(&server, "grpcs", Some(folder.path().join("server-ca.pem")))).await.unwrap();
    drop(silent);
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_without_tls_or_tokens_is_refused_before_anything_starts() {
    let folder = tempfile::tempdir().unwrap();
    let mut config =
        Config { listen: ([0, 0, 0, 0], 0).into(), data: folder.path().join("data"), ..Config::default() };
    let refusal = Server::start(config.clone()).await.map(drop).unwrap_err().to_string();
    assert!(refusal.contains("--insecure") && refusal.contains("TLS"), "{refusal}");
    assert!(!config.data.exists());
    config.insecure = true;
    Server::start(config).await.unwrap().shutdown().await.unwrap();
}
