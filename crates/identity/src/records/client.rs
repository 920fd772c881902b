//! OAuth clients: applications through which people log in.

use serde::{Deserialize, Serialize};
use testudo_model::{ClientName, Scope, SpiffeId, Timestamp};
use testudo_store::Record;

use crate::{
    notification_uri::NotificationUri,
    records::Registered,
    redirect_uri::{RedirectUri, is_anybodys, place_of},
    scopes::{ANYBODYS_SCOPES, OFFLINE_ACCESS, OPENID_SCOPES, ScopeSet},
};

/// An application through which people log in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Client {
    /// Its `client_id`.
    pub client_id: ClientName,
    /// Name for people; on the login page.
    pub display_name: String,
    /// Whether it can keep a secret.
    pub kind: ClientKind,
    /// Where answers may go.
    pub redirect_uris: Vec<RedirectUri>,
    /// Grants it may use.
    pub grants: Vec<GrantType>,
    /// Scopes it may ask for beside those of OpenID Connect.
    pub scopes: Vec<Scope>,
    /// The workload it runs as: it authenticates by the certificate of its connection, without a secret.
    pub workload: Option<SpiffeId>,
    /// The JWK Set with the keys it signs assertions with (`private_key_jwt`), instead of a secret.
    pub jwks: Option<String>,
    /// What it must do beyond what everybody must.
    pub policy: ClientPolicy,
    /// How what it is told is signed.
    pub signing: ClientSigning,
    /// How it takes part in logouts.
    pub logout: ClientLogout,
    /// If it registered itself, what is known of it because of that.
    pub registered: Option<Box<Registered>>,
    /// Can do nothing.
    pub disabled: bool,
    /// When the record was made. Codes and grants remember it, so that they are worthless at a later client
    /// of the same name.
    pub created_at: Timestamp,
    /// When it was changed last.
    pub updated_at: Timestamp,
}

impl Client {
    /// Whether it may use `grant`.
    pub fn may_use(&self, grant: GrantType) -> bool {
        self.grants.contains(&grant)
    }

    /// Whether it may ask for a code without a code challenge.
    pub(crate) fn may_omit_challenge(&self) -> bool {
        self.policy.pkce_optional && self.kind == ClientKind::Confidential
    }

    /// Those of the scopes it may have; others are dropped, and the token answer says what is left (RFC 6749 section 3.3,
    /// OpenID Connect Core section 3.1.2.1).
    pub(crate) fn permitted(&self, asked: &ScopeSet) -> ScopeSet {
        let openid: &[&str] = match self.registered {
            Some(_) => &ANYBODYS_SCOPES,
            None => &OPENID_SCOPES,
        };
        let is_allowed = |scope: &&Scope| match scope.as_str() {
            OFFLINE_ACCESS => self.may_use(GrantType::RefreshToken),
            name => openid.contains(&name) || self.scopes.contains(*scope),
        };
        asked.iter().filter(is_allowed).cloned().collect()
    }

    /// Whether who takes an answer at `uri` is this client: it has a secret to redeem the code with, or the address is
    /// its own. Otherwise a code is given to people who log in for it, never to a session alone.
    pub(crate) fn is_assured_at(&self, uri: &str) -> bool {
        self.kind == ClientKind::Confidential || !is_anybodys(uri)
    }

    /// Whether its users are asked before it gets what it asks for. What registered itself is known to nobody else.
    pub(crate) fn must_ask(&self) -> bool {
        self.registered.is_some() || self.policy.consent == ConsentRule::Required
    }

    /// Its name for the people who are sent to `uri`. What registered itself may call itself whatever it likes: they see
    /// first where they go, or under which id it is known.
    pub(crate) fn name_at(&self, uri: Option<&str>) -> String {
        if self.registered.is_none() {
            return self.display_name.clone();
        }
        let place = uri.map_or(self.client_id.as_str(), place_of);
        format!("{place} ({})", self.display_name)
    }

    /// When it ends by itself.
    pub(crate) fn expires_at(&self) -> Option<Timestamp> {
        self.registered.as_ref()?.expires_at
    }

    /// Whether the browser may go to `uri` after a logout: the same bytes (RP-Initiated Logout 1.0 section 3.1).
    pub(crate) fn may_return_to(&self, uri: &str) -> bool {
        let registered = &self.logout.post_logout_redirect_uris;
        registered.iter().any(|known| known.as_str() == uri)
    }

    /// Whether an answer may go to `uri` (RFC 6749 section 3.1.2.3).
    pub(crate) fn accepts_redirect_to(&self, uri: &str) -> bool {
        let native = self.kind == ClientKind::Public;
        self.redirect_uris
            .iter()
            .any(|registered| registered.accepts(uri, native))
    }
}

impl Record for Client {
    const COLLECTION: &'static str = "identity.client";

    fn key(&self) -> String {
        self.client_id.to_string()
    }

    fn expires(&self) -> Option<Timestamp> {
        self.expires_at()
    }
}

/// What a client must do beyond what everybody must, or need not. Demands that are in the metadata registered with IANA have
/// their names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClientPolicy {
    /// Push its authorization requests (RFC 9126 section 6).
    pub require_pushed_authorization_requests: bool,
    /// Sign its authorization requests (RFC 9101 section 10.5).
    pub require_signed_request_object: bool,
    /// Prove at the token endpoint that it has a key, to which its tokens are bound (RFC 9449 section 5.2).
    pub dpop_bound_access_tokens: bool,
    /// The one thing it need not do: send a code challenge (RFC 7636). Confidential clients only, whose codes nobody else
    /// can redeem; what is injected into their answers they must notice by their `nonce` (RFC 9700 section 2.1.1).
    pub pkce_optional: bool,
    /// All that the FAPI 2.0 Security Profile asks of a client (section 5.3), and of us towards it: it pushes its
    /// requests, signs or has a certificate instead of a secret, comes back to `https` only, and its tokens are bound to
    /// its key or certificate. Its refresh tokens are not rotated (section 5.3.2.1, item 9): they are worth nothing
    /// without that.
    pub fapi2_security_profile: bool,
    /// Whether its users are asked.
    pub consent: ConsentRule,
}

/// Whether users are asked before a client gets what it asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConsentRule {
    /// They are not: the client is the organisation's own.
    #[default]
    Implied,
    /// They are, once for what it asks for.
    Required,
}

impl ClientPolicy {
    /// Whether an authorization request that was not pushed is refused.
    pub(crate) const fn demands_push(self) -> bool {
        self.require_pushed_authorization_requests || self.fapi2_security_profile
    }

    /// Whether a request for tokens without a DPoP proof is refused, over a connection that is (not) of its workload.
    pub(crate) const fn demands_proof(self, has_certificate: bool) -> bool {
        self.dpop_bound_access_tokens || (self.fapi2_security_profile && !has_certificate)
    }

    /// Whether a secret proves nothing.
    pub(crate) const fn refuses_secrets(self) -> bool {
        self.fapi2_security_profile
    }

    /// Whether each use of a refresh token gives a new one.
    pub(crate) const fn rotates_refresh_tokens(self) -> bool {
        !self.fapi2_security_profile
    }
}

/// How what a client is told is signed, by the names of the metadata registered with IANA.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClientSigning {
    /// Its ID tokens and logout tokens.
    pub id_token_signed_response_alg: SignatureAlgorithm,
    /// Its userinfo answers; if absent, they are plain JSON.
    pub userinfo_signed_response_alg: Option<SignatureAlgorithm>,
}

impl ClientSigning {
    /// Whether anything is signed with `algorithm`.
    pub(crate) fn uses(&self, algorithm: SignatureAlgorithm) -> bool {
        self.id_token_signed_response_alg == algorithm
            || self.userinfo_signed_response_alg == Some(algorithm)
    }
}

/// An algorithm that tokens for relying parties are signed with (RFC 7518 section 3.1).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SignatureAlgorithm {
    /// ECDSA on P-256 with SHA-256.
    #[default]
    #[serde(rename = "ES256")]
    Es256,
    /// RSA with PKCS#1 v1.5 and SHA-256: what relying parties read that read nothing else.
    #[serde(rename = "RS256")]
    Rs256,
}

impl SignatureAlgorithm {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Es256, Self::Rs256];

    /// The value of `alg`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::Rs256 => "RS256",
        }
    }

    /// Parses an `alg`.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.as_str() == text)
    }
}

/// How a client takes part in logouts, by the names of the metadata registered with IANA.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClientLogout {
    /// Where the browser may return to after a logout that the client asked for (RP-Initiated Logout 1.0 section 3.1).
    pub post_logout_redirect_uris: Vec<RedirectUri>,
    /// Where it is told that a session has ended (Back-Channel Logout 1.0 section 2.2).
    pub backchannel_logout_uri: Option<NotificationUri>,
    /// It must be told the `sid`. Everybody is.
    pub backchannel_logout_session_required: bool,
}

/// Whether a client can keep a secret (RFC 6749 section 2.1).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientKind {
    /// It runs at the user's: a browser, phone or command line. It may use any loopback port.
    #[default]
    Public,
    /// It runs on a server and authenticates.
    Confidential,
}

/// How a client gets tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GrantType {
    /// RFC 6749 section 4.1, with PKCE.
    AuthorizationCode,
    /// RFC 6749 section 6, rotating.
    RefreshToken,
    /// RFC 6749 section 4.4; service accounts only.
    ClientCredentials,
    /// RFC 8693; service accounts only.
    TokenExchange,
    /// RFC 8628.
    DeviceCode,
}

impl GrantType {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::AuthorizationCode,
        Self::RefreshToken,
        Self::ClientCredentials,
        Self::TokenExchange,
        Self::DeviceCode,
    ];

    /// The value of `grant_type`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AuthorizationCode => "authorization_code",
            Self::RefreshToken => "refresh_token",
            Self::ClientCredentials => "client_credentials",
            Self::TokenExchange => "urn:ietf:params:oauth:grant-type:token-exchange",
            Self::DeviceCode => "urn:ietf:params:oauth:grant-type:device_code",
        }
    }

    /// Parses a `grant_type`.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|grant| grant.as_str() == text)
    }
}
