//! Logouts that applications ask for (OpenID Connect RP-Initiated Logout 1.0).

use std::time::Duration;

use testudo_identity::{
    ClientLogout, ClientProfile, Logout, LogoutError, NewSecret, Parameters, TokenResponse,
};
use testudo_model::{event::Outcome, snapshot::Revoked};

use crate::house::{
    CLAIMED_REDIRECT, House, PASSWORD, claimed_request, code_of, form, native_profile, redemption,
};

const RETURN: &str = "https://app.bookshop.example/goodbye?from=shop";

/// Somebody who is logged in at the native client, which may ask for logouts.
struct LoggedIn {
    house: House,
    cookie: String,
    tokens: TokenResponse,
}

impl LoggedIn {
    fn new() -> Self {
        let house = House::new();
        house.tell_of_logouts(ClientLogout {
            post_logout_redirect_uris: vec![RETURN.parse().unwrap()],
            ..ClientLogout::default()
        });
        let (cookie, tokens) = log_in(&house);
        Self {
            house,
            cookie,
            tokens,
        }
    }

    fn id_token(&self) -> &str {
        self.tokens.id_token.as_deref().unwrap()
    }

    fn ask(&self, pairs: &[(&str, &str)]) -> Result<Logout, LogoutError> {
        self.ask_with(Some(&self.cookie), pairs)
    }

    fn ask_with(
        &self,
        cookie: Option<&str>,
        pairs: &[(&str, &str)],
    ) -> Result<Logout, LogoutError> {
        self.house
            .provider
            .begin_logout(&form(pairs), cookie, &self.house.caller)
    }

    fn confirm(&self, flow: &str, cookie: &str) -> Logout {
        let provider = &self.house.provider;
        provider
            .confirm_logout(flow, Some(cookie), &self.house.caller)
            .unwrap()
    }

    fn is_logged_in(&self) -> bool {
        self.house.provider.session(&self.cookie).unwrap().is_some()
    }
}

fn log_in(house: &House) -> (String, TokenResponse) {
    let logged_in = house.login_through(&claimed_request(&[]));
    let tokens = house.redeem_claimed(&code_of(&logged_in)).unwrap();
    (logged_in.session_cookie.expose().clone(), tokens)
}

fn location(logout: Logout) -> Option<String> {
    match logout {
        Logout::Done { location } => location,
        Logout::Ask(question) => panic!("the user is asked: {question:?}"),
    }
}

fn question(logout: Logout) -> (String, Option<String>) {
    match logout {
        Logout::Ask(question) => (question.flow, question.client_name),
        Logout::Done { location } => panic!("the user is not asked: {location:?}"),
    }
}

#[test]
fn an_application_with_the_users_id_token_logs_them_out_and_gets_them_back() {
    let there = LoggedIn::new();
    let done = there.ask(&[
        ("id_token_hint", there.id_token()),
        ("client_id", "cli"),
        ("post_logout_redirect_uri", RETURN),
        ("state", "a b&c"),
        ("ui_locales", "de"),
    ]);
    let expected = format!("{RETURN}&state=a+b%26c");
    assert_eq!(location(done.unwrap()), Some(expected));
    assert!(!there.is_logged_in());
    let sid = there.house.access_claims(&there.tokens).sid.unwrap();
    let revoked =
        |entry: &testudo_model::snapshot::Revocation| entry.what == Revoked::Session(sid.clone());
    assert!(there.house.revocations().iter().any(revoked));
    let ended = there.house.events_named("session.end", Outcome::Success);
    assert_eq!(ended.len(), 1);
    assert_eq!(ended[0].actor.client.as_deref(), Some("cli"));
}

#[test]
fn an_expired_id_token_is_as_good() {
    let there = LoggedIn::new();
    there.house.clock.advance(Duration::from_secs(3 * 3600));
    let done = there.ask(&[("id_token_hint", there.id_token())]);
    assert_eq!(location(done.unwrap()), None);
    assert!(!there.is_logged_in());
}

#[test]
fn without_an_id_token_the_user_is_asked() {
    let there = LoggedIn::new();
    let (flow, client) = question(there.ask(&[]).unwrap());
    assert_eq!(client, None);
    assert!(there.is_logged_in());
    assert_eq!(location(there.confirm(&flow, &there.cookie)), None);
    assert!(!there.is_logged_in());

    let there = LoggedIn::new();
    let pairs = [
        ("client_id", "cli"),
        ("post_logout_redirect_uri", RETURN),
        ("state", "xyz"),
    ];
    let (flow, client) = question(there.ask(&pairs).unwrap());
    assert_eq!(client.as_deref(), Some("Command line"));
    let expected = format!("{RETURN}&state=xyz");
    assert_eq!(
        location(there.confirm(&flow, &there.cookie)),
        Some(expected)
    );
    assert!(!there.is_logged_in());
}

#[test]
fn what_is_no_id_token_of_ours_is_none() {
    let there = LoggedIn::new();
    let mut bent = there.id_token().to_owned();
    let last = bent.pop().unwrap();
    bent.push(if last == 'A' { 'B' } else { 'A' });
    let unsigned = format!(
        "{}.{}.",
        "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0",
        there.id_token().split('.').nth(1).unwrap()
    );
    for hint in [
        &bent,
        &unsigned,
        "x",
        "a.b.c",
        &*there.tokens.access_token,
        there.tokens.refresh_token.as_deref().unwrap(),
    ] {
        let (_, client) = question(there.ask(&[("id_token_hint", hint)]).unwrap());
        assert_eq!(client, None, "{hint}");
        // It says nothing about whose the address is.
        let asked = there.ask(&[
            ("id_token_hint", hint),
            ("post_logout_redirect_uri", RETURN),
        ]);
        assert!(matches!(asked, Err(LogoutError::UnknownRedirect)), "{hint}");
    }
    assert!(there.is_logged_in());
}

#[test]
fn somebody_elses_id_token_ends_nothing() {
    let there = LoggedIn::new();
    let provider = &there.house.provider;
    let name = "mallory".parse().unwrap();
    let password = testudo_identity::NewPassword::Given(PASSWORD.to_owned().into());
    let profile = testudo_identity::UserProfile::default();
    provider
        .create_user(&name, profile, Some(&password), &there.house.caller)
        .unwrap();
    let mallory = there.house.login_as("mallory", &claimed_request(&[]));
    let tokens = there.house.redeem_claimed(&code_of(&mallory)).unwrap();
    let hint = [("id_token_hint", tokens.id_token.as_deref().unwrap())];
    // A link of Mallory's in Alice's browser: Alice is asked, and her yes is about herself alone.
    let (flow, _) = question(there.ask(&hint).unwrap());
    assert!(there.is_logged_in());
    there.confirm(&flow, &there.cookie);
    assert!(!there.is_logged_in());
    let cookie = mallory.session_cookie.expose();
    assert!(provider.session(cookie).unwrap().is_some());
}

#[test]
fn a_form_logs_out_the_session_it_was_shown_for_and_no_other() {
    let there = LoggedIn::new();
    let (attackers, _) = log_in(&there.house);
    let (flow, _) = question(there.ask_with(Some(&attackers), &[]).unwrap());
    let deferred = there.house.provider.defer_logout(&Parameters::default());
    let mut bent = flow.clone();
    bent.insert(10, 'x');
    for flow in [&*flow, &*deferred.unwrap(), &*bent, "", "x"] {
        let (again, _) = question(there.confirm(flow, &there.cookie));
        assert!(there.is_logged_in());
        // What it is shown instead is its own.
        assert_ne!(again, *flow);
    }
    let (own, _) = question(there.ask(&[]).unwrap());
    there.house.clock.advance(Duration::from_secs(16 * 60));
    question(there.confirm(&own, &there.cookie));
    assert!(there.is_logged_in(), "it was too old");
}

#[test]
fn nobody_is_sent_to_an_address_that_the_application_has_not_registered() {
    let there = LoggedIn::new();
    let other = ClientProfile {
        logout: ClientLogout {
            post_logout_redirect_uris: vec!["https://other.example/".parse().unwrap()],
            ..ClientLogout::default()
        },
        ..native_profile()
    };
    there
        .house
        .provider
        .create_client(
            &"other".parse().unwrap(),
            other,
            &NewSecret::None,
            &there.house.caller,
        )
        .unwrap();
    for uri in [
        "https://evil.example/",
        "https://other.example/",
        CLAIMED_REDIRECT,
        "https://app.bookshop.example/goodbye",
        "https://app.bookshop.example/goodbye?from=shop&x",
        "https://app.bookshop.example/goodbye?from=shop#",
        "https://APP.bookshop.example/goodbye?from=shop",
        "https://app.bookshop.example:443/goodbye?from=shop",
        "//evil.example",
        "javascript:alert(1)",
    ] {
        for who in [("id_token_hint", there.id_token()), ("client_id", "cli")] {
            let asked = there.ask(&[who, ("post_logout_redirect_uri", uri)]);
            assert!(matches!(asked, Err(LogoutError::UnknownRedirect)), "{uri}");
        }
    }
    // Nor if nothing says whose the address is, nor if two things do.
    let asked = there.ask(&[("post_logout_redirect_uri", RETURN)]);
    assert!(matches!(asked, Err(LogoutError::UnknownRedirect)));
    for client in ["other", "nobody", "-", "restock"] {
        let asked = there.ask(&[
            ("id_token_hint", there.id_token()),
            ("client_id", client),
            ("post_logout_redirect_uri", "https://other.example/"),
        ]);
        assert!(matches!(asked, Err(LogoutError::UnknownClient)), "{client}");
    }
    let repeated = Parameters::parse("state=a&state=b").unwrap();
    let asked = there
        .house
        .provider
        .begin_logout(&repeated, None, &there.house.caller);
    assert!(matches!(asked, Err(LogoutError::Malformed(_))));
    let long = "x".repeat(2000);
    let asked = there.ask(&[("client_id", "cli"), ("state", &long)]);
    assert!(matches!(asked, Err(LogoutError::Malformed(_))));
    assert!(there.is_logged_in());
}

#[test]
fn an_id_token_of_a_former_client_of_the_same_name_is_none() {
    let there = LoggedIn::new();
    let provider = &there.house.provider;
    let cli = "cli".parse().unwrap();
    let version = provider.client(&cli).unwrap().version;
    provider
        .delete_client(&cli, version, &there.house.caller)
        .unwrap();
    there.house.clock.advance(Duration::from_secs(5));
    provider
        .create_client(
            &cli,
            native_profile(),
            &NewSecret::None,
            &there.house.caller,
        )
        .unwrap();
    question(there.ask(&[("id_token_hint", there.id_token())]).unwrap());
    assert!(there.is_logged_in());
}

#[test]
fn a_form_from_another_site_is_answered_where_the_cookies_are() {
    let there = LoggedIn::new();
    let provider = &there.house.provider;
    let asked = form(&[
        ("id_token_hint", there.id_token()),
        ("post_logout_redirect_uri", RETURN),
    ]);
    let flow = provider.defer_logout(&asked).unwrap();
    // With a browser of somebody else's it is somebody else's ID token.
    let other = there.house.login_through(&claimed_request(&[]));
    assert!(there.is_logged_in());
    drop(other);
    let done = provider.resume_logout(&flow, Some(&there.cookie), &there.house.caller);
    assert_eq!(location(done.unwrap()).as_deref(), Some(RETURN));
    assert!(!there.is_logged_in());
    // Once more, and where nobody is logged in: back to the application.
    let done = provider.resume_logout(&flow, None, &there.house.caller);
    assert_eq!(location(done.unwrap()).as_deref(), Some(RETURN));
}

#[test]
fn a_logout_ends_the_earlier_login_that_the_application_knows_too() {
    let there = LoggedIn::new();
    // The user has logged in again meanwhile, in the same browser: that is another session.
    let (cookie, _) = log_in(&there.house);
    let done = there.ask_with(Some(&cookie), &[("id_token_hint", there.id_token())]);
    assert_eq!(location(done.unwrap()), None);
    assert!(!there.is_logged_in());
    assert!(there.house.provider.session(&cookie).unwrap().is_none());
    let refreshed = there
        .house
        .refresh(there.tokens.refresh_token.as_deref().unwrap());
    assert!(refreshed.is_err());
}

#[test]
fn where_nobody_is_logged_in_an_id_token_ends_what_its_application_has_and_nothing_else() {
    let there = LoggedIn::new();
    let second = there.house.login_through(&claimed_request(&[]));
    let second = there.house.token(&redemption(
        &code_of(&second),
        &[("redirect_uri", CLAIMED_REDIRECT)],
    ));
    let done = there.ask_with(None, &[("id_token_hint", there.id_token())]);
    assert_eq!(location(done.unwrap()), None);
    assert!(there.is_logged_in(), "somebody elsewhere has the cookie");
    let refresh = |tokens: &TokenResponse| {
        let token = tokens.refresh_token.as_deref().unwrap();
        there.house.refresh(token).is_ok()
    };
    assert!(!refresh(&there.tokens));
    assert!(refresh(&second.unwrap()));
}
