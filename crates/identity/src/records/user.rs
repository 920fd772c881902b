//! People.

use serde::{Deserialize, Serialize};
use testudo_model::{GroupName, RoleName, Timestamp, UserId, Username};
use testudo_store::Record;

use crate::mail::mail_key;

/// A person who can log in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// The `sub` of their tokens. Never changes, never used again.
    pub id: UserId,
    /// Login name.
    pub username: Username,
    /// Name for people.
    pub display_name: Option<String>,
    /// Mail address.
    pub email: Option<String>,
    /// Whether that address is theirs: they have followed a link that was sent there, or an administrator says so.
    pub email_verified: bool,
    /// Cannot log in, and nothing accepts their tokens.
    pub disabled: bool,
    /// Clearance, 0 to 100: an attribute for policies.
    pub clearance: i64,
    /// Groups they are in.
    pub groups: Vec<GroupName>,
    /// Roles they have themselves; groups give further ones.
    pub roles: Vec<RoleName>,
    /// What only whoever provisions them says.
    pub provisioned: Provisioned,
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
        let external = self.provisioned.external_id.iter();
        let external = external.map(|id| ("external_id", id.clone()));
        let email = self.email.iter();
        let email = email.map(|address| (Self::EMAIL_INDEX, mail_key(address)));
        groups.chain(roles).chain(external).chain(email).collect()
    }
}

impl User {
    /// Users by mail address, as `mail_key` makes it.
    pub(crate) const EMAIL_INDEX: &'static str = "email";

    /// The user with this address. Another one than before is not verified.
    pub(crate) fn with_email(self, email: Option<String>) -> Self {
        Self {
            email_verified: self.email_verified && email == self.email,
            email,
            ..self
        }
    }
}

/// Attributes that a provisioning system sets and reads again (RFC 7643 section 4.1), and nobody else uses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provisioned {
    /// What it calls the user.
    pub external_id: Option<String>,
    /// The name in parts.
    pub name: PersonName,
    /// Mail addresses with what is said about them. The one that counts is [`User::email`].
    pub emails: Vec<MailAddress>,
}

/// A name in parts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PersonName {
    /// All of it, as it is to be shown.
    pub formatted: Option<String>,
    /// Surname.
    pub family: Option<String>,
    /// First name.
    pub given: Option<String>,
}

/// A mail address as a provisioning system knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MailAddress {
    /// The address.
    pub value: String,
    /// `work`, `home` or something else.
    pub kind: Option<String>,
    /// Whether it is said to be the one to use, or not to be.
    pub primary: Option<bool>,
}
