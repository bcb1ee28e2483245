//! The client side of the API: what `run`, `cas`, `action` and `demo` are made of.
//!
//! Everything goes through gRPC, also when the server runs in the same process. Answers of a server
//! are parsed like requests: a path that leads out of where it belongs never reaches the disk.

mod action_spec;
mod connect;
mod execution;
mod failure;
mod input;
mod output_tree;
mod output_writer;
mod outputs;
mod transfer;

pub use action_spec::{ActionSpec, EncodedAction};
pub use connect::{Access, ClientError, ServerUrl, ServerUrlError};
pub use execution::{Execution, Outcome, Progress, Step};
pub use failure::{Failure, Violation};
pub use input::{InputError, InputLimits, LocalTree};
pub use output_tree::OutputLimits;
pub use output_writer::{OutputError, OutputWriter};
pub use outputs::{DownloadedOutput, OutputKind, download_outputs, logged_bytes};
pub use transfer::{Blobs, Sent, TransferError, fetch_into, upload};

pub(crate) use action_spec::DIGEST_FUNCTION;
pub(crate) use input::hash_file;

use std::future::poll_fn;

use axum::http;
use tonic::codegen::Service as _;
use wardian_proto::wardian::toolchains_client::ToolchainsClient;
use wardian_proto::wardian::workers_client::WorkersClient;
use wardian_proto::{Digest, InstanceName, longrunning, reapi, wardian};
use wardian_store::backend::{Connection, GrpcStore};
use wardian_toolchains::Toolchain;

use crate::stats::{STATS_PATH, Stats};

/// Largest message the client accepts; servers stay below 4 MiB unless results carry large logs inline.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// Largest answer to the question for a server's numbers.
const STATS_BYTES_MAX: usize = 1 << 20;

/// A connection to one instance of a server.
#[derive(Clone)]
pub struct Client {
    connection: Connection,
    instance: InstanceName,
    store: GrpcStore,
}

impl Client {
    /// Connects, so that a server that is not there is noticed here and not later.
    pub async fn connect(url: &ServerUrl, instance: InstanceName) -> Result<Self, ClientError> {
        Self::reach(&url.into(), instance).await
    }

    /// The same with certificates and a token.
    pub async fn reach(access: &Access, instance: InstanceName) -> Result<Self, ClientError> {
        let connection = access.connect().await?;
        let store = GrpcStore::new(connection.clone(), instance.clone(), Default::default());
        Ok(Self { connection, instance, store })
    }

    /// The instance's CAS.
    pub fn store(&self) -> &GrpcStore {
        &self.store
    }

    /// Returns the cached result of an action, if there is one.
    pub async fn action_result(&self, action: Digest) -> Result<Option<reapi::ActionResult>, ClientError> {
        let request = reapi::GetActionResultRequest {
            instance_name: self.instance.as_str().to_owned(),
            action_digest: Some(action.to_wire()),
            digest_function: action.function().wire().into(),
            ..Default::default()
        };
        let mut cache = reapi::action_cache_client::ActionCacheClient::new(self.connection.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX);
        match cache.get_action_result(request).await {
            Ok(response) => Ok(Some(response.into_inner())),
            Err(status) if status.code() == tonic::Code::NotFound => Ok(None),
            Err(status) => Err(ClientError::call("GetActionResult", status)),
        }
    }

    /// Lists the operations of the instance that can be asked for and pass a filter, `count` at the most.
    pub async fn operations(
        &self,
        filter: &str,
        count: usize,
    ) -> Result<Vec<longrunning::Operation>, ClientError> {
        let mut client = longrunning::operations_client::OperationsClient::new(self.connection.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX);
        let mut request = longrunning::ListOperationsRequest {
            name: format!("{}operations", self.instance.prefix()),
            filter: filter.to_owned(),
            ..Default::default()
        };
        let mut operations = Vec::new();
        loop {
            let page = client.list_operations(request.clone()).await;
            let page = page.map_err(|status| ClientError::call("ListOperations", status))?.into_inner();
            operations.extend(page.operations);
            // A server that says the same for ever is asked no more.
            if page.next_page_token <= request.page_token || operations.len() >= count {
                operations.truncate(count);
                return Ok(operations);
            }
            request.page_token = page.next_page_token;
        }
    }

    /// Asks the server to stop an operation.
    pub async fn cancel_operation(&self, name: &str) -> Result<(), ClientError> {
        let mut client = longrunning::operations_client::OperationsClient::new(self.connection.clone());
        let request = longrunning::CancelOperationRequest { name: name.to_owned() };
        let cancelled = client.cancel_operation(request).await;
        cancelled.map(|_| ()).map_err(|status| ClientError::call("CancelOperation", status))
    }

    /// Reads the numbers of the server.
    pub async fn stats(&self) -> Result<Stats, ClientError> {
        let answer = |text: String| ClientError::Answer(format!("GET {STATS_PATH}: {text}"));
        let request = http::Request::get(STATS_PATH).body(tonic::body::Body::empty());
        let mut connection = self.connection.clone();
        poll_fn(|context| connection.poll_ready(context)).await.map_err(|error| answer(error.to_string()))?;
        let response = connection.call(request.expect("a plain request")).await;
        let response = response.map_err(|error| answer(error.to_string()))?;
        let status = response.status();
        let body = axum::body::to_bytes(axum::body::Body::new(response.into_body()), STATS_BYTES_MAX).await;
        let body = body.map_err(|error| answer(error.to_string()))?;
        if !status.is_success() {
            return Err(answer(status.to_string()));
        }
        serde_json::from_slice(&body).map_err(|error| answer(error.to_string()))
    }

    /// Every toolchain that the server knows by name.
    pub async fn toolchains(&self) -> Result<Vec<Toolchain>, ClientError> {
        let (mut service, mut toolchains) = (self.toolchains_service(), Vec::new());
        let mut request = wardian::ListToolchainsRequest::default();
        loop {
            let page = service.list_toolchains(request.clone()).await;
            let page = page.map_err(|status| ClientError::call("ListToolchains", status))?.into_inner();
            for wire in page.toolchains {
                toolchains.push(parsed(wire)?);
            }
            // A server that says the same for ever is asked no more.
            if page.next_page_token <= request.page_token {
                return Ok(toolchains);
            }
            request.page_token = page.next_page_token;
        }
    }

    /// The toolchain that a name means; `None` when there is none.
    pub async fn toolchain(&self, name: &str) -> Result<Option<Toolchain>, ClientError> {
        let request = wardian::GetToolchainRequest { name: name.to_owned() };
        match self.toolchains_service().get_toolchain(request).await {
            Ok(found) => parsed(found.into_inner()).map(Some),
            Err(status) if status.code() == tonic::Code::NotFound => Ok(None),
            Err(status) => Err(ClientError::call("GetToolchain", status)),
        }
    }

    /// Registers a toolchain whose tree is stored.
    pub async fn put_toolchain(&self, toolchain: &Toolchain) -> Result<Toolchain, ClientError> {
        let request = wardian::PutToolchainRequest { toolchain: Some(toolchain.to_wire()) };
        let put = self.toolchains_service().put_toolchain(request).await;
        parsed(put.map_err(|status| ClientError::call("PutToolchain", status))?.into_inner())
    }

    /// Has the server forget a toolchain.
    pub async fn remove_toolchain(&self, name: &str, version: &str) -> Result<(), ClientError> {
        let (name, version) = (name.to_owned(), version.to_owned());
        let request = wardian::RemoveToolchainRequest { name, version };
        self.toolchains_service()
            .remove_toolchain(request)
            .await
            .map(drop)
            .map_err(|status| ClientError::call("RemoveToolchain", status))
    }

    /// Every worker of the server.
    pub async fn workers(&self) -> Result<Vec<wardian::WorkerState>, ClientError> {
        let listed = self.workers_service().list_workers(wardian::ListWorkersRequest {}).await;
        Ok(listed.map_err(|status| ClientError::call("ListWorkers", status))?.into_inner().workers)
    }

    /// Tells a worker what to do.
    pub async fn set_worker(
        &self,
        name: &str,
        change: wardian::set_worker_request::Change,
    ) -> Result<(), ClientError> {
        let request = wardian::SetWorkerRequest { name: name.to_owned(), change: change.into() };
        let set = self.workers_service().set_worker(request).await;
        set.map(drop).map_err(|status| ClientError::call("SetWorker", status))
    }

    fn workers_service(&self) -> WorkersClient<Connection> {
        WorkersClient::new(self.connection.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    fn toolchains_service(&self) -> ToolchainsClient<Connection> {
        ToolchainsClient::new(self.connection.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Starts an action whose blobs are stored.
    pub fn execute(&self, action: Digest, skip_cache_lookup: bool) -> Execution {
        let request = reapi::ExecuteRequest {
            instance_name: self.instance.as_str().to_owned(),
            action_digest: Some(action.to_wire()),
            digest_function: action.function().wire().into(),
            skip_cache_lookup,
            inline_stdout: true,
            inline_stderr: true,
            ..Default::default()
        };
        Execution::new(self.connection.clone(), request)
    }
}

fn parsed(wire: wardian::Toolchain) -> Result<Toolchain, ClientError> {
    Toolchain::from_wire(wire).map_err(|error| ClientError::Answer(error.to_string()))
}
