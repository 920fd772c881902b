//! Who holds a name. Inserting one where there is one fails, which is what makes names unique.

use serde::{Deserialize, Serialize};
use testudo_model::{ClientName, ServiceAccountId, Timestamp, UserId, Username};
use testudo_store::Record;

use super::Client;

/// A taken name. Clients and service accounts share their names: both are OAuth client ids.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NameClaim {
    key: String,
    pub(crate) holder: Holder,
    expires_at: Option<Timestamp>,
}

/// Who holds a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Holder {
    User(UserId),
    ServiceAccount(ServiceAccountId),
    Client,
}

impl NameClaim {
    pub(crate) fn of_user(username: &Username, id: &UserId) -> Self {
        Self {
            key: Self::user_key(username),
            holder: Holder::User(id.clone()),
            expires_at: None,
        }
    }

    pub(crate) fn of_service_account(name: &ClientName, id: &ServiceAccountId) -> Self {
        Self {
            key: Self::client_key(name),
            holder: Holder::ServiceAccount(id.clone()),
            expires_at: None,
        }
    }

    /// It goes when its client does.
    pub(crate) fn of_client(client: &Client) -> Self {
        Self {
            key: Self::client_key(&client.client_id),
            holder: Holder::Client,
            expires_at: client.expires_at(),
        }
    }

    pub(crate) fn user_key(username: &Username) -> String {
        format!("user:{username}")
    }

    pub(crate) fn client_key(name: &ClientName) -> String {
        format!("client:{name}")
    }
}

impl Record for NameClaim {
    const COLLECTION: &'static str = "identity.name";

    fn key(&self) -> String {
        self.key.clone()
    }

    fn expires(&self) -> Option<Timestamp> {
        self.expires_at
    }
}
