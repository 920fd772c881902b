//! Service accounts that receive signals.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{SignatureAlgorithm, document::Cursor, problem::Problems};

/// Longest audience.
const MAX_AUDIENCE_BYTES: usize = 256;

/// How a service account receives signals (OpenID Shared Signals Framework 1.0).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SignalsSection {
    /// How the security event tokens are signed. The CAEP interoperability profile demands RS256.
    pub signed_response_alg: SignatureAlgorithm,
    /// The `aud` of the tokens, if the receiver expects another one than its client id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
}

impl Default for SignalsSection {
    fn default() -> Self {
        Self {
            signed_response_alg: SignatureAlgorithm::Rs256,
            audience: None,
        }
    }
}

pub(super) fn check(section: &SignalsSection, at: Cursor<'_>, problems: &mut Problems<'_>) {
    let audience = section.audience.as_deref();
    let is_good = |audience: &str| !audience.is_empty() && audience.len() <= MAX_AUDIENCE_BYTES;
    if audience.is_some_and(|audience| !is_good(audience)) {
        problems
            .error(
                "fleet.signal_audience",
                at.key("audience").place(),
                format!("an audience has 1 to {MAX_AUDIENCE_BYTES} bytes"),
            )
            .help("write what the receiver expects as `aud`, or remove it");
    }
}
