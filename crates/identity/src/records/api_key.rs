//! API keys, as they are kept: never themselves.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use testudo_model::{ApiKeyId, Scope, ServiceAccountId, ServiceName, Timestamp};
use testudo_store::Record;

use crate::secret::StoredSecret;

/// A key of a service account. It goes when it expires.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ApiKey {
    /// The public half of the key.
    pub id: ApiKeyId,
    /// Whose it is.
    pub account: ServiceAccountId,
    /// What it is called.
    pub name: String,
    /// What of the account's scopes it has; all of them if `None`.
    pub scopes: Option<Vec<Scope>>,
    /// Services it is for; any that takes keys if empty.
    pub services: Vec<ServiceName>,
    /// Where it may be used; anywhere if empty.
    pub networks: Vec<IpNet>,
    /// When it was made.
    pub created_at: Timestamp,
    /// From when on it is worthless.
    pub expires_at: Timestamp,
    /// How long it was made for: one that takes its place is good as long.
    pub lifetime_seconds: u64,
    /// The key it takes the place of.
    pub rotated_from: Option<ApiKeyId>,
    pub(crate) digest: StoredSecret,
}

impl ApiKey {
    pub(crate) const ACCOUNT: &'static str = "account";
}

impl Record for ApiKey {
    const COLLECTION: &'static str = "identity.api_key";

    fn key(&self) -> String {
        self.id.to_string()
    }

    fn indexes(&self) -> Vec<(&'static str, String)> {
        vec![(Self::ACCOUNT, self.account.to_string())]
    }

    fn expires(&self) -> Option<Timestamp> {
        Some(self.expires_at)
    }
}
