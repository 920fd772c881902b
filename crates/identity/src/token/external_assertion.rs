//! Tokens of issuers that the fleet trusts, as a proof of who a workload outside it is: a pod by the token of its cluster, a
//! build by that of its build system (RFC 7523), a workload of another trust domain by its JWT-SVID
//! (draft-ietf-oauth-spiffe-client-auth). There is no secret to hand out, and none to leak.
//!
//! The issuer says who it is, and the account says which of them may act as it. Such tokens are used again until they end, as
//! their issuers mean them to be; so they must be for us alone, and live a day at most.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Number, Value};
use testudo_model::{Timestamp, limits::MAX_TOKEN_BYTES};
use testudo_trust::{JoseError, base64url, check_times, verify_foreign_jwt};

use super::client_authentication::ClientAuthenticationError;
use crate::{
    Provider,
    limits::{ASSERTION_CLOCK_SKEW, MAX_EXTERNAL_LIFETIME, MAX_EXTERNAL_SUBJECT_BYTES},
    records::{ExternalWorkload, ServiceAccount},
    trusted_issuer::{IssuerKeys, TrustedIssuer},
};

/// `client_assertion_type` of a JWT-SVID.
pub(super) const SPIFFE_ASSERTION_TYPE: &str =
    "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe";

/// What such a token says.
#[derive(Deserialize)]
struct ExternalClaims {
    #[serde(default)]
    iss: Option<String>,
    sub: String,
    aud: Value,
    exp: i64,
    iat: Option<i64>,
    nbf: Option<i64>,
    #[serde(flatten)]
    others: Map<String, Value>,
}

/// Who vouched, and for whom: for the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Vouched {
    /// Name of the issuer, as the fleet calls it.
    pub(crate) issuer: String,
    /// `sub` of its token.
    pub(crate) subject: String,
}

/// What an assertion says of its issuer and subject, unverified: to know whose keys to verify it with.
pub(super) struct Named {
    pub(super) issuer: Option<String>,
    pub(super) subject: String,
}

impl Named {
    pub(super) fn of(assertion: &str) -> Option<Self> {
        #[derive(Deserialize)]
        struct Claims {
            iss: Option<String>,
            sub: String,
        }
        if assertion.len() > MAX_TOKEN_BYTES {
            return None;
        }
        let payload = base64url::decode(assertion.split('.').nth(1)?)?;
        let claims: Claims = serde_json::from_slice(&payload).ok()?;
        Some(Self {
            issuer: claims.iss,
            subject: claims.sub,
        })
    }
}

impl Provider {
    /// Whether `assertion` is of a trusted issuer whose keys are being fetched: who waits a moment can be answered.
    pub fn awaits_keys(&self, assertion: &str) -> bool {
        let Some(named) = Named::of(assertion) else {
            return false;
        };
        let issuer = self.issuers.of(named.issuer.as_deref(), &named.subject);
        let now = self.clock.now();
        issuer.is_some_and(|issuer| match self.issuers.keys(&issuer.name, now) {
            IssuerKeys::NotYet => {
                self.issuers.want(&issuer.name, now);
                true
            }
            IssuerKeys::Known(keys) => {
                !keys.has_key_of(assertion) && self.issuers.want(&issuer.name, now)
            }
            IssuerKeys::Unknown => false,
        })
    }

    /// Checks that `assertion`, a token of `issuer`, is of somebody who may act as `account`.
    pub(super) fn check_external(
        &self,
        assertion: &str,
        issuer: &TrustedIssuer,
        account: &ServiceAccount,
    ) -> Result<Vouched, ClientAuthenticationError> {
        let failed = || ClientAuthenticationError::Failed { basic: false };
        let keys = match self.issuers.keys(&issuer.name, self.clock.now()) {
            IssuerKeys::Known(keys) => keys,
            IssuerKeys::NotYet => {
                self.issuers.want(&issuer.name, self.clock.now());
                return Err(ClientAuthenticationError::IssuerKeys);
            }
            IssuerKeys::Unknown => return Err(failed()),
        };
        let claims: ExternalClaims = match verify_foreign_jwt(assertion, &keys) {
            Ok(claims) => claims,
            Err(JoseError::UnknownKey) if self.issuers.want(&issuer.name, self.clock.now()) => {
                return Err(ClientAuthenticationError::IssuerKeys);
            }
            Err(_) => return Err(failed()),
        };
        // From here on the issuer has said so, and whoever asks may know what is wrong.
        let refused = |why| Err(ClientAuthenticationError::Assertion(why));
        if !issuer.says(claims.iss.as_deref(), &claims.sub) {
            return refused("it is not of the issuer whose key it is signed with");
        }
        if !is_for(&claims.aud, issuer.audience(&self.settings.issuer)) {
            return refused("aud must be what the fleet expects of this issuer, and nothing else");
        }
        if !self.is_lively(&claims) {
            return refused("it has ended, has not begun, or lives for more than a day");
        }
        if claims.sub.len() > MAX_EXTERNAL_SUBJECT_BYTES {
            return refused("sub is too long");
        }
        let fits = |rule: &ExternalWorkload| {
            rule.issuer == issuer.name && rule.fits(&claims.sub, &claims.others)
        };
        if !account.external.iter().any(fits) {
            return refused("this account is not for whom it is about");
        }
        Ok(Vouched {
            issuer: issuer.name.clone(),
            subject: claims.sub,
        })
    }

    fn is_lively(&self, claims: &ExternalClaims) -> bool {
        let now = self.clock.now();
        let begun = claims.iat.or(claims.nbf).unwrap_or(now.unix_seconds());
        let latest = now + MAX_EXTERNAL_LIFETIME + ASSERTION_CLOCK_SKEW;
        check_times(begun, claims.nbf, claims.exp, now, ASSERTION_CLOCK_SKEW).is_ok()
            && Timestamp::from_unix_seconds(claims.exp) <= latest
    }
}

impl ExternalWorkload {
    /// Whether a token with this subject and these other claims is one of them.
    fn fits(&self, subject: &str, claims: &Map<String, Value>) -> bool {
        let is_subject = self.subject.as_ref().is_none_or(|wanted| wanted == subject);
        is_subject && has_all(&self.claims, claims)
    }
}

/// Whether `claims` has all of `wanted`. A name with dots, such as `kubernetes.io.namespace`, is a path if there is no claim
/// of that name.
fn has_all(wanted: &BTreeMap<String, String>, claims: &Map<String, Value>) -> bool {
    wanted
        .iter()
        .all(|(name, value)| match claim(claims, name) {
            Some(Value::String(text)) => text == value,
            Some(Value::Bool(flag)) => value.parse() == Ok(*flag),
            Some(Value::Number(number)) => {
                value.parse::<Number>().is_ok_and(|value| value == *number)
            }
            _ => false,
        })
}

fn claim<'c>(claims: &'c Map<String, Value>, name: &str) -> Option<&'c Value> {
    if let Some(value) = claims.get(name) {
        return Some(value);
    }
    // `kubernetes.io` has a dot itself: the longest name that is there counts.
    let dots = name.match_indices('.').map(|(at, _)| at);
    dots.rev().find_map(|at| {
        let (first, rest) = name.split_at_checked(at)?;
        let inner = claims.get(first)?.as_object()?;
        claim(inner, rest.strip_prefix('.')?)
    })
}

/// Whether `aud`, a text or a list of one, is `expected` alone: another receiver of the token could otherwise be us.
fn is_for(aud: &Value, expected: &str) -> bool {
    match aud {
        Value::String(audience) => audience == expected,
        Value::Array(list) => {
            matches!(list.as_slice(), [Value::String(audience)] if audience == expected)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_audience_is_us_and_nobody_else() {
        let us = "https://id.example";
        assert!(is_for(&json!(us), us) && is_for(&json!([us]), us));
        for other in [
            json!([]),
            json!([us, "vault"]),
            json!(["vault", us]),
            json!(null),
            json!("https://id.example/"),
        ] {
            assert!(!is_for(&other, us), "{other}");
        }
    }

    #[test]
    fn a_rule_fits_whoever_has_all_it_names() {
        let claims = json!({
            "repository": "acme/shop",
            "run_attempt": 1,
            "protected": true,
            "kubernetes.io": { "namespace": "prod", "serviceaccount": { "name": "deployer" } },
            "list": ["x"],
        });
        let claims = claims.as_object().unwrap();
        let fits = |subject: Option<&str>, wanted: &[(&str, &str)]| {
            let rule = ExternalWorkload {
                issuer: "any".to_owned(),
                subject: subject.map(str::to_owned),
                claims: wanted
                    .iter()
                    .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                    .collect(),
            };
            rule.fits("repo:acme/shop", claims)
        };
        assert!(fits(Some("repo:acme/shop"), &[]));
        assert!(fits(
            None,
            &[
                ("repository", "acme/shop"),
                ("run_attempt", "1"),
                ("protected", "true")
            ]
        ));
        assert!(fits(
            None,
            &[("kubernetes.io.serviceaccount.name", "deployer")]
        ));
        for (subject, wanted) in [
            (Some("repo:acme/sho"), vec![]),
            (Some("repo:acme/shop"), vec![("repository", "acme/other")]),
            (None, vec![("repository", "ACME/shop")]),
            (None, vec![("kubernetes.io.namespace", "dev")]),
            (None, vec![("kubernetes.io", "prod")]),
            (None, vec![("list", "x")]),
            (None, vec![("missing", "x")]),
        ] {
            assert!(!fits(subject, &wanted), "{subject:?} {wanted:?}");
        }
    }

    #[test]
    fn the_client_is_named_by_the_subject() {
        let named = |assertion: &str| Named::of(assertion).map(|named| named.subject);
        let assertion = |claims: &str| format!("x.{}.x", base64url::encode(claims.as_bytes()));
        assert_eq!(
            named(&assertion(r#"{"sub":"web"}"#)).as_deref(),
            Some("web")
        );
        for bad in [
            "",
            ".",
            "x.x",
            "x.=.x",
            &assertion("[]"),
            &assertion(r#"{"sub":7}"#),
        ] {
            assert!(named(bad).is_none(), "{bad}");
        }
        assert!(named(&"x.".repeat(MAX_TOKEN_BYTES)).is_none());
    }
}
