//! Fetches the keys of issuers outside the fleet.

use std::{sync::Arc, time::Duration};

use serde::Deserialize;
use testudo_identity::{KeySource, WantedKeys};
use testudo_runtime::{Drain, with_causes};
use tracing::{info, warn};

use crate::{outbound::Outbound, plane::Plane};

/// How often it is looked whether keys are wanted. That costs nothing while none are.
const LOOK: Duration = Duration::from_millis(500);

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What an issuer says of itself (OpenID Connect Discovery 1.0 section 4.2).
#[derive(Deserialize)]
struct Metadata {
    issuer: String,
    jwks_uri: String,
}

/// Fetches keys until the process drains.
pub async fn fetch(plane: Arc<Plane>, outbound: Arc<Outbound>, drain: Drain) {
    let mut watch = drain.watch();
    loop {
        for wanted in plane.provider.wanted_keys() {
            match keys(&outbound, &wanted).await.and_then(|jwks| {
                plane.provider.put_issuer_keys(&wanted, &jwks)?;
                Ok(())
            }) {
                Ok(()) => info!(issuer = wanted.issuer, "keys of a trusted issuer fetched"),
                Err(error) => warn!(
                    issuer = wanted.issuer,
                    error = with_causes(&*error),
                    "the keys of a trusted issuer cannot be fetched: those there are go on for a day"
                ),
            }
        }
        tokio::select! {
            () = watch.drained() => break,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

async fn keys(outbound: &Outbound, wanted: &WantedKeys) -> Result<String, Failure> {
    let uri = match &wanted.source {
        KeySource::Given(jwks) => return Ok(jwks.clone()),
        KeySource::JwksUri(uri) => uri.clone(),
        KeySource::Discovery(address) => {
            let metadata: Metadata = serde_json::from_slice(&outbound.get(address).await?)?;
            // Section 4.3: metadata of somebody else would bring somebody else's keys.
            if !address
                .strip_prefix(metadata.issuer.trim_end_matches('/'))
                .is_some_and(|rest| rest.starts_with("/.well-known/"))
            {
                return Err("its metadata is of another issuer".into());
            }
            metadata.jwks_uri
        }
    };
    Ok(String::from_utf8(outbound.get(&uri).await?.to_vec())?)
}
