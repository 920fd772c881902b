//! Logging out: our own page, and logouts that applications ask for (OpenID Connect RP-Initiated Logout 1.0).
//!
//! A logout needs no question if the application shows an ID token of the user who is logged in: nobody else has one.
//! Otherwise the user is asked, by a form that works only for the session it was shown for: no link and no form of
//! somebody else logs anybody out.

use serde::{Deserialize, Serialize};
use testudo_model::{ClientName, SessionId, Timestamp, UserId, event::Actor};
use testudo_trust::verify_foreign_jwt;

use crate::{
    Caller, EndReason, Fault, Parameters, Provider,
    claims::IdTokenClaims,
    flow::Sealed,
    limits::{FLOW_LIFETIME, MAX_STATE_BYTES},
    records::{Client, Grant, Session},
    redirect_uri::with_parameters,
};

/// The answer to a logout request.
#[derive(Debug)]
pub enum Logout {
    /// The user must say that they want to.
    Ask(LogoutQuestion),
    /// Nobody is logged in any more. Take the session cookie away.
    Done {
        /// Where to redirect; if nowhere, say so on a page.
        location: Option<String>,
    },
}

/// What a page that asks needs.
#[derive(Debug)]
pub struct LogoutQuestion {
    /// The sealed request; a hidden field of the form.
    pub flow: String,
    /// The application that asks, for people.
    pub client_name: Option<String>,
}

/// Why a logout request is not answered. Show it.
#[derive(Debug, thiserror::Error)]
pub enum LogoutError {
    /// A parameter came twice or is too long.
    #[error("`{0}` is repeated or too long")]
    Malformed(String),
    /// `client_id` is of no client, or not the one that the ID token was issued to.
    #[error("the application that sent you here is not registered, or shows somebody else's login")]
    UnknownClient,
    /// `post_logout_redirect_uri` is not registered, or nothing says whose it is.
    #[error(
        "the application that sent you here asks to return to an address it has not registered"
    )]
    UnknownRedirect,
    /// Our fault.
    #[error("the logout could not be handled")]
    Unavailable(#[from] Fault),
}

impl LogoutError {
    /// HTTP status of the answer.
    pub const fn status(&self) -> u16 {
        match self {
            Self::Malformed(_) | Self::UnknownClient | Self::UnknownRedirect => 400,
            Self::Unavailable(fault) => fault.status(),
        }
    }
}

/// A logout request after all checks that need no user.
#[derive(Clone, Default, Serialize, Deserialize)]
struct LogoutRequest {
    client_id: Option<ClientName>,
    client_name: Option<String>,
    /// Where to go afterwards, with `state`.
    location: Option<String>,
    hint: Option<Hint>,
}

/// Of whom the application has an ID token.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Hint {
    pub(crate) user: UserId,
    /// Its `sid`.
    session: SessionId,
}

/// A logout request on its way: to where the browser sends its cookies, or in the form of a question.
#[derive(Serialize, Deserialize)]
struct LogoutFlow {
    request: LogoutRequest,
    /// The session whose user was asked.
    asked: Option<SessionId>,
    expires_at: Timestamp,
}

impl Sealed for LogoutFlow {
    const CONTEXT: &'static [u8] = b"testudo logout flow v1";
}

impl Provider {
    /// Handles a request of the end session endpoint, or the user's own with no parameters. `session` is the value of the
    /// session cookie.
    ///
    /// # Errors
    /// See [`LogoutError`].
    pub fn begin_logout(
        &self,
        parameters: &Parameters,
        session: Option<&str>,
        caller: &Caller,
    ) -> Result<Logout, LogoutError> {
        let request = self.logout_request(parameters)?;
        self.log_out_or_ask(request, session, caller)
    }

    /// The same request for later: browsers send no cookie with a form from another site. The value goes into a URL of
    /// ours, where [`Provider::resume_logout`] takes it.
    ///
    /// # Errors
    /// See [`LogoutError`].
    pub fn defer_logout(&self, parameters: &Parameters) -> Result<String, LogoutError> {
        let request = self.logout_request(parameters)?;
        Ok(self.seal_logout(request, None)?)
    }

    /// Goes on with a deferred request. What is no request, or too old, is one without any parameters.
    ///
    /// # Errors
    /// See [`LogoutError`].
    pub fn resume_logout(
        &self,
        flow: &str,
        session: Option<&str>,
        caller: &Caller,
    ) -> Result<Logout, LogoutError> {
        let request = self.open_logout(flow).map(|flow| flow.request);
        self.log_out_or_ask(request.unwrap_or_default(), session, caller)
    }

    /// Handles the form: logs out whoever was asked. Anybody else is asked first.
    ///
    /// # Errors
    /// See [`LogoutError`].
    pub fn confirm_logout(
        &self,
        flow: &str,
        session: Option<&str>,
        caller: &Caller,
    ) -> Result<Logout, LogoutError> {
        let (request, asked) = match self.open_logout(flow) {
            Some(flow) => (flow.request, flow.asked),
            None => (LogoutRequest::default(), None),
        };
        match self.logged_in(session)? {
            Some(session) if asked.as_ref() == Some(&session.id) => {
                self.log_out(request, Some(&session), caller)
            }
            _ => self.log_out_or_ask(request, session, caller),
        }
    }

    /// The session of a cookie, if there is one.
    pub(crate) fn logged_in(&self, cookie: Option<&str>) -> Result<Option<Session>, Fault> {
        match cookie {
            Some(cookie) => self.session(cookie),
            None => Ok(None),
        }
    }

    fn log_out_or_ask(
        &self,
        request: LogoutRequest,
        cookie: Option<&str>,
        caller: &Caller,
    ) -> Result<Logout, LogoutError> {
        let Some(session) = self.logged_in(cookie)? else {
            return self.log_out(request, None, caller);
        };
        let is_theirs = |hint: &Hint| hint.user == session.user;
        if request.hint.as_ref().is_some_and(is_theirs) {
            return self.log_out(request, Some(&session), caller);
        }
        let client_name = request.client_name.clone();
        // Somebody else's ID token ends nothing, also not once the user has said yes to their own logout.
        let request = LogoutRequest {
            hint: None,
            ..request
        };
        Ok(Logout::Ask(LogoutQuestion {
            flow: self.seal_logout(request, Some(session.id))?,
            client_name,
        }))
    }

    /// Ends the session of the browser, and what the application has of the user: that may be of an earlier login.
    fn log_out(
        &self,
        request: LogoutRequest,
        session: Option<&Session>,
        caller: &Caller,
    ) -> Result<Logout, LogoutError> {
        let client = request.hint.as_ref().and(request.client_id);
        let caller = Caller {
            actor: Actor {
                client: client.map(|client| client.to_string()),
                ..caller.actor.clone()
            },
            ..caller.clone()
        };
        if let Some(session) = session {
            self.end_session(&session.id, EndReason::Logout, &caller)?;
        }
        if let Some(hint) = &request.hint {
            let grant = self.tenant.get::<Grant>(hint.session.as_str());
            if let Some(grant) = grant.map_err(Fault::from)? {
                let ended = match session {
                    Some(_) => grant.record.login,
                    None => grant.record.id,
                };
                self.end_session(&ended, EndReason::Logout, &caller)?;
            }
        }
        Ok(Logout::Done {
            location: request.location,
        })
    }

    fn logout_request(&self, parameters: &Parameters) -> Result<LogoutRequest, LogoutError> {
        if let Some(repeated) = parameters.first_repeated() {
            return Err(LogoutError::Malformed(repeated.chars().take(64).collect()));
        }
        let hint = parameters
            .get("id_token_hint")
            .and_then(|token| self.id_token_hint(token).transpose())
            .transpose()?;
        let (hint, audience) = hint.unzip();
        let client = match (parameters.get("client_id"), audience) {
            (Some(id), Some(client)) if client.client_id.as_str() == id => Some(client),
            (Some(_), Some(_)) => return Err(LogoutError::UnknownClient),
            (Some(id), None) => Some(self.client_named(id)?.ok_or(LogoutError::UnknownClient)?),
            (None, client) => client,
        };
        let state = parameters.get("state");
        if state.is_some_and(|state| state.len() > MAX_STATE_BYTES) {
            return Err(LogoutError::Malformed("state".to_owned()));
        }
        let location = match (parameters.get("post_logout_redirect_uri"), &client) {
            (None, _) => None,
            (Some(uri), Some(client)) if client.may_return_to(uri) => Some(match state {
                Some(state) => with_parameters(uri, &[("state", state)]),
                None => uri.to_owned(),
            }),
            (Some(_), _) => return Err(LogoutError::UnknownRedirect),
        };
        let (client_id, client_name) = client
            .map(|client| (client.client_id.clone(), client.name_at(None)))
            .unzip();
        Ok(LogoutRequest {
            client_id,
            client_name,
            location,
            hint,
        })
    }

    /// What an ID token of ours says, expired or not, and whom it was issued to. Any other text says nothing.
    pub(crate) fn id_token_hint(&self, token: &str) -> Result<Option<(Hint, Client)>, Fault> {
        let keys = self.signing_keys()?;
        let Ok(claims) = verify_foreign_jwt::<IdTokenClaims>(token, &keys.told) else {
            return Ok(None);
        };
        let (Ok(user), true) = (
            claims.sub.parse::<UserId>(),
            claims.iss == self.settings.issuer,
        ) else {
            return Ok(None);
        };
        let client = self.client_named(&claims.aud)?;
        // One that was issued before the client was made is another client's of the same name.
        let client = client.filter(|client| client.created_at.unix_seconds() <= claims.iat);
        let hint = Hint {
            user,
            session: claims.sid,
        };
        Ok(client.map(|client| (hint, client)))
    }

    /// The enabled client of this name.
    pub(crate) fn client_named(&self, id: &str) -> Result<Option<Client>, Fault> {
        let Ok(name) = id.parse::<ClientName>() else {
            return Ok(None);
        };
        let stored = self.tenant.get::<Client>(name.as_str())?;
        let client = stored.map(|stored| stored.record);
        Ok(client.filter(|client| !client.disabled))
    }

    fn seal_logout(
        &self,
        request: LogoutRequest,
        asked: Option<SessionId>,
    ) -> Result<String, Fault> {
        let flow = LogoutFlow {
            request,
            asked,
            expires_at: self.clock.now() + FLOW_LIFETIME,
        };
        self.flow_seal.seal(&*self.entropy, &flow)
    }

    fn open_logout(&self, flow: &str) -> Option<LogoutFlow> {
        let flow: LogoutFlow = self.flow_seal.unseal(flow)?;
        (self.clock.now() <= flow.expires_at).then_some(flow)
    }
}
