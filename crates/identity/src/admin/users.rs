//! Users.

use serde::{Deserialize, Serialize};
use testudo_model::{GroupName, Redacted, RoleName, UserId, Username};
use testudo_store::{Cursor, Expected, Page, Versioned};

use super::{AdminError, Created, Named, NewPassword, check_clearance, check_text};
use crate::{
    Caller, Provider,
    change::{Change, until_settled},
    federation::Link,
    mail::{LinkPurpose, MailedLink, check_mail_address},
    passkey::{Invitation, Passkey},
    password::Owner,
    records::{Holder, NameClaim, PasswordCredential, Provisioned, User},
    second_factor::SecondFactors,
    secret::StoredSecret,
    signal::{Cause, Initiator, SignalEvent},
};

/// What happens to a password beside other changes.
#[derive(Clone)]
pub(crate) enum PasswordChange {
    /// It stays.
    Keep,
    /// It is another one from now on.
    Set(StoredSecret),
    /// There is none any more.
    Remove,
}

/// What an administrator says about a user.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UserProfile {
    /// Name for people.
    pub display_name: Option<String>,
    /// Mail address.
    pub email: Option<String>,
    /// Whether that address is theirs. If nothing is said, it is if it was; another address is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email_verified: Option<bool>,
    /// Clearance, 0 to 100.
    pub clearance: i64,
    /// Groups.
    pub groups: Vec<GroupName>,
    /// Roles.
    pub roles: Vec<RoleName>,
}

impl UserProfile {
    pub(crate) fn check(&self) -> Result<(), AdminError> {
        check_text("display name", self.display_name.as_deref())?;
        check_mail_address(self.email.as_deref())?;
        if self.email_verified == Some(true) && self.email.is_none() {
            return Err(AdminError::invalid(
                "mail address",
                "is missing, and said to be verified",
            ));
        }
        check_clearance(self.clearance)
    }

    /// What of it a password of `username` must not be made of.
    pub(crate) fn owner<'a>(&'a self, username: &'a Username) -> Owner<'a> {
        Owner {
            username: Some(username),
            display_name: self.display_name.as_deref(),
            email: self.email.as_deref(),
        }
    }

    /// `user` as this profile says.
    pub(crate) fn apply(self, user: User) -> User {
        let Self {
            display_name,
            email,
            email_verified,
            clearance,
            groups,
            roles,
        } = self;
        let user = user.with_email(email);
        User {
            display_name,
            email_verified: email_verified.unwrap_or(user.email_verified),
            clearance,
            groups,
            roles,
            ..user
        }
    }
}

const fn named(name: &str) -> Named<'_> {
    Named { kind: "user", name }
}

impl Provider {
    /// Creates a user. Without a password they can exist in policies but not log in.
    ///
    /// # Errors
    /// The name is taken, or the profile or password is not acceptable.
    pub fn create_user(
        &self,
        username: &Username,
        profile: UserProfile,
        password: Option<&NewPassword>,
        caller: &Caller,
    ) -> Result<Created<User>, AdminError> {
        profile.check()?;
        let (hash, generated) = match password {
            Some(password) => {
                let owner = profile.owner(username);
                password.realise(self, owner)?
            }
            None => (None, None),
        };
        let record = until_settled(|| {
            self.check_memberships(&profile.groups, &profile.roles)?;
            let user = profile.clone().apply(self.blank_user(username));
            let change = self
                .stage_creation(&user, hash.clone())?
                .report(self.user_report("user.create", &user), caller);
            Ok::<_, AdminError>(change.commit()?.then_some(user))
        })?;
        Ok(Created { record, generated })
    }

    /// The records of a new user and the groups they come into.
    pub(crate) fn stage_creation(
        &self,
        user: &User,
        hash: Option<StoredSecret>,
    ) -> Result<Change<'_>, AdminError> {
        self.refuse_taken(&user.username)?;
        let credential = PasswordCredential {
            user: user.id.clone(),
            hash,
            changed_at: user.created_at,
            last_login_at: None,
        };
        let change = self.stage_memberships(self.change(), &[], &user.groups)?;
        Ok(stage_new_user(change, user, &credential))
    }

    fn refuse_taken(&self, username: &Username) -> Result<(), AdminError> {
        let key = NameClaim::user_key(username);
        match self.tenant.get::<NameClaim>(&key)? {
            Some(_) => Err(named(username.as_str()).taken()),
            None => Ok(()),
        }
    }

    /// A new enabled user of whom nothing is known but the name.
    pub(crate) fn blank_user(&self, username: &Username) -> User {
        let now = self.clock.now();
        User {
            id: UserId::generate(&*self.clock, &*self.entropy),
            username: username.clone(),
            display_name: None,
            email: None,
            email_verified: false,
            disabled: false,
            clearance: 0,
            groups: Vec::new(),
            roles: Vec::new(),
            provisioned: Provisioned::default(),
            created_at: now,
            updated_at: now,
        }
    }

    /// A user by id.
    ///
    /// # Errors
    /// There is none.
    pub fn user(&self, id: &UserId) -> Result<Versioned<User>, AdminError> {
        self.load(named(id.as_str()), id.as_str())
    }

    /// A user by login name.
    ///
    /// # Errors
    /// There is none.
    pub fn user_by_name(&self, username: &Username) -> Result<Versioned<User>, AdminError> {
        let claim = self
            .tenant
            .get::<NameClaim>(&NameClaim::user_key(username))?;
        match claim.map(|claim| claim.record.holder) {
            Some(Holder::User(id)) => self.user(&id),
            _ => Err(named(username.as_str()).not_found()),
        }
    }

    /// A page of users, in order of creation.
    ///
    /// # Errors
    /// The store fails.
    pub fn users(&self, after: Option<Cursor>, limit: usize) -> Result<Page<User>, AdminError> {
        self.page(after, limit)
    }

    /// Replaces what is said about a user.
    ///
    /// # Errors
    /// The version is not the present one, or the profile is not acceptable.
    pub fn update_user(
        &self,
        id: &UserId,
        version: u64,
        profile: UserProfile,
        caller: &Caller,
    ) -> Result<(), AdminError> {
        profile.check()?;
        until_settled(|| {
            self.check_memberships(&profile.groups, &profile.roles)?;
            let stored = self.load_at::<User>(named(id.as_str()), id.as_str(), version)?;
            let user = User {
                updated_at: self.clock.now(),
                ..profile.clone().apply(stored.record.clone())
            };
            let report = self
                .user_report("user.update", &user)
                .detail("self", Self::is_self(caller, id.as_str()));
            let change = self
                .stage_user(self.change(), &stored, &user, PasswordChange::Keep)?
                .report(report, caller);
            Ok(change.commit()?.then_some(()))
        })
    }

    /// A user as they are to be. Who is disabled by that, or gets another password, loses all sessions and tokens.
    ///
    /// # Errors
    /// The new name is taken, a group does not exist, or the store fails.
    pub(crate) fn stage_user<'p>(
        &self,
        change: Change<'p>,
        before: &Versioned<User>,
        after: &User,
        password: PasswordChange,
    ) -> Result<Change<'p>, AdminError> {
        let id = after.id.as_str();
        let known = &before.record;
        let mut change = self
            .stage_memberships(change, &known.groups, &after.groups)?
            .put(Expected::Version(before.version), after);
        if after.username != known.username {
            self.refuse_taken(&after.username)?;
            change = change
                .delete::<NameClaim>(Expected::Any, &NameClaim::user_key(&known.username))
                .put(
                    Expected::Absent,
                    &NameClaim::of_user(&after.username, &after.id),
                );
        }
        let is_shut_out = after.disabled && !known.disabled;
        let user = after.id.clone();
        if is_shut_out {
            change = change.signal(&SignalEvent::AccountDisabled { user })?;
        } else if known.disabled && !after.disabled {
            change = change.signal(&SignalEvent::AccountEnabled { user })?;
        }
        if !is_shut_out && matches!(password, PasswordChange::Keep) {
            return Ok(change);
        }
        // Every login writes this record too: of the two, one happens after the other and sees it.
        let stored = self.load::<PasswordCredential>(named(id), id)?;
        let before = stored.record;
        let credential = match password {
            PasswordChange::Keep => before.clone(),
            PasswordChange::Set(hash) => PasswordCredential {
                hash: Some(hash),
                changed_at: self.clock.now(),
                ..before.clone()
            },
            PasswordChange::Remove => PasswordCredential {
                hash: None,
                changed_at: self.clock.now(),
                ..before.clone()
            },
        };
        let cause = if is_shut_out { DISABLED } else { PASSWORD };
        let mut change = change.put(Expected::Version(stored.version), &credential);
        if credential.changed_at != before.changed_at {
            change = change.signal_password(&before, &credential, PASSWORD)?;
        }
        if is_shut_out {
            let link = MailedLink::key_of(LinkPurpose::ResetPassword, &after.id);
            change = self
                .stage_end_of_consents(change, &after.id)?
                .delete::<MailedLink>(Expected::Any, &link);
        }
        Ok(self.stage_end_of_all(change, &after.id, cause)?)
    }

    /// Disables a user: all sessions end and all tokens are taken back, at once.
    ///
    /// # Errors
    /// There is no such user.
    pub fn disable_user(&self, id: &UserId, caller: &Caller) -> Result<(), AdminError> {
        until_settled(|| {
            let stored = self.user(id)?;
            let was_enabled = !stored.record.disabled;
            let user = User {
                disabled: true,
                updated_at: self.clock.now(),
                ..stored.record
            };
            let report = self.user_report("user.disable", &user);
            let change = self
                .change()
                .put(Expected::Version(stored.version), &user)
                .delete::<Invitation>(Expected::Any, id.as_str())
                .delete::<MailedLink>(
                    Expected::Any,
                    &MailedLink::key_of(LinkPurpose::ResetPassword, id),
                )
                .report(report, caller);
            let change = self.exclude_logins(change, id)?;
            let change = match was_enabled {
                true => change.signal(&SignalEvent::AccountDisabled { user: id.clone() })?,
                false => change,
            };
            let change = self.stage_end_of_all(change, id, DISABLED)?;
            Ok(change.commit()?.then_some(()))
        })
    }

    /// Lets a disabled user log in again.
    ///
    /// # Errors
    /// There is no such user.
    pub fn enable_user(&self, id: &UserId, caller: &Caller) -> Result<(), AdminError> {
        until_settled(|| {
            let stored = self.user(id)?;
            let was_disabled = stored.record.disabled;
            let user = User {
                disabled: false,
                updated_at: self.clock.now(),
                ..stored.record
            };
            let report = self.user_report("user.enable", &user);
            let change = self.change().put(Expected::Version(stored.version), &user);
            let change = match was_disabled {
                true => change.signal(&SignalEvent::AccountEnabled { user: id.clone() })?,
                false => change,
            };
            Ok(change.report(report, caller).commit()?.then_some(()))
        })
    }

    /// Sets a password. All sessions end: whoever knew the old one is out. Answers a generated password.
    ///
    /// # Errors
    /// There is no such user, or the password is not acceptable.
    pub fn set_password(
        &self,
        id: &UserId,
        password: &NewPassword,
        caller: &Caller,
    ) -> Result<Option<Redacted<String>>, AdminError> {
        let (hash, generated) = password.realise(self, Owner::of(&self.user(id)?.record))?;
        until_settled(|| {
            let user = self.user(id)?.record;
            let stored = self.load::<PasswordCredential>(named(id.as_str()), id.as_str())?;
            let credential = PasswordCredential {
                hash: hash.clone(),
                changed_at: self.clock.now(),
                ..stored.record.clone()
            };
            let is_self = Self::is_self(caller, id.as_str());
            let report = self
                .user_report("user.password", &user)
                .detail("self", is_self);
            let cause = Cause::by(is_self, "the password was changed");
            let change = self
                .change()
                .put(Expected::Version(stored.version), &credential)
                .write_of_new_password(&user, caller)
                .report(report, caller)
                .signal_password(&stored.record, &credential, cause.clone())?;
            let change = self.stage_end_of_all(change, id, cause)?;
            Ok::<_, AdminError>(change.commit()?.then_some(()))
        })?;
        Ok(generated)
    }

    /// Deletes a user. The name is free again; the id is not.
    ///
    /// # Errors
    /// There is no such user.
    pub fn delete_user(&self, id: &UserId, caller: &Caller) -> Result<(), AdminError> {
        until_settled(|| {
            let stored = self.user(id)?;
            let report = self.user_report("user.delete", &stored.record);
            let change = self.stage_user_deletion(&stored)?;
            Ok(change.report(report, caller).commit()?.then_some(()))
        })
    }

    /// The end of a user, of all they have and all they were given.
    pub(crate) fn stage_user_deletion(
        &self,
        stored: &Versioned<User>,
    ) -> Result<Change<'_>, AdminError> {
        let User {
            id,
            username,
            groups,
            ..
        } = &stored.record;
        let change = self
            .stage_memberships(self.change(), groups, &[])?
            .delete::<User>(Expected::Version(stored.version), id.as_str())
            .delete::<NameClaim>(Expected::Any, &NameClaim::user_key(username));
        let credential = self.tenant.get::<PasswordCredential>(id.as_str())?;
        let change = match credential {
            Some(Versioned { version, .. }) => change
                .delete::<SecondFactors>(Expected::Any, id.as_str())
                .delete::<Invitation>(Expected::Any, id.as_str())
                .delete::<PasswordCredential>(Expected::Version(version), id.as_str()),
            None => change,
        };
        let change = self.stage_end_of_consents(change, id)?;
        let passkeys = self.stored_passkeys(id)?;
        let change = passkeys.iter().fold(change, |change, passkey| {
            let version = Expected::Version(passkey.version);
            change.delete::<Passkey>(version, passkey.record.id().as_str())
        });
        let links = self.stored_links(id)?;
        let change = links.iter().fold(change, |change, link| {
            change.delete::<Link>(Expected::Version(link.version), link.record.id.as_str())
        });
        let change = change.signal(&SignalEvent::AccountPurged { user: id.clone() })?;
        Ok(self.stage_end_of_all(change, id, DELETED)?)
    }

    /// Writes the password record, as every login does: of the two, one happens after the other and sees it.
    pub(crate) fn exclude_logins<'p>(
        &self,
        change: Change<'p>,
        id: &UserId,
    ) -> Result<Change<'p>, AdminError> {
        let stored = self.load::<PasswordCredential>(named(id.as_str()), id.as_str())?;
        Ok(change.put(Expected::Version(stored.version), &stored.record))
    }
}

/// Why sessions end with what an administrator, or who provisions users, does to one.
const DISABLED: Cause = Cause::new(Initiator::Admin, "the account was disabled");
const DELETED: Cause = Cause::new(Initiator::Admin, "the account was deleted");
const PASSWORD: Cause = Cause::new(Initiator::Admin, "the password was changed");

/// The records of a new user.
pub(crate) fn stage_new_user<'p>(
    change: Change<'p>,
    user: &User,
    credential: &PasswordCredential,
) -> Change<'p> {
    change
        .put(
            Expected::Absent,
            &NameClaim::of_user(&user.username, &user.id),
        )
        .put(Expected::Absent, user)
        .put(Expected::Absent, credential)
}
