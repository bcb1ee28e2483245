//! Calls whose messages stay bytes.
//!
//! Client and servers share the processors, so whatever the client does makes all servers look more alike.
//! Requests are therefore encoded before a line is timed, and replies are looked at no more than needed.

use bytes::{Buf as _, BufMut as _, Bytes};
use prost::Message;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Request, Status};

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

/// Takes messages as they are.
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.reserve(message.len());
        to.put(message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}
