//! What people and machines prove themselves with, apart from what is shown of them.

use serde::{Deserialize, Serialize};
use testudo_model::{ClientName, Redacted, Timestamp, UserId};
use testudo_store::Record;
use testudo_trust::verify_password;

use crate::secret::{self, StoredSecret};

/// A user's password. Every user has this record: logins and everything that must exclude them write it, so
/// that of a login and a disabling at the same moment one happens after the other.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PasswordCredential {
    pub(crate) user: UserId,
    /// Argon2id in PHC form; none for users who log in elsewhere.
    pub(crate) hash: Option<StoredSecret>,
    pub(crate) changed_at: Timestamp,
    pub(crate) last_login_at: Option<Timestamp>,
}

impl Record for PasswordCredential {
    const COLLECTION: &'static str = "identity.password";

    fn key(&self) -> String {
        self.user.to_string()
    }
}

/// The secrets of a confidential client or service account.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SecretCredential {
    pub(crate) holder: ClientName,
    /// Newest last.
    pub(crate) secrets: Vec<ClientSecret>,
    /// When the client ends, if it does by itself.
    pub(crate) expires_at: Option<Timestamp>,
}

impl Record for SecretCredential {
    const COLLECTION: &'static str = "identity.client_secret";

    fn key(&self) -> String {
        self.holder.to_string()
    }

    fn expires(&self) -> Option<Timestamp> {
        self.expires_at
    }
}

/// One secret of a client.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ClientSecret {
    pub(crate) verifier: SecretVerifier,
    pub(crate) created_at: Timestamp,
    /// Set when it is being rotated out.
    pub(crate) expires_at: Option<Timestamp>,
}

/// What is known of a secret.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SecretVerifier {
    /// SHA-256, hex: of random text.
    Sha256(StoredSecret),
    /// Argon2id in PHC form: of text that may be a word.
    Argon2id(StoredSecret),
}

impl SecretVerifier {
    /// The verifier of a random secret.
    pub(crate) fn of_random(secret: &Redacted<String>) -> Self {
        Self::Sha256(StoredSecret::new(secret::digest(secret.expose())))
    }

    pub(crate) fn accepts(&self, given: &Redacted<String>) -> bool {
        match self {
            Self::Sha256(digest) => secret::matches(given.expose(), digest.expose()),
            Self::Argon2id(hash) => verify_password(given, hash.expose()),
        }
    }
}
