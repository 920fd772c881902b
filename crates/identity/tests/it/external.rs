//! Workloads outside the fleet that a trusted issuer vouches for.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};
use testudo_identity::{
    ExternalWorkload, IssuerIdentity, KeySource, KnownIssuer, NewSecret, OauthError,
    ServiceAccountProfile, TokenRequest, TokenResponse, TrustedIssuer, WantedKeys,
};
use testudo_model::{
    Clock,
    event::{Detail, Outcome},
};
use testudo_trust::SigningKey;

use crate::{
    assertions::{jwks_of, sign},
    house::{House, ISSUER, form},
};

const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
const JWT_SPIFFE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe";
const BUILDS: &str = "https://builds.example";
const MAIN: &str = "repo:acme/shop:ref:refs/heads/main";

/// A house with the account `deployer`, which builds of one branch and one workload of another trust domain may act as.
struct Outside {
    house: House,
    builds: SigningKey,
    spire: SigningKey,
}

fn issuer(name: &str, identity: IssuerIdentity, keys: KeySource) -> KnownIssuer {
    let issuer = TrustedIssuer {
        name: name.to_owned(),
        identity,
        audience: None,
        keys,
    };
    KnownIssuer::new(issuer).unwrap()
}

fn rule(issuer: &str, subject: &str, claims: &[(&str, &str)]) -> ExternalWorkload {
    let pairs = claims
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    ExternalWorkload {
        issuer: issuer.to_owned(),
        subject: Some(subject.to_owned()),
        claims: BTreeMap::from_iter(pairs),
    }
}

impl Outside {
    fn new() -> Self {
        let house = House::new();
        let (builds, spire) = (SigningKey::generate(), SigningKey::generate());
        house.provider.trust_issuers(vec![
            issuer(
                "builds",
                IssuerIdentity::Issuer(BUILDS.to_owned()),
                KeySource::Given(jwks_of(&[&builds])),
            ),
            issuer(
                "spire",
                IssuerIdentity::TrustDomain("other.example".parse().unwrap()),
                KeySource::Given(jwks_of(&[&spire])),
            ),
        ]);
        for (name, external) in [
            (
                "deployer",
                vec![
                    rule("builds", MAIN, &[("environment", "production")]),
                    rule("spire", "spiffe://other.example/ci/deployer", &[]),
                ],
            ),
            ("bystander", vec![rule("builds", "repo:acme/other", &[])]),
        ] {
            let profile = ServiceAccountProfile {
                external,
                ..ServiceAccountProfile::default()
            };
            let name = name.parse().unwrap();
            house
                .provider
                .create_service_account(&name, profile, &NewSecret::None, &house.caller)
                .unwrap();
        }
        Self {
            house,
            builds,
            spire,
        }
    }

    /// Claims of a build of the main branch with changes: `null` takes one away.
    fn build(&self, changes: &[(&str, Value)]) -> Value {
        let now = self.house.clock.now().unix_seconds();
        let mut claims = json!({
            "iss": BUILDS,
            "sub": MAIN,
            "aud": ISSUER,
            "iat": now,
            "exp": now + 3600,
            "environment": "production",
        });
        for (name, value) in changes {
            claims[name] = value.clone();
        }
        claims
            .as_object_mut()
            .unwrap()
            .retain(|_, value| !value.is_null());
        claims
    }

    fn token_of_build(&self, changes: &[(&str, Value)]) -> String {
        sign(
            &self.builds,
            &json!({ "kid": self.builds.key_id(), "typ": "JWT" }),
            &self.build(changes),
        )
    }

    fn ask(&self, client: &str, kind: &str, assertion: &str) -> Result<TokenResponse, OauthError> {
        let parameters = form(&[
            ("grant_type", "client_credentials"),
            ("client_id", client),
            ("client_assertion_type", kind),
            ("client_assertion", assertion),
        ]);
        let request = TokenRequest {
            parameters: &parameters,
            authorization: None,
            dpop: None,
            peer: None,
        };
        let answer = self.house.provider.token(&request, &self.house.caller);
        answer.map_err(|error| error.to_oauth())
    }

    fn build_gets(&self, assertion: &str) -> Result<TokenResponse, OauthError> {
        self.ask("deployer", JWT_BEARER, assertion)
    }
}

#[test]
fn a_build_gets_tokens_as_the_account_that_names_it_as_often_as_it_asks() {
    let outside = Outside::new();
    let assertion = outside.token_of_build(&[("aud", json!([ISSUER]))]);
    for _ in 0..2 {
        let tokens = outside.build_gets(&assertion).unwrap();
        let claims = outside.house.access_claims(&tokens);
        assert_eq!(claims.client_id, "deployer");
        assert!(claims.sub.starts_with("sva_") && claims.cnf.is_none());
    }
    let issued = outside.house.events_named("token.issue", Outcome::Success);
    assert_eq!(issued.len(), 2);
    assert_eq!(issued[0].details["vouched_by"], Detail::from("builds"));
    assert_eq!(issued[0].details["external_subject"], Detail::from(MAIN));
}

#[test]
fn a_workload_of_another_trust_domain_shows_its_jwt_svid() {
    let outside = Outside::new();
    let svid = |sub: &str| {
        let now = outside.house.clock.now().unix_seconds();
        let claims = json!({ "sub": sub, "aud": [ISSUER], "exp": now + 300, "iat": now });
        sign(
            &outside.spire,
            &json!({ "kid": outside.spire.key_id() }),
            &claims,
        )
    };
    let ask = |sub| outside.ask("deployer", JWT_SPIFFE, &svid(sub));
    assert!(ask("spiffe://other.example/ci/deployer").is_ok());
    for sub in [
        "spiffe://other.example/ci/other",
        "spiffe://third.example/ci/deployer",
        "spiffe://other.example",
    ] {
        assert_eq!(
            ask(sub).unwrap_err().error.as_str(),
            "invalid_client",
            "{sub}"
        );
    }
}

#[test]
fn nobody_else_gets_a_token_with_what_an_issuer_says_of_others() {
    let outside = Outside::new();
    let now = outside.house.clock.now().unix_seconds();
    for (what, changes) in [
        (
            "another branch",
            vec![("sub", json!("repo:acme/shop:ref:refs/heads/evil"))],
        ),
        ("a longer name", vec![("sub", json!(format!("{MAIN}2")))]),
        (
            "another environment",
            vec![("environment", json!("staging"))],
        ),
        ("no environment", vec![("environment", Value::Null)]),
        (
            "for somebody else",
            vec![("aud", json!("https://vault.example"))],
        ),
        (
            "for somebody else as well",
            vec![("aud", json!([ISSUER, "https://vault.example"]))],
        ),
        ("for nobody", vec![("aud", Value::Null)]),
        (
            "of another issuer",
            vec![("iss", json!("https://evil.example"))],
        ),
        ("of itself", vec![("iss", json!("deployer"))]),
        ("of nobody", vec![("iss", Value::Null)]),
        (
            "ended",
            vec![("iat", json!(now - 7200)), ("exp", json!(now - 3600))],
        ),
        ("not begun", vec![("nbf", json!(now + 600))]),
        ("for ever", vec![("exp", json!(now + 365 * 24 * 3600))]),
        ("without an end", vec![("exp", Value::Null)]),
    ] {
        let refused = outside
            .build_gets(&outside.token_of_build(&changes))
            .unwrap_err();
        assert_eq!(
            (refused.error.as_str(), refused.status),
            ("invalid_client", 401),
            "{what}"
        );
    }
    let good = outside.token_of_build(&[]);
    assert!(outside.build_gets(&good).is_ok());
    let as_another = outside.ask("bystander", JWT_BEARER, &good).unwrap_err();
    assert_eq!(as_another.error.as_str(), "invalid_client");
    let stranger = sign(
        &SigningKey::generate(),
        &json!({ "kid": outside.builds.key_id() }),
        &outside.build(&[]),
    );
    assert_eq!(outside.build_gets(&stranger).unwrap_err().status, 401);
    // What one issuer says with the key of another.
    let borrowed = sign(
        &outside.spire,
        &json!({ "kid": outside.spire.key_id() }),
        &outside.build(&[]),
    );
    assert_eq!(outside.build_gets(&borrowed).unwrap_err().status, 401);
    outside.house.provider.trust_issuers(Vec::new());
    assert_eq!(
        outside.build_gets(&good).unwrap_err().status,
        401,
        "it is trusted no more"
    );
}

#[test]
fn keys_are_fetched_when_they_are_needed_and_not_more_often_than_that() {
    let outside = Outside::new();
    let provider = &outside.house.provider;
    let source = KeySource::JwksUri("https://builds.example/keys".to_owned());
    let trust = || {
        let identity = IssuerIdentity::Issuer(BUILDS.to_owned());
        provider.trust_issuers(vec![issuer("builds", identity, source.clone())]);
    };
    trust();
    let good = outside.token_of_build(&[]);
    assert_eq!(
        outside.build_gets(&good).unwrap_err().status,
        503,
        "they are on their way"
    );
    let wanted = WantedKeys {
        issuer: "builds".to_owned(),
        source: source.clone(),
    };
    assert_eq!(provider.wanted_keys(), std::slice::from_ref(&wanted));
    assert_eq!(provider.wanted_keys(), [], "being fetched");
    assert!(provider.put_issuer_keys(&wanted, "{}").is_err());
    provider
        .put_issuer_keys(&wanted, &jwks_of(&[&outside.builds]))
        .unwrap();
    assert!(outside.build_gets(&good).is_ok());
    trust();
    assert!(
        outside.build_gets(&good).is_ok(),
        "what stays as it is keeps its keys"
    );

    // A new key: the first token signed with it makes them be fetched again, but a flood of such tokens does not.
    let next = SigningKey::generate();
    let new = sign(&next, &json!({ "kid": next.key_id() }), &outside.build(&[]));
    assert_eq!(
        outside.build_gets(&new).unwrap_err().status,
        401,
        "they were fetched just now"
    );
    outside.house.clock.advance(Duration::from_secs(21));
    let new = sign(&next, &json!({ "kid": next.key_id() }), &outside.build(&[]));
    assert_eq!(outside.build_gets(&new).unwrap_err().status, 503);
    assert_eq!(provider.wanted_keys(), std::slice::from_ref(&wanted));
    provider
        .put_issuer_keys(&wanted, &jwks_of(&[&next]))
        .unwrap();
    assert!(outside.build_gets(&new).is_ok());

    outside.house.clock.advance(Duration::from_secs(25 * 3600));
    let late = sign(&next, &json!({ "kid": next.key_id() }), &outside.build(&[]));
    assert_eq!(
        outside.build_gets(&late).unwrap_err().status,
        503,
        "nobody knows whether they still hold"
    );
}
