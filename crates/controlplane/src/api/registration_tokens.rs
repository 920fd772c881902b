//! Tokens with which OAuth clients are registered. The secret half is shown once, to who made the token.

use std::{sync::Arc, time::Duration};

use axum::{Extension, Json, extract::State};
use serde::Deserialize;
use serde_json::{Value, json};
use testudo_identity::{NewRegistrationToken, RegistrationToken};
use testudo_model::RegistrationTokenId;

use super::{
    Administrator, Answer,
    extract::{Body, Path, Query},
    paging::Paging,
    users::refusal,
};
use crate::{http::Refusal, plane::Plane};

/// Body of a request for a token.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    #[serde(default)]
    label: Option<String>,
    #[serde(default = "once")]
    uses: u32,
    ttl_seconds: u64,
}

const fn once() -> u32 {
    1
}

/// `POST /api/v1/registration-tokens`.
pub async fn create(
    State(plane): State<Arc<Plane>>,
    Extension(administrator): Extension<Administrator>,
    Body(wanted): Body<Wanted>,
) -> Answer {
    plane
        .blocking(move |plane| {
            let registration = plane.provider.registration_policy();
            let registration = registration.map_err(|fault| Refusal::internal(&fault))?;
            if registration.is_none() {
                let why = "clients cannot register themselves: add `[registration]` to the fleet file first";
                return Err(Refusal::bad_request(why));
            }
            let new = NewRegistrationToken {
                label: wanted.label,
                uses: wanted.uses,
                lifetime: Duration::from_secs(wanted.ttl_seconds),
            };
            let caller = administrator.identity_caller();
            let (token, text) = plane
                .provider
                .create_registration_token(&new, &caller)
                .map_err(|error| refusal(&error))?;
            let mut made = view(&token);
            if let Some(members) = made.as_object_mut() {
                members.insert("token".to_owned(), text.expose().as_str().into());
            }
            Ok(Json(made))
        })
        .await?
}

/// `GET /api/v1/registration-tokens`: those that may still be used.
pub async fn list(State(plane): State<Arc<Plane>>, Query(paging): Query<Paging>) -> Answer {
    plane
        .blocking(move |plane| {
            let read = |after, limit| plane.provider.registration_tokens(after, limit);
            let wanted = |token: &RegistrationToken| {
                paging.wants(&[token.id.as_str(), token.label.as_deref().unwrap_or("")])
            };
            Ok(Json(
                paging.page(read, wanted, |stored| view(&stored.record))?,
            ))
        })
        .await?
}

/// `DELETE /api/v1/registration-tokens/{registration_token}`, by its id. What was registered with it stays.
pub async fn delete(
    State(plane): State<Arc<Plane>>,
    Path(token): Path<RegistrationTokenId>,
    Extension(administrator): Extension<Administrator>,
) -> Answer {
    plane
        .blocking(move |plane| {
            let deleted = plane
                .provider
                .delete_registration_token(&token, &administrator.identity_caller())
                .map_err(|error| refusal(&error))?;
            Ok(Json(view(&deleted)))
        })
        .await?
}

fn view(token: &RegistrationToken) -> Value {
    json!({
        "id": token.id,
        "label": token.label,
        "uses_left": token.uses_left,
        "created": token.created_at.to_string(),
        "expires": token.expires_at.to_string(),
    })
}
