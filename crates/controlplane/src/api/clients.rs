//! OAuth clients, and the secrets of clients and service accounts.

use std::{sync::Arc, time::Duration};

use axum::{Extension, Json, extract::State};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use testudo_identity::{Client, ClientKind, ClientProfile, NewSecret};
use testudo_model::ClientName;
use testudo_store::Versioned;

use super::{
    Administrator, Answer,
    extract::{Body, Decided, Path, Query, apart},
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
            Ok(Json(paging.page(read, wanted, view)?))
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
            let stored = found(plane, &client)?;
            plane
                .provider
                .delete_client(&client, stored.version, &caller)
                .map_err(|error| refusal(&error))?;
            Ok(Json(view(&stored)))
        })
        .await?
}

/// `POST /api/v1/clients`: a profile with a `client_id`. A confidential client that has neither keys nor a workload gets a
/// secret; the answer has it, and it cannot be asked for again.
pub async fn create(
    State(plane): State<Arc<Plane>>,
    Extension(administrator): Extension<Administrator>,
    Body(new): Body<Map<String, Value>>,
) -> Answer {
    plane
        .hashing(move |plane| {
            let (client_id, profile): (ClientName, ClientProfile) = apart(new, "client_id")?;
            administrator.may_describe_client(plane, client_id.as_str(), &profile)?;
            let has_proof = profile.jwks.is_some() || profile.workload.is_some();
            let secret = match profile.kind {
                ClientKind::Confidential if !has_proof => NewSecret::Generate,
                ClientKind::Confidential | ClientKind::Public => NewSecret::None,
            };
            let caller = administrator.identity_caller();
            let made = plane
                .provider
                .create_client(&client_id, profile, &secret, &caller);
            let made = made.map_err(|error| refusal(&error))?;
            let mut shown = view(&found(plane, &client_id)?);
            if let Some(fields) = shown.as_object_mut() {
                let secret = made.generated.as_ref().map(|secret| secret.expose());
                fields.insert("secret".to_owned(), json!(secret));
            }
            Ok(Json(shown))
        })
        .await?
}

/// `GET /api/v1/clients/{client}`.
pub async fn show(State(plane): State<Arc<Plane>>, Path(client): Path<ClientName>) -> Answer {
    plane
        .blocking(move |plane| Ok(Json(view(&found(plane, &client)?))))
        .await?
}

/// `PUT /api/v1/clients/{client}`: a profile.
pub async fn replace(
    State(plane): State<Arc<Plane>>,
    Path(client): Path<ClientName>,
    Extension(administrator): Extension<Administrator>,
    Query(Decided { version }): Query<Decided>,
    Body(profile): Body<ClientProfile>,
) -> Answer {
    plane
        .blocking(move |plane| {
            administrator.may_describe_client(plane, client.as_str(), &profile)?;
            let version = match version {
                Some(version) => version,
                None => found(plane, &client)?.version,
            };
            let caller = administrator.identity_caller();
            let provider = &plane.provider;
            let done = provider.update_client(&client, version, profile, &caller);
            done.map_err(|error| refusal(&error))?;
            Ok(Json(view(&found(plane, &client)?)))
        })
        .await?
}

/// `POST /api/v1/clients/{client}/disable`: it gets no tokens any more.
pub async fn disable(
    State(plane): State<Arc<Plane>>,
    Path(client): Path<ClientName>,
    Extension(administrator): Extension<Administrator>,
) -> Answer {
    set_disabled(plane, client, administrator, true).await
}

/// `POST /api/v1/clients/{client}/enable`.
pub async fn enable(
    State(plane): State<Arc<Plane>>,
    Path(client): Path<ClientName>,
    Extension(administrator): Extension<Administrator>,
) -> Answer {
    set_disabled(plane, client, administrator, false).await
}

async fn set_disabled(
    plane: Arc<Plane>,
    client: ClientName,
    administrator: Administrator,
    disabled: bool,
) -> Answer {
    plane
        .blocking(move |plane| {
            let caller = administrator.identity_caller();
            let provider = &plane.provider;
            let done = provider.set_client_disabled(&client, disabled, &caller);
            done.map_err(|error| refusal(&error))?;
            Ok(Json(view(&found(plane, &client)?)))
        })
        .await?
}

fn found(plane: &Plane, client: &ClientName) -> Result<Versioned<Client>, Refusal> {
    let stored = plane.provider.client(client);
    stored.map_err(|error| refusal(&error))
}

fn view(stored: &Versioned<Client>) -> Value {
    let client = &stored.record;
    let registered = client.registered.as_ref();
    json!({
        "client_id": client.client_id,
        "display_name": client.display_name,
        "kind": client.kind,
        "grants": client.grants,
        "scopes": client.scopes,
        "redirect_uris": client.redirect_uris,
        "workload": client.workload,
        "jwks": client.jwks,
        "policy": client.policy,
        "signing": client.signing,
        "logout": client.logout,
        "version": stored.version,
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
