//! Calls whose messages stay bytes.
//!
//! Client and servers share the processors, so whatever the client does makes all servers look more alike.
//! Requests are therefore encoded before a line is timed, and replies are looked at no more than needed.

use bytes::Bytes;
use prost::Message;
use tonic::Request;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use wardian_tests::Raw;

/// A request, ready to send.
pub(crate) fn encode(request: impl Message) -> Bytes {
    request.encode_to_vec().into()
}

/// Makes a call with one request and one reply.
pub(crate) async fn unary(channel: Channel, path: &'static str, request: Bytes) -> anyhow::Result<Bytes> {
    let mut grpc = Grpc::new(channel);
    grpc.ready().await?;
    let reply = grpc.unary(Request::new(request), PathAndQuery::from_static(path), Raw).await?;
    Ok(reply.into_inner())
}
