//! A login that somebody elsewhere vouches for: in, or to an account to connect, or nowhere.

use testudo_model::{Redacted, UserId};

use super::{
    ForeignProfile, IdentityProvider, Link, NewUsers, UpstreamAnswer, UpstreamClaims,
    UpstreamError, Voucher,
    answer::refusal,
    outgoing::{Errand, Outgoing},
};
use crate::{
    AdminError, Caller, Fault, LoggedIn, LoginError, LoginPrompt, Provider,
    claims::ASSURANCE_TWO_FACTORS,
    flow::Flow,
    login::{Means, Proven},
    records::User,
    second_factor::FirstFactor,
    throttle::Attempt,
};

/// Whose browser brought the answer.
#[derive(Debug, Clone, Copy)]
pub struct UpstreamCaller<'a> {
    /// The session cookie the browser may have.
    pub session: Option<&'a str>,
    /// The pre-login cookie.
    pub browser: Option<&'a str>,
    /// Who asks.
    pub caller: &'a Caller,
}

/// What becomes of a login elsewhere.
#[derive(Debug)]
pub enum UpstreamLogin {
    /// Logged in here too.
    LoggedIn(LoggedIn),
    /// The user has a second factor here: show the form for it.
    SecondFactorNeeded {
        /// The sealed hidden field.
        flow: String,
    },
    /// Nobody here is connected to that account: show the login form, with which they prove who they are here.
    Connect(LoginPrompt),
    /// The account of who is logged in is connected: go there.
    Connected {
        /// A page of ours.
        location: String,
    },
}

/// Somebody who logged in elsewhere, as far as they are known here.
enum Known {
    User(Box<User>),
    /// Nobody, and no account was made.
    Nobody,
}

impl Provider {
    /// Ends a login elsewhere whose ID token was checked.
    ///
    /// # Errors
    /// See [`UpstreamError`].
    pub fn finish_upstream_login(
        &self,
        answer: UpstreamAnswer,
        claims: &UpstreamClaims,
        by: &UpstreamCaller<'_>,
    ) -> Result<UpstreamLogin, UpstreamError> {
        let UpstreamAnswer {
            at,
            outgoing,
            attempt,
            ..
        } = answer;
        let (voucher, profile) = claims.read(&at);
        let flow = match &outgoing.errand {
            Errand::Connect { session, .. } => {
                let location = self.connect_own(session, &at, &outgoing, &voucher, by)?;
                self.settle_forgiveness(&attempt)?;
                return Ok(UpstreamLogin::Connected { location });
            }
            Errand::LogIn(flow) => flow,
        };
        let user = match self.known(&at, &voucher, &profile, by.caller) {
            Ok(Known::User(user)) => *user,
            Ok(Known::Nobody) => {
                self.settle_forgiveness(&attempt)?;
                let prompt = self.prompt_to_connect(flow, &voucher, &at, by.browser)?;
                return Ok(UpstreamLogin::Connect(prompt));
            }
            Err(AdminError::Unavailable(fault)) => return Err(fault.into()),
            Err(error) => {
                let why = error.to_string();
                return Err(self.not_accepted(&at, &outgoing, &why, by.caller)?);
            }
        };
        if user.disabled {
            let report = refusal(&at, &outgoing, "user is disabled").target(user.username.as_str());
            self.report(report, by.caller)?;
            return Err(self.not_welcome(&at, &outgoing)?);
        }
        let class = voucher.class.as_str();
        if class < ASSURANCE_TWO_FACTORS && self.second_factor(&user.id)?.is_some() {
            self.settle_forgiveness(&attempt)?;
            let first = FirstFactor::Elsewhere(Box::new(voucher));
            let flow = self.half_login((**flow).clone(), &user.id, first)?;
            return Ok(UpstreamLogin::SecondFactorNeeded { flow });
        }
        let least = flow.purpose.least_class();
        if class < least && self.has_passkey(&user.id)? {
            self.settle_forgiveness(&attempt)?;
            return Err(UpstreamError::NotEnough {
                label: at.label.clone(),
                flow: self.form_again(&outgoing)?,
            });
        }
        let done = self.log_in_elsewhere(flow, user, &voucher, &attempt, by);
        match done {
            Ok(logged_in) => Ok(UpstreamLogin::LoggedIn(logged_in)),
            Err(LoginError::WrongCredentials) => {
                let why = "used, disconnected or disabled meanwhile";
                Err(self.not_accepted(&at, &outgoing, why, by.caller)?)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn log_in_elsewhere(
        &self,
        flow: &Flow,
        user: User,
        voucher: &Voucher,
        attempt: &Attempt,
        by: &UpstreamCaller<'_>,
    ) -> Result<LoggedIn, LoginError> {
        let proven = Proven {
            user,
            hash: None,
            rehashed: None,
        };
        let means = Means::Elsewhere(voucher);
        self.start_session(flow, &proven, attempt, by.session, means, by.caller)
    }

    /// Whoever is connected to the account there, brought up to date; an account that is made for it; or nobody.
    fn known(
        &self,
        at: &IdentityProvider,
        voucher: &Voucher,
        profile: &ForeignProfile,
        caller: &Caller,
    ) -> Result<Known, AdminError> {
        if let Some(link) = self.link(&voucher.link_id())? {
            return self.followed(&link.record, profile, caller);
        }
        let made = match at.new_users {
            NewUsers::Create => self.create_foreign_user(voucher, profile, caller)?,
            NewUsers::Link => None,
        };
        Ok(made.map_or(Known::Nobody, |user| Known::User(Box::new(user))))
    }

    /// What is said of somebody who may not log in changes nothing.
    fn followed(
        &self,
        link: &Link,
        profile: &ForeignProfile,
        caller: &Caller,
    ) -> Result<Known, AdminError> {
        let user = self.user(&link.user)?.record;
        let user = match user.disabled {
            true => user,
            false => self.follow_profile(link, profile, caller)?,
        };
        Ok(Known::User(Box::new(user)))
    }

    /// The login form with which somebody proves an account here, so that it is connected to the one there.
    fn prompt_to_connect(
        &self,
        flow: &Flow,
        voucher: &Voucher,
        at: &IdentityProvider,
        browser: Option<&str>,
    ) -> Result<LoginPrompt, Fault> {
        let mut flow = flow.clone();
        flow.connects = Some(Box::new(voucher.clone()));
        Ok(LoginPrompt {
            flow: self.flow_seal.seal(&*self.entropy, &flow)?,
            browser: Redacted::new(browser.unwrap_or("").to_owned()),
            client_name: flow.client_name,
            username_hint: None,
            connects: Some(at.label.clone()),
        })
    }

    fn not_welcome(
        &self,
        at: &IdentityProvider,
        outgoing: &Outgoing,
    ) -> Result<UpstreamError, Fault> {
        Ok(UpstreamError::NotAccepted {
            label: at.label.clone(),
            flow: self.form_again(outgoing)?,
        })
    }

    pub(crate) fn has_passkey(&self, user: &UserId) -> Result<bool, Fault> {
        Ok(!self.stored_passkeys(user)?.is_empty())
    }
}
