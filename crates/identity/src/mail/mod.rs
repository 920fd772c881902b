//! What users are told by mail.
//!
//! A letter is a [`Notice`](crate::Notice): it is written in the transaction of what it tells, and carried by whoever carries
//! notices. Nothing is written while [nobody carries mail](Provider::carry_mail). What is stored of a letter opens nothing: the
//! code of a [link](link) is sealed when the letter is sent.

mod address;
mod link;
mod reset;
mod verification;

use std::{net::IpAddr, sync::atomic::Ordering};

use serde::{Deserialize, Serialize};
use testudo_model::{
    NoticeId, Redacted, TenantName, Timestamp, UserId, Username, event::EventClass,
};

pub(crate) use self::verification::AddressError;
pub(crate) use self::{
    address::{check_mail_address, mail_key},
    link::{LinkName, LinkPurpose, MailedLink},
};
pub use self::{
    link::LinkError,
    reset::{PasswordResetPage, ResetError, ResetRequestError},
    verification::VerificationPage,
};
use crate::{
    Caller, Delivery, Fault, Notice, NoticeContent, Provider,
    change::{Change, Report},
    notice::Prepared,
    records::User,
};

/// A letter as it waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Letter {
    /// Asks whether the address is the user's.
    VerifyAddress {
        /// The link it is answered with.
        link: LinkName,
    },
    /// Lets the user choose another password.
    ResetPassword {
        /// The link it is done with.
        link: LinkName,
    },
    /// Another password counts.
    PasswordChanged {
        /// Since when.
        at: Timestamp,
        /// From where it was changed, if that is known.
        source: Option<IpAddr>,
    },
    /// To the former address: another one counts.
    AddressChanged {
        /// Since when.
        at: Timestamp,
        /// From where it was changed, if that is known.
        source: Option<IpAddr>,
    },
}

impl Letter {
    /// For events and metrics.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::VerifyAddress { .. } => "verify address",
            Self::ResetPassword { .. } => "reset password",
            Self::PasswordChanged { .. } => "password changed",
            Self::AddressChanged { .. } => "address changed",
        }
    }
}

/// A letter that is to be sent now.
#[derive(Debug)]
pub struct DueMail {
    /// The notice.
    pub notice: Notice,
    /// What to send.
    pub mail: Mail,
}

/// What a letter says.
#[derive(Debug)]
pub struct Mail {
    /// The same for all attempts to send it.
    pub id: NoticeId,
    /// The address.
    pub to: String,
    /// Whose account it is about.
    pub username: Username,
    /// Where that account is.
    pub tenant: TenantName,
    /// What about it.
    pub content: MailContent,
}

/// What a letter says about an account.
#[derive(Debug)]
pub enum MailContent {
    /// Whoever has the address confirms it there.
    VerifyAddress {
        /// Where.
        link: Redacted<String>,
        /// Until when.
        expires_at: Timestamp,
    },
    /// Whoever has the address chooses a password there.
    ResetPassword {
        /// Where.
        link: Redacted<String>,
        /// Until when.
        expires_at: Timestamp,
    },
    /// Another password counts.
    PasswordChanged {
        /// Since when.
        at: Timestamp,
        /// From where it was changed, if that is known.
        source: Option<IpAddr>,
    },
    /// Another address counts.
    AddressChanged {
        /// Since when.
        at: Timestamp,
        /// From where it was changed, if that is known.
        source: Option<IpAddr>,
    },
}

impl Provider {
    /// Whether somebody carries mail from now on. While nobody does, no letter is written and no password can be reset.
    pub fn carry_mail(&self, carried: bool) {
        self.mail_is_carried.store(carried, Ordering::Relaxed);
    }

    /// Whether somebody carries mail.
    pub fn mail_is_carried(&self) -> bool {
        self.mail_is_carried.load(Ordering::Relaxed)
    }

    /// Letters to be sent now, at most one to each address, and not those that are being sent already. Each must be
    /// [settled](Self::settle_mail).
    ///
    /// # Errors
    /// The store fails.
    pub fn due_mails(&self) -> Result<Vec<DueMail>, Fault> {
        if !self.mail_is_carried() {
            return Ok(Vec::new());
        }
        let due = self.due(crate::notice::Lane::Mail, |notice| self.mail_of(notice))?;
        let due = due.into_iter();
        Ok(due.map(|(notice, mail)| DueMail { notice, mail }).collect())
    }

    /// Whether [`Provider::due_mails`] has any, as far as is known without asking the store.
    pub fn has_due_mail(&self) -> bool {
        self.mail_is_carried() && self.has_due(crate::notice::Lane::Mail)
    }

    /// How many letters wait, as far as is known without asking the store.
    pub fn waiting_mails(&self) -> usize {
        self.notices.waiting(crate::notice::Lane::Mail)
    }

    /// Takes note of what became of a letter: it is gone, or comes again after a pause.
    ///
    /// # Errors
    /// The store fails; the letter comes again.
    pub fn settle_mail(&self, due: &DueMail, delivery: &Delivery) -> Result<(), Fault> {
        self.settle(&due.notice, due.notice.report(), delivery)
    }

    /// What to send for `notice`.
    fn mail_of(&self, notice: &Notice) -> Result<Prepared<Mail>, Fault> {
        let (user, address, letter) = match &notice.content {
            NoticeContent::Mail {
                user,
                address,
                letter,
            } => (user, address, letter),
            NoticeContent::ForgottenPassword { typed, source } => {
                self.answer_forgotten(notice, typed, *source)?;
                return Ok(Prepared::Done);
            }
            NoticeContent::BackchannelLogout { .. } | NoticeContent::Signal { .. } => {
                return Ok(Prepared::Done);
            }
        };
        let known = self.tenant.get::<User>(user.as_str())?;
        let content = match &known {
            Some(_) => self.content_of(user, address, letter)?,
            None => None,
        };
        let Some((known, content)) = known.zip(content) else {
            return Ok(Prepared::Gone("what it is about is gone"));
        };
        Ok(Prepared::Ready(Mail {
            id: notice.id.clone(),
            to: address.clone(),
            username: known.record.username,
            tenant: self.settings.tenant.clone(),
            content,
        }))
    }

    fn content_of(
        &self,
        user: &UserId,
        address: &str,
        letter: &Letter,
    ) -> Result<Option<MailContent>, Fault> {
        Ok(match letter {
            Letter::VerifyAddress { link } => self
                .link_to_send(LinkPurpose::VerifyAddress, user, address, link)?
                .map(|(link, expires_at)| MailContent::VerifyAddress { link, expires_at }),
            Letter::ResetPassword { link } => self
                .link_to_send(LinkPurpose::ResetPassword, user, address, link)?
                .map(|(link, expires_at)| MailContent::ResetPassword { link, expires_at }),
            Letter::PasswordChanged { at, source } => Some(MailContent::PasswordChanged {
                at: *at,
                source: *source,
            }),
            Letter::AddressChanged { at, source } => Some(MailContent::AddressChanged {
                at: *at,
                source: *source,
            }),
        })
    }
}

impl Change<'_> {
    /// Writes `letter` to `address` about `user`, if somebody carries mail.
    pub(crate) fn write(self, user: &UserId, address: &str, letter: Letter) -> Self {
        if !self.provider().mail_is_carried() {
            return self;
        }
        self.tell(NoticeContent::Mail {
            user: user.clone(),
            address: address.to_owned(),
            letter,
        })
    }

    /// Tells `user` that another password counts.
    pub(crate) fn write_of_new_password(self, user: &User, caller: &Caller) -> Self {
        let letter = Letter::PasswordChanged {
            at: self.provider().clock.now(),
            source: caller.source_ip,
        };
        match &user.email {
            Some(address) => self.write(&user.id, address, letter),
            None => self,
        }
    }
}

/// The event of sending a letter.
pub(crate) fn letter_report(user: &UserId, letter: &Letter) -> Report {
    Report::new(EventClass::AccountChange, "mail.send")
        .target(user.as_str())
        .detail("letter", letter.kind())
}
