//! What an authority says about somebody beside who they are: how they are called, and which groups they are in.

use std::collections::BTreeSet;

use testudo_model::{GroupName, UserId, Username};
use testudo_store::Expected;

use super::{GroupMap, Link, Voucher};
use crate::{
    AdminError, Caller, Fault, Provider,
    admin::{PasswordChange, check_text},
    change::until_settled,
    records::{Group, User},
};

/// Hexadecimal digits in the name of a user who has none elsewhere.
const NAME_DIGITS: usize = 12;

/// What is taken over.
#[derive(Debug, Clone, Default)]
pub(crate) struct ForeignProfile {
    pub(crate) username: Option<Username>,
    pub(crate) display_name: Option<String>,
    /// Only an address that somebody whom the fleet believes has verified.
    pub(crate) email: Option<String>,
    /// None if the authority says nothing about groups.
    pub(crate) groups: Option<ForeignGroups>,
}

/// Groups that an authority decides about.
#[derive(Debug, Clone, Default)]
pub(crate) struct ForeignGroups {
    /// Those the user is in.
    member_of: BTreeSet<GroupName>,
    /// All of them: they end when the authority no longer says so.
    decided: BTreeSet<GroupName>,
}

impl ForeignGroups {
    pub(crate) fn new<'t>(map: &GroupMap, theirs: impl IntoIterator<Item = &'t str>) -> Self {
        let given = theirs.into_iter().filter_map(|name| map.get(name));
        Self {
            member_of: given.flatten().cloned().collect(),
            decided: map.values().flatten().cloned().collect(),
        }
    }
}

impl ForeignProfile {
    /// A text that a record may have.
    pub(crate) fn text(said: Option<&str>) -> Option<String> {
        let said = said.map(str::trim).filter(|text| !text.is_empty())?;
        check_text("display name", Some(said)).ok()?;
        Some(said.to_owned())
    }

    /// A login name as it would be here.
    pub(crate) fn name(said: Option<&str>) -> Option<Username> {
        said?.trim().to_lowercase().parse().ok()
    }
}

impl Provider {
    /// Makes an account for somebody elsewhere. `None`: the name is taken, and whose it is must prove that.
    pub(crate) fn create_foreign_user(
        &self,
        voucher: &Voucher,
        profile: &ForeignProfile,
        caller: &Caller,
    ) -> Result<Option<User>, AdminError> {
        let username = match &profile.username {
            Some(username) => username.clone(),
            None => nameless(voucher)?,
        };
        let made = until_settled(|| {
            let user = User {
                display_name: profile.display_name.clone(),
                email_verified: profile.email.is_some(),
                email: profile.email.clone(),
                groups: self.groups_after(&[], profile)?,
                ..self.blank_user(&username)
            };
            self.check_memberships(&user.groups, &user.roles)?;
            let link = voucher.link(&user.id, true, self.clock.now());
            let report = self.account_report("user.create", username.as_str());
            let report = report.detail("source", voucher.source.as_str());
            let change = self
                .stage_creation(&user, None)?
                .put(Expected::Absent, &link)
                .report(report, caller);
            Ok::<_, AdminError>(change.commit()?.then_some(user))
        });
        match made {
            Ok(user) => Ok(Some(user)),
            Err(AdminError::Taken { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Brings a user up to date with what the authority of `link` says of them now.
    pub(crate) fn follow_profile(
        &self,
        link: &Link,
        profile: &ForeignProfile,
        caller: &Caller,
    ) -> Result<User, AdminError> {
        until_settled(|| {
            let stored = self.user(&link.user)?;
            let mut after = User {
                groups: self.groups_after(&stored.record.groups, profile)?,
                ..stored.record.clone()
            };
            if link.is_origin {
                after.display_name = profile.display_name.clone().or(after.display_name);
                if let Some(email) = &profile.email {
                    after.email = Some(email.clone());
                    after.email_verified = true;
                }
            }
            if after == stored.record {
                return Ok(Some(after));
            }
            after.updated_at = self.clock.now();
            self.check_memberships(&after.groups, &after.roles)?;
            let report = self.account_report("user.update", after.username.as_str());
            let report = report.detail("source", link.source.as_str());
            let change = self
                .stage_user(self.change(), &stored, &after, PasswordChange::Keep)?
                .report(report, caller);
            Ok::<_, AdminError>(change.commit()?.then_some(after))
        })
    }

    /// What a user is in afterwards: what the authority decides about as it says, all else as it was.
    fn groups_after(
        &self,
        before: &[GroupName],
        profile: &ForeignProfile,
    ) -> Result<Vec<GroupName>, Fault> {
        let Some(groups) = &profile.groups else {
            return Ok(before.to_vec());
        };
        let is_kept = |group: &&GroupName| {
            !groups.decided.contains(*group) || groups.member_of.contains(*group)
        };
        let mut after: Vec<GroupName> = before.iter().filter(is_kept).cloned().collect();
        for group in &groups.member_of {
            // One that was deleted since the fleet was applied is nobody's.
            let exists = self.tenant.get::<Group>(group.as_str())?.is_some();
            if exists && !after.contains(group) {
                after.push(group.clone());
            }
        }
        Ok(after)
    }

    /// Whether an identity provider that the user is connected to can make a login of this class.
    pub(crate) fn can_reach_elsewhere(&self, user: &UserId, class: &str) -> Result<bool, Fault> {
        let able = self.identity_providers();
        let mut able = able.iter().filter(|at| at.can_reach(class)).peekable();
        if able.peek().is_none() {
            return Ok(false);
        }
        let links = self.stored_links(user)?;
        Ok(able.any(|at| links.iter().any(|link| link.record.authority == at.issuer)))
    }
}

/// A name for somebody who has none that could be used here.
fn nameless(voucher: &Voucher) -> Result<Username, AdminError> {
    let digits: String = voucher
        .link_id()
        .as_str()
        .chars()
        .take(NAME_DIGITS)
        .collect();
    let name = format!("{}-{digits}", voucher.source);
    name.parse()
        .map_err(|_| AdminError::invalid("name", "is none that a user can have"))
}
