//! Passkeys of users, and the links with which they get the first one.

use std::{sync::Arc, time::Duration};

use axum::{Extension, Json, extract::State};
use serde::Deserialize;
use serde_json::{Value, json};
use testudo_identity::{PasskeyId, PasskeyView};
use testudo_model::Username;

use super::{
    Administrator, Answer,
    extract::{Body, Path},
    users::{refusal, user_named},
};
use crate::{http::Refusal, plane::Plane};

/// `GET /api/v1/users/{username}/passkeys`.
pub async fn list(State(plane): State<Arc<Plane>>, Path(username): Path<Username>) -> Answer {
    plane
        .blocking(move |plane| {
            let user = user_named(plane, &username)?;
            let passkeys = plane.provider.passkeys_of(&user);
            let passkeys = passkeys.map_err(|fault| Refusal::internal(&fault))?;
            let items: Vec<Value> = passkeys.iter().map(view).collect();
            Ok(Json(json!({ "items": items })))
        })
        .await?
}

/// `DELETE /api/v1/users/{username}/passkeys/{passkey}`: they have lost it.
pub async fn remove(
    State(plane): State<Arc<Plane>>,
    Path((username, passkey)): Path<(Username, String)>,
    Extension(administrator): Extension<Administrator>,
) -> Answer {
    plane
        .blocking(move |plane| {
            let user = user_named(plane, &username)?;
            let passkey: PasskeyId = passkey.parse().map_err(|_| Refusal::not_found("passkey"))?;
            plane
                .provider
                .remove_passkey_of(&user, &passkey, &administrator.identity_caller())
                .map_err(|error| refusal(&error))?;
            Ok(Json(json!({ "removed": passkey })))
        })
        .await?
}

/// Body of an invitation.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lifetime {
    ttl_seconds: u64,
}

/// `POST /api/v1/users/{username}/invitation`: a link with which they add a passkey without a login. It is answered this once.
pub async fn invite(
    State(plane): State<Arc<Plane>>,
    Path(username): Path<Username>,
    Extension(administrator): Extension<Administrator>,
    Body(Lifetime { ttl_seconds }): Body<Lifetime>,
) -> Answer {
    plane
        .blocking(move |plane| {
            let user = user_named(plane, &username)?;
            let lifetime = Duration::from_secs(ttl_seconds);
            let caller = administrator.identity_caller();
            let made = plane.provider.invite_user(&user, lifetime, &caller);
            let made = made.map_err(|error| refusal(&error))?;
            Ok(Json(json!({
                "link": made.link.expose(),
                "expires": made.expires_at.to_string(),
            })))
        })
        .await?
}

fn view(passkey: &PasskeyView) -> Value {
    json!({
        "id": passkey.id,
        "name": passkey.name,
        "aaguid": passkey.aaguid,
        "attested": passkey.is_attested,
        "synchronised": passkey.is_synchronised,
        "created": passkey.created_at.to_string(),
        "last_used": passkey.last_used_at.map(|at| at.to_string()),
    })
}
