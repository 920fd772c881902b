//! What only administrators may change, whatever policies permit others: that on which rights to administer rest.
//!
//! Whoever could set an administrator's password, or come into the group that a policy names, would give themselves what
//! they were not given. So the built-in roles, the groups, roles and accounts that policies of administration name, whoever
//! has one of them, and clients whose tokens are good for administering are reserved (`guardrail.administration_reserved`).

use testudo_identity::{
    AdminError, ClientProfile, Fault, GroupProfile, Reserved, ServiceAccount,
    ServiceAccountProfile, UserProfile,
};
use testudo_model::{ApiKeyId, ClientName, GroupName, RoleName, Scope, Username};
use testudo_policy::{AdminAction, AdminRules};

use super::{ADMIN_SCOPE, Administrator, SCIM_SCOPE};
use crate::{http::Refusal, plane::Plane};

/// What rights rest on in the tenant of `plane`.
pub fn reserved_by(rules: &AdminRules, plane: &Plane) -> Reserved {
    Reserved {
        groups: rules.groups_named(plane.tenant()),
        roles: rules.roles_named(plane.tenant()),
        accounts: rules.accounts_named(),
    }
}

/// Whether what `action` would change is reserved. What does not exist is not.
pub fn is_reserved(
    plane: &Plane,
    reserved: &Reserved,
    action: AdminAction,
    name: &str,
) -> Result<bool, Fault> {
    match action {
        // It brings people with roles, and clients.
        AdminAction::ImportWrite => Ok(true),
        AdminAction::UserWrite | AdminAction::UserDisable | AdminAction::CredentialWrite => {
            is_reserved_user(plane, reserved, name)
        }
        AdminAction::ServiceAccountWrite => is_reserved_account(plane, reserved, name),
        AdminAction::ApiKeyWrite => is_of_reserved_account(plane, reserved, name),
        // The secrets of both are rotated by their name.
        AdminAction::ClientWrite => {
            Ok(is_reserved_client(plane, name)? || is_reserved_account(plane, reserved, name)?)
        }
        AdminAction::GroupWrite | AdminAction::RoleGrant => {
            is_reserved_group(plane, reserved, name)
        }
        AdminAction::RoleWrite => Ok(is_reserved_role(reserved, name)),
        _ => Ok(false),
    }
}

fn is_reserved_user(plane: &Plane, reserved: &Reserved, name: &str) -> Result<bool, Fault> {
    let Ok(username) = name.parse::<Username>() else {
        return Ok(false);
    };
    let provider = &plane.provider;
    let Some(user) = found(provider.user_by_name(&username))?.map(|stored| stored.record) else {
        return Ok(false);
    };
    Ok(reserved.names(user.id.as_str())
        || provider.has_reserved(reserved, &user.roles, &user.groups)?)
}

fn is_reserved_account(plane: &Plane, reserved: &Reserved, name: &str) -> Result<bool, Fault> {
    let Ok(name) = name.parse::<ClientName>() else {
        return Ok(false);
    };
    let provider = &plane.provider;
    let stored = found(provider.service_account_by_name(&name))?;
    stored.map_or(Ok(false), |stored| {
        has_reserved(plane, reserved, &stored.record)
    })
}

fn has_reserved(
    plane: &Plane,
    reserved: &Reserved,
    account: &ServiceAccount,
) -> Result<bool, Fault> {
    let provider = &plane.provider;
    Ok(reserved.names(account.id.as_str())
        || has(&account.scopes, SCIM_SCOPE)
        || provider.has_reserved(reserved, &account.roles, &account.groups)?)
}

/// Of an API key: its account.
fn is_of_reserved_account(plane: &Plane, reserved: &Reserved, key: &str) -> Result<bool, Fault> {
    let Ok(id) = key.parse::<ApiKeyId>() else {
        return Ok(false);
    };
    let Some(key) = found(plane.provider.api_key(&id))? else {
        return Ok(false);
    };
    let account = found(plane.provider.service_account(&key.record.account))?;
    account.map_or(Ok(false), |stored| {
        has_reserved(plane, reserved, &stored.record)
    })
}

fn is_reserved_client(plane: &Plane, name: &str) -> Result<bool, Fault> {
    let Ok(name) = name.parse::<ClientName>() else {
        return Ok(false);
    };
    let stored = found(plane.provider.client(&name))?;
    Ok(stored.is_some_and(|stored| has(&stored.record.scopes, ADMIN_SCOPE)))
}

fn is_reserved_group(plane: &Plane, reserved: &Reserved, name: &str) -> Result<bool, Fault> {
    let Ok(name) = name.parse::<GroupName>() else {
        return Ok(false);
    };
    plane.provider.has_reserved(reserved, &[], &[name])
}

fn is_reserved_role(reserved: &Reserved, name: &str) -> bool {
    reserved.roles.iter().any(|role| role.as_str() == name)
}

fn found<T>(stored: Result<T, AdminError>) -> Result<Option<T>, Fault> {
    match stored {
        Ok(stored) => Ok(Some(stored)),
        Err(AdminError::Unavailable(fault)) => Err(fault),
        Err(_) => Ok(None),
    }
}

fn has(scopes: &[Scope], wanted: &str) -> bool {
    scopes.iter().any(|scope| scope.as_str() == wanted)
}

/// What somebody is given: it makes them what they are to policies.
#[derive(PartialEq, Eq)]
pub struct Granted<'a> {
    groups: &'a [GroupName],
    roles: &'a [RoleName],
    clearance: i64,
}

impl<'a> Granted<'a> {
    /// To whom nothing was given.
    pub const NOTHING: Self = Self {
        groups: &[],
        roles: &[],
        clearance: 0,
    };

    /// What a user is given.
    pub fn user(profile: &'a UserProfile) -> Self {
        Self::of(&profile.groups, &profile.roles, profile.clearance)
    }

    /// What a service account is given.
    pub fn account(profile: &'a ServiceAccountProfile) -> Self {
        Self::of(&profile.groups, &profile.roles, profile.clearance)
    }

    /// What a group gives.
    pub fn group(profile: &'a GroupProfile) -> Self {
        Self::of(&profile.parents, &profile.roles, 0)
    }

    /// These.
    pub const fn of(groups: &'a [GroupName], roles: &'a [RoleName], clearance: i64) -> Self {
        Self {
            groups,
            roles,
            clearance,
        }
    }
}

impl Administrator {
    /// Whether the caller may change what `name` is given from `before` to `after`.
    ///
    /// # Errors
    /// They may not; it is recorded.
    pub fn may_grant(
        &self,
        plane: &Plane,
        name: &str,
        before: &Granted<'_>,
        after: &Granted<'_>,
    ) -> Result<(), Refusal> {
        if before == after {
            return Ok(());
        }
        self.must(plane, AdminAction::RoleGrant, name, |reserved| {
            let provider = &plane.provider;
            provider.has_reserved(reserved, after.roles, after.groups)
        })
    }

    /// Whether they may make a group or role of this name: a policy may name it already.
    ///
    /// # Errors
    /// They may not; it is recorded.
    pub fn may_name(&self, plane: &Plane, action: AdminAction, name: &str) -> Result<(), Refusal> {
        self.must(plane, action, name, |reserved| {
            let mut groups = reserved.groups.iter();
            Ok(match action {
                AdminAction::GroupWrite => groups.any(|group| group.as_str() == name),
                _ => is_reserved_role(reserved, name),
            })
        })
    }

    /// Whether they may give a client these scopes.
    ///
    /// # Errors
    /// They may not; it is recorded.
    pub fn may_describe_client(
        &self,
        plane: &Plane,
        name: &str,
        profile: &ClientProfile,
    ) -> Result<(), Refusal> {
        self.must(plane, AdminAction::ClientWrite, name, |_| {
            Ok(has(&profile.scopes, ADMIN_SCOPE))
        })
    }

    /// Whether they may give a service account these scopes.
    ///
    /// # Errors
    /// They may not; it is recorded.
    pub fn may_describe_account(
        &self,
        plane: &Plane,
        name: &str,
        profile: &ServiceAccountProfile,
    ) -> Result<(), Refusal> {
        self.must(plane, AdminAction::ServiceAccountWrite, name, |_| {
            Ok(has(&profile.scopes, SCIM_SCOPE))
        })
    }

    /// Whether they may make an API key of this service account: it opens what that may.
    ///
    /// # Errors
    /// They may not; it is recorded.
    pub fn may_make_api_key(&self, plane: &Plane, account: &ClientName) -> Result<(), Refusal> {
        self.must(
            plane,
            AdminAction::ApiKeyWrite,
            account.as_str(),
            |reserved| is_reserved_account(plane, reserved, account.as_str()),
        )
    }
}
