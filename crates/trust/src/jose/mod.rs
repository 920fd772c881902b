//! JSON Web Tokens, ES256 only, and as strict as the standards allow (RFC 7515, 7517, 7519, 8725). Those of issuers
//! outside the fleet, which sign with what they have, are read in [`foreign`] alone.
//!
//! There is no algorithm to choose, so none can be confused; no key is ever fetched or taken from a token,
//! unless it comes as a certificate chain that the trust bundle vouches for ([`verify_jwt_x5c`]), or the token proves
//! nothing but that its writer has that key ([`verify_jwt_of_own_key`]).

mod foreign;
mod json;
mod jwk;
mod sign;
mod verify;

use std::time::Duration;

pub use foreign::{ForeignKeySet, verify_foreign_jwt};
pub use jwk::JwkSet;
pub(crate) use jwk::thumbprint;
pub(crate) use sign::compact;
use testudo_model::Timestamp;
pub use verify::{verify_client_assertion, verify_jwt, verify_jwt_of_own_key, verify_jwt_x5c};

use crate::x509::X509Error;

/// Why a token or a key set is refused.
#[derive(Debug, thiserror::Error)]
pub enum JoseError {
    /// Larger than any honest one.
    #[error("{what} has more than {limit} bytes")]
    TooLarge {
        /// The token or the key set.
        what: &'static str,
        /// The limit in bytes.
        limit: usize,
    },
    /// Not three parts of canonical base64url.
    #[error("not a compact JWS: three parts of base64url without padding")]
    NotCompact,
    /// Not a JSON object, a member named twice, or too deep.
    #[error("the {part} is not a strict JSON object")]
    Json {
        /// Header, payload or key set.
        part: &'static str,
        /// What is wrong, and where.
        #[source]
        source: serde_json::Error,
    },
    /// Any `alg` but `ES256`, in exactly this spelling.
    #[error("the algorithm is not ES256")]
    Algorithm,
    /// A token for another purpose.
    #[error("the token is not of type {expected}")]
    Type {
        /// The `typ` that was asked for.
        expected: String,
    },
    /// A header parameter that names a key, an extension or a compression.
    #[error("the header parameter {0} is not accepted")]
    HeaderParameter(&'static str),
    /// No key of this `kid`.
    #[error("no key of the issuer has this key id")]
    UnknownKey,
    /// No `kid`, and more than one key.
    #[error("the token names no key and the issuer has several")]
    KeyIdMissing,
    /// The signature is not 64 bytes or not the key's.
    #[error("the signature does not verify")]
    Signature,
    /// Signed well, but the claims do not have the names and types they must have.
    #[error("the claims are not as specified")]
    Claims(#[source] serde_json::Error),
    /// Past its `exp`.
    #[error("the token has expired")]
    Expired,
    /// Before its `nbf`, issued in the future, or expiring before it was issued.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// The header has no public ES256 key.
    #[error("the header has no public ES256 key")]
    OwnKey,
    /// `x5c` is missing or not a list of certificates.
    #[error("the header has no certificate chain")]
    ChainMissing,
    /// The chain in `x5c` is not one of the fleet's.
    #[error("the certificate chain of the token is not trusted")]
    Chain(#[source] X509Error),
    /// A key set that must not be used.
    #[error("the key set is refused: {0}")]
    KeySet(&'static str),
    /// The claims to sign are not a JSON object.
    #[error("the claims cannot be written as JSON")]
    Unwritable(#[source] serde_json::Error),
}

/// Checks the time claims of a token (seconds since the epoch) against `now`, `skew` either way.
///
/// Errors: [`JoseError::Expired`], [`JoseError::NotYetValid`].
pub fn check_times(
    iat: i64,
    nbf: Option<i64>,
    exp: i64,
    now: Timestamp,
    skew: Duration,
) -> Result<(), JoseError> {
    let earliest = (now - skew).unix_millis();
    let latest = now + skew;
    if Timestamp::from_unix_seconds(exp).unix_millis() <= earliest {
        return Err(JoseError::Expired);
    }
    let starts = Timestamp::from_unix_seconds(nbf.unwrap_or(iat).max(iat));
    if starts > latest || exp <= iat {
        return Err(JoseError::NotYetValid);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_hold_from_start_to_expiry_with_skew() {
        let check = |iat, nbf, exp, now| {
            check_times(
                iat,
                nbf,
                exp,
                Timestamp::from_unix_seconds(now),
                Duration::from_secs(5),
            )
        };
        assert!(check(1000, None, 1300, 1000).is_ok());
        assert!(check(1000, None, 1300, 995).is_ok());
        assert!(check(1000, None, 1300, 1304).is_ok());
        assert!(matches!(
            check(1000, None, 1300, 1305),
            Err(JoseError::Expired)
        ));
        assert!(matches!(
            check(1000, None, 1300, 994),
            Err(JoseError::NotYetValid)
        ));
        assert!(matches!(
            check(1000, Some(1100), 1300, 1050),
            Err(JoseError::NotYetValid)
        ));
        assert!(matches!(
            check(1000, None, 1000, 1000),
            Err(JoseError::NotYetValid)
        ));
        assert!(matches!(
            check(0, None, i64::MIN, 0),
            Err(JoseError::Expired)
        ));
        assert!(matches!(
            check(i64::MAX, None, i64::MAX, 0),
            Err(JoseError::NotYetValid)
        ));
    }
}
