//! Consent: a user says what an application may have, once for the application and what it asks for.
//!
//! Which applications must ask says an administrator ([`ClientPolicy`](crate::ClientPolicy)); those that registered
//! themselves must always, and `prompt=consent` makes any of them. What was allowed is one record for a user and a client. It
//! is asked at authorization requests; the page where devices are connected is its own question.

use serde::{Deserialize, Serialize};
use testudo_model::{ClientName, Redacted, SessionId, Timestamp, UserId, event::EventClass};
use testudo_store::{Expected, Record, Versioned};

use crate::{
    Caller, Fault, Provider, Refusal,
    change::{Change, Report, until_settled},
    discovery::paths,
    flow::{GrantRequest, Sealed},
    limits::FLOW_LIFETIME,
    records::{Client, Grant, Session},
    redirect_uri::with_parameters,
    scopes::{self, ScopeSet},
    signal::{Cause, Initiator},
};

/// Why what an application had ends with its consent.
const REVOKED: Cause = Cause::new(Initiator::User, "consent revoked");

/// What a user allowed an application.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Consent {
    user: UserId,
    client_id: ClientName,
    /// Making time of that client: it says nothing about a later one of the same name.
    client_created_at: Timestamp,
    scopes: ScopeSet,
    given_at: Timestamp,
    /// When the client ends by itself.
    expires_at: Option<Timestamp>,
}

/// The question.
#[derive(Debug)]
pub struct ConsentQuestion {
    /// The sealed hidden field.
    pub flow: String,
    /// Who asks.
    pub client_name: String,
    /// What for.
    pub scopes: Vec<String>,
}

/// The answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConsentDecision {
    /// It may.
    Allow,
    /// It may not.
    Deny,
}

/// What a user allowed, as they see it.
#[derive(Debug, Clone)]
pub struct ConsentView {
    /// Whom.
    pub client_id: ClientName,
    /// Their name for people.
    pub client_name: String,
    /// What.
    pub scopes: Vec<String>,
    /// Since when.
    pub given_at: Timestamp,
}

/// Why there is no question, or no answer to the application.
#[derive(Debug, thiserror::Error)]
pub enum ConsentError {
    /// The form is not ours, too old, of another session, or what it is for was answered already.
    #[error("this page is no longer valid; go back to the application and start again")]
    FormInvalid,
    /// Our fault.
    #[error("the question could not be asked or answered")]
    Unavailable(#[from] Fault),
}

/// An authorization request that waits for its user's word. It works in the session it was asked in alone.
#[derive(Serialize, Deserialize)]
struct Waiting {
    request: GrantRequest,
    session: SessionId,
    expires_at: Timestamp,
}

impl Sealed for Waiting {
    const CONTEXT: &'static [u8] = b"testudo consent v1";
}

impl Record for Consent {
    const COLLECTION: &'static str = "identity.consent";

    fn key(&self) -> String {
        key(&self.user, &self.client_id)
    }

    fn indexes(&self) -> Vec<(&'static str, String)> {
        vec![("user", self.user.to_string())]
    }

    fn expires(&self) -> Option<Timestamp> {
        self.expires_at
    }
}

fn key(user: &UserId, client: &ClientName) -> String {
    format!("{user}:{client}")
}

impl Consent {
    fn is_for(&self, client: &Client) -> bool {
        self.client_created_at == client.created_at
    }

    fn covers(&self, client: &Client, scopes: &ScopeSet) -> bool {
        self.is_for(client) && scopes.is_subset(&self.scopes)
    }
}

impl Provider {
    /// The question behind a redirect to the page.
    ///
    /// # Errors
    /// See [`ConsentError`].
    pub fn consent_question(
        &self,
        flow: &str,
        session: Option<&str>,
    ) -> Result<ConsentQuestion, ConsentError> {
        let (waiting, client, _) = self.waiting(flow, session)?;
        Ok(ConsentQuestion {
            flow: flow.to_owned(),
            client_name: client.name_at(Some(&waiting.request.redirect_uri)),
            scopes: words(&waiting.request.scopes),
        })
    }

    /// Takes the user's word; where the browser goes with it.
    ///
    /// # Errors
    /// See [`ConsentError`].
    pub fn decide_consent(
        &self,
        flow: &str,
        decision: ConsentDecision,
        session: Option<&str>,
        caller: &Caller,
    ) -> Result<Redacted<String>, ConsentError> {
        until_settled(|| {
            let (waiting, client, session) = self.waiting(flow, session)?;
            let request = &waiting.request;
            let report = Report::new(EventClass::Authentication, "consent.decide")
                .subject(session.user.as_str())
                .client(client.client_id.as_str())
                .session(&session.id)
                .detail("scope", scopes::join(&request.scopes));
            let (change, location) = match decision {
                ConsentDecision::Allow => {
                    let change = self.stage_consent(self.change(), request, &client, &session)?;
                    self.stage_code(change.report(report, caller), request, &session, caller)
                }
                ConsentDecision::Deny => {
                    let change = match &request.pushed {
                        Some(reference) => self.change().use_up(reference),
                        None => self.change(),
                    };
                    let report = report.denied("the user said no");
                    (change.report(report, caller), self.denied_location(request))
                }
            };
            Ok(change.commit()?.then_some(location))
        })
    }

    /// Whether the user must be asked before `request` is answered.
    pub(crate) fn must_consent(
        &self,
        request: &GrantRequest,
        client: &Client,
        user: &UserId,
    ) -> Result<bool, Fault> {
        if request.asks_consent {
            return Ok(true);
        }
        if !client.must_ask() {
            return Ok(false);
        }
        let stored = self.tenant.get::<Consent>(&key(user, &client.client_id))?;
        Ok(!stored.is_some_and(|stored| stored.record.covers(client, &request.scopes)))
    }

    /// Adds to `change` that the user of a code still allows what it is for; `None` if they do not. What was allowed is
    /// written, so that taking it back and redeeming the code exclude each other.
    pub(crate) fn stage_still_allowed<'p>(
        &self,
        change: Change<'p>,
        client: &Client,
        user: &UserId,
        scopes: &ScopeSet,
    ) -> Result<Option<Change<'p>>, Fault> {
        if !client.must_ask() {
            return Ok(Some(change));
        }
        let stored = self.tenant.get::<Consent>(&key(user, &client.client_id))?;
        let stored = stored.filter(|stored| stored.record.covers(client, scopes));
        Ok(stored
            .map(|Versioned { record, version }| change.put(Expected::Version(version), &record)))
    }

    /// Where the user is asked.
    pub(crate) fn consent_location(
        &self,
        request: &GrantRequest,
        session: &SessionId,
    ) -> Result<Redacted<String>, Fault> {
        let waiting = Waiting {
            request: request.clone(),
            session: session.clone(),
            expires_at: self.clock.now() + FLOW_LIFETIME,
        };
        let flow = self.flow_seal.seal(&*self.entropy, &waiting)?;
        Ok(Redacted::new(with_parameters(
            paths::CONSENT,
            &[("flow", &flow)],
        )))
    }

    /// Adds to `change` what answers a request of who is logged in: a code, unless they are to be asked first.
    pub(crate) fn stage_answer<'p>(
        &'p self,
        change: Change<'p>,
        request: &GrantRequest,
        session: &Session,
        caller: &Caller,
    ) -> Result<(Change<'p>, Redacted<String>), Fault> {
        let client = self.client_named(request.client_id.as_str())?;
        let must_ask = match client {
            Some(client) => self.must_consent(request, &client, &session.user)?,
            None => false,
        };
        if must_ask {
            return Ok((change, self.consent_location(request, &session.id)?));
        }
        Ok(self.stage_code(change, request, session, caller))
    }

    /// What a user allowed to applications that are still there, by name.
    pub(crate) fn consents_of(&self, user: &UserId) -> Result<Vec<ConsentView>, Fault> {
        let mut views = Vec::new();
        for Versioned { record, .. } in self.tenant.find::<Consent>("user", user.as_str())? {
            let client = self.tenant.get::<Client>(record.client_id.as_str())?;
            let client = client.filter(|client| record.is_for(&client.record));
            views.extend(client.map(|client| ConsentView {
                client_name: client.record.name_at(None),
                client_id: record.client_id,
                scopes: words(&record.scopes),
                given_at: record.given_at,
            }));
        }
        views.sort_by(|one, other| one.client_name.cmp(&other.client_name));
        Ok(views)
    }

    /// Takes back what `user` allowed a client, and ends what it got by that.
    pub(crate) fn revoke_consent(
        &self,
        user: &UserId,
        client: &ClientName,
        caller: &Caller,
    ) -> Result<(), Fault> {
        until_settled(|| {
            let Some(stored) = self.tenant.get::<Consent>(&key(user, client))? else {
                return Ok(Some(()));
            };
            let mut grants = self.tenant.find::<Grant>("user", user.as_str())?;
            grants.retain(|grant| grant.record.client_id == *client);
            let report = Report::new(EventClass::Authentication, "consent.revoke")
                .subject(user.as_str())
                .client(client.as_str())
                .detail("scope", scopes::join(&stored.record.scopes));
            let expected = Expected::Version(stored.version);
            let change = self
                .end_grants(self.change(), &grants, &REVOKED)?
                .delete::<Consent>(expected, &key(user, client))
                .report(report, caller);
            Ok(change.commit()?.then_some(()))
        })
    }

    /// Adds the end of all that a user allowed to `change`.
    pub(crate) fn stage_end_of_consents<'p>(
        &self,
        change: Change<'p>,
        user: &UserId,
    ) -> Result<Change<'p>, Fault> {
        let consents = self.tenant.find::<Consent>("user", user.as_str())?;
        Ok(consents.iter().fold(change, |change, consent| {
            change.delete::<Consent>(Expected::Any, &consent.record.key())
        }))
    }

    /// A request that waits, if it is one of this session's and its client is still there.
    fn waiting(
        &self,
        flow: &str,
        session: Option<&str>,
    ) -> Result<(Waiting, Client, Session), ConsentError> {
        let waiting = self.flow_seal.unseal::<Waiting>(flow);
        let waiting = waiting.filter(|waiting| self.clock.now() <= waiting.expires_at);
        let waiting = waiting.ok_or(ConsentError::FormInvalid)?;
        let session = self
            .logged_in(session)?
            .filter(|session| session.id == waiting.session)
            .ok_or(ConsentError::FormInvalid)?;
        let client = self
            .client_named(waiting.request.client_id.as_str())?
            .filter(|client| client.created_at == waiting.request.client_created_at)
            .ok_or(ConsentError::FormInvalid)?;
        if self.is_used(&waiting.request)? {
            return Err(ConsentError::FormInvalid);
        }
        Ok((waiting, client, session))
    }

    /// Adds what the user allows to what they had.
    fn stage_consent<'p>(
        &self,
        change: Change<'p>,
        request: &GrantRequest,
        client: &Client,
        session: &Session,
    ) -> Result<Change<'p>, Fault> {
        let stored = self
            .tenant
            .get::<Consent>(&key(&session.user, &client.client_id))?;
        let expected = stored
            .as_ref()
            .map_or(Expected::Absent, |stored| Expected::Version(stored.version));
        let before = stored.map(|stored| stored.record);
        let before = before.filter(|consent| consent.is_for(client));
        let mut scopes = before.map(|consent| consent.scopes).unwrap_or_default();
        scopes.extend(request.scopes.iter().cloned());
        let consent = Consent {
            user: session.user.clone(),
            client_id: client.client_id.clone(),
            client_created_at: client.created_at,
            scopes,
            given_at: self.clock.now(),
            expires_at: client.expires_at(),
        };
        Ok(change.put(expected, &consent))
    }

    fn denied_location(&self, request: &GrantRequest) -> Redacted<String> {
        let state = request.state.as_deref();
        let why = Refusal::AccessDenied;
        Redacted::new(self.error_location(&request.redirect_uri, state, &why))
    }
}

fn words(scopes: &ScopeSet) -> Vec<String> {
    scopes.iter().map(ToString::to_string).collect()
}
