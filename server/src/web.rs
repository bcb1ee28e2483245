//! HTTP on the same port: a page for people, numbers for machines.

use axum::Router;
use axum::extract::Request;
use axum::http::{Method, StatusCode, Version, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{Html, IntoResponse as _, Response};
use axum::routing::get;

use crate::auth::{Gate, gate};
use crate::health::Health;
use crate::metrics::{CONTENT_TYPE, encode};
use crate::stats::{STATS_PATH, Sources};

const PAGE: &str = include_str!("web/index.html");

/// Paths that a plain GET may ask for.
const PATHS: [&str; 4] = ["/", "/healthz", "/metrics", STATS_PATH];

/// Adds the page and the numbers to the router of the gRPC services.
///
/// `name` is the address that clients reach the server under; the page shows it in its examples.
pub(crate) fn add_pages(
    router: Router,
    name: &str,
    sources: Sources,
    health: Health,
    callers: Gate,
) -> Router {
    let page = PAGE.replace("{address}", name).replace("{version}", env!("CARGO_PKG_VERSION"));
    let serve = move || async move {
        ([(header::CACHE_CONTROL, "no-cache"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")], Html(page))
            .into_response()
    };
    let of_metrics = sources.clone();
    let metrics = move || async move { ([(header::CONTENT_TYPE, CONTENT_TYPE)], encode(&of_metrics)) };
    let stats = move || async move {
        let stats = serde_json::to_string(&sources.read()).expect("numbers and names");
        ([(header::CONTENT_TYPE, "application/json")], stats)
    };
    let healthz = move || async move {
        match health.trouble() {
            None => (StatusCode::OK, "ok\n".to_owned()),
            Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("not serving: {why}\n")),
        }
    };
    router
        .route("/", get(serve))
        .route("/healthz", get(healthz))
        .route("/metrics", get(metrics))
        .route(STATS_PATH, get(stats))
        .layer(from_fn_with_state(callers, gate))
        .layer(from_fn(guard))
}

/// Lets only gRPC clients through to the services.
///
/// A web page can make a browser send a POST with any body to a port of the machine it runs on. Without
/// this, such a page could upload and run an action. Browsers speak HTTP/1.1 to a port without TLS and
/// may not choose this content type without asking first.
async fn guard(request: Request, next: Next) -> Response {
    let content_type = request.headers().get(header::CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
    let is_grpc = request.version() == Version::HTTP_2 && content_type.starts_with(b"application/grpc");
    let is_page = PATHS.contains(&request.uri().path());
    match *request.method() {
        Method::GET | Method::HEAD if is_page => next.run(request).await,
        _ if is_grpc => next.run(request).await,
        Method::GET | Method::HEAD => {
            (StatusCode::NOT_FOUND, "nothing here; the page is at /\n").into_response()
        }
        _ => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "the services speak gRPC over HTTP/2\n").into_response(),
    }
}
