//! Authorization codes.

use serde::{Deserialize, Serialize};
use testudo_model::{ClientName, SessionId, Timestamp, UserId};
use testudo_store::Record;

use crate::{
    dpop::KeyThumbprint, pkce::CodeChallenge, records::Authentication, scopes::ScopeSet,
    secret::StoredSecret,
};

/// An authorization code and everything it is bound to. The code itself is not stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct AuthorizationCode {
    /// SHA-256 of the code, hex.
    pub(crate) digest: StoredSecret,
    pub(crate) client_id: ClientName,
    pub(crate) client_created_at: Timestamp,
    /// Exactly as requested, with the port a native client chose.
    pub(crate) redirect_uri: String,
    /// None from a client that need not send one, and did not.
    pub(crate) challenge: Option<CodeChallenge>,
    /// The key that whoever redeems it must have (`dpop_jkt`).
    pub(crate) key: Option<KeyThumbprint>,
    pub(crate) scopes: ScopeSet,
    pub(crate) nonce: Option<String>,
    pub(crate) login: SessionId,
    pub(crate) user: UserId,
    pub(crate) authentication: Authentication,
    pub(crate) expires_at: Timestamp,
    pub(crate) state: CodeState,
}

/// The life of a code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum CodeState {
    /// Nobody has redeemed it.
    Issued,
    /// It was redeemed. It is kept while the tokens it gave may live, to take them back if it comes again.
    Redeemed {
        /// What it gave.
        grant: SessionId,
        /// When the record is no longer needed.
        remember_until: Timestamp,
    },
}

impl Record for AuthorizationCode {
    const COLLECTION: &'static str = "identity.code";

    fn key(&self) -> String {
        self.digest.expose().to_owned()
    }

    fn expires(&self) -> Option<Timestamp> {
        match &self.state {
            CodeState::Issued => Some(self.expires_at),
            CodeState::Redeemed { remember_until, .. } => Some(*remember_until),
        }
    }
}
