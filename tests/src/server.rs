//! A real server in this process, and a client's way to it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};
use wardian_proto::bytestream::byte_stream_client::ByteStreamClient;
use wardian_proto::longrunning::operations_client::OperationsClient;
use wardian_proto::reapi::action_cache_client::ActionCacheClient;
use wardian_proto::reapi::capabilities_client::CapabilitiesClient;
use wardian_proto::reapi::content_addressable_storage_client::ContentAddressableStorageClient;
use wardian_proto::reapi::execution_client::ExecutionClient;
use wardian_proto::{Digest, InstanceName, reapi};
use wardian_runtime::SandboxMode;
use wardian_server::app::Server;
use wardian_server::client::Client;
use wardian_server::config::Config;
use wardian_server::stats::Stats;
use wardian_store::backend::{GrpcStore, GrpcStoreLimits};
use wardian_store::{BlobStore, Upload};

use crate::{Built, Ended, Following, Refusal, TestAction, soon, until};

/// A running server with a folder of its own. It is shut down when this is dropped.
pub struct TestServer {
    server: Option<Server>,
    folder: Option<TempDir>,
    address: SocketAddr,
    channel: Channel,
}

impl TestServer {
    /// Starts a server with two slots and defaults.
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// Starts a server with some settings changed.
    pub async fn with(configure: impl FnOnce(&mut Config)) -> Self {
        Self::on(tempfile::tempdir().expect("a folder for the test"), configure).await
    }

    /// Starts a server on a folder that may hold the data of an earlier one.
    pub async fn on(folder: TempDir, configure: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            data: folder.path().join("data"),
            ..Config::default()
        };
        config.worker.slots = 2;
        config.worker.compile.program = wardian();
        // So that actions can tell a test how far they are, through files of the machine.
        config.worker.sandbox.mode = SandboxMode::None;
        configure(&mut config);
        let server = Server::start(config).await.expect("the server starts");
        let address = server.address();
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address is a URI");
        let channel = endpoint.connect().await.expect("the server accepts connections");
        Self { server: Some(server), folder: Some(folder), address, channel }
    }

    /// Shuts down and returns the folder.
    pub async fn shutdown(mut self) -> TempDir {
        let server = self.server.take().expect("taken only here and when dropped");
        server.shutdown().await.expect("the server shuts down");
        self.folder.take().expect("taken only here")
    }

    /// Takes the server out, to be shut down while calls go on.
    pub fn take_server(&mut self) -> Server {
        self.server.take().expect("not taken before")
    }

    /// The address of the port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A folder of the test's own; the server's data folder is `data` in it.
    pub fn folder(&self) -> &Path {
        self.folder.as_ref().expect("there until the shutdown").path()
    }

    /// The folder in which the worker stages input roots.
    pub fn staged(&self) -> PathBuf {
        self.folder().join("data/worker/staged")
    }

    /// The folder in which the worker keeps compiled modules.
    pub fn compiled(&self) -> PathBuf {
        self.folder().join("data/worker/compiled")
    }

    /// A connection.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Client of the CAS.
    pub fn cas(&self) -> ContentAddressableStorageClient<Channel> {
        ContentAddressableStorageClient::new(self.channel())
    }

    /// Client of ByteStream.
    pub fn byte_stream(&self) -> ByteStreamClient<Channel> {
        ByteStreamClient::new(self.channel())
    }

    /// Client of the action cache.
    pub fn action_cache(&self) -> ActionCacheClient<Channel> {
        ActionCacheClient::new(self.channel())
    }

    /// Client of Execution.
    pub fn execution(&self) -> ExecutionClient<Channel> {
        ExecutionClient::new(self.channel())
    }

    /// Client of Operations.
    pub fn operations(&self) -> OperationsClient<Channel> {
        OperationsClient::new(self.channel())
    }

    /// Client of Capabilities.
    pub fn capabilities(&self) -> CapabilitiesClient<Channel> {
        CapabilitiesClient::new(self.channel())
    }

    /// Client of the health service.
    pub fn health(&self) -> HealthClient<Channel> {
        HealthClient::new(self.channel())
    }

    /// The server's numbers.
    pub async fn stats(&self) -> Stats {
        let url = self.address.to_string().parse().expect("an address is a URL");
        let client = Client::connect(&url, InstanceName::default()).await.expect("the server accepts");
        client.stats().await.expect("numbers come back")
    }

    /// The CAS as a store.
    pub fn store(&self) -> GrpcStore {
        GrpcStore::new(self.channel(), InstanceName::default(), GrpcStoreLimits::default())
    }

    /// Uploads a blob and returns its digest.
    pub async fn put(&self, data: impl Into<Bytes>) -> Digest {
        let data = data.into();
        let digest = crate::digest(&data);
        self.store().put(Upload::bytes(digest, data)).await.expect("an upload succeeds");
        digest
    }

    /// Uploads blobs.
    pub async fn put_all(&self, blobs: &[(Digest, Bytes)]) {
        let uploads = blobs.iter().map(|(digest, data)| Upload::bytes(*digest, data.clone())).collect();
        for outcome in self.store().put_batch(uploads).await {
            outcome.expect("an upload succeeds");
        }
    }

    /// Reads a blob that a result names.
    #[track_caller]
    pub fn get(&self, digest: Option<&reapi::Digest>) -> impl Future<Output = Bytes> {
        let digest = Digest::from_wire(wardian_proto::DigestFunction::Sha256, digest).expect("a digest");
        let store = self.store();
        async move { store.get(&digest, u64::MAX).await.expect("the blob is stored") }
    }

    /// Whether a blob is stored.
    pub async fn has(&self, digest: Digest) -> bool {
        self.store().find_missing(&[digest]).await.expect("a look-up succeeds").is_empty()
    }

    /// Standard output and standard error of a result, as text.
    pub async fn streams(&self, ended: &Ended) -> (String, String) {
        let result = ended.result();
        let stdout = self.get(result.stdout_digest.as_ref()).await;
        let stderr = self.get(result.stderr_digest.as_ref()).await;
        (String::from_utf8_lossy(&stdout).into(), String::from_utf8_lossy(&stderr).into())
    }

    /// Builds an action and uploads everything it needs.
    pub async fn upload(&self, action: TestAction) -> Built {
        let built = action.build();
        self.put_all(&built.blobs).await;
        built
    }

    /// Sends a request to Execute.
    pub async fn follow(&self, request: reapi::ExecuteRequest) -> Result<Following, Status> {
        let stream = self.execution().execute(request).await?.into_inner();
        Ok(Following::new(stream))
    }

    /// Begins to follow an operation.
    pub async fn wait_execution(&self, name: &str) -> Result<Following, Status> {
        let request = reapi::WaitExecutionRequest { name: name.into() };
        Ok(Following::new(self.execution().wait_execution(request).await?.into_inner()))
    }

    /// Uploads an action and sends it off.
    pub async fn begin(&self, action: TestAction) -> Following {
        let built = self.upload(action).await;
        self.follow(built.request()).await.expect("the action is taken in")
    }

    /// Executes an action that is uploaded already, whatever comes of it.
    pub async fn execute(&self, built: &Built) -> Ended {
        let following = self.follow(built.request()).await.expect("the action is taken in");
        following.ended().await.expect("the stream comes to its end")
    }

    /// Runs an action to its end, whatever comes of it.
    pub async fn run(&self, action: TestAction) -> Ended {
        self.execute(&self.upload(action).await).await
    }

    /// Runs an action that must finish with exit code 0.
    pub async fn succeed(&self, action: TestAction) -> Ended {
        let ended = self.run(action).await;
        assert_eq!(ended.refusal(), None);
        let (stdout, stderr) = self.streams(&ended).await;
        assert_eq!(ended.result().exit_code, 0, "stdout {stdout:?}, stderr {stderr:?}");
        ended
    }

    /// Runs an action that must not finish: refused by the call, or failed in its response.
    pub async fn refused(&self, action: TestAction) -> Refusal {
        self.refusal_of(&self.upload(action).await).await
    }

    /// Executes an action, uploaded as far as the test wants it, that must not finish.
    pub async fn refusal_of(&self, built: &Built) -> Refusal {
        match self.follow(built.request()).await {
            Err(status) => Refusal::of_call(&status),
            Ok(following) => {
                let ended = following.ended().await.expect("the stream comes to its end");
                ended.refusal().unwrap_or_else(|| panic!("the action finished: {:?}", ended.response))
            }
        }
    }

    /// Checks that calls are served and actions run.
    pub async fn assert_serving(&self) {
        let health = self.health().check(HealthCheckRequest::default()).await.expect("health answers");
        assert_eq!(health.into_inner().status(), ServingStatus::Serving);
        let ended = self.succeed(TestAction::new(&["echo", "fine"]).do_not_cache()).await;
        assert_eq!(self.streams(&ended).await.0, "fine\n");
    }

    /// Checks that what came before did no harm: calls are served, actions run, nothing is left over.
    pub async fn assert_unharmed(&self) {
        self.assert_serving().await;
        let incoming = self.folder().join("data/store/incoming");
        until("no staged input root is left", || is_empty(&self.staged())).await;
        until("no part of an upload is left", || is_empty(&incoming)).await;
    }
}

/// The server's program, built with the tests: modules are compiled by a child that runs it.
pub fn wardian() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows where it is");
    // target/release/deps/system-HASH, or a program of ours in target/release
    let mut near = test.ancestors().skip(1).take(2).map(|folder| folder.join("wardian-under-test"));
    near.find(|program| program.exists())
        .expect("`cargo build --release --workspace` makes wardian-under-test")
}

fn is_empty(folder: &Path) -> bool {
    std::fs::read_dir(folder).expect("the server's folders exist").next().is_none()
}

impl Drop for TestServer {
    fn drop(&mut self) {
        let Some(server) = self.server.take() else { return };
        let shutdown = async {
            // A test that failed has its own story to tell; this one would hide it.
            let _ = server.shutdown().await;
        };
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(shutdown));
    }
}

/// The code of an outcome.
pub fn code<T>(outcome: &Result<T, Status>) -> Code {
    outcome.as_ref().err().map_or(Code::Ok, Status::code)
}

/// The answer to a plain GET, head and body, as a scraper asks.
pub async fn get(address: SocketAddr, path: &str) -> String {
    let mut connection =
        tokio::net::TcpStream::connect(address).await.expect("the server accepts connections");
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).await.expect("the request goes out");
    let mut answer = String::new();
    soon("an answer", connection.read_to_string(&mut answer)).await.expect("an answer in UTF-8");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    answer
}
