//! The directory: subjects, groups and roles as policies see them, without secrets.

use std::collections::{BTreeMap, BTreeSet};

use testudo_model::{
    GroupName, PolicyGroup, PolicyRole, RoleName,
    snapshot::{Directory, Subject},
};
use testudo_store::Record;

use crate::{
    Fault, Provider,
    keys::SigningKeys,
    limits::MAX_PAGE,
    records::{ApiKey, Group, Role, ServiceAccount, User},
};

/// Collections whose records show in snapshots: those of the directory, the signing keys and the API keys. Logins and tokens
/// write others, so a change there needs no new snapshot.
pub const SNAPSHOT_COLLECTIONS: [&str; 6] = [
    User::COLLECTION,
    ServiceAccount::COLLECTION,
    Group::COLLECTION,
    Role::COLLECTION,
    SigningKeys::COLLECTION,
    ApiKey::COLLECTION,
];

/// Groups and roles of a subject, with those that groups in groups give. In order of their names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// All groups it is in.
    pub groups: Vec<GroupName>,
    /// All roles it has.
    pub roles: Vec<RoleName>,
}

/// What rights to administer rest on. Whoever changes it, or who has it, decides who administers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reserved {
    /// Groups.
    pub groups: Vec<GroupName>,
    /// Roles.
    pub roles: Vec<RoleName>,
    /// `sub`s of users and service accounts.
    pub accounts: Vec<String>,
}

impl Reserved {
    /// Whether something of it is in these groups and roles.
    pub fn is_in(&self, groups: &[GroupName], roles: &[RoleName]) -> bool {
        groups.iter().any(|group| self.groups.contains(group))
            || roles.iter().any(|role| self.roles.contains(role))
    }

    /// Whether `account` is named.
    pub fn names(&self, account: &str) -> bool {
        self.accounts.iter().any(|named| named == account)
    }
}

impl Provider {
    /// Whether one with these roles and groups of its own has something reserved, in itself or by the groups up the line.
    ///
    /// # Errors
    /// The store fails.
    pub fn has_reserved(
        &self,
        reserved: &Reserved,
        own: &[RoleName],
        groups: &[GroupName],
    ) -> Result<bool, Fault> {
        if reserved.is_in(groups, own) {
            return Ok(true);
        }
        let standing = self.standing_of(own, groups)?;
        Ok(reserved.is_in(&standing.groups, &standing.roles))
    }

    /// The present directory. Names that no longer exist are left out, so that they give nothing; roles of
    /// groups are resolved into the subjects.
    ///
    /// # Errors
    /// The store fails.
    pub fn directory(&self) -> Result<Directory, Fault> {
        let roles: BTreeSet<RoleName> = self
            .all::<Role>()?
            .into_iter()
            .map(|role| role.name)
            .collect();
        let groups: BTreeMap<GroupName, Group> = self
            .all::<Group>()?
            .into_iter()
            .map(|group| (group.name.clone(), group))
            .collect();
        let known = Known { roles, groups };
        let mut subjects: Vec<Subject> = Vec::new();
        for user in self.all::<User>()? {
            subjects.push(Subject {
                id: user.id.to_string(),
                username: user.username.to_string(),
                tenant: self.settings.tenant.clone(),
                disabled: user.disabled,
                clearance: user.clearance,
                roles: self.policy_roles(known.roles_of(&user.roles, &user.groups)),
                groups: self.policy_groups(known.existing(&user.groups)),
            });
        }
        let accounts = self.all::<ServiceAccount>()?;
        for account in &accounts {
            subjects.push(Subject {
                id: account.id.to_string(),
                username: account.name.to_string(),
                tenant: self.settings.tenant.clone(),
                disabled: account.disabled,
                clearance: account.clearance,
                roles: self.policy_roles(known.roles_of(&account.roles, &account.groups)),
                groups: self.policy_groups(known.existing(&account.groups)),
            });
        }
        subjects.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(Directory {
            subjects,
            groups: known
                .parents()
                .into_iter()
                .map(|(group, parents)| {
                    let group = PolicyGroup::of(&self.settings.tenant, &group);
                    (group, self.policy_groups(parents))
                })
                .collect(),
            roles: self.policy_roles(known.roles),
            api_keys: self.known_api_keys(&accounts)?,
        })
    }

    fn policy_groups(&self, groups: impl IntoIterator<Item = GroupName>) -> Vec<PolicyGroup> {
        let groups = groups.into_iter();
        groups
            .map(|group| PolicyGroup::of(&self.settings.tenant, &group))
            .collect()
    }

    fn policy_roles(&self, roles: impl IntoIterator<Item = RoleName>) -> Vec<PolicyRole> {
        let roles = roles.into_iter();
        roles
            .map(|role| PolicyRole::of(&self.settings.tenant, &role))
            .collect()
    }

    /// Roles of one user or service account, as [`directory`](Self::directory) shows them: its own and those of
    /// its groups up the line. None for who is disabled or unknown.
    ///
    /// # Errors
    /// The store fails.
    pub fn roles_of(&self, subject: &str) -> Result<Vec<RoleName>, Fault> {
        let standing = self.standing_of_subject(subject)?;
        Ok(standing.map(|standing| standing.roles).unwrap_or_default())
    }

    /// Groups and roles of one user or service account; `None` for who is disabled or unknown.
    ///
    /// # Errors
    /// The store fails.
    pub fn standing_of_subject(&self, subject: &str) -> Result<Option<Standing>, Fault> {
        let found = match self.tenant.get::<User>(subject)? {
            Some(user) => Some((user.record.disabled, user.record.roles, user.record.groups)),
            None => self
                .tenant
                .get::<ServiceAccount>(subject)?
                .map(|found| found.record)
                .map(|account| (account.disabled, account.roles, account.groups)),
        };
        match found {
            Some((false, own, groups)) => Ok(Some(self.standing_of(&own, &groups)?)),
            _ => Ok(None),
        }
    }

    /// What a subject with these roles and groups of its own is in all: with what the groups up the line add. Names
    /// that no longer exist are left out.
    ///
    /// # Errors
    /// The store fails.
    pub fn standing_of(&self, own: &[RoleName], groups: &[GroupName]) -> Result<Standing, Fault> {
        let mut known = Known::default();
        let mut open = groups.to_vec();
        while let Some(name) = open.pop() {
            if !known.groups.contains_key(&name)
                && let Some(group) = self.tenant.get::<Group>(name.as_str())?
            {
                open.extend(group.record.parents.iter().cloned());
                known.groups.insert(name, group.record);
            }
        }
        let given = known.groups.values().flat_map(|group| &group.roles);
        for role in own.iter().chain(given) {
            if self.tenant.get::<Role>(role.as_str())?.is_some() {
                known.roles.insert(role.clone());
            }
        }
        Ok(Standing {
            roles: known.roles_of(own, groups),
            groups: known.groups.into_keys().collect(),
        })
    }

    /// All records of a collection.
    pub(crate) fn all<R: Record>(&self) -> Result<Vec<R>, Fault> {
        let mut records = Vec::new();
        let mut after = None;
        loop {
            let page = self.tenant.list::<R>(after, MAX_PAGE)?;
            records.extend(page.items.into_iter().map(|item| item.record));
            after = page.next;
            if after.is_none() {
                return Ok(records);
            }
        }
    }
}

/// Groups and roles that exist.
#[derive(Default)]
struct Known {
    roles: BTreeSet<RoleName>,
    groups: BTreeMap<GroupName, Group>,
}

impl Known {
    fn existing(&self, groups: &[GroupName]) -> Vec<GroupName> {
        groups
            .iter()
            .filter(|group| self.groups.contains_key(*group))
            .cloned()
            .collect()
    }

    fn parents(&self) -> BTreeMap<GroupName, Vec<GroupName>> {
        self.groups
            .iter()
            .map(|(name, group)| (name.clone(), self.existing(&group.parents)))
            .collect()
    }

    /// Own roles, and those of all groups up the line.
    fn roles_of(&self, own: &[RoleName], groups: &[GroupName]) -> Vec<RoleName> {
        let mut roles: BTreeSet<&RoleName> = own.iter().collect();
        let mut seen = BTreeSet::new();
        let mut open: Vec<&GroupName> = groups.iter().collect();
        while let Some(name) = open.pop() {
            if let Some(group) = self.groups.get(name)
                && seen.insert(name)
            {
                roles.extend(&group.roles);
                open.extend(&group.parents);
            }
        }
        roles
            .into_iter()
            .filter(|role| self.roles.contains(*role))
            .cloned()
            .collect()
    }
}
