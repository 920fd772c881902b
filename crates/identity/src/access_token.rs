//! Our own access tokens at our own resources: userinfo and the admin API.

use testudo_model::{AccessTokenClaims, limits::CLOCK_SKEW};
use testudo_trust::{check_times, constant_time_eq};

use crate::{DpopError, Fault, Peer, ProofTarget, Provider, dpop::KeyThumbprint, verified::Signed};

/// Why an access token opens nothing. Which check it failed is nobody's business.
#[derive(Debug, thiserror::Error)]
pub enum AccessTokenError {
    /// Forged, expired, not ours, taken back, or bound to another certificate.
    #[error("the access token is invalid, expired or revoked")]
    Invalid,
    /// The DPoP proof beside it proves nothing.
    #[error(transparent)]
    Dpop(#[from] DpopError),
    /// Our fault.
    #[error("the access token could not be checked")]
    Unavailable(#[from] Fault),
}

/// An access token as it came with a request.
#[derive(Clone, Copy)]
pub struct PresentedToken<'a> {
    /// The token.
    pub token: &'a str,
    /// What came with it, if the scheme was `DPoP` and not `Bearer`.
    pub proof: Option<RequestProof<'a>>,
    /// The workload on the other side of the connection.
    pub peer: Option<&'a Peer>,
}

/// A DPoP proof and the request it came with.
#[derive(Clone, Copy)]
pub struct RequestProof<'a> {
    /// The `DPoP` header.
    pub proof: &'a str,
    /// The request.
    pub target: ProofTarget<'a>,
}

impl<'a> PresentedToken<'a> {
    /// A token that came with the scheme `Bearer`.
    pub const fn bearer(token: &'a str, peer: Option<&'a Peer>) -> Self {
        Self {
            token,
            proof: None,
            peer,
        }
    }
}

impl Provider {
    /// The claims of an access token that is good now: signature, issuer, audience, times, revocation, and the
    /// certificate and key it may be bound to.
    ///
    /// Whether its subject is still enabled follows from the revocation; what it may do does not.
    ///
    /// # Errors
    /// See [`AccessTokenError`].
    pub fn access_token(
        &self,
        presented: PresentedToken<'_>,
    ) -> Result<AccessTokenClaims, AccessTokenError> {
        let claims = self.signed_claims(presented.token)?;
        // One for a service of the fleet is not for us.
        if claims.aud != self.settings.audience {
            return Err(AccessTokenError::Invalid);
        }
        let key = match presented.proof {
            Some(RequestProof { proof, target }) => {
                let fresh = self.check_proof(proof, target, Some(presented.token))?;
                Some(self.use_proof(fresh)?)
            }
            None => None,
        };
        if !is_held_by(&claims, presented.peer, key.as_ref()) || self.is_revoked(&claims)? {
            return Err(AccessTokenError::Invalid);
        }
        Ok(claims)
    }

    /// The claims of one of our access tokens, for the fleet or for one service of it, that has not expired, whether
    /// taken back or not.
    pub(crate) fn signed_claims(&self, token: &str) -> Result<AccessTokenClaims, AccessTokenError> {
        let keys = self.signing_keys()?;
        let Signed { claims, nbf } = keys
            .verified
            .claims(token, &keys.verification)
            .map_err(|_| AccessTokenError::Invalid)?;
        let audience = &self.settings.audience;
        let is_in_fleet = claims.aud == *audience
            || AccessTokenClaims::service_of_audience(&claims.aud, audience).is_some();
        let ours = claims.iss == self.settings.issuer && is_in_fleet;
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

/// Whether the sender may use the token: it has all that the token is bound to, the certificate of the connection
/// (RFC 8705 section 3) or a key (RFC 9449 section 7). A token that is bound to no key is not for the scheme `DPoP`.
fn is_held_by(
    claims: &AccessTokenClaims,
    peer: Option<&Peer>,
    key: Option<&KeyThumbprint>,
) -> bool {
    let Some(bound) = &claims.cnf else {
        return key.is_none();
    };
    let certificate = peer.map(|peer| peer.certificate_thumbprint.as_str());
    let has_certificate = bound
        .certificate_thumbprint
        .as_deref()
        .is_none_or(|wanted| is_same(Some(wanted), certificate));
    let has_key = is_same(
        bound.key_thumbprint.as_deref(),
        key.map(KeyThumbprint::as_str),
    );
    // A confirmation that is not understood binds to something we cannot check.
    let is_understood = bound.certificate_thumbprint.is_some() || bound.key_thumbprint.is_some();
    is_understood && has_certificate && has_key
}

fn is_same(wanted: Option<&str>, given: Option<&str>) -> bool {
    match (wanted, given) {
        (None, None) => true,
        (Some(wanted), Some(given)) => constant_time_eq(wanted.as_bytes(), given.as_bytes()),
        (Some(_), None) | (None, Some(_)) => false,
    }
}
