//! Devices without a browser (RFC 8628).

use std::{thread, time::Duration};

use testudo_identity::{
    ClientKind, ClientProfile, DeviceAuthorization, DeviceDecision, DevicePage, DevicePageError,
    GrantType, LoginRequest, NewSecret, OauthError, Parameters, PresentedToken, Provider,
    TokenError, TokenRequest, TokenResponse,
};
use testudo_model::{Redacted, event::Outcome};

use crate::house::{House, PASSWORD, SECRET, changed, form, native_profile, native_request};

const DEVICE_CODE: &str = "urn:ietf:params:oauth:grant-type:device_code";

/// A house with a television.
fn house() -> House {
    let house = House::new();
    create(&house, "tv", tv_profile(), &NewSecret::None);
    house
}

fn create(house: &House, name: &str, profile: ClientProfile, secret: &NewSecret) {
    let provider = &house.provider;
    let made = provider.create_client(&name.parse().unwrap(), profile, secret, &house.caller);
    made.unwrap();
}

fn tv_profile() -> ClientProfile {
    ClientProfile {
        display_name: "Television".to_owned(),
        redirect_uris: Vec::new(),
        grants: vec![GrantType::DeviceCode, GrantType::RefreshToken],
        ..native_profile()
    }
}

fn try_start(house: &House, changes: &[(&str, &str)]) -> Result<DeviceAuthorization, OauthError> {
    let parameters = changed(
        &[
            ("client_id", "tv"),
            ("scope", "openid orders:read nothing:else"),
        ],
        changes,
    );
    let answered = house
        .provider
        .authorize_device(&request(&parameters), &house.caller);
    answered.map_err(|error| error.to_oauth())
}

fn start(house: &House) -> DeviceAuthorization {
    try_start(house, &[]).unwrap()
}

const fn request(parameters: &Parameters) -> TokenRequest<'_> {
    TokenRequest {
        parameters,
        authorization: None,
        dpop: None,
        peer: None,
    }
}

fn question_form(device_code: &str, client: &str) -> Parameters {
    form(&[
        ("grant_type", DEVICE_CODE),
        ("client_id", client),
        ("device_code", device_code),
    ])
}

fn poll(house: &House, device: &DeviceAuthorization) -> Result<TokenResponse, TokenError> {
    house.token(&question_form(&device.device_code, "tv"))
}

/// The session cookie of somebody who has logged in for something else.
fn logged_in(house: &House, username: &str) -> String {
    let logged_in = house.login_as(username, &native_request(&[]));
    logged_in.session_cookie.expose().clone()
}

/// The hidden field of the form for codes.
fn entry(house: &House, cookie: &str) -> String {
    match house
        .provider
        .device_page(None, Some(cookie), None)
        .unwrap()
    {
        DevicePage::EnterCode { flow } => flow,
        other => panic!("{other:?}"),
    }
}

fn enter(house: &House, cookie: &str, typed: &str) -> Result<DevicePage, DevicePageError> {
    let flow = entry(house, cookie);
    house
        .provider
        .enter_user_code(&flow, typed, Some(cookie), &house.caller)
}

/// The hidden field of the question.
fn ask(house: &House, cookie: &str, typed: &str) -> String {
    match enter(house, cookie, typed).unwrap() {
        DevicePage::Decide(question) => question.flow,
        other => panic!("{other:?}"),
    }
}

fn decide(
    house: &House,
    cookie: &str,
    flow: &str,
    decision: DeviceDecision,
) -> Result<DevicePage, DevicePageError> {
    house
        .provider
        .decide_device(flow, decision, Some(cookie), &house.caller)
}

/// Somebody connects the device; the cookie of the browser they did it in.
fn allow(house: &House, device: &DeviceAuthorization) -> String {
    let cookie = logged_in(house, "alice");
    let flow = ask(house, &cookie, &device.user_code);
    decide(house, &cookie, &flow, DeviceDecision::Allow).unwrap();
    cookie
}

#[test]
fn a_device_gets_its_tokens_when_its_user_has_said_yes() {
    let house = house();
    let device = start(&house);
    assert_eq!((device.expires_in, device.interval), (600, 5));
    assert_eq!(
        device.verification_uri,
        "https://id.bookshop.example/device"
    );
    let expected = format!("{}?user_code={}", device.verification_uri, device.user_code);
    assert_eq!(device.verification_uri_complete, expected);
    assert!(matches!(
        poll(&house, &device),
        Err(TokenError::AuthorizationPending)
    ));

    // The user is not logged in; afterwards they are where they wanted to go.
    let page = house
        .provider
        .device_page(Some(&device.user_code), None, None);
    let DevicePage::Login(prompt) = page.unwrap() else {
        panic!("nobody is logged in");
    };
    let password = Redacted::new(PASSWORD.to_owned());
    let login = LoginRequest {
        flow: &prompt.flow,
        browser: Some(prompt.browser.expose()),
        session: None,
        username: "alice",
        password: &password,
    };
    let logged_in = house.provider.login(&login, &house.caller).unwrap();
    let location = format!("/device?user_code={}", device.user_code);
    assert_eq!(*logged_in.location.expose(), location);
    let cookie = logged_in.session_cookie.expose();

    let typed = device.user_code.to_lowercase().replace('-', " ");
    let DevicePage::Decide(question) = enter(&house, cookie, &typed).unwrap() else {
        panic!("the code is right");
    };
    assert_eq!(question.client_name, "Television");
    assert_eq!(question.user_code, device.user_code);
    assert_eq!(question.scopes, ["openid", "orders:read"]);
    house.clock.advance(Duration::from_secs(5));
    assert!(matches!(
        poll(&house, &device),
        Err(TokenError::AuthorizationPending)
    ));
    decide(&house, cookie, &question.flow, DeviceDecision::Allow).unwrap();

    house.clock.advance(Duration::from_secs(5));
    let tokens = poll(&house, &device).unwrap();
    let claims = house.access_claims(&tokens);
    assert_eq!(
        (&*claims.client_id, &*claims.scope),
        ("tv", "openid orders:read")
    );
    assert_eq!(claims.sub, house.alice.as_str());
    assert_eq!(claims.amr, ["pwd"]);
    assert!(tokens.id_token.is_some());
    let refreshed = house.token(&form(&[
        ("grant_type", "refresh_token"),
        ("client_id", "tv"),
        ("refresh_token", tokens.refresh_token.as_deref().unwrap()),
    ]));
    assert!(refreshed.is_ok());
    let decided = house.events_named("device.decide", Outcome::Success);
    assert_eq!(decided.len(), 1);
    assert_eq!(decided[0].actor.client.as_deref(), Some("tv"));
    // Once is all.
    assert!(matches!(
        poll(&house, &device),
        Err(TokenError::UnknownGrant)
    ));
    assert!(matches!(
        decide(&house, cookie, &question.flow, DeviceDecision::Deny),
        Err(DevicePageError::UnknownCode)
    ));
}

#[test]
fn a_device_is_told_that_its_user_said_no_or_was_too_late() {
    let house = house();
    let device = start(&house);
    let cookie = logged_in(&house, "alice");
    let flow = ask(&house, &cookie, &device.user_code);
    decide(&house, &cookie, &flow, DeviceDecision::Deny).unwrap();
    let refused = poll(&house, &device).unwrap_err().to_oauth();
    assert_eq!(
        (refused.error.as_str(), refused.status),
        ("access_denied", 400)
    );
    assert_eq!(
        house.events_named("device.decide", Outcome::Denied).len(),
        1
    );
    assert!(matches!(
        decide(&house, &cookie, &flow, DeviceDecision::Allow),
        Err(DevicePageError::UnknownCode)
    ));

    let device = start(&house);
    let flow = ask(&house, &cookie, &device.user_code);
    house.clock.advance(Duration::from_secs(600));
    let late = poll(&house, &device).unwrap_err().to_oauth();
    assert_eq!((late.error.as_str(), late.status), ("expired_token", 400));
    for late in [
        enter(&house, &cookie, &device.user_code),
        decide(&house, &cookie, &flow, DeviceDecision::Allow),
    ] {
        assert!(matches!(late, Err(DevicePageError::UnknownCode)));
    }
    house.clock.advance(Duration::from_secs(600));
    assert!(matches!(
        poll(&house, &device),
        Err(TokenError::UnknownGrant)
    ));
}

#[test]
fn asking_too_often_is_told_and_asking_writes_nothing() {
    let house = house();
    let device = start(&house);
    let told = || house.store.subscribe().told();
    let before = told();
    let error = |house: &House| poll(house, &device).unwrap_err().to_oauth().error;
    assert_eq!(error(&house).as_str(), "authorization_pending");
    assert_eq!(error(&house).as_str(), "slow_down");
    house.clock.advance(Duration::from_secs(5));
    assert_eq!(
        error(&house).as_str(),
        "slow_down",
        "ten seconds from now on"
    );
    house.clock.advance(Duration::from_secs(15));
    assert_eq!(error(&house).as_str(), "authorization_pending");
    assert_eq!(told(), before);
    // An impatient device still gets what its user allowed.
    allow(&house, &device);
    assert!(poll(&house, &device).is_ok());
}

#[test]
fn a_device_code_is_good_for_the_client_it_was_given_to_alone() {
    let house = house();
    create(&house, "other", tv_profile(), &NewSecret::None);
    let device = start(&house);
    allow(&house, &device);
    let (user_code, secret) = device.device_code.split_once('.').unwrap();
    let long = format!("{}{}", device.device_code, "x".repeat(1_000));
    for code in [
        "",
        ".",
        user_code,
        secret,
        &format!("{user_code}."),
        &format!("{user_code}.{}", "A".repeat(43)),
        &format!(".{secret}"),
        &format!("BBBB-BBBB.{secret}"),
        &long,
    ] {
        let refused = house
            .token(&question_form(code, "tv"))
            .unwrap_err()
            .to_oauth();
        let expected = if code.is_empty() {
            "invalid_request"
        } else {
            "invalid_grant"
        };
        assert_eq!(refused.error.as_str(), expected, "{code}");
    }
    let refused = house.token(&question_form(&device.device_code, "other"));
    assert!(matches!(refused, Err(TokenError::UnknownGrant)));
    // Nor for a later client of the same name.
    let tv = "tv".parse().unwrap();
    let version = house.provider.client(&tv).unwrap().version;
    house
        .provider
        .delete_client(&tv, version, &house.caller)
        .unwrap();
    house.clock.advance(Duration::from_secs(1));
    create(&house, "tv", tv_profile(), &NewSecret::None);
    assert!(matches!(
        poll(&house, &device),
        Err(TokenError::UnknownGrant)
    ));
}

#[test]
fn codes_cannot_be_guessed() {
    let house = house();
    let device = start(&house);
    let cookie = logged_in(&house, "alice");
    for typed in ["", "x", "BBBB-BBBB", "CCCC-CCCC", "'; drop table"] {
        let guess = enter(&house, &cookie, typed);
        assert!(
            matches!(guess, Err(DevicePageError::UnknownCode)),
            "{typed}"
        );
    }
    // The sixth is counted and delays the next, right or wrong.
    assert!(matches!(
        enter(&house, &cookie, "DDDD-DDDD"),
        Err(DevicePageError::UnknownCode)
    ));
    let Err(DevicePageError::Throttled { retry_after }) = enter(&house, &cookie, &device.user_code)
    else {
        panic!("there were too many");
    };
    assert_eq!(
        house.events_named("login.throttle", Outcome::Denied).len(),
        1
    );
    house.clock.advance(retry_after);
    assert!(matches!(
        enter(&house, &cookie, &device.user_code),
        Ok(DevicePage::Decide(_))
    ));
    // Nobody can guess without a login.
    let flow = entry(&house, &cookie);
    for cookie in [None, Some("x"), Some("ses_01ARZ3NDEKTSV4RRFFQ69G5FAV.x")] {
        let guess = house
            .provider
            .enter_user_code(&flow, &device.user_code, cookie, &house.caller);
        assert!(matches!(guess, Err(DevicePageError::FormInvalid)));
    }
}

#[test]
fn a_form_works_in_the_session_it_was_shown_to_and_for_what_it_asked() {
    let house = house();
    let device = start(&house);
    let (alice, elsewhere) = (logged_in(&house, "alice"), logged_in(&house, "alice"));
    let attackers = ask(&house, &elsewhere, &device.user_code);
    let other_form = entry(&house, &alice);
    let login = house.prompt(&native_request(&[])).flow;
    let mut bent = ask(&house, &alice, &device.user_code);
    bent.insert(12, 'x');
    // Somebody else's question, the form for codes, a login form, no form.
    for flow in [&*attackers, &*other_form, &*login, &*bent, "", "x"] {
        for decision in [DeviceDecision::Allow, DeviceDecision::Deny] {
            let decided = decide(&house, &alice, flow, decision);
            assert!(matches!(decided, Err(DevicePageError::FormInvalid)));
        }
    }
    let flow = ask(&house, &alice, &device.user_code);
    house.clock.advance(Duration::from_secs(16 * 60));
    let decided = decide(&house, &alice, &flow, DeviceDecision::Allow);
    assert!(matches!(decided, Err(DevicePageError::FormInvalid)));
}

#[test]
fn what_was_allowed_is_worth_nothing_when_the_login_behind_it_has_ended() {
    type Ending = fn(&House, &str);
    let endings: [Ending; 2] = [
        |house, cookie| house.log_out(cookie),
        |house, _| {
            house
                .provider
                .disable_user(&house.alice, &house.caller)
                .unwrap();
        },
    ];
    for end in endings {
        let house = house();
        let device = start(&house);
        let cookie = allow(&house, &device);
        end(&house, &cookie);
        assert!(matches!(
            poll(&house, &device),
            Err(TokenError::SessionEnded)
        ));
    }
}

#[test]
fn a_connected_device_is_a_session_of_its_own() {
    let house = house();
    let device = start(&house);
    let cookie = allow(&house, &device);
    let tokens = poll(&house, &device).unwrap();
    house.log_out(&cookie);
    let presented = || PresentedToken::bearer(&tokens.access_token, None);
    assert!(house.provider.access_token(presented()).is_ok());
    house
        .provider
        .end_sessions_of(&house.alice, &house.caller)
        .unwrap();
    assert!(house.provider.access_token(presented()).is_err());
}

#[test]
fn however_many_ask_at_once_one_gets_the_tokens() {
    let house = house();
    let device = start(&house);
    allow(&house, &device);
    let other = house.another_provider(5);
    let parameters = question_form(&device.device_code, "tv");
    let gets = |provider: &Provider| provider.token(&request(&parameters), &house.caller).is_ok();
    let got: usize = thread::scope(|scope| {
        let asking: Vec<_> = (0..8)
            .map(|index| {
                let provider = if index % 2 == 0 {
                    &*house.provider
                } else {
                    &other
                };
                scope.spawn(move || usize::from(gets(provider)))
            })
            .collect();
        asking.into_iter().map(|asked| asked.join().unwrap()).sum()
    });
    assert_eq!(got, 1);
}

#[test]
fn a_user_with_as_many_sessions_and_grants_as_allowed_can_still_connect_a_device() {
    let house = house();
    let device = start(&house);
    let cookie = logged_in(&house, "alice");
    for _ in 0..31 {
        house.redeem(&house.code()).unwrap();
    }
    let flow = ask(&house, &cookie, &device.user_code);
    decide(&house, &cookie, &flow, DeviceDecision::Allow).unwrap();
    assert!(poll(&house, &device).is_ok());
    assert!(
        house.provider.session(&cookie).unwrap().is_some(),
        "the one it was allowed in"
    );
}

#[test]
fn who_may_not_use_the_grant_gets_no_code() {
    let house = house();
    let refused = |changes: &[(&str, &str)]| {
        let error = try_start(&house, changes).unwrap_err();
        (error.error.as_str(), error.status)
    };
    assert_eq!(
        refused(&[("client_id", "cli")]),
        ("unauthorized_client", 400)
    );
    assert_eq!(refused(&[("client_id", "nobody")]), ("invalid_client", 401));
    assert_eq!(refused(&[("client_id", "web")]), ("invalid_client", 401));
    let restock = [("client_id", "restock"), ("client_secret", SECRET)];
    assert_eq!(refused(&restock), ("unauthorized_client", 400));
    for scope in ["", "nothing:else", "sco\"pe"] {
        assert_eq!(refused(&[("scope", scope)]), ("invalid_scope", 400));
    }
    let elsewhere = [("resource", "https://elsewhere.example")];
    assert_eq!(refused(&elsewhere), ("invalid_target", 400));
    let twice = Parameters::parse("client_id=tv&scope=openid&scope=profile").unwrap();
    let answered = house
        .provider
        .authorize_device(&request(&twice), &house.caller);
    assert_eq!(
        answered.unwrap_err().to_oauth().error.as_str(),
        "invalid_request"
    );
    // A client with a secret must show it, here and when it asks for its tokens.
    let profile = ClientProfile {
        kind: ClientKind::Confidential,
        ..tv_profile()
    };
    let secret = NewSecret::Given(Redacted::new(SECRET.to_owned()));
    create(&house, "box", profile, &secret);
    assert_eq!(refused(&[("client_id", "box")]), ("invalid_client", 401));
    let shown = try_start(&house, &[("client_id", "box"), ("client_secret", SECRET)]);
    let unproven = house.token(&question_form(&shown.unwrap().device_code, "box"));
    assert_eq!(
        unproven.unwrap_err().to_oauth().error.as_str(),
        "invalid_client"
    );
}

#[test]
fn a_flood_of_requests_is_held_off() {
    let house = house();
    let taken = (0..100).filter(|_| try_start(&house, &[]).is_ok()).count();
    assert_eq!(taken, 60);
    let refused = try_start(&house, &[]).unwrap_err();
    assert_eq!(
        (refused.error.as_str(), refused.status),
        ("temporarily_unavailable", 429)
    );
    house.clock.advance(Duration::from_secs(2));
    assert!(try_start(&house, &[]).is_ok());
}
