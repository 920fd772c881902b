//! What clients that register themselves may ask for.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use testudo_model::Scope;
use testudo_store::Record;

use super::{
    RegistrationError,
    metadata::{Accepted, Told},
};
use crate::{ClientProfile, records::GrantType, redirect_uri::RedirectUri};

/// What clients that register themselves may ask for. It is asked at each registration and each change of one; what was
/// registered before stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistrationPolicy {
    /// Grants. Those of service accounts are for nobody who registers.
    pub grants: Vec<GrantType>,
    /// Scopes beside those of OpenID Connect.
    pub scopes: Vec<Scope>,
    /// Ways to prove who they are.
    pub auth_methods: Vec<AuthMethod>,
    /// Kinds of address that the browser may return to.
    pub redirects: Vec<RedirectKind>,
    /// Hosts of addresses with `https`: a name, or `*.` and what names below it end with. If empty, any.
    pub redirect_hosts: Vec<String>,
    /// Those that prove who they are need not send a code challenge.
    #[serde(default)]
    pub pkce_optional: bool,
    /// Seconds after which such a client ends; if none, it does not by itself.
    pub client_lifetime_seconds: Option<u64>,
}

impl RegistrationPolicy {
    /// What a client would be that says this about itself (JSON, RFC 7591 section 2).
    ///
    /// # Errors
    /// It cannot be, or not here.
    pub fn judge(&self, metadata: &[u8]) -> Result<ClientProfile, RegistrationError> {
        Ok(Accepted::of(&Told::parse(metadata)?, self)?.profile)
    }

    /// There is one.
    pub(crate) const KEY: &'static str = "current";

    pub(super) fn client_lifetime(&self) -> Option<Duration> {
        self.client_lifetime_seconds.map(Duration::from_secs)
    }

    /// Whether addresses at `host` may be registered.
    pub(super) fn admits_host(&self, host: &str) -> bool {
        self.redirect_hosts.is_empty()
            || self
                .redirect_hosts
                .iter()
                .any(|known| match known.strip_prefix("*.") {
                    Some(parent) => host
                        .strip_suffix(parent)
                        .and_then(|name| name.strip_suffix('.'))
                        .is_some_and(|name| !name.is_empty()),
                    None => known == host,
                })
    }
}

impl Record for RegistrationPolicy {
    const COLLECTION: &'static str = "identity.registration_policy";

    fn key(&self) -> String {
        Self::KEY.to_owned()
    }
}

/// How a client that registers itself proves who it is, by the names registered with IANA
/// ("OAuth Token Endpoint Authentication Methods").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthMethod {
    /// Not at all: its id is all it has.
    None,
    /// With a secret in the header.
    ClientSecretBasic,
    /// With a secret in the body.
    ClientSecretPost,
    /// With its signature.
    PrivateKeyJwt,
}

impl AuthMethod {
    const ALL: [Self; 4] = [
        Self::None,
        Self::ClientSecretBasic,
        Self::ClientSecretPost,
        Self::PrivateKeyJwt,
    ];

    /// The value of `token_endpoint_auth_method`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::ClientSecretBasic => "client_secret_basic",
            Self::ClientSecretPost => "client_secret_post",
            Self::PrivateKeyJwt => "private_key_jwt",
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|method| method.as_str() == text)
    }

    pub(super) const fn has_secret(self) -> bool {
        matches!(self, Self::ClientSecretBasic | Self::ClientSecretPost)
    }
}

/// A kind of address that the browser may return to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RedirectKind {
    /// `https`: an address that belongs to somebody.
    Https,
    /// `http` on the loopback interface: a program on the user's device (RFC 8252 section 7.3).
    Loopback,
    /// A scheme of an application's own (RFC 8252 section 7.1).
    PrivateUse,
}

impl RedirectKind {
    pub(super) fn of(uri: &RedirectUri) -> Self {
        match uri.as_str().split_once(':') {
            Some(("https", _)) => Self::Https,
            // No other `http` can be registered.
            Some(("http", _)) => Self::Loopback,
            _ => Self::PrivateUse,
        }
    }

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Https => "https",
            Self::Loopback => "http on the loopback interface",
            Self::PrivateUse => "a private-use scheme",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_names_or_what_is_below_one() {
        let policy = RegistrationPolicy {
            redirect_hosts: vec!["wiki.example".to_owned(), "*.apps.example".to_owned()],
            ..RegistrationPolicy::default()
        };
        for good in ["wiki.example", "a.apps.example", "a.b.apps.example"] {
            assert!(policy.admits_host(good), "{good}");
        }
        for bad in [
            "",
            "apps.example",
            ".apps.example",
            "evilapps.example",
            "a.wiki.example",
            "wiki.example.evil.example",
            "a.apps.example.",
            "WIKI.example",
        ] {
            assert!(!policy.admits_host(bad), "{bad}");
        }
        assert!(RegistrationPolicy::default().admits_host("anything.example"));
    }
}
