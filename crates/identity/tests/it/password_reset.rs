//! Forgotten passwords, and changing one's own.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use testudo_identity::{
    AccountAction, AccountPage, Caller, LinkError, LoginError, MailContent, NewPassword,
    ResetError, ResetRequestError, UserProfile,
};
use testudo_model::{
    Redacted,
    event::{Detail, Event, Outcome},
    snapshot::Revoked,
};

use crate::{
    house::{House, PASSWORD},
    mail::{ADDRESS, code, house, letter, letters},
    second_factor::{act, enrol, logged_in, overview},
};

const NEW: &str = "a quiet lamp under seven rivers";

/// A house where alice's address is known to be hers.
fn verified() -> House {
    let house = house();
    house
        .provider
        .vouch_for_address(&house.alice, &house.caller)
        .unwrap();
    house
}

fn forget(house: &House, typed: &str) {
    house
        .provider
        .forget_password(typed, &house.caller)
        .unwrap();
}

/// The code of a new link.
fn link(house: &House) -> String {
    forget(house, "alice");
    code(&letter(house))
}

fn reset(house: &House, code: &str, password: &str) -> Result<(), ResetError> {
    let password = Redacted::new(password.to_owned());
    house
        .provider
        .reset_password(code, &password, &house.caller)
}

fn is_dead(house: &House, code: &str) {
    let page = house.provider.password_reset_page(code);
    assert!(matches!(page, Err(LinkError::Invalid)), "{page:?}");
    let done = reset(house, code, NEW);
    assert!(matches!(done, Err(ResetError::Link(_))), "{done:?}");
}

fn reasons(events: &[Event]) -> Vec<String> {
    let reason = |event: &Event| match &event.details["reason"] {
        Detail::Text(text) => text.as_str().to_owned(),
        other => panic!("{other:?}"),
    };
    events.iter().map(reason).collect()
}

#[test]
fn a_link_changes_the_password_ends_all_sessions_and_is_told() {
    let house = verified();
    let cookie = logged_in(&house);
    let tokens = house.tokens();
    let code = link(&house);
    for _ in 0..3 {
        let page = house.provider.password_reset_page(&code).unwrap();
        assert_eq!(page.username, "alice");
    }
    assert!(
        house.try_login("alice", PASSWORD).is_ok(),
        "nothing is changed yet"
    );
    let short = reset(&house, &code, "short");
    assert!(matches!(short, Err(ResetError::Password(_))), "{short:?}");
    reset(&house, &code, NEW).unwrap();

    assert!(house.provider.session(&cookie).unwrap().is_none());
    assert!(house.refresh(&tokens.refresh_token.unwrap()).is_err());
    let last = house.revocations().pop().unwrap();
    assert_eq!(last.what, Revoked::User(house.alice.clone()));
    let old = house.try_login("alice", PASSWORD);
    assert!(matches!(old, Err(LoginError::WrongCredentials)), "{old:?}");
    house.try_login("alice", NEW).unwrap();
    is_dead(&house, &code);
    let told = letter(&house);
    assert!(
        matches!(told.mail.content, MailContent::PasswordChanged { .. }),
        "{told:?}"
    );
    assert_eq!(
        house.events_named("password.reset", Outcome::Success).len(),
        1
    );
}

#[test]
fn the_second_factor_is_asked_for_as_before() {
    let house = verified();
    let cookie = logged_in(&house);
    enrol(&house, &cookie);
    reset(&house, &link(&house), NEW).unwrap();
    let half = house.try_login("alice", NEW);
    assert!(
        matches!(half, Err(LoginError::SecondFactorNeeded { .. })),
        "{half:?}"
    );
}

#[test]
fn of_many_who_use_a_link_at_once_one_sets_the_password() {
    let house = verified();
    let code = link(&house);
    let winner = AtomicUsize::new(usize::MAX);
    thread::scope(|scope| {
        for node in 0..4 {
            let (house, code, winner) = (&house, &code, &winner);
            scope.spawn(move || {
                let provider = house.another_provider(100 + node as u64);
                let password = Redacted::new(format!("{NEW} {node}"));
                match provider.reset_password(code, &password, &house.caller) {
                    Ok(()) => assert_eq!(winner.swap(node, Ordering::SeqCst), usize::MAX),
                    Err(error) => assert!(matches!(error, ResetError::Link(_)), "{error:?}"),
                }
            });
        }
    });
    let winner = winner.into_inner();
    house
        .try_login("alice", &format!("{NEW} {winner}"))
        .unwrap();
}

#[test]
fn a_link_dies_with_what_it_was_sent_for() {
    type Ending = fn(&House);
    let endings: [(&str, Ending); 7] = [
        ("half an hour", |house| {
            house.clock.advance(Duration::from_secs(1800))
        }),
        ("another link", |house| drop(link(house))),
        ("another password", |house| {
            let password = NewPassword::Given(NEW.to_owned().into());
            house
                .provider
                .set_password(&house.alice, &password, &house.caller)
                .unwrap();
        }),
        ("another address", |house| {
            let profile = UserProfile {
                email: Some("new@bookshop.example".to_owned()),
                email_verified: Some(true),
                ..UserProfile::default()
            };
            let version = house.provider.user(&house.alice).unwrap().version;
            house
                .provider
                .update_user(&house.alice, version, profile, &house.caller)
                .unwrap();
        }),
        ("disabled", |house| {
            house
                .provider
                .disable_user(&house.alice, &house.caller)
                .unwrap();
        }),
        ("disabled, and enabled again", |house| {
            house
                .provider
                .disable_user(&house.alice, &house.caller)
                .unwrap();
            house
                .provider
                .enable_user(&house.alice, &house.caller)
                .unwrap();
        }),
        ("deleted", |house| {
            house
                .provider
                .delete_user(&house.alice, &house.caller)
                .unwrap();
        }),
    ];
    for (name, end) in endings {
        let house = verified();
        let code = link(&house);
        assert!(house.provider.password_reset_page(&code).is_ok(), "{name}");
        end(&house);
        is_dead(&house, &code);
    }
}

#[test]
fn who_asks_learns_nothing_and_only_who_may_is_sent_a_link() {
    let house = verified();
    let user = |name: &str, email: Option<&str>, verified, password: Option<&NewPassword>| {
        let profile = UserProfile {
            email: email.map(str::to_owned),
            email_verified: verified,
            ..UserProfile::default()
        };
        let name = name.parse().unwrap();
        let made = house
            .provider
            .create_user(&name, profile, password, &house.caller);
        made.unwrap().record.id
    };
    let given = NewPassword::Given(PASSWORD.to_owned().into());
    user("no-mail", None, None, Some(&given));
    user("unverified", Some("u@bookshop.example"), None, Some(&given));
    user("no-password", Some("n@bookshop.example"), Some(true), None);
    let gone = user(
        "disabled",
        Some("d@bookshop.example"),
        Some(true),
        Some(&given),
    );
    house.provider.disable_user(&gone, &house.caller).unwrap();
    let before = house.events().len();
    for typed in [
        "nobody",
        "nobody@bookshop.example",
        "no-mail",
        "unverified",
        "u@bookshop.example",
        "no-password",
        "disabled",
        "it is no name at all <>",
        "\r\nBcc: eve@evil.example",
    ] {
        forget(&house, typed);
    }
    assert_eq!(
        house.events().len(),
        before,
        "until then nobody has looked whom it is about"
    );
    assert!(letters(&house).is_empty());
    let mut refused = reasons(&house.events_named("password.forgotten", Outcome::Denied));
    refused.sort();
    assert_eq!(
        refused,
        [
            "nobody is called that",
            "nobody is called that",
            "nobody is called that",
            "nobody is called that",
            "the mail address is not verified",
            "the mail address is not verified",
            "user has no mail address",
            "user has no password",
            "user is disabled",
        ]
    );
    let texts = serde_json::to_string(&house.events_named("password.forgotten", Outcome::Denied));
    assert!(
        !texts.unwrap().contains("evil.example"),
        "what was typed may be a password"
    );
}

#[test]
fn an_address_in_any_case_finds_all_who_have_it() {
    let house = verified();
    let profile = UserProfile {
        email: Some("ALICE@bookshop.example".to_owned()),
        email_verified: Some(true),
        ..UserProfile::default()
    };
    let given = NewPassword::Given(PASSWORD.to_owned().into());
    house
        .provider
        .create_user(
            &"alice2".parse().unwrap(),
            profile,
            Some(&given),
            &house.caller,
        )
        .unwrap();
    forget(&house, " Alice@BookShop.example ");
    let sent = letters(&house);
    let mut names: Vec<String> = sent
        .iter()
        .map(|letter| letter.mail.username.to_string())
        .collect();
    names.sort();
    assert_eq!(names, ["alice", "alice2"]);
    let mut to: Vec<&str> = sent.iter().map(|letter| &*letter.mail.to).collect();
    to.sort_unstable();
    assert_eq!(
        to,
        ["ALICE@bookshop.example", ADDRESS],
        "to what is stored, not to what was typed"
    );
    for letter in &sent {
        let page = house.provider.password_reset_page(&code(letter)).unwrap();
        assert_eq!(page.username, letter.mail.username.to_string());
    }
}

#[test]
fn nobody_is_flooded_and_the_limit_is_the_same_for_every_name() {
    for typed in ["alice", "nobody", ADDRESS] {
        let house = verified();
        for _ in 0..4 {
            forget(&house, typed);
            letters(&house);
        }
        let fifth = house.provider.forget_password(typed, &house.caller);
        let Err(ResetRequestError::Throttled { retry_after }) = fifth else {
            panic!("{typed}: {fifth:?}");
        };
        assert_eq!(retry_after, Duration::from_secs(60), "{typed}");
        // Nor from elsewhere, nor under the other name.
        let elsewhere = Caller {
            source_ip: Some("198.51.100.1".parse().unwrap()),
            ..Caller::default()
        };
        assert!(house.provider.forget_password(typed, &elsewhere).is_err());
        if typed == "alice" {
            house.provider.forget_password(ADDRESS, &elsewhere).unwrap();
            assert!(letters(&house).is_empty());
            let refused = reasons(&house.events_named("password.forgotten", Outcome::Denied));
            assert_eq!(refused, ["enough letters were sent"]);
        }
    }
}

#[test]
fn nobody_gets_a_link_that_was_asked_for_long_ago() {
    let house = verified();
    forget(&house, "alice");
    house.clock.advance(Duration::from_secs(1800));
    assert!(letters(&house).is_empty());
    let failed = reasons(&house.events_named("password.forgotten", Outcome::Failure));
    assert_eq!(failed, ["it was not answered in time"]);
}

#[test]
fn one_network_asks_for_so_many_and_no_more() {
    let house = verified();
    let asked = |number: usize| {
        let typed = format!("user{number}");
        house.provider.forget_password(&typed, &house.caller)
    };
    let taken = (0..40).take_while(|&number| asked(number).is_ok()).count();
    assert_eq!(taken, 21);
}

#[test]
fn who_is_logged_in_changes_the_password_and_is_logged_out_everywhere() {
    let house = verified();
    let (cookie, other) = (logged_in(&house), logged_in(&house));
    let set = |password: &str, again: &str| {
        let view = overview(&house, &cookie);
        let (password, again) = (Redacted::new(password.into()), Redacted::new(again.into()));
        let action = AccountAction::ConfirmPassword {
            password: &password,
            again: &again,
        };
        act(&house, &cookie, &view.flow, action).unwrap()
    };
    for (password, again) in [(NEW, PASSWORD), ("short", "short"), ("", "")] {
        let page = set(password, again);
        let AccountPage::ChangePassword {
            refused: Some(_), ..
        } = page
        else {
            panic!("{page:?}");
        };
    }
    assert!(matches!(set(NEW, NEW), AccountPage::PasswordChanged));
    for cookie in [&cookie, &other] {
        assert!(house.provider.session(cookie).unwrap().is_none());
    }
    house.try_login("alice", NEW).unwrap();
    let told = letter(&house);
    assert!(
        matches!(told.mail.content, MailContent::PasswordChanged { .. }),
        "{told:?}"
    );
    let events = house.events_named("user.password", Outcome::Success);
    assert_eq!(
        events[0].actor.subject.as_deref(),
        Some(house.alice.as_str())
    );

    // Not with a login of an hour ago.
    let house = verified();
    let cookie = logged_in(&house);
    house.clock.advance(Duration::from_secs(3600));
    let view = overview(&house, &cookie);
    let password = Redacted::new(NEW.to_owned());
    let action = AccountAction::ConfirmPassword {
        password: &password,
        again: &password,
    };
    let page = act(&house, &cookie, &view.flow, action).unwrap();
    assert!(matches!(page, AccountPage::Login(_)), "{page:?}");
    house.try_login("alice", PASSWORD).unwrap();
}
