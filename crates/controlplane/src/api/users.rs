//! Users.

use std::sync::Arc;

use axum::{Extension, Json, extract::State};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use testudo_identity::{AdminError, Caller, NewPassword, User, UserProfile};
use testudo_model::{Redacted, UserId, Username};
use testudo_store::Versioned;

use super::{
    Administrator, Answer,
    extract::{Body, Decided, Path, Query, apart},
    paging::Paging,
    reserved::Granted,
};
use crate::{http::Refusal, plane::Plane};

/// `GET /api/v1/users`.
pub async fn list(State(plane): State<Arc<Plane>>, Query(paging): Query<Paging>) -> Answer {
    plane
        .blocking(move |plane| {
            let read = |after, limit| plane.provider.users(after, limit);
            let wanted = |user: &User| {
                let display_name = user.display_name.as_deref().unwrap_or("");
                let email = user.email.as_deref().unwrap_or("");
                paging.wants(&[user.username.as_str(), display_name, email])
            };
            Ok(Json(paging.page(read, wanted, view)?))
        })
        .await?
}

/// `POST /api/v1/users`: a profile with a `username`, and a `password`, without which they cannot log in.
pub async fn create(
    State(plane): State<Arc<Plane>>,
    Extension(administrator): Extension<Administrator>,
    Body(new): Body<Map<String, Value>>,
) -> Answer {
    plane
        .hashing(move |plane| {
            let (username, rest): (Username, Map<String, Value>) = apart(new, "username")?;
            let (password, profile): (_, UserProfile) = apart(rest, "password")?;
            let granted = Granted::user(&profile);
            administrator.may_grant(plane, username.as_str(), &Granted::NOTHING, &granted)?;
            let password = Option::<Redacted<String>>::map(password, NewPassword::Given);
            let caller = administrator.identity_caller();
            let provider = &plane.provider;
            let made = provider.create_user(&username, profile, password.as_ref(), &caller);
            let id = made.map_err(|error| refusal(&error))?.record.id;
            shown(plane, &id)
        })
        .await?
}

/// `PUT /api/v1/users/{username}`.
pub async fn replace(
    State(plane): State<Arc<Plane>>,
    Path(username): Path<Username>,
    Extension(administrator): Extension<Administrator>,
    Query(Decided { version }): Query<Decided>,
    Body(profile): Body<UserProfile>,
) -> Answer {
    plane
        .blocking(move |plane| {
            let stored = plane.provider.user_by_name(&username);
            let stored = stored.map_err(|error| refusal(&error))?;
            let user = stored.record;
            let before = Granted::of(&user.groups, &user.roles, user.clearance);
            let after = Granted::user(&profile);
            administrator.may_grant(plane, username.as_str(), &before, &after)?;
            let (id, version) = (user.id, version.unwrap_or(stored.version));
            let caller = administrator.identity_caller();
            let done = plane.provider.update_user(&id, version, profile, &caller);
            done.map_err(|error| refusal(&error))?;
            shown(plane, &id)
        })
        .await?
}

/// `DELETE /api/v1/users/{username}`: their tokens and sessions end; the name is free again.
pub async fn delete(
    State(plane): State<Arc<Plane>>,
    Path(username): Path<Username>,
    Extension(administrator): Extension<Administrator>,
) -> Answer {
    plane
        .blocking(move |plane| {
            let stored = plane.provider.user_by_name(&username);
            let id = stored.map_err(|error| refusal(&error))?.record.id;
            let caller = administrator.identity_caller();
            let done = plane.provider.delete_user(&id, &caller);
            done.map_err(|error| refusal(&error))?;
            Ok(Json(json!({ "deleted": id })))
        })
        .await?
}

/// `GET /api/v1/users/{username}`: with all that groups in groups give.
pub async fn show(State(plane): State<Arc<Plane>>, Path(username): Path<Username>) -> Answer {
    plane
        .blocking(move |plane| {
            let stored = plane.provider.user_by_name(&username);
            let id = stored.map_err(|error| refusal(&error))?.record.id;
            shown(plane, &id)
        })
        .await?
}

/// `POST /api/v1/users/{username}/disable`.
pub async fn disable(
    State(plane): State<Arc<Plane>>,
    Path(username): Path<Username>,
    Extension(administrator): Extension<Administrator>,
) -> Answer {
    change(&plane, username, administrator, |plane, id, caller| {
        plane.provider.disable_user(id, caller)
    })
    .await
}

/// `POST /api/v1/users/{username}/enable`.
pub async fn enable(
    State(plane): State<Arc<Plane>>,
    Path(username): Path<Username>,
    Extension(administrator): Extension<Administrator>,
) -> Answer {
    change(&plane, username, administrator, |plane, id, caller| {
        plane.provider.enable_user(id, caller)
    })
    .await
}

/// `POST /api/v1/users/{username}/reset-second-factor`: they have lost it.
pub async fn reset_second_factor(
    State(plane): State<Arc<Plane>>,
    Path(username): Path<Username>,
    Extension(administrator): Extension<Administrator>,
) -> Answer {
    change(&plane, username, administrator, |plane, id, caller| {
        Ok(plane.provider.reset_second_factors(id, caller)?)
    })
    .await
}

/// `POST /api/v1/users/{username}/verify-email`: the administrator says that the address is theirs.
pub async fn verify_email(
    State(plane): State<Arc<Plane>>,
    Path(username): Path<Username>,
    Extension(administrator): Extension<Administrator>,
) -> Answer {
    change(&plane, username, administrator, |plane, id, caller| {
        plane.provider.vouch_for_address(id, caller)
    })
    .await
}

/// Body of a password change.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Password {
    password: Redacted<String>,
}

/// `PUT /api/v1/users/{username}/password`.
pub async fn set_password(
    State(plane): State<Arc<Plane>>,
    Path(username): Path<Username>,
    Extension(administrator): Extension<Administrator>,
    Body(Password { password }): Body<Password>,
) -> Answer {
    let password = NewPassword::Given(password);
    change(&plane, username, administrator, move |plane, id, caller| {
        plane
            .provider
            .set_password(id, &password, caller)
            .map(|_| ())
    })
    .await
}

async fn change<F>(
    plane: &Arc<Plane>,
    username: Username,
    administrator: Administrator,
    work: F,
) -> Answer
where
    F: FnOnce(&Plane, &UserId, &Caller) -> Result<(), AdminError> + Send + 'static,
{
    plane
        .hashing(move |plane| {
            let id = plane
                .provider
                .user_by_name(&username)
                .map_err(|error| refusal(&error))?
                .record
                .id;
            work(plane, &id, &administrator.identity_caller()).map_err(|error| refusal(&error))?;
            shown(plane, &id)
        })
        .await?
}

fn shown(plane: &Plane, id: &UserId) -> Answer {
    let stored = plane.provider.user(id).map_err(|error| refusal(&error))?;
    let (own, groups) = (&stored.record.roles, &stored.record.groups);
    let standing = plane.provider.standing_of(own, groups);
    let standing = standing.map_err(|fault| Refusal::internal(&fault))?;
    let mut shown = view(&stored);
    if let Some(shown) = shown.as_object_mut() {
        shown.insert("all_groups".to_owned(), json!(standing.groups));
        shown.insert("all_roles".to_owned(), json!(standing.roles));
    }
    Ok(Json(shown))
}

fn view(stored: &Versioned<User>) -> Value {
    let user = &stored.record;
    json!({
        "id": user.id,
        "username": user.username,
        "display_name": user.display_name,
        "email": user.email,
        "email_verified": user.email_verified,
        "disabled": user.disabled,
        "clearance": user.clearance,
        "groups": user.groups,
        "roles": user.roles,
        "version": stored.version,
        "created": user.created_at.to_string(),
        "updated": user.updated_at.to_string(),
    })
}

/// The user of a path.
pub fn user_named(plane: &Plane, username: &Username) -> Result<UserId, Refusal> {
    let user = plane.provider.user_by_name(username);
    Ok(user.map_err(|error| refusal(&error))?.record.id)
}

/// The answer to a refused administrative operation.
pub fn refusal(error: &AdminError) -> Refusal {
    match error.status() {
        status @ 400..500 => Refusal::new(status, error.code(), "the operation was refused")
            .detail(error.to_string()),
        _ => Refusal::internal(error),
    }
}
