//! Access tokens whose signature was found good, for as long as the keys are in use that found it.
//!
//! Who introspects asks about the same token again and again, and checking its signature costs more than all the rest.
//! Nothing else is remembered: times, revocation and what a token is bound to are looked at each time.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde::Deserialize;
use testudo_model::{ACCESS_TOKEN_TYPE, AccessTokenClaims};
use testudo_trust::{JoseError, JwkSet, sha256, verify_jwt};

/// Tokens remembered at once. Beyond it all are forgotten: they come back as fast as they are asked about.
const MAX_VERIFIED_TOKENS: usize = 4_096;

/// What a token of ours says: the claims, and the one registered claim that our own tokens never have.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Signed {
    #[serde(flatten)]
    pub(crate) claims: AccessTokenClaims,
    #[serde(default)]
    pub(crate) nbf: Option<i64>,
}

/// What one set of keys has verified, by SHA-256: whoever reads this memory finds no credential in it.
#[derive(Default)]
pub(crate) struct VerifiedTokens(Mutex<HashMap<[u8; 32], Signed>>);

impl VerifiedTokens {
    /// What `token` says, if one of `keys` has signed it.
    pub(crate) fn claims(&self, token: &str, keys: &JwkSet) -> Result<Signed, JoseError> {
        let digest = sha256(token.as_bytes());
        if let Some(known) = self.lock().get(&digest) {
            return Ok(known.clone());
        }
        let signed: Signed = verify_jwt(token, ACCESS_TOKEN_TYPE, keys)?;
        let mut known = self.lock();
        if known.len() >= MAX_VERIFIED_TOKENS {
            known.clear();
        }
        known.insert(digest, signed.clone());
        Ok(signed)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<[u8; 32], Signed>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use testudo_trust::SigningKey;

    use super::*;

    fn token(key: &SigningKey) -> String {
        let claims = json!({
            "iss": "https://id.example", "sub": "u", "aud": "fleet", "client_id": "web", "iat": 1, "exp": 2,
            "jti": "tok_01JD0000000000000000000000",
        });
        key.sign_jwt(ACCESS_TOKEN_TYPE, &claims).unwrap()
    }

    #[test]
    fn what_was_verified_is_said_again_and_a_token_with_another_signature_is_not_it() {
        let (ours, another) = (SigningKey::generate(), SigningKey::generate());
        let keys = JwkSet::parse(&json!({ "keys": [ours.public_jwk()] }).to_string()).unwrap();
        let verified = VerifiedTokens::default();
        let good = token(&ours);
        for _ in 0..2 {
            assert_eq!(verified.claims(&good, &keys).unwrap().claims.sub, "u");
        }
        let (head, _) = good.rsplit_once('.').unwrap();
        let forged = token(&another);
        let (_, signature) = forged.rsplit_once('.').unwrap();
        for bad in [
            forged.clone(),
            format!("{head}.{signature}"),
            format!("{good} "),
            String::new(),
        ] {
            assert!(verified.claims(&bad, &keys).is_err(), "{bad}");
        }
        assert_eq!(
            verified.lock().len(),
            1,
            "what is not good is not remembered"
        );
    }
}
