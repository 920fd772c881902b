//! Who is in which group.
//!
//! A membership is kept at the member. Each change of one writes the group too: the group's version says who is in it, and
//! nobody gets into a group that is deleted at the same moment, to turn up in a later one of the same name.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
};

use serde::Serialize;
use testudo_model::{GroupName, Username};
use testudo_store::{Expected, Versioned};

use super::{AdminError, check_count};
use crate::{
    Caller, Fault, Provider,
    change::{Change, until_settled},
    limits::{MAX_GROUP_DEPTH, MAX_MEMBERSHIPS},
    records::{Group, Nesting, ServiceAccount, User},
};

/// What can be in a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum MemberKind {
    /// Another group, with all who are in it.
    Group,
    /// A machine.
    ServiceAccount,
    /// A person.
    User,
}

impl MemberKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Group, Self::ServiceAccount, Self::User];

    /// As the API calls it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Group => "group",
            Self::ServiceAccount => "service-account",
            Self::User => "user",
        }
    }

    /// As errors call it.
    const fn noun(self) -> &'static str {
        match self {
            Self::Group => "group",
            Self::ServiceAccount => "service account",
            Self::User => "user",
        }
    }

    fn not_found(self, name: &str) -> AdminError {
        AdminError::NotFound {
            kind: self.noun(),
            name: name.to_owned(),
        }
    }
}

impl fmt::Display for MemberKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl FromStr for MemberKind {
    type Err = AdminError;

    fn from_str(text: &str) -> Result<Self, AdminError> {
        let known = Self::ALL.into_iter().find(|kind| kind.as_str() == text);
        known.ok_or_else(|| {
            AdminError::invalid("kind of member", "is `user`, `service-account` or `group`")
        })
    }
}

/// A member of a group.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct MemberView {
    /// What it is.
    pub kind: MemberKind,
    /// Its name: login name, client id or name of the group.
    pub name: String,
    /// Its id.
    pub id: String,
    /// The group that it is in itself: this one, or one below it.
    pub via: GroupName,
}

impl Provider {
    /// Puts somebody, or a whole group, into a group. `false`: they are in it already.
    ///
    /// # Errors
    /// There is no such group or member, the member is in too many groups, or groups would nest too deep or in a circle.
    pub fn add_member(
        &self,
        group: &GroupName,
        kind: MemberKind,
        name: &str,
        caller: &Caller,
    ) -> Result<bool, AdminError> {
        self.change_member(group, kind, name, caller, true)
    }

    /// Takes somebody, or a whole group, out of a group. `false`: they are not in it.
    ///
    /// # Errors
    /// There is no such group or member.
    pub fn remove_member(
        &self,
        group: &GroupName,
        kind: MemberKind,
        name: &str,
        caller: &Caller,
    ) -> Result<bool, AdminError> {
        self.change_member(group, kind, name, caller, false)
    }

    fn change_member(
        &self,
        group: &GroupName,
        kind: MemberKind,
        name: &str,
        caller: &Caller,
        is_in: bool,
    ) -> Result<bool, AdminError> {
        until_settled(|| {
            let target = self.group(group)?;
            let change = self.change();
            let staged = match kind {
                MemberKind::User => self.stage_user_in(change, group, name, is_in)?,
                MemberKind::ServiceAccount => self.stage_account_in(change, group, name, is_in)?,
                MemberKind::Group => self.stage_group_in(change, group, name, is_in)?,
            };
            let Some(change) = staged else {
                return Ok(Some(false));
            };
            let change = self.touch(change, target);
            let change = self.report_membership(change, group, kind, name, is_in, caller);
            Ok(change.commit()?.then_some(true))
        })
    }

    /// Adds the event of a membership that begins or ends.
    pub(crate) fn report_membership<'p>(
        &self,
        change: Change<'p>,
        group: &GroupName,
        kind: MemberKind,
        name: &str,
        is_in: bool,
        caller: &Caller,
    ) -> Change<'p> {
        let report = if is_in {
            self.account_report("group.add_member", group.as_str())
        } else {
            self.account_report("group.remove_member", group.as_str())
        };
        let report = report.detail("kind", kind.as_str()).detail("member", name);
        change.report(report, caller)
    }

    fn stage_user_in<'p>(
        &self,
        change: Change<'p>,
        group: &GroupName,
        name: &str,
        is_in: bool,
    ) -> Result<Option<Change<'p>>, AdminError> {
        let username: Username = name.parse().map_err(|_| MemberKind::User.not_found(name))?;
        let stored = self.user_by_name(&username)?;
        let Some(groups) = changed(&stored.record.groups, group, is_in)? else {
            return Ok(None);
        };
        let user = User {
            groups,
            updated_at: self.clock.now(),
            ..stored.record
        };
        Ok(Some(change.put(Expected::Version(stored.version), &user)))
    }

    fn stage_account_in<'p>(
        &self,
        change: Change<'p>,
        group: &GroupName,
        name: &str,
        is_in: bool,
    ) -> Result<Option<Change<'p>>, AdminError> {
        let kind = MemberKind::ServiceAccount;
        let client = name.parse().map_err(|_| kind.not_found(name))?;
        let stored = self.service_account_by_name(&client)?;
        let Some(groups) = changed(&stored.record.groups, group, is_in)? else {
            return Ok(None);
        };
        let account = ServiceAccount {
            groups,
            updated_at: self.clock.now(),
            ..stored.record
        };
        Ok(Some(
            change.put(Expected::Version(stored.version), &account),
        ))
    }

    fn stage_group_in<'p>(
        &self,
        change: Change<'p>,
        group: &GroupName,
        name: &str,
        is_in: bool,
    ) -> Result<Option<Change<'p>>, AdminError> {
        let nesting = self.nesting()?;
        let child: GroupName = name
            .parse()
            .map_err(|_| MemberKind::Group.not_found(name))?;
        let stored = self.group(&child)?;
        let Some(parents) = changed(&stored.record.parents, group, is_in)? else {
            return Ok(None);
        };
        self.check_nesting(&child, &parents)?;
        let child = Group {
            parents,
            updated_at: self.clock.now(),
            ..stored.record
        };
        let change = change.put(Expected::Version(stored.version), &child);
        Ok(Some(stage_nesting(change, nesting)))
    }

    /// Who is in a group: directly, or in one of the groups in it as well. In order of kind and name.
    ///
    /// # Errors
    /// There is no such group.
    pub fn members(&self, group: &GroupName, nested: bool) -> Result<Vec<MemberView>, AdminError> {
        self.group(group)?;
        let mut members = BTreeMap::new();
        let mut seen = BTreeSet::from([group.clone()]);
        let mut open = vec![group.clone()];
        while let Some(via) = open.pop() {
            for member in self.direct_members(&via)? {
                if member.kind == MemberKind::Group
                    && nested
                    && let Ok(child) = member.name.parse::<GroupName>()
                    && seen.insert(child.clone())
                {
                    open.push(child);
                }
                // Who is in the group itself is shown so, whatever else they are in.
                let is_direct = via == *group;
                let known = members.entry((member.kind, member.name.clone()));
                let shown = known.or_insert_with(|| member.clone());
                if is_direct {
                    *shown = member;
                }
            }
        }
        Ok(members.into_values().collect())
    }

    fn direct_members(&self, group: &GroupName) -> Result<Vec<MemberView>, Fault> {
        let view = |kind, name: String, id: String| MemberView {
            kind,
            name,
            id,
            via: group.clone(),
        };
        let mut members = Vec::new();
        for Versioned { record, .. } in self.tenant.find::<Group>("group", group.as_str())? {
            let name = record.name.to_string();
            members.push(view(MemberKind::Group, name, record.id.to_string()));
        }
        for Versioned { record, .. } in self
            .tenant
            .find::<ServiceAccount>("group", group.as_str())?
        {
            let name = record.name.to_string();
            members.push(view(
                MemberKind::ServiceAccount,
                name,
                record.id.to_string(),
            ));
        }
        for Versioned { record, .. } in self.tenant.find::<User>("group", group.as_str())? {
            let name = record.username.to_string();
            members.push(view(MemberKind::User, name, record.id.to_string()));
        }
        Ok(members)
    }

    /// Writes each group that somebody comes into or leaves.
    pub(crate) fn stage_memberships<'p>(
        &self,
        mut change: Change<'p>,
        before: &[GroupName],
        after: &[GroupName],
    ) -> Result<Change<'p>, AdminError> {
        let before: BTreeSet<&GroupName> = before.iter().collect();
        let after: BTreeSet<&GroupName> = after.iter().collect();
        for name in before.symmetric_difference(&after) {
            match self.tenant.get::<Group>(name.as_str())? {
                Some(stored) => change = self.touch(change, stored),
                None if after.contains(name) => {
                    return Err(MemberKind::Group.not_found(name.as_str()));
                }
                None => {}
            }
        }
        Ok(change)
    }

    /// Writes a group because of who is in it.
    pub(crate) fn touch<'p>(&self, change: Change<'p>, stored: Versioned<Group>) -> Change<'p> {
        let group = Group {
            updated_at: self.clock.now(),
            ..stored.record
        };
        change.put(Expected::Version(stored.version), &group)
    }

    /// The record that a change of nesting writes; to be read before what the change is decided on.
    pub(crate) fn nesting(&self) -> Result<Option<Versioned<Nesting>>, Fault> {
        Ok(self.tenant.get::<Nesting>(Nesting::KEY)?)
    }

    /// Whether `name` may be in `parents`.
    pub(super) fn check_nesting(
        &self,
        name: &GroupName,
        parents: &[GroupName],
    ) -> Result<(), AdminError> {
        let stored = self.all::<Group>()?.into_iter();
        let mut groups: BTreeMap<GroupName, Vec<GroupName>> =
            stored.map(|group| (group.name, group.parents)).collect();
        groups.insert(name.clone(), parents.to_vec());
        check_nesting_of(&groups, name)
    }
}

/// Adds the write that excludes other changes of nesting.
pub(crate) fn stage_nesting(change: Change<'_>, before: Option<Versioned<Nesting>>) -> Change<'_> {
    let (expected, changes) = match before {
        Some(stored) => (Expected::Version(stored.version), stored.record.changes),
        None => (Expected::Absent, 0),
    };
    let changes = changes.wrapping_add(1);
    change.put(expected, &Nesting { changes })
}

/// `groups` with or without `group`; none if that is how they are.
fn changed(
    groups: &[GroupName],
    group: &GroupName,
    is_in: bool,
) -> Result<Option<Vec<GroupName>>, AdminError> {
    if groups.contains(group) == is_in {
        return Ok(None);
    }
    let mut changed = groups.to_vec();
    if is_in {
        changed.push(group.clone());
    } else {
        changed.retain(|other| other != group);
    }
    check_count("list of groups", changed.len(), MAX_MEMBERSHIPS)?;
    Ok(Some(changed))
}

/// Whether `name` is in no circle of `groups`, each with the groups it is in, and in no chain that is too long.
pub(crate) fn check_nesting_of(
    groups: &BTreeMap<GroupName, Vec<GroupName>>,
    name: &GroupName,
) -> Result<(), AdminError> {
    let mut children: BTreeMap<&GroupName, Vec<&GroupName>> = BTreeMap::new();
    for (child, parents) in groups {
        for parent in parents {
            children.entry(parent).or_default().push(child);
        }
    }
    let above = levels(name, |group| {
        groups.get(group).into_iter().flatten().collect()
    })?;
    let below = levels(name, |group| {
        children.get(group).cloned().unwrap_or_default()
    })?;
    if above + below > MAX_GROUP_DEPTH {
        return Err(too_deep());
    }
    Ok(())
}

/// Length of the longest chain from `start` on.
fn levels<'a>(
    start: &'a GroupName,
    next: impl Fn(&GroupName) -> Vec<&'a GroupName>,
) -> Result<usize, AdminError> {
    let mut level = BTreeSet::from([start]);
    for length in 0..=MAX_GROUP_DEPTH {
        level = level.into_iter().flat_map(&next).collect();
        if level.is_empty() {
            return Ok(length);
        }
        if level.contains(start) {
            return Err(AdminError::invalid(
                "list of parents",
                "would put the group into itself",
            ));
        }
    }
    Err(too_deep())
}

fn too_deep() -> AdminError {
    AdminError::invalid(
        "list of parents",
        format!("would nest groups more than {MAX_GROUP_DEPTH} deep"),
    )
}
