//! OAuth clients, and the secrets of clients and service accounts.

use std::{sync::Arc, time::Duration};

use axum::{Extension, Json, extract::State};
use serde::Deserialize;
use serde_json::{Value, json};
use testudo_identity::Client;
use testudo_model::ClientName;

use super::{
    Administrator, Answer,
    extract::{Body, Path, Query},
    paging::Paging,
    users::refusal,
};
use crate::{http::Refusal, plane::Plane};

/// Longest time for which two secrets are good.
const MAX_OVERLAP: Duration = Duration::from_secs(7 * 24 * 3600);

/// Body of a rotation.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rotation {
    /// How long the secret before stays good.
    overlap_seconds: u64,
}

/// `GET /api/v1/clients`: those of the fleet file, and those that registered themselves.
pub async fn list(State(plane): State<Arc<Plane>>, Query(paging): Query<Paging>) -> Answer {
    plane
        .blocking(move |plane| {
            let read = |after, limit| plane.provider.clients(after, limit);
            let wanted =
                |client: &Client| paging.wants(&[client.client_id.as_str(), &client.display_name]);
            Ok(Json(
                paging.page(read, wanted, |stored| view(&stored.record))?,
            ))
        })
        .await?
}

/// `DELETE /api/v1/clients/{client}`. A client of the fleet file comes back with the next `testudo apply`.
pub async fn delete(
    State(plane): State<Arc<Plane>>,
    Path(client): Path<ClientName>,
    Extension(administrator): Extension<Administrator>,
) -> Answer {
    plane
        .blocking(move |plane| {
            let caller = administrator.identity_caller();
            let stored = plane
                .provider
                .client(&client)
                .map_err(|error| refusal(&error))?;
            plane
                .provider
                .delete_client(&client, stored.version, &caller)
                .map_err(|error| refusal(&error))?;
            Ok(Json(view(&stored.record)))
        })
        .await?
}

fn view(client: &Client) -> Value {
    let registered = client.registered.as_ref();
    json!({
        "client_id": client.client_id,
        "name": client.display_name,
        "kind": client.kind,
        "grants": client.grants.iter().map(|grant| grant.as_str()).collect::<Vec<_>>(),
        "scopes": client.scopes,
        "redirect_uris": client.redirect_uris,
        "disabled": client.disabled,
        "created": client.created_at.to_string(),
        "registered_with": registered.map(|registered| &registered.token),
        "about": registered.map(|registered| &registered.about),
        "expires": registered.and_then(|registered| registered.expires_at).map(|at| at.to_string()),
    })
}

/// `POST /api/v1/clients/{client}/rotate-secret`. The answer has the new secret; it cannot be asked for again.
pub async fn rotate_secret(
    State(plane): State<Arc<Plane>>,
    Path(client): Path<ClientName>,
    Extension(administrator): Extension<Administrator>,
    Body(rotation): Body<Rotation>,
) -> Answer {
    let overlap = Duration::from_secs(rotation.overlap_seconds);
    if overlap > MAX_OVERLAP {
        return Err(Refusal::bad_request(
            "`overlap_seconds` is at most those of seven days",
        ));
    }
    plane
        .blocking(move |plane| {
            let caller = administrator.identity_caller();
            let secret = plane
                .provider
                .rotate_client_secret(&client, overlap, &caller)
                .map_err(|error| refusal(&error))?;
            let before_ends = plane.clock.now() + overlap;
            Ok(Json(json!({
                "client_id": client,
                "secret": secret.expose(),
                "previous_secret_ends": before_ends.to_string(),
            })))
        })
        .await?
}
