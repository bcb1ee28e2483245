//! The contract of every blob store, kept by the gRPC store against the real server.

use wardian_store::backend::GrpcStore;
use wardian_tests::TestServer;

async fn served() -> (GrpcStore, TestServer) {
    let server = TestServer::start().await;
    (server.store(), server)
}

wardian_store::blob_conformance!(grpc_blobs, served());
