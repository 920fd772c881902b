//! Our own access tokens at our own resources: userinfo and the admin API.

use serde::Deserialize;
use testudo_model::{ACCESS_TOKEN_TYPE, AccessTokenClaims, limits::CLOCK_SKEW};
use testudo_trust::{check_times, constant_time_eq, verify_jwt};

use crate::{Fault, Peer, Provider};

/// Why an access token opens nothing. Which check it failed is nobody's business.
#[derive(Debug, thiserror::Error)]
pub enum AccessTokenError {
    /// Forged, expired, not ours, taken back, or bound to another certificate.
    #[error("the access token is invalid, expired or revoked")]
    Invalid,
    /// Our fault.
    #[error("the access token could not be checked")]
    Unavailable(#[from] Fault),
}

impl Provider {
    /// The claims of an access token that is good now: signature, issuer, audience, times, revocation, and the
    /// certificate it may be bound to. `peer` is the workload on the other side of the connection.
    ///
    /// Whether its subject is still enabled follows from the revocation; what it may do does not.
    ///
    /// # Errors
    /// See [`AccessTokenError`].
    pub fn access_token(
        &self,
        token: &str,
        peer: Option<&Peer>,
    ) -> Result<AccessTokenClaims, AccessTokenError> {
        let claims = self.signed_claims(token)?;
        if !is_held_by(&claims, peer) || self.is_revoked(&claims)? {
            return Err(AccessTokenError::Invalid);
        }
        Ok(claims)
    }

    /// The claims of one of our access tokens that has not expired, whether taken back or not.
    pub(crate) fn signed_claims(&self, token: &str) -> Result<AccessTokenClaims, AccessTokenError> {
        let keys = self.signing_keys()?;
        let Signed { claims, nbf } = verify_jwt(token, ACCESS_TOKEN_TYPE, &keys.verification)
            .map_err(|_| AccessTokenError::Invalid)?;
        let ours = claims.iss == self.settings.issuer && claims.aud == self.settings.audience;
        let now = self.clock.now();
        // The skew is for other nodes' clocks at the beginning; an end needs none.
        let live = check_times(claims.iat, nbf, claims.exp, now, CLOCK_SKEW).is_ok()
            && now.unix_seconds() < claims.exp;
        if ours && live {
            Ok(claims)
        } else {
            Err(AccessTokenError::Invalid)
        }
    }
}

/// The claims, and the one registered claim that our own tokens never have.
#[derive(Deserialize)]
struct Signed {
    #[serde(flatten)]
    claims: AccessTokenClaims,
    #[serde(default)]
    nbf: Option<i64>,
}

/// Whether the sender may use the token: it is not bound, or bound to the certificate of the connection
/// (RFC 8705 section 3).
fn is_held_by(claims: &AccessTokenClaims, peer: Option<&Peer>) -> bool {
    match (&claims.cnf, peer) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(bound), Some(peer)) => {
            bound
                .certificate_thumbprint
                .as_ref()
                .is_some_and(|thumbprint| {
                    constant_time_eq(
                        thumbprint.as_bytes(),
                        peer.certificate_thumbprint.as_bytes(),
                    )
                })
        }
    }
}
