//! What is in force.

use std::sync::Arc;

use axum::{Json, extract::State};
use serde_json::json;

use super::{Answer, proxies};
use crate::{http::Refusal, plane::Plane};

/// `GET /api/v1/status`.
pub async fn status(State(plane): State<Arc<Plane>>) -> Answer {
    plane
        .blocking(|plane| {
            let snapshot = plane
                .activation
                .current()
                .map_err(|error| Refusal::internal(&error))?;
            let proxies = proxies::rows(plane)?;
            let size = plane
                .ledger
                .size()
                .map_err(|error| Refusal::internal(&error))?;
            Ok(Json(json!({
                "trust_domain": plane.workloads.trust_domain(),
                "issuer": plane.provider.settings().issuer,
                "snapshot": snapshot.as_ref().map(|snapshot| snapshot.version),
                "services": snapshot.map(|snapshot| snapshot.services.len()),
                "ledger": { "size": size },
                "proxies": proxies,
            })))
        })
        .await?
}
