//! Secrets of clients and service accounts.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Json,
    extract::{Path, State},
};
use serde::Deserialize;
use serde_json::json;
use testudo_model::ClientName;

use super::{Administrator, Answer, users::refusal};
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

/// `POST /api/v1/clients/{client}/rotate-secret`. The answer has the new secret; it cannot be asked for again.
pub async fn rotate_secret(
    State(plane): State<Arc<Plane>>,
    Path(client): Path<ClientName>,
    Extension(administrator): Extension<Administrator>,
    Json(rotation): Json<Rotation>,
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
