//! The userinfo endpoint (OpenID Connect Core section 5.3), a resource protected by our own access tokens.

use serde::Serialize;
use testudo_model::{AccessTokenClaims, Redacted, UserId};

use crate::{
    AccessTokenError, DpopError, ErrorCode, Fault, OauthError, PresentedToken, Provider, Standing,
    UserInfo,
    claims::{self, Memberships},
    dpop,
    records::User,
    scopes::{self, OPENID, ScopeSet},
};

/// `typ` of a signed answer. It has no `exp` and no `at_hash`, so that nobody takes it for an ID token.
const SIGNED_USER_INFO_TYPE: &str = "JWT";

/// Claims about a user, in the form that the client has registered.
#[derive(Debug)]
pub enum UserInfoAnswer {
    /// As JSON.
    Plain(UserInfo),
    /// As a JWT.
    Signed(Redacted<String>),
}

/// A signed answer (OpenID Connect Core section 5.3.2).
#[derive(Serialize)]
struct SignedUserInfo<'a> {
    iss: &'a str,
    aud: &'a str,
    iat: i64,
    #[serde(flatten)]
    answer: UserInfo,
}

/// Why there is no userinfo (RFC 6750 section 3.1).
#[derive(Debug, thiserror::Error)]
pub enum UserInfoError {
    /// Forged, expired, taken back, bound to another certificate, or of a user who is disabled or gone.
    #[error("the access token is invalid, expired or revoked")]
    InvalidToken,
    /// The DPoP proof beside it proves nothing.
    #[error(transparent)]
    Dpop(DpopError),
    /// A token in the header and one in the form (RFC 6750 section 2).
    #[error("send the access token in the Authorization header or in the form, not in both")]
    TwoTokens,
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
            AccessTokenError::Dpop(error) => Self::Dpop(error),
            AccessTokenError::Unavailable(fault) => Self::Unavailable(fault),
        }
    }
}

impl UserInfoError {
    /// The answer on the wire.
    pub fn to_oauth(&self) -> OauthError {
        let (error, status) = match self {
            Self::Dpop(error) => return error.to_challenge(),
            Self::TwoTokens => (ErrorCode::InvalidRequest, 400),
            Self::InvalidToken => (ErrorCode::InvalidToken, 401),
            Self::InsufficientScope => (ErrorCode::InsufficientScope, 403),
            Self::Unavailable(fault) => return OauthError::of_fault(fault, self),
        };
        // Either way is open to whoever asks again (RFC 9449 section 7.2).
        let challenge = format!(
            r#"Bearer realm="testudo", error="{}", scope="openid", {}"#,
            error.as_str(),
            dpop::challenge(error)
        );
        OauthError {
            challenge: Some(challenge),
            ..OauthError::new(error, status, self)
        }
    }
}

impl Provider {
    /// Claims about the user of an access token, in the form that its client has registered.
    ///
    /// # Errors
    /// See [`UserInfoError`].
    pub fn user_info_answer(
        &self,
        presented: PresentedToken<'_>,
    ) -> Result<UserInfoAnswer, UserInfoError> {
        let claims = self.access_token(presented)?;
        let answer = self.user_info_of(&claims)?;
        let client = self.client_named(&claims.client_id)?;
        let algorithm = client.and_then(|client| client.signing.userinfo_signed_response_alg);
        let Some(algorithm) = algorithm else {
            return Ok(UserInfoAnswer::Plain(answer));
        };
        let signed = SignedUserInfo {
            iss: &self.settings.issuer,
            aud: &claims.client_id,
            iat: self.clock.now().unix_seconds(),
            answer,
        };
        let token = self.sign_told(algorithm, SIGNED_USER_INFO_TYPE, &signed)?;
        Ok(UserInfoAnswer::Signed(Redacted::new(token)))
    }

    /// Claims about the user of an access token.
    ///
    /// # Errors
    /// See [`UserInfoError`].
    pub fn user_info(&self, presented: PresentedToken<'_>) -> Result<UserInfo, UserInfoError> {
        let claims = self.access_token(presented)?;
        self.user_info_of(&claims)
    }

    fn user_info_of(&self, claims: &AccessTokenClaims) -> Result<UserInfo, UserInfoError> {
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
        let user = user.ok_or(UserInfoError::InvalidToken)?;
        let memberships = self.memberships_of(&user.id, &granted)?;
        Ok(claims::user_info(&user, memberships, &granted))
    }

    /// Groups and roles of a user, as far as they were asked for.
    pub(crate) fn memberships_of(
        &self,
        user: &UserId,
        granted: &ScopeSet,
    ) -> Result<Memberships, Fault> {
        if !Memberships::are_in(granted) {
            return Ok(Memberships::default());
        }
        let standing = match self.tenant.get::<User>(user.as_str())? {
            Some(stored) => self.standing_of(&stored.record.roles, &stored.record.groups)?,
            None => Standing::default(),
        };
        Ok(Memberships::of(standing, granted))
    }
}
