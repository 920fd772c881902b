//! The userinfo endpoint (OpenID Connect Core section 5.3), a resource protected by our own access tokens.

use testudo_model::{AccessTokenClaims, UserId};
use testudo_trust::constant_time_eq;

use crate::{
    ErrorCode, Fault, OauthError, Peer, Provider, UserInfo, claims,
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

impl UserInfoError {
    /// The answer on the wire.
    pub fn to_oauth(&self) -> OauthError {
        let (error, status) = match self {
            Self::InvalidToken => (ErrorCode::InvalidToken, 401),
            Self::InsufficientScope => (ErrorCode::InsufficientScope, 403),
            Self::Unavailable(fault) if fault.is_transient() => {
                (ErrorCode::TemporarilyUnavailable, 503)
            }
            Self::Unavailable(_) => (ErrorCode::ServerError, 500),
        };
        let challenge = matches!(status, 401 | 403).then(|| {
            format!(
                r#"Bearer realm="testudo", error="{}", scope="openid""#,
                error.as_str()
            )
        });
        OauthError {
            error,
            error_description: self.to_string(),
            status,
            challenge,
        }
    }
}

impl Provider {
    /// The claims of one of our access tokens that is good now: not expired, not taken back, and shown by whom it
    /// is bound to.
    ///
    /// # Errors
    /// [`UserInfoError::InvalidToken`], or our fault.
    pub fn access_token(
        &self,
        access_token: &str,
        peer: Option<&Peer>,
    ) -> Result<AccessTokenClaims, UserInfoError> {
        let claims = self.verified(access_token).map_err(|fault| match fault {
            Some(fault) => UserInfoError::Unavailable(fault),
            None => UserInfoError::InvalidToken,
        })?;
        if !is_held_by(&claims, peer) || self.is_revoked(&claims)? {
            return Err(UserInfoError::InvalidToken);
        }
        Ok(claims)
    }

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

/// Whether the sender may use the token: it is not bound, or bound to the certificate of the connection
/// (RFC 8705 section 3).
fn is_held_by(claims: &AccessTokenClaims, peer: Option<&Peer>) -> bool {
    match (&claims.cnf, peer) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(bound), Some(peer)) => {
            bound
                .certificate_thumbprint
                .as_ref()
                .is_some_and(|thumbprint| {
                    constant_time_eq(
                        thumbprint.as_bytes(),
                        peer.certificate_thumbprint.as_bytes(),
                    )
                })
        }
    }
}
