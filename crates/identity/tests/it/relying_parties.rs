//! Relying parties that are not as ours would be: they read RS256 alone, want signed userinfo, or know no PKCE.

use serde_json::Value;
use testudo_identity::{
    AdminError, Authorization, AuthorizeError, ClientKind, ClientPolicy, ClientProfile,
    ClientSigning, ErrorCode, KeyRotation, Logout, NewPassword, NewSecret, PresentedToken,
    SignatureAlgorithm, TokenError, TokenResponse, UserInfoAnswer, UserProfile,
};
use testudo_model::Redacted;
use testudo_trust::{ForeignKeySet, SigningKey, base64url, verify_foreign_jwt};

use crate::house::{
    House, ISSUER, PASSWORD, SECRET, THUMBPRINT, WEB_REDIRECT, changed, claimed_request, code_of,
    form, native_profile, native_request, query, redemption, web_profile,
};

const RS256: ClientSigning = ClientSigning {
    id_token_signed_response_alg: SignatureAlgorithm::Rs256,
    userinfo_signed_response_alg: Some(SignatureAlgorithm::Rs256),
};

fn sign_for_cli(house: &House, signing: ClientSigning) {
    let cli = "cli".parse().unwrap();
    let version = house.provider.client(&cli).unwrap().version;
    let profile = ClientProfile {
        signing,
        ..native_profile()
    };
    let provider = &house.provider;
    provider
        .update_client(&cli, version, profile, &house.caller)
        .unwrap();
}

fn published(house: &House) -> Value {
    house.provider.jwks().unwrap()
}

fn kinds(jwks: &Value) -> Vec<&str> {
    let keys = jwks["keys"].as_array().unwrap().iter();
    keys.map(|key| key["kty"].as_str().unwrap()).collect()
}

fn algorithm(token: &str) -> Value {
    let header = base64url::decode(token.split('.').next().unwrap()).unwrap();
    serde_json::from_slice::<Value>(&header).unwrap()["alg"].take()
}

/// As anybody reads it who has nothing but the published keys.
fn read(jwks: &Value, token: &str) -> Option<Value> {
    let keys = ForeignKeySet::parse(&jwks.to_string()).unwrap();
    verify_foreign_jwt(token, &keys).ok()
}

fn id_token(tokens: &TokenResponse) -> &str {
    tokens.id_token.as_deref().unwrap()
}

#[test]
fn a_client_that_reads_rs256_alone_is_told_with_it_and_the_fleet_is_not() {
    let house = House::new();
    assert_eq!(kinds(&published(&house)), ["EC", "EC"]);
    sign_for_cli(&house, RS256);
    // Before there is a token, whoever looks once finds its key.
    let jwks = published(&house);
    assert_eq!(kinds(&jwks), ["EC", "EC", "RSA", "RSA"]);
    let tokens = house.tokens();
    assert_eq!(published(&house), jwks);
    assert_eq!(algorithm(id_token(&tokens)), "RS256");
    let claims = read(&jwks, id_token(&tokens)).unwrap();
    assert_eq!(
        (&claims["aud"], &claims["nonce"]),
        (&"cli".into(), &"n-0S6".into())
    );
    assert_eq!(algorithm(&tokens.access_token), "ES256");
    assert_eq!(house.access_claims(&tokens).client_id, "cli");
    let for_proxies = house.provider.issuer().unwrap().jwks;
    assert_eq!(
        kinds(&serde_json::from_str(&for_proxies).unwrap()),
        ["EC", "EC"]
    );
    // Another node has the same keys.
    assert_eq!(house.another_provider(7).jwks().unwrap(), jwks);
    // Nobody else is told differently because of it.
    sign_for_cli(&house, ClientSigning::default());
    assert_eq!(algorithm(id_token(&house.tokens())), "ES256");
}

#[test]
fn rsa_keys_rotate_with_the_others() {
    let house = House::new();
    sign_for_cli(&house, RS256);
    let old = house.tokens();
    let rotate = |why| {
        house
            .provider
            .rotate_signing_keys(why, &house.caller)
            .unwrap()
    };
    rotate(KeyRotation::Scheduled);
    assert_eq!(
        kinds(&published(&house)),
        ["EC", "EC", "EC", "RSA", "RSA", "RSA"]
    );
    assert!(
        read(&published(&house), id_token(&old)).is_some(),
        "overlap"
    );
    assert!(read(&published(&house), id_token(&house.tokens())).is_some());
    rotate(KeyRotation::Compromise);
    assert!(read(&published(&house), id_token(&old)).is_none());
    assert!(read(&published(&house), id_token(&house.tokens())).is_some());
}

#[test]
fn an_id_token_with_rs256_is_a_hint_and_signed_userinfo_is_none() {
    let house = House::new();
    sign_for_cli(&house, RS256);
    let logged_in = house.login_through(&native_request(&[]));
    let tokens = house.redeem(&code_of(&logged_in)).unwrap();
    let cookie = logged_in.session_cookie.expose();
    let ask = |hint: &str| {
        let parameters = form(&[("id_token_hint", hint)]);
        let provider = &house.provider;
        provider
            .begin_logout(&parameters, Some(cookie), &house.caller)
            .unwrap()
    };
    let presented = PresentedToken::bearer(&tokens.access_token, None);
    let UserInfoAnswer::Signed(signed) = house.provider.user_info_answer(presented).unwrap() else {
        panic!("not signed");
    };
    let claims = read(&published(&house), signed.expose()).unwrap();
    assert_eq!(
        (&claims["iss"], &claims["aud"]),
        (&ISSUER.into(), &"cli".into())
    );
    assert_eq!(
        (&claims["sub"], &claims["name"]),
        (&house.alice.as_str().into(), &"Alice".into())
    );
    assert_eq!(claims["exp"], Value::Null);
    let stranger =
        SigningKey::generate().sign_jwt("JWT", &read(&published(&house), id_token(&tokens)));
    for not_one in [signed.expose(), &tokens.access_token, &stranger.unwrap()] {
        assert!(matches!(ask(not_one), Logout::Ask(_)), "{not_one}");
    }
    assert!(matches!(ask(id_token(&tokens)), Logout::Done { .. }));
}

/// The web client, which proves itself with a secret.
struct Old(House);

impl Old {
    fn new() -> Self {
        let house = House::new();
        let policy = ClientPolicy {
            pkce_optional: true,
            ..ClientPolicy::default()
        };
        let profile = ClientProfile {
            policy,
            ..web_profile()
        };
        let web = "web".parse().unwrap();
        let version = house.provider.client(&web).unwrap().version;
        house
            .provider
            .update_client(&web, version, profile, &house.caller)
            .unwrap();
        Self(house)
    }

    /// A code for a request with these changes; it has no challenge.
    fn code(&self, changes: &[(&'static str, &'static str)]) -> String {
        code_of(&self.0.login_through(&bare_request("web", changes)))
    }

    fn redeem(
        &self,
        code: &str,
        changes: &[(&'static str, &'static str)],
    ) -> Result<TokenResponse, TokenError> {
        let defaults = [
            ("grant_type", "authorization_code"),
            ("client_id", "web"),
            ("client_secret", SECRET),
            ("redirect_uri", WEB_REDIRECT),
            ("code", code),
        ];
        self.0.token(&changed(&defaults, changes))
    }
}

fn bare_request(
    client: &'static str,
    changes: &[(&'static str, &'static str)],
) -> testudo_identity::Parameters {
    let defaults = [
        ("response_type", "code"),
        ("client_id", client),
        ("redirect_uri", WEB_REDIRECT),
        ("scope", "openid"),
        ("nonce", "n-0S6"),
    ];
    changed(&defaults, changes)
}

/// A challenge and its verifier (RFC 7636 appendix B).
const CHALLENGE: [(&str, &str); 2] = [
    (
        "code_challenge",
        "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM",
    ),
    ("code_challenge_method", "S256"),
];
const VERIFIER: (&str, &str) = (
    "code_verifier",
    "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
);

#[test]
fn a_confidential_client_that_may_do_without_pkce_gets_its_tokens_once() {
    let old = Old::new();
    let code = old.code(&[]);
    let tokens = old.redeem(&code, &[]).unwrap();
    assert!(matches!(
        old.redeem(&code, &[]),
        Err(TokenError::CodeReplayed)
    ));
    let presented = PresentedToken::bearer(&tokens.access_token, None);
    assert!(old.0.provider.user_info(presented).is_err(), "taken back");
    // Who has the code and not the secret ends nothing.
    let code = old.code(&[]);
    old.redeem(&code, &[("client_secret", "wrong")])
        .unwrap_err();
    assert!(matches!(
        old.0.token(&redemption(&code, &[])),
        Err(TokenError::UnknownGrant)
    ));
    old.redeem(&code, &[]).unwrap();
}

#[test]
fn what_may_be_left_away_still_binds_when_it_is_there() {
    let old = Old::new();
    let code = old.code(&CHALLENGE);
    assert!(matches!(
        old.redeem(&code, &[]),
        Err(TokenError::VerifierMismatch)
    ));
    let wrong = ("code_verifier", THUMBPRINT);
    assert!(matches!(
        old.redeem(&code, &[wrong]),
        Err(TokenError::VerifierMismatch)
    ));
    old.redeem(&code, &[VERIFIER]).unwrap();
    // Somebody took the challenge out of the request: the client has not asked for this code.
    let code = old.code(&[]);
    assert!(matches!(
        old.redeem(&code, &[VERIFIER]),
        Err(TokenError::VerifierMismatch)
    ));
    for half in CHALLENGE {
        assert_eq!(
            refusal(&old.0, "web", &[half]),
            ErrorCode::InvalidRequest,
            "{half:?}"
        );
    }
    let plain = [
        ("code_challenge", THUMBPRINT),
        ("code_challenge_method", "plain"),
    ];
    assert_eq!(refusal(&old.0, "web", &plain), ErrorCode::InvalidRequest);
}

fn refusal(
    house: &House,
    client: &'static str,
    changes: &[(&'static str, &'static str)],
) -> ErrorCode {
    let parameters = bare_request(client, changes);
    match house
        .provider
        .authorize(&parameters, None, None, &house.caller)
    {
        Err(AuthorizeError::Refused { why, location }) => {
            assert_eq!(query(&location)["error"], why.code().as_str());
            why.code()
        }
        Ok(Authorization::Login(_)) => panic!("{changes:?} is good"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn nobody_else_does_without_pkce() {
    let house = House::new();
    assert_eq!(refusal(&house, "web", &[]), ErrorCode::InvalidRequest);
    let policy = ClientPolicy {
        pkce_optional: true,
        ..ClientPolicy::default()
    };
    let public = ClientProfile {
        policy,
        ..native_profile()
    };
    let jwks = serde_json::json!({ "keys": [SigningKey::generate().public_jwk()] }).to_string();
    let bank = ClientProfile {
        policy: ClientPolicy {
            fapi2_security_profile: true,
            ..policy
        },
        jwks: Some(jwks),
        kind: ClientKind::Confidential,
        ..web_profile()
    };
    let with_rsa = ClientProfile {
        policy: ClientPolicy {
            pkce_optional: false,
            ..bank.policy
        },
        signing: RS256,
        ..bank.clone()
    };
    for refused in [public, bank, with_rsa] {
        let made = house.provider.create_client(
            &"new".parse().unwrap(),
            refused,
            &NewSecret::None,
            &house.caller,
        );
        assert!(matches!(made, Err(AdminError::Invalid { .. })), "{made:?}");
    }
}

#[test]
fn an_id_token_hint_is_for_its_user_alone() {
    let house = House::new();
    let password = NewPassword::Given(Redacted::new(PASSWORD.to_owned()));
    let bob = "bob".parse().unwrap();
    let made =
        house
            .provider
            .create_user(&bob, UserProfile::default(), Some(&password), &house.caller);
    let bob = made.unwrap().record.id;
    let enter = |user: &str| {
        let logged_in = house.login_as(user, &claimed_request(&[]));
        let tokens = house.redeem_claimed(&code_of(&logged_in)).unwrap();
        (
            logged_in.session_cookie.expose().clone(),
            tokens.id_token.unwrap(),
        )
    };
    let ((alice_is_here, of_alice), (_, of_bob)) = (enter("alice"), enter("bob"));
    let ask = |changes: &[(&str, &str)]| {
        let parameters = claimed_request(changes);
        house
            .provider
            .authorize(&parameters, Some(&alice_is_here), None, &house.caller)
    };
    let silent = ("prompt", "none");
    let hers = ask(&[silent, ("id_token_hint", &of_alice)]);
    assert!(matches!(hers, Ok(Authorization::Code { .. })), "{hers:?}");
    let refused = |changes: &[(&str, &str)]| match ask(changes) {
        Err(AuthorizeError::Refused { why, .. }) => why.code(),
        other => panic!("{other:?}"),
    };
    let his = ("id_token_hint", of_bob.as_str());
    assert_eq!(refused(&[silent, his]), ErrorCode::LoginRequired);
    assert!(matches!(ask(&[his]), Ok(Authorization::Login(_))));
    // Whoever logs in then: bob gets his answer, alice gets none in his place.
    let wrong = house.login_as("alice", &claimed_request(&[his]));
    let told = query(wrong.location.expose());
    assert_eq!(
        (told["error"].as_str(), told.get("code")),
        ("login_required", None)
    );
    let right = house.login_as("bob", &claimed_request(&[his]));
    let tokens = house.redeem_claimed(&code_of(&right)).unwrap();
    assert_eq!(house.access_claims(&tokens).sub, bob.as_str());
    // What is no ID token of ours about this client says nothing, and is no way around.
    let forged = SigningKey::generate()
        .sign_jwt("JWT", &read(&published(&house), &of_alice))
        .unwrap();
    for bad in ["x", &forged, &tokens.access_token] {
        assert_eq!(
            refused(&[("id_token_hint", bad)]),
            ErrorCode::InvalidRequest,
            "{bad}"
        );
    }
    let old = Old::new();
    let elsewhere = old.redeem(&old.code(&[]), &[]).unwrap();
    let parameters = native_request(&[("id_token_hint", id_token(&elsewhere))]);
    let other_client = old
        .0
        .provider
        .authorize(&parameters, None, None, &old.0.caller);
    assert!(
        matches!(other_client, Err(AuthorizeError::Refused { .. })),
        "{other_client:?}"
    );
}
