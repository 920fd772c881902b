//! What the browser says it was asked, and by whom (section 5.8.1).

use serde::Deserialize;
use testudo_trust::{base64url, constant_time_eq, sha256};

use super::{RelyingParty, WebauthnError};

/// Longest client data. Real ones have about 250 bytes.
pub(super) const MAX_CLIENT_DATA_BYTES: usize = 4 * 1024;

/// What the browser was to do.
#[derive(Clone, Copy)]
pub(super) enum Ceremony {
    Registration,
    Authentication,
}

impl Ceremony {
    const fn client_data_type(self) -> &'static str {
        match self {
            Self::Registration => "webauthn.create",
            Self::Authentication => "webauthn.get",
        }
    }
}

/// `CollectedClientData`. Browsers add members, and are to be understood all the same.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CollectedClientData {
    #[serde(rename = "type")]
    kind: String,
    challenge: String,
    origin: String,
    #[serde(default)]
    cross_origin: bool,
    #[serde(default)]
    top_origin: Option<String>,
}

/// The hash of `client_data`, if it says what was asked (section 7.1 steps 5 to 12, section 7.2 steps 8 to 14).
pub(super) fn check(
    client_data: &[u8],
    ceremony: Ceremony,
    challenge: &[u8],
    party: &RelyingParty,
) -> Result<[u8; 32], WebauthnError> {
    let read: CollectedClientData =
        serde_json::from_slice(client_data).map_err(|_| WebauthnError::ClientData)?;
    if read.kind != ceremony.client_data_type() {
        return Err(WebauthnError::Type);
    }
    let expected = base64url::encode(challenge);
    if !constant_time_eq(read.challenge.as_bytes(), expected.as_bytes()) {
        return Err(WebauthnError::Challenge);
    }
    if read.origin != party.origin {
        return Err(WebauthnError::Origin);
    }
    if read.cross_origin || read.top_origin.is_some() {
        return Err(WebauthnError::CrossOrigin);
    }
    Ok(sha256(client_data))
}
