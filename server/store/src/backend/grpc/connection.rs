//! A channel, and the token that every call over it carries.

use std::fmt;
use std::task::{Context, Poll};

use tonic::body::Body;
use tonic::codegen::http::header::AUTHORIZATION;
use tonic::codegen::http::{HeaderValue, Request, Response};
use tonic::codegen::{BoxFuture, Service};
use tonic::transport::{Channel, Error};

/// A connection to a server, with what the server is shown of who calls. Clones share it.
#[derive(Clone)]
pub struct Connection {
    channel: Channel,
    authorization: Option<HeaderValue>,
}

impl Connection {
    /// A connection on which each call carries this token. `None` when it holds what no header can.
    pub fn with_token(channel: Channel, token: &str) -> Option<Self> {
        let mut authorization = HeaderValue::from_str(&format!("Bearer {token}")).ok()?;
        authorization.set_sensitive(true);
        Some(Self { channel, authorization: Some(authorization) })
    }
}

impl From<Channel> for Connection {
    fn from(channel: Channel) -> Self {
        Self { channel, authorization: None }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let has_token = self.authorization.is_some();
        f.debug_struct("Connection").field("has_token", &has_token).finish_non_exhaustive()
    }
}

impl Service<Request<Body>> for Connection {
    type Response = Response<Body>;
    type Error = Error;
    type Future = BoxFuture<Response<Body>, Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Service::<Request<Body>>::poll_ready(&mut self.channel, context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        if let Some(authorization) = &self.authorization {
            request.headers_mut().insert(AUTHORIZATION, authorization.clone());
        }
        Box::pin(self.channel.call(request))
    }
}
