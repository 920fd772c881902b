//! People.

use serde::{Deserialize, Serialize};
use testudo_model::{GroupName, RoleName, Timestamp, UserId, Username};
use testudo_store::Record;

/// A person who can log in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// The `sub` of their tokens. Never changes, never used again.
    pub id: UserId,
    /// Login name.
    pub username: Username,
    /// Name for people.
    pub display_name: Option<String>,
    /// Mail address, not verified by us.
    pub email: Option<String>,
    /// Cannot log in, and nothing accepts their tokens.
    pub disabled: bool,
    /// Clearance, 0 to 100: an attribute for policies.
    pub clearance: i64,
    /// Groups they are in.
    pub groups: Vec<GroupName>,
    /// Roles they have themselves; groups give further ones.
    pub roles: Vec<RoleName>,
    /// When the record was made.
    pub created_at: Timestamp,
    /// When it was changed last.
    pub updated_at: Timestamp,
}

impl Record for User {
    const COLLECTION: &'static str = "identity.user";

    fn key(&self) -> String {
        self.id.to_string()
    }

    fn indexes(&self) -> Vec<(&'static str, String)> {
        let groups = self.groups.iter().map(|group| ("group", group.to_string()));
        let roles = self.roles.iter().map(|role| ("role", role.to_string()));
        groups.chain(roles).collect()
    }
}
