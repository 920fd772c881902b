//! Connecting and parting accounts, by who is logged in here.

use testudo_model::{Redacted, SessionId, event::EventClass};

use super::{
    IdentityProvider, LinkId, UpstreamError, UpstreamMetadata, Voucher, link::LinkError,
    login::UpstreamCaller, outgoing::Outgoing,
};
use crate::{
    AccountError, Caller, Fault, LoginError, LoginPrompt, Provider,
    change::{Report, until_settled},
    discovery::paths,
    records::{PasswordCredential, Session},
};

/// Where somebody goes who wants to connect their account.
#[derive(Debug)]
pub enum Connecting {
    /// To the identity provider.
    Elsewhere {
        /// Where.
        location: Redacted<String>,
        /// The pre-login cookie to set.
        browser: Redacted<String>,
    },
    /// They must log in again first.
    Login(LoginPrompt),
}

impl Provider {
    /// Begins to connect the account of who is logged in with one at the identity provider `name`. `flow` is the hidden field
    /// of the account page.
    ///
    /// # Errors
    /// See [`AccountError`].
    pub fn begin_connecting(
        &self,
        name: &str,
        metadata: &UpstreamMetadata,
        flow: &str,
        by: &UpstreamCaller<'_>,
    ) -> Result<Connecting, AccountError> {
        let session = self.session_of_form(flow, by.session)?;
        if !self.is_fresh(&session)? {
            return Ok(Connecting::Login(self.prompt_fresh(&session, by.browser)?));
        }
        let at = self.identity_provider(name);
        let at = at.ok_or(AccountError::FormInvalid)?;
        let browser = self.browser_value(by.browser);
        let location = self.connecting_location(&session, &at, metadata, &browser)?;
        let location = location.ok_or(AccountError::FormInvalid)?;
        Ok(Connecting::Elsewhere { location, browser })
    }

    /// Connects the account of `id`, whose user went elsewhere to prove one there. Where they go next.
    pub(super) fn connect_own(
        &self,
        id: &SessionId,
        at: &IdentityProvider,
        outgoing: &Outgoing,
        voucher: &Voucher,
        by: &UpstreamCaller<'_>,
    ) -> Result<String, UpstreamError> {
        let session = match by.session {
            Some(cookie) => self.session(cookie)?,
            None => None,
        };
        let session = session.filter(|session| session.id == *id);
        let session = session.ok_or(LoginError::OtherBrowser)?;
        let linked = until_settled(|| {
            let change = self.stage_link(self.change(), &session.user, voucher)?;
            let report = own_report("upstream.link", &session);
            let change = change.report(voucher.describe(report), by.caller);
            Ok(change.commit()?.then_some(()))
        });
        match linked {
            Ok(()) => Ok(paths::ACCOUNT.to_owned()),
            Err(LinkError::Unavailable(fault)) => Err(fault.into()),
            Err(error) => {
                let why = error.to_string();
                let refused = self.not_accepted(at, outgoing, &why, by.caller)?;
                Err(match error {
                    LinkError::Taken => UpstreamError::Taken {
                        label: at.label.clone(),
                    },
                    LinkError::TooMany => UpstreamError::TooMany,
                    _ => refused,
                })
            }
        }
    }

    /// Parts an account elsewhere from that of who is logged in, unless nothing else would log them in again.
    pub(crate) fn disconnect_own(
        &self,
        session: &Session,
        link: &LinkId,
        caller: &Caller,
    ) -> Result<(), Fault> {
        // A directory decides about the passwords of its people, with or without their leave.
        let is_directory = self
            .link(link)?
            .is_some_and(|stored| stored.record.is_of_directory());
        if !is_directory && self.can_part_with_links(session)? {
            let report = own_report("upstream.unlink", session);
            self.unlink(&session.user, link, Some(&session.id), report, caller)?;
        }
        Ok(())
    }

    /// Whether a user has another way to log in than their last link.
    pub(crate) fn can_part_with_links(&self, session: &Session) -> Result<bool, Fault> {
        let user = &session.user;
        let credential = self.tenant.get::<PasswordCredential>(user.as_str())?;
        let has_password = credential.is_some_and(|stored| stored.record.hash.is_some());
        Ok(has_password || self.has_passkey(user)? || self.stored_links(user)?.len() > 1)
    }
}

fn own_report(activity: &str, session: &Session) -> Report {
    Report::new(EventClass::AccountChange, activity)
        .subject(session.user.as_str())
        .session(&session.id)
        .target(session.user.as_str())
}
