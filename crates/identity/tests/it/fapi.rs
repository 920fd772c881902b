//! The FAPI 2.0 Security Profile (<https://openid.net/specs/fapi-security-profile-2_0-final.html>) as the policy of a
//! client: each demand of sections 5.3.2 and 5.3.3, by somebody who does not meet it.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::atomic::{AtomicU8, Ordering},
    time::Duration,
};

use serde_json::{Value, json};
use testudo_identity::{
    AdminError, AuthorizeError, Caller, ClientKind, ClientPolicy, ClientProfile, NewSecret,
    OauthError, Parameters, Peer, PushedRequest, Seed, SeedClient, TokenRequest, TokenResponse,
    TokenType,
};
use testudo_model::{ClientName, Clock, Redacted, random_bytes};
use testudo_trust::{SigningKey, SystemEntropy, base64url};

use crate::house::{
    House, ISSUER, SECRET, THUMBPRINT, VERIFIER, WEB_REDIRECT, challenge, code_of, form, query,
    web_profile,
};

const TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
const BANK: &str = "bank-app";
const WORKLOAD: &str = "spiffe://bookshop.example/svc/bank-app";

/// A client that has promised the profile.
struct Bank {
    house: House,
    /// What it signs assertions with.
    signer: SigningKey,
    /// What its tokens are bound to.
    holder: SigningKey,
    /// Each request comes from a network of its own: how guessing is slowed down is tested elsewhere.
    network: AtomicU8,
}

fn profile(signer: &SigningKey) -> ClientProfile {
    ClientProfile {
        jwks: Some(json!({ "keys": [signer.public_jwk()] }).to_string()),
        policy: ClientPolicy {
            fapi2_security_profile: true,
            ..ClientPolicy::default()
        },
        ..web_profile()
    }
}

impl Bank {
    fn new() -> Self {
        let signer = SigningKey::generate();
        let profile = profile(&signer);
        Self::with(signer, profile)
    }

    fn with(signer: SigningKey, profile: ClientProfile) -> Self {
        let house = House::new();
        let name = BANK.parse().unwrap();
        let made = house
            .provider
            .create_client(&name, profile, &NewSecret::None, &house.caller);
        made.unwrap();
        Self {
            house,
            signer,
            holder: SigningKey::generate(),
            network: AtomicU8::new(0),
        }
    }

    fn now(&self) -> i64 {
        self.house.clock.now().unix_seconds()
    }

    fn assertion(&self, changes: &[(&str, Value)]) -> String {
        let mut claims = json!({
            "iss": BANK, "sub": BANK, "aud": ISSUER, "iat": self.now(), "exp": self.now() + 60,
            "jti": unique(),
        });
        for (name, value) in changes {
            claims[name] = value.clone();
        }
        sign(&self.signer, &json!({ "alg": "ES256" }), &claims)
    }

    fn proof(&self, path: &str, nonce: &str, changes: &[(&str, Value)]) -> String {
        let mut claims = json!({
            "jti": unique(), "htm": "POST", "htu": format!("{ISSUER}{path}"), "iat": self.now(),
            "nonce": nonce,
        });
        for (name, value) in changes {
            claims[name] = value.clone();
        }
        let jwk = self.holder.public_jwk();
        sign(
            &self.holder,
            &json!({ "alg": "ES256", "typ": "dpop+jwt", "jwk": jwk }),
            &claims,
        )
    }

    fn caller(&self) -> Caller {
        let network = self.network.fetch_add(1, Ordering::Relaxed);
        Caller {
            source_ip: Some(IpAddr::from([10, network, 0, 1])),
            ..Caller::default()
        }
    }

    fn push(&self, parameters: &Parameters) -> Result<PushedRequest, OauthError> {
        let request = TokenRequest {
            parameters,
            authorization: None,
            dpop: None,
            peer: None,
        };
        let pushed = self
            .house
            .provider
            .push_authorization(&request, &self.caller());
        pushed.map_err(|error| error.to_oauth())
    }

    fn push_signed(&self, changes: &[(&str, &str)]) -> Result<PushedRequest, OauthError> {
        let assertion = self.assertion(&[]);
        self.push(&asserted(&asked(changes), &assertion))
    }

    /// A code, as the browser brings it.
    fn code(&self) -> String {
        let pushed = self.push_signed(&[]).unwrap();
        let logged_in = self.house.login_through(&form(&[
            ("client_id", BANK),
            ("request_uri", &pushed.request_uri),
        ]));
        let answer = query(logged_in.location.expose());
        assert_eq!(answer["iss"], ISSUER, "RFC 9207");
        code_of(&logged_in)
    }

    fn send(
        &self,
        parameters: &Parameters,
        dpop: Option<&str>,
        peer: Option<&Peer>,
    ) -> Result<TokenResponse, OauthError> {
        let request = TokenRequest {
            parameters,
            authorization: None,
            dpop,
            peer,
        };
        let answer = self.house.provider.token(&request, &self.caller());
        answer.map_err(|error| error.to_oauth())
    }

    fn nonce(&self) -> String {
        let proof = self.proof("/oauth2/token", "", &[]);
        let parameters = form(&[("grant_type", "refresh_token")]);
        let asked = self.send(&parameters, Some(&proof), None).unwrap_err();
        asked.dpop_nonce.unwrap()
    }

    /// A request for tokens with all that belongs to it, and `changes` to the proof.
    fn tokens(
        &self,
        parameters: &Pairs,
        changes: &[(&str, Value)],
    ) -> Result<TokenResponse, OauthError> {
        let proof = self.proof("/oauth2/token", &self.nonce(), changes);
        let assertion = self.assertion(&[]);
        self.send(&asserted(parameters, &assertion), Some(&proof), None)
    }
}

/// Parameters by their names.
type Pairs = BTreeMap<String, String>;

fn pairs(defaults: &[(&str, &str)]) -> Pairs {
    let owned = defaults.iter().map(|(name, value)| (*name, *value));
    owned
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

fn alone(parameters: &Pairs) -> Parameters {
    Parameters::from_pairs(parameters.clone()).unwrap()
}

/// With an assertion beside them.
fn asserted(parameters: &Pairs, assertion: &str) -> Parameters {
    let mut parameters = parameters.clone();
    parameters.extend(pairs(&[
        ("client_assertion_type", TYPE),
        ("client_assertion", assertion),
    ]));
    alone(&parameters)
}

fn unique() -> String {
    base64url::encode(&random_bytes::<16>(&SystemEntropy))
}

fn sign(key: &SigningKey, header: &Value, claims: &Value) -> String {
    let encode = |value: &Value| base64url::encode(value.to_string().as_bytes());
    let signed = format!("{}.{}", encode(header), encode(claims));
    let signature = base64url::encode(&key.sign_raw(signed.as_bytes()));
    format!("{signed}.{signature}")
}

fn asked(changes: &[(&str, &str)]) -> Pairs {
    let mut all = pairs(&[
        ("response_type", "code"),
        ("client_id", BANK),
        ("redirect_uri", WEB_REDIRECT),
        ("scope", "openid orders:read offline_access"),
        ("state", "xyz"),
        ("code_challenge", &challenge()),
        ("code_challenge_method", "S256"),
    ]);
    all.extend(pairs(changes));
    all
}

fn redeemed(code: &str) -> Pairs {
    pairs(&[
        ("grant_type", "authorization_code"),
        ("client_id", BANK),
        ("code", code),
        ("redirect_uri", WEB_REDIRECT),
        ("code_verifier", VERIFIER),
    ])
}

fn error(answer: Result<TokenResponse, OauthError>) -> (String, u16) {
    let error = answer.map(|_| "tokens").unwrap_err();
    (error.error.as_str().to_owned(), error.status)
}

#[test]
fn whoever_does_as_the_profile_says_gets_tokens_bound_to_their_key() {
    let bank = Bank::new();
    let pushed = bank.push_signed(&[]).unwrap();
    assert!(pushed.expires_in < 600, "section 5.3.2.2, item 11");
    let code = bank.code();
    let tokens = bank.tokens(&redeemed(&code), &[]).unwrap();
    assert_eq!(tokens.token_type, TokenType::Dpop);
    let bound = bank.house.access_claims(&tokens).cnf.unwrap();
    assert_eq!(bound.key_thumbprint.as_deref(), Some(bank.holder.key_id()));
    let again = error(bank.tokens(&redeemed(&code), &[]));
    assert_eq!(again, ("invalid_grant".to_owned(), 400));
}

#[test]
fn a_code_is_good_for_a_minute() {
    let bank = Bank::new();
    let code = bank.code();
    bank.house.clock.advance(Duration::from_secs(60));
    let late = error(bank.tokens(&redeemed(&code), &[]));
    assert_eq!(late, ("invalid_grant".to_owned(), 400));
}

#[test]
fn a_request_from_the_browser_is_refused_however_complete() {
    let bank = Bank::new();
    let assertion = bank.assertion(&[]);
    for request in [alone(&asked(&[])), asserted(&asked(&[]), &assertion)] {
        let answer = bank
            .house
            .provider
            .authorize(&request, None, None, &bank.house.caller);
        let Err(AuthorizeError::Refused { location, .. }) = answer else {
            panic!("{answer:?}");
        };
        let told = query(&location);
        assert_eq!(
            (&*told["error"], &*told["iss"]),
            ("invalid_request", ISSUER)
        );
    }
}

#[test]
fn a_request_is_pushed_by_the_client_itself_with_s256_and_for_a_code() {
    let bank = Bank::new();
    let bare = bank.push(&alone(&asked(&[]))).unwrap_err();
    assert_eq!((bare.error.as_str(), bare.status), ("invalid_client", 401));
    for (change, expected) in [
        (("code_challenge_method", "plain"), "invalid_request"),
        (("code_challenge", "short"), "invalid_request"),
        (
            ("redirect_uri", "http://shop.example/cb"),
            "invalid_request",
        ),
        (
            ("redirect_uri", "https://shop.example/cb/"),
            "invalid_request",
        ),
        (("redirect_uri", ""), "invalid_request"),
        (("response_type", "token"), "unsupported_response_type"),
        (
            ("response_type", "code id_token"),
            "unsupported_response_type",
        ),
    ] {
        let refused = bank.push_signed(&[change]).unwrap_err();
        assert_eq!(refused.error.as_str(), expected, "{change:?}");
    }
    let without = asked(&[("code_challenge", ""), ("code_challenge_method", "")]);
    let assertion = bank.assertion(&[]);
    let refused = bank.push(&asserted(&without, &assertion)).unwrap_err();
    assert_eq!(refused.error.as_str(), "invalid_request");
}

#[test]
fn a_secret_proves_nothing_though_there_is_one() {
    let signer = SigningKey::generate();
    let before = ClientProfile {
        policy: ClientPolicy::default(),
        ..profile(&signer)
    };
    let house = House::new();
    let provider = &house.provider;
    let name: ClientName = BANK.parse().unwrap();
    let secret = NewSecret::Given(Redacted::new(SECRET.to_owned()));
    provider
        .create_client(&name, before, &secret, &house.caller)
        .unwrap();
    let with_secret = form(&[
        ("client_id", BANK),
        ("client_secret", SECRET),
        ("grant_type", "refresh_token"),
        ("refresh_token", "x"),
    ]);
    let attempt = || {
        let answer = house.token(&with_secret);
        error(answer.map_err(|error| error.to_oauth()))
    };
    assert_eq!(attempt(), ("invalid_grant".to_owned(), 400));
    let version = provider.client(&name).unwrap().version;
    let refused = provider.update_client(&name, version, profile(&signer), &house.caller);
    assert!(
        matches!(refused, Err(AdminError::Invalid { .. })),
        "{refused:?}"
    );
    // The fleet file knows nothing of the secret.
    let seed = Seed {
        clients: vec![SeedClient {
            client_id: name,
            profile: profile(&signer),
            secret: NewSecret::None,
        }],
        ..Seed::default()
    };
    provider.seed(&seed, &house.caller).unwrap();
    assert_eq!(attempt(), ("invalid_client".to_owned(), 401));
}

#[test]
fn tokens_are_bound_or_there_are_none() {
    let bank = Bank::new();
    let code = bank.code();
    let assertion = bank.assertion(&[]);
    let bare = bank.send(&asserted(&redeemed(&code), &assertion), None, None);
    assert_eq!(error(bare), ("invalid_dpop_proof".to_owned(), 400));
    // A certificate of another workload binds nothing.
    let stranger = Peer {
        spiffe_id: "spiffe://bookshop.example/svc/restock".parse().unwrap(),
        certificate_thumbprint: THUMBPRINT.to_owned(),
    };
    let assertion = bank.assertion(&[]);
    let other = bank.send(
        &asserted(&redeemed(&code), &assertion),
        None,
        Some(&stranger),
    );
    assert_eq!(error(other), ("invalid_dpop_proof".to_owned(), 400));
    assert!(bank.tokens(&redeemed(&code), &[]).is_ok());
}

#[test]
fn a_certificate_of_its_workload_does_for_both() {
    let signer = SigningKey::generate();
    let of_workload = ClientProfile {
        jwks: None,
        workload: Some(WORKLOAD.parse().unwrap()),
        ..profile(&signer)
    };
    let bank = Bank::with(signer, of_workload);
    let peer = Peer {
        spiffe_id: WORKLOAD.parse().unwrap(),
        certificate_thumbprint: THUMBPRINT.to_owned(),
    };
    let parameters = alone(&asked(&[]));
    let request = TokenRequest {
        parameters: &parameters,
        authorization: None,
        dpop: None,
        peer: Some(&peer),
    };
    let house = &bank.house;
    let pushed = house
        .provider
        .push_authorization(&request, &house.caller)
        .unwrap();
    let request = form(&[("client_id", BANK), ("request_uri", &pushed.request_uri)]);
    let code = code_of(&house.login_through(&request));
    assert_eq!(
        error(bank.send(&alone(&redeemed(&code)), None, None)),
        ("invalid_client".to_owned(), 401)
    );
    let tokens = bank
        .send(&alone(&redeemed(&code)), None, Some(&peer))
        .unwrap();
    let bound = house.access_claims(&tokens).cnf.unwrap();
    assert_eq!(bound.certificate_thumbprint.as_deref(), Some(THUMBPRINT));
}

#[test]
fn an_assertion_is_for_the_issuer_and_of_now() {
    let bank = Bank::new();
    let now = bank.now();
    let refused = |changes: &[(&str, Value)]| {
        let assertion = bank.assertion(changes);
        let answer = bank.push(&asserted(&asked(&[]), &assertion));
        answer
            .err()
            .map(|error| (error.error.as_str().to_owned(), error.status))
    };
    assert_eq!(
        refused(&[("iat", json!(now + 8)), ("nbf", json!(now + 8))]),
        None
    );
    let invalid = Some(("invalid_client".to_owned(), 401));
    for (name, value) in [
        ("aud", json!([ISSUER])),
        ("aud", json!(format!("{ISSUER}/oauth2/token"))),
        ("aud", json!(format!("{ISSUER}/oauth2/par"))),
        ("aud", json!("https://other.example")),
        ("iat", json!(now + 61)),
        ("nbf", json!(now + 61)),
        ("exp", json!(now - 61)),
    ] {
        assert_eq!(refused(&[(name, value.clone())]), invalid, "{name} {value}");
    }
}

#[test]
fn a_proof_of_the_future_is_refused_though_its_nonce_is_of_now() {
    let bank = Bank::new();
    let code = bank.code();
    let ahead = |seconds: i64| [("iat", json!(bank.now() + seconds))];
    let refused = error(bank.tokens(&redeemed(&code), &ahead(61)));
    assert_eq!(refused, ("invalid_dpop_proof".to_owned(), 400));
    assert!(bank.tokens(&redeemed(&code), &ahead(10)).is_ok());
}

#[test]
fn refresh_tokens_stay_as_they_are_and_are_worth_nothing_alone() {
    let bank = Bank::new();
    let first = bank.tokens(&redeemed(&bank.code()), &[]).unwrap();
    let token = first.refresh_token.unwrap();
    let refresh = pairs(&[
        ("grant_type", "refresh_token"),
        ("client_id", BANK),
        ("refresh_token", &token),
    ]);
    for _ in 0..3 {
        bank.house.clock.advance(Duration::from_secs(600));
        let next = bank.tokens(&refresh, &[]).unwrap();
        assert_eq!(next.refresh_token.as_deref(), Some(token.as_str()));
        assert_eq!(next.token_type, TokenType::Dpop);
    }
    assert_eq!(
        error(bank.send(&alone(&refresh), None, None)),
        ("invalid_client".to_owned(), 401)
    );
    let assertion = bank.assertion(&[]);
    assert_eq!(
        error(bank.send(&asserted(&refresh, &assertion), None, None)),
        ("invalid_dpop_proof".to_owned(), 400)
    );
    // What was refused ended nothing.
    assert!(bank.tokens(&refresh, &[]).is_ok());
    // It lives as long as it is used, and no longer.
    bank.house
        .clock
        .advance(Duration::from_secs(15 * 24 * 3600));
    assert_eq!(
        error(bank.tokens(&refresh, &[])),
        ("invalid_grant".to_owned(), 400)
    );
}

#[test]
fn a_client_that_cannot_meet_the_profile_is_not_registered_with_it() {
    let house = House::new();
    let signer = SigningKey::generate();
    let good = profile(&signer);
    let secret = NewSecret::Given(Redacted::new(SECRET.to_owned()));
    for (what, profile, secret) in [
        (
            "public",
            ClientProfile {
                kind: ClientKind::Public,
                jwks: None,
                ..good.clone()
            },
            &NewSecret::None,
        ),
        (
            "with a secret",
            ClientProfile {
                jwks: None,
                ..good.clone()
            },
            &secret,
        ),
        ("with a secret beside its keys", good.clone(), &secret),
        (
            "without anything",
            ClientProfile {
                jwks: None,
                ..good.clone()
            },
            &NewSecret::None,
        ),
        (
            "with an address in the clear",
            ClientProfile {
                redirect_uris: vec!["http://127.0.0.1/cb".parse().unwrap()],
                ..good.clone()
            },
            &NewSecret::None,
        ),
        (
            "with a scheme of its own",
            ClientProfile {
                redirect_uris: vec![
                    WEB_REDIRECT.parse().unwrap(),
                    "com.example.app:/cb".parse().unwrap(),
                ],
                ..good.clone()
            },
            &NewSecret::None,
        ),
    ] {
        let made =
            house
                .provider
                .create_client(&BANK.parse().unwrap(), profile, secret, &house.caller);
        assert!(matches!(made, Err(AdminError::Invalid { .. })), "{what}");
    }
}
