//! Login sessions.

use std::sync::Arc;

use axum::{Extension, Json, extract::State};
use serde_json::{Value, json};
use testudo_identity::{EndReason, SessionView};
use testudo_model::{SessionId, Username};

use super::{Administrator, Answer, extract::Path, users::refusal};
use crate::{http::Refusal, plane::Plane};

/// `GET /api/v1/users/{username}/sessions`.
pub async fn list(State(plane): State<Arc<Plane>>, Path(username): Path<Username>) -> Answer {
    plane
        .blocking(move |plane| {
            let user = plane
                .provider
                .user_by_name(&username)
                .map_err(|error| refusal(&error))?;
            let sessions = plane
                .provider
                .sessions_of(&user.record.id)
                .map_err(|fault| Refusal::internal(&fault))?;
            let items: Vec<Value> = sessions.iter().map(view).collect();
            Ok(Json(json!({ "items": items })))
        })
        .await?
}

/// `DELETE /api/v1/sessions/{session}`.
pub async fn revoke(
    State(plane): State<Arc<Plane>>,
    Path(session): Path<SessionId>,
    Extension(administrator): Extension<Administrator>,
) -> Answer {
    plane
        .blocking(move |plane| {
            let caller = administrator.identity_caller();
            let ended = plane
                .provider
                .end_session(&session, EndReason::Administrator, &caller);
            if !ended.map_err(|fault| Refusal::internal(&fault))? {
                return Err(Refusal::not_found("session"));
            }
            // The relay would tell proxies within a second; an administrator expects it now.
            plane
                .distribution
                .follow_revocations()
                .map_err(|error| Refusal::internal(&error))?;
            Ok(Json(json!({ "revoked": session })))
        })
        .await?
}

fn view(session: &SessionView) -> Value {
    let clients: Vec<_> = session
        .grants
        .iter()
        .map(|grant| &grant.client_id)
        .collect();
    json!({
        "id": session.id,
        "client": clients,
        "created": session.authentication.at.to_string(),
        "expires": session.expires_at.map(|at| at.to_string()),
        "source_ip": session.source_ip,
    })
}
