//! The way out: a browser is sent to log in elsewhere.

use serde::{Deserialize, Serialize};
use testudo_model::{Redacted, SessionId, Timestamp};
use testudo_trust::{base64url, sha256};

use super::{IdentityProvider, UpstreamMetadata};
use crate::{
    Fault, LoginError, Provider,
    flow::{Flow, Sealed},
    limits::{FLOW_LIFETIME, FRESH_LOGIN, MAX_FLOW_BYTES},
    records::Session,
    redirect_uri::with_parameters,
    secret,
};

/// Keeps nonces apart from all other MACs.
const NONCE_CONTEXT: &[u8] = b"testudo upstream nonce v1";

/// A login elsewhere that is under way; `state` is this, sealed.
#[derive(Serialize, Deserialize)]
pub(super) struct Outgoing {
    pub(super) errand: Errand,
    /// Name of the identity provider.
    pub(super) at: String,
    /// PKCE (RFC 7636).
    pub(super) verifier: String,
    pub(super) begun_at: Timestamp,
    /// How old the login there may be, in seconds.
    pub(super) max_age: Option<u64>,
    pub(super) expires_at: Timestamp,
}

impl Sealed for Outgoing {
    const CONTEXT: &'static [u8] = b"testudo upstream login v1";
}

/// What it is for.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Errand {
    /// To log in here.
    LogIn(Box<Flow>),
    /// To connect the account of who is logged in here.
    Connect {
        session: SessionId,
        /// Digest of the pre-login cookie.
        browser: String,
    },
}

impl Errand {
    /// Whether an application asked how old the login may be: then it is that, or none. Where we ask ourselves, the session says how
    /// old it is.
    pub(super) fn is_for_application(&self) -> bool {
        matches!(self, Self::LogIn(flow) if flow.purpose.request().is_some())
    }

    pub(super) fn browser(&self) -> &str {
        match self {
            Self::LogIn(flow) => &flow.browser,
            Self::Connect { browser, .. } => browser,
        }
    }
}

impl Provider {
    /// Where a browser with a login form goes to log in at the identity provider `name`, of which `metadata` is.
    ///
    /// # Errors
    /// The form is not one of this browser, or there is no such identity provider.
    pub fn begin_upstream_login(
        &self,
        name: &str,
        metadata: &UpstreamMetadata,
        flow: &str,
        browser: Option<&str>,
    ) -> Result<Redacted<String>, LoginError> {
        let flow = self.open_flow(flow, browser)?;
        // Who connects an account proves the one that is here.
        let at = self
            .identity_provider(name)
            .filter(|_| flow.connects.is_none());
        let at = at.ok_or(LoginError::FlowInvalid)?;
        let outgoing = Outgoing {
            max_age: flow.purpose.max_age(),
            expires_at: flow.expires_at,
            errand: Errand::LogIn(Box::new(flow)),
            at: at.name.clone(),
            verifier: secret::generate(&*self.entropy).into_exposed(),
            begun_at: self.clock.now(),
        };
        let location = self.upstream_location(&at, metadata, &outgoing)?;
        location.ok_or(LoginError::FlowInvalid)
    }

    /// Where the browser of `session` goes to connect its account.
    pub(super) fn connecting_location(
        &self,
        session: &Session,
        at: &IdentityProvider,
        metadata: &UpstreamMetadata,
        browser: &Redacted<String>,
    ) -> Result<Option<Redacted<String>>, Fault> {
        let now = self.clock.now();
        let outgoing = Outgoing {
            errand: Errand::Connect {
                session: session.id.clone(),
                browser: secret::digest(browser.expose()),
            },
            at: at.name.clone(),
            verifier: secret::generate(&*self.entropy).into_exposed(),
            begun_at: now,
            max_age: Some(FRESH_LOGIN.as_secs()),
            expires_at: now + FLOW_LIFETIME,
        };
        self.upstream_location(at, metadata, &outgoing)
    }

    fn upstream_location(
        &self,
        at: &IdentityProvider,
        metadata: &UpstreamMetadata,
        outgoing: &Outgoing,
    ) -> Result<Option<Redacted<String>>, Fault> {
        let state = self.flow_seal.seal(&*self.entropy, outgoing)?;
        if state.len() > MAX_FLOW_BYTES {
            return Ok(None);
        }
        let redirect_uri = self.upstream_redirect_uri(&at.name);
        let scope = at.scopes.join(" ");
        let nonce = self.upstream_nonce(outgoing);
        let challenge = base64url::encode(&sha256(outgoing.verifier.as_bytes()));
        let max_age = outgoing.max_age.map(|seconds| seconds.to_string());
        let acr_values = match &outgoing.errand {
            Errand::LogIn(flow) => at.classes_for(flow.purpose.least_class()),
            Errand::Connect { .. } => None,
        };
        let mut asked = vec![
            ("response_type", "code"),
            ("client_id", at.client_id.as_str()),
            ("redirect_uri", &redirect_uri),
            ("scope", &scope),
            ("state", &state),
            ("nonce", &nonce),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
        ];
        asked.extend(max_age.as_deref().map(|seconds| ("max_age", seconds)));
        asked.extend(acr_values.as_deref().map(|values| ("acr_values", values)));
        if outgoing.max_age == Some(0) {
            asked.push(("prompt", "login"));
        }
        let location = with_parameters(&metadata.authorization_endpoint, &asked);
        Ok(Some(Redacted::new(location)))
    }

    /// The `nonce` of a login: it follows from its verifier, which is in `state` alone.
    pub(super) fn upstream_nonce(&self, outgoing: &Outgoing) -> String {
        let verifier = outgoing.verifier.as_bytes();
        base64url::encode(&self.flow_seal.authenticate(NONCE_CONTEXT, verifier))
    }
}
