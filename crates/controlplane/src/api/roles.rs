//! Roles.

use std::sync::Arc;

use axum::{Extension, Json, extract::State};
use serde_json::{Map, Value, json};
use testudo_identity::{Role, RoleProfile};
use testudo_model::RoleName;
use testudo_store::Versioned;

use super::{
    AdminAction, Administrator, Answer,
    extract::{Body, Path, Query, apart},
    paging::Paging,
    users::refusal,
};
use crate::plane::Plane;

/// `GET /api/v1/roles`.
pub async fn list(State(plane): State<Arc<Plane>>, Query(paging): Query<Paging>) -> Answer {
    plane
        .blocking(move |plane| {
            let read = |after, limit| plane.provider.roles(after, limit);
            let wanted = |role: &Role| paging.wants(&[role.name.as_str()]);
            Ok(Json(paging.page(read, wanted, view)?))
        })
        .await?
}

/// `POST /api/v1/roles`: a profile with a `name`.
pub async fn create(
    State(plane): State<Arc<Plane>>,
    Extension(administrator): Extension<Administrator>,
    Body(new): Body<Map<String, Value>>,
) -> Answer {
    plane
        .blocking(move |plane| {
            let (name, profile): (RoleName, RoleProfile) = apart(new, "name")?;
            administrator.may_name(plane, AdminAction::RoleWrite, name.as_str())?;
            let caller = administrator.identity_caller();
            let made = plane.provider.create_role(&name, profile, &caller);
            made.map_err(|error| refusal(&error))?;
            let stored = plane.provider.role(&name);
            Ok(Json(view(&stored.map_err(|error| refusal(&error))?)))
        })
        .await?
}

/// `DELETE /api/v1/roles/{role}`: of one that nobody has.
pub async fn delete(
    State(plane): State<Arc<Plane>>,
    Path(role): Path<RoleName>,
    Extension(administrator): Extension<Administrator>,
) -> Answer {
    plane
        .blocking(move |plane| {
            let caller = administrator.identity_caller();
            let version = plane.provider.role(&role).map(|stored| stored.version);
            let version = version.map_err(|error| refusal(&error))?;
            let done = plane.provider.delete_role(&role, version, &caller);
            done.map_err(|error| refusal(&error))?;
            Ok(Json(json!({ "deleted": role })))
        })
        .await?
}

fn view(stored: &Versioned<Role>) -> Value {
    let role = &stored.record;
    json!({
        "name": role.name,
        "description": role.description,
        "version": stored.version,
        "created": role.created_at.to_string(),
        "updated": role.updated_at.to_string(),
    })
}
