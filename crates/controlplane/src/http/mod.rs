//! The HTTP interface (port 9443): identity provider, pages and admin API.

mod account;
mod authorize;
mod body;
mod consent;
mod cookies;
mod device;
mod oauth;
mod passkey;
mod problem;
mod registration;
mod serve;
mod timely;

use std::sync::Arc;

use axum::{
    Router,
    extract::{DefaultBodyLimit, MatchedPath, Request, State},
    middleware::{self, Next},
    response::Response,
    routing::get,
};
use http::{HeaderValue, header};
use tower::ServiceBuilder;

pub use problem::Refusal;
pub use serve::{Remote, Workload, bind_socket, serve_https, serve_socket};

use crate::{api, metrics::ControlMetrics, pages, plane::Plane};

/// Largest form. A token request has less than 16 KiB.
const MAX_FORM_BYTES: usize = 64 * 1024;
/// Browsers remember for two years to come over HTTPS only.
const STRICT_TRANSPORT_SECURITY: HeaderValue = HeaderValue::from_static("max-age=63072000");

/// Everything served over HTTPS.
pub fn public_router(plane: &Arc<Plane>, metrics: &ControlMetrics) -> Router {
    let provider = Router::new()
        .merge(authorize::routes())
        .merge(oauth::routes())
        .merge(device::routes())
        .merge(registration::routes())
        .merge(account::routes())
        .merge(consent::routes())
        .merge(passkey::routes())
        .route(pages::STYLESHEET, get(pages::stylesheet))
        .route(pages::SHIELD, get(pages::shield))
        .route(pages::PASSKEY_SCRIPT, get(pages::passkey_script))
        .layer(DefaultBodyLimit::max(MAX_FORM_BYTES))
        .with_state(Arc::clone(plane));
    let layers = ServiceBuilder::new().map_response(|mut response: Response| {
        response
            .headers_mut()
            .insert(header::STRICT_TRANSPORT_SECURITY, STRICT_TRANSPORT_SECURITY);
        response
    });
    let counting = middleware::from_fn_with_state(metrics.clone(), count);
    provider
        .merge(api::router(plane))
        .fallback(not_found)
        .layer(counting)
        .layer(layers)
}

/// What is served on the admin socket: the API alone.
pub fn socket_router(plane: &Arc<Plane>) -> Router {
    api::router(plane).fallback(not_found)
}

/// Counts the answer under its route's pattern.
async fn count(State(metrics): State<ControlMetrics>, request: Request, next: Next) -> Response {
    let pattern = request.extensions().get::<MatchedPath>().cloned();
    let response = next.run(request).await;
    let endpoint = pattern.as_ref().map_or("none", MatchedPath::as_str);
    metrics.request(endpoint, response.status().as_u16());
    response
}

async fn not_found() -> Refusal {
    Refusal::not_found("resource")
}
