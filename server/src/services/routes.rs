//! Every service on one router, with reflection and health beside them.

use std::sync::Arc;

use tonic::service::Routes;
use tonic_health::server::HealthReporter;
use wardian_proto::asset::fetch_server::FetchServer;
use wardian_proto::asset::push_server::PushServer;
use wardian_proto::bytestream::byte_stream_server::ByteStreamServer;
use wardian_proto::logstream::log_stream_service_server::LogStreamServiceServer;
use wardian_proto::longrunning::operations_server::OperationsServer;
use wardian_proto::reapi::action_cache_server::ActionCacheServer;
use wardian_proto::reapi::capabilities_server::CapabilitiesServer;
use wardian_proto::reapi::content_addressable_storage_server::ContentAddressableStorageServer;
use wardian_proto::reapi::execution_server::ExecutionServer;
use wardian_proto::wardian::toolchains_server::ToolchainsServer;

use super::{Context, MESSAGE_BYTES_MAX, PIECE_MESSAGE_BYTES_MAX};

/// Full names of the services that are served, as health and reflection list them.
pub(crate) const SERVED: &[&str] = &[
    "build.bazel.remote.asset.v1.Fetch",
    "build.bazel.remote.asset.v1.Push",
    "build.bazel.remote.execution.v2.ActionCache",
    "build.bazel.remote.execution.v2.Capabilities",
    "build.bazel.remote.execution.v2.ContentAddressableStorage",
    "build.bazel.remote.execution.v2.Execution",
    "build.bazel.remote.logstream.v1.LogStreamService",
    "google.bytestream.ByteStream",
    "google.longrunning.Operations",
    "wardian.v1.Toolchains",
    "wardian.v1.Workers",
];

/// Builds the router. Paths of services that are not offered answer UNIMPLEMENTED.
pub(crate) async fn routes(context: Arc<Context>, health: HealthReporter) -> anyhow::Result<axum::Router> {
    let (execution, cas) = (super::execution::Execution(context.clone()), super::cas::Cas(context.clone()));
    let action_cache = super::action_cache::ActionCache(context.clone());
    let byte_stream = super::byte_stream::ByteStream(context.clone());
    let capabilities = super::capabilities::Capabilities(context.clone());
    let toolchains = super::toolchains::Toolchains(context.clone());
    let (fetch, push) = (super::asset::Assets(context.clone()), super::asset::Assets(context.clone()));
    let log_stream = super::log_stream::LogStreams(context.clone());
    let workers = super::workers::service(context.clone());
    let operations = super::operations::Operations(context);
    let mut routes = Routes::builder();
    routes
        .add_service(ExecutionServer::new(execution).max_decoding_message_size(MESSAGE_BYTES_MAX))
        .add_service(ContentAddressableStorageServer::new(cas).max_decoding_message_size(MESSAGE_BYTES_MAX))
        .add_service(ActionCacheServer::new(action_cache).max_decoding_message_size(MESSAGE_BYTES_MAX))
        .add_service(ByteStreamServer::new(byte_stream).max_decoding_message_size(PIECE_MESSAGE_BYTES_MAX))
        .add_service(FetchServer::new(fetch))
        .add_service(PushServer::new(push))
        .add_service(CapabilitiesServer::new(capabilities))
        .add_service(OperationsServer::new(operations))
        .add_service(ToolchainsServer::new(toolchains))
        .add_service(workers)
        .add_service(LogStreamServiceServer::new(log_stream))
        .add_service(tonic_health::pb::health_server::HealthServer::new(
            tonic_health::server::HealthService::from_health_reporter(health),
        ))
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?);
    Ok(routes.routes().into_axum_router())
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    SERVED.iter().fold(
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(wardian_proto::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .with_service_name("grpc.health.v1.Health"),
        |builder, service| builder.with_service_name(*service),
    )
}
