//! Groups.

use serde::{Deserialize, Serialize};
use testudo_model::{GroupId, GroupName, RoleName};
use testudo_store::{Cursor, Expected, Page, Versioned};

use super::{AdminError, Named, check_text, membership::stage_nesting};
use crate::{
    Caller, Provider,
    change::{Change, until_settled},
    limits::MAX_MEMBER_CHANGES,
    records::{Group, ServiceAccount, User},
};

/// What an administrator says about a group.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GroupProfile {
    /// Name for people.
    pub display_name: Option<String>,
    /// Text for people.
    pub description: Option<String>,
    /// Groups it is in.
    pub parents: Vec<GroupName>,
    /// Roles it gives.
    pub roles: Vec<RoleName>,
}

impl GroupProfile {
    /// `group` as this profile says.
    fn apply(self, group: Group) -> Group {
        let Self {
            display_name,
            description,
            parents,
            roles,
        } = self;
        Group {
            display_name,
            description,
            parents,
            roles,
            ..group
        }
    }
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
        let named = named(name.as_str());
        until_settled(|| {
            let nesting = self.nesting()?;
            self.check_group(name, &profile)?;
            if self.tenant.get::<Group>(name.as_str())?.is_some() {
                return Err(named.taken());
            }
            let group = profile.clone().apply(self.blank_group(name));
            let report = self.account_report("group.create", name.as_str());
            let change = self
                .stage_memberships(self.change(), &[], &group.parents)?
                .put(Expected::Absent, &group)
                .report(report, caller);
            let done = stage_nesting(change, nesting).commit()?;
            Ok(done.then_some(group))
        })
    }

    /// A new group of which nothing is known but the name.
    pub(crate) fn blank_group(&self, name: &GroupName) -> Group {
        let now = self.clock.now();
        Group {
            id: GroupId::generate(&*self.clock, &*self.entropy),
            name: name.clone(),
            display_name: None,
            description: None,
            external_id: None,
            parents: Vec::new(),
            roles: Vec::new(),
            created_at: now,
            updated_at: now,
        }
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
        until_settled(|| {
            let nesting = self.nesting()?;
            self.check_group(name, &profile)?;
            let stored = self.load_at::<Group>(named(name.as_str()), name.as_str(), version)?;
            let before = stored.record.parents.clone();
            let group = Group {
                updated_at: self.clock.now(),
                ..profile.clone().apply(stored.record)
            };
            let report = self.account_report("group.update", name.as_str());
            let change = self
                .stage_memberships(self.change(), &before, &group.parents)?
                .put(Expected::Version(version), &group)
                .report(report, caller);
            Ok(stage_nesting(change, nesting).commit()?.then_some(()))
        })
    }

    /// Deletes a group, and with `dissolve` also one that somebody is in: they leave it.
    ///
    /// # Errors
    /// The version is not the present one, there are members who may not leave, or too many to leave at once.
    pub fn delete_group(
        &self,
        name: &GroupName,
        version: u64,
        dissolve: bool,
        caller: &Caller,
    ) -> Result<(), AdminError> {
        let named = named(name.as_str());
        until_settled(|| {
            let nesting = self.nesting()?;
            let stored = self.load_at::<Group>(named, name.as_str(), version)?;
            let mut change = self.stage_memberships(self.change(), &stored.record.parents, &[])?;
            if dissolve {
                change = self.stage_dissolution(change, named, name)?;
            } else {
                self.refuse_if_used::<User>("group", named)?;
                self.refuse_if_used::<ServiceAccount>("group", named)?;
                self.refuse_if_used::<Group>("group", named)?;
            }
            let report = self.account_report("group.delete", name.as_str());
            let change = change
                .delete::<Group>(Expected::Version(version), name.as_str())
                .report(report, caller);
            Ok(stage_nesting(change, nesting).commit()?.then_some(()))
        })
    }

    /// Takes everybody out of a group that goes.
    fn stage_dissolution<'p>(
        &self,
        mut change: Change<'p>,
        named: Named<'_>,
        group: &GroupName,
    ) -> Result<Change<'p>, AdminError> {
        let users = self.tenant.find::<User>("group", named.name)?;
        let accounts = self.tenant.find::<ServiceAccount>("group", named.name)?;
        let groups = self.tenant.find::<Group>("group", named.name)?;
        let count = users.len() + accounts.len() + groups.len();
        if count > MAX_MEMBER_CHANGES {
            return Err(AdminError::InUse {
                kind: named.kind,
                name: named.name.to_owned(),
                users: count,
            });
        }
        let updated_at = self.clock.now();
        for Versioned {
            mut record,
            version,
        } in users
        {
            record.groups.retain(|other| other != group);
            record.updated_at = updated_at;
            change = change.put(Expected::Version(version), &record);
        }
        for Versioned {
            mut record,
            version,
        } in accounts
        {
            record.groups.retain(|other| other != group);
            record.updated_at = updated_at;
            change = change.put(Expected::Version(version), &record);
        }
        for Versioned {
            mut record,
            version,
        } in groups
        {
            record.parents.retain(|other| other != group);
            record.updated_at = updated_at;
            change = change.put(Expected::Version(version), &record);
        }
        Ok(change)
    }

    fn check_group(&self, name: &GroupName, profile: &GroupProfile) -> Result<(), AdminError> {
        check_text("display name", profile.display_name.as_deref())?;
        check_text("description", profile.description.as_deref())?;
        self.check_memberships(&profile.parents, &profile.roles)?;
        self.check_nesting(name, &profile.parents)
    }
}
