//! The userinfo endpoint (OpenID Connect Core section 5.3), a resource protected by our own access tokens.

use testudo_model::UserId;

use crate::{
    AccessTokenError, ErrorCode, Fault, OauthError, Peer, Provider, UserInfo, claims,
    records::User,
    scopes::{self, OPENID},
};

/// Why there is no userinfo (RFC 6750 section 3.1).
#[derive(Debug, thiserror::Error)]
pub enum UserInfoError {
    /// Forged, expired, taken back, bound to another certificate, or of a user who is disabled or gone.
    #[error("the access token is invalid, expired or revoked")]
    InvalidToken,
    /// The token does not have the scope `openid`.
    #[error("the access token lacks the scope openid")]
    InsufficientScope,
    /// Our fault.
    #[error("userinfo could not be read")]
    Unavailable(#[from] Fault),
}

impl From<AccessTokenError> for UserInfoError {
    fn from(error: AccessTokenError) -> Self {
        match error {
            AccessTokenError::Invalid => Self::InvalidToken,
            AccessTokenError::Unavailable(fault) => Self::Unavailable(fault),
        }
    }
}

impl UserInfoError {
    /// The answer on the wire.
    pub fn to_oauth(&self) -> OauthError {
        let (error, status) = match self {
            Self::InvalidToken => (ErrorCode::InvalidToken, 401),
            Self::InsufficientScope => (ErrorCode::InsufficientScope, 403),
            Self::Unavailable(fault) => return OauthError::of_fault(fault, self),
        };
        let challenge = format!(
            r#"Bearer realm="testudo", error="{}", scope="openid""#,
            error.as_str()
        );
        OauthError {
            challenge: Some(challenge),
            ..OauthError::new(error, status, self)
        }
    }
}

impl Provider {
    /// Claims about the user of an access token. `peer` is the workload on the other side of the connection:
    /// a bound token is of use to nobody else.
    ///
    /// # Errors
    /// See [`UserInfoError`].
    pub fn user_info(
        &self,
        access_token: &str,
        peer: Option<&Peer>,
    ) -> Result<UserInfo, UserInfoError> {
        let claims = self.access_token(access_token, peer)?;
        let granted = scopes::parse(&claims.scope).ok_or(UserInfoError::InvalidToken)?;
        if !scopes::has(&granted, OPENID) {
            return Err(UserInfoError::InsufficientScope);
        }
        let id = claims
            .sub
            .parse::<UserId>()
            .map_err(|_| UserInfoError::InvalidToken)?;
        let user = self.tenant.get::<User>(id.as_str()).map_err(Fault::from)?;
        let user = user.map(|user| user.record).filter(|user| !user.disabled);
        Ok(claims::user_info(
            &user.ok_or(UserInfoError::InvalidToken)?,
            &granted,
        ))
    }
}
