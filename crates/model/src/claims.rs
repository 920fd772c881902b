//! Claims of the two tokens that travel: the access token outside, the transaction token inside.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{SessionId, SpiffeId, TokenId, TransactionId};

/// `typ` of an access token (RFC 9068 section 2.1).
pub const ACCESS_TOKEN_TYPE: &str = "at+jwt";
/// `typ` of a transaction token (draft-ietf-oauth-transaction-tokens).
pub const TRANSACTION_TOKEN_TYPE: &str = "txntoken+jwt";
/// Header that carries the transaction token inside the fleet.
pub const TRANSACTION_TOKEN_HEADER: &str = "txn-token";

/// Claims of a JWT access token (RFC 9068 section 2.2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessTokenClaims {
    /// Issuer.
    pub iss: String,
    /// Subject: user or service account.
    pub sub: String,
    /// Audience: one resource. (RFC 7519 allows a list; we issue and accept one.)
    pub aud: String,
    /// Expiry, seconds since the epoch.
    pub exp: i64,
    /// Issue time.
    pub iat: i64,
    /// Identifier.
    pub jti: TokenId,
    /// OAuth client that got the token.
    pub client_id: String,
    /// Space-separated scopes.
    #[serde(default)]
    pub scope: String,
    /// Session the token belongs to; absent for client credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sid: Option<SessionId>,
    /// When the user authenticated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth_time: Option<i64>,
    /// Authentication context class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acr: Option<String>,
    /// Authentication methods (RFC 8176).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub amr: Vec<String>,
    /// Confirmation: the token is bound to a key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cnf: Option<Confirmation>,
    /// Who acts for the subject, if the token was exchanged (RFC 8693 section 4.1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub act: Option<Actor>,
}

impl AccessTokenClaims {
    /// How the user logged in: 1 one factor, 2 two factors, 3 phishing-resistant, from `acr` and `amr` (RFC 8176). What is
    /// not understood is one factor.
    pub fn assurance(&self) -> i64 {
        let has = |methods: &[&str]| {
            let mut given = self.amr.iter();
            given.any(|method| methods.contains(&method.as_str()))
        };
        match self.acr.as_deref() {
            Some("aal3" | "phrh" | "3") => 3,
            Some("aal2" | "2") => 2,
            _ if has(&["hwk"]) && has(&["mfa", "user", "pin", "fpt", "face"]) => 3,
            _ if has(&["mfa"]) => 2,
            _ => 1,
        }
    }

    /// The audience of tokens for one service of the fleet with this audience.
    pub fn audience_of(fleet: &str, service: &str) -> String {
        [fleet, "/", service].concat()
    }

    /// The service that `audience` is of, if it is that of one service of the fleet.
    pub fn service_of_audience<'a>(audience: &'a str, fleet: &str) -> Option<&'a str> {
        audience.strip_prefix(fleet)?.strip_prefix('/')
    }
}

/// Who acts for the subject of a token, and who did before (RFC 8693 section 4.1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// The service account.
    pub sub: String,
    /// Who acted before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub act: Option<Box<Self>>,
}

impl Actor {
    /// The subjects of all who act, the newest first.
    pub fn chain(&self) -> Vec<&str> {
        std::iter::successors(Some(self), |actor| actor.act.as_deref())
            .map(|actor| actor.sub.as_str())
            .collect()
    }
}

/// Confirmation claim (RFC 7800). What is there must all be proved.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirmation {
    /// SHA-256 thumbprint of the client certificate, base64url (RFC 8705 section 3.1).
    #[serde(rename = "x5t#S256", default, skip_serializing_if = "Option::is_none")]
    pub certificate_thumbprint: Option<String>,
    /// SHA-256 thumbprint of the client's public key, base64url (RFC 9449 section 6.1).
    #[serde(rename = "jkt", default, skip_serializing_if = "Option::is_none")]
    pub key_thumbprint: Option<String>,
}

/// Claims of a transaction token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransactionClaims {
    /// The edge that minted it, as SPIFFE id; must equal the leaf of the `x5c` chain.
    pub iss: SpiffeId,
    /// Audience: the trust domain.
    pub aud: String,
    /// Issue time, seconds since the epoch.
    pub iat: i64,
    /// Expiry, seconds since the epoch.
    pub exp: i64,
    /// Transaction id.
    pub txn: TransactionId,
    /// The user or service account; absent for an anonymous outside call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sub: Option<String>,
    /// Space-separated scopes of the outside token.
    #[serde(default)]
    pub scope: String,
    /// Issuer, client, session, assurance of the outside token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tctx: Option<TokenContext>,
    /// Facts of the outside request.
    pub rctx: RequestContext,
}

/// What the outside token said about the login (`tctx`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenContext {
    /// Issuer of the outside token.
    pub issuer: String,
    /// Its `jti`.
    pub token_id: TokenId,
    /// Its `iat`: what a revocation of the subject is compared with, however late the transaction began.
    pub issued_at: i64,
    /// OAuth client.
    pub client_id: String,
    /// Session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
    /// Assurance level: 1 one factor, 2 two factors, 3 phishing-resistant.
    pub assurance: i64,
    /// When the user authenticated, seconds since the epoch; the token's issue time for machines.
    pub authenticated_at: i64,
    /// Whether the outside token was bound to the caller's key.
    pub bound: bool,
    /// Whether it was an API key, whose id is made of that of the token.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_api_key: bool,
}

/// Facts of the outside request (`rctx`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestContext {
    /// The original client's address.
    pub req_ip: IpAddr,
    /// Method at the edge.
    pub method: String,
    /// Canonical path at the edge.
    pub path: String,
}
