//! Proxies: which there are, and how one is thrown out.

use std::sync::Arc;

use axum::{Extension, Json, extract::State};
use serde::Deserialize;
use serde_json::{Value, json};
use testudo_model::SpiffeId;

use super::{Administrator, Answer, extract::Body};
use crate::{http::Refusal, plane::Plane};

/// `GET /api/v1/proxies`.
pub async fn list(State(plane): State<Arc<Plane>>) -> Answer {
    plane
        .blocking(|plane| Ok(Json(json!({ "items": rows(plane)? }))))
        .await?
}

/// Proxies that are alive, or were lately.
pub fn rows(plane: &Plane) -> Result<Vec<Value>, Refusal> {
    let instances = plane
        .workloads
        .instances()
        .map_err(|error| Refusal::internal(&error))?;
    let rows = instances.iter().map(|instance| {
        json!({
            "instance": instance.instance,
            "spiffe_id": instance.id,
            "inbound": instance.inbound,
            "snapshot": instance.acknowledged,
            "refused": instance.refused,
            "revocations_behind": plane.distribution.revocations_behind(&instance.instance),
            "last_seen": instance.last_seen.to_string(),
            "live": plane.workloads.is_live(instance),
            "build": instance.build,
        })
    });
    Ok(rows.collect())
}

/// Body of a revocation or reinstatement.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    spiffe_id: SpiffeId,
}

/// `POST /api/v1/identities/revoke`.
pub async fn revoke_identity(
    State(plane): State<Arc<Plane>>,
    Extension(administrator): Extension<Administrator>,
    Body(Identity { spiffe_id }): Body<Identity>,
) -> Answer {
    plane
        .blocking(move |plane| {
            let caller = administrator.workload_caller();
            let revoked = plane
                .workloads
                .revoke(&spiffe_id, &caller)
                .map_err(|error| refusal(&error))?;
            plane
                .distribution
                .revoke(revoked)
                .map_err(|error| Refusal::internal(&error))?;
            Ok(Json(json!({ "revoked": spiffe_id })))
        })
        .await?
}

/// `POST /api/v1/identities/reinstate`. Proxies that heard of the revocation forget it after a certificate's life.
pub async fn reinstate_identity(
    State(plane): State<Arc<Plane>>,
    Extension(administrator): Extension<Administrator>,
    Body(Identity { spiffe_id }): Body<Identity>,
) -> Answer {
    plane
        .blocking(move |plane| {
            let caller = administrator.workload_caller();
            plane
                .workloads
                .reinstate(&spiffe_id, &caller)
                .map_err(|error| refusal(&error))?;
            Ok(Json(json!({ "reinstated": spiffe_id })))
        })
        .await?
}

/// The answer to a refused operation on workload identities.
pub fn refusal(error: &testudo_workload::WorkloadError) -> Refusal {
    match error {
        testudo_workload::WorkloadError::NotRegistered { .. } => {
            Refusal::not_found("workload identity").detail(error.to_string())
        }
        testudo_workload::WorkloadError::Revoked { .. } => {
            Refusal::new(409, "workload.revoked", "the identity is revoked")
                .detail(error.to_string())
        }
        error => Refusal::internal(error),
    }
}
