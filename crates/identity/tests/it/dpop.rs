//! Tokens bound to a key (DPoP, RFC 9449), and who tries to do without it.

use std::{collections::BTreeSet, sync::Barrier, thread, time::Duration};

use serde_json::{Value, json};
use testudo_identity::{
    ClientPolicy, NewSecret, OauthError, Parameters, PresentedToken, ProofTarget, Provider,
    RequestProof, TokenRequest, TokenResponse, TokenType, UserInfoError,
};
use testudo_model::{
    Clock, Redacted,
    event::{Detail, Outcome},
};
use testudo_trust::{SigningKey, base64url, sha256};

use crate::house::{
    House, ISSUER, SECRET, THUMBPRINT, WEB_REDIRECT, code_of, form, native_request, redemption,
    restock_peer,
};

const USERINFO: &str = "/oauth2/userinfo";

/// A client with a key.
struct Holder<'h> {
    house: &'h House,
    key: SigningKey,
}

impl<'h> Holder<'h> {
    fn new(house: &'h House) -> Self {
        Self {
            house,
            key: SigningKey::generate(),
        }
    }

    fn thumbprint(&self) -> &str {
        self.key.key_id()
    }

    /// A nonce of now, as an honest client learns it: by being refused.
    fn nonce(&self) -> String {
        let refused = self.send(&form(&[("grant_type", "refresh_token")]), &self.proof(&[]));
        let refused = refused.unwrap_err();
        assert_eq!(
            (refused.error.as_str(), refused.status),
            ("use_dpop_nonce", 400)
        );
        refused.dpop_nonce.unwrap()
    }

    /// A proof for the token endpoint with claims changed: `null` takes one away.
    fn proof(&self, changes: &[(&str, Value)]) -> String {
        self.proof_as(&json!({}), changes)
    }

    fn proof_as(&self, header_changes: &Value, changes: &[(&str, Value)]) -> String {
        let mut header = json!({ "alg": "ES256", "typ": "dpop+jwt", "jwk": self.key.public_jwk() });
        for (name, value) in header_changes.as_object().unwrap() {
            header[name] = value.clone();
        }
        let mut claims = json!({
            "jti": base64url::encode(&sha256(&self.key.sign_raw(b"a random name"))),
            "htm": "POST",
            "htu": format!("{ISSUER}/oauth2/token"),
            "iat": self.house.clock.now().unix_seconds(),
        });
        for (name, value) in changes {
            claims[name] = value.clone();
        }
        claims
            .as_object_mut()
            .unwrap()
            .retain(|_, value| !value.is_null());
        let encode = |value: &Value| base64url::encode(value.to_string().as_bytes());
        let signed = format!("{}.{}", encode(&header), encode(&claims));
        let signature = base64url::encode(&self.key.sign_raw(signed.as_bytes()));
        format!("{signed}.{signature}")
    }

    fn good_proof(&self) -> String {
        self.proof(&[("nonce", json!(self.nonce()))])
    }

    fn send(&self, parameters: &Parameters, proof: &str) -> Result<TokenResponse, OauthError> {
        send(&self.house.provider, self.house, parameters, Some(proof))
    }

    fn redeem(&self, code: &str) -> Result<TokenResponse, OauthError> {
        self.send(&redemption(code, &[]), &self.good_proof())
    }

    fn refresh(&self, token: &str) -> Result<TokenResponse, OauthError> {
        self.send(&refresh_form(token), &self.good_proof())
    }

    /// Asks for userinfo with a proof made for it, with claims changed.
    fn user_info(&self, token: &str, changes: &[(&str, Value)]) -> Result<String, UserInfoError> {
        let ath = base64url::encode(&sha256(token.as_bytes()));
        let usual = [
            ("htm", json!("GET")),
            ("htu", json!(format!("{ISSUER}{USERINFO}"))),
            ("ath", json!(ath)),
            ("nonce", json!(self.nonce())),
        ];
        let proof = self.proof(&[&usual[..], changes].concat());
        present(self.house, token, &proof)
    }
}

fn present(house: &House, token: &str, proof: &str) -> Result<String, UserInfoError> {
    let target = ProofTarget {
        method: "GET",
        path: USERINFO,
    };
    let presented = PresentedToken {
        token,
        proof: Some(RequestProof { proof, target }),
        peer: None,
    };
    Ok(house.provider.user_info(presented)?.sub)
}

fn send(
    provider: &Provider,
    house: &House,
    parameters: &Parameters,
    dpop: Option<&str>,
) -> Result<TokenResponse, OauthError> {
    let request = TokenRequest {
        parameters,
        authorization: None,
        dpop,
        peer: None,
    };
    provider
        .token(&request, &house.caller)
        .map_err(|error| error.to_oauth())
}

fn refresh_form(token: &str) -> Parameters {
    form(&[
        ("grant_type", "refresh_token"),
        ("client_id", "cli"),
        ("refresh_token", token),
    ])
}

fn refresh_token(tokens: &TokenResponse) -> &str {
    tokens.refresh_token.as_deref().unwrap()
}

fn code_of_error(result: &Result<TokenResponse, OauthError>) -> &str {
    result.as_ref().unwrap_err().error.as_str()
}

#[test]
fn a_token_got_with_a_proof_is_of_no_use_without_one() {
    let house = House::new();
    let holder = Holder::new(&house);
    let tokens = holder.redeem(&house.code()).unwrap();
    assert_eq!(tokens.token_type, TokenType::Dpop);
    assert!(tokens.dpop_nonce.is_some(), "the nonce of the next proof");
    let claims = house.access_claims(&tokens);
    let bound = claims.cnf.unwrap();
    assert_eq!(bound.key_thumbprint.as_deref(), Some(holder.thumbprint()));
    let token = tokens.access_token.as_str();
    assert_eq!(holder.user_info(token, &[]).unwrap(), house.alice.as_str());
    let bearer = house
        .provider
        .user_info(PresentedToken::bearer(token, None));
    assert!(matches!(bearer, Err(UserInfoError::InvalidToken)));
    let thief = Holder::new(&house);
    assert!(matches!(
        thief.user_info(token, &[]),
        Err(UserInfoError::InvalidToken)
    ));
    let plain = house.tokens();
    assert!(matches!(
        holder.user_info(&plain.access_token, &[]),
        Err(UserInfoError::InvalidToken)
    ));
}

#[test]
fn a_proof_is_for_one_request_with_one_key_at_one_time() {
    let house = House::new();
    let holder = Holder::new(&house);
    let nonce = json!(holder.nonce());
    let now = house.clock.now().unix_seconds();
    let long = "x".repeat(257);
    for (name, value) in [
        ("htm", json!("GET")),
        ("htm", json!("post")),
        ("htm", json!(null)),
        ("htu", json!(null)),
        ("htu", json!(format!("{ISSUER}/oauth2/par"))),
        ("htu", json!(format!("{ISSUER}/oauth2/token/"))),
        ("htu", json!(format!("{ISSUER}:8443/oauth2/token"))),
        ("htu", json!("http://id.bookshop.example/oauth2/token")),
        ("htu", json!("https://evil.example/oauth2/token")),
        (
            "htu",
            json!("https://id.bookshop.example@evil.example/oauth2/token"),
        ),
        (
            "htu",
            json!("https://evil@id.bookshop.example/oauth2/token"),
        ),
        ("htu", json!("/oauth2/token")),
        ("jti", json!(null)),
        ("jti", json!("")),
        ("jti", json!(long)),
        ("jti", json!(7)),
        ("iat", json!(null)),
        ("iat", json!(now - 301)),
        ("iat", json!(now + 61)),
        ("iat", json!(now.to_string())),
        ("iat", json!(i64::MIN)),
        ("iat", json!(i64::MAX)),
        ("nonce", json!(7)),
    ] {
        let proof = holder.proof(&[("nonce", nonce.clone()), (name, value.clone())]);
        let refused = holder.send(&redemption("x", &[]), &proof);
        assert_eq!(
            code_of_error(&refused),
            "invalid_dpop_proof",
            "{name}: {value}"
        );
    }
    // The same address in another spelling, and what a clock may be off.
    for (name, value) in [
        (
            "htu",
            json!("HTTPS://ID.bookshop.example:443/oauth2/./token?a=b#c"),
        ),
        ("iat", json!(now - 299)),
        ("iat", json!(now + 59)),
    ] {
        let proof = holder.proof(&[("nonce", nonce.clone()), (name, value.clone())]);
        let refused = holder.send(&redemption("x", &[]), &proof);
        assert_eq!(code_of_error(&refused), "invalid_grant", "{name}: {value}");
    }
}

#[test]
fn a_proof_is_a_jwt_of_its_own_type_with_its_own_public_key() {
    let house = House::new();
    let holder = Holder::new(&house);
    let nonce = [("nonce", json!(holder.nonce()))];
    let other = SigningKey::generate();
    let mut private = holder.key.public_jwk();
    private["d"] = json!("c2VjcmV0");
    let mut bad: Vec<String> = [
        json!({ "alg": "none" }),
        json!({ "alg": "HS256" }),
        json!({ "alg": "RS256" }),
        json!({ "typ": "JWT" }),
        json!({ "typ": "at+jwt" }),
        json!({ "typ": null }),
        json!({ "jwk": other.public_jwk() }),
        json!({ "jwk": private }),
        json!({ "jwk": null }),
        json!({ "jwk": { "kty": "oct", "k": "AAAA" } }),
        json!({ "crit": ["b64"], "b64": false }),
    ]
    .iter()
    .map(|header| holder.proof_as(header, &nonce))
    .collect();
    bad.extend(["", "x", "a.b.c", "repeated"].map(str::to_owned));
    bad.push(format!("{0}, {0}", holder.good_proof()));
    bad.push("A".repeat(100_000));
    bad.push(house.tokens().access_token);
    for proof in bad {
        let refused = holder.send(&redemption("x", &[]), &proof);
        assert_eq!(code_of_error(&refused), "invalid_dpop_proof", "{proof:.80}");
    }
}

#[test]
fn a_proof_is_good_once_even_if_the_request_came_to_nothing() {
    let house = House::new();
    let holder = Holder::new(&house);
    let (code, proof) = (house.code(), holder.good_proof());
    let failed = holder.send(&redemption("x", &[]), &proof);
    assert_eq!(code_of_error(&failed), "invalid_grant");
    let replayed = holder.send(&redemption(&code, &[]), &proof);
    assert_eq!(code_of_error(&replayed), "invalid_dpop_proof");
    let reported = house.events_named("token.issue", Outcome::Denied);
    let reason = Detail::from("the DPoP proof was used before");
    assert!(
        reported
            .iter()
            .any(|event| event.details.get("reason") == Some(&reason))
    );
    // The same name under another key is another proof.
    let jti = json!("a name");
    let first = holder.proof(&[("nonce", json!(holder.nonce())), ("jti", jti.clone())]);
    assert_eq!(
        code_of_error(&holder.send(&redemption("x", &[]), &first)),
        "invalid_grant"
    );
    let other = Holder::new(&house);
    let second = other.proof(&[("nonce", json!(other.nonce())), ("jti", jti)]);
    assert!(other.send(&redemption(&code, &[]), &second).is_ok());
    // At a resource as well.
    let tokens = other.redeem(&house.code()).unwrap();
    let named = [("jti", json!("at userinfo"))];
    assert!(other.user_info(&tokens.access_token, &named).is_ok());
    let replayed = other.user_info(&tokens.access_token, &named).unwrap_err();
    let answer = replayed.to_oauth();
    assert_eq!(
        (answer.error.as_str(), answer.status),
        ("invalid_dpop_proof", 401)
    );
}

#[test]
fn of_parallel_uses_of_one_proof_one_counts() {
    let house = House::new();
    let holder = Holder::new(&house);
    let proof = holder.good_proof();
    let barrier = Barrier::new(8);
    let counted = thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    barrier.wait();
                    let answer = send(&house.provider, &house, &redemption("x", &[]), Some(&proof));
                    code_of_error(&answer) == "invalid_grant"
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .filter(|counted| *counted)
            .count()
    });
    assert_eq!(counted, 1);
}

#[test]
fn a_nonce_is_ours_and_young_and_known_to_every_node() {
    let house = House::new();
    let holder = Holder::new(&house);
    let nonce = holder.nonce();
    let with = |nonce: &str| holder.proof(&[("nonce", json!(nonce))]);
    let mut bent = nonce.clone();
    let end = bent.pop().unwrap();
    bent.push(if end == 'A' { 'B' } else { 'A' });
    let forged = base64url::encode(&[0x7f; 24]);
    for bad in [&*bent, "", "x", &*forged, &*"A".repeat(4_000)] {
        let refused = holder.send(&redemption("x", &[]), &with(bad));
        assert_eq!(code_of_error(&refused), "use_dpop_nonce", "{bad:.40}");
    }
    let other = house.another_provider(9);
    house.clock.advance(Duration::from_millis(1));
    let newer = holder.nonce();
    let answer = send(&other, &house, &redemption("x", &[]), Some(&with(&newer)));
    assert_eq!(
        code_of_error(&answer),
        "invalid_grant",
        "made by one node, taken by another"
    );
    house.clock.advance(Duration::from_secs(119));
    let answer = holder.send(&redemption("x", &[]), &with(&nonce));
    assert_eq!(code_of_error(&answer), "invalid_grant");
    house.clock.advance(Duration::from_secs(2));
    let answer = holder.send(&redemption("x", &[]), &with(&nonce));
    assert_eq!(code_of_error(&answer), "use_dpop_nonce");
    // A process that has just started remembers no proofs, so it takes none of before.
    let newest = holder.nonce();
    house.clock.advance(Duration::from_millis(2));
    let restarted = house.another_provider(10);
    let answer = send(
        &restarted,
        &house,
        &redemption("x", &[]),
        Some(&with(&newest)),
    );
    assert_eq!(code_of_error(&answer), "use_dpop_nonce");
}

#[test]
fn a_public_clients_refresh_token_needs_its_key_and_another_key_ends_the_session() {
    let house = House::new();
    let holder = Holder::new(&house);
    let first = holder.redeem(&house.code()).unwrap();
    let without = send(
        &house.provider,
        &house,
        &refresh_form(refresh_token(&first)),
        None,
    );
    assert_eq!(code_of_error(&without), "invalid_dpop_proof");
    let second = holder.refresh(refresh_token(&first)).unwrap();
    let again = holder.refresh(refresh_token(&first)).unwrap();
    assert_eq!(
        refresh_token(&again),
        refresh_token(&second),
        "a race of one key"
    );
    let thief = Holder::new(&house);
    let stolen = thief.refresh(refresh_token(&second));
    assert_eq!(code_of_error(&stolen), "invalid_grant");
    let ended = house.events_named("session.end", Outcome::Denied);
    assert_eq!(ended.len(), 1);
    assert_eq!(
        ended[0].details.get("reason"),
        Some(&Detail::from("refresh token presented with another key"))
    );
    assert!(holder.refresh(refresh_token(&second)).is_err());
    assert!(matches!(
        holder.user_info(&second.access_token, &[]),
        Err(UserInfoError::InvalidToken)
    ));
}

#[test]
fn an_unbound_public_grant_is_bound_by_the_first_proof_it_comes_with() {
    let house = House::new();
    let tokens = house.tokens();
    let holder = Holder::new(&house);
    let bound = holder.refresh(refresh_token(&tokens)).unwrap();
    let without = send(
        &house.provider,
        &house,
        &refresh_form(refresh_token(&bound)),
        None,
    );
    assert_eq!(code_of_error(&without), "invalid_dpop_proof");
    assert!(holder.refresh(refresh_token(&bound)).is_ok());
}

#[test]
fn a_confidential_client_may_change_its_key_but_not_in_a_race() {
    let house = House::new();
    let web = [
        ("client_id", "web"),
        ("redirect_uri", WEB_REDIRECT),
        ("client_secret", SECRET),
    ];
    let code = code_of(&house.login_through(&native_request(&web[..2])));
    let (one, other) = (Holder::new(&house), Holder::new(&house));
    let tokens = one
        .send(&redemption(&code, &web), &one.good_proof())
        .unwrap();
    let refresh = |holder: &Holder<'_>, token: &str| {
        let request = form(&[
            ("grant_type", "refresh_token"),
            ("client_id", "web"),
            ("client_secret", SECRET),
            ("refresh_token", token),
        ]);
        holder.send(&request, &holder.good_proof())
    };
    let next = refresh(&other, refresh_token(&tokens)).unwrap();
    let bound = house.access_claims(&next).cnf.unwrap();
    assert_eq!(bound.key_thumbprint.as_deref(), Some(other.thumbprint()));
    assert_eq!(
        code_of_error(&refresh(&one, refresh_token(&tokens))),
        "invalid_grant"
    );
    assert!(
        refresh(&other, refresh_token(&next)).is_err(),
        "the session has ended"
    );
}

#[test]
fn a_code_is_redeemed_with_the_key_it_was_asked_for_with() {
    let house = House::new();
    let (holder, thief) = (Holder::new(&house), Holder::new(&house));
    let code = || {
        let request = native_request(&[("dpop_jkt", holder.thumbprint())]);
        code_of(&house.login_through(&request))
    };
    let code = code();
    let by_thief = thief.redeem(&code);
    assert_eq!(code_of_error(&by_thief), "invalid_grant");
    let without = send(&house.provider, &house, &redemption(&code, &[]), None);
    assert_eq!(code_of_error(&without), "invalid_grant");
    assert!(holder.redeem(&code).is_ok(), "the attempts cost nothing");
    let malformed = house.provider.authorize(
        &native_request(&[("dpop_jkt", "not a thumbprint")]),
        None,
        None,
        &house.caller,
    );
    assert!(
        format!("{malformed:?}").contains("dpop_jkt"),
        "{malformed:?}"
    );
}

#[test]
fn a_request_pushed_with_a_proof_is_bound_to_its_key() {
    let house = House::new();
    let holder = Holder::new(&house);
    let push = |parameters: &Parameters| {
        let htu = json!(format!("{ISSUER}/oauth2/par"));
        let proof = holder.proof(&[("htu", htu), ("nonce", json!(holder.nonce()))]);
        let request = TokenRequest {
            parameters,
            authorization: None,
            dpop: Some(&proof),
            peer: None,
        };
        let pushed = house.provider.push_authorization(&request, &house.caller);
        pushed.map_err(|error| error.to_oauth())
    };
    let uri = push(&native_request(&[])).unwrap().request_uri;
    let request = form(&[("client_id", "cli"), ("request_uri", &uri)]);
    let code = code_of(&house.login_through(&request));
    assert_eq!(
        code_of_error(&Holder::new(&house).redeem(&code)),
        "invalid_grant"
    );
    assert!(holder.redeem(&code).is_ok());
    assert!(push(&native_request(&[("dpop_jkt", holder.thumbprint())])).is_ok());
    let other = SigningKey::generate();
    let refused = push(&native_request(&[("dpop_jkt", other.key_id())])).unwrap_err();
    assert_eq!(
        (refused.error.as_str(), refused.status),
        ("invalid_request", 400)
    );
}

#[test]
fn a_client_that_must_prove_possession_gets_no_bearer_token() {
    let house = House::new();
    house.demand(ClientPolicy {
        dpop_bound_access_tokens: true,
        ..ClientPolicy::default()
    });
    let code = house.code();
    let without = send(&house.provider, &house, &redemption(&code, &[]), None);
    assert_eq!(code_of_error(&without), "invalid_dpop_proof");
    assert!(Holder::new(&house).redeem(&code).is_ok());
}

#[test]
fn a_token_bound_to_certificate_and_key_needs_both() {
    let house = House::new();
    let holder = Holder::new(&house);
    let peer = restock_peer();
    let parameters = form(&[("grant_type", "client_credentials")]);
    let proof = holder.good_proof();
    let request = TokenRequest {
        parameters: &parameters,
        authorization: None,
        dpop: Some(&proof),
        peer: Some(&peer),
    };
    let tokens = house.provider.token(&request, &house.caller).unwrap();
    let bound = house.access_claims(&tokens).cnf.unwrap();
    assert_eq!(bound.certificate_thumbprint.as_deref(), Some(THUMBPRINT));
    assert_eq!(bound.key_thumbprint.as_deref(), Some(holder.thumbprint()));
    let token = tokens.access_token.as_str();
    let ath = base64url::encode(&sha256(token.as_bytes()));
    let attempt = |with_proof: bool, peer: Option<&testudo_identity::Peer>| {
        let proof = holder.proof(&[
            ("htm", json!("GET")),
            ("htu", json!(format!("{ISSUER}{USERINFO}"))),
            ("ath", json!(ath)),
            ("nonce", json!(holder.nonce())),
        ]);
        let proof = RequestProof {
            proof: &proof,
            target: ProofTarget {
                method: "GET",
                path: USERINFO,
            },
        };
        let presented = PresentedToken {
            token,
            proof: with_proof.then_some(proof),
            peer,
        };
        house.provider.access_token(presented).is_ok()
    };
    assert!(attempt(true, Some(&peer)));
    assert!(!attempt(true, None));
    assert!(!attempt(false, Some(&peer)));
    assert!(!attempt(false, None));
}

#[test]
fn a_proof_at_a_resource_is_of_the_token_beside_it() {
    let house = House::new();
    let holder = Holder::new(&house);
    let (one, other) = (
        holder.redeem(&house.code()).unwrap(),
        holder.redeem(&house.code()).unwrap(),
    );
    let token = one.access_token.as_str();
    let of_other = base64url::encode(&sha256(other.access_token.as_bytes()));
    for (name, value, error) in [
        ("ath", json!(of_other), "invalid_dpop_proof"),
        ("ath", json!(null), "invalid_dpop_proof"),
        ("htm", json!("POST"), "invalid_dpop_proof"),
        (
            "htu",
            json!(format!("{ISSUER}/oauth2/token")),
            "invalid_dpop_proof",
        ),
        ("nonce", json!(null), "use_dpop_nonce"),
    ] {
        let refused = holder
            .user_info(token, &[(name, value)])
            .unwrap_err()
            .to_oauth();
        assert_eq!(
            (refused.error.as_str(), refused.status),
            (error, 401),
            "{name}"
        );
        let challenge = refused.challenge.unwrap();
        assert!(
            challenge.starts_with("DPoP ") && challenge.contains(error),
            "{challenge}"
        );
        assert_eq!(refused.dpop_nonce.is_some(), error == "use_dpop_nonce");
    }
}

#[test]
fn nonces_differ_over_time_and_every_proof_of_a_nonce_counts_once() {
    let house = House::new();
    let holder = Holder::new(&house);
    let mut nonces = BTreeSet::new();
    for _ in 0..10 {
        house.clock.advance(Duration::from_millis(2));
        nonces.insert(holder.nonce());
    }
    assert_eq!(nonces.len(), 10);
    let nonce = json!(holder.nonce());
    for number in 0..50 {
        let changes = [
            ("nonce", nonce.clone()),
            ("jti", json!(format!("number {number}"))),
        ];
        let proof = holder.proof(&changes);
        let answer =
            |proof: &str| code_of_error(&holder.send(&redemption("x", &[]), proof)).to_owned();
        // What is refused for other reasons counts too; from the throttle on nothing is looked at.
        let first = answer(&proof);
        assert_eq!(first, "invalid_grant");
        assert_eq!(answer(&proof), "invalid_dpop_proof");
    }
}

#[test]
fn introspection_says_what_a_token_is_bound_to() {
    let house = House::new();
    let holder = Holder::new(&house);
    let name = "desk".parse().unwrap();
    let secret = NewSecret::Given(Redacted::new(SECRET.to_owned()));
    house
        .provider
        .create_client(&name, crate::house::web_profile(), &secret, &house.caller)
        .unwrap();
    let desk = [
        ("client_id", "desk"),
        ("redirect_uri", WEB_REDIRECT),
        ("client_secret", SECRET),
    ];
    let code = code_of(&house.login_through(&native_request(&desk[..2])));
    let tokens = holder
        .send(&redemption(&code, &desk), &holder.good_proof())
        .unwrap();
    let parameters = form(&[desk[0], desk[2], ("token", &tokens.access_token)]);
    let request = TokenRequest {
        parameters: &parameters,
        authorization: None,
        dpop: None,
        peer: None,
    };
    let told = house.provider.introspect(&request, &house.caller).unwrap();
    let told = serde_json::to_value(told).unwrap();
    assert_eq!(told["token_type"], "DPoP");
    assert_eq!(told["cnf"]["jkt"], holder.thumbprint());
}
