//! Who holds a name. Inserting one where there is one fails, which is what makes names unique.

use serde::{Deserialize, Serialize};
use testudo_model::{ClientName, ServiceAccountId, UserId, Username};
use testudo_store::Record;

/// A taken name. Clients and service accounts share their names: both are OAuth client ids.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NameClaim {
    key: String,
    pub(crate) holder: Holder,
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
        }
    }

    pub(crate) fn of_service_account(name: &ClientName, id: &ServiceAccountId) -> Self {
        Self {
            key: Self::client_key(name),
            holder: Holder::ServiceAccount(id.clone()),
        }
    }

    pub(crate) fn of_client(name: &ClientName) -> Self {
        Self {
            key: Self::client_key(name),
            holder: Holder::Client,
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
}
