//! Streams of signals, as administrators see them.

use std::sync::Arc;

use axum::{Extension, Json, extract::State};
use serde_json::{Value, json};
use testudo_identity::{SignalDelivery, SignalStream, StreamStatus};
use testudo_model::StreamId;
use testudo_store::Versioned;

use super::{
    Administrator, Answer,
    extract::{Path, Query},
    paging::Paging,
    users::refusal,
};
use crate::{http::Refusal, plane::Plane};

/// `GET /api/v1/signal-streams`.
pub async fn list(State(plane): State<Arc<Plane>>, Query(paging): Query<Paging>) -> Answer {
    plane
        .blocking(move |plane| {
            let read = |after, limit| plane.provider.signal_streams(after, limit);
            let wanted = |stream: &SignalStream| {
                paging.wants(&[stream.description.as_deref().unwrap_or_default()])
            };
            let shown = |stored: &Versioned<SignalStream>| view(plane, &stored.record);
            Ok(Json(paging.page(read, wanted, shown)?))
        })
        .await?
}

/// `GET /api/v1/signal-streams/{stream}`.
pub async fn show(State(plane): State<Arc<Plane>>, Path(stream): Path<StreamId>) -> Answer {
    plane
        .blocking(move |plane| Ok(Json(shown(plane, &stream)?)))
        .await?
}

/// `POST /api/v1/signal-streams/{stream}/disable`: its receiver is told, and nothing else any more.
pub async fn disable(
    State(plane): State<Arc<Plane>>,
    Path(stream): Path<StreamId>,
    Extension(administrator): Extension<Administrator>,
) -> Answer {
    set_status(plane, stream, StreamStatus::Disabled, administrator).await
}

/// `POST /api/v1/signal-streams/{stream}/enable`.
pub async fn enable(
    State(plane): State<Arc<Plane>>,
    Path(stream): Path<StreamId>,
    Extension(administrator): Extension<Administrator>,
) -> Answer {
    set_status(plane, stream, StreamStatus::Enabled, administrator).await
}

async fn set_status(
    plane: Arc<Plane>,
    stream: StreamId,
    status: StreamStatus,
    administrator: Administrator,
) -> Answer {
    plane
        .blocking(move |plane| {
            let caller = administrator.identity_caller();
            let provider = &plane.provider;
            let done = provider.administer_signal_stream(&stream, status, &caller);
            done.map_err(|error| refusal(&error))?;
            Ok(Json(shown(plane, &stream)?))
        })
        .await?
}

/// `DELETE /api/v1/signal-streams/{stream}`: with all that waits for its receiver.
pub async fn delete(
    State(plane): State<Arc<Plane>>,
    Path(stream): Path<StreamId>,
    Extension(administrator): Extension<Administrator>,
) -> Answer {
    plane
        .blocking(move |plane| {
            let caller = administrator.identity_caller();
            let done = plane.provider.remove_signal_stream(&stream, &caller);
            done.map_err(|error| refusal(&error))?;
            Ok(Json(json!({ "deleted": stream })))
        })
        .await?
}

fn shown(plane: &Plane, stream: &StreamId) -> Result<Value, Refusal> {
    let stored = plane.provider.signal_stream(stream);
    let stored = stored.map_err(|error| refusal(&error))?;
    Ok(view(plane, &stored.record))
}

fn view(plane: &Plane, stream: &SignalStream) -> Value {
    let seen = plane.provider.signal_stream_view(stream);
    let endpoint = match &stream.delivery {
        SignalDelivery::Push { endpoint, .. } => Some(endpoint.as_str()),
        SignalDelivery::Poll => None,
    };
    let last_delivery = seen
        .last_delivery
        .map(|last| json!({ "at": last.at.to_string(), "failure": last.failure }));
    json!({
        "id": stream.id,
        "receiver": seen.receiver,
        "description": stream.description,
        "method": stream.delivery.method(),
        "endpoint_url": endpoint,
        "events": stream.events_delivered(),
        "status": stream.status,
        "status_reason": stream.status_reason,
        "status_set_by": stream.status_set_by,
        "removed_subjects": stream.removed_subjects.len(),
        "waiting": seen.waiting,
        "last_delivery": last_delivery,
        "created": stream.created_at.to_string(),
        "updated": stream.updated_at.to_string(),
    })
}
