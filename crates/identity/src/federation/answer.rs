//! The way back: what the browser brings, and what the issuer is asked next.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Serialize;
use testudo_model::{Redacted, event::EventClass};
use testudo_trust::constant_time_eq;
use url::form_urlencoded::{self, byte_serialize};

use super::{
    IdentityProvider, UpstreamAuthentication, UpstreamMetadata,
    link::UsedAnswer,
    outgoing::{Errand, Outgoing},
};
use crate::{
    Caller, Fault, LoginError, Parameters, Provider,
    change::Report,
    flow::Flow,
    limits::{MAX_ASSERTION_LIFETIME, MAX_STATE_BYTES, MAX_TEXT_BYTES},
    login::for_purpose,
    secret,
    throttle::Attempt,
};

/// `typ` of what we prove ourselves with.
const ASSERTION_TYPE: &str = "JWT";

/// The answer of an issuer, as the browser brought it: of this browser, and of the issuer that was asked.
pub struct UpstreamAnswer {
    pub(super) at: Arc<IdentityProvider>,
    pub(super) outgoing: Outgoing,
    pub(super) used: UsedAnswer,
    pub(super) attempt: Attempt,
    code: Redacted<String>,
}

/// A request to a token endpoint (RFC 6749 section 4.1.3).
#[derive(Debug)]
pub struct TokenCall {
    /// Where.
    pub url: String,
    /// `Authorization`, if that is how we prove ourselves.
    pub authorization: Option<Redacted<String>>,
    /// The form, encoded.
    pub form: Redacted<String>,
}

/// Why a login elsewhere does not count.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// As of any other login.
    #[error(transparent)]
    Login(#[from] LoginError),
    /// There is no such identity provider any more.
    #[error("this identity provider is not known")]
    Unknown,
    /// It said no, or the user did.
    #[error("{label} did not log you in; try again, or log in in another way")]
    Refused {
        /// What it is called.
        label: String,
        /// The login form to show again, if there is one.
        flow: Option<String>,
    },
    /// What it said cannot be believed. What exactly is for the ledger.
    #[error("the answer of {label} cannot be accepted; try again, or log in in another way")]
    NotAccepted {
        /// What it is called.
        label: String,
        /// The login form to show again, if there is one.
        flow: Option<String>,
    },
    /// More is needed than a login there, and the user has a passkey for it.
    #[error("a login at {label} is not enough here: log in with your passkey")]
    NotEnough {
        /// What it is called.
        label: String,
        /// The login form to show again.
        flow: Option<String>,
    },
    /// It is signed with a key that is not there: it may be new.
    #[error("the key of the answer is not known")]
    UnknownKey,
    /// The account there is connected to another one here.
    #[error("this account of {label} is connected to another account here")]
    Taken {
        /// What it is called.
        label: String,
    },
    /// Too many.
    #[error("there are too many connected accounts; remove one first")]
    TooMany,
}

impl From<Fault> for UpstreamError {
    fn from(fault: Fault) -> Self {
        Self::Login(fault.into())
    }
}

impl UpstreamError {
    /// HTTP status of the answer.
    pub const fn status(&self) -> u16 {
        match self {
            Self::Login(error) => error.status(),
            Self::Unknown => 404,
            Self::Refused { .. }
            | Self::NotAccepted { .. }
            | Self::NotEnough { .. }
            | Self::UnknownKey => 401,
            Self::Taken { .. } | Self::TooMany => 409,
        }
    }
}

/// What we prove ourselves with (RFC 7523 section 3).
#[derive(Serialize)]
struct Assertion<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: &'a str,
    jti: &'a str,
    iat: i64,
    exp: i64,
}

impl UpstreamAnswer {
    /// The identity provider.
    pub fn at(&self) -> &IdentityProvider {
        &self.at
    }
}

impl Provider {
    /// Takes what a browser brought back from the identity provider `name` (RFC 6749 section 4.1.2, RFC 9207).
    ///
    /// # Errors
    /// See [`UpstreamError`].
    pub fn receive_upstream_answer(
        &self,
        name: &str,
        metadata: &UpstreamMetadata,
        parameters: &Parameters,
        browser: Option<&str>,
        caller: &Caller,
    ) -> Result<UpstreamAnswer, UpstreamError> {
        let at = self.identity_provider(name).ok_or(UpstreamError::Unknown)?;
        let state = parameters.get("state").unwrap_or("");
        let outgoing: Option<Outgoing> = self.flow_seal.unseal(state);
        let outgoing = outgoing.ok_or(LoginError::FlowInvalid)?;
        if self.clock.now() > outgoing.expires_at {
            return Err(LoginError::FlowExpired.into());
        }
        let here = secret::digest(browser.unwrap_or(""));
        if !constant_time_eq(here.as_bytes(), outgoing.errand.browser().as_bytes()) {
            return Err(LoginError::OtherBrowser.into());
        }
        if let Errand::LogIn(flow) = &outgoing.errand {
            self.check_flow(flow, browser)?;
        }
        let used = UsedAnswer::new(state, outgoing.expires_at);
        if self.is_answer_used(&used)? {
            return Err(LoginError::FlowUsed.into());
        }
        let attempt = Attempt::elsewhere(caller.source_ip);
        if let Err(retry_after) = self.begin_attempt(&attempt, caller)? {
            return Err(LoginError::Throttled { retry_after }.into());
        }
        if let Some(why) = self.mix_up(&at, metadata, parameters, &outgoing) {
            return Err(self.not_accepted(&at, &outgoing, why, caller)?);
        }
        if let Some(error) = parameters.get("error") {
            let said: String = error.chars().take(MAX_TEXT_BYTES).collect();
            let report = refusal(&at, &outgoing, "the identity provider said no");
            self.report_refusal(report.detail("error", said), caller)?;
            return Err(UpstreamError::Refused {
                label: at.label.clone(),
                flow: self.form_again(&outgoing)?,
            });
        }
        let code = parameters.get("code").unwrap_or("");
        if code.is_empty() || code.len() > MAX_STATE_BYTES {
            return Err(self.not_accepted(&at, &outgoing, "there is no code", caller)?);
        }
        Ok(UpstreamAnswer {
            code: Redacted::new(code.to_owned()),
            at,
            outgoing,
            used,
            attempt,
        })
    }

    /// What says that the answer is not of who was asked (RFC 9700 section 4.4).
    fn mix_up(
        &self,
        at: &IdentityProvider,
        metadata: &UpstreamMetadata,
        parameters: &Parameters,
        outgoing: &Outgoing,
    ) -> Option<&'static str> {
        let repeated = ["state", "code", "iss", "error"];
        if repeated
            .into_iter()
            .any(|name| parameters.is_repeated(name))
        {
            return Some("a parameter of the answer is repeated");
        }
        if outgoing.at != at.name {
            return Some("the answer came from another identity provider than was asked");
        }
        match parameters.get("iss") {
            Some(issuer) if issuer != at.issuer => Some("the answer is of another issuer"),
            None if metadata.names_itself => Some("the answer does not say whose it is"),
            _ => None,
        }
    }

    /// How the code is redeemed.
    ///
    /// # Errors
    /// The signing keys cannot be used.
    pub fn upstream_token_call(
        &self,
        answer: &UpstreamAnswer,
        metadata: &UpstreamMetadata,
    ) -> Result<TokenCall, Fault> {
        let at = &answer.at;
        let redirect_uri = self.upstream_redirect_uri(&at.name);
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "authorization_code")
            .append_pair("code", answer.code.expose())
            .append_pair("redirect_uri", &redirect_uri)
            .append_pair("code_verifier", &answer.outgoing.verifier);
        let mut authorization = None;
        match &at.authentication {
            UpstreamAuthentication::SecretBasic(secret) => {
                authorization = Some(basic(&at.client_id, secret));
            }
            UpstreamAuthentication::SecretPost(secret) => {
                form.append_pair("client_id", &at.client_id)
                    .append_pair("client_secret", secret.expose());
            }
            UpstreamAuthentication::PrivateKeyJwt => {
                form.append_pair("client_id", &at.client_id)
                    .append_pair(
                        "client_assertion_type",
                        "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
                    )
                    .append_pair("client_assertion", &self.assertion_for(at)?);
            }
        }
        Ok(TokenCall {
            url: metadata.token_endpoint.clone(),
            authorization,
            form: Redacted::new(form.finish()),
        })
    }

    /// Its audience is the issuer alone: at another one it is worth nothing.
    fn assertion_for(&self, at: &IdentityProvider) -> Result<String, Fault> {
        let now = self.clock.now();
        let claims = Assertion {
            iss: &at.client_id,
            sub: &at.client_id,
            aud: &at.issuer,
            jti: &secret::generate(&*self.entropy).into_exposed(),
            iat: now.unix_seconds(),
            exp: (now + MAX_ASSERTION_LIFETIME).unix_seconds(),
        };
        let keys = self.signing_keys()?;
        let signed = keys.current.sign_jwt(ASSERTION_TYPE, &claims);
        signed.map_err(Fault::Sign)
    }

    /// Records why an answer is not believed.
    pub(super) fn not_accepted(
        &self,
        at: &IdentityProvider,
        outgoing: &Outgoing,
        why: &str,
        caller: &Caller,
    ) -> Result<UpstreamError, Fault> {
        self.report_refusal(refusal(at, outgoing, why), caller)?;
        Ok(UpstreamError::NotAccepted {
            label: at.label.clone(),
            flow: self.form_again(outgoing)?,
        })
    }

    /// The same for what `controlplane` found when it asked.
    ///
    /// # Errors
    /// The store fails.
    pub fn upstream_failed(
        &self,
        answer: &UpstreamAnswer,
        why: &str,
        caller: &Caller,
    ) -> Result<UpstreamError, Fault> {
        self.not_accepted(&answer.at, &answer.outgoing, why, caller)
    }

    /// The login form that the user came from.
    pub(super) fn form_again(&self, outgoing: &Outgoing) -> Result<Option<String>, Fault> {
        let reseal = |flow: &Flow| self.flow_seal.seal(&*self.entropy, flow);
        match &outgoing.errand {
            Errand::LogIn(flow) => reseal(flow).map(Some),
            Errand::Connect { .. } => Ok(None),
        }
    }
}

/// The event of a login elsewhere that did not count.
pub(super) fn refusal(at: &IdentityProvider, outgoing: &Outgoing, why: &str) -> Report {
    let report = Report::new(EventClass::Authentication, "login.upstream")
        .denied(why)
        .detail("upstream", at.name.as_str());
    match &outgoing.errand {
        Errand::LogIn(flow) => for_purpose(report, &flow.purpose),
        Errand::Connect { session, .. } => report.session(session),
    }
}

/// RFC 6749 section 2.3.1: both parts are form-encoded first.
fn basic(client_id: &str, secret: &Redacted<String>) -> Redacted<String> {
    let encoded = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
    let pair = format!("{}:{}", encoded(client_id), encoded(secret.expose()));
    Redacted::new(format!("Basic {}", STANDARD.encode(pair)))
}
