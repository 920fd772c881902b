//! Applying a fleet file.

use std::sync::Arc;

use axum::{Extension, Json, extract::State};
use serde::Deserialize;
use serde_json::json;
use testudo_identity::SeedError;
use testudo_runtime::{fleet::Bundle, with_causes};

use super::{
    Administrator, Answer,
    extract::{Body, Query},
};
use crate::{
    activation::ActivationError,
    apply::{ApplyError, apply as apply_fleet, rehearse},
    http::Refusal,
    lockout::{self, Lockout},
    plane::Plane,
};

/// `?dry_run=true&allow_lockout=true`.
#[derive(Deserialize)]
pub struct Mode {
    #[serde(default)]
    dry_run: bool,
    #[serde(default)]
    allow_lockout: bool,
}

/// `POST /api/v1/fleet/apply`.
pub async fn apply(
    State(plane): State<Arc<Plane>>,
    Query(mode): Query<Mode>,
    Extension(administrator): Extension<Administrator>,
    Body(bundle): Body<Bundle>,
) -> Answer {
    plane
        .blocking(move |plane| {
            let fleet = bundle
                .load()
                .map_err(|errors| invalid(format!("{errors:#}")))?
                .fleet;
            if !mode.allow_lockout {
                lockout::check(plane, &fleet.policies, administrator.source_ip)
                    .map_err(|error| locked_out(&error))?;
            }
            if mode.dry_run {
                return Ok(Json(
                    rehearse(plane, &fleet).map_err(|error| refusal(&error))?,
                ));
            }
            let applied = apply_fleet(plane, &fleet, &administrator.actor)
                .map_err(|error| refusal(&error))?;
            let mut summary = applied.summary();
            if let Some(summary) = summary.as_object_mut() {
                let generated = applied
                    .generated
                    .iter()
                    .map(|made| json!({ "name": made.name, "secret": made.secret.expose() }));
                summary.insert("generated".to_owned(), generated.collect());
            }
            Ok(Json(summary))
        })
        .await?
}

fn refusal(error: &ApplyError) -> Refusal {
    match error {
        ApplyError::OtherDomain { .. } => invalid(error.to_string()),
        ApplyError::PasskeyRoots(why) => invalid(format!("{error}: {why}")),
        ApplyError::BreachedList(_) => invalid(with_causes(error)),
        ApplyError::Seed(refused @ (SeedError::Refused { .. } | SeedError::TooMany { .. })) => {
            invalid(with_causes(refused))
        }
        ApplyError::Activation(ActivationError::Policy(errors)) => invalid(format!("{errors:#}")),
        error => Refusal::internal(error),
    }
}

fn locked_out(error: &Lockout) -> Refusal {
    match error {
        Lockout::Nobody => Refusal::new(
            422,
            "fleet.lockout",
            "nobody could apply a fleet file any more; nothing was changed",
        )
        .detail(error.to_string()),
        Lockout::Directory(fault) => Refusal::internal(fault),
    }
}

fn invalid(why: String) -> Refusal {
    Refusal::new(
        422,
        "fleet.invalid",
        "the fleet is not valid; nothing was changed",
    )
    .detail(why)
}
