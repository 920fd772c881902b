//! Logins.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use testudo_model::{SessionId, Timestamp, UserId};
use testudo_store::Record;

use crate::{federation::LinkId, secret::StoredSecret};

/// One login of a user in one browser or terminal.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Session {
    /// Its id.
    pub id: SessionId,
    /// Who logged in.
    pub user: UserId,
    /// How.
    pub authentication: Authentication,
    /// SHA-256 of the cookie's secret; none once a later login in the same browser took its place.
    pub(crate) cookie_digest: Option<StoredSecret>,
    /// The account elsewhere that it was, if it was one.
    pub(crate) link: Option<LinkId>,
    /// From where.
    pub source_ip: Option<IpAddr>,
    /// When it was last used to get tokens.
    pub used_at: Timestamp,
    /// When it ends.
    pub expires_at: Timestamp,
}

impl Record for Session {
    const COLLECTION: &'static str = "identity.session";

    fn key(&self) -> String {
        self.id.to_string()
    }

    fn indexes(&self) -> Vec<(&'static str, String)> {
        vec![("user", self.user.to_string())]
    }

    fn expires(&self) -> Option<Timestamp> {
        Some(self.expires_at)
    }
}

/// How and when a user proved who they are: what tokens say about the login.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authentication {
    /// `auth_time`.
    pub at: Timestamp,
    /// `acr`: the assurance level as a decimal number, 1 to 3.
    pub context_class: String,
    /// `amr` (RFC 8176).
    pub methods: Vec<String>,
}
