//! Users.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{Path, Query, State},
};
use serde::Deserialize;
use serde_json::{Value, json};
use testudo_identity::{AdminError, Caller, NewPassword, User};
use testudo_model::{Redacted, UserId, Username};
use testudo_store::Cursor;

use super::{Administrator, Answer};
use crate::{http::Refusal, plane::Plane};

/// Rows of a page at most.
const MAX_PAGE: usize = 1000;

/// `?limit=…&after=…`.
#[derive(Deserialize)]
pub struct Paging {
    #[serde(default = "default_limit")]
    limit: usize,
    after: Option<String>,
}

const fn default_limit() -> usize {
    100
}

impl Paging {
    /// Where to begin, and how many rows at most.
    pub(super) fn read(&self) -> Result<(Option<Cursor>, usize), Refusal> {
        let after = self.after.as_deref().map(str::parse::<Cursor>).transpose();
        let wrong = |_| Refusal::bad_request("`after` is the `next` of the page before");
        Ok((after.map_err(wrong)?, self.limit.clamp(1, MAX_PAGE)))
    }
}

/// `GET /api/v1/users`.
pub async fn list(State(plane): State<Arc<Plane>>, Query(paging): Query<Paging>) -> Answer {
    plane
        .blocking(move |plane| {
            let (after, limit) = paging.read()?;
            let page = plane
                .provider
                .users(after, limit)
                .map_err(|error| refusal(&error))?;
            let items: Vec<Value> = page
                .items
                .iter()
                .map(|stored| view(&stored.record))
                .collect();
            let next = page.next.map(|cursor| cursor.to_string());
            Ok(Json(json!({ "items": items, "next": next })))
        })
        .await?
}

/// `GET /api/v1/users/{username}`.
pub async fn show(State(plane): State<Arc<Plane>>, Path(username): Path<Username>) -> Answer {
    plane
        .blocking(move |plane| {
            let user = plane
                .provider
                .user_by_name(&username)
                .map_err(|error| refusal(&error))?;
            Ok(Json(view(&user.record)))
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
    Json(Password { password }): Json<Password>,
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
            let user = plane.provider.user(&id).map_err(|error| refusal(&error))?;
            Ok(Json(view(&user.record)))
        })
        .await?
}

fn view(user: &User) -> Value {
    json!({
        "id": user.id,
        "username": user.username,
        "display_name": user.display_name,
        "email": user.email,
        "disabled": user.disabled,
        "clearance": user.clearance,
        "groups": user.groups,
        "roles": user.roles,
        "created": user.created_at.to_string(),
        "updated": user.updated_at.to_string(),
    })
}

/// The answer to a refused administrative operation.
pub fn refusal(error: &AdminError) -> Refusal {
    match error.status() {
        status @ 400..500 => Refusal::new(status, error.code(), "the operation was refused")
            .detail(error.to_string()),
        _ => Refusal::internal(error),
    }
}
