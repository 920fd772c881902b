//! The user or service account behind a call, as a verified token says.

use testudo_model::{AccessTokenClaims, Timestamp, TokenContext, TransactionClaims};
use testudo_policy::TokenFacts;

use crate::revocations::TokenIdentity;

/// Who stands behind a call. Made from verified claims only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Principal {
    /// `sub`.
    pub(crate) subject: String,
    /// Scopes, split.
    pub(crate) scopes: Vec<String>,
    /// What the outside token said about the login.
    pub(crate) context: TokenContext,
}

impl Principal {
    /// From the claims of an access token. `bound`: the token names a key and the caller proved to hold it.
    pub(crate) fn from_access_token(claims: &AccessTokenClaims, bound: bool) -> Self {
        Self {
            subject: claims.sub.clone(),
            scopes: split_scopes(&claims.scope),
            context: TokenContext {
                issuer: claims.iss.clone(),
                token_id: claims.jti.clone(),
                issued_at: claims.iat,
                client_id: claims.client_id.clone(),
                session: claims.sid.clone(),
                assurance: claims.assurance(),
                authenticated_at: claims.auth_time.unwrap_or(claims.iat),
                bound,
                is_api_key: false,
            },
        }
    }

    /// From the claims of a transaction token; `None` for an anonymous call.
    pub(crate) fn from_transaction(claims: &TransactionClaims) -> Option<Self> {
        Some(Self {
            subject: claims.sub.clone()?,
            scopes: split_scopes(&claims.scope),
            context: claims.tctx.clone()?,
        })
    }

    /// The scopes as one claim.
    pub(crate) fn scope(&self) -> String {
        self.scopes.join(" ")
    }

    /// What policies may ask about the token.
    pub(crate) fn facts(&self) -> TokenFacts<'_> {
        TokenFacts {
            issuer: &self.context.issuer,
            scopes: &self.scopes,
            assurance: self.context.assurance,
            authenticated_at: Timestamp::from_unix_seconds(self.context.authenticated_at),
            bound: self.context.bound,
        }
    }

    /// What a revocation can take away.
    pub(crate) fn identity(&self) -> TokenIdentity<'_> {
        TokenIdentity {
            token: &self.context.token_id,
            session: self.context.session.as_ref(),
            subject: &self.subject,
            issued_at: self.context.issued_at,
        }
    }
}

fn split_scopes(scope: &str) -> Vec<String> {
    scope
        .split(' ')
        .filter(|scope| !scope.is_empty())
        .map(str::to_owned)
        .collect()
}
