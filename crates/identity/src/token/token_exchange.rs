//! Token exchange (RFC 8693): a service that was given a token about somebody gets one for the next service, which says
//! who acts, and for whom.
//!
//! What it gets is never more than what it brought: the same subject and login, the same scopes or fewer, one service
//! instead of the fleet, and an end that is not later. It is bound to what the service proves to have, and names it in
//! `act`, above all who acted before. Whether an account may act for a subject at a service, a policy says
//! ([`ExchangePolicy`]); if none does, it may not.

use testudo_model::{
    AccessTokenClaims, Actor, ServiceName, Timestamp, TokenId, event::EventClass,
    limits::ACCESS_TOKEN_LIFETIME,
};

use super::{AuthenticatedClient, ClientHolder, TokenError, TokenResponse, TokenType};
use crate::{
    AccessTokenError, Caller, ErrorCode, Parameters, Provider,
    change::Report,
    limits::MAX_ACTORS,
    records::{GrantType, ServiceAccount},
    scopes,
};

/// The one kind of token there is in an exchange (section 3).
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";

/// Decides about exchanges. Where none is set, there are none.
pub trait ExchangePolicy: Send + Sync {
    /// The policies that permit `question`, for the record.
    ///
    /// # Errors
    /// Why it is not permitted, for the record: the code of a reason. Whoever asked is told less.
    fn permit(&self, question: &ExchangeQuestion<'_>) -> Result<Vec<String>, String>;
}

/// The token that an account wants.
#[derive(Debug, Clone, Copy)]
pub struct ExchangeQuestion<'a> {
    /// `sub` of the account.
    pub actor: &'a str,
    /// `sub` of whom the token is about.
    pub subject: &'a str,
    /// The service it is for.
    pub service: &'a ServiceName,
    /// Its scopes.
    pub scopes: &'a [String],
    /// How many have exchanged it before.
    pub actors: usize,
    /// Where the request came from, and when.
    pub caller: &'a Caller,
}

/// Why a token is not exchanged.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// `subject_token_type`, `actor_token_type` or `requested_token_type` is another.
    #[error("`{0}` must be {ACCESS_TOKEN}")]
    TokenType(&'static str),
    /// `actor_token` without its type, or the type alone.
    #[error("`actor_token` and `actor_token_type` come together")]
    ActorType,
    /// Forged, expired, taken back, or not ours.
    #[error("`{0}` is no access token of ours that is good now")]
    Token(&'static str),
    /// The actor token is about somebody else, or was given to somebody else.
    #[error("`actor_token` must be a token of the account itself, got by client credentials")]
    ForeignActor,
    /// More actors than a token may name.
    #[error("the token was exchanged {MAX_ACTORS} times already")]
    TooManyActors,
    /// No service is named, or several.
    #[error("name one service in `audience`, or its address in `resource`")]
    NoTarget,
    /// The token is for one service already, and another one is asked for.
    #[error("the subject token is for another service")]
    Wider,
    /// No policy permits it, or there is no such service.
    #[error("this account may not act for the subject there")]
    Denied {
        /// Why, for the record.
        reason: String,
    },
}

impl ExchangeError {
    /// Its code on the wire (section 2.2.2).
    pub(super) const fn code(&self) -> ErrorCode {
        match self {
            Self::TokenType(_)
            | Self::ActorType
            | Self::Token(_)
            | Self::ForeignActor
            | Self::TooManyActors => ErrorCode::InvalidRequest,
            Self::NoTarget | Self::Wider | Self::Denied { .. } => ErrorCode::InvalidTarget,
        }
    }

    /// Whether it is worth an event that is not there yet.
    pub(super) const fn is_suspicious(&self) -> bool {
        matches!(
            self,
            Self::Token(_) | Self::ForeignActor | Self::TooManyActors | Self::Wider
        )
    }
}

/// What is asked for.
struct Asked<'a> {
    subject_token: &'a str,
    actor_token: Option<&'a str>,
    service: ServiceName,
    scope: Option<&'a str>,
}

impl Provider {
    /// Gives an account a token about the subject of the one it brings.
    pub(super) fn exchange(
        &self,
        client: &AuthenticatedClient,
        parameters: &Parameters,
        caller: &Caller,
    ) -> Result<TokenResponse, TokenError> {
        let ClientHolder::ServiceAccount(account) = &client.holder else {
            return Err(TokenError::UnauthorizedClient);
        };
        let asked = self.exchange_asked(parameters)?;
        let subject = self.exchangeable("subject_token", asked.subject_token)?;
        if let Some(actor_token) = asked.actor_token {
            let actor = self.exchangeable("actor_token", actor_token)?;
            if !is_own(&actor, account) {
                return Err(ExchangeError::ForeignActor.into());
            }
        }
        let subject_token = subject.jti.clone();
        let claims = self.exchanged(&asked, subject, client, account)?;
        let scopes = claims.scope.split(' ').filter(|scope| !scope.is_empty());
        let scopes: Vec<String> = scopes.map(str::to_owned).collect();
        let chain = claims.act.as_ref().map(Actor::chain).unwrap_or_default();
        let permitted = self.permits(&ExchangeQuestion {
            actor: account.id.as_str(),
            subject: &claims.sub,
            service: &asked.service,
            scopes: &scopes,
            actors: chain.len().saturating_sub(1),
            caller,
        });
        let report = exchange_report(&claims, &asked.service, &chain)
            .detail("subject_token", subject_token.as_str());
        let report = client.told_by(report);
        let policies = match permitted {
            Ok(policies) => policies,
            Err(reason) => {
                self.report_refusal(report.denied(&reason), caller)?;
                return Err(ExchangeError::Denied { reason }.into());
            }
        };
        let access_token = self.sign_claims(&claims)?;
        self.report(report.detail("policies", policies.join(" ")), caller)?;
        let token_type = TokenType::of(&claims);
        let lifetime = claims.exp.saturating_sub(claims.iat);
        Ok(TokenResponse {
            access_token,
            token_type,
            issued_token_type: Some(ACCESS_TOKEN),
            expires_in: u64::try_from(lifetime).unwrap_or(0),
            scope: claims.scope,
            refresh_token: None,
            id_token: None,
            dpop_nonce: (token_type == TokenType::Dpop).then(|| self.dpop_nonce()),
        })
    }

    fn exchange_asked<'p>(&self, parameters: &'p Parameters) -> Result<Asked<'p>, TokenError> {
        let is_access_token = |name: &'static str| match parameters.get(name) {
            Some(ACCESS_TOKEN) => Ok(true),
            Some(_) => Err(ExchangeError::TokenType(name)),
            None => Ok(false),
        };
        let subject_token = parameters
            .get("subject_token")
            .ok_or(TokenError::Missing("subject_token"))?;
        if !is_access_token("subject_token_type")? {
            return Err(TokenError::Missing("subject_token_type"));
        }
        is_access_token("requested_token_type")?;
        let actor_token = parameters.get("actor_token");
        if is_access_token("actor_token_type")? != actor_token.is_some() {
            return Err(ExchangeError::ActorType.into());
        }
        Ok(Asked {
            subject_token,
            actor_token,
            service: self.service_asked_for(parameters)?,
            scope: parameters.get("scope"),
        })
    }

    /// The service in `audience`, by its name, or in `resource`, by the audience of its tokens.
    fn service_asked_for(&self, parameters: &Parameters) -> Result<ServiceName, ExchangeError> {
        let named = parameters.get("audience");
        let located = parameters.get("resource").map(|resource| {
            AccessTokenClaims::service_of_audience(resource, &self.settings.audience).unwrap_or("")
        });
        let name = match (named, located) {
            (Some(name), None) | (None, Some(name)) => name,
            (Some(name), Some(other)) if name == other => name,
            _ => return Err(ExchangeError::NoTarget),
        };
        if parameters.is_repeated("resource") {
            return Err(ExchangeError::NoTarget);
        }
        name.parse().map_err(|_| ExchangeError::NoTarget)
    }

    /// The claims of a token that may be exchanged.
    fn exchangeable(
        &self,
        name: &'static str,
        token: &str,
    ) -> Result<AccessTokenClaims, TokenError> {
        let claims = match self.signed_claims(token) {
            Ok(claims) => claims,
            Err(AccessTokenError::Unavailable(fault)) => return Err(fault.into()),
            Err(_) => return Err(ExchangeError::Token(name).into()),
        };
        if self.is_revoked(&claims)? {
            return Err(ExchangeError::Token(name).into());
        }
        Ok(claims)
    }

    /// The claims of the token that `subject` becomes.
    fn exchanged(
        &self,
        asked: &Asked<'_>,
        subject: AccessTokenClaims,
        client: &AuthenticatedClient,
        account: &ServiceAccount,
    ) -> Result<AccessTokenClaims, TokenError> {
        let audience =
            AccessTokenClaims::audience_of(&self.settings.audience, asked.service.as_str());
        if subject.aud != self.settings.audience && subject.aud != audience {
            return Err(ExchangeError::Wider.into());
        }
        let act = Actor {
            sub: account.id.to_string(),
            act: subject.act.map(Box::new),
        };
        if act.chain().len() > MAX_ACTORS {
            return Err(ExchangeError::TooManyActors.into());
        }
        let scopes = scopes::parse(&subject.scope)
            .and_then(|given| scopes::narrowed(given, asked.scope))
            .ok_or(TokenError::InvalidScope)?;
        let now = self.clock.now();
        let end = (now + ACCESS_TOKEN_LIFETIME).unix_seconds();
        Ok(AccessTokenClaims {
            aud: audience,
            exp: subject.exp.min(end),
            iat: now.unix_seconds(),
            jti: TokenId::generate(&*self.clock, &*self.entropy),
            client_id: account.name.to_string(),
            scope: scopes::join(&scopes),
            cnf: client.binding(),
            act: Some(act),
            ..subject
        })
    }

    fn permits(&self, question: &ExchangeQuestion<'_>) -> Result<Vec<String>, String> {
        match &self.exchange_policy {
            Some(policy) => policy.permit(question),
            None => Err("there is no policy".to_owned()),
        }
    }
}

/// Whether it is a token of the account, by which it says nothing but that it is itself.
fn is_own(actor: &AccessTokenClaims, account: &ServiceAccount) -> bool {
    actor.sub == account.id.as_str()
        && actor.client_id == account.name.as_str()
        && actor.act.is_none()
}

/// The event of an exchange, with all who act: the newest first.
fn exchange_report(claims: &AccessTokenClaims, service: &ServiceName, chain: &[&str]) -> Report {
    let report = Report::new(EventClass::Authentication, "token.exchange")
        .subject(&claims.sub)
        .client(&claims.client_id)
        .target(claims.jti.as_str())
        .detail("audience", service.as_str())
        .detail("scope", claims.scope.as_str())
        .detail("actors", chain.join(" "))
        .detail("grant_type", GrantType::TokenExchange.as_str())
        .detail("bound", claims.cnf.is_some())
        .detail(
            "expires_at",
            Timestamp::from_unix_seconds(claims.exp).to_string(),
        );
    match &claims.sid {
        Some(session) => report.session(session),
        None => report,
    }
}
