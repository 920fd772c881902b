//! Tenants.

use std::sync::Arc;

use axum::{Extension, Json, extract::State};
use serde::Deserialize;
use serde_json::{Value, json};
use testudo_model::TenantName;

use super::{
    Administrator, Answer,
    extract::{Body, Path, Query},
    paging::Paging,
};
use crate::{
    http::Refusal,
    plane::Plane,
    tenants::{TenantError, TenantRecord},
};

/// A new tenant.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct New {
    name: TenantName,
    display_name: Option<String>,
}

/// What may be changed of one.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    display_name: String,
}

/// `GET /api/v1/tenants`.
pub async fn list(State(plane): State<Arc<Plane>>, Query(paging): Query<Paging>) -> Answer {
    plane
        .blocking(move |plane| {
            let all = plane.tenants.all();
            let all = all.map_err(|error| Refusal::internal(&error))?;
            let view = |tenant: &TenantRecord| view(plane, tenant);
            let names = |tenant: &TenantRecord| tenant.name.to_string();
            Ok(Json(paging.page_of(&all, names, view)?))
        })
        .await?
}

/// `POST /api/v1/tenants`.
pub async fn create(
    State(plane): State<Arc<Plane>>,
    Extension(administrator): Extension<Administrator>,
    Body(new): Body<New>,
) -> Answer {
    plane
        .blocking(move |plane| {
            let display_name = new.display_name.unwrap_or_else(|| new.name.to_string());
            let made = plane.create_tenant(&new.name, &display_name, &administrator);
            Ok(Json(view(plane, &made.map_err(|error| refusal(&error))?)))
        })
        .await?
}

/// `PUT /api/v1/tenants/{tenant}`.
pub async fn replace(
    State(plane): State<Arc<Plane>>,
    Path(tenant): Path<TenantName>,
    Extension(administrator): Extension<Administrator>,
    Body(profile): Body<Profile>,
) -> Answer {
    let change = Change {
        activity: "tenant.update",
        display_name: Some(profile.display_name),
        disabled: None,
    };
    changed(plane, tenant, administrator, change).await
}

/// `POST /api/v1/tenants/{tenant}/disable`.
pub async fn disable(
    State(plane): State<Arc<Plane>>,
    Path(tenant): Path<TenantName>,
    Extension(administrator): Extension<Administrator>,
) -> Answer {
    let change = Change {
        activity: "tenant.disable",
        display_name: None,
        disabled: Some(true),
    };
    changed(plane, tenant, administrator, change).await
}

/// `POST /api/v1/tenants/{tenant}/enable`.
pub async fn enable(
    State(plane): State<Arc<Plane>>,
    Path(tenant): Path<TenantName>,
    Extension(administrator): Extension<Administrator>,
) -> Answer {
    let change = Change {
        activity: "tenant.enable",
        display_name: None,
        disabled: Some(false),
    };
    changed(plane, tenant, administrator, change).await
}

struct Change {
    activity: &'static str,
    display_name: Option<String>,
    disabled: Option<bool>,
}

async fn changed(
    plane: Arc<Plane>,
    tenant: TenantName,
    administrator: Administrator,
    change: Change,
) -> Answer {
    plane
        .blocking(move |plane| {
            let stored = plane
                .tenants
                .get(&tenant)
                .map_err(|error| refusal(&error))?;
            let before = &stored.record;
            let name = change.display_name.unwrap_or(before.display_name.clone());
            let disabled = change.disabled.unwrap_or(before.disabled);
            let event = plane.tenant_event(change.activity, &tenant, &administrator);
            let done = plane.tenants.change(stored, &name, disabled, &event);
            Ok(Json(view(plane, &done.map_err(|error| refusal(&error))?)))
        })
        .await?
}

fn view(plane: &Plane, tenant: &TenantRecord) -> Value {
    json!({
        "name": tenant.name,
        "display_name": tenant.display_name,
        "issuer": plane.tenants.issuer(&tenant.name),
        "disabled": tenant.disabled,
        "created": tenant.created_at.to_string(),
        "updated": tenant.updated_at.to_string(),
    })
}

fn refusal(error: &TenantError) -> Refusal {
    let (status, code) = match error {
        TenantError::Unknown(_) => (404, "identity.not_found"),
        TenantError::Taken(_) => (409, "identity.name_taken"),
        TenantError::Contended => (409, "identity.stale_version"),
        TenantError::Reserved(_) | TenantError::DisplayName | TenantError::TooMany => {
            (400, "identity.invalid")
        }
        TenantError::Identity(_) | TenantError::Store(_) | TenantError::Seed(_) => {
            return Refusal::internal(error);
        }
    };
    Refusal::new(status, code, "the operation was refused").detail(error.to_string())
}
