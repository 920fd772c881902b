//! The login form.

use std::{net::IpAddr, sync::Barrier, thread, time::Duration};

use testudo_identity::{Authorization, Caller, LoginError, LoginRequest, PresentedToken};
use testudo_model::{Redacted, event::Outcome};

use crate::house::{House, PASSWORD, native_request};

#[test]
fn unknown_names_wrong_passwords_and_disabled_users_look_the_same() {
    let house = House::new();
    let unknown = house.try_login("mallory", PASSWORD).unwrap_err();
    let wrong = house.try_login("alice", "wrong").unwrap_err();
    let malformed = house.try_login("al ice\0", PASSWORD).unwrap_err();
    house
        .provider
        .disable_user(&house.alice, &house.caller)
        .unwrap();
    let disabled = house.try_login("alice", PASSWORD).unwrap_err();
    for error in [&unknown, &wrong, &malformed, &disabled] {
        assert!(matches!(error, LoginError::WrongCredentials));
        assert_eq!(
            (error.status(), error.to_string()),
            (401, unknown.to_string())
        );
    }
    let reasons: Vec<String> = house
        .events_named("login.password", Outcome::Denied)
        .iter()
        .map(|event| {
            serde_json::to_value(&event.details["reason"])
                .unwrap()
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    assert_eq!(
        reasons,
        [
            "unknown user",
            "wrong password",
            "unknown user",
            "user is disabled"
        ]
    );
}

#[test]
fn names_are_taken_in_any_case_and_with_stray_spaces() {
    assert!(House::new().try_login(" Alice ", PASSWORD).is_ok());
}

#[test]
fn the_form_works_in_the_browser_it_was_given_to_and_nowhere_else() {
    let house = House::new();
    let mine = house.prompt(&native_request(&[]));
    let victims = house.prompt(&native_request(&[]));
    let password = Redacted::new(PASSWORD.to_owned());
    let send = |flow: &str, browser: Option<&str>| {
        let request = LoginRequest {
            flow,
            browser,
            session: None,
            username: "alice",
            password: &password,
        };
        house.provider.login(&request, &house.caller)
    };
    assert!(matches!(
        send(&mine.flow, None),
        Err(LoginError::OtherBrowser)
    ));
    let foreign = send(&mine.flow, Some(victims.browser.expose()));
    assert!(matches!(foreign, Err(LoginError::OtherBrowser)));
    for forged in [
        "",
        "AAAA",
        "not base64!",
        mine.flow.get(1..).unwrap(),
        &"A".repeat(100_000),
    ] {
        assert!(matches!(
            send(forged, Some(mine.browser.expose())),
            Err(LoginError::FlowInvalid)
        ));
    }
    assert!(send(&mine.flow, Some(mine.browser.expose())).is_ok());
    house.clock.advance(Duration::from_secs(15 * 60 + 1));
    assert!(matches!(
        send(&mine.flow, Some(mine.browser.expose())),
        Err(LoginError::FlowExpired)
    ));
}

#[test]
fn two_tabs_of_one_browser_can_both_log_in() {
    let house = House::new();
    let first = house.prompt(&native_request(&[("state", "one")]));
    let browser = first.browser.expose().clone();
    let parameters = native_request(&[("state", "two")]);
    let second = house
        .provider
        .authorize(&parameters, None, Some(&browser), &house.caller)
        .unwrap();
    let Authorization::Login(second) = second else {
        panic!("no login page")
    };
    assert_eq!(second.browser.expose(), &browser);
    let password = Redacted::new(PASSWORD.to_owned());
    for flow in [&second.flow, &first.flow] {
        let request = LoginRequest {
            flow,
            browser: Some(&browser),
            session: None,
            username: "alice",
            password: &password,
        };
        assert!(house.provider.login(&request, &house.caller).is_ok());
    }
}

#[test]
fn another_node_on_the_same_store_takes_the_form() {
    let house = House::new();
    let prompt = house.prompt(&native_request(&[]));
    let other = house.another_provider(99);
    let password = Redacted::new(PASSWORD.to_owned());
    let request = LoginRequest {
        flow: &prompt.flow,
        browser: Some(prompt.browser.expose()),
        session: None,
        username: "alice",
        password: &password,
    };
    let logged_in = other.login(&request, &house.caller).unwrap();
    let session = house
        .provider
        .session(logged_in.session_cookie.expose())
        .unwrap()
        .unwrap();
    assert_eq!(session.user, house.alice);
}

#[test]
fn a_session_cookie_is_nothing_without_every_bit_of_its_secret() {
    let house = House::new();
    let cookie = house
        .try_login("alice", PASSWORD)
        .unwrap()
        .session_cookie
        .into_exposed();
    assert!(house.provider.session(&cookie).unwrap().is_some());
    let (id, secret) = cookie.split_once('.').unwrap();
    let other = house
        .try_login("alice", PASSWORD)
        .unwrap()
        .session_cookie
        .into_exposed();
    let other_secret = other.split_once('.').unwrap().1;
    let long = "A".repeat(8192);
    for tampered in [
        "",
        id,
        &format!("{id}."),
        &format!("{id}.{other_secret}"),
        &format!("{id}.{}", secret.get(1..).unwrap()),
        &format!("{id}.{secret}x"),
        &long,
    ] {
        assert!(
            house.provider.session(tampered).unwrap().is_none(),
            "{tampered}"
        );
    }
    house.clock.advance(Duration::from_secs(12 * 3600));
    assert!(
        house.provider.session(&cookie).unwrap().is_none(),
        "expired"
    );
}

#[test]
fn a_new_login_takes_the_place_of_the_browsers_old_session() {
    let house = House::new();
    let old = house.login_through(&native_request(&[]));
    let tokens = house.redeem(&crate::house::code_of(&old)).unwrap();
    let prompt = house.prompt(&native_request(&[("prompt", "login")]));
    let password = Redacted::new(PASSWORD.to_owned());
    let request = LoginRequest {
        flow: &prompt.flow,
        browser: Some(prompt.browser.expose()),
        session: Some(old.session_cookie.expose()),
        username: "alice",
        password: &password,
    };
    let new = house.provider.login(&request, &house.caller).unwrap();
    assert_ne!(new.session, old.session);
    assert!(
        house
            .provider
            .session(old.session_cookie.expose())
            .unwrap()
            .is_none()
    );
    assert!(
        house
            .provider
            .session(new.session_cookie.expose())
            .unwrap()
            .is_some()
    );
    assert!(
        house
            .refresh(tokens.refresh_token.as_deref().unwrap())
            .is_ok()
    );
}

#[test]
fn guessing_at_one_name_is_slowed_down_whether_it_exists_or_not() {
    for name in ["alice", "nobody-of-this-name"] {
        let house = House::new();
        let from = |n: u8| Caller {
            source_ip: Some(IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(n)])),
            ..Caller::default()
        };
        for n in 0..6 {
            let error = house.try_login_from(name, "wrong", &from(n)).unwrap_err();
            assert!(matches!(error, LoginError::WrongCredentials), "{name} {n}");
        }
        let blocked = house.try_login_from(name, PASSWORD, &from(7)).unwrap_err();
        let LoginError::Throttled { retry_after } = blocked else {
            panic!("{name}: {blocked:?}")
        };
        assert_eq!(retry_after, Duration::from_secs(1));
        assert_eq!(
            house.events_named("login.throttle", Outcome::Denied).len(),
            1
        );
        house.clock.advance(retry_after);
        let after = house.try_login_from(name, "wrong", &from(8)).unwrap_err();
        assert!(matches!(after, LoginError::WrongCredentials));
        let longer = house.try_login_from(name, "wrong", &from(9)).unwrap_err();
        assert!(
            matches!(longer, LoginError::Throttled { retry_after } if retry_after.as_secs() == 2),
            "{longer:?}"
        );
    }
}

#[test]
fn whoever_keeps_guessing_at_a_name_does_not_keep_its_owner_out() {
    let house = House::new();
    let stranger = Caller {
        source_ip: Some(IpAddr::from([198, 51, 100, 1])),
        ..Caller::default()
    };
    for _ in 0..30 {
        let error = house.try_login_from("alice", "wrong", &stranger);
        if let LoginError::Throttled { retry_after } = error.unwrap_err() {
            house.clock.advance(retry_after);
        }
    }
    assert!(house.try_login("alice", PASSWORD).is_ok());
    // Her success is no pardon for them.
    house
        .try_login_from("alice", "wrong", &stranger)
        .unwrap_err();
    let right = house.try_login_from("alice", PASSWORD, &stranger);
    assert!(
        matches!(right, Err(LoginError::Throttled { .. })),
        "{right:?}"
    );
}

#[test]
fn guessing_many_names_from_one_address_is_slowed_down() {
    let house = House::new();
    let throttled = (0..40).position(|n| {
        let result = house.try_login(&format!("user{n}"), "wrong");
        matches!(result, Err(LoginError::Throttled { .. }))
    });
    assert_eq!(throttled, Some(31));
    let elsewhere = Caller {
        source_ip: Some(IpAddr::from([203, 0, 113, 9])),
        ..Caller::default()
    };
    assert!(house.try_login_from("alice", PASSWORD, &elsewhere).is_ok());
}

#[test]
fn a_right_password_clears_the_name_but_is_no_licence_to_guess_others() {
    let house = House::new();
    for _ in 0..4 {
        house.try_login("alice", "wrong").unwrap_err();
    }
    house.try_login("alice", PASSWORD).unwrap();
    for _ in 0..6 {
        let error = house.try_login("alice", "wrong").unwrap_err();
        assert!(
            matches!(error, LoginError::WrongCredentials),
            "the count began afresh: {error:?}"
        );
    }
    let house = House::new();
    let mut refused = false;
    for n in 0..60 {
        refused |= matches!(
            house.try_login(&format!("u{n}"), "x"),
            Err(LoginError::Throttled { .. })
        );
        let _ = house.try_login("alice", PASSWORD);
    }
    assert!(refused);
}

#[test]
fn parallel_guesses_do_not_slip_past_the_counter() {
    let house = House::new();
    let barrier = Barrier::new(24);
    let checked = thread::scope(|scope| {
        let guess = |n: u8| {
            let (house, barrier) = (&house, &barrier);
            move || {
                let caller = Caller {
                    source_ip: Some(IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(n)])),
                    ..Caller::default()
                };
                barrier.wait();
                house.try_login_from("alice", "wrong", &caller)
            }
        };
        let threads: Vec<_> = (0..24).map(|n| scope.spawn(guess(n))).collect();
        let results = threads.into_iter().map(|thread| thread.join().unwrap());
        results
            .filter(|result| matches!(result, Err(LoginError::WrongCredentials)))
            .count()
    });
    assert!(
        (1..=6).contains(&checked),
        "{checked} passwords were checked"
    );
}

#[test]
fn a_megabyte_is_not_hashed_as_a_password() {
    let house = House::new();
    let error = house.try_login("alice", &"x".repeat(1 << 20)).unwrap_err();
    assert!(matches!(error, LoginError::WrongCredentials));
}

#[test]
fn a_user_has_a_bounded_number_of_sessions_and_the_oldest_goes() {
    let house = House::new();
    let first = house.login_through(&native_request(&[]));
    let tokens = house.redeem(&crate::house::code_of(&first)).unwrap();
    for _ in 0..testudo_identity::limits::MAX_SESSIONS_PER_USER {
        house.clock.advance(Duration::from_secs(1));
        house.try_login("alice", PASSWORD).unwrap();
    }
    let sessions = house.provider.sessions_of(&house.alice).unwrap();
    assert_eq!(
        sessions.len(),
        testudo_identity::limits::MAX_SESSIONS_PER_USER
    );
    assert!(sessions.iter().all(|session| session.id != first.session));
    assert!(
        house
            .provider
            .user_info(PresentedToken::bearer(&tokens.access_token, None))
            .is_err()
    );
}
