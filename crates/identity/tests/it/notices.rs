//! Back-channel logout: whoever knows a session is told of its end, until they have taken it.

use std::{collections::BTreeSet, time::Duration};

use serde_json::{Value, json};
use testudo_identity::{
    ClientLogout, Delivery, DueNotice, EndReason, NewPassword, PresentedToken, Provider,
    TokenRequest,
};
use testudo_model::event::{Detail, Outcome};
use url::form_urlencoded;

use crate::house::{
    House, ISSUER, PASSWORD, SECRET, WEB_REDIRECT, claimed_request, code_of, form, native_request,
    redemption, web_profile,
};

const LOGOUT_URI: &str = "https://app.bookshop.example/backchannel";
const TAKEN: Delivery = Delivery::Answered(200);

/// A house whose native client wants to be told.
fn house() -> House {
    let house = House::new();
    house.tell_of_logouts(ClientLogout {
        backchannel_logout_uri: Some(LOGOUT_URI.parse().unwrap()),
        backchannel_logout_session_required: true,
        ..ClientLogout::default()
    });
    house
}

/// A login; its cookie and the `sid` of its tokens.
fn log_in(house: &House) -> (String, String) {
    let logged_in = house.login_through(&claimed_request(&[]));
    let tokens = house.redeem_claimed(&code_of(&logged_in)).unwrap();
    let sid = house.access_claims(&tokens).sid.unwrap();
    (logged_in.session_cookie.expose().clone(), sid.to_string())
}

fn due(provider: &Provider) -> Vec<DueNotice> {
    provider.due_notices().unwrap()
}

/// The one notice that is due.
fn one(provider: &Provider) -> DueNotice {
    let mut due = due(provider);
    assert_eq!(due.len(), 1, "{due:?}");
    due.pop().unwrap()
}

fn logout_token(due: &DueNotice) -> String {
    let mut pairs = form_urlencoded::parse(due.message.body.expose().as_bytes());
    let (name, token) = pairs.next().unwrap();
    assert_eq!((&*name, pairs.next()), ("logout_token", None));
    token.into_owned()
}

fn claims(house: &House, due: &DueNotice) -> Value {
    house.claims(&logout_token(due), "logout+jwt")
}

/// All that is told now, as `sid`s.
fn told(house: &House) -> BTreeSet<String> {
    let mut told = BTreeSet::new();
    loop {
        let due = due(&house.provider);
        if due.is_empty() {
            return told;
        }
        for due in due {
            let sid = claims(house, &due)["sid"].as_str().unwrap().to_owned();
            assert!(told.insert(sid), "told twice");
            house.provider.settle_notice(&due, &TAKEN).unwrap();
        }
    }
}

#[test]
fn a_logout_is_told_with_a_logout_token() {
    let house = house();
    let (cookie, sid) = log_in(&house);
    assert!(due(&house.provider).is_empty());
    house.log_out(&cookie);
    let due = one(&house.provider);
    assert_eq!(due.message.url, LOGOUT_URI);
    assert_eq!(due.message.media_type, "application/x-www-form-urlencoded");
    let claims = claims(&house, &due);
    let now = claims["iat"].as_i64().unwrap();
    assert_eq!(
        claims,
        json!({
            "iss": ISSUER,
            "sub": house.alice.as_str(),
            "aud": "cli",
            "iat": now,
            "exp": now + 120,
            "jti": claims["jti"],
            "events": { "http://schemas.openid.net/event/backchannel-logout": {} },
            "sid": sid,
        })
    );
    // It is nothing but a logout token.
    let token = logout_token(&due);
    let presented = PresentedToken::bearer(&token, None);
    assert!(house.provider.access_token(presented).is_err());
    let hint = form(&[("id_token_hint", &token), ("client_id", "cli")]);
    let (cookie, _) = log_in(&house);
    let asked = house
        .provider
        .begin_logout(&hint, Some(&cookie), &house.caller);
    assert!(matches!(asked.unwrap(), testudo_identity::Logout::Ask(_)));

    house.provider.settle_notice(&due, &TAKEN).unwrap();
    assert!(house.provider.due_notices().unwrap().is_empty());
    let events = house.events_named("logout.notify", Outcome::Success);
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].target.as_deref(), Some("cli"));
    assert_eq!(events[0].actor.session.as_ref().unwrap().as_str(), sid);
}

#[test]
fn every_way_a_session_can_end_is_told() {
    type Ending = fn(&House, &str, &str);
    let endings: [(&str, Ending); 7] = [
        ("logout", |house, cookie, _| house.log_out(cookie)),
        ("administrator", |house, cookie, _| {
            let session = house.provider.session(cookie).unwrap().unwrap();
            let why = EndReason::Administrator;
            house
                .provider
                .end_session(&session.id, why, &house.caller)
                .unwrap();
        }),
        ("administrator, by sid", |house, _, sid| {
            let why = EndReason::Administrator;
            house
                .provider
                .end_session(&sid.parse().unwrap(), why, &house.caller)
                .unwrap();
        }),
        ("log out everywhere", |house, _, _| {
            house
                .provider
                .end_sessions_of(&house.alice, &house.caller)
                .unwrap();
        }),
        ("disabled", |house, _, _| {
            house
                .provider
                .disable_user(&house.alice, &house.caller)
                .unwrap();
        }),
        ("new password", |house, _, _| {
            let password = NewPassword::Given(format!("{PASSWORD}!").into());
            house
                .provider
                .set_password(&house.alice, &password, &house.caller)
                .unwrap();
        }),
        ("deleted", |house, _, _| {
            house
                .provider
                .delete_user(&house.alice, &house.caller)
                .unwrap();
        }),
    ];
    for (name, end) in endings {
        let house = house();
        let (cookie, sid) = log_in(&house);
        end(&house, &cookie, &sid);
        assert_eq!(told(&house), BTreeSet::from([sid]), "{name}");
    }
}

#[test]
fn a_stolen_refresh_token_is_told_to_its_client() {
    let house = house();
    let tokens = house.tokens();
    let sid = house.access_claims(&tokens).sid.unwrap().to_string();
    let refresh_token = tokens.refresh_token.as_deref().unwrap();
    house.refresh(refresh_token).unwrap();
    house.clock.advance(Duration::from_secs(60));
    assert!(house.refresh(refresh_token).is_err());
    assert_eq!(told(&house), BTreeSet::from([sid]));
}

#[test]
fn a_client_that_gave_its_tokens_back_is_still_told_when_the_session_ends() {
    let house = house();
    let logged_in = house.login_through(&claimed_request(&[]));
    let tokens = house.redeem_claimed(&code_of(&logged_in)).unwrap();
    let sid = house.access_claims(&tokens).sid.unwrap().to_string();
    let refresh_token = tokens.refresh_token.as_deref().unwrap();
    let parameters = form(&[("client_id", "cli"), ("token", refresh_token)]);
    let request = TokenRequest {
        parameters: &parameters,
        authorization: None,
        dpop: None,
        peer: None,
    };
    house.provider.revoke(&request, &house.caller).unwrap();
    assert!(house.refresh(refresh_token).is_err());
    let presented = PresentedToken::bearer(&tokens.access_token, None);
    assert!(house.provider.access_token(presented).is_err());
    assert!(due(&house.provider).is_empty(), "nobody has logged out");
    house.log_out(logged_in.session_cookie.expose());
    assert_eq!(told(&house), BTreeSet::from([sid]));
}

#[test]
fn every_client_of_a_session_is_told_and_no_other() {
    let house = house();
    let web = "web".parse().unwrap();
    let version = house.provider.client(&web).unwrap().version;
    let mut profile = web_profile();
    profile.grants.pop();
    profile.logout.backchannel_logout_uri = Some("https://shop.example/bye".parse().unwrap());
    house
        .provider
        .update_client(&web, version, profile, &house.caller)
        .unwrap();
    let (cookie, first) = log_in(&house);
    let request = claimed_request(&[("client_id", "web"), ("redirect_uri", WEB_REDIRECT)]);
    let testudo_identity::Authorization::Code { location } = house
        .provider
        .authorize(&request, Some(&cookie), None, &house.caller)
        .unwrap()
    else {
        panic!("somebody is logged in");
    };
    let code = crate::house::query(location.expose())["code"].clone();
    let redemption = redemption(
        &code,
        &[
            ("client_id", "web"),
            ("client_secret", SECRET),
            ("redirect_uri", WEB_REDIRECT),
        ],
    );
    let second = house.token(&redemption).unwrap();
    let second = house.access_claims(&second).sid.unwrap().to_string();
    let (_, elsewhere) = log_in(&house);
    // The client without refresh tokens holds none that would live so long, and still is told.
    house.clock.advance(Duration::from_secs(6 * 3600));
    house
        .store
        .sweep_expired(testudo_model::Clock::now(&*house.clock))
        .unwrap();
    house.log_out(&cookie);
    let told = told(&house);
    assert_eq!(told, BTreeSet::from([first, second]));
    assert!(!told.contains(&elsewhere));
}

#[test]
fn who_does_not_want_to_know_is_told_nothing() {
    let house = House::new();
    let (cookie, _) = log_in(&house);
    house.log_out(&cookie);
    assert!(due(&house.provider).is_empty());
}

#[test]
fn what_is_not_taken_comes_again_after_a_pause_that_grows_with_a_token_of_its_own() {
    let house = house();
    let (cookie, _) = log_in(&house);
    house.log_out(&cookie);
    let mut seen = BTreeSet::new();
    let mut pauses = Vec::new();
    let mut due_now = one(&house.provider);
    let failures = [
        Delivery::Failed("no connection".to_owned()),
        Delivery::Answered(302),
        Delivery::Answered(404),
        Delivery::Answered(500),
    ];
    for failure in failures.iter().cycle().take(12) {
        assert!(due(&house.provider).is_empty(), "it is being sent");
        assert!(seen.insert(claims(&house, &due_now)["jti"].to_string()));
        house.provider.settle_notice(&due_now, failure).unwrap();
        let mut pause = 0;
        due_now = loop {
            house.clock.advance(Duration::from_secs(1));
            pause += 1;
            if let Some(again) = due(&house.provider).pop() {
                break again;
            }
        };
        pauses.push(pause);
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
    house.provider.settle_notice(&due_now, &TAKEN).unwrap();
    let failed = house.events_named("logout.notify", Outcome::Failure);
    assert_eq!(failed.len(), 12);
    assert_eq!(failed[0].details["reason"], Detail::from("no connection"));
    assert_eq!(
        house.events_named("logout.notify", Outcome::Success).len(),
        1
    );
}

#[test]
fn what_the_receiver_refuses_or_does_not_take_for_a_day_is_given_up_and_told_so() {
    let house = house();
    let (cookie, _) = log_in(&house);
    house.log_out(&cookie);
    let refused = one(&house.provider);
    house
        .provider
        .settle_notice(&refused, &Delivery::Answered(400))
        .unwrap();
    assert!(due(&house.provider).is_empty());
    assert_eq!(
        house.events_named("logout.notify", Outcome::Failure).len(),
        1
    );

    let (cookie, _) = log_in(&house);
    house.log_out(&cookie);
    let failed = Delivery::Failed("no connection".to_owned());
    house
        .provider
        .settle_notice(&one(&house.provider), &failed)
        .unwrap();
    house.clock.advance(Duration::from_secs(24 * 3600));
    assert!(due(&house.provider).is_empty());
    assert_eq!(
        house.events_named("logout.notify", Outcome::Failure).len(),
        3
    );
    assert!(due(&house.another_provider(9)).is_empty(), "it is gone");
}

#[test]
fn one_receiver_that_is_not_there_holds_up_no_other() {
    let house = house();
    let web = "web".parse().unwrap();
    let version = house.provider.client(&web).unwrap().version;
    let mut profile = web_profile();
    profile.logout.backchannel_logout_uri = Some("https://shop.example/bye".parse().unwrap());
    house
        .provider
        .update_client(&web, version, profile, &house.caller)
        .unwrap();
    let (cookie, _) = log_in(&house);
    house.log_out(&cookie);
    let failed = Delivery::Failed("no connection".to_owned());
    house
        .provider
        .settle_notice(&one(&house.provider), &failed)
        .unwrap();
    let logged_in = house.login_through(&native_request(&[
        ("client_id", "web"),
        ("redirect_uri", WEB_REDIRECT),
    ]));
    let redemption = redemption(
        &code_of(&logged_in),
        &[
            ("client_id", "web"),
            ("client_secret", SECRET),
            ("redirect_uri", WEB_REDIRECT),
        ],
    );
    house.token(&redemption).unwrap();
    house.log_out(logged_in.session_cookie.expose());
    assert_eq!(one(&house.provider).message.url, "https://shop.example/bye");
}

#[test]
fn a_process_that_dies_forgets_nothing_and_another_sends_it() {
    let house = house();
    let (cookie, sid) = log_in(&house);
    house.log_out(&cookie);
    // Sent, and then nobody said what became of it.
    let lost = one(&house.provider);
    let heir = house.another_provider(7);
    let again = one(&heir);
    assert_eq!(claims(&house, &again)["sid"], json!(sid));
    assert_ne!(claims(&house, &again)["jti"], claims(&house, &lost)["jti"]);
    heir.settle_notice(&again, &TAKEN).unwrap();
    // The one thought dead settles late, and does not send what is gone.
    let failed = Delivery::Failed("no connection".to_owned());
    house.provider.settle_notice(&lost, &failed).unwrap();
    house.clock.advance(Duration::from_secs(10));
    assert!(due(&house.provider).is_empty());
}

#[test]
fn what_another_process_adds_is_found_within_a_minute() {
    let house = house();
    let other = house.another_provider(7);
    assert!(due(&other).is_empty());
    let (cookie, _) = log_in(&house);
    house.log_out(&cookie);
    assert!(due(&other).is_empty());
    house.clock.advance(Duration::from_secs(61));
    assert_eq!(due(&other).len(), 1);
}

#[test]
fn a_client_that_is_gone_or_no_longer_wants_to_know_is_not_told() {
    let house = house();
    let (cookie, _) = log_in(&house);
    house.log_out(&cookie);
    house.tell_of_logouts(ClientLogout::default());
    assert!(due(&house.provider).is_empty());
    let events = house.events_named("logout.notify", Outcome::Failure);
    assert_eq!(
        events[0].details["reason"],
        Detail::from("the receiver is gone")
    );
}
