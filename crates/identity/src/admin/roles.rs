//! Roles.

use serde::{Deserialize, Serialize};
use testudo_model::RoleName;
use testudo_store::{Cursor, Expected, Page, Versioned};

use super::{AdminError, Named, check_text};
use crate::{
    Caller, Provider,
    records::{Group, Role, ServiceAccount, User},
};

/// What an administrator says about a role.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RoleProfile {
    /// Text for people.
    pub description: Option<String>,
}

const fn named(name: &str) -> Named<'_> {
    Named { kind: "role", name }
}

impl Provider {
    /// Creates a role.
    ///
    /// # Errors
    /// The name is taken.
    pub fn create_role(
        &self,
        name: &RoleName,
        profile: RoleProfile,
        caller: &Caller,
    ) -> Result<Role, AdminError> {
        check_text("description", profile.description.as_deref())?;
        let now = self.clock.now();
        let description = profile.description;
        let role = Role {
            name: name.clone(),
            description,
            created_at: now,
            updated_at: now,
        };
        let report = self.account_report("role.create", name.as_str());
        let change = self
            .change()
            .put(Expected::Absent, &role)
            .report(report, caller);
        self.commit_new(change, named(name.as_str()))?;
        Ok(role)
    }

    /// A role.
    ///
    /// # Errors
    /// There is none.
    pub fn role(&self, name: &RoleName) -> Result<Versioned<Role>, AdminError> {
        self.load(named(name.as_str()), name.as_str())
    }

    /// A page of roles, in order of creation.
    ///
    /// # Errors
    /// The store fails.
    pub fn roles(&self, after: Option<Cursor>, limit: usize) -> Result<Page<Role>, AdminError> {
        self.page(after, limit)
    }

    /// Replaces what is said about a role.
    ///
    /// # Errors
    /// The version is not the present one.
    pub fn update_role(
        &self,
        name: &RoleName,
        version: u64,
        profile: RoleProfile,
        caller: &Caller,
    ) -> Result<(), AdminError> {
        check_text("description", profile.description.as_deref())?;
        let stored = self.load_at::<Role>(named(name.as_str()), name.as_str(), version)?;
        let role = Role {
            description: profile.description,
            updated_at: self.clock.now(),
            ..stored.record
        };
        let report = self.account_report("role.update", name.as_str());
        let change = self
            .change()
            .put(Expected::Version(version), &role)
            .report(report, caller);
        self.commit_change(change, named(name.as_str()))
    }

    /// Deletes a role that nobody has.
    ///
    /// # Errors
    /// The version is not the present one, or somebody has the role.
    pub fn delete_role(
        &self,
        name: &RoleName,
        version: u64,
        caller: &Caller,
    ) -> Result<(), AdminError> {
        let named = named(name.as_str());
        self.load_at::<Role>(named, name.as_str(), version)?;
        self.refuse_if_used::<User>("role", named)?;
        self.refuse_if_used::<ServiceAccount>("role", named)?;
        self.refuse_if_used::<Group>("role", named)?;
        let report = self.account_report("role.delete", name.as_str());
        let change = self
            .change()
            .delete::<Role>(Expected::Version(version), name.as_str())
            .report(report, caller);
        self.commit_change(change, named)
    }
}
