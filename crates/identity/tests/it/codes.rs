//! The authorization code grant.

use std::{sync::Barrier, thread, time::Duration};

use testudo_identity::{IdTokenClaims, PresentedToken, TokenError, TokenRequest};
use testudo_model::{event::Outcome, snapshot::Revoked};

use crate::house::{
    AUDIENCE, House, ISSUER, SECRET, VERIFIER, WEB_REDIRECT, code_of, form, native_request, query,
    redemption,
};

#[test]
fn the_whole_flow_ends_in_tokens_that_say_who_logged_in_and_how() {
    let house = House::new();
    let tokens = house.tokens();
    let access = house.access_claims(&tokens);
    assert_eq!(
        (access.iss.as_str(), access.aud.as_str()),
        (ISSUER, AUDIENCE)
    );
    assert_eq!(access.sub, house.alice.as_str());
    assert_eq!(access.client_id, "cli");
    assert_eq!(access.scope, "openid orders:read profile");
    assert_eq!(access.exp - access.iat, 300);
    assert_eq!(
        (access.acr.as_deref(), access.amr.as_slice()),
        (Some("1"), &["pwd".to_owned()][..])
    );
    assert!(access.cnf.is_none());

    let id: IdTokenClaims = house.claims(tokens.id_token.as_deref().unwrap(), "JWT");
    assert_eq!(id.aud, "cli");
    assert_eq!(id.nonce.as_deref(), Some("n-0S6"));
    assert_eq!(Some(&id.sid), access.sid.as_ref());
    assert_eq!(Some(id.auth_time), access.auth_time);

    let info = house
        .provider
        .user_info(PresentedToken::bearer(&tokens.access_token, None))
        .unwrap();
    assert_eq!(info.sub, house.alice.as_str());
    assert_eq!(info.preferred_username.as_deref(), Some("alice"));
    assert_eq!(info.email, None, "the scope email was not granted");
}

#[test]
fn a_code_is_bound_to_its_client_redirect_uri_and_verifier() {
    let house = House::new();
    let code = house.code();
    let other_verifier = "x".repeat(43);
    for (changes, expected) in [
        (("redirect_uri", "http://127.0.0.1:51235/cb"), "redirect"),
        (("redirect_uri", WEB_REDIRECT), "redirect"),
        (("code_verifier", other_verifier.as_str()), "verifier"),
        (("code_verifier", "short"), "verifier"),
        // Whether there must be one is said by the code, not by the form (FAPI 2.0 wants it answered so).
        (("code_verifier", ""), "verifier"),
    ] {
        let error = house.token(&redemption(&code, &[changes])).unwrap_err();
        let told = match error {
            TokenError::RedirectMismatch => "redirect",
            TokenError::VerifierMismatch => "verifier",
            _ => "other",
        };
        assert_eq!(told, expected, "{changes:?}");
        assert_eq!(error.to_oauth().error.as_str(), "invalid_grant");
    }
    for missing in ["redirect_uri", "code"] {
        let error = house
            .token(&redemption(&code, &[(missing, "")]))
            .unwrap_err();
        assert_eq!(
            error.to_oauth().error.as_str(),
            "invalid_request",
            "{missing}"
        );
    }
    assert!(
        house.redeem(&code).is_ok(),
        "failed attempts of others do not burn the code"
    );
}

#[test]
fn a_code_of_one_client_is_worthless_at_another() {
    let house = House::new();
    let code = house.code();
    let stolen = redemption(&code, &[("client_id", "web"), ("client_secret", SECRET)]);
    let error = house.token(&stolen).unwrap_err();
    assert!(matches!(error, TokenError::UnknownGrant), "{error:?}");
}

#[test]
fn a_code_of_a_deleted_client_is_worthless_at_its_namesake() {
    let house = House::new();
    let (code, cli) = (house.code(), "cli".parse().unwrap());
    let version = house.provider.client(&cli).unwrap().version;
    house
        .provider
        .delete_client(&cli, version, &house.caller)
        .unwrap();
    house.clock.advance(Duration::from_secs(1));
    let profile = crate::house::native_profile();
    let none = testudo_identity::NewSecret::None;
    house
        .provider
        .create_client(&cli, profile, &none, &house.caller)
        .unwrap();
    assert!(matches!(house.redeem(&code), Err(TokenError::UnknownGrant)));
}

#[test]
fn a_code_lives_sixty_seconds() {
    let house = House::new();
    let (early, late) = (house.code(), house.code());
    house.clock.advance(Duration::from_secs(59));
    assert!(house.redeem(&early).is_ok());
    house.clock.advance(Duration::from_secs(1));
    assert!(matches!(house.redeem(&late), Err(TokenError::UnknownGrant)));
}

#[test]
fn an_invented_code_is_refused() {
    let house = House::new();
    for code in ["x", &"A".repeat(43), &"A".repeat(10_000)] {
        assert!(matches!(house.redeem(code), Err(TokenError::UnknownGrant)));
    }
}

#[test]
fn a_code_used_twice_takes_back_what_the_first_use_got() {
    let house = House::new();
    let code = house.code();
    let tokens = house.redeem(&code).unwrap();
    let sid = house.access_claims(&tokens).sid.unwrap();
    house.clock.advance(Duration::from_secs(100));
    assert!(matches!(house.redeem(&code), Err(TokenError::CodeReplayed)));
    assert!(
        house
            .revocations()
            .iter()
            .any(|entry| entry.what == Revoked::Session(sid.clone()))
    );
    assert!(
        house
            .provider
            .user_info(PresentedToken::bearer(&tokens.access_token, None))
            .is_err()
    );
    assert!(
        house
            .refresh(tokens.refresh_token.as_deref().unwrap())
            .is_err()
    );
    assert_eq!(house.events_named("session.end", Outcome::Denied).len(), 1);
}

#[test]
fn a_stolen_code_without_the_verifier_cannot_end_the_session() {
    let house = House::new();
    let code = house.code();
    let tokens = house.redeem(&code).unwrap();
    let wrong = "x".repeat(43);
    assert!(
        house
            .token(&redemption(&code, &[("code_verifier", &wrong)]))
            .is_err()
    );
    assert!(
        house
            .provider
            .user_info(PresentedToken::bearer(&tokens.access_token, None))
            .is_ok()
    );
}

#[test]
fn of_parallel_redemptions_at_most_one_succeeds_and_its_tokens_are_taken_back() {
    let house = House::new();
    for _ in 0..5 {
        let code = house.code();
        let barrier = Barrier::new(8);
        let results: Vec<_> = thread::scope(|scope| {
            let redeem = || {
                barrier.wait();
                house.redeem(&code)
            };
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(redeem)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        let won: Vec<_> = results
            .iter()
            .filter_map(|result| result.as_ref().ok())
            .collect();
        assert_eq!(won.len(), 1);
        let lost = results.iter().filter_map(|result| result.as_ref().err());
        assert!(
            lost.into_iter()
                .all(|error| matches!(error, TokenError::CodeReplayed))
        );
        assert!(
            house
                .provider
                .user_info(PresentedToken::bearer(&won[0].access_token, None))
                .is_err()
        );
    }
}

#[test]
fn a_code_dies_with_its_session_and_with_its_user() {
    let house = House::new();
    let logged_in = house.login_through(&native_request(&[]));
    house.log_out(logged_in.session_cookie.expose());
    assert!(matches!(
        house.redeem(&code_of(&logged_in)),
        Err(TokenError::SessionEnded)
    ));

    let code = house.code();
    house
        .provider
        .disable_user(&house.alice, &house.caller)
        .unwrap();
    assert!(matches!(house.redeem(&code), Err(TokenError::SessionEnded)));
}

#[test]
fn a_web_client_redeems_with_its_secret_in_the_header_or_the_body_but_not_in_both() {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let house = House::new();
    let fresh_code = || {
        let parameters = native_request(&[
            ("client_id", "web"),
            ("redirect_uri", WEB_REDIRECT),
            ("scope", "openid"),
        ]);
        code_of(&house.login_through(&parameters))
    };
    let header = format!("Basic {}", STANDARD.encode(format!("web:{SECRET}")));
    let redeem = |secret: Option<&str>, authorization: Option<&str>| {
        let code = fresh_code();
        let parameters = form(&[
            ("grant_type", "authorization_code"),
            ("client_id", "web"),
            ("code", &code),
            ("redirect_uri", WEB_REDIRECT),
            ("code_verifier", VERIFIER),
            ("client_secret", secret.unwrap_or("")),
        ]);
        let request = TokenRequest {
            parameters: &parameters,
            authorization,
            dpop: None,
            peer: None,
        };
        house.provider.token(&request, &house.caller)
    };
    assert!(redeem(Some(SECRET), None).is_ok());
    assert!(redeem(None, Some(&header)).is_ok());
    let both = redeem(Some(SECRET), Some(&header)).unwrap_err().to_oauth();
    assert_eq!((both.error.as_str(), both.status), ("invalid_request", 400));
    let none = redeem(None, None).unwrap_err().to_oauth();
    assert_eq!((none.error.as_str(), none.status), ("invalid_client", 401));
    let wrong_header = format!("Basic {}", STANDARD.encode("web:wrong"));
    let wrong = redeem(None, Some(&wrong_header)).unwrap_err().to_oauth();
    assert_eq!(
        (wrong.error.as_str(), wrong.status),
        ("invalid_client", 401)
    );
    assert!(wrong.challenge.unwrap().starts_with("Basic "));
}

#[test]
fn an_answer_of_another_issuer_can_be_told_apart() {
    let house = House::new();
    let logged_in = house.login_through(&native_request(&[]));
    let answer = query(logged_in.location.expose());
    let published = house.provider.discovery().unwrap();
    assert_eq!(answer["iss"], published["issuer"].as_str().unwrap());
    assert_eq!(
        published["authorization_response_iss_parameter_supported"],
        true
    );
}

#[test]
fn malformed_token_requests_have_their_codes_and_cost_no_write() {
    let house = House::new();
    let before = house.events().len();
    for (pairs, code) in [
        (vec![], "invalid_request"),
        (vec![("grant_type", "password")], "unsupported_grant_type"),
        (
            vec![
                ("grant_type", "refresh_token"),
                ("grant_type", "refresh_token"),
            ],
            "invalid_request",
        ),
        (vec![("grant_type", "authorization_code")], "invalid_client"),
        (
            vec![("grant_type", "refresh_token"), ("client_id", "cli")],
            "invalid_request",
        ),
    ] {
        let error = house.token(&form(&pairs)).unwrap_err().to_oauth();
        assert_eq!(error.error.as_str(), code, "{pairs:?}");
    }
    assert_eq!(house.events().len(), before);
}
