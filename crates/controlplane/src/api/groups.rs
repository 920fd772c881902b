//! Groups, and who is in them.

use std::sync::Arc;

use axum::{Extension, Json, extract::State};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use testudo_identity::{Group, GroupProfile, MemberKind, MemberView};
use testudo_model::GroupName;
use testudo_store::Versioned;

use super::{
    AdminAction, Administrator, Answer,
    extract::{Body, Decided, Path, Query, apart},
    paging::Paging,
    reserved::Granted,
    users::refusal,
};
use crate::{http::Refusal, plane::Plane};

/// `GET /api/v1/groups`.
pub async fn list(State(plane): State<Arc<Plane>>, Query(paging): Query<Paging>) -> Answer {
    plane
        .blocking(move |plane| {
            let read = |after, limit| plane.provider.groups(after, limit);
            let wanted = |group: &Group| {
                let shown = group.display_name.as_deref().unwrap_or("");
                paging.wants(&[group.name.as_str(), shown])
            };
            Ok(Json(paging.page(read, wanted, view)?))
        })
        .await?
}

/// `POST /api/v1/groups`: a profile with a `name`.
pub async fn create(
    State(plane): State<Arc<Plane>>,
    Extension(administrator): Extension<Administrator>,
    Body(new): Body<Map<String, Value>>,
) -> Answer {
    plane
        .blocking(move |plane| {
            let (name, profile): (GroupName, GroupProfile) = apart(new, "name")?;
            administrator.may_name(plane, AdminAction::GroupWrite, name.as_str())?;
            let gives = Granted::group(&profile);
            administrator.may_grant(plane, name.as_str(), &Granted::NOTHING, &gives)?;
            let caller = administrator.identity_caller();
            let made = plane.provider.create_group(&name, profile, &caller);
            made.map_err(|error| refusal(&error))?;
            shown(plane, &name)
        })
        .await?
}

/// `GET /api/v1/groups/{group}`.
pub async fn show(State(plane): State<Arc<Plane>>, Path(group): Path<GroupName>) -> Answer {
    plane.blocking(move |plane| shown(plane, &group)).await?
}

/// `PUT /api/v1/groups/{group}`.
pub async fn replace(
    State(plane): State<Arc<Plane>>,
    Path(group): Path<GroupName>,
    Extension(administrator): Extension<Administrator>,
    Query(Decided { version }): Query<Decided>,
    Body(profile): Body<GroupProfile>,
) -> Answer {
    plane
        .blocking(move |plane| {
            let caller = administrator.identity_caller();
            let provider = &plane.provider;
            let stored = provider.group(&group).map_err(|error| refusal(&error))?;
            let before = Granted::of(&stored.record.parents, &stored.record.roles, 0);
            let after = Granted::group(&profile);
            administrator.may_grant(plane, group.as_str(), &before, &after)?;
            let version = version.unwrap_or(stored.version);
            let done = provider.update_group(&group, version, profile, &caller);
            done.map_err(|error| refusal(&error))?;
            shown(plane, &group)
        })
        .await?
}

/// `?version=…&dissolve=…`.
#[derive(Deserialize)]
pub struct Deletion {
    version: Option<u64>,
    #[serde(default)]
    dissolve: bool,
}

/// `DELETE /api/v1/groups/{group}`: of one that nobody is in, or, with `dissolve`, of any.
pub async fn delete(
    State(plane): State<Arc<Plane>>,
    Path(group): Path<GroupName>,
    Query(Deletion { version, dissolve }): Query<Deletion>,
    Extension(administrator): Extension<Administrator>,
) -> Answer {
    plane
        .blocking(move |plane| {
            let caller = administrator.identity_caller();
            let version = version_of(plane, &group, version)?;
            let provider = &plane.provider;
            let done = provider.delete_group(&group, version, dissolve, &caller);
            done.map_err(|error| refusal(&error))?;
            Ok(Json(json!({ "deleted": group })))
        })
        .await?
}

/// `?nested=…&kind=…`.
#[derive(Deserialize)]
pub struct Which {
    #[serde(default)]
    nested: bool,
    kind: Option<String>,
}

/// `GET /api/v1/groups/{group}/members`.
pub async fn members(
    State(plane): State<Arc<Plane>>,
    Path(group): Path<GroupName>,
    Query(which): Query<Which>,
    Query(paging): Query<Paging>,
) -> Answer {
    plane
        .blocking(move |plane| {
            paging.check()?;
            let kind = which.kind.as_deref().map(str::parse::<MemberKind>);
            let kind = kind.transpose().map_err(|error| refusal(&error))?;
            let found = plane.provider.members(&group, which.nested);
            let mut found = found.map_err(|error| refusal(&error))?;
            found.retain(|member| {
                kind.is_none_or(|kind| kind == member.kind)
                    && paging.wants(&[&member.name])
                    && paging.after().is_none_or(|after| *place(member) > *after)
            });
            let is_last = found.len() <= paging.limit();
            found.truncate(paging.limit());
            let next = found.last().filter(|_| !is_last).map(place);
            Ok(Json(json!({ "items": found, "next": next })))
        })
        .await?
}

/// Where a member is in the list.
fn place(member: &MemberView) -> String {
    format!("{}:{}", member.kind, member.name)
}

/// `PUT /api/v1/groups/{group}/members/{kind}/{member}`.
pub async fn add_member(
    State(plane): State<Arc<Plane>>,
    Path(path): Path<(GroupName, String, String)>,
    Extension(administrator): Extension<Administrator>,
) -> Answer {
    change_member(plane, path, administrator, true).await
}

/// `DELETE /api/v1/groups/{group}/members/{kind}/{member}`.
pub async fn remove_member(
    State(plane): State<Arc<Plane>>,
    Path(path): Path<(GroupName, String, String)>,
    Extension(administrator): Extension<Administrator>,
) -> Answer {
    change_member(plane, path, administrator, false).await
}

async fn change_member(
    plane: Arc<Plane>,
    (group, kind, member): (GroupName, String, String),
    administrator: Administrator,
    is_in: bool,
) -> Answer {
    plane
        .blocking(move |plane| {
            let caller = administrator.identity_caller();
            let kind: MemberKind = kind.parse().map_err(|error| refusal(&error))?;
            let provider = &plane.provider;
            let changed = if is_in {
                provider.add_member(&group, kind, &member, &caller)
            } else {
                provider.remove_member(&group, kind, &member, &caller)
            };
            let changed = changed.map_err(|error| refusal(&error))?;
            Ok(Json(json!({
                "group": group,
                "kind": kind,
                "member": member,
                "is_in": is_in,
                "changed": changed,
            })))
        })
        .await?
}

fn version_of(plane: &Plane, group: &GroupName, given: Option<u64>) -> Result<u64, Refusal> {
    match given {
        Some(version) => Ok(version),
        None => {
            let stored = plane.provider.group(group);
            Ok(stored.map_err(|error| refusal(&error))?.version)
        }
    }
}

fn shown(plane: &Plane, group: &GroupName) -> Answer {
    let stored = plane.provider.group(group);
    Ok(Json(view(&stored.map_err(|error| refusal(&error))?)))
}

fn view(stored: &Versioned<Group>) -> Value {
    let group = &stored.record;
    json!({
        "id": group.id,
        "name": group.name,
        "display_name": group.display_name,
        "description": group.description,
        "external_id": group.external_id,
        "parents": group.parents,
        "roles": group.roles,
        "version": stored.version,
        "created": group.created_at.to_string(),
        "updated": group.updated_at.to_string(),
    })
}
