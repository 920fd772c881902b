//! Clients that sign instead of keeping a secret (`private_key_jwt`, RFC 7523).

use std::{
    net::IpAddr,
    sync::{
        Barrier,
        atomic::{AtomicU8, Ordering},
    },
    thread,
    time::Duration,
};

use proptest::prelude::*;
use serde_json::{Value, json};
use testudo_identity::{
    Caller, ClientKind, ClientProfile, NewSecret, OauthError, Parameters, ServiceAccountProfile,
    TokenRequest, TokenResponse,
};
use testudo_model::{Clock, event::Outcome};
use testudo_trust::{SigningKey, base64url, hmac_sha256};

use crate::house::{
    House, ISSUER, SECRET, WEB_REDIRECT, code_of, form, native_request, redemption, web_profile,
};

const TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// A house with a client and a service account that have a key each, and no secret.
struct Signers {
    house: House,
    web: SigningKey,
    robot: SigningKey,
    /// Each request comes from a network of its own: how guessing is slowed down is tested elsewhere.
    network: AtomicU8,
}

pub fn jwks_of(keys: &[&SigningKey]) -> String {
    let keys: Vec<Value> = keys.iter().map(|key| key.public_jwk()).collect();
    json!({ "keys": keys }).to_string()
}

impl Signers {
    fn new() -> Self {
        let house = House::new();
        let (web, robot) = (SigningKey::generate(), SigningKey::generate());
        let profile = ClientProfile {
            kind: ClientKind::Confidential,
            jwks: Some(jwks_of(&[&web])),
            ..web_profile()
        };
        house
            .provider
            .create_client(
                &"signing-web".parse().unwrap(),
                profile,
                &NewSecret::None,
                &house.caller,
            )
            .unwrap();
        let profile = ServiceAccountProfile {
            jwks: Some(jwks_of(&[&robot, &SigningKey::generate()])),
            ..ServiceAccountProfile::default()
        };
        house
            .provider
            .create_service_account(
                &"robot".parse().unwrap(),
                profile,
                &NewSecret::None,
                &house.caller,
            )
            .unwrap();
        Self {
            house,
            web,
            robot,
            network: AtomicU8::new(0),
        }
    }

    /// Claims of an assertion of the robot with changes: `null` takes one away.
    fn claims(&self, changes: &[(&str, Value)]) -> Value {
        let now = self.house.clock.now().unix_seconds();
        let mut claims = json!({
            "iss": "robot",
            "sub": "robot",
            "aud": ISSUER,
            "iat": now,
            "exp": now + 60,
            "jti": base64url::encode(&self.robot.sign_raw(b"a random name")),
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

    fn assertion(&self, changes: &[(&str, Value)]) -> String {
        sign(
            &self.robot,
            &json!({ "kid": self.robot.key_id() }),
            &self.claims(changes),
        )
    }

    fn ask(&self, pairs: &[(&str, &str)]) -> Result<TokenResponse, OauthError> {
        let machine = [("grant_type", "client_credentials")];
        self.send(&form(&[&machine[..], pairs].concat()))
    }

    fn ask_with(&self, assertion: &str) -> Result<TokenResponse, OauthError> {
        self.ask(&[
            ("client_assertion_type", TYPE),
            ("client_assertion", assertion),
        ])
    }

    fn send(&self, parameters: &Parameters) -> Result<TokenResponse, OauthError> {
        let request = TokenRequest {
            parameters,
            authorization: None,
            dpop: None,
            peer: None,
        };
        let network = self.network.fetch_add(1, Ordering::Relaxed);
        let caller = Caller {
            source_ip: Some(IpAddr::from([10, network, 0, 1])),
            ..Caller::default()
        };
        let answer = self.house.provider.token(&request, &caller);
        answer.map_err(|error| error.to_oauth())
    }

    fn error(&self, assertion: &str) -> (String, u16) {
        let error = self.ask_with(assertion).unwrap_err();
        (error.error.as_str().to_owned(), error.status)
    }
}

pub fn sign(key: &SigningKey, header: &Value, claims: &Value) -> String {
    let mut full = json!({ "alg": "ES256" });
    for (name, value) in header.as_object().unwrap() {
        full[name] = value.clone();
    }
    let encode = |value: &Value| base64url::encode(value.to_string().as_bytes());
    let signed = format!("{}.{}", encode(&full), encode(claims));
    let signature = base64url::encode(&key.sign_raw(signed.as_bytes()));
    format!("{signed}.{signature}")
}

fn refused() -> (String, u16) {
    ("invalid_client".to_owned(), 401)
}

#[test]
fn a_signature_is_the_credential_of_clients_and_of_service_accounts() {
    let signers = Signers::new();
    let tokens = signers.ask_with(&signers.assertion(&[])).unwrap();
    assert_eq!(signers.house.access_claims(&tokens).client_id, "robot");
    let named = [
        ("client_id", "robot"),
        ("client_assertion_type", TYPE),
        ("client_assertion", &*signers.assertion(&[])),
    ];
    assert!(signers.ask(&named).is_ok());

    let web = [("client_id", "signing-web"), ("redirect_uri", WEB_REDIRECT)];
    let code = code_of(&signers.house.login_through(&native_request(&web)));
    let subject = [("iss", json!("signing-web")), ("sub", json!("signing-web"))];
    let assertion = sign(&signers.web, &json!({}), &signers.claims(&subject));
    let proof = [
        ("client_assertion_type", TYPE),
        ("client_assertion", &*assertion),
    ];
    let redemption = redemption(&code, &[&web[..], &proof].concat());
    assert!(
        signers.send(&redemption).is_ok(),
        "with one key no kid is needed"
    );
}

#[test]
fn an_assertion_is_for_this_issuer_now_and_by_the_client_itself() {
    let signers = Signers::new();
    let now = signers.house.clock.now().unix_seconds();
    let long = "x".repeat(257);
    for (name, value) in [
        ("aud", json!(format!("{ISSUER}/oauth2/token"))),
        ("aud", json!(format!("{ISSUER}/"))),
        ("aud", json!([ISSUER])),
        ("aud", json!([ISSUER, "https://evil.example"])),
        ("aud", json!("https://evil.example")),
        ("aud", json!("")),
        ("aud", json!(null)),
        ("iss", json!("web")),
        ("iss", json!(null)),
        ("sub", json!("web")),
        ("sub", json!("nobody")),
        ("sub", json!(["robot"])),
        ("exp", json!(null)),
        ("exp", json!(now - 10)),
        ("exp", json!((now + 60).to_string())),
        ("iat", json!(now + 11)),
        ("iat", json!(now + 3_600)),
        ("nbf", json!(now + 11)),
        ("jti", json!(null)),
        ("jti", json!("")),
        ("jti", json!(long)),
    ] {
        let assertion = signers.assertion(&[(name, value.clone())]);
        assert_eq!(signers.error(&assertion), refused(), "{name}: {value}");
    }
}

#[test]
fn clocks_may_be_ten_seconds_apart() {
    let signers = Signers::new();
    let now = signers.house.clock.now().unix_seconds();
    for (name, value) in [
        ("iat", json!(now + 10)),
        ("nbf", json!(now + 10)),
        ("iat", json!(null)),
        ("exp", json!(now - 9)),
        ("exp", json!(now + 300)),
    ] {
        let mut changes = vec![(name, value.clone())];
        if name == "exp" {
            changes.push(("iat", json!(now - 60)));
        }
        let answer = signers.ask_with(&signers.assertion(&changes));
        assert!(answer.is_ok(), "{name}: {value}: {answer:?}");
    }
}

#[test]
fn an_assertion_is_worth_something_for_five_minutes_whatever_it_says() {
    let signers = Signers::new();
    let now = signers.house.clock.now().unix_seconds();
    let assertion = |iat: Value, exp: i64, jti: &str| {
        signers.assertion(&[("iat", iat), ("exp", json!(exp)), ("jti", json!(jti))])
    };
    // Libraries that make one for each request let it live for an hour.
    let made = assertion(json!(now), now + 3600, "an hour");
    assert!(signers.ask_with(&made).is_ok());
    assert_eq!(signers.error(&made), refused(), "once");
    for exp in [now + 3600, i64::MAX] {
        let early = assertion(json!(now - 309), exp, &format!("early {exp}"));
        assert!(signers.ask_with(&early).is_ok());
        let late = assertion(json!(now - 310), exp, &format!("late {exp}"));
        assert_eq!(signers.error(&late), refused());
    }
    // One that does not say when it was made must end soon.
    let soon = assertion(Value::Null, now + 310, "soon");
    assert!(signers.ask_with(&soon).is_ok());
    for exp in [now + 311, i64::MAX] {
        let late = assertion(Value::Null, exp, &format!("unknown {exp}"));
        assert_eq!(signers.error(&late), refused());
    }
    // When it is forgotten it is worth nothing.
    signers.house.clock.advance(Duration::from_secs(310));
    assert_eq!(signers.error(&made), refused());
}

#[test]
fn no_algorithm_type_or_key_but_the_clients_own_will_do() {
    let signers = Signers::new();
    let claims = signers.claims(&[]);
    let kid = json!({ "kid": signers.robot.key_id() });
    let with = |name: &str, value: Value| {
        let mut header = kid.clone();
        header[name] = value;
        sign(&signers.robot, &header, &claims)
    };
    let text = |assertion: &str| assertion.rsplit_once('.').unwrap().0.to_owned();
    let hs256 = text(&with("alg", json!("HS256")));
    let jwk = signers.robot.public_jwk().to_string();
    let mac = base64url::encode(&hmac_sha256(jwk.as_bytes(), hs256.as_bytes()));
    for assertion in [
        with("alg", json!("none")),
        with("alg", json!("RS256")),
        format!("{}.", text(&with("alg", json!("none")))),
        format!("{hs256}.{mac}"),
        with("typ", json!("at+jwt")),
        with("typ", json!("dpop+jwt")),
        with("jwk", signers.robot.public_jwk()),
        with("jku", json!("https://evil.example/keys")),
        with("kid", json!("another")),
        sign(&signers.robot, &json!({}), &claims),
        sign(&signers.web, &kid, &claims),
        sign(
            &SigningKey::generate(),
            &json!({ "jwk": signers.robot.public_jwk() }),
            &claims,
        ),
        "x.y.z".to_owned(),
        String::from("A"),
        "A".repeat(30_000),
    ] {
        assert_eq!(signers.error(&assertion), refused(), "{assertion:.80}");
    }
    let twice = format!(
        r#"{{"iss":"robot","sub":"robot","sub":"web","aud":"{ISSUER}","exp":9999999999,"jti":"x"}}"#
    );
    let header = base64url::encode(
        json!({ "alg": "ES256", "kid": signers.robot.key_id() })
            .to_string()
            .as_bytes(),
    );
    let signed = format!("{header}.{}", base64url::encode(twice.as_bytes()));
    let signature = base64url::encode(&signers.robot.sign_raw(signed.as_bytes()));
    assert_eq!(signers.error(&format!("{signed}.{signature}")), refused());
}

#[test]
fn an_assertion_is_good_once_until_it_has_ended_and_then_it_has_ended() {
    let signers = Signers::new();
    let named = signers.assertion(&[("jti", json!("one"))]);
    assert!(signers.ask_with(&named).is_ok());
    for _ in 0..3 {
        assert_eq!(signers.error(&named), refused());
        signers.house.clock.advance(Duration::from_secs(20));
    }
    let reported = signers.house.events_named("token.issue", Outcome::Denied);
    assert_eq!(reported.len(), 3);
    // A later assertion may have the name of one that has ended.
    signers.house.clock.advance(Duration::from_secs(20));
    assert!(
        signers
            .ask_with(&signers.assertion(&[("jti", json!("one"))]))
            .is_ok()
    );
}

#[test]
fn of_parallel_uses_of_one_assertion_one_gets_a_token() {
    let signers = Signers::new();
    let assertion = signers.assertion(&[]);
    let barrier = Barrier::new(8);
    let given = thread::scope(|scope| {
        let ask = || {
            barrier.wait();
            signers.ask_with(&assertion).is_ok()
        };
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .filter(|given| *given)
            .count()
    });
    assert_eq!(given, 1);
}

#[test]
fn one_way_at_a_time_and_the_right_one() {
    let signers = Signers::new();
    let assertion = signers.assertion(&[]);
    let proof = ("client_assertion", &*assertion);
    let error = |pairs: &[(&str, &str)]| signers.ask(pairs).unwrap_err();
    let two = error(&[
        ("client_assertion_type", TYPE),
        proof,
        ("client_secret", SECRET),
    ]);
    assert_eq!((two.error.as_str(), two.status), ("invalid_request", 400));
    for pairs in [
        &[proof][..],
        &[
            proof,
            (
                "client_assertion_type",
                "urn:ietf:params:oauth:client-assertion-type:saml2-bearer",
            ),
        ],
        &[
            proof,
            ("client_assertion_type", TYPE),
            ("client_id", "restock"),
        ],
        &[proof, ("client_assertion_type", TYPE), ("client_id", "cli")],
        &[("client_id", "robot"), ("client_secret", SECRET)],
        &[("client_id", "robot")],
    ] {
        let refused = error(pairs);
        assert_eq!(
            (refused.error.as_str(), refused.status),
            ("invalid_client", 401),
            "{pairs:?}"
        );
    }
    let parameters = form(&[
        ("grant_type", "client_credentials"),
        ("client_assertion_type", TYPE),
        proof,
    ]);
    let request = TokenRequest {
        parameters: &parameters,
        authorization: Some("Basic cm9ib3Q6c2VjcmV0"),
        dpop: None,
        peer: None,
    };
    let both = signers
        .house
        .provider
        .token(&request, &signers.house.caller);
    assert_eq!(
        both.unwrap_err().to_oauth().error.as_str(),
        "invalid_request"
    );
    assert!(
        signers.ask_with(&assertion).is_ok(),
        "what was refused unseen is not used up"
    );
}

#[test]
fn keys_that_cannot_be_used_are_refused_when_they_are_declared() {
    let house = House::new();
    let good = SigningKey::generate();
    let mut private = good.public_jwk();
    private["d"] = json!("c2VjcmV0");
    for jwks in [
        String::new(),
        "{}".to_owned(),
        json!({ "keys": [] }).to_string(),
        json!({ "keys": [{ "kty": "RSA", "n": "AQAB", "e": "AQAB" }] }).to_string(),
        json!({ "keys": [private] }).to_string(),
        format!("{}{}", jwks_of(&[&good]), " ".repeat(9_000)),
    ] {
        let profile = ServiceAccountProfile {
            jwks: Some(jwks.clone()),
            ..ServiceAccountProfile::default()
        };
        let name = "keyed".parse().unwrap();
        let created =
            house
                .provider
                .create_service_account(&name, profile, &NewSecret::None, &house.caller);
        assert!(created.is_err(), "{jwks:.60}");
    }
    let public = ClientProfile {
        jwks: Some(jwks_of(&[&good])),
        ..crate::house::native_profile()
    };
    let name = "keyed".parse().unwrap();
    let created = house
        .provider
        .create_client(&name, public, &NewSecret::None, &house.caller);
    assert!(created.is_err(), "a public client keeps no key");
}

#[test]
fn no_text_crashes_the_reader_or_proves_a_client() {
    let house = House::new();
    proptest!(ProptestConfig::with_cases(64), |(text in "[A-Za-z0-9_.-]{0,200}")| {
        let parameters = form(&[
            ("grant_type", "client_credentials"),
            ("client_assertion_type", TYPE),
            ("client_assertion", &text),
        ]);
        prop_assert!(house.token(&parameters).is_err());
    });
}
