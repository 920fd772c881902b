//! The page where a user connects a device (RFC 8628 section 3.3).
//!
//! Codes can only be tried by who is logged in, and not often. What is allowed is shown first, with the name of the client
//! and the code: somebody may have sent the user a code of a device of their own (section 5.4).

use std::time::Duration;

use serde::{Deserialize, Serialize};
use testudo_model::{SessionId, Timestamp, UserId, event::EventClass};
use testudo_store::{Expected, Versioned};

use super::{DeviceRequest, DeviceState, UserCode};
use crate::{
    Caller, Fault, LoginPrompt, Provider,
    change::{Report, until_settled},
    flow::{Sealed, Visit},
    limits::FLOW_LIFETIME,
    records::{Client, Session},
    scopes,
    throttle::Attempt,
};

/// What to show.
#[derive(Debug)]
pub enum DevicePage {
    /// The user must log in first.
    Login(LoginPrompt),
    /// The form for the code.
    EnterCode {
        /// The sealed hidden field.
        flow: String,
    },
    /// The question.
    Decide(DeviceQuestion),
    /// The user has decided.
    Decided(DeviceDecision),
}

/// What a page that asks needs.
#[derive(Debug)]
pub struct DeviceQuestion {
    /// The sealed hidden field.
    pub flow: String,
    /// The code, to compare with what the device shows.
    pub user_code: String,
    /// The client, for people.
    pub client_name: String,
    /// What it asks for.
    pub scopes: Vec<String>,
}

/// What a user says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceDecision {
    /// The device may act for them.
    Allow,
    /// It may not.
    Deny,
}

/// Why there is no question, or no decision.
#[derive(Debug, thiserror::Error)]
pub enum DevicePageError {
    /// The form is not ours, too old, or of another session.
    #[error("this page is no longer valid; open it again")]
    FormInvalid,
    /// There is no such code, or not any more.
    #[error("this code is not known, or it has expired; look at the device again")]
    UnknownCode,
    /// Too many codes that are not known.
    #[error("too many codes that are not known; wait {} seconds and try again", retry_after.as_secs().max(1))]
    Throttled {
        /// Time to wait.
        retry_after: Duration,
    },
    /// Our fault.
    #[error("the device could not be connected")]
    Unavailable(#[from] Fault),
}

impl DevicePageError {
    /// HTTP status of the answer.
    pub const fn status(&self) -> u16 {
        match self {
            Self::FormInvalid | Self::UnknownCode => 400,
            Self::Throttled { .. } => 429,
            Self::Unavailable(fault) => fault.status(),
        }
    }
}

/// A form of this page: it works in the session it was shown to.
#[derive(Serialize, Deserialize)]
struct DeviceForm {
    session: SessionId,
    /// What was asked about, if the form is a question.
    asked: Option<Asked>,
    expires_at: Timestamp,
}

#[derive(Serialize, Deserialize)]
struct Asked {
    user_code: UserCode,
    /// Tells the request from a later one with the same code.
    expires_at: Timestamp,
}

impl Sealed for DeviceForm {
    const CONTEXT: &'static [u8] = b"testudo device form v1";
}

impl Provider {
    /// The page for a browser with these values of the session and pre-login cookies. `user_code` is what it was opened
    /// with: after a login it is still there.
    ///
    /// # Errors
    /// The store fails.
    pub fn device_page(
        &self,
        user_code: Option<&str>,
        session: Option<&str>,
        browser: Option<&str>,
    ) -> Result<DevicePage, Fault> {
        let user_code = user_code.and_then(|code| code.parse::<UserCode>().ok());
        let visit = Visit::Device {
            user_code: user_code.map(|code| code.to_string()),
        };
        match self.logged_in(session)? {
            Some(session) => Ok(DevicePage::EnterCode {
                flow: self.device_form(&session, None)?,
            }),
            None => Ok(DevicePage::Login(self.prompt_visit(visit, browser)?)),
        }
    }

    /// Handles the form with the code.
    ///
    /// # Errors
    /// See [`DevicePageError`].
    pub fn enter_user_code(
        &self,
        flow: &str,
        typed: &str,
        session: Option<&str>,
        caller: &Caller,
    ) -> Result<DevicePage, DevicePageError> {
        let (session, _) = self.open_device_form(flow, session)?;
        let attempt = Attempt::at_user_code(&session.user, caller.source_ip);
        if let Err(retry_after) = self.begin_attempt(&attempt, caller)? {
            return Err(DevicePageError::Throttled { retry_after });
        }
        let found = self.waiting_request(typed.parse().ok())?;
        let (request, client) = found.ok_or(DevicePageError::UnknownCode)?;
        self.settle_forgiveness(&attempt)?;
        let asked = Asked {
            user_code: request.record.user_code.clone(),
            expires_at: request.record.expires_at,
        };
        Ok(DevicePage::Decide(DeviceQuestion {
            flow: self.device_form(&session, Some(asked))?,
            user_code: request.record.user_code.to_string(),
            client_name: client.name_at(None),
            scopes: request
                .record
                .scopes
                .iter()
                .map(ToString::to_string)
                .collect(),
        }))
    }

    /// Handles the answer to the question.
    ///
    /// # Errors
    /// See [`DevicePageError`].
    pub fn decide_device(
        &self,
        flow: &str,
        decision: DeviceDecision,
        session: Option<&str>,
        caller: &Caller,
    ) -> Result<DevicePage, DevicePageError> {
        let (session, asked) = self.open_device_form(flow, session)?;
        let asked = asked.ok_or(DevicePageError::FormInvalid)?;
        until_settled(|| {
            let found = self.waiting_request(Some(asked.user_code.clone()))?;
            let found = found.filter(|(found, _)| found.record.expires_at == asked.expires_at);
            let (Versioned { record, version }, _) = found.ok_or(DevicePageError::UnknownCode)?;
            let decided = DeviceRequest {
                state: match decision {
                    DeviceDecision::Allow => DeviceState::Allowed {
                        login: session.id.clone(),
                        user: session.user.clone(),
                        authentication: session.authentication.clone(),
                        at: self.clock.now(),
                    },
                    DeviceDecision::Deny => DeviceState::Denied,
                },
                ..record
            };
            let report = decision_report(decision, &decided, &session.user, &session.id);
            let change = self
                .change()
                .put(Expected::Version(version), &decided)
                .report(report, caller);
            let decided = DevicePage::Decided(decision);
            Ok(change.commit()?.then_some(decided))
        })
    }

    /// The request behind a code that waits for a decision, with its client.
    fn waiting_request(
        &self,
        user_code: Option<UserCode>,
    ) -> Result<Option<(Versioned<DeviceRequest>, Client)>, Fault> {
        let Some(user_code) = user_code else {
            return Ok(None);
        };
        let stored = self.tenant.get::<DeviceRequest>(&user_code.to_string())?;
        let waits = |request: &DeviceRequest| {
            request.state == DeviceState::Waiting && self.clock.now() < request.expires_at
        };
        let Some(request) = stored.filter(|stored| waits(&stored.record)) else {
            return Ok(None);
        };
        let client = self.client_named(request.record.client_id.as_str())?;
        let client = client.filter(|client| request.record.belongs_to(client));
        Ok(client.map(|client| (request, client)))
    }

    fn device_form(&self, session: &Session, asked: Option<Asked>) -> Result<String, Fault> {
        let form = DeviceForm {
            session: session.id.clone(),
            asked,
            expires_at: self.clock.now() + FLOW_LIFETIME,
        };
        self.flow_seal.seal(&*self.entropy, &form)
    }

    /// The session that a form was shown to, if it is that of the browser, and what it asked about.
    fn open_device_form(
        &self,
        flow: &str,
        cookie: Option<&str>,
    ) -> Result<(Session, Option<Asked>), DevicePageError> {
        let form: DeviceForm = self
            .flow_seal
            .unseal(flow)
            .ok_or(DevicePageError::FormInvalid)?;
        let session = self.logged_in(cookie)?;
        let session = session
            .filter(|session| session.id == form.session && self.clock.now() <= form.expires_at);
        let session = session.ok_or(DevicePageError::FormInvalid)?;
        Ok((session, form.asked))
    }
}

fn decision_report(
    decision: DeviceDecision,
    request: &DeviceRequest,
    user: &UserId,
    session: &SessionId,
) -> Report {
    let report = Report::new(EventClass::Authentication, "device.decide")
        .subject(user.as_str())
        .client(request.client_id.as_str())
        .session(session)
        .detail("scope", scopes::join(&request.scopes));
    match decision {
        DeviceDecision::Allow => report,
        DeviceDecision::Deny => report.denied("the user said no"),
    }
}
