//! API keys of service accounts. A key is shown once, to who made it.

use std::{sync::Arc, time::Duration};

use axum::{Extension, Json, extract::State};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use testudo_identity::{ApiKey, MadeApiKey, NewApiKey};
use testudo_model::{ApiKeyId, ClientName, ServiceName, TenantPattern};
use testudo_store::Versioned;

use super::{
    Administrator, Answer,
    extract::{Body, Path, Query, apart},
    paging::Paging,
    users::refusal,
};
use crate::{http::Refusal, plane::Plane};

/// Longest time for which two keys are good.
const MAX_OVERLAP: Duration = Duration::from_secs(30 * 24 * 3600);

/// Body of a rotation.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rotation {
    /// How long the key before stays good.
    overlap_seconds: u64,
}

/// `GET /api/v1/api-keys`: those that are good.
pub async fn list(State(plane): State<Arc<Plane>>, Query(paging): Query<Paging>) -> Answer {
    plane
        .blocking(move |plane| {
            let read = |after, limit| plane.provider.api_keys(after, limit);
            let wanted = |key: &ApiKey| {
                let account = account_of(plane, key).unwrap_or_default();
                paging.wants(&[key.id.as_str(), &key.name, &account])
            };
            let shown = |stored: &Versioned<ApiKey>| view(plane, &stored.record);
            Ok(Json(paging.page(read, wanted, shown)?))
        })
        .await?
}

/// `POST /api/v1/api-keys`: what is said about a key, and its `account`. The answer has the key; it cannot be asked for again.
pub async fn create(
    State(plane): State<Arc<Plane>>,
    Extension(administrator): Extension<Administrator>,
    Body(new): Body<Map<String, Value>>,
) -> Answer {
    plane
        .blocking(move |plane| {
            let (account, new): (ClientName, NewApiKey) = apart(new, "account")?;
            administrator.may_make_api_key(plane, &account)?;
            check_services(plane, &new)?;
            let provider = &plane.provider;
            let account = provider.service_account_by_name(&account);
            let account = account.map_err(|error| refusal(&error))?.record;
            let made = provider.create_api_key(&account.id, &new, &administrator.identity_caller());
            Ok(Json(told(plane, &made.map_err(|error| refusal(&error))?)))
        })
        .await?
}

/// `GET /api/v1/api-keys/{api_key}`, by its id.
pub async fn show(State(plane): State<Arc<Plane>>, Path(key): Path<ApiKeyId>) -> Answer {
    plane
        .blocking(move |plane| {
            let stored = plane.provider.api_key(&key);
            let stored = stored.map_err(|error| refusal(&error))?;
            Ok(Json(view(plane, &stored.record)))
        })
        .await?
}

/// `DELETE /api/v1/api-keys/{api_key}`: no gateway takes it any more.
pub async fn revoke(
    State(plane): State<Arc<Plane>>,
    Path(key): Path<ApiKeyId>,
    Extension(administrator): Extension<Administrator>,
) -> Answer {
    plane
        .blocking(move |plane| {
            let caller = administrator.identity_caller();
            let revoked = plane.provider.revoke_api_key(&key, &caller);
            let revoked = revoked.map_err(|error| refusal(&error))?;
            Ok(Json(view(plane, &revoked)))
        })
        .await?
}

/// `POST /api/v1/api-keys/{api_key}/rotate`: a new key like this one, which stays good for a while.
pub async fn rotate(
    State(plane): State<Arc<Plane>>,
    Path(key): Path<ApiKeyId>,
    Extension(administrator): Extension<Administrator>,
    Body(rotation): Body<Rotation>,
) -> Answer {
    let overlap = Duration::from_secs(rotation.overlap_seconds);
    if overlap > MAX_OVERLAP {
        let why = "`overlap_seconds` is at most those of thirty days";
        return Err(Refusal::bad_request(why));
    }
    plane
        .blocking(move |plane| {
            let caller = administrator.identity_caller();
            let made = plane.provider.rotate_api_key(&key, overlap, &caller);
            Ok(Json(told(plane, &made.map_err(|error| refusal(&error))?)))
        })
        .await?
}

/// A key for a service that is not there, or takes none, would be found out at its first use. A tenant is told of no service
/// that is not open to it.
fn check_services(plane: &Plane, new: &NewApiKey) -> Result<(), Refusal> {
    let snapshot = plane.activation.current();
    let snapshot = snapshot.map_err(|error| Refusal::internal(&error))?;
    let services = snapshot
        .as_ref()
        .map(|snapshot| snapshot.services.as_slice());
    let is_open = |pattern: &TenantPattern| match pattern {
        TenantPattern::Any => true,
        TenantPattern::One(tenant) => tenant == plane.tenant(),
    };
    let takes_keys = |name: &ServiceName| {
        let mut services = services.unwrap_or_default().iter();
        services.any(|service| {
            service.name == *name && service.api_keys && service.tenants.iter().any(is_open)
        })
    };
    match new.services.iter().find(|name| !takes_keys(name)) {
        Some(name) => Err(Refusal::bad_request(format!(
            "no service `{name}` takes API keys: add `api_keys = true` to it in the fleet file first"
        ))),
        None => Ok(()),
    }
}

fn told(plane: &Plane, made: &MadeApiKey) -> Value {
    let mut shown = view(plane, &made.record);
    if let Some(members) = shown.as_object_mut() {
        members.insert("key".to_owned(), json!(made.key.expose()));
    }
    shown
}

fn account_of(plane: &Plane, key: &ApiKey) -> Option<String> {
    let account = plane.provider.service_account(&key.account).ok()?;
    Some(account.record.name.to_string())
}

fn view(plane: &Plane, key: &ApiKey) -> Value {
    json!({
        "id": key.id,
        "name": key.name,
        "account": account_of(plane, key),
        "scopes": key.scopes,
        "services": key.services,
        "networks": key.networks,
        "created": key.created_at.to_string(),
        "expires": key.expires_at.to_string(),
        "rotated_from": key.rotated_from,
    })
}
