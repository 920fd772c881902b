//! Groups.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use testudo_model::{GroupName, RoleName};
use testudo_store::{Cursor, Expected, Page, Versioned};

use super::{AdminError, Named, check_text};
use crate::{
    Caller, Provider,
    records::{Group, ServiceAccount, User},
};

/// What an administrator says about a group.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GroupProfile {
    /// Text for people.
    pub description: Option<String>,
    /// Groups it is in.
    pub parents: Vec<GroupName>,
    /// Roles it gives.
    pub roles: Vec<RoleName>,
}

const fn named(name: &str) -> Named<'_> {
    Named {
        kind: "group",
        name,
    }
}

impl Provider {
    /// Creates a group.
    ///
    /// # Errors
    /// The name is taken, or a parent or role does not exist.
    pub fn create_group(
        &self,
        name: &GroupName,
        profile: GroupProfile,
        caller: &Caller,
    ) -> Result<Group, AdminError> {
        self.check_group(name, &profile)?;
        let now = self.clock.now();
        let GroupProfile {
            description,
            parents,
            roles,
        } = profile;
        let group = Group {
            name: name.clone(),
            description,
            parents,
            roles,
            created_at: now,
            updated_at: now,
        };
        let report = self.account_report("group.create", name.as_str());
        let change = self
            .change()
            .put(Expected::Absent, &group)
            .report(report, caller);
        self.commit_new(change, named(name.as_str()))?;
        Ok(group)
    }

    /// A group.
    ///
    /// # Errors
    /// There is none.
    pub fn group(&self, name: &GroupName) -> Result<Versioned<Group>, AdminError> {
        self.load(named(name.as_str()), name.as_str())
    }

    /// A page of groups, in order of creation.
    ///
    /// # Errors
    /// The store fails.
    pub fn groups(&self, after: Option<Cursor>, limit: usize) -> Result<Page<Group>, AdminError> {
        self.page(after, limit)
    }

    /// Replaces what is said about a group.
    ///
    /// # Errors
    /// The version is not the present one, a parent or role does not exist, or parents form a cycle.
    pub fn update_group(
        &self,
        name: &GroupName,
        version: u64,
        profile: GroupProfile,
        caller: &Caller,
    ) -> Result<(), AdminError> {
        self.check_group(name, &profile)?;
        let stored = self.load_at::<Group>(named(name.as_str()), name.as_str(), version)?;
        let GroupProfile {
            description,
            parents,
            roles,
        } = profile;
        let updated_at = self.clock.now();
        let group = Group {
            description,
            parents,
            roles,
            updated_at,
            ..stored.record
        };
        let report = self.account_report("group.update", name.as_str());
        let change = self
            .change()
            .put(Expected::Version(version), &group)
            .report(report, caller);
        self.commit_change(change, named(name.as_str()))
    }

    /// Deletes a group that nobody is in.
    ///
    /// # Errors
    /// The version is not the present one, or there are members.
    pub fn delete_group(
        &self,
        name: &GroupName,
        version: u64,
        caller: &Caller,
    ) -> Result<(), AdminError> {
        let named = named(name.as_str());
        self.load_at::<Group>(named, name.as_str(), version)?;
        self.refuse_if_used::<User>("group", named)?;
        self.refuse_if_used::<ServiceAccount>("group", named)?;
        self.refuse_if_used::<Group>("group", named)?;
        let report = self.account_report("group.delete", name.as_str());
        let change = self
            .change()
            .delete::<Group>(Expected::Version(version), name.as_str())
            .report(report, caller);
        self.commit_change(change, named)
    }

    fn check_group(&self, name: &GroupName, profile: &GroupProfile) -> Result<(), AdminError> {
        check_text("description", profile.description.as_deref())?;
        self.check_memberships(&profile.parents, &profile.roles)?;
        self.refuse_cycle(name, &profile.parents)
    }

    fn refuse_cycle(&self, name: &GroupName, parents: &[GroupName]) -> Result<(), AdminError> {
        let mut seen = BTreeSet::new();
        let mut open = parents.to_vec();
        while let Some(group) = open.pop() {
            if group == *name {
                return Err(AdminError::invalid(
                    "list of parents",
                    "would put the group into itself",
                ));
            }
            if seen.insert(group.clone())
                && let Some(stored) = self.tenant.get::<Group>(group.as_str())?
            {
                open.extend(stored.record.parents);
            }
        }
        Ok(())
    }
}
