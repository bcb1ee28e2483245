//! Workers: those in processes of their own connect here, and the operator looks after them.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use wardian_proto::wardian;
use wardian_proto::wardian::workers_server::WorkersServer;

use super::Context;
use crate::auth::Caller;
use crate::fleet::{self, ORDERS_WAITING_MAX};

/// Largest report of a worker. A result names every output, and the largest that a worker reports leaves room for what
/// else is in the message.
pub(crate) const REPORT_BYTES_MAX: usize = 48 << 20;

pub(super) struct Workers(Arc<Context>);

/// The service as it is registered.
pub(super) fn service(context: Arc<Context>) -> WorkersServer<Workers> {
    WorkersServer::new(Workers(context)).max_decoding_message_size(REPORT_BYTES_MAX)
}

#[tonic::async_trait]
impl wardian::workers_server::Workers for Workers {
    type WorkStream = ReceiverStream<Result<wardian::WorkerOrders, Status>>;

    async fn work(
        &self,
        request: Request<Streaming<wardian::WorkerReport>>,
    ) -> Result<Response<Self::WorkStream>, Status> {
        if self.0.queue.is_shutting_down() {
            return Err(Status::unavailable("the server is shutting down"));
        }
        let address = request.remote_addr();
        let (sender, orders) = mpsc::channel(ORDERS_WAITING_MAX);
        tokio::spawn(fleet::serve(self.0.fleet.clone(), request.into_inner(), sender, address));
        Ok(Response::new(ReceiverStream::new(orders)))
    }

    async fn list_workers(
        &self,
        _: Request<wardian::ListWorkersRequest>,
    ) -> Result<Response<wardian::ListWorkersResponse>, Status> {
        Ok(Response::new(wardian::ListWorkersResponse { workers: self.0.fleet.list() }))
    }

    async fn set_worker(
        &self,
        request: Request<wardian::SetWorkerRequest>,
    ) -> Result<Response<wardian::SetWorkerResponse>, Status> {
        Caller::of(&request)?.check_operates("what workers do")?;
        let request = request.into_inner();
        self.0.fleet.set(&request.name, request.change())?;
        tracing::info!(worker = request.name, change = request.change().as_str_name(), "told a worker");
        Ok(Response::new(wardian::SetWorkerResponse {}))
    }
}
