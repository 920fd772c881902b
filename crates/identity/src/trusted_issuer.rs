//! Issuers outside the fleet whose word about workloads counts, and the keys they sign with.
//!
//! Keys are given, or fetched by whoever runs the provider (`controlplane`): it asks which are [wanted](Provider::wanted_keys)
//! and [hands them over](Provider::put_issuer_keys). Keys that could not be fetched for a day no longer count.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use testudo_model::{Timestamp, TrustDomain};
use testudo_trust::{ForeignKeySet, JoseError};

use crate::{
    Provider,
    limits::{ISSUER_KEYS_FRESH, ISSUER_KEYS_GOOD, ISSUER_KEYS_PAUSE, ISSUER_KEYS_RETRY},
};

/// An issuer that the fleet trusts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedIssuer {
    /// What the fleet calls it.
    pub name: String,
    /// How its tokens name it.
    pub identity: IssuerIdentity,
    /// `aud` of its tokens, if it is not the provider's own issuer.
    pub audience: Option<String>,
    /// Where its keys are.
    pub keys: KeySource,
}

/// How tokens name their issuer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IssuerIdentity {
    /// By `iss`.
    Issuer(String),
    /// By the trust domain of `sub`: its tokens are JWT-SVIDs.
    TrustDomain(TrustDomain),
}

/// Where keys come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// Here: a JWK Set as JSON text.
    Given(String),
    /// A JWK Set at this address.
    JwksUri(String),
    /// The JWK Set that the metadata at this address names (OpenID Connect Discovery 1.0).
    Discovery(String),
}

impl TrustedIssuer {
    /// Whether a token with this `iss` and `sub` is one of its.
    pub(crate) fn says(&self, iss: Option<&str>, sub: &str) -> bool {
        match &self.identity {
            IssuerIdentity::Issuer(issuer) => iss == Some(issuer),
            IssuerIdentity::TrustDomain(domain) => is_in(sub, domain),
        }
    }

    /// The `aud` its tokens must have.
    pub(crate) fn audience<'a>(&'a self, own: &'a str) -> &'a str {
        self.audience.as_deref().unwrap_or(own)
    }
}

fn is_in(sub: &str, domain: &TrustDomain) -> bool {
    let path = sub
        .strip_prefix("spiffe://")
        .and_then(|rest| rest.strip_prefix(domain.as_str()));
    path.is_some_and(|path| path.len() > 1 && path.starts_with('/'))
}

/// Keys that somebody should fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedKeys {
    /// Of this issuer.
    pub issuer: String,
    /// From here.
    pub source: KeySource,
}

/// All trusted issuers with their keys.
#[derive(Default)]
pub(crate) struct TrustedIssuers(Mutex<HashMap<String, KnownIssuer>>);

/// An issuer with what is known of its keys.
pub struct KnownIssuer {
    issuer: Arc<TrustedIssuer>,
    keys: Option<Arc<ForeignKeySet>>,
    fetched_at: Option<Timestamp>,
    tried_at: Option<Timestamp>,
    /// A token names a key that is not there.
    is_wanted: bool,
}

/// The keys of an issuer.
pub(crate) enum IssuerKeys {
    Known(Arc<ForeignKeySet>),
    /// They are being fetched.
    NotYet,
    /// There is no such issuer.
    Unknown,
}

impl Provider {
    /// Trusts these issuers and no others. Keys of those that stay as they are stay too.
    pub fn trust_issuers(&self, issuers: Vec<KnownIssuer>) {
        let mut all = self.issuers.lock();
        let kept = issuers.into_iter().map(|known| {
            let name = known.issuer.name.clone();
            let before = all.remove(&name);
            let same = before.filter(|before| before.issuer == known.issuer);
            (name, same.unwrap_or(known))
        });
        *all = kept.collect();
    }

    /// Keys that are to be fetched now; each counts as tried.
    pub fn wanted_keys(&self) -> Vec<WantedKeys> {
        let now = self.clock.now();
        let mut wanted = Vec::new();
        for (name, known) in self.issuers.lock().iter_mut() {
            if known.is_due(now) {
                known.tried_at = Some(now);
                known.is_wanted = false;
                wanted.push(WantedKeys {
                    issuer: name.clone(),
                    source: known.issuer.keys.clone(),
                });
            }
        }
        wanted
    }

    /// Takes the keys that were fetched for `wanted`, as JSON text.
    ///
    /// # Errors
    /// They cannot be used; those there were stay.
    pub fn put_issuer_keys(&self, wanted: &WantedKeys, jwks: &str) -> Result<(), JoseError> {
        let keys = Arc::new(ForeignKeySet::parse(jwks)?);
        if let Some(known) = self.issuers.lock().get_mut(&wanted.issuer)
            && known.issuer.keys == wanted.source
        {
            known.keys = Some(keys);
            known.fetched_at = Some(self.clock.now());
        }
        Ok(())
    }
}

impl TrustedIssuers {
    /// The issuer that a token with this `iss` and `sub` says it is of.
    pub(crate) fn of(&self, iss: Option<&str>, sub: &str) -> Option<Arc<TrustedIssuer>> {
        let all = self.lock();
        let mut issuers = all.values().map(|known| &known.issuer);
        issuers.find(|issuer| issuer.says(iss, sub)).map(Arc::clone)
    }

    pub(crate) fn keys(&self, name: &str, now: Timestamp) -> IssuerKeys {
        match self.lock().get(name) {
            None => IssuerKeys::Unknown,
            Some(known) => match &known.keys {
                Some(keys) if known.are_good(now) => IssuerKeys::Known(Arc::clone(keys)),
                _ => IssuerKeys::NotYet,
            },
        }
    }

    /// Notes that somebody needs a key that is not there. Whether it may be there soon.
    pub(crate) fn want(&self, name: &str, now: Timestamp) -> bool {
        let mut all = self.lock();
        let Some(known) = all.get_mut(name) else {
            return false;
        };
        known.is_wanted |= known.may_try(now);
        known.is_wanted
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, KnownIssuer>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KnownIssuer {
    /// One of which nothing was fetched.
    ///
    /// # Errors
    /// The keys that are given cannot be used.
    pub fn new(issuer: TrustedIssuer) -> Result<Self, JoseError> {
        let keys = match &issuer.keys {
            KeySource::Given(jwks) => Some(Arc::new(ForeignKeySet::parse(jwks)?)),
            KeySource::JwksUri(_) | KeySource::Discovery(_) => None,
        };
        Ok(Self {
            issuer: Arc::new(issuer),
            keys,
            fetched_at: None,
            tried_at: None,
            is_wanted: false,
        })
    }

    fn is_given(&self) -> bool {
        matches!(self.issuer.keys, KeySource::Given(_))
    }

    fn are_good(&self, now: Timestamp) -> bool {
        self.is_given()
            || self
                .fetched_at
                .is_some_and(|at| now.since(at) < ISSUER_KEYS_GOOD)
    }

    /// Whoever sends tokens with made-up keys does not make us ask all the time.
    /// Whoever sends tokens with made-up keys does not make us ask all the time; but where there are no keys at all, nobody
    /// gets in before they come.
    fn may_try(&self, now: Timestamp) -> bool {
        let pause = match self.are_good(now) {
            true => ISSUER_KEYS_PAUSE,
            false => ISSUER_KEYS_RETRY,
        };
        !self.is_given() && self.tried_at.is_none_or(|at| now.since(at) >= pause)
    }

    fn is_due(&self, now: Timestamp) -> bool {
        let is_fresh = |at: Timestamp| now.since(at) < ISSUER_KEYS_FRESH;
        let is_old = !self.fetched_at.is_some_and(is_fresh);
        let has_rested = |at: Timestamp| now.since(at) >= ISSUER_KEYS_PAUSE;
        let is_turn = is_old && self.tried_at.is_none_or(has_rested);
        !self.is_given() && (is_turn || (self.is_wanted && self.may_try(now)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_svid_is_of_its_trust_domain_and_of_no_other() {
        let domain: TrustDomain = "prod.example".parse().unwrap();
        assert!(is_in("spiffe://prod.example/ns/x", &domain));
        for other in [
            "spiffe://prod.example",
            "spiffe://prod.example/",
            "spiffe://prod.example.evil/ns/x",
            "spiffe://other.example/prod.example/x",
            "https://prod.example/ns/x",
            "",
        ] {
            assert!(!is_in(other, &domain), "{other}");
        }
    }
}
