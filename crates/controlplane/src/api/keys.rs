//! Rotating keys.

use std::sync::Arc;

use axum::{Extension, Json, extract::State};
use serde_json::json;
use testudo_model::event::{Detail, EventClass, Outcome};

use super::{Administrator, Answer};
use crate::{
    http::Refusal,
    plane::{Note, Plane},
};

/// Records sealed anew in one transaction.
const STEP: usize = 500;

/// `POST /api/v1/keys/rotate`: a new term, and every record sealed under it. Others read and write meanwhile.
pub async fn rotate(
    State(plane): State<Arc<Plane>>,
    Extension(administrator): Extension<Administrator>,
) -> Answer {
    plane
        .blocking(move |plane| {
            let failed = |error: testudo_store::StoreError| Refusal::internal(&error);
            let term = plane.store.rotate().map_err(failed)?;
            let mut resealed = 0_usize;
            loop {
                let step = plane.store.reseal_step(STEP).map_err(failed)?;
                if step == 0 {
                    break;
                }
                resealed += step;
            }
            plane
                .note(Note {
                    class: EventClass::ApplicationLifecycle,
                    activity: "key.rotate",
                    outcome: Outcome::Success,
                    actor: administrator.actor,
                    source_ip: administrator.source_ip,
                    target: Some("store keyring".to_owned()),
                    details: vec![("term", Detail::from(i64::from(term)))],
                })
                .map_err(|error| Refusal::internal(&error))?;
            Ok(Json(json!({
                "term": term,
                "resealed": resealed,
                "message": format!("term {term} is in force; {resealed} records were sealed anew"),
            })))
        })
        .await?
}

/// `POST /api/v1/ca/rotate`.
pub async fn rotate_ca(
    State(plane): State<Arc<Plane>>,
    Extension(administrator): Extension<Administrator>,
) -> Answer {
    plane
        .blocking(move |plane| match plane.workloads.rotate_ca(&administrator.workload_caller()) {
            Ok(published) => {
                plane.distribution.publish_bundle(published.version, &published.bundle);
                Ok(Json(json!({
                    "version": published.version,
                    "message": "a new root is published; it signs as soon as every proxy has had a day to learn it",
                })))
            }
            Err(error @ testudo_workload::WorkloadError::RotationUnderWay { .. }) => {
                Err(Refusal::new(409, "workload.rotation_under_way", "a rotation is under way")
                    .detail(error.to_string()))
            }
            Err(error) => Err(Refusal::internal(&error)),
        })
        .await?
}
