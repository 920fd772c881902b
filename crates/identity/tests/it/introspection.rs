//! What may be known of a token, and by whom (RFC 7662).

use std::time::Duration;

use serde_json::{Value, json};
use testudo_identity::{
    ClientKind, ClientProfile, IntrospectError, NewSecret, Peer, PresentedToken, TokenRequest,
    TokenResponse,
};
use testudo_model::{Clock, Redacted, event::Outcome};

use crate::house::{
    House, ISSUER, SECRET, THUMBPRINT, WEB_REDIRECT, changed, code_of, form, native_request,
    redemption, restock_peer, web_profile,
};

fn introspect(
    house: &House,
    pairs: &[(&str, &str)],
    peer: Option<&Peer>,
) -> Result<Value, IntrospectError> {
    let parameters = form(pairs);
    let request = TokenRequest {
        parameters: &parameters,
        authorization: None,
        dpop: None,
        peer,
    };
    let answer = house.provider.introspect(&request, &house.caller)?;
    Ok(serde_json::to_value(answer).unwrap())
}

/// What a confidential client is told.
fn told(house: &House, client: &str, token: &str) -> Value {
    let pairs = [
        ("client_id", client),
        ("client_secret", SECRET),
        ("token", token),
    ];
    introspect(house, &pairs, None).unwrap()
}

fn inactive() -> Value {
    json!({ "active": false })
}

/// Tokens of alice at the web client.
fn web_tokens(house: &House) -> TokenResponse {
    let web = [("client_id", "web"), ("redirect_uri", WEB_REDIRECT)];
    let code = code_of(&house.login_through(&native_request(&web)));
    let secret = [("client_secret", SECRET)];
    house
        .token(&redemption(&code, &[&web[..], &secret].concat()))
        .unwrap()
}

#[test]
fn a_client_is_told_about_its_own_tokens() {
    let house = House::new();
    let tokens = web_tokens(&house);
    let claims = house.access_claims(&tokens);
    let access = told(&house, "web", &tokens.access_token);
    assert_eq!(access["active"], true);
    assert_eq!(access["token_type"], "Bearer");
    for (name, value) in serde_json::to_value(&claims).unwrap().as_object().unwrap() {
        assert_eq!(&access[name], value, "{name}");
    }
    let refresh = told(&house, "web", tokens.refresh_token.as_deref().unwrap());
    assert_eq!(
        refresh,
        json!({
            "active": true,
            "iss": ISSUER,
            "sub": house.alice,
            "client_id": "web",
            "scope": "openid orders:read profile",
            "iat": claims.iat,
            "exp": refresh["exp"],
            "sid": claims.sid,
        })
    );
    assert!(refresh["exp"].as_i64().unwrap() > claims.exp);
}

#[test]
fn a_workload_of_the_fleet_is_told_about_every_access_token_and_no_refresh_token() {
    let house = House::new();
    let tokens = house.tokens();
    let peer = restock_peer();
    let ask = |token: &str| introspect(&house, &[("token", token)], Some(&peer)).unwrap();
    assert_eq!(ask(&tokens.access_token)["sub"], house.alice.as_str());
    assert_eq!(ask(tokens.refresh_token.as_deref().unwrap()), inactive());
}

#[test]
fn a_bound_token_is_told_with_what_it_is_bound_to() {
    let house = House::new();
    let parameters = form(&[("grant_type", "client_credentials")]);
    let peer = restock_peer();
    let request = TokenRequest {
        parameters: &parameters,
        authorization: None,
        dpop: None,
        peer: Some(&peer),
    };
    let token = house.provider.token(&request, &house.caller).unwrap();
    let told = told(&house, "restock", &token.access_token);
    assert_eq!(told["cnf"]["x5t#S256"], THUMBPRINT);
}

#[test]
fn of_the_tokens_of_others_nothing_can_be_learned() {
    let house = House::new();
    let others = house.tokens();
    let forged = format!("{}x", others.access_token);
    for token in [
        others.access_token.as_str(),
        others.refresh_token.as_deref().unwrap(),
        others.id_token.as_deref().unwrap(),
        forged.as_str(),
        "garbage",
    ] {
        for client in ["web", "restock"] {
            assert_eq!(told(&house, client, token), inactive(), "{client} {token}");
        }
    }
}

#[test]
fn who_proves_nothing_is_told_nothing_and_remembered() {
    let house = House::new();
    let tokens = house.tokens();
    let token = ("token", tokens.access_token.as_str());
    for pairs in [
        &[token, ("client_id", "cli")][..],
        &[token, ("client_id", "web")],
        &[token, ("client_id", "web"), ("client_secret", "wrong")],
        &[token, ("client_id", "nobody"), ("client_secret", SECRET)],
        &[token],
    ] {
        let error = introspect(&house, pairs, None).unwrap_err().to_oauth();
        assert_eq!(
            (error.error.as_str(), error.status),
            ("invalid_client", 401)
        );
    }
    let reported = house.events_named("token.introspect", Outcome::Denied);
    assert_eq!(
        reported.len(),
        3,
        "with a public client's id nothing can be guessed"
    );
    let missing = introspect(&house, &[("client_id", "web")], None).unwrap_err();
    assert_eq!(missing.to_oauth().error.as_str(), "invalid_request");
}

#[test]
fn what_ended_is_inactive() {
    let house = House::new();
    let tokens = web_tokens(&house);
    let old = tokens.refresh_token.as_deref().unwrap();
    let refresh = form(&[
        ("grant_type", "refresh_token"),
        ("client_id", "web"),
        ("client_secret", SECRET),
        ("refresh_token", old),
    ]);
    let next = house.token(&refresh).unwrap();
    assert_eq!(told(&house, "web", old), inactive(), "rotated");
    let newest = next.refresh_token.as_deref().unwrap();
    assert_eq!(told(&house, "web", newest)["active"], true);
    assert!(
        house
            .token(&changed(
                &[
                    ("grant_type", "refresh_token"),
                    ("client_id", "web"),
                    ("client_secret", SECRET),
                ],
                &[("refresh_token", newest)]
            ))
            .is_ok(),
        "asking about the old one ended nothing"
    );
    house
        .provider
        .disable_user(&house.alice, &house.caller)
        .unwrap();
    assert_eq!(told(&house, "web", &next.access_token), inactive());
    let of_today = web_tokens_after(&house);
    house.clock.advance(Duration::from_secs(301));
    assert_eq!(told(&house, "web", &of_today.access_token), inactive());
}

fn web_tokens_after(house: &House) -> TokenResponse {
    house
        .provider
        .enable_user(&house.alice, &house.caller)
        .unwrap();
    house.clock.advance(Duration::from_secs(2));
    let tokens = web_tokens(house);
    assert_eq!(told(house, "web", &tokens.access_token)["active"], true);
    tokens
}

#[test]
fn a_later_client_of_the_same_name_is_not_told_about_the_refresh_tokens_of_the_first() {
    let house = House::new();
    let tokens = web_tokens(&house);
    let web = "web".parse().unwrap();
    let version = house.provider.client(&web).unwrap().version;
    house
        .provider
        .delete_client(&web, version, &house.caller)
        .unwrap();
    house.clock.advance(Duration::from_secs(1));
    let given = NewSecret::Given(Redacted::new(SECRET.to_owned()));
    let profile = ClientProfile {
        kind: ClientKind::Confidential,
        ..web_profile()
    };
    house
        .provider
        .create_client(&web, profile, &given, &house.caller)
        .unwrap();
    let refresh_token = tokens.refresh_token.as_deref().unwrap();
    assert_eq!(told(&house, "web", refresh_token), inactive());
}

#[test]
fn a_signed_answer_says_by_whom_to_whom_and_when() {
    let house = House::new();
    let tokens = web_tokens(&house);
    let signed = |client: &str| {
        let parameters = form(&[
            ("client_id", client),
            ("client_secret", SECRET),
            ("token", &tokens.access_token),
        ]);
        let request = TokenRequest {
            parameters: &parameters,
            authorization: None,
            dpop: None,
            peer: None,
        };
        house.provider.introspect_signed(&request, &house.caller)
    };
    let answer = signed("web").unwrap();
    let claims: Value = house.claims(&answer, "token-introspection+jwt");
    assert_eq!(
        claims,
        json!({
            "iss": ISSUER,
            "aud": "web",
            "iat": house.clock.now().unix_seconds(),
            "token_introspection": told(&house, "web", &tokens.access_token),
        })
    );
    assert_eq!(claims["token_introspection"]["active"], true);
    // It is no access token, and no ID token.
    let presented = PresentedToken::bearer(&answer, None);
    assert!(house.provider.access_token(presented).is_err());
    // Who may not know gets a signed nothing; who proves nothing gets none.
    let other: Value = house.claims(&signed("restock").unwrap(), "token-introspection+jwt");
    assert_eq!(
        (&other["aud"], &other["token_introspection"]),
        (&json!("restock"), &inactive())
    );
    assert!(matches!(signed("cli"), Err(IntrospectError::Client(_))));
}
