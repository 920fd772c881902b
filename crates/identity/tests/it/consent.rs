//! What users let applications have, and what they do not.

use std::time::Duration;

use testudo_identity::{
    AccountAction, AccountPage, Authorization, AuthorizeError, ClientPolicy, ConsentDecision,
    ConsentError, ConsentRule, ConsentView, ErrorCode, LoggedIn, Parameters, Refusal,
};
use testudo_model::event::Outcome;

use crate::house::{
    CLAIMED_REDIRECT, House, claimed_request, code_of, native_profile, native_request, query,
};

/// A house whose native client must ask.
fn asking() -> House {
    let house = House::new();
    house.demand(ClientPolicy {
        consent: ConsentRule::Required,
        ..ClientPolicy::default()
    });
    house
}

fn cookie(logged_in: &LoggedIn) -> &str {
    logged_in.session_cookie.expose()
}

fn ask(
    house: &House,
    parameters: &Parameters,
    logged_in: &LoggedIn,
) -> Result<Authorization, AuthorizeError> {
    let session = Some(cookie(logged_in));
    house
        .provider
        .authorize(parameters, session, None, &house.caller)
}

/// Where a logged-in browser is sent with a request.
fn location(house: &House, parameters: &Parameters, logged_in: &LoggedIn) -> String {
    match ask(house, parameters, logged_in) {
        Ok(Authorization::Consent { location }) => location.expose().clone(),
        other => panic!("expected a question, got {other:?}"),
    }
}

fn account(house: &House, logged_in: &LoggedIn) -> (String, Vec<ConsentView>) {
    let page = house.provider.account_page(Some(cookie(logged_in)), None);
    match page.unwrap() {
        AccountPage::Overview(view) => (view.flow, view.consents),
        other => panic!("expected the account, got {other:?}"),
    }
}

#[test]
fn a_user_is_asked_once_for_what_a_client_asks_for() {
    let house = asking();
    let logged_in = house.login_through(&claimed_request(&[]));
    let (asked, session) = (logged_in.location.expose(), cookie(&logged_in));
    let flow = asked.strip_prefix("/consent?flow=").unwrap();
    let question = house
        .provider
        .consent_question(flow, Some(session))
        .unwrap();
    assert_eq!(question.client_name, "Command line");
    assert_eq!(question.scopes, ["openid", "orders:read", "profile"]);
    let silent = claimed_request(&[("prompt", "none")]);
    let refused = ask(&house, &silent, &logged_in);
    assert!(matches!(
        refused,
        Err(AuthorizeError::Refused {
            why: Refusal::ConsentRequired,
            ..
        })
    ));
    let answer = house
        .consent(asked, session, ConsentDecision::Allow)
        .unwrap();
    assert!(answer.starts_with(CLAIMED_REDIRECT), "{answer}");
    house.redeem_claimed(&query(&answer)["code"]).unwrap();

    // The same and less is not asked for again, in this session or another one; more is.
    for parameters in [
        silent,
        claimed_request(&[]),
        claimed_request(&[("scope", "openid")]),
    ] {
        let answer = ask(&house, &parameters, &logged_in);
        assert!(
            matches!(answer, Ok(Authorization::Code { .. })),
            "{answer:?}"
        );
    }
    let again = house.login_through(&claimed_request(&[]));
    assert!(again.location.expose().starts_with(CLAIMED_REDIRECT));
    let more = claimed_request(&[("scope", "openid orders:write")]);
    let asked = location(&house, &more, &logged_in);
    house
        .consent(&asked, session, ConsentDecision::Allow)
        .unwrap();
    let (_, consents) = account(&house, &logged_in);
    let everything = ["openid", "orders:read", "orders:write", "profile"];
    assert_eq!(consents[0].scopes, everything);
    let events = house.events_named("consent.decide", Outcome::Success);
    assert_eq!(events.len(), 2);
}

#[test]
fn who_must_not_ask_does_not_unless_the_request_says_so() {
    let house = House::new();
    let logged_in = house.login_through(&claimed_request(&[]));
    assert!(logged_in.location.expose().starts_with(CLAIMED_REDIRECT));
    let request = claimed_request(&[("prompt", "consent")]);
    for _ in 0..2 {
        let asked = location(&house, &request, &logged_in);
        let answer = house.consent(&asked, cookie(&logged_in), ConsentDecision::Allow);
        house
            .redeem_claimed(&query(&answer.unwrap())["code"])
            .unwrap();
    }
    // After a login too, also at an address that is anybody's.
    let both = native_request(&[("prompt", "login consent")]);
    let logged_in = house.login_through(&both);
    assert!(logged_in.location.expose().starts_with("/consent?"));
    let answer = house.consent(
        logged_in.location.expose(),
        cookie(&logged_in),
        ConsentDecision::Allow,
    );
    house.redeem(&query(&answer.unwrap())["code"]).unwrap();
}

#[test]
fn a_no_is_told_to_the_client_and_remembered_by_nobody() {
    let house = asking();
    let logged_in = house.login_through(&claimed_request(&[]));
    let (asked, session) = (logged_in.location.expose(), cookie(&logged_in));
    let answer = house
        .consent(asked, session, ConsentDecision::Deny)
        .unwrap();
    let answer = query(&answer);
    assert_eq!(answer["error"], "access_denied");
    assert_eq!(
        (&*answer["state"], &*answer["iss"]),
        ("xyz", crate::house::ISSUER)
    );
    assert!(account(&house, &logged_in).1.is_empty());
    location(&house, &claimed_request(&[]), &logged_in);
    assert_eq!(
        house.events_named("consent.decide", Outcome::Denied).len(),
        1
    );
}

#[test]
fn a_question_is_answered_in_the_session_it_was_asked_in_alone() {
    let house = asking();
    let mallory = house.login_through(&claimed_request(&[]));
    let alice = house.login_through(&claimed_request(&[]));
    let asked = mallory.location.expose();
    let invalid = |location: &str, cookie: &str| {
        let answer = house.consent(location, cookie, ConsentDecision::Allow);
        assert!(
            matches!(answer, Err(ConsentError::FormInvalid)),
            "{answer:?}"
        );
    };
    // Her browser, with a question of his.
    invalid(asked, cookie(&alice));
    invalid(asked, "");
    invalid("/consent?flow=", cookie(&mallory));
    invalid(asked.strip_suffix(|_| true).unwrap(), cookie(&mallory));
    // The fields of other forms are none of this one.
    let login = house.prompt(&claimed_request(&[])).flow;
    invalid(&format!("/consent?flow={login}"), cookie(&mallory));
    let (form, _) = account(&house, &mallory);
    invalid(&format!("/consent?flow={form}"), cookie(&mallory));

    let late = location(&house, &claimed_request(&[]), &mallory);
    house.clock.advance(Duration::from_secs(15 * 60 + 1));
    invalid(&late, cookie(&mallory));
    let ended = location(&house, &claimed_request(&[]), &mallory);
    house.log_out(cookie(&mallory));
    invalid(&ended, cookie(&mallory));

    let gone = location(&house, &claimed_request(&[]), &alice);
    let cli = "cli".parse().unwrap();
    let version = house.provider.client(&cli).unwrap().version;
    house
        .provider
        .delete_client(&cli, version, &house.caller)
        .unwrap();
    let none = testudo_identity::NewSecret::None;
    house
        .provider
        .create_client(&cli, native_profile(), &none, &house.caller)
        .unwrap();
    invalid(&gone, cookie(&alice));
}

#[test]
fn consent_to_a_client_says_nothing_about_a_later_one_of_its_name() {
    let house = asking();
    let logged_in = house.login_through(&claimed_request(&[]));
    let (asked, session) = (logged_in.location.expose(), cookie(&logged_in));
    house
        .consent(asked, session, ConsentDecision::Allow)
        .unwrap();
    let cli = "cli".parse().unwrap();
    let version = house.provider.client(&cli).unwrap().version;
    house
        .provider
        .delete_client(&cli, version, &house.caller)
        .unwrap();
    assert!(account(&house, &logged_in).1.is_empty());
    house.clock.advance(Duration::from_secs(1));
    let none = testudo_identity::NewSecret::None;
    house
        .provider
        .create_client(&cli, native_profile(), &none, &house.caller)
        .unwrap();
    house.demand(ClientPolicy {
        consent: ConsentRule::Required,
        ..ClientPolicy::default()
    });
    let asked = location(&house, &claimed_request(&[]), &logged_in);
    house
        .consent(&asked, session, ConsentDecision::Allow)
        .unwrap();
}

#[test]
fn what_is_taken_back_is_over_and_asked_for_again() {
    let house = asking();
    let logged_in = house.login_through(&claimed_request(&[("scope", "openid offline_access")]));
    let (asked, session) = (logged_in.location.expose(), cookie(&logged_in));
    let answer = house
        .consent(asked, session, ConsentDecision::Allow)
        .unwrap();
    let tokens = house.redeem_claimed(&query(&answer)["code"]).unwrap();
    let (flow, consents) = account(&house, &logged_in);
    assert_eq!(consents.len(), 1);
    let take_back = |client: &str| {
        let action = AccountAction::RevokeConsent(client.parse().unwrap());
        let provider = &house.provider;
        provider.change_account(&flow, action, Some(session), None, &house.caller)
    };
    take_back("web").unwrap();
    assert_eq!(account(&house, &logged_in).1.len(), 1, "there was none");
    let newest = house
        .refresh(tokens.refresh_token.as_deref().unwrap())
        .unwrap();
    take_back("cli").unwrap();
    assert!(account(&house, &logged_in).1.is_empty());
    assert!(
        house
            .refresh(newest.refresh_token.as_deref().unwrap())
            .is_err()
    );
    assert!(
        !house.revocations().is_empty(),
        "proxies are told of the access token"
    );
    location(&house, &claimed_request(&[]), &logged_in);
    assert_eq!(
        house.events_named("consent.revoke", Outcome::Success).len(),
        1
    );
    take_back("cli").unwrap();
    assert_eq!(
        house.events_named("consent.revoke", Outcome::Success).len(),
        1
    );
}

#[test]
fn a_code_that_waits_while_its_consent_is_taken_back_is_worth_nothing() {
    let house = asking();
    let logged_in = house.login_through(&claimed_request(&[]));
    let (asked, session) = (logged_in.location.expose(), cookie(&logged_in));
    let answer = house.consent(asked, session, ConsentDecision::Allow);
    let code = query(&answer.unwrap())["code"].clone();
    let (flow, _) = account(&house, &logged_in);
    let action = AccountAction::RevokeConsent("cli".parse().unwrap());
    let provider = &house.provider;
    provider
        .change_account(&flow, action, Some(session), None, &house.caller)
        .unwrap();
    let refused = house.redeem_claimed(&code).unwrap_err();
    assert_eq!(refused.to_oauth().error, ErrorCode::InvalidGrant);
    // Nor does it count again when they say yes to something else.
    let less = location(&house, &claimed_request(&[("scope", "openid")]), &logged_in);
    let answer = house.consent(&less, session, ConsentDecision::Allow);
    assert!(house.redeem_claimed(&code).is_err());
    house
        .redeem_claimed(&query(&answer.unwrap())["code"])
        .unwrap();
}

#[test]
fn the_codes_of_logins_without_a_question_are_as_before() {
    let house = House::new();
    let logged_in = house.login_through(&native_request(&[]));
    house.redeem(&code_of(&logged_in)).unwrap();
    assert!(account(&house, &logged_in).1.is_empty());
}
