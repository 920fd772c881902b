//! The authorization endpoint.

use std::time::Duration;

use testudo_identity::{Authorization, AuthorizeError, ErrorCode, Parameters};

use crate::house::{
    AUDIENCE, House, ISSUER, NATIVE_REDIRECT, WEB_REDIRECT, claimed_request, form, native_request,
    query, redemption,
};

fn refusal(house: &House, changes: &[(&str, &str)]) -> (ErrorCode, String) {
    let error = house
        .provider
        .authorize(&native_request(changes), None, None, &house.caller)
        .unwrap_err();
    match error {
        AuthorizeError::Refused { location, why } => (why.code(), location),
        shown => panic!("{changes:?} must be told to the client, but: {shown:?}"),
    }
}

#[test]
fn a_code_comes_back_with_state_and_issuer() {
    let house = House::new();
    let logged_in = house.login_through(&native_request(&[]));
    let location = logged_in.location.expose();
    assert!(location.starts_with(NATIVE_REDIRECT), "{location}");
    let answer = query(location);
    assert_eq!(answer["state"], "xyz");
    assert_eq!(answer["iss"], ISSUER);
    assert_eq!(answer["code"].len(), 43);
}

#[test]
fn nobody_is_redirected_before_client_and_address_are_known_to_belong_together() {
    let house = House::new();
    for changes in [
        [("client_id", "")],
        [("client_id", "nobody")],
        [("client_id", "CLI")],
        [("client_id", "restock")],
        [("redirect_uri", "")],
        [("redirect_uri", "https://evil.example/cb")],
        [("redirect_uri", "http://127.0.0.1:51234/cb/")],
        [("redirect_uri", "http://127.0.0.1:51234@evil.example/cb")],
        [("redirect_uri", "//evil.example")],
        [("redirect_uri", "https:evil.example")],
        [("redirect_uri", "\\evil")],
        [("redirect_uri", "http://localhost:51234/cb")],
        [("redirect_uri", WEB_REDIRECT)],
    ] {
        let error = house
            .provider
            .authorize(&native_request(&changes), None, None, &house.caller)
            .unwrap_err();
        let shown = matches!(
            error,
            AuthorizeError::UnknownClient | AuthorizeError::UnknownRedirect
        );
        assert!(shown && error.status() == 400, "{changes:?}: {error:?}");
    }
}

#[test]
fn a_repeated_client_or_redirect_is_shown_and_other_repetitions_go_to_the_client() {
    let house = House::new();
    let repeat = |name: &str, value: &str| {
        let base = native_request(&[]);
        let mut pairs: Vec<(String, String)> =
            ["response_type", "client_id", "redirect_uri", "scope"]
                .into_iter()
                .chain(["code_challenge", "code_challenge_method"])
                .map(|name| (name.to_owned(), base.get(name).unwrap().to_owned()))
                .collect();
        pairs.push((name.to_owned(), value.to_owned()));
        let parameters = testudo_identity::Parameters::from_pairs(pairs).unwrap();
        house
            .provider
            .authorize(&parameters, None, None, &house.caller)
            .unwrap_err()
    };
    assert!(matches!(
        repeat("client_id", "web"),
        AuthorizeError::UnknownClient
    ));
    assert!(matches!(
        repeat("redirect_uri", "https://evil"),
        AuthorizeError::UnknownRedirect
    ));
    assert!(matches!(
        repeat("scope", "admin"),
        AuthorizeError::Refused { .. }
    ));
}

#[test]
fn what_the_client_did_wrong_goes_to_the_client_with_its_code() {
    let house = House::new();
    let long = "x".repeat(2000);
    for (changes, code) in [
        (
            vec![("response_type", "token")],
            ErrorCode::UnsupportedResponseType,
        ),
        (
            vec![("response_type", "")],
            ErrorCode::UnsupportedResponseType,
        ),
        (
            vec![("response_type", "code id_token")],
            ErrorCode::UnsupportedResponseType,
        ),
        (
            vec![("response_mode", "fragment")],
            ErrorCode::InvalidRequest,
        ),
        (vec![("code_challenge", "")], ErrorCode::InvalidRequest),
        (vec![("code_challenge", "short")], ErrorCode::InvalidRequest),
        (
            vec![("code_challenge_method", "plain")],
            ErrorCode::InvalidRequest,
        ),
        (
            vec![("code_challenge_method", "")],
            ErrorCode::InvalidRequest,
        ),
        (vec![("nonce", long.as_str())], ErrorCode::InvalidRequest),
        (vec![("state", long.as_str())], ErrorCode::InvalidRequest),
        (vec![("scope", "")], ErrorCode::InvalidScope),
        (vec![("scope", "stock:write")], ErrorCode::InvalidScope),
        (vec![("prompt", "none login")], ErrorCode::InvalidRequest),
        (vec![("prompt", "dance")], ErrorCode::InvalidRequest),
        (vec![("prompt", "none")], ErrorCode::LoginRequired),
        (vec![("max_age", "-1")], ErrorCode::InvalidRequest),
        (vec![("max_age", "soon")], ErrorCode::InvalidRequest),
        (
            vec![("request_uri", "https://x")],
            ErrorCode::RequestUriNotSupported,
        ),
        (
            vec![("registration", "{}")],
            ErrorCode::RegistrationNotSupported,
        ),
        (
            vec![("resource", "https://other")],
            ErrorCode::InvalidTarget,
        ),
    ] {
        let (told, location) = refusal(&house, &changes);
        assert_eq!(told, code, "{changes:?}");
        let answer = query(&location);
        assert!(location.starts_with(NATIVE_REDIRECT));
        assert_eq!(answer["error"], code.as_str());
        assert_eq!(answer["iss"], ISSUER);
        assert!(!answer.contains_key("code"));
        let echoed = answer.get("state").map(String::as_str);
        assert_eq!(echoed, (changes[0].0 != "state").then_some("xyz"));
    }
}

#[test]
fn a_scope_the_client_may_not_have_is_left_out() {
    let house = House::new();
    let parameters = native_request(&[("scope", "openid orders:read stock:write unheard-of")]);
    let code = crate::house::code_of(&house.login_through(&parameters));
    assert_eq!(house.redeem(&code).unwrap().scope, "openid orders:read");
}

#[test]
fn a_live_session_gets_a_code_without_a_login_page() {
    let house = House::new();
    let cookie = house.login_through(&native_request(&[])).session_cookie;
    let session = Some(cookie.expose().as_str());
    for changes in [vec![], vec![("prompt", "none")], vec![("max_age", "60")]] {
        let answer = house
            .provider
            .authorize(&claimed_request(&changes), session, None, &house.caller)
            .unwrap();
        let Authorization::Code { location } = answer else {
            panic!("{changes:?}")
        };
        assert!(
            house
                .redeem_claimed(&query(location.expose())["code"])
                .is_ok()
        );
    }
}

#[test]
fn a_session_alone_gives_no_code_to_any_program_of_the_machine() {
    let house = House::new();
    let cookie = house.login_through(&native_request(&[])).session_cookie;
    let ask = |parameters: &Parameters| {
        house
            .provider
            .authorize(parameters, Some(cookie.expose()), None, &house.caller)
    };
    // Whoever listens on the port may have opened the browser: somebody has to log in.
    let answer = ask(&native_request(&[])).unwrap();
    assert!(matches!(answer, Authorization::Login(_)));
    let silent = ask(&native_request(&[("prompt", "none")])).unwrap_err();
    assert!(
        matches!(silent, AuthorizeError::Refused { why, .. } if why.code() == ErrorCode::LoginRequired)
    );
    // An address that is the client's own, for the same session.
    let answer = ask(&claimed_request(&[("prompt", "none")])).unwrap();
    assert!(matches!(answer, Authorization::Code { .. }));
}

#[test]
fn the_client_can_demand_a_fresh_login() {
    let house = House::new();
    let cookie = house.login_through(&native_request(&[])).session_cookie;
    let session = Some(cookie.expose().as_str());
    house.clock.advance(Duration::from_secs(120));
    for changes in [
        ("prompt", "login"),
        ("prompt", "login consent"),
        ("max_age", "60"),
        ("max_age", "0"),
    ] {
        let parameters = claimed_request(&[changes]);
        let answer = house
            .provider
            .authorize(&parameters, session, None, &house.caller)
            .unwrap();
        assert!(matches!(answer, Authorization::Login(_)), "{changes:?}");
    }
    let silent = claimed_request(&[("prompt", "none"), ("max_age", "60")]);
    let error = house
        .provider
        .authorize(&silent, session, None, &house.caller)
        .unwrap_err();
    assert!(
        matches!(error, AuthorizeError::Refused { why, .. } if why.code() == ErrorCode::LoginRequired)
    );
}

#[test]
fn a_disabled_client_can_start_nothing() {
    let house = House::new();
    house
        .provider
        .set_client_disabled(&"cli".parse().unwrap(), true, &house.caller)
        .unwrap();
    let error = house
        .provider
        .authorize(&native_request(&[]), None, None, &house.caller)
        .unwrap_err();
    assert!(matches!(error, AuthorizeError::UnknownClient));
}

#[test]
fn an_unfinished_login_leaves_no_row() {
    let house = House::new();
    let before = house.store.changes_since(0, 10_000).unwrap().len();
    for _ in 0..20 {
        house.prompt(&native_request(&[]));
    }
    let _ = house
        .provider
        .authorize(&form(&[("client_id", "x")]), None, None, &house.caller);
    assert_eq!(house.store.changes_since(0, 10_000).unwrap().len(), before);
}

/// RFC 8707: a token has one audience, so it is asked for once or not at all.
#[test]
fn a_token_is_for_the_fleet_and_nothing_beside_it() {
    let house = House::new();
    let ask = |resources: &[&str]| -> Parameters {
        let base = redemption(&house.code(), &[]);
        let names = [
            "grant_type",
            "client_id",
            "code",
            "redirect_uri",
            "code_verifier",
        ];
        let pairs = names.map(|name| (name, base.get(name).unwrap()));
        let resources = resources.iter().map(|resource| ("resource", *resource));
        Parameters::from_pairs(pairs.into_iter().chain(resources)).unwrap()
    };
    for good in [&[][..], &[AUDIENCE]] {
        let tokens = house.token(&ask(good)).unwrap();
        assert_eq!(house.access_claims(&tokens).aud, AUDIENCE);
        let refresh = form(&[
            ("grant_type", "refresh_token"),
            ("client_id", "cli"),
            ("refresh_token", tokens.refresh_token.as_deref().unwrap()),
            ("resource", AUDIENCE),
        ]);
        assert!(house.token(&refresh).is_ok());
    }
    for bad in [
        &["https://other.example"][..],
        &[AUDIENCE, "https://other.example"],
        &["https://other.example", AUDIENCE],
        &[AUDIENCE, AUDIENCE],
        &["bookshop.example/"],
        &["BOOKSHOP.example"],
    ] {
        let error = house.token(&ask(bad)).unwrap_err().to_oauth();
        assert_eq!(
            (error.error, error.status),
            (ErrorCode::InvalidTarget, 400),
            "{bad:?}"
        );
    }
    let (code, _) = refusal(&house, &[("resource", "https://other.example")]);
    assert_eq!(code, ErrorCode::InvalidTarget);
}
