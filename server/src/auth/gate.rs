//! The gate that every request comes through: who sends it, and whether it may come near its service at all.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use tonic::Status;
use tonic::transport::server::TcpConnectInfo;

use super::rpcs::{Needs, needs};
use super::{Authorizer, Caller};

/// What tells callers apart.
pub(crate) type Gate = Arc<dyn Authorizer>;

/// Refuses who may not call a path, and gives everybody else a [`Caller`] on the way.
pub(crate) async fn gate(State(authorizer): State<Gate>, mut request: Request, next: Next) -> Response {
    match admitted(&*authorizer, &request) {
        Ok(caller) => {
            if let Some(caller) = caller {
                request.extensions_mut().insert(caller);
            }
            next.run(request).await
        }
        Err(status) => refusal(&request, status),
    }
}

fn admitted(authorizer: &dyn Authorizer, request: &Request) -> Result<Option<Caller>, Status> {
    let needs = needs(request.uri().path());
    if needs == Some(Needs::Nothing) {
        return Ok(None);
    }
    let from: Option<SocketAddr> =
        request.extensions().get::<TcpConnectInfo>().and_then(|info| info.remote_addr());
    let caller = authorizer.caller(request.headers(), from)?;
    match needs {
        // A call that nobody serves: the router has the answer, and it may as well be known to callers only.
        None | Some(Needs::Nothing | Needs::Caller) => {}
        Some(Needs::AnyOf(verbs)) => caller.check_any(verbs)?,
    }
    // A service that was forgotten in the table finds no caller, and refuses.
    Ok(needs.is_some().then_some(caller))
}

fn refusal(request: &Request, status: Status) -> Response {
    let content_type = request.headers().get(header::CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
    if content_type.starts_with(b"application/grpc") {
        return status.into_http::<axum::body::Body>();
    }
    let code = match status.code() {
        tonic::Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        _ => StatusCode::FORBIDDEN,
    };
    let hint = [(header::WWW_AUTHENTICATE, "Bearer realm=\"wardian\"")];
    (code, hint, format!("{}\n", status.message())).into_response()
}
