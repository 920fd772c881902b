//! Join tokens: how new proxies are let in. The secret half is shown once, to who made the token.

use std::{sync::Arc, time::Duration};

use axum::{Extension, Json, extract::State};
use serde::Deserialize;
use serde_json::{Value, json};
use testudo_model::{JoinTokenId, ServiceName, Timestamp};
use testudo_workload::{JoinTokenRequest, JoinTokenStatus};

use super::{
    Administrator, Answer,
    extract::{Body, Path},
    proxies::refusal,
};
use crate::{http::Refusal, plane::Plane};

/// `GET /api/v1/join-tokens`: the newest first.
pub async fn list(State(plane): State<Arc<Plane>>) -> Answer {
    plane
        .blocking(|plane| {
            let tokens = plane
                .workloads
                .join_tokens()
                .map_err(|error| refusal(&error))?;
            let now = plane.clock.now();
            let items: Vec<Value> = tokens.iter().rev().map(|token| view(token, now)).collect();
            Ok(Json(json!({ "items": items })))
        })
        .await?
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
pub async fn create(
    State(plane): State<Arc<Plane>>,
    Extension(administrator): Extension<Administrator>,
    Body(wanted): Body<NewJoinToken>,
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

/// `DELETE /api/v1/join-tokens/{token}`, by its id. Answers what it was, so that who comes too late knows.
pub async fn delete(
    State(plane): State<Arc<Plane>>,
    Path(token): Path<JoinTokenId>,
    Extension(administrator): Extension<Administrator>,
) -> Answer {
    plane
        .blocking(move |plane| {
            let deleted = plane
                .workloads
                .delete_join_token(&token, &administrator.workload_caller())
                .map_err(|error| refusal(&error))?
                .ok_or_else(|| Refusal::not_found("join token"))?;
            Ok(Json(view(&deleted, plane.clock.now())))
        })
        .await?
}

fn view(token: &JoinTokenStatus, now: Timestamp) -> Value {
    let state = match token.used {
        Some(_) => "used",
        None if token.expires <= now => "expired",
        None => "waiting",
    };
    json!({
        "id": token.token,
        "spiffe_id": token.id,
        "state": state,
        "created": token.created.to_string(),
        "expires": token.expires.to_string(),
        "used": token.used.map(|at| at.to_string()),
    })
}
