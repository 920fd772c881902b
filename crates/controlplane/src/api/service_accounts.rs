//! Service accounts.

use std::sync::Arc;

use axum::{Extension, Json, extract::State};
use serde_json::{Map, Value, json};
use testudo_identity::{NewSecret, ServiceAccount, ServiceAccountProfile};
use testudo_model::{ClientName, ServiceAccountId};
use testudo_store::Versioned;

use super::{
    Administrator, Answer,
    extract::{Body, Decided, Path, Query, apart},
    paging::Paging,
    reserved::Granted,
    users::refusal,
};
use crate::{http::Refusal, plane::Plane};

/// `GET /api/v1/service-accounts`.
pub async fn list(State(plane): State<Arc<Plane>>, Query(paging): Query<Paging>) -> Answer {
    plane
        .blocking(move |plane| {
            let read = |after, limit| plane.provider.service_accounts(after, limit);
            let wanted = |account: &ServiceAccount| paging.wants(&[account.name.as_str()]);
            Ok(Json(paging.page(read, wanted, view)?))
        })
        .await?
}

/// `POST /api/v1/service-accounts`: a profile with a `name`. One that has no other way to prove itself gets a secret; the
/// answer has it, and it cannot be asked for again.
pub async fn create(
    State(plane): State<Arc<Plane>>,
    Extension(administrator): Extension<Administrator>,
    Body(new): Body<Map<String, Value>>,
) -> Answer {
    plane
        .hashing(move |plane| {
            let (name, profile): (ClientName, ServiceAccountProfile) = apart(new, "name")?;
            let granted = Granted::account(&profile);
            administrator.may_grant(plane, name.as_str(), &Granted::NOTHING, &granted)?;
            administrator.may_describe_account(plane, name.as_str(), &profile)?;
            let has_proof = profile.jwks.is_some()
                || !profile.workloads.is_empty()
                || !profile.external.is_empty();
            let secret = if has_proof {
                NewSecret::None
            } else {
                NewSecret::Generate
            };
            let caller = administrator.identity_caller();
            let provider = &plane.provider;
            let made = provider.create_service_account(&name, profile, &secret, &caller);
            let made = made.map_err(|error| refusal(&error))?;
            let mut shown = shown(plane, &made.record.id)?;
            if let Some(fields) = shown.as_object_mut() {
                let secret = made.generated.as_ref().map(|secret| secret.expose());
                fields.insert("secret".to_owned(), json!(secret));
            }
            Ok(Json(shown))
        })
        .await?
}

/// `GET /api/v1/service-accounts/{account}`.
pub async fn show(State(plane): State<Arc<Plane>>, Path(account): Path<ClientName>) -> Answer {
    plane
        .blocking(move |plane| Ok(Json(view(&found(plane, &account)?))))
        .await?
}

/// `PUT /api/v1/service-accounts/{account}`: a profile.
pub async fn replace(
    State(plane): State<Arc<Plane>>,
    Path(account): Path<ClientName>,
    Extension(administrator): Extension<Administrator>,
    Query(Decided { version }): Query<Decided>,
    Body(profile): Body<ServiceAccountProfile>,
) -> Answer {
    plane
        .blocking(move |plane| {
            let stored = found(plane, &account)?;
            let known = stored.record;
            let before = Granted::of(&known.groups, &known.roles, known.clearance);
            let after = Granted::account(&profile);
            administrator.may_grant(plane, account.as_str(), &before, &after)?;
            administrator.may_describe_account(plane, account.as_str(), &profile)?;
            let (id, version) = (known.id, version.unwrap_or(stored.version));
            let caller = administrator.identity_caller();
            let provider = &plane.provider;
            let done = provider.update_service_account(&id, version, profile, &caller);
            done.map_err(|error| refusal(&error))?;
            Ok(Json(shown(plane, &id)?))
        })
        .await?
}

/// `DELETE /api/v1/service-accounts/{account}`: its tokens end, its name is free again.
pub async fn delete(
    State(plane): State<Arc<Plane>>,
    Path(account): Path<ClientName>,
    Extension(administrator): Extension<Administrator>,
) -> Answer {
    plane
        .blocking(move |plane| {
            let Versioned { record, version } = found(plane, &account)?;
            let caller = administrator.identity_caller();
            let provider = &plane.provider;
            let done = provider.delete_service_account(&record.id, version, &caller);
            done.map_err(|error| refusal(&error))?;
            Ok(Json(json!({ "deleted": record.id })))
        })
        .await?
}

/// `POST /api/v1/service-accounts/{account}/disable`: its tokens and API keys end, and it gets no others.
pub async fn disable(
    State(plane): State<Arc<Plane>>,
    Path(account): Path<ClientName>,
    Extension(administrator): Extension<Administrator>,
) -> Answer {
    set_disabled(plane, account, administrator, true).await
}

/// `POST /api/v1/service-accounts/{account}/enable`.
pub async fn enable(
    State(plane): State<Arc<Plane>>,
    Path(account): Path<ClientName>,
    Extension(administrator): Extension<Administrator>,
) -> Answer {
    set_disabled(plane, account, administrator, false).await
}

async fn set_disabled(
    plane: Arc<Plane>,
    account: ClientName,
    administrator: Administrator,
    disabled: bool,
) -> Answer {
    plane
        .blocking(move |plane| {
            let id = found(plane, &account)?.record.id;
            let caller = administrator.identity_caller();
            let provider = &plane.provider;
            let done = provider.set_service_account_disabled(&id, disabled, &caller);
            done.map_err(|error| refusal(&error))?;
            Ok(Json(shown(plane, &id)?))
        })
        .await?
}

fn found(plane: &Plane, name: &ClientName) -> Result<Versioned<ServiceAccount>, Refusal> {
    let stored = plane.provider.service_account_by_name(name);
    stored.map_err(|error| refusal(&error))
}

fn shown(plane: &Plane, id: &ServiceAccountId) -> Result<Value, Refusal> {
    let stored = plane.provider.service_account(id);
    Ok(view(&stored.map_err(|error| refusal(&error))?))
}

fn view(stored: &Versioned<ServiceAccount>) -> Value {
    let account = &stored.record;
    json!({
        "id": account.id,
        "name": account.name,
        "description": account.description,
        "disabled": account.disabled,
        "clearance": account.clearance,
        "groups": account.groups,
        "roles": account.roles,
        "scopes": account.scopes,
        "workloads": account.workloads,
        "jwks": account.jwks,
        "external": account.external,
        "signals": account.signals,
        "version": stored.version,
        "created": account.created_at.to_string(),
        "updated": account.updated_at.to_string(),
    })
}
