//! Logging in with a passkey. Nobody says who they are before: the passkey does.

use testudo_model::{UserId, event::EventClass};
use testudo_store::Expected;
use testudo_trust::base64url;

use super::{Passkey, PasskeyId, UsedChallenge};
use crate::{
    Caller, Fault, LoggedIn, LoginError, Provider,
    change::{Change, Report},
    flow::{Flow, Purpose},
    login::{Means, Proven, for_purpose},
    records::User,
    throttle::Attempt,
    webauthn::{Assertion, AssertionResponse, RelyingParty, WebauthnError},
};

/// Keeps challenges of logins apart from others.
const CHALLENGE_CONTEXT: &[u8] = b"testudo passkey login v1";

/// What a page needs for `navigator.credentials.get`: no credentials are named, so every passkey of this site may answer.
#[derive(Debug)]
pub struct PasskeyRequest {
    /// `challenge`, base64url.
    pub challenge: String,
    /// `rpId`.
    pub rp_id: String,
}

/// A login form that was sent with a passkey.
#[derive(Debug)]
pub struct PasskeyLoginRequest<'a> {
    /// The hidden field.
    pub flow: &'a str,
    /// The pre-login cookie.
    pub browser: Option<&'a str>,
    /// The session cookie the browser may still have.
    pub session: Option<&'a str>,
    /// What the authenticator answered.
    pub response: AssertionResponse<'a>,
}

/// A passkey whose answer was right.
pub(crate) struct ShownPasskey {
    id: PasskeyId,
    assertion: Assertion,
    challenge: UsedChallenge,
}

/// The same, with what must be stored so that the answer is not right again.
pub(crate) struct AcceptedPasskey {
    version: u64,
    after: Passkey,
    challenge: UsedChallenge,
}

/// A passkey that logs nobody in; for the event.
struct Refused {
    /// Whose it is, if it is known.
    user: Option<UserId>,
    why: Reason,
}

#[derive(Debug, thiserror::Error)]
enum Reason {
    #[error("{0}")]
    Response(#[from] WebauthnError),
    #[error("unknown passkey")]
    Unknown,
    #[error("user is disabled")]
    Disabled,
    #[error("the challenge was used before")]
    Challenge,
}

impl AcceptedPasskey {
    /// Uses the answer up; the change fails if somebody else did, or if the passkey is gone.
    pub(crate) fn use_up<'p>(&self, change: Change<'p>) -> Change<'p> {
        change
            .put(Expected::Absent, &self.challenge)
            .put(Expected::Version(self.version), &self.after)
    }

    /// `amr`, without `mfa`.
    pub(crate) const fn methods(&self) -> [&'static str; 2] {
        self.after.methods()
    }

    pub(crate) const fn id(&self) -> &PasskeyId {
        &self.after.id
    }
}

impl Provider {
    /// What the page of a login form needs to ask for a passkey. `None` if this provider's address is none that passkeys work
    /// at.
    pub fn passkey_request(&self, flow: &str) -> Option<PasskeyRequest> {
        let party = self.relying_party.as_ref()?;
        Some(PasskeyRequest {
            challenge: base64url::encode(&self.login_challenge(flow)),
            rp_id: party.id().to_owned(),
        })
    }

    /// Logs in whoever the passkey belongs to, and answers as [`login`](Self::login) does.
    ///
    /// # Errors
    /// See [`LoginError`]. After `WrongPasskey` and `Throttled` the same form may be sent again.
    pub fn login_with_passkey(
        &self,
        request: &PasskeyLoginRequest<'_>,
        caller: &Caller,
    ) -> Result<LoggedIn, LoginError> {
        let party = self.relying_party.as_ref();
        let party = party.ok_or(LoginError::FlowInvalid)?;
        let flow = self.open_flow(request.flow, request.browser)?;
        let attempt = Attempt::with_passkey(caller.source_ip);
        if let Err(retry_after) = self.begin_attempt(&attempt, caller)? {
            return Err(LoginError::Throttled { retry_after });
        }
        let (user, shown) = match self.check_passkey(party, request, &flow)? {
            Ok(found) => found,
            Err(refused) => {
                self.report(refusal(&flow.purpose, &refused), caller)?;
                return Err(LoginError::WrongPasskey);
            }
        };
        let proven = Proven {
            user,
            hash: None,
            rehashed: None,
        };
        let means = Means::Passkey(&shown);
        let done = self.start_session(&flow, &proven, &attempt, request.session, means, caller);
        if let Err(LoginError::WrongPasskey | LoginError::WrongCredentials) = &done {
            let report = login_report(&flow.purpose)
                .denied("used, removed or disabled meanwhile")
                .target(proven.user.username.as_str());
            self.report(report, caller)?;
            return Err(LoginError::WrongPasskey);
        }
        done
    }

    fn login_challenge(&self, flow: &str) -> [u8; 32] {
        self.flow_seal
            .authenticate(CHALLENGE_CONTEXT, flow.as_bytes())
    }

    fn check_passkey(
        &self,
        party: &RelyingParty,
        request: &PasskeyLoginRequest<'_>,
        flow: &Flow,
    ) -> Result<Result<(User, ShownPasskey), Refused>, Fault> {
        let response = request.response;
        let refused = |user, why: Reason| Ok(Err(Refused { user, why }));
        let id = match response.credential_id() {
            Ok(credential_id) => PasskeyId::of(&credential_id),
            Err(why) => return refused(None, why.into()),
        };
        let stored = self.tenant.get::<Passkey>(id.as_str())?;
        let passkey = stored.map(|stored| stored.record);
        let Some(passkey) = passkey.filter(|known| known.credential_id == response.credential_id)
        else {
            return refused(None, Reason::Unknown);
        };
        let owner = Some(passkey.user.clone());
        let challenge = self.login_challenge(request.flow);
        let used = UsedChallenge::new(&challenge, flow.expires_at);
        // Before the signature counter, which says of a repeated answer that there is a copy of the authenticator.
        if self.is_challenge_used(&used)? {
            return refused(owner, Reason::Challenge);
        }
        let public_key = base64url::decode(&passkey.public_key).unwrap_or_default();
        let known = passkey.known(&public_key);
        let assertion = match party.verify_assertion(response, &challenge, known) {
            Ok(assertion) => assertion,
            Err(why) => return refused(owner, why.into()),
        };
        let user = self.tenant.get::<User>(passkey.user.as_str())?;
        let Some(user) = user.map(|user| user.record).filter(|user| !user.disabled) else {
            return refused(owner, Reason::Disabled);
        };
        let shown = ShownPasskey {
            id,
            assertion,
            challenge: used,
        };
        Ok(Ok((user, shown)))
    }

    /// What is to be written if the answer is still right now.
    pub(crate) fn accept_passkey(
        &self,
        shown: &ShownPasskey,
    ) -> Result<Option<AcceptedPasskey>, Fault> {
        if self.is_challenge_used(&shown.challenge)? {
            return Ok(None);
        }
        let stored = self.tenant.get::<Passkey>(shown.id.as_str())?;
        let still_right =
            stored.filter(|stored| shown.assertion.goes_on_from(stored.record.sign_count));
        Ok(still_right.map(|stored| AcceptedPasskey {
            version: stored.version,
            after: Passkey {
                sign_count: shown.assertion.sign_count,
                backed_up: shown.assertion.backed_up,
                last_used_at: Some(self.clock.now()),
                ..stored.record
            },
            challenge: shown.challenge.clone(),
        }))
    }
}

fn refusal(purpose: &Purpose, refused: &Refused) -> Report {
    let report = match refused.why {
        Reason::Response(WebauthnError::SignatureCounter) => {
            Report::new(EventClass::DetectionFinding, "passkey.clone")
        }
        _ => login_report(purpose),
    };
    let report = report.denied(&refused.why.to_string());
    match &refused.user {
        Some(user) => report.target(user.as_str()),
        None => report,
    }
}

fn login_report(purpose: &Purpose) -> Report {
    let report = Report::new(EventClass::Authentication, "login.passkey");
    for_purpose(report, purpose)
}
