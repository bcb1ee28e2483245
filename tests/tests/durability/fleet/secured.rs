//! Workers over TLS, each with a token of its own, in real processes.

use std::path::Path;

use tonic::Code;
use wardian_proto::InstanceName;
use wardian_proto::wardian::set_worker_request::Change;
use wardian_proto::wardian::workers_client::WorkersClient;
use wardian_server::client::{Access, Client, ServerUrl, Step};
use wardian_store::{BlobStore as _, Upload};
use wardian_tests::{Built, TestAction, make_certificates, until, wait_until};

use super::Fleet;

const ROLES: [&str; 3] = ["client", "worker", "admin"];

/// A server with TLS and a token for each role, in files called like the roles.
fn secured() -> Fleet {
    let folder = tempfile::tempdir().unwrap();
    make_certificates(folder.path(), "server");
    let path = |file: &str| folder.path().join(file);
    let mut settings = format!(
        "{}[tls]\ncertificate = {:?}\nkey = {:?}\n",
        super::SETTINGS,
        path("server.pem"),
        path("server.key")
    );
    for role in ROLES {
        std::fs::write(path(role), format!("the-token-of-the-{role}")).unwrap();
        settings += &format!("[[auth.tokens]]\nname = {role:?}\nfile = {:?}\nrole = {role:?}\n", path(role));
    }
    Fleet::on(folder, &settings)
}

fn access(fleet: &Fleet, role: &str) -> Access {
    let url: ServerUrl = format!("grpcs://{}", fleet.server.address).parse().unwrap();
    let token = std::fs::read_to_string(fleet.path(role)).unwrap();
    Access { tls_ca: Some(fleet.path("server-ca.pem")), token: Some(token), ..url.into() }
}

async fn client(fleet: &Fleet, role: &str) -> Client {
    Client::reach(&access(fleet, role), InstanceName::default()).await.unwrap()
}

fn add_worker(fleet: &mut Fleet, name: &str, role: &str) {
    let (ca, token) = (fleet.path("server-ca.pem"), fleet.path(role));
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let url = format!("grpcs://{}", fleet.server.address);
    let args = ["--server", &url, "--tls-ca", &text(&ca), "--token-file", &text(&token)];
    fleet.add_worker_with(name, &args);
}

/// Runs an action as its client does; the name of the worker, or what was refused.
async fn run(client: &Client, built: &Built) -> Result<String, String> {
    for (digest, data) in &built.blobs {
        let put = client.store().put(Upload::bytes(*digest, data.clone())).await;
        put.map_err(|error| error.to_string())?;
    }
    let mut execution = client.execute(built.action, false);
    loop {
        if let Step::Done(outcome) = execution.next().await.map_err(|error| error.to_string())? {
            let result = outcome.result.expect("it has run");
            assert_eq!(result.exit_code, 0);
            return Ok(result.execution_metadata.unwrap_or_default().worker);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_with_its_token_works_over_tls_and_nobody_else_does() {
    let mut fleet = secured();
    let operator = client(&fleet, "admin").await;
    for role in ["client", "admin"] {
        add_worker(&mut fleet, &format!("with-a-token-of-the-{role}"), role);
        let mut refused = fleet.workers.pop().unwrap();
        until("it has ended", || refused.process.ended().is_some()).await;
        assert!(!refused.process.ended().unwrap().success(), "a token of the role {role} is for no worker");
        assert!(operator.workers().await.unwrap().is_empty());
    }
    add_worker(&mut fleet, "w0", "worker");
    wait_until("it is connected", async || operator.workers().await.unwrap().iter().any(|w| w.connected))
        .await;

    let (as_client, as_worker) = (client(&fleet, "client").await, client(&fleet, "worker").await);
    let native = TestAction::new(&["sh", "-c", "cat in > out"]).file("in", "x").outputs(&["out"]).build();
    assert!(run(&as_client, &native).await.unwrap().starts_with("w0/"));
    assert!(run(&as_client, &TestAction::wasm("hello", &[]).build()).await.unwrap().starts_with("w0/"));

    // A worker's token gives no rights of clients or operators.
    let other = TestAction::new(&["echo", "other"]).build();
    let refusal = run(&as_worker, &other).await.unwrap_err();
    assert!(refusal.contains("PERMISSION_DENIED") && refusal.contains("execute"), "{refusal}");
    assert!(as_worker.action_result(native.action).await.is_err());
    for refused in [&as_worker, &as_client] {
        assert!(refused.workers().await.is_err());
        assert!(refused.set_worker("w0", Change::Pause).await.is_err());
    }
    // Nor a client's or an operator's those of a worker.
    for role in ["client", "admin"] {
        let mut workers = WorkersClient::new(access(&fleet, role).connect().await.unwrap());
        let refusal = workers.work(futures::stream::pending()).await.map(drop).unwrap_err();
        assert_eq!(refusal.code(), Code::PermissionDenied, "{role}");
    }
    operator.set_worker("w0", Change::Drain).await.unwrap();
    until("it has ended", || fleet.workers[0].process.ended().is_some()).await;
}
