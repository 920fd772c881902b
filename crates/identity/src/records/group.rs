//! Groups and roles.

use serde::{Deserialize, Serialize};
use testudo_model::{GroupName, RoleName, Timestamp};
use testudo_store::Record;

/// A group of subjects. Its members are also in the groups it is in, and have its roles.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Its name.
    pub name: GroupName,
    /// Text for people.
    pub description: Option<String>,
    /// Groups it is in; without cycles.
    pub parents: Vec<GroupName>,
    /// Roles it gives.
    pub roles: Vec<RoleName>,
    /// When the record was made.
    pub created_at: Timestamp,
    /// When it was changed last.
    pub updated_at: Timestamp,
}

impl Record for Group {
    const COLLECTION: &'static str = "identity.group";

    fn key(&self) -> String {
        self.name.to_string()
    }

    fn indexes(&self) -> Vec<(&'static str, String)> {
        let parents = self
            .parents
            .iter()
            .map(|group| ("group", group.to_string()));
        let roles = self.roles.iter().map(|role| ("role", role.to_string()));
        parents.chain(roles).collect()
    }
}

/// A role: a name that policies refer to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Role {
    /// Its name.
    pub name: RoleName,
    /// Text for people.
    pub description: Option<String>,
    /// When the record was made.
    pub created_at: Timestamp,
    /// When it was changed last.
    pub updated_at: Timestamp,
}

impl Record for Role {
    const COLLECTION: &'static str = "identity.role";

    fn key(&self) -> String {
        self.name.to_string()
    }
}
