//! The one private key that is not on P-256: RSA with PKCS#1 v1.5 and SHA-256, which is `RS256` in a token.
//!
//! Every relying party of OpenID Connect reads RS256, and some read nothing else (OpenID Connect Core section 15.1). It is
//! for what those are told, and for nothing that is read inside the house.

use std::{fmt, sync::Arc};

use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der},
    rand::SystemRandom,
    rsa::KeySize,
    signature::{KeyPair, RSA_PKCS1_SHA256, RsaKeyPair},
};
use serde::Serialize;
use serde_json::{Value, json};
use testudo_model::Redacted;
use zeroize::Zeroizing;

use crate::{
    base64url,
    entropy::or_abort,
    hash::sha256,
    jose::{JoseError, compact},
    key::InvalidKey,
};

/// Bytes of the modulus: 2048 bits (RFC 7518 section 3.3).
const MODULUS_BYTES: usize = 256;

/// An RSA private key of 2048 bits. Clones share it; it is wiped from memory with the last.
#[derive(Clone)]
pub struct RsaSigningKey(Arc<Inner>);

struct Inner {
    pkcs8: Zeroizing<Vec<u8>>,
    pair: RsaKeyPair,
    /// `n` and `e` as JOSE writes them.
    modulus: String,
    exponent: String,
    key_id: String,
}

impl RsaSigningKey {
    /// A new key from the operating system's randomness. Takes some tenths of a second.
    pub fn generate() -> Self {
        let pair = or_abort(RsaKeyPair::generate(KeySize::Rsa2048));
        let der: Pkcs8V1Der<'_> = or_abort(pair.as_der());
        let pkcs8 = Zeroizing::new(der.as_ref().to_vec());
        // It can read what it has just written, unless its memory is broken.
        Self::from_pkcs8(&pkcs8).unwrap_or_else(|InvalidKey| std::process::abort())
    }

    /// A key that [`to_pkcs8`](Self::to_pkcs8) wrote.
    pub fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, InvalidKey> {
        let pair = RsaKeyPair::from_pkcs8(pkcs8).map_err(|_| InvalidKey)?;
        if pair.public_modulus_len() != MODULUS_BYTES {
            return Err(InvalidKey);
        }
        let public = pair.public_key();
        let modulus = base64url::encode(public.modulus().big_endian_without_leading_zero());
        let exponent = base64url::encode(public.exponent().big_endian_without_leading_zero());
        // RFC 7638 section 3: required members in lexical order, no white space.
        let canonical = format!(r#"{{"e":"{exponent}","kty":"RSA","n":"{modulus}"}}"#);
        let key_id = base64url::encode(&sha256(canonical.as_bytes()));
        Ok(Self(Arc::new(Inner {
            pkcs8: Zeroizing::new(pkcs8.to_vec()),
            pair,
            modulus,
            exponent,
            key_id,
        })))
    }

    /// The key in PKCS#8 DER, to be sealed.
    pub fn to_pkcs8(&self) -> Redacted<Vec<u8>> {
        Redacted::new(self.0.pkcs8.to_vec())
    }

    /// Name of the key: its JWK thumbprint (RFC 7638).
    pub fn key_id(&self) -> &str {
        &self.0.key_id
    }

    /// The public half as a JWK with `kid`, `use` and `alg`.
    pub fn public_jwk(&self) -> Value {
        json!({
            "kty": "RSA",
            "n": self.0.modulus,
            "e": self.0.exponent,
            "kid": self.0.key_id,
            "use": "sig",
            "alg": "RS256",
        })
    }

    /// A compact JWS over `claims`, with `alg`, `typ` and `kid` in its header.
    ///
    /// Errors: [`JoseError::Unwritable`] if `claims` is not something JSON can say.
    pub fn sign_jwt(&self, typ: &str, claims: &impl Serialize) -> Result<String, JoseError> {
        let header = json!({ "alg": "RS256", "typ": typ, "kid": self.0.key_id });
        compact(&header, claims, |message| {
            let mut signature = vec![0; MODULUS_BYTES];
            let random = SystemRandom::new();
            or_abort(
                self.0
                    .pair
                    .sign(&RSA_PKCS1_SHA256, &random, message, &mut signature),
            );
            signature
        })
    }
}

impl fmt::Debug for RsaSigningKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "RsaSigningKey({})", self.0.key_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ForeignKeySet, SigningKey, jose::verify_foreign_jwt};

    #[test]
    fn a_key_survives_storage_does_not_print_and_verifies_as_anybodys() {
        let key = RsaSigningKey::generate();
        let stored = key.to_pkcs8();
        let read = RsaSigningKey::from_pkcs8(stored.expose()).unwrap();
        assert_eq!(read.key_id(), key.key_id());
        assert_eq!(
            format!("{key:?}"),
            format!("RsaSigningKey({})", key.key_id())
        );
        let keys = json!({ "keys": [key.public_jwk()] }).to_string();
        let token = read.sign_jwt("JWT", &json!({ "sub": "alice" })).unwrap();
        let keys = ForeignKeySet::parse(&keys).unwrap();
        let claims: Value = verify_foreign_jwt(&token, &keys).unwrap();
        assert_eq!(claims["sub"], "alice");
        let (signed, _) = token.rsplit_once('.').unwrap();
        let forged = format!("{signed}.{}", base64url::encode(&[7; MODULUS_BYTES]));
        assert!(verify_foreign_jwt::<Value>(&forged, &keys).is_err());
    }

    #[test]
    fn a_key_of_another_kind_or_length_is_none() {
        assert!(RsaSigningKey::from_pkcs8(b"").is_err());
        assert!(RsaSigningKey::from_pkcs8(SigningKey::generate().to_pkcs8().expose()).is_err());
        let long = RsaKeyPair::generate(KeySize::Rsa3072).unwrap();
        let der: Pkcs8V1Der<'_> = long.as_der().unwrap();
        assert!(RsaSigningKey::from_pkcs8(der.as_ref()).is_err());
        assert!(SigningKey::from_pkcs8(RsaSigningKey::generate().to_pkcs8().expose()).is_err());
    }
}
