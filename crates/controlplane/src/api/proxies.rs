//! Proxies: which there are, how new ones join, and how one is thrown out.

use std::{sync::Arc, time::Duration};

use axum::{Extension, Json, extract::State};
use serde::Deserialize;
use serde_json::{Value, json};
use testudo_model::{ServiceName, SpiffeId};
use testudo_workload::JoinTokenRequest;

use super::{Administrator, Answer};
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
            "last_seen": instance.last_seen.to_string(),
            "live": plane.workloads.is_live(instance),
            "build": instance.build,
        })
    });
    Ok(rows.collect())
}

/// Body of a join token request.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewJoinToken {
    #[serde(default)]
    service: Option<ServiceName>,
    #[serde(default)]
    gateway: bool,
    ttl_seconds: u64,
}

/// `POST /api/v1/join-tokens`.
pub async fn create_join_token(
    State(plane): State<Arc<Plane>>,
    Extension(administrator): Extension<Administrator>,
    Json(wanted): Json<NewJoinToken>,
) -> Answer {
    let domain = plane.workloads.trust_domain();
    let id = match (&wanted.service, wanted.gateway) {
        (Some(service), false) => domain.service(service),
        (None, true) => domain.gateway(),
        _ => {
            return Err(Refusal::bad_request(
                "say either `service` or `gateway: true`",
            ));
        }
    };
    let lifetime = Duration::from_secs(wanted.ttl_seconds);
    plane
        .blocking(move |plane| {
            let request = JoinTokenRequest {
                id,
                lifetime,
                server: Some(plane.grpc_address.clone()),
            };
            let token = plane
                .workloads
                .create_join_token(&request, &administrator.workload_caller())
                .map_err(|error| refusal(&error))?;
            Ok(Json(
                json!({ "token": token.print().expose(), "id": token.id }),
            ))
        })
        .await?
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
    Json(Identity { spiffe_id }): Json<Identity>,
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
    Json(Identity { spiffe_id }): Json<Identity>,
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

fn refusal(error: &testudo_workload::WorkloadError) -> Refusal {
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
