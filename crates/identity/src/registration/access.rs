//! Registration access tokens (RFC 7592): who has one manages the client it was given to.

use serde::{Deserialize, Serialize};
use testudo_model::{ClientName, Entropy, Redacted, Timestamp};
use testudo_store::Record;

use crate::{
    records::Client,
    secret::{self, StoredSecret},
};

/// The registration access token of a client, as far as it is known.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RegistrationCredential {
    client_id: ClientName,
    /// Digest of the newest one.
    newest: StoredSecret,
    /// Digest of the one before, good until the newest is used: the answer with that may have been lost.
    before: Option<StoredSecret>,
    /// When the client ends by itself.
    expires_at: Option<Timestamp>,
}

impl RegistrationCredential {
    /// That of a new client, and the token.
    pub(super) fn first(client: &Client, entropy: &dyn Entropy) -> (Self, Redacted<String>) {
        let token = secret::generate(entropy);
        let credential = Self {
            client_id: client.client_id.clone(),
            newest: StoredSecret::new(secret::digest(token.expose())),
            before: None,
            expires_at: client.expires_at(),
        };
        (credential, token)
    }

    /// Whether `token` is one of the client's.
    pub(super) fn opens(&self, token: &str) -> bool {
        let before = self.before.as_ref();
        self.is_newest(token) | before.is_some_and(|known| secret::matches(token, known.expose()))
    }

    /// The next one, after `token` was used to ask for it.
    pub(super) fn renewed(&self, token: &str, entropy: &dyn Entropy) -> (Self, Redacted<String>) {
        let next = secret::generate(entropy);
        let credential = Self {
            newest: StoredSecret::new(secret::digest(next.expose())),
            before: Some(StoredSecret::new(secret::digest(token))),
            ..self.clone()
        };
        (credential, next)
    }

    /// Without the one before, once the newest is used.
    pub(super) fn settled(&self, token: &str) -> Option<Self> {
        (self.before.is_some() && self.is_newest(token)).then(|| Self {
            before: None,
            ..self.clone()
        })
    }

    fn is_newest(&self, token: &str) -> bool {
        secret::matches(token, self.newest.expose())
    }
}

impl Record for RegistrationCredential {
    const COLLECTION: &'static str = "identity.registration_access_token";

    fn key(&self) -> String {
        self.client_id.to_string()
    }

    fn expires(&self) -> Option<Timestamp> {
        self.expires_at
    }
}
