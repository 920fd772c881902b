//! What must not work: tokens of others, answers twice or elsewhere, accounts of others.

use super::*;

#[test]
fn a_name_or_mail_address_elsewhere_takes_no_account_over() {
    let town = Town::new(NewUsers::Create);
    // Her mail address, verified there: another account, with another name.
    town.logged_in(json!({ "email": "alice@bookshop.example", "email_verified": true }));
    let carol = town.user("carol");
    assert_ne!(carol.id, town.house.alice);
    assert_eq!(carol.email.as_deref(), Some("alice@bookshop.example"));
    // Her name: nobody's account, before she has proved it.
    let outcome = town.log_in(json!({ "sub": "other", "preferred_username": "Alice" }));
    let prompt = prompt_to_connect(outcome);
    assert_eq!(prompt.connects.as_deref(), Some("CORP"));
    assert!(town.links(&town.house.alice).is_empty());
    assert_eq!(town.user("alice").display_name.as_deref(), Some("Alice"));
    // Whoever has no name that could be one here gets one.
    town.logged_in(json!({ "sub": "third", "preferred_username": "Łukasz!" }));
    let users = town.house.provider.users(None, 100).unwrap().items;
    let made = users.iter().map(|user| user.record.username.to_string());
    assert!(made.into_iter().any(|name| name.starts_with("corp-")));
}

#[test]
fn an_id_token_that_says_anything_else_is_not_believed() {
    let town = Town::new(NewUsers::Create);
    let now = town.house.clock.now().unix_seconds();
    for (changes, why) in [
        (json!({ "iss": OTHER }), "iss is another issuer"),
        (
            json!({ "iss": "https://login.corp.example/" }),
            "iss is another issuer",
        ),
        (json!({ "iss": null }), "iss is another issuer"),
        (json!({ "aud": "another-client" }), "aud is not us alone"),
        (
            json!({ "aud": [CLIENT, "another-client"] }),
            "aud is not us alone",
        ),
        (json!({ "aud": [] }), "aud is not us alone"),
        (json!({ "aud": null }), "aud is not us alone"),
        (json!({ "azp": "another-client" }), "azp is not us"),
        (json!({ "azp": 7 }), "azp is not us"),
        (json!({ "nonce": null }), "nonce is not that of this login"),
        (
            json!({ "nonce": town.trip().asked["nonce"] }),
            "nonce is not that of this login",
        ),
        (json!({ "exp": now - 31 }), "it has ended, or has not begun"),
        (
            json!({ "iat": now + 31, "exp": now + 60 }),
            "it has ended, or has not begun",
        ),
        (json!({ "nbf": now + 31 }), "it has ended, or has not begun"),
        (json!({ "iat": null }), "iat or exp is missing"),
        (json!({ "exp": null }), "iat or exp is missing"),
        (json!({ "exp": "soon" }), "iat or exp is missing"),
        (json!({ "sub": null }), "sub is missing or too long"),
        (json!({ "sub": "" }), "sub is missing or too long"),
        (
            json!({ "sub": "x".repeat(256) }),
            "sub is missing or too long",
        ),
        (json!({ "sub": "a\nb" }), "sub is missing or too long"),
        (json!({ "sub": 7 }), "sub is missing or too long"),
        (
            json!({ "auth_time": now + 31 }),
            "auth_time is in the future",
        ),
    ] {
        let outcome = town.log_in(changes);
        town.assert_refused(outcome, &format!("ID token: {why}"));
    }
    assert!(
        town.house
            .provider
            .user_by_name(&"carol".parse().unwrap())
            .is_err()
    );
}

#[test]
fn an_id_token_of_another_key_or_algorithm_is_not_believed() {
    let town = Town::new(NewUsers::Create);
    let trip = town.trip();
    let answer = town.answer(&trip, &[]);
    let claims = town.claims(&trip, json!({}));
    let encoded = |value: &Value| base64url::encode(value.to_string().as_bytes());
    let kid = town.corp.key_id();
    let unsigned = |header: Value| format!("{}.{}", encoded(&header), encoded(&claims));
    // With the public key as its secret.
    let hs256 = unsigned(json!({ "alg": "HS256", "typ": "JWT", "kid": kid }));
    let public = town.corp.public_jwk().to_string();
    let mac = hmac_sha256(public.as_bytes(), hs256.as_bytes());
    let signed = town.token(&trip, json!({}));
    let (start, signature) = signed.rsplit_once('.').unwrap();
    let other_claims = encoded(&town.claims(&trip, json!({ "sub": "somebody-else" })));
    let header = start.split('.').next().unwrap();
    for token in [
        format!(
            "{}.",
            unsigned(json!({ "alg": "none", "typ": "JWT", "kid": kid }))
        ),
        format!("{}.", unsigned(json!({ "alg": "none" }))),
        format!("{hs256}.{}", base64url::encode(&mac)),
        format!("{header}.{other_claims}.{signature}"),
        format!("{start}."),
        town.corp.sign_jwt("at+jwt", &claims).unwrap(),
        town.corp.sign_jwt("logout+jwt", &claims).unwrap(),
        String::new(),
    ] {
        let outcome = town.come_back_with(&trip, &answer, &token, None);
        assert!(
            matches!(outcome, Err(UpstreamError::NotAccepted { .. })),
            "{token}: {outcome:?}"
        );
    }
    // A key that is not there may be a new one: its keys are asked for again.
    let stranger = SigningKey::generate().sign_jwt("JWT", &claims).unwrap();
    let outcome = town.come_back_with(&trip, &answer, &stranger, None);
    assert!(
        matches!(outcome, Err(UpstreamError::UnknownKey)),
        "{outcome:?}"
    );
    // None of that has used the trip up.
    logged_in(town.come_back(&trip, json!({})));
}

#[test]
fn an_answer_works_in_its_browser_alone_and_once() {
    let town = Town::new(NewUsers::Create);
    let trip = town.trip();
    let (provider, caller) = (&town.house.provider, &town.house.caller);
    let answer = town.answer(&trip, &[]);
    let metadata = metadata(CORP);
    let elsewhere = town.trip().prompt.browser;
    for browser in [None, Some(""), Some(elsewhere.expose().as_str())] {
        let refused = provider.receive_upstream_answer("corp", &metadata, &answer, browser, caller);
        let refused = refused.map(|_| ());
        assert!(
            matches!(refused, Err(UpstreamError::Login(LoginError::OtherBrowser))),
            "{refused:?}"
        );
    }
    let browser = Some(trip.prompt.browser.expose().as_str());
    let shorter: String = trip.asked["state"].chars().skip(1).collect();
    for state in ["", "x", &trip.prompt.flow, &shorter] {
        let answer = town.answer(&trip, &[("state", state)]);
        let refused = provider.receive_upstream_answer("corp", &metadata, &answer, browser, caller);
        let refused = refused.map(|_| ());
        assert!(
            matches!(refused, Err(UpstreamError::Login(LoginError::FlowInvalid))),
            "{refused:?}"
        );
    }
    // A code of somebody else with the state of this browser: their ID token has another nonce.
    let theirs = town.trip();
    let injected = town.token(&theirs, json!({ "sub": "attacker" }));
    let outcome = town.come_back_with(&trip, &answer, &injected, None);
    town.assert_refused(outcome, "ID token: nonce is not that of this login");

    logged_in(town.come_back(&trip, json!({})));
    let outcome = town.come_back(&trip, json!({}));
    assert!(
        matches!(outcome, Err(UpstreamError::Login(LoginError::FlowUsed))),
        "{outcome:?}"
    );
    let late = town.trip();
    town.house.clock.advance(Duration::from_secs(15 * 60 + 1));
    let outcome = town.come_back(&late, json!({}));
    assert!(
        matches!(outcome, Err(UpstreamError::Login(LoginError::FlowExpired))),
        "{outcome:?}"
    );
}

#[test]
fn answers_of_two_identity_providers_are_never_mixed_up() {
    let town = Town::new(NewUsers::Create);
    let trip = town.trip();
    let token = town.token(&trip, json!({}));
    let come_back = |trip: &Trip, changes: &[(&str, &str)]| {
        town.come_back_with(trip, &town.answer(trip, changes), &token, None)
    };
    let outcome = come_back(&trip, &[("iss", OTHER)]);
    town.assert_refused(outcome, "the answer is of another issuer");
    let outcome = come_back(&trip, &[("iss", "")]);
    town.assert_refused(outcome, "the answer does not say whose it is");
    let outcome = come_back(&trip, &[("code", "")]);
    town.assert_refused(outcome, "there is no code");
    // At the address of another one.
    let elsewhere = Trip {
        at: "other",
        ..trip
    };
    let outcome = come_back(&elsewhere, &[]);
    town.assert_refused(
        outcome,
        "the answer came from another identity provider than was asked",
    );
    // The other one says that somebody is who they are at corp.
    let trip = town.set_out("other", &claimed_request(&[]));
    let outcome = town.come_back(&trip, json!({ "iss": CORP }));
    town.assert_refused(outcome, "ID token: iss is another issuer");
    // The same `sub` at both is two people.
    town.logged_in(json!({}));
    let carol = town.user("carol").id;
    let prompt = prompt_to_connect(town.come_back(&trip, json!({})));
    assert_eq!(prompt.connects.as_deref(), Some("OTHER"));
    assert_eq!(town.links(&carol).len(), 1);
    // Twice the same parameter, of which two readers would read two.
    let twice = "code=a&code=b&iss=https%3A%2F%2Flogin.other.example";
    let trip = town.set_out("other", &claimed_request(&[]));
    let answer = Parameters::parse(&format!("{twice}&state={}", trip.asked["state"])).unwrap();
    let outcome = town.come_back_with(&trip, &answer, "", None);
    town.assert_refused(outcome, "a parameter of the answer is repeated");
}

#[test]
fn who_is_disabled_or_deleted_here_stays_out() {
    let town = Town::new(NewUsers::Link);
    town.connect_alice();
    let (provider, caller) = (&town.house.provider, &town.house.caller);
    let trip = town.trip();
    provider.disable_user(&town.house.alice, caller).unwrap();
    let outcome = town.come_back(&trip, json!({ "groups": ["cn-admins"] }));
    town.assert_refused(outcome, "user is disabled");
    assert!(town.user("alice").groups.is_empty());
    provider.enable_user(&town.house.alice, caller).unwrap();
    town.logged_in(json!({}));
    provider.delete_user(&town.house.alice, caller).unwrap();
    prompt_to_connect(town.log_in(json!({})));
    // Whoever has the name next is somebody else.
    let password = NewPassword::Given(Redacted::new(PASSWORD.to_owned()));
    let name = "alice".parse().unwrap();
    let made = provider.create_user(&name, UserProfile::default(), Some(&password), caller);
    assert!(town.links(&made.unwrap().record.id).is_empty());
}

#[test]
fn a_login_there_is_as_old_as_it_is() {
    let town = Town::new(NewUsers::Link);
    town.connect_alice();
    let now = town.house.clock.now().unix_seconds();
    let auth_time = |done: &LoggedIn| {
        let tokens = town.house.redeem_claimed(&code_of(done)).unwrap();
        town.house.access_claims(&tokens).auth_time.unwrap()
    };
    let hour_ago = town.logged_in(json!({ "auth_time": now - 3600 }));
    assert_eq!(auth_time(&hour_ago), now - 3600);
    // Who does not say when is never taken for somebody who has just logged in.
    let unknown = town.logged_in(json!({ "auth_time": null }));
    assert_eq!(auth_time(&unknown), now - 12 * 3600);
    for done in [&hour_ago, &unknown] {
        let cookie = done.session_cookie.expose();
        let request = claimed_request(&[("max_age", "600")]);
        let answered =
            town.house
                .provider
                .authorize(&request, Some(cookie), None, &town.house.caller);
        assert!(
            matches!(answered, Ok(Authorization::Login(_))),
            "{answered:?}"
        );
        let flow = town.account(cookie).flow;
        let page = town.house.provider.change_account(
            &flow,
            AccountAction::BeginTotp,
            Some(cookie),
            None,
            &town.house.caller,
        );
        assert!(matches!(page, Ok(AccountPage::Login(_))), "{page:?}");
    }
    // An application that asked for a new login gets one, or nobody does.
    let ask = |max_age: &str, changes: Value| {
        let trip = town.set_out("corp", &claimed_request(&[("max_age", max_age)]));
        town.come_back(&trip, changes)
    };
    logged_in(ask("600", json!({ "auth_time": now - 600 })));
    let old = "ID token: the login there is older than what was asked for by max_age";
    town.assert_refused(ask("600", json!({ "auth_time": now - 631 })), old);
    town.assert_refused(ask("0", json!({ "auth_time": now - 31 })), old);
    let missing = "ID token: auth_time is missing, and was asked for by max_age";
    town.assert_refused(ask("600", json!({ "auth_time": null })), missing);
    // The account page is shown to whoever is logged in, however long they are; to change something is another matter.
    let AccountPage::Login(prompt) = town.house.provider.account_page(None, None).unwrap() else {
        panic!("a login form");
    };
    let trip = town.set_out_from("corp", prompt);
    assert_eq!(trip.asked["max_age"], "600");
    let done = logged_in(town.come_back(&trip, json!({ "auth_time": null })));
    let cookie = done.session_cookie.expose();
    let view = town.account(cookie);
    let (provider, caller) = (&town.house.provider, &town.house.caller);
    let page = provider.change_account(
        &view.flow,
        AccountAction::BeginTotp,
        Some(cookie),
        None,
        caller,
    );
    assert!(matches!(page, Ok(AccountPage::Login(_))), "{page:?}");
}

#[test]
fn a_second_factor_here_is_asked_for_unless_there_was_one_there() {
    let town = Town::new(NewUsers::Link);
    town.connect_alice();
    let cookie = town
        .house
        .login_through(&claimed_request(&[]))
        .session_cookie;
    let (authenticator, _): (Authenticator, _) = enrol(&town.house, cookie.expose());
    town.house.clock.advance(Duration::from_secs(60));
    let trip = town.trip();
    let half = match town.come_back(&trip, json!({})) {
        Ok(UpstreamLogin::SecondFactorNeeded { flow }) => flow,
        other => panic!("{other:?}"),
    };
    let finish = |browser: &str, code: &str| {
        let request = SecondFactorRequest {
            flow: &half,
            browser: Some(browser),
            session: None,
            code,
        };
        town.house
            .provider
            .finish_login(&request, &town.house.caller)
    };
    let code = authenticator.code(&town.house);
    let browser = trip.prompt.browser.expose();
    assert!(matches!(finish("x", &code), Err(LoginError::OtherBrowser)));
    assert!(matches!(
        finish(browser, "000000"),
        Err(LoginError::WrongCode)
    ));
    let done = finish(browser, &code).unwrap();
    let tokens = town.house.redeem_claimed(&code_of(&done)).unwrap();
    let claims = town.house.access_claims(&tokens);
    assert_eq!(
        (claims.acr.as_deref(), &claims.amr[..]),
        (
            Some("2"),
            &["fed".to_owned(), "otp".to_owned(), "mfa".to_owned()][..]
        )
    );
    town.house.clock.advance(Duration::from_secs(60));
    let again = finish(browser, &authenticator.code(&town.house));
    assert!(matches!(again, Err(LoginError::FlowUsed)), "{again:?}");
    town.logged_in(json!({ "acr": "gold", "amr": ["mfa"] }));
}

#[test]
fn an_account_elsewhere_is_of_one_user_and_the_last_way_in_stays() {
    let town = Town::new(NewUsers::Create);
    let done = town.logged_in(json!({}));
    let carol = town.user("carol").id;
    let (provider, caller) = (&town.house.provider, &town.house.caller);
    let taken = provider.connect_user(&town.house.alice, "corp", "248289761001", caller);
    assert!(taken.is_err());
    // She has neither password nor passkey.
    let cookie = done.session_cookie.expose();
    let view = town.account(cookie);
    assert!(!view.can_part_with_links);
    let id = view.links[0].id.clone();
    let action = AccountAction::Disconnect(id.clone());
    provider
        .change_account(&view.flow, action, Some(cookie), None, caller)
        .unwrap();
    assert_eq!(town.links(&carol).len(), 1);
    // An administrator can lock her out.
    provider.disconnect_user(&carol, &id, caller).unwrap();
    assert!(provider.session(cookie).unwrap().is_none());
    assert!(provider.disconnect_user(&carol, &id, caller).is_err());
    for number in 0..MAX_LINKS_PER_USER {
        provider
            .connect_user(&carol, "corp", &number.to_string(), caller)
            .unwrap();
    }
    assert!(
        provider
            .connect_user(&carol, "corp", "one-more", caller)
            .is_err()
    );
    assert!(
        provider
            .connect_user(&carol, "nowhere", "x", caller)
            .is_err()
    );
    provider.delete_user(&carol, caller).unwrap();
    provider
        .connect_user(&town.house.alice, "corp", "0", caller)
        .unwrap();
}

#[test]
fn one_network_cannot_have_an_identity_provider_asked_for_ever() {
    let town = Town::new(NewUsers::Create);
    let trip = town.trip();
    let come_back = |changes: Value| {
        let (answer, token) = (town.answer(&trip, &[]), town.token(&trip, changes));
        town.come_back_from(&town.house.caller, &trip, &answer, &token, None)
    };
    for _ in 0..=FREE_FAILURES_PER_SOURCE {
        let outcome = come_back(json!({ "nonce": "x" }));
        assert!(matches!(outcome, Err(UpstreamError::NotAccepted { .. })));
    }
    let outcome = come_back(json!({}));
    assert!(
        matches!(
            outcome,
            Err(UpstreamError::Login(LoginError::Throttled { .. }))
        ),
        "{outcome:?}"
    );
    // From elsewhere the same answer is heard.
    logged_in(town.come_back(&trip, json!({})));
}

#[test]
fn what_is_said_beside_an_id_token_is_about_the_same_person_and_about_no_login() {
    let town = Town::new(NewUsers::Create);
    let (provider, caller) = (&town.house.provider, &town.house.caller);
    let come_back = |told: Value| {
        let trip = town.trip();
        let browser = Some(trip.prompt.browser.expose().as_str());
        let answer = town.answer(&trip, &[]);
        let answer = provider
            .receive_upstream_answer("corp", &metadata(CORP), &answer, browser, caller)
            .unwrap();
        let token = town.token(
            &trip,
            json!({ "preferred_username": null, "email": "c@corp.example" }),
        );
        let mut claims = provider
            .check_upstream_token(&answer, &token, &town.keys("corp"), caller)
            .unwrap();
        let accepted = claims.add_user_info(told.to_string().as_bytes());
        let by = UpstreamCaller {
            session: None,
            browser,
            caller,
        };
        accepted.then(|| logged_in(provider.finish_upstream_login(answer, &claims, &by)))
    };
    for told in [
        json!({ "sub": "somebody-else" }),
        json!({}),
        json!([]),
        json!({ "sub": 7 }),
    ] {
        assert!(come_back(told.clone()).is_none(), "{told}");
    }
    let done = come_back(json!({
        "sub": "248289761001", "preferred_username": "carol", "groups": ["cn-staff"],
        "email": "other@corp.example", "email_verified": true, "acr": "gold", "amr": ["mfa"],
    }));
    let carol = town.user("carol");
    assert_eq!(names(&carol.groups), ["staff"]);
    // The address of the ID token was not verified; that of the other document is not the one in the ID token.
    assert_eq!(carol.email, None);
    let tokens = town.house.redeem_claimed(&code_of(&done.unwrap())).unwrap();
    assert_eq!(town.house.access_claims(&tokens).acr.as_deref(), Some("1"));
    assert_eq!(town.house.access_claims(&tokens).iss, ISSUER);
}
