//! The HTTP interface (port 9443): identity provider, pages and admin API.

mod authorize;
mod body;
mod cookies;
mod oauth;
mod problem;
mod serve;

use std::sync::Arc;

use axum::{Router, extract::DefaultBodyLimit, routing::get};
use http::{HeaderValue, header};
use tower::ServiceBuilder;

pub use problem::Refusal;
pub use serve::{Remote, bind_socket, serve_https, serve_socket};

use crate::{api, pages, plane::Plane};

/// Largest form. A token request has less than 16 KiB.
const MAX_FORM_BYTES: usize = 64 * 1024;
/// Browsers remember for two years to come over HTTPS only.
const STRICT_TRANSPORT_SECURITY: HeaderValue = HeaderValue::from_static("max-age=63072000");

/// Everything served over HTTPS.
pub fn public_router(plane: &Arc<Plane>) -> Router {
    let provider = Router::new()
        .merge(authorize::routes())
        .merge(oauth::routes())
        .route(&format!("/assets/{}", pages::STYLESHEET), get(pages::stylesheet))
        .layer(DefaultBodyLimit::max(MAX_FORM_BYTES))
        .with_state(Arc::clone(plane));
    let layers = ServiceBuilder::new().map_response(|mut response: axum::response::Response| {
        response.headers_mut().insert(header::STRICT_TRANSPORT_SECURITY, STRICT_TRANSPORT_SECURITY);
        response
    });
    provider.merge(api::router(plane)).fallback(not_found).layer(layers)
}

/// What is served on the admin socket: the API alone.
pub fn socket_router(plane: &Arc<Plane>) -> Router {
    api::router(plane).fallback(not_found)
}

async fn not_found() -> Refusal {
    Refusal::not_found("resource")
}
