//! Error codes of the protocols, and the error answer all endpoints share.

use serde::{Serialize, Serializer};

use crate::Fault;

/// An error code as registered with IANA ("OAuth Extensions Error Registry").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// RFC 6749 section 4.1.2.1.
    AccessDenied,
    /// RFC 8628 section 3.5.
    AuthorizationPending,
    /// OpenID Connect Core 1.0 section 3.1.2.6.
    ConsentRequired,
    /// RFC 8628 section 3.5.
    ExpiredToken,
    /// RFC 6750 section 3.1.
    InsufficientScope,
    /// RFC 6749 section 5.2.
    InvalidClient,
    /// RFC 7591 section 3.2.2.
    InvalidClientMetadata,
    /// RFC 9449 section 5.
    InvalidDpopProof,
    /// RFC 6749 section 5.2.
    InvalidGrant,
    /// RFC 7591 section 3.2.2.
    InvalidRedirectUri,
    /// RFC 6749 section 5.2.
    InvalidRequest,
    /// RFC 9101 section 7.
    InvalidRequestObject,
    /// RFC 6749 section 5.2.
    InvalidScope,
    /// RFC 8707 section 2.
    InvalidTarget,
    /// RFC 6750 section 3.1.
    InvalidToken,
    /// OpenID Connect Core 1.0 section 3.1.2.6.
    LoginRequired,
    /// OpenID Connect Core 1.0 section 3.1.2.6.
    RegistrationNotSupported,
    /// OpenID Connect Core 1.0 section 3.1.2.6.
    RequestUriNotSupported,
    /// RFC 6749 section 4.1.2.1.
    ServerError,
    /// RFC 8628 section 3.5.
    SlowDown,
    /// RFC 6749 section 4.1.2.1.
    TemporarilyUnavailable,
    /// RFC 6749 section 5.2.
    UnauthorizedClient,
    /// RFC 6749 section 5.2.
    UnsupportedGrantType,
    /// RFC 6749 section 4.1.2.1.
    UnsupportedResponseType,
    /// OpenID Connect Core Error Code unmet_authentication_requirements 1.0.
    UnmetAuthenticationRequirements,
    /// RFC 9449 section 8.
    UseDpopNonce,
}

impl ErrorCode {
    /// The code on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AccessDenied => "access_denied",
            Self::AuthorizationPending => "authorization_pending",
            Self::ConsentRequired => "consent_required",
            Self::ExpiredToken => "expired_token",
            Self::InsufficientScope => "insufficient_scope",
            Self::InvalidClient => "invalid_client",
            Self::InvalidClientMetadata => "invalid_client_metadata",
            Self::InvalidDpopProof => "invalid_dpop_proof",
            Self::InvalidGrant => "invalid_grant",
            Self::InvalidRedirectUri => "invalid_redirect_uri",
            Self::InvalidRequest => "invalid_request",
            Self::InvalidRequestObject => "invalid_request_object",
            Self::InvalidScope => "invalid_scope",
            Self::InvalidTarget => "invalid_target",
            Self::InvalidToken => "invalid_token",
            Self::LoginRequired => "login_required",
            Self::RegistrationNotSupported => "registration_not_supported",
            Self::RequestUriNotSupported => "request_uri_not_supported",
            Self::ServerError => "server_error",
            Self::SlowDown => "slow_down",
            Self::TemporarilyUnavailable => "temporarily_unavailable",
            Self::UnauthorizedClient => "unauthorized_client",
            Self::UnsupportedGrantType => "unsupported_grant_type",
            Self::UnsupportedResponseType => "unsupported_response_type",
            Self::UnmetAuthenticationRequirements => "unmet_authentication_requirements",
            Self::UseDpopNonce => "use_dpop_nonce",
        }
    }
}

impl Serialize for ErrorCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// Body and status of an OAuth error answer (RFC 6749 section 5.2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OauthError {
    /// The code.
    pub error: ErrorCode,
    /// Public text for the client's developer.
    pub error_description: String,
    /// HTTP status.
    #[serde(skip)]
    pub status: u16,
    /// Value of `WWW-Authenticate`, where the status needs one.
    #[serde(skip)]
    pub challenge: Option<String>,
    /// Value of `DPoP-Nonce`, where the client shall try again with it (RFC 9449 section 8).
    #[serde(skip)]
    pub dpop_nonce: Option<String>,
}

impl OauthError {
    /// An answer without a challenge.
    pub(crate) fn new(error: ErrorCode, status: u16, why: &impl ToString) -> Self {
        Self {
            error,
            error_description: why.to_string(),
            status,
            challenge: None,
            dpop_nonce: None,
        }
    }

    /// The answer to a request that failed because of us.
    pub(crate) fn of_fault(fault: &Fault, why: &impl ToString) -> Self {
        let error = if fault.is_transient() {
            ErrorCode::TemporarilyUnavailable
        } else {
            ErrorCode::ServerError
        };
        Self::new(error, fault.status(), why)
    }
}
