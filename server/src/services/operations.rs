//! Operations: look at, list, cancel and forget what Execute started.

use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use tonic::{Request, Response, Status};
use wardian_proto::InstanceName;
use wardian_proto::longrunning::{
    CancelOperationRequest, DeleteOperationRequest, GetOperationRequest, ListOperationsRequest,
    ListOperationsResponse, Operation, WaitOperationRequest,
};
use wardian_scheduler::{OperationName, Stage};

use super::execution::{describe, find, own_operation, unknown_operation};
use super::operation_filter::Filter;
use super::{Context, REPLY_BYTES_MAX};
use crate::auth::{Caller, Verb};
use crate::instance::Instance;

/// Operations in one page of a listing.
const PAGE_OPERATIONS_MAX: usize = 500;

/// Operations that one call with a filter looks at. A page may be empty and have a successor all the same.
const LOOKED_AT_MAX: usize = 10_000;

/// Longest time that one WaitOperation call waits.
const WAIT_MAX: Duration = Duration::from_secs(60);

pub(super) struct Operations(pub(super) Arc<Context>);

impl Context {
    /// The instance whose operations somebody wants to see.
    fn instance_of_operations(&self, caller: &Caller, name: &str) -> Result<&Instance, Status> {
        let admin = InstanceName::parse(name).is_ok_and(|name| caller.may(Verb::Admin, &name));
        self.instance(caller, if admin { Verb::Admin } else { Verb::Execute }, name)
    }
}

#[tonic::async_trait]
impl wardian_proto::longrunning::operations_server::Operations for Operations {
    async fn list_operations(
        &self,
        request: Request<ListOperationsRequest>,
    ) -> Result<Response<ListOperationsResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        if request.return_partial_success {
            return Err(Status::unimplemented("return_partial_success is not supported"));
        }
        let filter = Filter::parse(&request.filter).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let collection = request.name.trim_end_matches('/');
        let instance = match collection.strip_suffix("operations") {
            Some(prefix) => prefix.strip_suffix('/').unwrap_or(prefix),
            None => collection,
        };
        let instance = self.0.instance_of_operations(&caller, instance)?;
        let size = match usize::try_from(request.page_size) {
            Err(_) => return Err(Status::invalid_argument("page_size is negative")),
            Ok(0) => PAGE_OPERATIONS_MAX,
            Ok(size) => size.min(PAGE_OPERATIONS_MAX),
        };
        let after = (!request.page_token.is_empty()).then(|| OperationName::from_client(&request.page_token));
        // With a filter many may be looked at for each that is listed.
        let looked_at_max = if filter.is_empty() { size } else { LOOKED_AT_MAX.max(size) };
        let names = self.0.queue.list(&instance.name, after.as_ref(), looked_at_max);
        let mut more = names.len() == looked_at_max;
        let mut bytes = 0;
        let mut last = None;
        let mut operations = Vec::new();
        for name in names {
            if operations.len() == size {
                more = true;
                break;
            }
            // One may have been forgotten since it was listed.
            let operation = self.0.queue.operation(&name);
            // Its own statement: while the view is borrowed nobody may ask the queue for anything.
            let view = operation.map(|operation| operation.views.borrow().clone());
            let Some(view) = view.filter(|view| filter.passes(view)) else {
                last = Some(name);
                continue;
            };
            let described = describe(&self.0, &name, &view);
            bytes += described.encoded_len();
            if bytes > REPLY_BYTES_MAX && !operations.is_empty() {
                more = true;
                break;
            }
            operations.push(described);
            last = Some(name);
        }
        let next_page_token = last.filter(|_| more).map(|name| name.to_string()).unwrap_or_default();
        Ok(Response::new(ListOperationsResponse { operations, next_page_token, ..Default::default() }))
    }

    async fn get_operation(
        &self,
        request: Request<GetOperationRequest>,
    ) -> Result<Response<Operation>, Status> {
        let operation = find(&self.0, &Caller::of(&request)?, &request.get_ref().name)?;
        let view = operation.views.borrow().clone();
        Ok(Response::new(describe(&self.0, &operation.name, &view)))
    }

    async fn delete_operation(
        &self,
        request: Request<DeleteOperationRequest>,
    ) -> Result<Response<()>, Status> {
        let name = own_operation(&Caller::of(&request)?, &request.get_ref().name)?;
        if self.0.queue.delete(&name) { Ok(Response::new(())) } else { Err(unknown_operation(name.as_str())) }
    }

    async fn cancel_operation(
        &self,
        request: Request<CancelOperationRequest>,
    ) -> Result<Response<()>, Status> {
        let name = own_operation(&Caller::of(&request)?, &request.get_ref().name)?;
        if self.0.queue.cancel(&name) { Ok(Response::new(())) } else { Err(unknown_operation(name.as_str())) }
    }

    async fn wait_operation(
        &self,
        request: Request<WaitOperationRequest>,
    ) -> Result<Response<Operation>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let timeout = match request.timeout {
            Some(timeout) => Duration::try_from(timeout)
                .map_err(|_| Status::invalid_argument("timeout is negative"))?
                .min(WAIT_MAX),
            None => WAIT_MAX,
        };
        let mut operation = find(&self.0, &caller, &request.name)?;
        let ended = operation.views.wait_for(|view| matches!(view.stage, Stage::Completed(_)));
        // Not ended in time, or deleted meanwhile: the last state is the answer.
        let _ = tokio::time::timeout(timeout, ended).await.map(drop);
        let view = operation.views.borrow().clone();
        Ok(Response::new(describe(&self.0, &operation.name, &view)))
    }
}
