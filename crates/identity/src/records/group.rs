//! Groups and roles.

use serde::{Deserialize, Serialize};
use testudo_model::{GroupId, GroupName, RoleName, Timestamp};
use testudo_store::Record;

/// A group of subjects. Its members are also in the groups it is in, and have its roles.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Never changes, never used again.
    pub id: GroupId,
    /// Its name in policies.
    pub name: GroupName,
    /// Name for people.
    pub display_name: Option<String>,
    /// Text for people.
    pub description: Option<String>,
    /// What whoever provisions it calls it (RFC 7643 section 3.1).
    pub external_id: Option<String>,
    /// Groups it is in; without cycles.
    pub parents: Vec<GroupName>,
    /// Roles it gives.
    pub roles: Vec<RoleName>,
    /// When the record was made.
    pub created_at: Timestamp,
    /// When it was changed last, or who is in it.
    pub updated_at: Timestamp,
}

impl Record for Group {
    const COLLECTION: &'static str = "identity.group";

    fn key(&self) -> String {
        self.name.to_string()
    }

    fn indexes(&self) -> Vec<(&'static str, String)> {
        let own = [
            Some(("id", self.id.to_string())),
            self.external_id.clone().map(|id| ("external_id", id)),
        ];
        let parents = self
            .parents
            .iter()
            .map(|group| ("group", group.to_string()));
        let roles = self.roles.iter().map(|role| ("role", role.to_string()));
        own.into_iter()
            .flatten()
            .chain(parents)
            .chain(roles)
            .collect()
    }
}

/// How often it changed which group is in which. Whoever changes that writes this record, so that of two changes, each of
/// which is right alone, the second sees the first: together they might close a circle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Nesting {
    pub(crate) changes: u64,
}

impl Nesting {
    pub(crate) const KEY: &'static str = "groups";
}

impl Record for Nesting {
    const COLLECTION: &'static str = "identity.nesting";

    fn key(&self) -> String {
        Self::KEY.to_owned()
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
