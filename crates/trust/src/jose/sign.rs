//! Writing tokens.

use serde::Serialize;
use serde_json::{Value, json};

use super::JoseError;
use crate::{encoding, encoding::base64url, key::SigningKey};

impl SigningKey {
    /// A compact JWS over `claims`, with `alg`, `typ` and `kid` in its header.
    ///
    /// Errors: [`JoseError::Unwritable`] if `claims` is not something JSON can say.
    pub fn sign_jwt(&self, typ: &str, claims: &impl Serialize) -> Result<String, JoseError> {
        self.sign_with_header(
            &json!({ "alg": "ES256", "typ": typ, "kid": self.key_id() }),
            claims,
        )
    }

    /// The same with the certificate chain of the key in `x5c` (RFC 7515 section 4.1.6), leaf first, in DER.
    pub fn sign_jwt_x5c(
        &self,
        typ: &str,
        claims: &impl Serialize,
        chain: &[Vec<u8>],
    ) -> Result<String, JoseError> {
        let x5c: Vec<String> = chain
            .iter()
            .map(|der| encoding::base64::encode(der))
            .collect();
        self.sign_with_header(&json!({ "alg": "ES256", "typ": typ, "x5c": x5c }), claims)
    }

    fn sign_with_header(
        &self,
        header: &Value,
        claims: &impl Serialize,
    ) -> Result<String, JoseError> {
        compact(header, claims, |message| self.sign_raw(message))
    }
}

/// The compact serialization (RFC 7515 section 7.1) of `claims` with what `sign` makes of them.
pub(crate) fn compact(
    header: &Value,
    claims: &impl Serialize,
    sign: impl FnOnce(&[u8]) -> Vec<u8>,
) -> Result<String, JoseError> {
    let payload = serde_json::to_vec(claims).map_err(JoseError::Unwritable)?;
    let mut token = base64url::encode(header.to_string().as_bytes());
    token.push('.');
    token.push_str(&base64url::encode(&payload));
    let signature = sign(token.as_bytes());
    token.push('.');
    token.push_str(&base64url::encode(&signature));
    Ok(token)
}
