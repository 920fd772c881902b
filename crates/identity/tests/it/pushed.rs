//! Pushed authorization requests (RFC 9126).

use std::{collections::BTreeMap, sync::Barrier, thread, time::Duration};

use testudo_identity::{
    Authorization, AuthorizeError, ClientPolicy, LoginError, LoginRequest, Parameters, PushError,
    PushedRequest, TokenRequest,
};
use testudo_model::{Redacted, event::Outcome};

use crate::house::{
    CLAIMED_REDIRECT, House, ISSUER, PASSWORD, SECRET, WEB_REDIRECT, changed, claimed_request,
    code_of, form, native_profile, native_request, query, redemption,
};

fn push(house: &House, parameters: &Parameters) -> Result<PushedRequest, PushError> {
    let request = TokenRequest {
        parameters,
        authorization: None,
        dpop: None,
        peer: None,
    };
    house.provider.push_authorization(&request, &house.caller)
}

fn push_of(house: &House, parameters: &Parameters) -> String {
    push(house, parameters).unwrap().request_uri
}

/// What the browser brings.
fn by_reference(client_id: &str, request_uri: &str) -> Parameters {
    form(&[("client_id", client_id), ("request_uri", request_uri)])
}

fn is_unknown(house: &House, parameters: &Parameters, session: Option<&str>) -> bool {
    let answer = house
        .provider
        .authorize(parameters, session, None, &house.caller);
    matches!(answer, Err(AuthorizeError::UnknownRequest))
}

fn error_of(house: &House, changes: &[(&str, &str)]) -> (String, u16) {
    let error = push(house, &native_request(changes))
        .unwrap_err()
        .to_oauth();
    (error.error.as_str().to_owned(), error.status)
}

#[test]
fn a_pushed_request_is_what_the_user_logs_in_for_whatever_else_the_browser_says() {
    let house = House::new();
    let pushed = push(&house, &native_request(&[])).unwrap();
    assert_eq!(pushed.expires_in, 90);
    assert!(
        pushed
            .request_uri
            .starts_with("urn:ietf:params:oauth:request_uri:")
    );
    let bent = changed(
        &[
            ("client_id", "cli"),
            ("request_uri", &pushed.request_uri),
            ("redirect_uri", CLAIMED_REDIRECT),
            ("scope", "orders:write"),
            ("state", "another"),
            ("code_challenge_method", "plain"),
            ("response_type", "token"),
        ],
        &[],
    );
    let logged_in = house.login_through(&bent);
    let answer = query(logged_in.location.expose());
    assert_eq!(
        (answer["state"].as_str(), answer["iss"].as_str()),
        ("xyz", ISSUER)
    );
    let tokens = house.redeem(&answer["code"]).unwrap();
    assert_eq!(tokens.scope, "openid orders:read profile");
    let granted = house.events_named("authorization.grant", Outcome::Success);
    assert_eq!(granted[0].details["pushed"], true.into());
}

#[test]
fn a_reference_gives_one_code_and_reloading_the_page_before_does_not_count() {
    let house = House::new();
    let uri = push_of(&house, &claimed_request(&[]));
    let request = by_reference("cli", &uri);
    let (first, second) = (house.prompt(&request), house.prompt(&request));
    let password = Redacted::new(PASSWORD.to_owned());
    let login = |prompt: &testudo_identity::LoginPrompt| {
        let form = LoginRequest {
            flow: &prompt.flow,
            browser: Some(prompt.browser.expose()),
            session: None,
            username: "alice",
            password: &password,
        };
        house.provider.login(&form, &house.caller)
    };
    let logged_in = login(&second).unwrap();
    assert!(house.redeem_claimed(&code_of(&logged_in)).is_ok());
    assert!(matches!(login(&first), Err(LoginError::FlowUsed)));
    assert!(matches!(login(&second), Err(LoginError::FlowUsed)));
    let cookie = logged_in.session_cookie.expose();
    assert!(is_unknown(&house, &request, Some(cookie)));
    assert!(
        house.provider.session(cookie).unwrap().is_some(),
        "a used reference ends nothing"
    );
}

#[test]
fn of_parallel_uses_of_one_reference_one_gets_a_code() {
    let house = House::new();
    let logged_in = house.login_through(&native_request(&[]));
    let cookie = logged_in.session_cookie.expose();
    let request = by_reference("cli", &push_of(&house, &claimed_request(&[])));
    let other = house.another_provider(7);
    let barrier = Barrier::new(8);
    let codes = thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|number| {
                let provider = if number % 2 == 0 {
                    &*house.provider
                } else {
                    &other
                };
                let (barrier, request, caller) = (&barrier, &request, &house.caller);
                scope.spawn(move || {
                    barrier.wait();
                    provider.authorize(request, Some(cookie), None, caller)
                })
            })
            .collect();
        let answers = threads.into_iter().map(|thread| thread.join().unwrap());
        answers
            .filter(|answer| match answer {
                Ok(Authorization::Code { .. }) => true,
                Err(AuthorizeError::UnknownRequest) => false,
                other => panic!("{other:?}"),
            })
            .count()
    });
    assert_eq!(codes, 1);
}

#[test]
fn a_reference_is_good_for_the_client_that_pushed_it_and_for_a_while() {
    let house = House::new();
    let uri = push_of(&house, &native_request(&[]));
    for request in [
        by_reference("web", &uri),
        by_reference("cli", &format!("{uri}A")),
        by_reference("cli", uri.get(..uri.len() - 1).unwrap()),
        by_reference("cli", "urn:ietf:params:oauth:request_uri:"),
        by_reference(
            "cli",
            &format!("urn:ietf:params:oauth:request_uri:{}", "A".repeat(9_000)),
        ),
        Parameters::from_pairs([
            ("client_id", "cli"),
            ("request_uri", &uri),
            ("request_uri", &uri),
        ])
        .unwrap(),
    ] {
        assert!(is_unknown(&house, &request, None), "{request:?}");
    }
    // A login form is sealed with the same key, and is no reference.
    let flow = house.prompt(&native_request(&[])).flow;
    let flow = format!("urn:ietf:params:oauth:request_uri:{flow}");
    assert!(is_unknown(&house, &by_reference("cli", &flow), None));
    house.clock.advance(Duration::from_secs(89));
    house.prompt(&by_reference("cli", &uri));
    house.clock.advance(Duration::from_secs(1));
    assert!(is_unknown(&house, &by_reference("cli", &uri), None));
    // A page that was opened in time may be sent as late as any other, once.
    let uri = push_of(&house, &native_request(&[]));
    house.clock.advance(Duration::from_secs(89));
    let prompt = house.prompt(&by_reference("cli", &uri));
    house.clock.advance(Duration::from_secs(14 * 60));
    let password = Redacted::new(PASSWORD.to_owned());
    let form = LoginRequest {
        flow: &prompt.flow,
        browser: Some(prompt.browser.expose()),
        session: None,
        username: "alice",
        password: &password,
    };
    assert!(house.provider.login(&form, &house.caller).is_ok());
    let again = house.provider.login(&form, &house.caller);
    assert!(matches!(again, Err(LoginError::FlowUsed)));
}

#[test]
fn a_reference_is_worthless_at_a_later_client_of_the_same_name() {
    let house = House::new();
    let uri = push_of(&house, &native_request(&[]));
    let cli = "cli".parse().unwrap();
    let version = house.provider.client(&cli).unwrap().version;
    house
        .provider
        .delete_client(&cli, version, &house.caller)
        .unwrap();
    house.clock.advance(Duration::from_secs(1));
    house
        .provider
        .create_client(
            &cli,
            native_profile(),
            &testudo_identity::NewSecret::None,
            &house.caller,
        )
        .unwrap();
    assert!(is_unknown(&house, &by_reference("cli", &uri), None));
}

#[test]
fn what_the_authorization_endpoint_would_refuse_cannot_be_pushed() {
    let house = House::new();
    for (changes, error) in [
        (
            &[("redirect_uri", "https://evil.example/cb")][..],
            "invalid_request",
        ),
        (&[("redirect_uri", "")], "invalid_request"),
        (
            &[("request_uri", "urn:ietf:params:oauth:request_uri:x")],
            "invalid_request",
        ),
        (
            &[("request_uri", "https://evil.example/request")],
            "invalid_request",
        ),
        (
            &[("request", "eyJhbGciOiJub25lIn0.e30.")],
            "invalid_request_object",
        ),
        (&[("response_type", "token")], "unsupported_response_type"),
        (&[("code_challenge_method", "plain")], "invalid_request"),
        (&[("code_challenge", "")], "invalid_request"),
        (&[("scope", "nothing:known")], "invalid_scope"),
        (&[("resource", "https://other.example")], "invalid_target"),
        (&[("prompt", "none login")], "invalid_request"),
        (&[("max_age", "-1")], "invalid_request"),
    ] {
        assert_eq!(
            error_of(&house, changes),
            (error.to_owned(), 400),
            "{changes:?}"
        );
    }
    let long = "x".repeat(1025);
    assert_eq!(error_of(&house, &[("state", &long)]).0, "invalid_request");
    let huge = "x".repeat(8_000);
    assert_eq!(
        error_of(&house, &[("login_hint", &huge)]),
        ("invalid_request".to_owned(), 413)
    );
    let repeated = Parameters::from_pairs([
        ("client_id", "cli"),
        ("redirect_uri", CLAIMED_REDIRECT),
        ("scope", "openid"),
        ("scope", "profile"),
    ]);
    let error = push(&house, &repeated.unwrap()).unwrap_err().to_oauth();
    assert_eq!(error.error.as_str(), "invalid_request");
}

#[test]
fn who_pushes_proves_who_it_is_and_the_proof_is_not_kept() {
    let house = House::new();
    let web = [("client_id", "web"), ("redirect_uri", WEB_REDIRECT)];
    let unproven = error_of(&house, &web);
    assert_eq!(unproven, ("invalid_client".to_owned(), 401));
    let reported = house.events_named("authorization.push", Outcome::Denied);
    assert_eq!(reported.len(), 1);
    let machine = [("client_id", "restock"), ("client_secret", SECRET)];
    assert_eq!(error_of(&house, &machine).0, "unauthorized_client");
    let secret = [("client_secret", SECRET)];
    let proven = native_request(&[&web[..], &secret].concat());
    let code = code_of(&house.login_through(&by_reference("web", &push_of(&house, &proven))));
    let redemption = redemption(&code, &[&web[..], &secret].concat());
    assert!(house.token(&redemption).is_ok());
}

#[test]
fn a_client_that_must_push_gets_nothing_otherwise() {
    let house = House::new();
    house.demand(ClientPolicy {
        require_pushed_authorization_requests: true,
        ..ClientPolicy::default()
    });
    let answer = house
        .provider
        .authorize(&native_request(&[]), None, None, &house.caller);
    let Err(AuthorizeError::Refused { location, .. }) = answer else {
        panic!("{answer:?}")
    };
    let told: BTreeMap<_, _> = query(&location);
    assert_eq!(told["error"], "invalid_request");
    let uri = push_of(&house, &native_request(&[]));
    house.login_through(&by_reference("cli", &uri));
}
