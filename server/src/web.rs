//! The HTTP page on the same port: what this is, and how to point a build tool at it.

use axum::Router;
use axum::http::header;
use axum::response::{Html, IntoResponse as _};
use axum::routing::get;

const PAGE: &str = include_str!("web/index.html");

/// Adds the page to the router of the gRPC services.
///
/// `name` is the address that clients reach the server under; the page shows it in its examples.
pub(crate) fn add_page(router: Router, name: &str) -> Router {
    let page = PAGE.replace("{address}", name).replace("{version}", env!("CARGO_PKG_VERSION"));
    let serve = move || async move {
        ([(header::CACHE_CONTROL, "no-cache"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")], Html(page))
            .into_response()
    };
    router.route("/", get(serve)).route("/healthz", get(|| async { "ok\n" }))
}
