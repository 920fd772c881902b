//! What a session gave to a client.

use serde::{Deserialize, Serialize};
use testudo_model::{ClientName, SessionId, Timestamp, UserId};
use testudo_store::Record;

use crate::{
    dpop::KeyThumbprint,
    records::{Authentication, Client},
    scopes::ScopeSet,
    secret::StoredSecret,
    token::SenderKey,
};

/// What one session gave to one client: the one row behind all its tokens. Its id is their `sid`, so that they
/// can be taken back together and apart from those of other clients.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Grant {
    /// The `sid` of its tokens.
    pub id: SessionId,
    /// The login it came from.
    pub login: SessionId,
    /// Who granted.
    pub user: UserId,
    /// To which client.
    pub client_id: ClientName,
    /// Making time of that client.
    pub(crate) client_created_at: Timestamp,
    /// What.
    pub scopes: ScopeSet,
    /// How the user had proved who they are.
    pub authentication: Authentication,
    /// When it was made.
    pub created_at: Timestamp,
    /// When a token was last issued for it.
    pub used_at: Timestamp,
    /// When it ends if it is not used.
    pub expires_at: Timestamp,
    /// Whether it goes on when the session ends (`offline_access`).
    pub offline: bool,
    /// Its refresh tokens, if it has any.
    pub(crate) refresh: Option<RefreshState>,
}

/// All refresh tokens of a grant: the current one is the MAC of the counter, all others are the past.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RefreshState {
    /// MAC key, 32 bytes.
    pub(crate) key: StoredSecret,
    /// Number of the one valid token.
    pub(crate) counter: u64,
    /// When it took the place of the one before.
    pub(crate) rotated_at: Timestamp,
    /// Who presented the one before. None of the first, which was presented by nobody.
    pub(crate) rotated_by: Option<SenderKey>,
    /// The key that whoever presents them must have, at a public client that proved to have one (RFC 9449 section 5).
    pub(crate) bound_to: Option<KeyThumbprint>,
}

impl Grant {
    /// Whether this client holds the grant, and not a former one of the same name.
    pub(crate) fn belongs_to(&self, client: &Client) -> bool {
        self.client_id == client.client_id && self.client_created_at == client.created_at
    }
}

impl Record for Grant {
    const COLLECTION: &'static str = "identity.grant";

    fn key(&self) -> String {
        self.id.to_string()
    }

    fn indexes(&self) -> Vec<(&'static str, String)> {
        vec![
            ("login", self.login.to_string()),
            ("user", self.user.to_string()),
        ]
    }

    fn expires(&self) -> Option<Timestamp> {
        Some(self.expires_at)
    }
}
