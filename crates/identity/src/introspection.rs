//! The introspection endpoint (RFC 7662): what a client or a service of the fleet may know of a token it holds.
//!
//! A token is told about to the client it was issued to, and an access token also to whoever it is meant for: the
//! workloads of the fleet, which prove themselves with their certificate. For everybody else every token is as
//! inactive as one that never was, so that nothing can be learned by asking (section 4).

use serde::Serialize;
use serde_json::json;
use testudo_model::{AccessTokenClaims, SessionId};

use crate::{
    AccessTokenError, Caller, ErrorCode, Fault, OauthError, Provider,
    records::Grant,
    scopes,
    token::{
        AuthenticatedClient, ClientAuthenticationError, ClientHolder, RefreshToken, TokenRequest,
        TokenType,
    },
};

/// `typ` of a signed answer (RFC 9701 section 5).
const SIGNED_INTROSPECTION_TYPE: &str = "token-introspection+jwt";

/// The answer (RFC 7662 section 2.2). Send it with `Cache-Control: no-store`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Introspection {
    /// Whether the token is good now, and for who asks to know.
    pub active: bool,
    /// What it says, if it is.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub token: Option<ActiveToken>,
}

/// An active token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum ActiveToken {
    /// An access token, with all its claims.
    Access {
        /// How it is presented.
        token_type: TokenType,
        /// What it says.
        #[serde(flatten)]
        claims: Box<AccessTokenClaims>,
    },
    /// A refresh token.
    Refresh {
        /// Issuer.
        iss: String,
        /// The user who granted.
        sub: String,
        /// The client it was given to.
        client_id: String,
        /// Space-separated scopes of the grant.
        scope: String,
        /// When the grant was made, seconds since the epoch.
        iat: i64,
        /// When it ends if it is not used, seconds since the epoch.
        exp: i64,
        /// The session at the client.
        sid: SessionId,
    },
}

impl Introspection {
    const INACTIVE: Self = Self {
        active: false,
        token: None,
    };

    const fn active(token: ActiveToken) -> Self {
        Self {
            active: true,
            token: Some(token),
        }
    }
}

/// Why an introspection request is refused. A token that says nothing to who asks is no reason.
#[derive(Debug, thiserror::Error)]
pub enum IntrospectError {
    /// `token` is not there, or a parameter is repeated.
    #[error("send exactly one `token`")]
    Token,
    /// The client did not prove who it is. A public client cannot.
    #[error(transparent)]
    Client(#[from] ClientAuthenticationError),
    /// Our fault.
    #[error("the token could not be looked at")]
    Unavailable(#[from] Fault),
}

impl IntrospectError {
    /// The answer on the wire.
    pub fn to_oauth(&self) -> OauthError {
        match self {
            Self::Client(error) => error.to_oauth(),
            Self::Token => OauthError::new(ErrorCode::InvalidRequest, 400, self),
            Self::Unavailable(fault) => OauthError::of_fault(fault, self),
        }
    }
}

impl Provider {
    /// Handles a request of the introspection endpoint.
    ///
    /// It costs an Argon2 hash if [`costs_a_hash`](Self::costs_a_hash) says so.
    ///
    /// # Errors
    /// See [`IntrospectError`].
    pub fn introspect(
        &self,
        request: &TokenRequest<'_>,
        caller: &Caller,
    ) -> Result<Introspection, IntrospectError> {
        Ok(self.introspect_for(request, caller)?.0)
    }

    /// The same as a JWT that we have signed (RFC 9701), which its receiver can keep as evidence: it says to whom we
    /// said it, and when.
    ///
    /// # Errors
    /// See [`IntrospectError`].
    pub fn introspect_signed(
        &self,
        request: &TokenRequest<'_>,
        caller: &Caller,
    ) -> Result<String, IntrospectError> {
        let (introspection, client) = self.introspect_for(request, caller)?;
        // No `sub` and no `exp`: it shall not be taken for an access token (section 8.1).
        let claims = json!({
            "iss": self.settings.issuer,
            "aud": client.name(),
            "iat": self.clock.now().unix_seconds(),
            "token_introspection": introspection,
        });
        let keys = self.signing_keys()?;
        let signed = keys.current.sign_jwt(SIGNED_INTROSPECTION_TYPE, &claims);
        Ok(signed.map_err(Fault::Sign)?)
    }

    fn introspect_for(
        &self,
        request: &TokenRequest<'_>,
        caller: &Caller,
    ) -> Result<(Introspection, AuthenticatedClient), IntrospectError> {
        if request.parameters.first_repeated().is_some() {
            return Err(IntrospectError::Token);
        }
        let token = request.parameters.get("token");
        let token = token.ok_or(IntrospectError::Token)?;
        let client = self.authenticate_confidential("token.introspect", request, caller)?;
        let active = match token.parse::<RefreshToken>() {
            Ok(refresh_token) => self.active_refresh_token(&refresh_token, &client)?,
            Err(_) => self.active_access_token(token, &client)?,
        };
        let introspection = active.map_or(Introspection::INACTIVE, Introspection::active);
        Ok((introspection, client))
    }

    fn active_access_token(
        &self,
        token: &str,
        client: &AuthenticatedClient,
    ) -> Result<Option<ActiveToken>, Fault> {
        let claims = match self.signed_claims(token) {
            Ok(claims) => claims,
            Err(AccessTokenError::Unavailable(fault)) => return Err(fault),
            Err(_) => return Ok(None),
        };
        let is_theirs = claims.client_id == client.name().as_str() || client.is_in_fleet();
        if !is_theirs || self.is_revoked(&claims)? {
            return Ok(None);
        }
        Ok(Some(ActiveToken::Access {
            token_type: TokenType::of(&claims),
            claims: Box::new(claims),
        }))
    }

    /// Only the one token of a grant that is valid is active. One that came before it harms nothing here: who asks
    /// has proved to be the client it was given to.
    fn active_refresh_token(
        &self,
        token: &RefreshToken,
        client: &AuthenticatedClient,
    ) -> Result<Option<ActiveToken>, Fault> {
        let ClientHolder::Client(registered) = &client.holder else {
            return Ok(None);
        };
        let stored = self.tenant.get::<Grant>(token.grant().as_str())?;
        let own = |grant: &Grant| {
            token.is_genuine(grant) && token.is_current(grant) && grant.belongs_to(registered)
        };
        let Some(grant) = stored.map(|stored| stored.record).filter(own) else {
            return Ok(None);
        };
        Ok(self.is_alive(&grant)?.then(|| ActiveToken::Refresh {
            iss: self.settings.issuer.clone(),
            sub: grant.user.to_string(),
            client_id: grant.client_id.to_string(),
            scope: scopes::join(&grant.scopes),
            iat: grant.created_at.unix_seconds(),
            exp: grant.expires_at.unix_seconds(),
            sid: grant.id,
        }))
    }
}
