//! The HTTP interface (port 9443): identity provider, pages and admin API.

mod account;
mod authorize;
mod body;
mod consent;
mod cookies;
mod device;
mod mail;
mod oauth;
mod passkey;
mod problem;
mod registration;
mod serve;
mod signal;
mod tenants;
mod timely;
mod unread;
mod upstream;

use std::sync::Arc;

use axum::{
    Router,
    extract::{DefaultBodyLimit, MatchedPath, Request, State},
    handler::Handler,
    middleware::{self, Next},
    response::Response,
    routing::{self, MethodRouter},
};
use http::{HeaderValue, Method, header};
use tower::ServiceBuilder;

use self::tenants::TenantRoutes;
pub use problem::{Refusal, Told};
pub use serve::{Remote, Workload, bind_socket, serve_https, serve_socket};

use crate::{api, metrics::ControlMetrics, openapi, pages, plane::Plane};

pub use authorize::{LOGIN, LOGIN_CODE, LOGOUT};
pub use passkey::LOGIN_PASSKEY;
pub use registration::REGISTERED;
pub use signal::POLL;
pub use upstream::{CONNECT, ELSEWHERE};

/// Largest form. A token request has less than 16 KiB.
const MAX_FORM_BYTES: usize = 64 * 1024;
/// Browsers remember for two years to come over HTTPS only.
const STRICT_TRANSPORT_SECURITY: HeaderValue = HeaderValue::from_static("max-age=63072000");

/// Everything served over HTTPS.
pub fn public_router(plane: &Arc<Plane>, metrics: &ControlMetrics) -> Router {
    let of_tenants = {
        let metrics = metrics.clone();
        TenantRoutes::new(plane, move |plane| public_routes(plane, &metrics))
    };
    public_routes(plane, metrics).layer(middleware::from_fn_with_state(of_tenants, tenants::enter))
}

/// The same of one tenant alone.
fn public_routes(plane: &Arc<Plane>, metrics: &ControlMetrics) -> Router {
    let provider = endpoints()
        .into_iter()
        .fold(Router::new(), |router, served| {
            router.route(served.path, served.handler)
        });
    let provider = provider
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
        .method_not_allowed_fallback(not_allowed)
        .fallback(not_found)
        .layer(middleware::from_fn(api::say_in_scim))
        .layer(counting)
        .layer(layers)
}

/// What is served on the admin socket: the API alone.
pub fn socket_router(plane: &Arc<Plane>) -> Router {
    let of_tenants = TenantRoutes::new(plane, socket_routes);
    socket_routes(plane).layer(middleware::from_fn_with_state(of_tenants, tenants::enter))
}

fn socket_routes(plane: &Arc<Plane>) -> Router {
    api::router(plane)
        .method_not_allowed_fallback(not_allowed)
        .fallback(not_found)
        .layer(middleware::from_fn(api::say_in_scim))
}

/// What anybody may ask for: each decides for itself what it needs to know of who asks.
pub struct Endpoint {
    /// HTTP method.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "the handler knows it; a test compares")
    )]
    pub method: Method,
    /// Path.
    pub path: &'static str,
    handler: MethodRouter<Arc<Plane>>,
}

impl Endpoint {
    fn get<H, T>(path: &'static str, handler: H) -> Self
    where
        H: Handler<T, Arc<Plane>>,
        T: 'static,
    {
        Self::new(Method::GET, path, routing::get(handler))
    }

    fn post<H, T>(path: &'static str, handler: H) -> Self
    where
        H: Handler<T, Arc<Plane>>,
        T: 'static,
    {
        Self::new(Method::POST, path, routing::post(handler))
    }

    const fn new(method: Method, path: &'static str, handler: MethodRouter<Arc<Plane>>) -> Self {
        Self {
            method,
            path,
            handler,
        }
    }
}

/// The endpoints of the identity provider, its pages, and what describes them.
pub fn endpoints() -> Vec<Endpoint> {
    let own = vec![
        Endpoint::get(openapi::PATH, openapi::serve),
        Endpoint::get(pages::STYLESHEET, pages::stylesheet),
        Endpoint::get(pages::SHIELD, pages::shield),
        Endpoint::get(pages::PASSKEY_SCRIPT, pages::passkey_script),
    ];
    [
        authorize::endpoints(),
        oauth::endpoints(),
        device::endpoints(),
        registration::endpoints(),
        signal::endpoints(),
        account::endpoints(),
        consent::endpoints(),
        passkey::endpoints(),
        upstream::endpoints(),
        mail::endpoints(),
        own,
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Counts the answer under its route's pattern.
async fn count(State(metrics): State<ControlMetrics>, request: Request, next: Next) -> Response {
    let pattern = request.extensions().get::<MatchedPath>().cloned();
    let response = next.run(request).await;
    let endpoint = pattern.as_ref().map_or("none", MatchedPath::as_str);
    metrics.request(endpoint, response.status().as_u16());
    response
}

async fn not_allowed() -> Refusal {
    Refusal::new(405, "api.method", "the method is not known here")
}

async fn not_found() -> Refusal {
    Refusal::not_found("resource")
}
