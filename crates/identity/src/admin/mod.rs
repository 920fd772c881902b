//! Administration: users, groups, roles, service accounts and clients.
//!
//! The caller has authorized the operation. A change names the version it was decided on, and is refused if that
//! is no longer the record's.

mod api_keys;
mod clients;
mod credentials;
mod groups;
mod membership;
mod roles;
mod service_accounts;
mod users;
mod validation;

pub use api_keys::{MadeApiKey, NewApiKey};
pub use clients::ClientProfile;
pub(crate) use clients::{stage_client_deletion, stage_new_client};
pub(crate) use credentials::Secrets;
pub use credentials::{NewPassword, NewSecret};
pub use groups::GroupProfile;
pub use membership::{MemberKind, MemberView};
pub(crate) use membership::{check_nesting_of, stage_nesting};
pub use roles::RoleProfile;
pub use service_accounts::ServiceAccountProfile;
pub(crate) use service_accounts::stage_new_service_account;
use testudo_model::{Redacted, event::EventClass};
use testudo_store::{Cursor, Page, Record, StoreError, Versioned};
pub use users::UserProfile;
pub(crate) use users::{PasswordChange, stage_new_user};
pub(crate) use validation::{check_clearance, check_count, check_keys, check_text};

use crate::{
    Caller, Fault, Provider, ServiceAccount, User,
    change::{Change, Report},
    limits::MAX_PAGE,
};

/// Why an administrative change was not made.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// There is no such record.
    #[error("there is no {kind} `{name}`")]
    NotFound {
        /// Kind of record.
        kind: &'static str,
        /// Its name or id.
        name: String,
    },
    /// The name is taken.
    #[error("the name `{name}` is taken; choose another for the {kind}")]
    Taken {
        /// Kind of record.
        kind: &'static str,
        /// The name.
        name: String,
    },
    /// Somebody else changed the record.
    #[error("the {kind} `{name}` was changed meanwhile; read it again and repeat the change")]
    Stale {
        /// Kind of record.
        kind: &'static str,
        /// Its name or id.
        name: String,
    },
    /// Others refer to the record.
    #[error("the {kind} `{name}` is still used by {users} others; remove it there first")]
    InUse {
        /// Kind of record.
        kind: &'static str,
        /// Its name.
        name: String,
        /// How many refer to it.
        users: usize,
    },
    /// A field cannot have this value.
    #[error("the {field} {why}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// What is wrong, and what is right.
        why: String,
    },
    /// Our fault.
    #[error("the change could not be made")]
    Unavailable(#[from] Fault),
}

impl AdminError {
    /// Stable code.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "identity.not_found",
            Self::Taken { .. } => "identity.name_taken",
            Self::Stale { .. } => "identity.stale_version",
            Self::InUse { .. } => "identity.in_use",
            Self::Invalid { .. } => "identity.invalid",
            Self::Unavailable(_) => "identity.unavailable",
        }
    }

    /// HTTP status of the answer.
    pub const fn status(&self) -> u16 {
        match self {
            Self::NotFound { .. } => 404,
            Self::Taken { .. } | Self::InUse { .. } => 409,
            Self::Stale { .. } => 412,
            Self::Invalid { .. } => 422,
            Self::Unavailable(fault) => fault.status(),
        }
    }

    pub(crate) fn invalid(field: &'static str, why: impl Into<String>) -> Self {
        Self::Invalid {
            field,
            why: why.into(),
        }
    }
}

impl From<StoreError> for AdminError {
    fn from(error: StoreError) -> Self {
        Self::Unavailable(error.into())
    }
}

/// A new record.
#[derive(Debug)]
pub struct Created<R> {
    /// The record.
    pub record: R,
    /// The generated password or secret. It is not stored and cannot be asked for again.
    pub generated: Option<Redacted<String>>,
}

/// Kind and name of a record, for errors.
#[derive(Clone, Copy)]
pub(crate) struct Named<'a> {
    pub(crate) kind: &'static str,
    pub(crate) name: &'a str,
}

impl Named<'_> {
    fn not_found(self) -> AdminError {
        AdminError::NotFound {
            kind: self.kind,
            name: self.name.to_owned(),
        }
    }

    fn taken(self) -> AdminError {
        AdminError::Taken {
            kind: self.kind,
            name: self.name.to_owned(),
        }
    }

    fn stale(self) -> AdminError {
        AdminError::Stale {
            kind: self.kind,
            name: self.name.to_owned(),
        }
    }
}

impl Provider {
    /// A page of a collection, in order of creation.
    pub(crate) fn page<R: Record>(
        &self,
        after: Option<Cursor>,
        limit: usize,
    ) -> Result<Page<R>, AdminError> {
        Ok(self.tenant.list(after, limit.clamp(1, MAX_PAGE))?)
    }

    pub(crate) fn load<R: Record>(
        &self,
        named: Named<'_>,
        key: &str,
    ) -> Result<Versioned<R>, AdminError> {
        self.tenant.get::<R>(key)?.ok_or_else(|| named.not_found())
    }

    /// Loads a record that must have the version the change was decided on.
    fn load_at<R: Record>(
        &self,
        named: Named<'_>,
        key: &str,
        version: u64,
    ) -> Result<Versioned<R>, AdminError> {
        let found = self.load::<R>(named, key)?;
        if found.version == version {
            Ok(found)
        } else {
            Err(named.stale())
        }
    }

    /// Commits a change of one record that was loaded at the right version.
    fn commit_change(&self, change: Change<'_>, named: Named<'_>) -> Result<(), AdminError> {
        if change.commit()? {
            Ok(())
        } else {
            Err(named.stale())
        }
    }

    /// Commits the creation of a record.
    fn commit_new(&self, change: Change<'_>, named: Named<'_>) -> Result<(), AdminError> {
        if change.commit()? {
            Ok(())
        } else {
            Err(named.taken())
        }
    }

    /// The event of an account change.
    pub(crate) fn account_report(&self, activity: &str, target: &str) -> Report {
        Report::new(EventClass::AccountChange, activity).target(target)
    }

    /// The event of a change to a user. Names are given again, ids are not.
    pub(crate) fn user_report(&self, activity: &str, user: &User) -> Report {
        self.account_report(activity, user.username.as_str())
            .detail("id", user.id.to_string())
    }

    /// The same of a service account.
    pub(crate) fn service_account_report(
        &self,
        activity: &str,
        account: &ServiceAccount,
    ) -> Report {
        self.account_report(activity, account.name.as_str())
            .detail("id", account.id.to_string())
    }

    /// Refuses to remove a name that `R` records still carry in `index`.
    fn refuse_if_used<R: Record>(
        &self,
        index: &'static str,
        named: Named<'_>,
    ) -> Result<(), AdminError> {
        match self.tenant.find::<R>(index, named.name)?.len() {
            0 => Ok(()),
            users => Err(AdminError::InUse {
                kind: named.kind,
                name: named.name.to_owned(),
                users,
            }),
        }
    }

    /// Whether `caller` is the subject of the change: told in the event.
    fn is_self(caller: &Caller, subject: &str) -> bool {
        caller.actor.subject.as_deref() == Some(subject)
    }
}
