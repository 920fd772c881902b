//! Who may receive signals, and how they prove it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use testudo_model::{ServiceAccountId, StreamId};
use testudo_store::Versioned;

use super::SignalStream;
use crate::{
    AccessTokenError, DpopError, ErrorCode, Fault, OauthError, PresentedToken, Provider, dpop,
    limits::{MAX_FORM_BYTES, SIGNAL_VERIFICATION_INTERVAL},
    records::{ServiceAccount, SignatureAlgorithm},
    scopes::{SSF_MANAGE, SSF_READ},
};

/// That a service account may receive signals, and how it wants them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SignalReceiver {
    /// How its tokens are signed. The CAEP interoperability profile demands RS256.
    pub signed_response_alg: SignatureAlgorithm,
    /// The `aud` of its tokens; its client id if absent.
    pub audience: Option<String>,
}

impl Default for SignalReceiver {
    fn default() -> Self {
        Self {
            signed_response_alg: SignatureAlgorithm::Rs256,
            audience: None,
        }
    }
}

/// What a request of a receiver does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReceiverRight {
    /// It looks, or fetches signals: scope `ssf.read`, or `ssf.manage`.
    Read,
    /// It changes a stream: scope `ssf.manage`.
    Manage,
}

/// A receiver that has proved who it is.
#[derive(Debug, Clone)]
pub struct Receiver {
    pub(super) account: ServiceAccountId,
    pub(super) client_id: String,
    pub(super) settings: SignalReceiver,
}

impl Receiver {
    /// The `aud` of its tokens.
    pub(super) fn audience(&self) -> &str {
        let own = self.settings.audience.as_deref();
        own.unwrap_or(&self.client_id)
    }

    fn of(account: ServiceAccount) -> Option<Self> {
        let settings = account.signals.filter(|_| !account.disabled)?;
        Some(Self {
            account: account.id,
            client_id: account.name.to_string(),
            settings,
        })
    }
}

/// Why a receiver is not served (SSF 1.0 section 8.1, RFC 6750 section 3.1).
#[derive(Debug, thiserror::Error)]
pub enum SignalError {
    /// Forged, expired, taken back, or bound to something else.
    #[error("the access token is missing, invalid, expired or revoked")]
    InvalidToken,
    /// The DPoP proof beside it proves nothing.
    #[error(transparent)]
    Dpop(DpopError),
    /// The token does not have the scope.
    #[error("the access token lacks the scope {0}")]
    InsufficientScope(&'static str),
    /// It is of a user, or of a service account that is not to receive.
    #[error("only a service account with `signals` in its description may receive signals")]
    NoReceiver,
    /// The request says nothing that can be done.
    #[error("{0}")]
    Invalid(String),
    /// There is no such stream of this receiver.
    #[error("there is no such stream")]
    NoStream,
    /// As many as allowed.
    #[error("there are as many streams as allowed; use or delete one of them")]
    TooManyStreams,
    /// An administrator did.
    #[error("an administrator has disabled this stream")]
    DisabledByAdministrator,
    /// So shortly after the last one.
    #[error("a stream is verified once in {} seconds", SIGNAL_VERIFICATION_INTERVAL.as_secs())]
    TooSoon,
    /// Our fault.
    #[error("the request could not be handled")]
    Unavailable(#[from] Fault),
}

impl From<AccessTokenError> for SignalError {
    fn from(error: AccessTokenError) -> Self {
        match error {
            AccessTokenError::Invalid => Self::InvalidToken,
            AccessTokenError::Dpop(error) => Self::Dpop(error),
            AccessTokenError::Unavailable(fault) => Self::Unavailable(fault),
        }
    }
}

impl SignalError {
    pub(super) fn invalid(why: impl Into<String>) -> Self {
        Self::Invalid(why.into())
    }

    /// The answer on the wire. The statuses are those of SSF 1.0 section 8.1.
    pub fn to_oauth(&self) -> OauthError {
        let (error, status) = match self {
            Self::Dpop(error) => return error.to_challenge(),
            Self::Unavailable(fault) => return OauthError::of_fault(fault, self),
            Self::InvalidToken => (ErrorCode::InvalidToken, 401),
            Self::InsufficientScope(_) => (ErrorCode::InsufficientScope, 403),
            Self::NoReceiver | Self::DisabledByAdministrator => (ErrorCode::AccessDenied, 403),
            Self::Invalid(_) => (ErrorCode::InvalidRequest, 400),
            Self::NoStream => (ErrorCode::InvalidRequest, 404),
            Self::TooManyStreams => (ErrorCode::InvalidRequest, 409),
            Self::TooSoon => (ErrorCode::SlowDown, 429),
        };
        let scope = match self {
            Self::InsufficientScope(scope) => scope,
            _ => SSF_MANAGE,
        };
        let challenge = matches!(status, 401 | 403).then(|| {
            format!(
                r#"Bearer realm="testudo", error="{}", scope="{scope}", {}"#,
                error.as_str(),
                dpop::challenge(error)
            )
        });
        OauthError {
            challenge,
            ..OauthError::new(error, status, self)
        }
    }
}

impl Provider {
    /// The receiver that an access token is of, if it may do this.
    ///
    /// # Errors
    /// It may not; see [`SignalError`].
    pub fn signal_receiver(
        &self,
        presented: PresentedToken<'_>,
        right: ReceiverRight,
    ) -> Result<Receiver, SignalError> {
        let claims = self.access_token(presented)?;
        let has = |wanted: &str| claims.scope.split(' ').any(|scope| scope == wanted);
        let may = match right {
            ReceiverRight::Read => has(SSF_READ) || has(SSF_MANAGE),
            ReceiverRight::Manage => has(SSF_MANAGE),
        };
        if !may {
            return Err(SignalError::InsufficientScope(match right {
                ReceiverRight::Read => SSF_READ,
                ReceiverRight::Manage => SSF_MANAGE,
            }));
        }
        // A token of a user, however it came to these scopes, is no receiver's; nor is one that somebody exchanged.
        let account = claims.sub.parse::<ServiceAccountId>();
        let account = account.map_err(|_| SignalError::NoReceiver)?;
        if claims.act.is_some() {
            return Err(SignalError::NoReceiver);
        }
        self.entitled(&account)?.ok_or(SignalError::NoReceiver)
    }

    /// The receiver that a service account is, if it is one now.
    pub(super) fn entitled(&self, account: &ServiceAccountId) -> Result<Option<Receiver>, Fault> {
        let stored = self.tenant.get::<ServiceAccount>(account.as_str())?;
        Ok(stored.and_then(|stored| Receiver::of(stored.record)))
    }

    /// A stream of `receiver`. That another has one of this name is not said.
    pub(super) fn stream_of(
        &self,
        receiver: &Receiver,
        id: &str,
    ) -> Result<Versioned<SignalStream>, SignalError> {
        let id: StreamId = id.parse().map_err(|_| SignalError::NoStream)?;
        let stored = self.tenant.get::<SignalStream>(id.as_str());
        let own = |stored: &Versioned<SignalStream>| stored.record.receiver == receiver.account;
        let stored = stored.map_err(Fault::from)?.filter(own);
        stored.ok_or(SignalError::NoStream)
    }
}

/// The JSON object of a request.
pub(super) fn object(body: &[u8]) -> Result<Map<String, Value>, SignalError> {
    if body.len() > MAX_FORM_BYTES {
        return Err(SignalError::invalid("the request is too large"));
    }
    serde_json::from_slice(body)
        .map_err(|error| SignalError::invalid(format!("the body is no JSON object: {error}")))
}

/// A text in a request; absent if it is `null`.
pub(super) fn text<'v>(
    object: &'v Map<String, Value>,
    name: &str,
    longest: usize,
) -> Result<Option<&'v str>, SignalError> {
    match object.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.len() <= longest => Ok(Some(text)),
        Some(Value::String(_)) => Err(SignalError::invalid(format!(
            "`{name}` is longer than {longest} bytes"
        ))),
        Some(_) => Err(SignalError::invalid(format!("`{name}` must be a string"))),
    }
}

/// The `stream_id` of a request.
pub(super) fn stream_id(object: &Map<String, Value>) -> Result<&str, SignalError> {
    text(object, "stream_id", 64)?.ok_or_else(|| SignalError::invalid("`stream_id` is missing"))
}
