//! Whether a mail address is its user's.

use testudo_model::{Timestamp, UserId};
use testudo_store::{Expected, Versioned};

use super::{Letter, LinkError, LinkPurpose, check_mail_address};
use crate::{
    AdminError, Caller, Fault, Provider,
    change::{Change, until_settled},
    records::{Session, User},
    throttle::Attempt,
};

/// The question of an open link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerificationPage {
    /// Whose account it is about.
    pub username: String,
    /// The address.
    pub address: String,
}

impl Provider {
    /// The page of a link that verifies an address. To look at it changes nothing.
    ///
    /// # Errors
    /// See [`LinkError`].
    pub fn verification_page(&self, code: &str) -> Result<VerificationPage, LinkError> {
        let open = self.open_link(LinkPurpose::VerifyAddress, code)?;
        let User {
            username, email, ..
        } = open.user.record;
        Ok(VerificationPage {
            username: username.to_string(),
            address: email.unwrap_or_default(),
        })
    }

    /// Verifies the address that a link was sent to. The link is used up by it.
    ///
    /// # Errors
    /// See [`LinkError`].
    pub fn verify_address(&self, code: &str, caller: &Caller) -> Result<(), LinkError> {
        until_settled(|| {
            let open = self.open_link(LinkPurpose::VerifyAddress, code)?;
            let change = open.use_up(self.change());
            let change = self.stage_verified(change, &open.user, "link", caller);
            Ok(change.commit()?.then_some(()))
        })
    }

    /// Takes an administrator's word that the address of a user is theirs.
    ///
    /// # Errors
    /// There is no such user, or they have no address.
    pub fn vouch_for_address(&self, id: &UserId, caller: &Caller) -> Result<(), AdminError> {
        until_settled(|| {
            let user = self.user(id)?;
            if user.record.email.is_none() {
                let why = "is missing: set one first";
                return Err(AdminError::invalid("mail address", why));
            }
            let change = self.stage_verified(self.change(), &user, "administrator", caller);
            Ok::<_, AdminError>(change.commit()?.then_some(()))
        })
    }

    fn stage_verified<'p>(
        &self,
        change: Change<'p>,
        user: &Versioned<User>,
        by: &str,
        caller: &Caller,
    ) -> Change<'p> {
        let after = User {
            email_verified: true,
            updated_at: self.clock.now(),
            ..user.record.clone()
        };
        let report = self
            .account_report("user.email_verified", after.username.as_str())
            .detail("by", by);
        change
            .put(Expected::Version(user.version), &after)
            .report(report, caller)
    }

    /// Sends a link to the address of the user of `session`, if that is not verified.
    pub(crate) fn send_verification(
        &self,
        session: &Session,
        caller: &Caller,
    ) -> Result<(), AddressError> {
        let user = self.tenant.get::<User>(session.user.as_str());
        let user = user.map_err(Fault::from)?.map(|stored| stored.record);
        let Some((user, address)) = user
            .filter(|user| !user.email_verified)
            .and_then(|user| Some((user.clone(), user.email?)))
        else {
            return Ok(());
        };
        self.count_letter(&user.id, &address, caller)?;
        until_settled(|| {
            let change = self.stage_verification(self.change(), &user.id, &address)?;
            let report = self
                .account_report("user.email_verification", user.username.as_str())
                .session(&session.id);
            Ok(change.report(report, caller).commit()?.then_some(()))
        })
    }

    /// Makes `address` that of the user of `session`. It is not verified: a link is sent there. The former one is told.
    pub(crate) fn change_own_address(
        &self,
        session: &Session,
        address: &str,
        caller: &Caller,
    ) -> Result<(), AddressError> {
        check_mail_address(Some(address))?;
        self.count_letter(&session.user, address, caller)?;
        until_settled(|| {
            let stored = self.user(&session.user)?;
            let before = stored.record;
            let after = User {
                updated_at: self.clock.now(),
                ..before.clone().with_email(Some(address.to_owned()))
            };
            if after.email == before.email {
                return Ok(Some(()));
            }
            let report = self
                .account_report("user.email", after.username.as_str())
                .subject(after.id.as_str())
                .session(&session.id);
            let change = self
                .change()
                .put(Expected::Version(stored.version), &after)
                .report(report, caller);
            let change = match &before.email {
                Some(former) => {
                    let letter = address_changed(after.updated_at, caller);
                    change.write(&after.id, former, letter)
                }
                None => change,
            };
            let change = self.stage_verification(change, &after.id, address)?;
            Ok(change.commit()?.then_some(()))
        })
    }

    fn stage_verification<'p>(
        &self,
        change: Change<'p>,
        user: &UserId,
        address: &str,
    ) -> Result<Change<'p>, Fault> {
        let purpose = LinkPurpose::VerifyAddress;
        let (change, link) = self.new_link(change, purpose, user, address)?;
        Ok(change.write(user, address, Letter::VerifyAddress { link }))
    }

    /// Counts a letter that `user` wants to be sent: nobody is to fill somebody's mailbox through us.
    fn count_letter(
        &self,
        user: &UserId,
        address: &str,
        caller: &Caller,
    ) -> Result<(), AddressError> {
        let attempt = Attempt::to_send_letter(user, address);
        match self.begin_attempt(&attempt, caller)? {
            Ok(()) => Ok(()),
            Err(wait) => Err(AddressError::TooMany {
                minutes: wait.as_secs().div_ceil(60),
            }),
        }
    }
}

fn address_changed(at: Timestamp, caller: &Caller) -> Letter {
    Letter::AddressChanged {
        at,
        source: caller.source_ip,
    }
}

/// Why an address is not changed, or no link sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AddressError {
    /// It is none.
    #[error(transparent)]
    Refused(AdminError),
    /// Enough letters were sent.
    #[error("too many letters were sent; wait {minutes} minutes and try again")]
    TooMany {
        /// Time to wait.
        minutes: u64,
    },
    /// Our fault.
    #[error("the address could not be changed")]
    Unavailable(#[from] Fault),
}

impl From<AdminError> for AddressError {
    fn from(error: AdminError) -> Self {
        match error {
            AdminError::Unavailable(fault) => Self::Unavailable(fault),
            refused => Self::Refused(refused),
        }
    }
}
