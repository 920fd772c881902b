//! Forgotten passwords.
//!
//! Who asks learns nothing: the answer and the work until then are the same for every name and address, because only a note
//! of what was typed is left. Whom it is about is found out when mail is carried.
//!
//! A link goes to an address that is verified, and to nobody who has no password: a mailbox must not become a way into an
//! account that takes more. It changes the password and nothing else. Whoever uses it is not logged in by it, and the second
//! factor is asked for as before.

use std::{net::IpAddr, time::Duration};

use testudo_model::{Redacted, Username, event::EventClass};
use testudo_store::{Expected, Versioned};

use super::{Letter, LinkError, LinkPurpose, mail_key};
use crate::{
    AdminError, Caller, Fault, NewPassword, Notice, NoticeContent, Provider,
    change::{Change, Report, until_settled},
    limits::{MAX_ACCOUNTS_OF_ADDRESS, MAX_TEXT_BYTES, RESET_LINK_LIFETIME},
    password::Owner,
    records::{PasswordCredential, User},
    signal::{Cause, Initiator},
    throttle::Attempt,
};

/// Why no link is sent to whoever forgot a password. It says nothing about any account.
#[derive(Debug, thiserror::Error)]
pub enum ResetRequestError {
    /// Nobody carries mail.
    #[error("passwords cannot be reset here; ask an administrator for a new one")]
    NoMail,
    /// Nothing, or more than a name has.
    #[error("type your username or your mail address")]
    NoName,
    /// Too many requests for this name or address, or from this network.
    #[error("too many requests; wait {} minutes and try again", retry_after.as_secs().div_ceil(60))]
    Throttled {
        /// Time to wait.
        retry_after: Duration,
    },
    /// Our fault.
    #[error("the request could not be taken")]
    Unavailable(#[from] Fault),
}

/// The form of an open link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PasswordResetPage {
    /// Whose password.
    pub username: String,
}

/// Why a password was not reset.
#[derive(Debug, thiserror::Error)]
pub enum ResetError {
    /// The link leads nowhere.
    #[error(transparent)]
    Link(LinkError),
    /// The password is not acceptable. The link is still good.
    #[error(transparent)]
    Password(AdminError),
    /// Our fault.
    #[error("the password could not be changed")]
    Unavailable(#[from] Fault),
}

impl From<LinkError> for ResetError {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::Unavailable(fault) => Self::Unavailable(fault),
            LinkError::Invalid => Self::Link(error),
        }
    }
}

impl From<AdminError> for ResetError {
    fn from(error: AdminError) -> Self {
        match error {
            AdminError::Unavailable(fault) => Self::Unavailable(fault),
            refused => Self::Password(refused),
        }
    }
}

impl Provider {
    /// Takes note that the password of `typed`, a username or a mail address, was forgotten.
    ///
    /// # Errors
    /// See [`ResetRequestError`].
    pub fn forget_password(&self, typed: &str, caller: &Caller) -> Result<(), ResetRequestError> {
        if !self.mail_is_carried() {
            return Err(ResetRequestError::NoMail);
        }
        let typed = mail_key(typed);
        if typed.is_empty() || typed.len() > MAX_TEXT_BYTES {
            return Err(ResetRequestError::NoName);
        }
        let attempt = Attempt::at_forgotten_password(&typed, caller.source_ip);
        if let Err(retry_after) = self.begin_attempt(&attempt, caller)? {
            return Err(ResetRequestError::Throttled { retry_after });
        }
        until_settled(|| {
            let change = self.change().tell(NoticeContent::ForgottenPassword {
                typed: typed.clone(),
                source: caller.source_ip,
            });
            Ok(change.commit()?.then_some(()))
        })
    }

    /// Sends links to those whom a note is about.
    pub(super) fn answer_forgotten(
        &self,
        notice: &Notice,
        typed: &str,
        source: Option<IpAddr>,
    ) -> Result<(), Fault> {
        if self.clock.now().since(notice.created_at) >= RESET_LINK_LIFETIME {
            let report = notice.report().failed("it was not answered in time");
            return self.discard(notice, report);
        }
        let caller = Caller {
            source_ip: source,
            ..Caller::default()
        };
        let mut found = Vec::new();
        for user in self.users_called(typed)? {
            let address = user.email.as_deref().unwrap_or("");
            let attempt = Attempt::to_send_letter(&user.id, address);
            let is_enough = self.begin_attempt(&attempt, &caller)?.is_err();
            found.push((user, is_enough));
        }
        until_settled(|| {
            // Another process may have answered it meanwhile.
            let Some(noted) = self.tenant.get::<Notice>(notice.id.as_str())? else {
                return Ok(Some(()));
            };
            let version = Expected::Version(noted.version);
            let mut change = self.change().delete::<Notice>(version, notice.id.as_str());
            if found.is_empty() {
                // What was typed may be a password.
                let report = request_report().denied("nobody is called that");
                change = change.report(report, &caller);
            }
            for (user, is_enough) in &found {
                change = self.stage_reset_link(change, user, *is_enough, &caller)?;
            }
            Ok::<_, Fault>(change.commit()?.then_some(()))
        })
    }

    fn stage_reset_link<'p>(
        &self,
        change: Change<'p>,
        user: &User,
        is_enough: bool,
        caller: &Caller,
    ) -> Result<Change<'p>, Fault> {
        let report = request_report().target(user.username.as_str());
        let credential = self.tenant.get::<PasswordCredential>(user.id.as_str())?;
        let has_password = credential.is_some_and(|stored| stored.record.hash.is_some());
        let refused = match &user.email {
            _ if user.disabled => Err("user is disabled"),
            _ if !has_password => Err("user has no password"),
            None => Err("user has no mail address"),
            Some(_) if !user.email_verified => Err("the mail address is not verified"),
            Some(_) if is_enough => Err("enough letters were sent"),
            Some(address) => Ok(address),
        };
        let address = match refused {
            Ok(address) => address,
            Err(why) => return Ok(change.report(report.denied(why), caller)),
        };
        let purpose = LinkPurpose::ResetPassword;
        let (change, link) = self.new_link(change, purpose, &user.id, address)?;
        Ok(change
            .write(&user.id, address, Letter::ResetPassword { link })
            .report(report, caller))
    }

    /// The user of a name, or else those of a mail address.
    fn users_called(&self, typed: &str) -> Result<Vec<User>, Fault> {
        let named = typed
            .parse::<Username>()
            .ok()
            .map(|name| self.user_by_name(&name));
        match named {
            Some(Ok(Versioned { record, .. })) => return Ok(vec![record]),
            Some(Err(AdminError::Unavailable(fault))) => return Err(fault),
            Some(Err(_)) | None => {}
        }
        let found = self.tenant.find::<User>(User::EMAIL_INDEX, typed)?;
        let found = found.into_iter().map(|stored| stored.record);
        Ok(found.take(MAX_ACCOUNTS_OF_ADDRESS).collect())
    }

    /// The page of a link with which a password is reset. To look at it changes nothing.
    ///
    /// # Errors
    /// See [`LinkError`].
    pub fn password_reset_page(&self, code: &str) -> Result<PasswordResetPage, LinkError> {
        let open = self.open_link(LinkPurpose::ResetPassword, code)?;
        Ok(PasswordResetPage {
            username: open.user.record.username.to_string(),
        })
    }

    /// Makes `password` that of the user of a link, which is used up by it. All their sessions end. It costs an Argon2 hash:
    /// call it from a bounded blocking pool.
    ///
    /// # Errors
    /// See [`ResetError`]. After [`ResetError::Password`] the same link may be used again.
    pub fn reset_password(
        &self,
        code: &str,
        password: &Redacted<String>,
        caller: &Caller,
    ) -> Result<(), ResetError> {
        let open = self.open_link(LinkPurpose::ResetPassword, code)?;
        let owner = Owner::of(&open.user.record);
        let (hash, _) = NewPassword::Given(password.clone()).realise(self, owner)?;
        until_settled(|| {
            let open = self.open_link(LinkPurpose::ResetPassword, code)?;
            let user = &open.user.record;
            let credential = PasswordCredential {
                hash: hash.clone(),
                changed_at: self.clock.now(),
                ..open.credential.record.clone()
            };
            let report = self
                .account_report("password.reset", user.username.as_str())
                .subject(user.id.as_str());
            let change = open
                .use_up(self.change())
                // Of this and a change of the user one happens after the other.
                .put(Expected::Version(open.user.version), user)
                .put(Expected::Version(open.credential.version), &credential)
                .write_of_new_password(user, caller)
                .report(report, caller);
            let cause = Cause::new(Initiator::User, "a forgotten password was changed");
            let change =
                change.signal_password(&open.credential.record, &credential, cause.clone())?;
            let change = self.stage_end_of_all(change, &user.id, cause)?;
            Ok(change.commit()?.then_some(()))
        })
    }
}

fn request_report() -> Report {
    Report::new(EventClass::Authentication, "password.forgotten")
}
