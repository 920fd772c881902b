//! Random secrets, and how they rest in records.

use std::fmt;

use serde::{Deserialize, Serialize};
use testudo_model::{Entropy, Redacted, random_bytes};
use testudo_trust::{base64url, constant_time_eq, hex, sha256};

/// A secret inside a record. It is serialized, because the store seals every record; it is never printed.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct StoredSecret(String);

impl StoredSecret {
    pub(crate) const fn new(text: String) -> Self {
        Self(text)
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Self {
        Self(base64url::encode(bytes))
    }

    pub(crate) fn expose(&self) -> &str {
        &self.0
    }

    pub(crate) fn bytes(&self) -> Option<Vec<u8>> {
        base64url::decode(&self.0)
    }
}

impl fmt::Debug for StoredSecret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("<redacted>")
    }
}

/// 256 random bits, base64url: 43 characters.
pub(crate) fn generate(entropy: &dyn Entropy) -> Redacted<String> {
    Redacted::new(base64url::encode(&random_bytes::<32>(entropy)))
}

/// What is stored of a random secret: its SHA-256. Such a secret cannot be guessed, so no slow hash is needed.
pub(crate) fn digest(secret: &str) -> String {
    hex::encode(&sha256(secret.as_bytes()))
}

/// Whether `secret` has this digest, in constant time.
pub(crate) fn matches(secret: &str, stored_digest: &str) -> bool {
    constant_time_eq(digest(secret).as_bytes(), stored_digest.as_bytes())
}
