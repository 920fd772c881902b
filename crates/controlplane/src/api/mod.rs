//! The admin API (`/api/v1`): everything the command line can do.
//!
//! One table lists the operations with the right each needs; the router is made from it, so there is no
//! operation without a right, and the denial tests walk the same table.

mod audit;
mod authorize;
mod clients;
mod extract;
mod fleet;
mod groups;
mod identity_providers;
pub mod import;
mod join_tokens;
mod keys;
mod paging;
mod passkeys;
mod proxies;
mod registration_tokens;
mod roles;
mod scim;
mod service_accounts;
mod sessions;
mod signal_streams;
mod status;
mod tenants;
mod tokens;
mod users;

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Request, State},
    handler::Handler,
    middleware::{self, Next},
    response::Response,
    routing::{self, MethodRouter},
};
use http::Method;
use serde_json::Value;

use crate::{http::Refusal, plane::Plane};

pub use authorize::{ADMIN_ROLE, ADMIN_SCOPE, AUDITOR_ROLE, Administrator, SCIM_SCOPE};
pub(crate) use scim::speak as say_in_scim;

/// Largest body of an administrative request: a fleet with its policies.
const MAX_BODY_BYTES: usize = 16 * 1024 * 1024;

/// What a caller must be allowed to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// See what is there: roles `testudo-admin` and `testudo-auditor`.
    Read,
    /// Change it: role `testudo-admin`.
    Change,
    /// Say who comes and goes: a service account with the scope `testudo:scim`, or role `testudo-admin`.
    Provision,
}

/// One operation of the API.
pub struct Operation {
    /// HTTP method.
    pub method: Method,
    /// Path, with `{parameter}`s.
    pub path: &'static str,
    /// What a caller must be allowed to do.
    pub right: Right,
    handler: MethodRouter<Arc<Plane>>,
}

/// A handler's answer.
type Answer = Result<Json<Value>, Refusal>;

fn operation<H, T>(method: Method, path: &'static str, right: Right, handler: H) -> Operation
where
    H: Handler<T, Arc<Plane>>,
    T: 'static,
{
    let handler = match method {
        Method::POST => routing::post(handler),
        Method::PUT => routing::put(handler),
        Method::PATCH => routing::patch(handler),
        Method::DELETE => routing::delete(handler),
        _ => routing::get(handler),
    };
    Operation {
        method,
        path,
        right,
        handler,
    }
}

/// All operations.
pub fn operations() -> Vec<Operation> {
    use Right::{Change, Read};
    let (get, post, put, delete) = (Method::GET, Method::POST, Method::PUT, Method::DELETE);
    vec![
        operation(get.clone(), "/api/v1/status", Read, status::status),
        operation(post.clone(), "/api/v1/fleet/apply", Change, fleet::apply),
        operation(get.clone(), "/api/v1/proxies", Read, proxies::list),
        operation(
            post.clone(),
            "/api/v1/join-tokens",
            Change,
            join_tokens::create,
        ),
        operation(get.clone(), "/api/v1/join-tokens", Read, join_tokens::list),
        operation(
            delete.clone(),
            "/api/v1/join-tokens/{token}",
            Change,
            join_tokens::delete,
        ),
        operation(
            post.clone(),
            "/api/v1/identities/revoke",
            Change,
            proxies::revoke_identity,
        ),
        operation(
            post.clone(),
            "/api/v1/identities/reinstate",
            Change,
            proxies::reinstate_identity,
        ),
        operation(get.clone(), "/api/v1/tenants", Read, tenants::list),
        operation(post.clone(), "/api/v1/tenants", Change, tenants::create),
        operation(
            put.clone(),
            "/api/v1/tenants/{tenant}",
            Change,
            tenants::replace,
        ),
        operation(
            post.clone(),
            "/api/v1/tenants/{tenant}/disable",
            Change,
            tenants::disable,
        ),
        operation(
            post.clone(),
            "/api/v1/tenants/{tenant}/enable",
            Change,
            tenants::enable,
        ),
        operation(post.clone(), "/api/v1/import", Change, import::import),
        operation(get.clone(), "/api/v1/groups", Read, groups::list),
        operation(post.clone(), "/api/v1/groups", Change, groups::create),
        operation(get.clone(), "/api/v1/groups/{group}", Read, groups::show),
        operation(
            put.clone(),
            "/api/v1/groups/{group}",
            Change,
            groups::replace,
        ),
        operation(
            delete.clone(),
            "/api/v1/groups/{group}",
            Change,
            groups::delete,
        ),
        operation(
            get.clone(),
            "/api/v1/groups/{group}/members",
            Read,
            groups::members,
        ),
        operation(
            put.clone(),
            "/api/v1/groups/{group}/members/{kind}/{member}",
            Change,
            groups::add_member,
        ),
        operation(
            delete.clone(),
            "/api/v1/groups/{group}/members/{kind}/{member}",
            Change,
            groups::remove_member,
        ),
        operation(get.clone(), "/api/v1/roles", Read, roles::list),
        operation(post.clone(), "/api/v1/roles", Change, roles::create),
        operation(
            delete.clone(),
            "/api/v1/roles/{role}",
            Change,
            roles::delete,
        ),
        operation(get.clone(), "/api/v1/users", Read, users::list),
        operation(post.clone(), "/api/v1/users", Change, users::create),
        operation(get.clone(), "/api/v1/users/{username}", Read, users::show),
        operation(
            put.clone(),
            "/api/v1/users/{username}",
            Change,
            users::replace,
        ),
        operation(
            delete.clone(),
            "/api/v1/users/{username}",
            Change,
            users::delete,
        ),
        operation(
            post.clone(),
            "/api/v1/users/{username}/disable",
            Change,
            users::disable,
        ),
        operation(
            post.clone(),
            "/api/v1/users/{username}/enable",
            Change,
            users::enable,
        ),
        operation(
            post.clone(),
            "/api/v1/users/{username}/reset-second-factor",
            Change,
            users::reset_second_factor,
        ),
        operation(
            post.clone(),
            "/api/v1/users/{username}/verify-email",
            Change,
            users::verify_email,
        ),
        operation(
            get.clone(),
            "/api/v1/users/{username}/passkeys",
            Read,
            passkeys::list,
        ),
        operation(
            delete.clone(),
            "/api/v1/users/{username}/passkeys/{passkey}",
            Change,
            passkeys::remove,
        ),
        operation(
            post.clone(),
            "/api/v1/users/{username}/invitation",
            Change,
            passkeys::invite,
        ),
        operation(
            get.clone(),
            "/api/v1/users/{username}/links",
            Read,
            identity_providers::links,
        ),
        operation(
            post.clone(),
            "/api/v1/users/{username}/links",
            Change,
            identity_providers::connect,
        ),
        operation(
            delete.clone(),
            "/api/v1/users/{username}/links/{link}",
            Change,
            identity_providers::disconnect,
        ),
        operation(
            get.clone(),
            "/api/v1/identity-providers",
            Read,
            identity_providers::list,
        ),
        operation(
            put.clone(),
            "/api/v1/users/{username}/password",
            Change,
            users::set_password,
        ),
        operation(
            get.clone(),
            "/api/v1/users/{username}/sessions",
            Read,
            sessions::list,
        ),
        operation(
            delete.clone(),
            "/api/v1/sessions/{session}",
            Change,
            sessions::revoke,
        ),
        operation(get.clone(), "/api/v1/clients", Read, clients::list),
        operation(post.clone(), "/api/v1/clients", Change, clients::create),
        operation(get.clone(), "/api/v1/clients/{client}", Read, clients::show),
        operation(
            put.clone(),
            "/api/v1/clients/{client}",
            Change,
            clients::replace,
        ),
        operation(
            post.clone(),
            "/api/v1/clients/{client}/disable",
            Change,
            clients::disable,
        ),
        operation(
            post.clone(),
            "/api/v1/clients/{client}/enable",
            Change,
            clients::enable,
        ),
        operation(
            get.clone(),
            "/api/v1/service-accounts",
            Read,
            service_accounts::list,
        ),
        operation(
            post.clone(),
            "/api/v1/service-accounts",
            Change,
            service_accounts::create,
        ),
        operation(
            get.clone(),
            "/api/v1/service-accounts/{account}",
            Read,
            service_accounts::show,
        ),
        operation(
            put.clone(),
            "/api/v1/service-accounts/{account}",
            Change,
            service_accounts::replace,
        ),
        operation(
            delete.clone(),
            "/api/v1/service-accounts/{account}",
            Change,
            service_accounts::delete,
        ),
        operation(
            post.clone(),
            "/api/v1/service-accounts/{account}/disable",
            Change,
            service_accounts::disable,
        ),
        operation(
            post.clone(),
            "/api/v1/service-accounts/{account}/enable",
            Change,
            service_accounts::enable,
        ),
        operation(
            delete.clone(),
            "/api/v1/clients/{client}",
            Change,
            clients::delete,
        ),
        operation(
            post.clone(),
            "/api/v1/clients/{client}/rotate-secret",
            Change,
            clients::rotate_secret,
        ),
        operation(
            post.clone(),
            "/api/v1/registration-tokens",
            Change,
            registration_tokens::create,
        ),
        operation(
            get.clone(),
            "/api/v1/registration-tokens",
            Read,
            registration_tokens::list,
        ),
        operation(
            delete,
            "/api/v1/registration-tokens/{registration_token}",
            Change,
            registration_tokens::delete,
        ),
        operation(
            get.clone(),
            "/api/v1/decisions/{decision}",
            Read,
            audit::decision,
        ),
        operation(get.clone(), "/api/v1/tokens/{token}", Read, tokens::explain),
        operation(get.clone(), "/api/v1/audit/events", Read, audit::search),
        operation(
            get.clone(),
            "/api/v1/audit/events/{event}",
            Read,
            audit::show,
        ),
        operation(
            get.clone(),
            "/api/v1/audit/events/{event}/proof",
            Read,
            audit::prove,
        ),
        operation(get.clone(), "/api/v1/audit/tail", Read, audit::tail),
        operation(post.clone(), "/api/v1/audit/export", Change, audit::export),
        operation(
            get.clone(),
            "/api/v1/audit/checkpoint",
            Read,
            audit::checkpoint,
        ),
        operation(get, "/api/v1/audit/key", Read, audit::key),
        operation(post.clone(), "/api/v1/audit/verify", Read, audit::verify),
        operation(post.clone(), "/api/v1/keys/rotate", Change, keys::rotate),
        operation(post, "/api/v1/ca/rotate", Change, keys::rotate_ca),
    ]
    .into_iter()
    .chain(signal_operations())
    .chain(scim_operations())
    .collect()
}

/// Those of streams of signals.
fn signal_operations() -> [Operation; 5] {
    use Right::{Change, Read};
    const STREAM: &str = "/api/v1/signal-streams/{stream}";
    [
        operation(
            Method::GET,
            "/api/v1/signal-streams",
            Read,
            signal_streams::list,
        ),
        operation(Method::GET, STREAM, Read, signal_streams::show),
        operation(Method::DELETE, STREAM, Change, signal_streams::delete),
        operation(
            Method::POST,
            "/api/v1/signal-streams/{stream}/disable",
            Change,
            signal_streams::disable,
        ),
        operation(
            Method::POST,
            "/api/v1/signal-streams/{stream}/enable",
            Change,
            signal_streams::enable,
        ),
    ]
}

/// Those of SCIM 2.0 (RFC 7644 section 3.2).
fn scim_operations() -> Vec<Operation> {
    let (get, post) = (Method::GET, Method::POST);
    let (put, patch, delete) = (Method::PUT, Method::PATCH, Method::DELETE);
    let paths = [
        (&get, "/scim/v2/ServiceProviderConfig"),
        (&get, "/scim/v2/ResourceTypes"),
        (&get, "/scim/v2/ResourceTypes/{type}"),
        (&get, "/scim/v2/Schemas"),
        (&get, "/scim/v2/Schemas/{schema}"),
        (&get, "/scim/v2/Users"),
        (&post, "/scim/v2/Users"),
        (&post, "/scim/v2/Users/.search"),
        (&get, "/scim/v2/Users/{resource}"),
        (&put, "/scim/v2/Users/{resource}"),
        (&patch, "/scim/v2/Users/{resource}"),
        (&delete, "/scim/v2/Users/{resource}"),
        (&get, "/scim/v2/Groups"),
        (&post, "/scim/v2/Groups"),
        (&post, "/scim/v2/Groups/.search"),
        (&get, "/scim/v2/Groups/{resource}"),
        (&put, "/scim/v2/Groups/{resource}"),
        (&patch, "/scim/v2/Groups/{resource}"),
        (&delete, "/scim/v2/Groups/{resource}"),
        (&post, "/scim/v2/.search"),
        (&post, "/scim/v2/Bulk"),
    ];
    let operations = paths.into_iter();
    operations
        .map(|(method, path)| operation(method.clone(), path, Right::Provision, scim::serve))
        .collect()
}

/// Whether it is about the fleet and no tenant's own business.
fn is_of_the_fleet(path: &str) -> bool {
    const FLEET: [&str; 8] = [
        "audit",
        "decisions",
        "fleet",
        "identities",
        "join-tokens",
        "proxies",
        "status",
        "tenants",
    ];
    let noun = path.strip_prefix("/api/v1/");
    let noun = noun.and_then(|path| path.split('/').next());
    noun.is_some_and(|noun| FLEET.contains(&noun))
}

/// The API's routes.
pub(crate) fn router(plane: &Arc<Plane>) -> Router {
    let mut router = Router::new();
    let is_fleet = plane.tenant().is_default();
    for operation in operations() {
        if !is_fleet && is_of_the_fleet(operation.path) {
            continue;
        }
        let right = operation.right;
        let guard = middleware::from_fn_with_state(
            Arc::clone(plane),
            move |State(plane): State<Arc<Plane>>, request: Request, next: Next| {
                guarded(plane, right, request, next)
            },
        );
        router = router.route(operation.path, operation.handler.route_layer(guard));
    }
    router
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(Arc::clone(plane))
}

/// Lets the request through if its caller has the right; the handler finds an [`Administrator`].
async fn guarded(
    plane: Arc<Plane>,
    right: Right,
    mut request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    let question = authorize::Question::of(&request)?;
    let administrator = authorize::authorize(&plane, right, question).await?;
    request.extensions_mut().insert(administrator);
    Ok(next.run(request).await)
}
