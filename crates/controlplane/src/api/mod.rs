//! The admin API (`/api/v1`): everything the command line can do.
//!
//! One table lists the operations with the Cedar action of each; the router is made from it, so there is no
//! operation that no policy is asked about, and the denial tests walk the same table.

mod api_keys;
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
mod reserved;
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
    Json, RequestExt, Router,
    extract::{DefaultBodyLimit, RawPathParams, Request, State},
    handler::Handler,
    middleware::{self, Next},
    response::Response,
    routing::{self, MethodRouter},
};
use http::Method;
use serde_json::Value;

use crate::{http::Refusal, plane::Plane};

pub use authorize::{ADMIN_SCOPE, Administrator, SCIM_SCOPE};
pub(crate) use scim::speak as say_in_scim;
pub use testudo_policy::{ADMIN_ROLE, AUDITOR_ROLE, AdminAction, AdminActionGroup};

/// Largest body of an administrative request: a fleet with its policies.
const MAX_BODY_BYTES: usize = 16 * 1024 * 1024;

/// One operation of the API.
pub struct Operation {
    /// HTTP method.
    pub method: Method,
    /// Path, with `{parameter}`s.
    pub path: &'static str,
    /// What policies say who may do.
    pub action: AdminAction,
    handler: MethodRouter<Arc<Plane>>,
}

/// A handler's answer.
type Answer = Result<Json<Value>, Refusal>;

fn operation<H, T>(method: Method, path: &'static str, action: AdminAction, handler: H) -> Operation
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
        action,
        handler,
    }
}

/// All operations.
pub fn operations() -> Vec<Operation> {
    use AdminAction::{
        AuditExport, AuditRead, ClientRead, ClientWrite, CredentialRead, CredentialWrite,
        FleetApply, GroupRead, GroupWrite, IdentityProviderRead, ImportWrite, KeyRotate, ProxyJoin,
        ProxyRead, ProxyRevoke, RegistrationRead, RegistrationWrite, RoleGrant, RoleRead,
        RoleWrite, ServiceAccountRead, ServiceAccountWrite, SessionRead, SessionRevoke, StatusRead,
        TenantRead, TenantWrite, TokenRead, UserDisable, UserRead, UserWrite,
    };
    let (get, post, put, delete) = (Method::GET, Method::POST, Method::PUT, Method::DELETE);
    vec![
        operation(get.clone(), "/api/v1/status", StatusRead, status::status),
        operation(
            post.clone(),
            "/api/v1/fleet/apply",
            FleetApply,
            fleet::apply,
        ),
        operation(get.clone(), "/api/v1/proxies", ProxyRead, proxies::list),
        operation(
            post.clone(),
            "/api/v1/join-tokens",
            ProxyJoin,
            join_tokens::create,
        ),
        operation(
            get.clone(),
            "/api/v1/join-tokens",
            ProxyRead,
            join_tokens::list,
        ),
        operation(
            delete.clone(),
            "/api/v1/join-tokens/{token}",
            ProxyJoin,
            join_tokens::delete,
        ),
        operation(
            post.clone(),
            "/api/v1/identities/revoke",
            ProxyRevoke,
            proxies::revoke_identity,
        ),
        operation(
            post.clone(),
            "/api/v1/identities/reinstate",
            ProxyRevoke,
            proxies::reinstate_identity,
        ),
        operation(get.clone(), "/api/v1/tenants", TenantRead, tenants::list),
        operation(
            post.clone(),
            "/api/v1/tenants",
            TenantWrite,
            tenants::create,
        ),
        operation(
            put.clone(),
            "/api/v1/tenants/{tenant}",
            TenantWrite,
            tenants::replace,
        ),
        operation(
            post.clone(),
            "/api/v1/tenants/{tenant}/disable",
            TenantWrite,
            tenants::disable,
        ),
        operation(
            post.clone(),
            "/api/v1/tenants/{tenant}/enable",
            TenantWrite,
            tenants::enable,
        ),
        operation(post.clone(), "/api/v1/import", ImportWrite, import::import),
        operation(get.clone(), "/api/v1/groups", GroupRead, groups::list),
        operation(post.clone(), "/api/v1/groups", GroupWrite, groups::create),
        operation(
            get.clone(),
            "/api/v1/groups/{group}",
            GroupRead,
            groups::show,
        ),
        operation(
            put.clone(),
            "/api/v1/groups/{group}",
            GroupWrite,
            groups::replace,
        ),
        operation(
            delete.clone(),
            "/api/v1/groups/{group}",
            GroupWrite,
            groups::delete,
        ),
        operation(
            get.clone(),
            "/api/v1/groups/{group}/members",
            GroupRead,
            groups::members,
        ),
        operation(
            put.clone(),
            "/api/v1/groups/{group}/members/{kind}/{member}",
            RoleGrant,
            groups::add_member,
        ),
        operation(
            delete.clone(),
            "/api/v1/groups/{group}/members/{kind}/{member}",
            RoleGrant,
            groups::remove_member,
        ),
        operation(get.clone(), "/api/v1/roles", RoleRead, roles::list),
        operation(post.clone(), "/api/v1/roles", RoleWrite, roles::create),
        operation(
            delete.clone(),
            "/api/v1/roles/{role}",
            RoleWrite,
            roles::delete,
        ),
        operation(get.clone(), "/api/v1/users", UserRead, users::list),
        operation(post.clone(), "/api/v1/users", UserWrite, users::create),
        operation(
            get.clone(),
            "/api/v1/users/{username}",
            UserRead,
            users::show,
        ),
        operation(
            put.clone(),
            "/api/v1/users/{username}",
            UserWrite,
            users::replace,
        ),
        operation(
            delete.clone(),
            "/api/v1/users/{username}",
            UserWrite,
            users::delete,
        ),
        operation(
            post.clone(),
            "/api/v1/users/{username}/disable",
            UserDisable,
            users::disable,
        ),
        operation(
            post.clone(),
            "/api/v1/users/{username}/enable",
            UserDisable,
            users::enable,
        ),
        operation(
            post.clone(),
            "/api/v1/users/{username}/reset-second-factor",
            CredentialWrite,
            users::reset_second_factor,
        ),
        operation(
            post.clone(),
            "/api/v1/users/{username}/verify-email",
            CredentialWrite,
            users::verify_email,
        ),
        operation(
            get.clone(),
            "/api/v1/users/{username}/passkeys",
            CredentialRead,
            passkeys::list,
        ),
        operation(
            delete.clone(),
            "/api/v1/users/{username}/passkeys/{passkey}",
            CredentialWrite,
            passkeys::remove,
        ),
        operation(
            post.clone(),
            "/api/v1/users/{username}/invitation",
            CredentialWrite,
            passkeys::invite,
        ),
        operation(
            get.clone(),
            "/api/v1/users/{username}/links",
            CredentialRead,
            identity_providers::links,
        ),
        operation(
            post.clone(),
            "/api/v1/users/{username}/links",
            CredentialWrite,
            identity_providers::connect,
        ),
        operation(
            delete.clone(),
            "/api/v1/users/{username}/links/{link}",
            CredentialWrite,
            identity_providers::disconnect,
        ),
        operation(
            get.clone(),
            "/api/v1/identity-providers",
            IdentityProviderRead,
            identity_providers::list,
        ),
        operation(
            put.clone(),
            "/api/v1/users/{username}/password",
            CredentialWrite,
            users::set_password,
        ),
        operation(
            get.clone(),
            "/api/v1/users/{username}/sessions",
            SessionRead,
            sessions::list,
        ),
        operation(
            delete.clone(),
            "/api/v1/sessions/{session}",
            SessionRevoke,
            sessions::revoke,
        ),
        operation(get.clone(), "/api/v1/clients", ClientRead, clients::list),
        operation(
            post.clone(),
            "/api/v1/clients",
            ClientWrite,
            clients::create,
        ),
        operation(
            get.clone(),
            "/api/v1/clients/{client}",
            ClientRead,
            clients::show,
        ),
        operation(
            put.clone(),
            "/api/v1/clients/{client}",
            ClientWrite,
            clients::replace,
        ),
        operation(
            post.clone(),
            "/api/v1/clients/{client}/disable",
            ClientWrite,
            clients::disable,
        ),
        operation(
            post.clone(),
            "/api/v1/clients/{client}/enable",
            ClientWrite,
            clients::enable,
        ),
        operation(
            get.clone(),
            "/api/v1/service-accounts",
            ServiceAccountRead,
            service_accounts::list,
        ),
        operation(
            post.clone(),
            "/api/v1/service-accounts",
            ServiceAccountWrite,
            service_accounts::create,
        ),
        operation(
            get.clone(),
            "/api/v1/service-accounts/{account}",
            ServiceAccountRead,
            service_accounts::show,
        ),
        operation(
            put.clone(),
            "/api/v1/service-accounts/{account}",
            ServiceAccountWrite,
            service_accounts::replace,
        ),
        operation(
            delete.clone(),
            "/api/v1/service-accounts/{account}",
            ServiceAccountWrite,
            service_accounts::delete,
        ),
        operation(
            post.clone(),
            "/api/v1/service-accounts/{account}/disable",
            ServiceAccountWrite,
            service_accounts::disable,
        ),
        operation(
            post.clone(),
            "/api/v1/service-accounts/{account}/enable",
            ServiceAccountWrite,
            service_accounts::enable,
        ),
        operation(
            delete.clone(),
            "/api/v1/clients/{client}",
            ClientWrite,
            clients::delete,
        ),
        operation(
            post.clone(),
            "/api/v1/clients/{client}/rotate-secret",
            ClientWrite,
            clients::rotate_secret,
        ),
        operation(
            post.clone(),
            "/api/v1/registration-tokens",
            RegistrationWrite,
            registration_tokens::create,
        ),
        operation(
            get.clone(),
            "/api/v1/registration-tokens",
            RegistrationRead,
            registration_tokens::list,
        ),
        operation(
            delete,
            "/api/v1/registration-tokens/{registration_token}",
            RegistrationWrite,
            registration_tokens::delete,
        ),
        operation(
            get.clone(),
            "/api/v1/decisions/{decision}",
            AuditRead,
            audit::decision,
        ),
        operation(
            get.clone(),
            "/api/v1/tokens/{token}",
            TokenRead,
            tokens::explain,
        ),
        operation(
            get.clone(),
            "/api/v1/audit/events",
            AuditRead,
            audit::search,
        ),
        operation(
            get.clone(),
            "/api/v1/audit/events/{event}",
            AuditRead,
            audit::show,
        ),
        operation(
            get.clone(),
            "/api/v1/audit/events/{event}/proof",
            AuditRead,
            audit::prove,
        ),
        operation(get.clone(), "/api/v1/audit/tail", AuditRead, audit::tail),
        operation(
            post.clone(),
            "/api/v1/audit/export",
            AuditExport,
            audit::export,
        ),
        operation(
            get.clone(),
            "/api/v1/audit/checkpoint",
            AuditRead,
            audit::checkpoint,
        ),
        operation(get, "/api/v1/audit/key", AuditRead, audit::key),
        operation(
            post.clone(),
            "/api/v1/audit/verify",
            AuditRead,
            audit::verify,
        ),
        operation(post.clone(), "/api/v1/keys/rotate", KeyRotate, keys::rotate),
        operation(post, "/api/v1/ca/rotate", KeyRotate, keys::rotate_ca),
    ]
    .into_iter()
    .chain(api_key_operations())
    .chain(signal_operations())
    .chain(scim_operations())
    .collect()
}

/// Those of streams of signals.
fn signal_operations() -> [Operation; 5] {
    use AdminAction::{SignalRead, SignalWrite};
    const STREAM: &str = "/api/v1/signal-streams/{stream}";
    [
        operation(
            Method::GET,
            "/api/v1/signal-streams",
            SignalRead,
            signal_streams::list,
        ),
        operation(Method::GET, STREAM, SignalRead, signal_streams::show),
        operation(Method::DELETE, STREAM, SignalWrite, signal_streams::delete),
        operation(
            Method::POST,
            "/api/v1/signal-streams/{stream}/disable",
            SignalWrite,
            signal_streams::disable,
        ),
        operation(
            Method::POST,
            "/api/v1/signal-streams/{stream}/enable",
            SignalWrite,
            signal_streams::enable,
        ),
    ]
}

/// Those of API keys.
fn api_key_operations() -> [Operation; 5] {
    use AdminAction::{ApiKeyRead, ApiKeyWrite};
    const KEYS: &str = "/api/v1/api-keys";
    const KEY: &str = "/api/v1/api-keys/{api_key}";
    [
        operation(Method::GET, KEYS, ApiKeyRead, api_keys::list),
        operation(Method::POST, KEYS, ApiKeyWrite, api_keys::create),
        operation(Method::GET, KEY, ApiKeyRead, api_keys::show),
        operation(Method::DELETE, KEY, ApiKeyWrite, api_keys::revoke),
        operation(
            Method::POST,
            "/api/v1/api-keys/{api_key}/rotate",
            ApiKeyWrite,
            api_keys::rotate,
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
        .map(|(method, path)| {
            operation(
                method.clone(),
                path,
                AdminAction::ScimProvision,
                scim::serve,
            )
        })
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
        let action = operation.action;
        let guard = middleware::from_fn_with_state(
            Arc::clone(plane),
            move |State(plane): State<Arc<Plane>>, request: Request, next: Next| {
                guarded(plane, action, request, next)
            },
        );
        router = router.route(operation.path, operation.handler.route_layer(guard));
    }
    router
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(Arc::clone(plane))
}

/// Lets the request through if policies permit its caller the action; the handler finds an [`Administrator`].
async fn guarded(
    plane: Arc<Plane>,
    action: AdminAction,
    mut request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    let parameters = request.extract_parts::<RawPathParams>().await;
    let name = parameters.ok().and_then(|parameters| {
        let first = parameters.iter().next();
        first.map(|(_, value)| value.to_owned())
    });
    let question = authorize::Question::of(&request, action, name)?;
    let administrator = authorize::authorize(&plane, question).await?;
    request.extensions_mut().insert(administrator);
    Ok(next.run(request).await)
}
