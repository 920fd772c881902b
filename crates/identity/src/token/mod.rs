//! The token endpoint (RFC 6749 section 3.2): one file per grant.

mod authorization_code;
mod client_assertion;
mod client_authentication;
mod client_credentials;
mod device_code;
mod external_assertion;
mod failed_proofs;
mod refresh_token;
mod sender;
mod token_exchange;

use std::fmt;

use serde::Serialize;
use testudo_model::{
    ACCESS_TOKEN_TYPE, AccessTokenClaims, Confirmation, TokenId, UserId, event::EventClass,
    limits::ACCESS_TOKEN_LIFETIME,
};

use crate::{
    Caller, DpopError, ErrorCode, Fault, OauthError, Parameters, Peer, ProofTarget, Provider,
    change::Report,
    claims::{self, AccessTokenFacts, ID_TOKEN_TYPE, IdTokenFacts},
    discovery::paths,
    records::{Authentication, Grant, GrantType},
    scopes::{self, OPENID, ScopeSet},
};

pub(crate) use client_assertion::UsedAssertions;
pub use client_authentication::ClientAuthenticationError;
pub(crate) use client_authentication::{AuthenticatedClient, ClientHolder};
pub(crate) use failed_proofs::FailedProofs;
pub(crate) use refresh_token::RefreshToken;
pub(crate) use sender::SenderKey;
pub use token_exchange::{ExchangeError, ExchangePolicy, ExchangeQuestion};

/// What a user has granted, and how they had proved who they are.
struct GrantBasis<'a> {
    user: &'a UserId,
    scopes: &'a ScopeSet,
    authentication: &'a Authentication,
}

/// A request that a client authenticates: at the token, revocation, introspection or pushed authorization request
/// endpoint.
#[derive(Clone, Copy)]
pub struct TokenRequest<'a> {
    /// The form body.
    pub parameters: &'a Parameters,
    /// The `Authorization` header.
    pub authorization: Option<&'a str>,
    /// The `DPoP` header.
    pub dpop: Option<&'a str>,
    /// The verified workload on the other side of the connection, if it is mTLS.
    pub peer: Option<&'a Peer>,
}

/// The `Authorization` header is a secret: it does not show.
impl fmt::Debug for TokenRequest<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("TokenRequest")
            .field("parameters", self.parameters)
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

/// What a proof at the token endpoint is made for.
const TOKEN_REQUEST: ProofTarget<'_> = ProofTarget {
    method: "POST",
    path: paths::TOKEN,
};

/// A token answer (RFC 6749 section 5.1). Send it with `Cache-Control: no-store`.
#[derive(Clone, Serialize)]
pub struct TokenResponse {
    /// The access token.
    pub access_token: String,
    /// How it is presented.
    pub token_type: TokenType,
    /// What kind of token it is, if it was exchanged (RFC 8693 section 2.2.1).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issued_token_type: Option<&'static str>,
    /// Seconds the access token lives.
    pub expires_in: u64,
    /// The scopes granted.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub scope: String,
    /// The refresh token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh_token: Option<String>,
    /// The ID token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id_token: Option<String>,
    /// Value of `DPoP-Nonce`: the nonce for the client's next proof.
    #[serde(skip)]
    pub dpop_nonce: Option<String>,
}

/// How an access token is presented (RFC 6749 section 7.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum TokenType {
    /// As it is (RFC 6750); also one that is bound to a certificate (RFC 8705 section 3).
    Bearer,
    /// With a proof of the key it is bound to (RFC 9449 section 5).
    #[serde(rename = "DPoP")]
    Dpop,
}

impl TokenType {
    /// The type of a token with these claims.
    pub(crate) fn of(claims: &AccessTokenClaims) -> Self {
        Self::of_binding(claims.cnf.as_ref())
    }

    fn of_binding(binding: Option<&Confirmation>) -> Self {
        match binding.and_then(|binding| binding.key_thumbprint.as_ref()) {
            Some(_) => Self::Dpop,
            None => Self::Bearer,
        }
    }
}

/// Tokens do not show.
impl fmt::Debug for TokenResponse {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("TokenResponse")
            .field("scope", &self.scope)
            .field("refresh_token", &self.refresh_token.is_some())
            .field("id_token", &self.id_token.is_some())
            .finish_non_exhaustive()
    }
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// A parameter came twice.
    #[error("`{0}` is repeated")]
    Repeated(String),
    /// A parameter is not there.
    #[error("`{0}` is missing")]
    Missing(&'static str),
    /// The client did not prove who it is.
    #[error(transparent)]
    Client(#[from] ClientAuthenticationError),
    /// There is no good proof of possession.
    #[error(transparent)]
    Dpop(#[from] DpopError),
    /// `grant_type` is unknown.
    #[error("grant_type must be one of those in the metadata")]
    UnsupportedGrantType,
    /// The client may not use this grant.
    #[error("this client may not use the grant")]
    UnauthorizedClient,
    /// The code or refresh token is unknown, expired, used, or of another client.
    #[error("the code or token is invalid, expired, already used or of another client")]
    UnknownGrant,
    /// The redirect URI differs from that of the authorization request.
    #[error("redirect_uri is not that of the authorization request")]
    RedirectMismatch,
    /// The verifier does not fit the challenge (RFC 7636 section 4.6).
    #[error("code_verifier does not fit the code_challenge")]
    VerifierMismatch,
    /// The code was asked for with the thumbprint of another key (RFC 9449 section 10).
    #[error("the DPoP proof is not of the key that the code is bound to")]
    KeyMismatch,
    /// The code was redeemed before; what it gave was taken back.
    #[error("the code was used before; what it gave has been revoked")]
    CodeReplayed,
    /// An old refresh token came again, or one from somebody else; the grant was ended.
    #[error("the refresh token was used before or by somebody else; its session has been ended")]
    RefreshReplayed,
    /// The session has ended or the user is disabled.
    #[error("the session has ended; log in again")]
    SessionEnded,
    /// The user of the device has not decided (RFC 8628 section 3.5).
    #[error("the user has not decided yet; ask again")]
    AuthorizationPending,
    /// The same, and the device asks too often.
    #[error("the user has not decided yet; ask again, five seconds later from now on than before")]
    SlowDown,
    /// The user of the device was too late.
    #[error("the device code has expired; ask for another")]
    DeviceCodeExpired,
    /// The user of the device said no.
    #[error("the user said no")]
    AccessDenied,
    /// Malformed, or more than was granted.
    #[error("scope is malformed or more than is allowed")]
    InvalidScope,
    /// A resource that is not the fleet (RFC 8707).
    #[error("`resource` must be the audience of the fleet, once")]
    InvalidTarget,
    /// A token cannot be exchanged.
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
    /// Our fault.
    #[error("the token request could not be handled")]
    Unavailable(#[from] Fault),
}

impl TokenError {
    /// The answer on the wire.
    pub fn to_oauth(&self) -> OauthError {
        let (error, status) = match self {
            Self::Client(error) => return error.to_oauth(),
            Self::Dpop(error) => return error.to_oauth(),
            Self::Unavailable(fault) => return OauthError::of_fault(fault, self),
            Self::Repeated(_) | Self::Missing(_) => (ErrorCode::InvalidRequest, 400),
            Self::UnsupportedGrantType => (ErrorCode::UnsupportedGrantType, 400),
            Self::UnauthorizedClient => (ErrorCode::UnauthorizedClient, 400),
            Self::UnknownGrant
            | Self::RedirectMismatch
            | Self::VerifierMismatch
            | Self::KeyMismatch
            | Self::CodeReplayed
            | Self::RefreshReplayed
            | Self::SessionEnded => (ErrorCode::InvalidGrant, 400),
            Self::AuthorizationPending => (ErrorCode::AuthorizationPending, 400),
            Self::SlowDown => (ErrorCode::SlowDown, 400),
            Self::DeviceCodeExpired => (ErrorCode::ExpiredToken, 400),
            Self::AccessDenied => (ErrorCode::AccessDenied, 400),
            Self::InvalidScope => (ErrorCode::InvalidScope, 400),
            Self::InvalidTarget => (ErrorCode::InvalidTarget, 400),
            Self::Exchange(error) => (error.code(), 400),
        };
        OauthError::new(error, status, self)
    }
}

impl Provider {
    /// Handles a token request. Refusals are events too, except those that anybody can cause without naming a
    /// grant or proving anything, and as far as there are not too many ([`testudo_model::RefusalBudget`]).
    ///
    /// It costs an Argon2 hash if [`costs_a_hash`](Self::costs_a_hash) says so.
    ///
    /// # Errors
    /// See [`TokenError`]; [`TokenError::to_oauth`] is the answer.
    pub fn token(
        &self,
        request: &TokenRequest<'_>,
        caller: &Caller,
    ) -> Result<TokenResponse, TokenError> {
        let result = self.grant_token(request, caller);
        if let Err(error) = &result
            && let Some(report) = refusal(error, request.parameters)
        {
            self.report_refusal(report, caller)?;
        }
        result
    }

    /// Records a refusal, if there are not too many.
    pub(crate) fn report_refusal(&self, report: Report, caller: &Caller) -> Result<(), Fault> {
        if self
            .refusals
            .admits(caller.source_ip, self.clock.monotonic_nanos())
        {
            self.report(report, caller)?;
        }
        self.report_unrecorded_refusals()
    }

    /// Tells in one event how many refused token requests got none of their own, at most once a minute. For a
    /// reconciler to call now and then, so that the last of a flood are told too.
    ///
    /// # Errors
    /// The store fails.
    pub fn report_unrecorded_refusals(&self) -> Result<(), Fault> {
        let Some(count) = self.refusals.summary(self.clock.monotonic_nanos()) else {
            return Ok(());
        };
        let report = Report::new(EventClass::DetectionFinding, "token.refusals")
            .denied("more refused token requests than are recorded one by one")
            .detail("count", count);
        self.report(report, &Caller::default())
    }

    fn grant_token(
        &self,
        request: &TokenRequest<'_>,
        caller: &Caller,
    ) -> Result<TokenResponse, TokenError> {
        let parameters = request.parameters;
        if let Some(repeated) = parameters.first_repeated() {
            return Err(TokenError::Repeated(repeated.chars().take(64).collect()));
        }
        let grant_type = parameters
            .get("grant_type")
            .ok_or(TokenError::Missing("grant_type"))?;
        let grant_type = GrantType::parse(grant_type).ok_or(TokenError::UnsupportedGrantType)?;
        // What needs no memory first: the proof that lacks a nonce comes again, with all else as it is.
        let proof = request
            .dpop
            .map(|proof| self.check_proof(proof, TOKEN_REQUEST, None))
            .transpose()?;
        let mut client = self.authenticate_client(request, caller)?;
        client.key = proof.map(|proof| self.use_proof(proof)).transpose()?;
        if client.must_prove_possession() && client.key.is_none() {
            return Err(DpopError::Missing.into());
        }
        if !client.may_use(grant_type) {
            return Err(TokenError::UnauthorizedClient);
        }
        let is_exchange = grant_type == GrantType::TokenExchange;
        if !is_exchange && !parameters.ask_for(&self.settings.audience) {
            return Err(TokenError::InvalidTarget);
        }
        match grant_type {
            GrantType::AuthorizationCode => self.redeem_code(&client, parameters, caller),
            GrantType::RefreshToken => self.refresh(&client, parameters, caller),
            GrantType::ClientCredentials => self.client_credentials(&client, parameters, caller),
            GrantType::TokenExchange => self.exchange(&client, parameters, caller),
            GrantType::DeviceCode => self.redeem_device_code(&client, parameters, caller),
        }
    }

    /// Signs the tokens that `grant` gives its client for `scopes`.
    fn user_tokens(
        &self,
        grant: &Grant,
        granted: &ScopeSet,
        nonce: Option<&str>,
        client: &AuthenticatedClient,
    ) -> Result<(TokenResponse, Report), Fault> {
        let now = self.clock.now();
        let token_id = TokenId::generate(&*self.clock, &*self.entropy);
        let facts = AccessTokenFacts {
            issuer: &self.settings.issuer,
            audience: &self.settings.audience,
            id: &token_id,
            now,
            subject: grant.user.as_str(),
            client_id: &grant.client_id,
            scopes: granted,
            login: Some((&grant.id, &grant.authentication)),
            binding: client.binding(),
        };
        let access_token = self.sign_access_token(&facts)?;
        let id_token = if scopes::has(granted, OPENID) {
            let facts = IdTokenFacts {
                issuer: &self.settings.issuer,
                now,
                subject: grant.user.as_str(),
                client_id: &grant.client_id,
                session: &grant.id,
                authentication: &grant.authentication,
                nonce,
                access_token: &access_token,
                memberships: self.memberships_of(&grant.user, granted)?,
            };
            let algorithm = client.id_token_algorithm();
            Some(self.sign_told(algorithm, ID_TOKEN_TYPE, &claims::id_token(facts))?)
        } else {
            None
        };
        let report = issued(&facts)
            .session(&grant.id)
            .detail("login", grant.login.as_str());
        let refresh_token = RefreshToken::current_of(grant).map(|token| token.to_string());
        Ok((
            TokenResponse {
                refresh_token,
                id_token,
                ..self.token_response(access_token, &facts)
            },
            report,
        ))
    }

    fn sign_access_token(&self, facts: &AccessTokenFacts<'_>) -> Result<String, Fault> {
        self.sign_claims(&claims::access_token(facts))
    }

    fn sign_claims(&self, claims: &AccessTokenClaims) -> Result<String, Fault> {
        let keys = self.signing_keys()?;
        keys.current
            .sign_jwt(ACCESS_TOKEN_TYPE, claims)
            .map_err(Fault::Sign)
    }

    /// The answer with this access token alone.
    fn token_response(&self, access_token: String, facts: &AccessTokenFacts<'_>) -> TokenResponse {
        let token_type = TokenType::of_binding(facts.binding.as_ref());
        TokenResponse {
            access_token,
            token_type,
            issued_token_type: None,
            expires_in: ACCESS_TOKEN_LIFETIME.as_secs(),
            scope: scopes::join(facts.scopes),
            refresh_token: None,
            id_token: None,
            dpop_nonce: (token_type == TokenType::Dpop).then(|| self.dpop_nonce()),
        }
    }
}

/// The event of an issued access token.
fn issued(facts: &AccessTokenFacts<'_>) -> Report {
    Report::new(EventClass::Authentication, "token.issue")
        .subject(facts.subject)
        .client(facts.client_id.as_str())
        .target(facts.id.as_str())
        .detail("scope", scopes::join(facts.scopes))
        .detail("bound", facts.binding.is_some())
        .detail("expires_at", facts.expires_at().to_string())
}

/// The event of a refusal, if it is worth one: malformed requests prove nothing and cost their sender nothing,
/// so they must not cost us a durable write.
fn refusal(error: &TokenError, parameters: &Parameters) -> Option<Report> {
    let told = match error {
        TokenError::Client(error) => error.is_failed_proof(),
        // That a nonce is needed is how it begins; that a proof came twice is not.
        TokenError::Dpop(error) => matches!(error, DpopError::Replayed),
        TokenError::Exchange(error) => error.is_suspicious(),
        TokenError::Repeated(_)
        | TokenError::Missing(_)
        | TokenError::UnsupportedGrantType
        // They are how it goes; what the user decided is an event of its own.
        | TokenError::AuthorizationPending
        | TokenError::SlowDown
        | TokenError::DeviceCodeExpired
        | TokenError::AccessDenied
        | TokenError::Unavailable(_) => false,
        TokenError::UnauthorizedClient
        | TokenError::UnknownGrant
        | TokenError::RedirectMismatch
        | TokenError::VerifierMismatch
        | TokenError::KeyMismatch
        | TokenError::CodeReplayed
        | TokenError::RefreshReplayed
        | TokenError::SessionEnded
        | TokenError::InvalidScope
        | TokenError::InvalidTarget => true,
    };
    let report = || {
        Report::new(EventClass::Authentication, "token.issue")
            .denied(&error.to_string())
            .detail("client_id", parameters.get("client_id").unwrap_or(""))
            .detail("grant_type", parameters.get("grant_type").unwrap_or(""))
    };
    told.then(report)
}
