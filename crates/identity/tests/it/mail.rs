//! Letters, and whether an address is its user's.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use testudo_identity::{
    AccountAction, AccountPage, Caller, Delivery, DueMail, LinkError, MailContent, NewPassword,
    Provider, UserInfo, UserProfile, VerificationPage,
};
use testudo_model::{UserId, event::Outcome};

use crate::{
    house::{House, ISSUER, PASSWORD, claimed_request, code_of, query},
    second_factor::{act, logged_in, overview},
};

pub const ADDRESS: &str = "alice@bookshop.example";
const TAKEN: Delivery = Delivery::Taken;

/// A house whose letters are carried.
pub fn house() -> House {
    let house = House::new();
    house.provider.carry_mail(true);
    house
}

/// All letters that are due, which are taken.
pub fn letters(house: &House) -> Vec<DueMail> {
    let mut all = Vec::new();
    loop {
        let due = house.provider.due_mails().unwrap();
        if due.is_empty() && !house.provider.has_due_mail() {
            return all;
        }
        for letter in due {
            house.provider.settle_mail(&letter, &TAKEN).unwrap();
            all.push(letter);
        }
    }
}

/// The one letter that is due, which is taken.
pub fn letter(house: &House) -> DueMail {
    let mut letters = letters(house);
    assert_eq!(letters.len(), 1, "{letters:?}");
    letters.pop().unwrap()
}

/// The code of a letter's link.
pub fn code(letter: &DueMail) -> String {
    let (MailContent::VerifyAddress { link, .. } | MailContent::ResetPassword { link, .. }) =
        &letter.mail.content
    else {
        panic!("{letter:?}");
    };
    let path = match &letter.mail.content {
        MailContent::VerifyAddress { .. } => "/verify-address",
        _ => "/reset-password",
    };
    let start = format!("{ISSUER}{path}?code=");
    assert!(link.expose().starts_with(&start), "{link:?}");
    query(link.expose())["code"].clone()
}

/// Asks for a link that verifies the address, at the account page.
fn ask(house: &House, cookie: &str) {
    let view = overview(house, cookie);
    let done = act(house, cookie, &view.flow, AccountAction::VerifyAddress).unwrap();
    assert!(matches!(done, AccountPage::Overview(_)), "{done:?}");
}

fn change(house: &House, cookie: &str, address: &str) -> AccountPage {
    let view = overview(house, cookie);
    let action = AccountAction::ConfirmAddress { address };
    act(house, cookie, &view.flow, action).unwrap()
}

/// What applications are told about alice's address.
fn claims(house: &House) -> (Option<String>, Option<bool>) {
    let logged_in = house.login_through(&claimed_request(&[("scope", "openid email orders:read")]));
    let tokens = house.redeem_claimed(&code_of(&logged_in)).unwrap();
    let presented = testudo_identity::PresentedToken::bearer(&tokens.access_token, None);
    let UserInfo {
        email,
        email_verified,
        ..
    } = house.provider.user_info(presented).unwrap();
    (email, email_verified)
}

fn is_invalid<T: std::fmt::Debug>(result: Result<T, LinkError>) {
    assert!(matches!(result, Err(LinkError::Invalid)), "{result:?}");
}

#[test]
fn a_link_verifies_the_address_it_was_sent_to_once() {
    let house = house();
    let cookie = logged_in(&house);
    assert_eq!(
        overview(&house, &cookie).email,
        Some((ADDRESS.into(), false))
    );
    assert_eq!(claims(&house), (Some(ADDRESS.into()), Some(false)));
    ask(&house, &cookie);
    let letter = letter(&house);
    assert_eq!(letter.mail.to, ADDRESS);
    let code = code(&letter);
    // What waits on the disk opens nothing.
    let stored = serde_json::to_string(&letter.notice).unwrap();
    assert!(!stored.contains(&code), "{stored}");

    // Mail scanners look at links.
    for _ in 0..3 {
        let page = house.provider.verification_page(&code).unwrap();
        let (username, address) = ("alice".into(), ADDRESS.into());
        assert_eq!(page, VerificationPage { username, address });
    }
    assert_eq!(claims(&house).1, Some(false));
    house.provider.verify_address(&code, &house.caller).unwrap();
    assert_eq!(claims(&house), (Some(ADDRESS.into()), Some(true)));
    is_invalid(house.provider.verification_page(&code));
    is_invalid(house.provider.verify_address(&code, &house.caller));
    let events = house.events_named("user.email_verified", Outcome::Success);
    assert_eq!(events.len(), 1);
    assert_eq!(house.events_named("mail.send", Outcome::Success).len(), 1);

    // Who has verified it is sent no more.
    let view = overview(&house, &cookie);
    act(&house, &cookie, &view.flow, AccountAction::VerifyAddress).unwrap();
    assert!(letters(&house).is_empty());
}

#[test]
fn of_many_who_follow_a_link_at_once_one_gets_there() {
    let house = house();
    ask(&house, &logged_in(&house));
    let code = code(&letter(&house));
    let done = AtomicUsize::new(0);
    thread::scope(|scope| {
        for node in 0..4 {
            let (house, code, done) = (&house, &code, &done);
            scope.spawn(move || {
                let provider = house.another_provider(100 + node);
                match provider.verify_address(code, &house.caller) {
                    Ok(()) => drop(done.fetch_add(1, Ordering::SeqCst)),
                    Err(error) => assert!(matches!(error, LinkError::Invalid), "{error:?}"),
                }
            });
        }
    });
    assert_eq!(done.into_inner(), 1);
}

#[test]
fn another_address_is_not_verified_and_the_former_one_is_told() {
    let house = house();
    house
        .provider
        .vouch_for_address(&house.alice, &house.caller)
        .unwrap();
    let cookie = logged_in(&house);
    assert_eq!(
        overview(&house, &cookie).email,
        Some((ADDRESS.into(), true))
    );
    change(&house, &cookie, " new@bookshop.example ");
    let new = "new@bookshop.example";
    assert_eq!(overview(&house, &cookie).email, Some((new.into(), false)));
    assert_eq!(claims(&house), (Some(new.into()), Some(false)));
    let sent: BTreeMap<String, DueMail> = letters(&house)
        .into_iter()
        .map(|letter| (letter.mail.to.clone(), letter))
        .collect();
    assert_eq!(sent.len(), 2);
    let told = &sent[ADDRESS].mail.content;
    let MailContent::AddressChanged { source, .. } = told else {
        panic!("{told:?}");
    };
    assert_eq!(*source, house.caller.source_ip);
    let to_new = code(&sent[new]);

    // A link to an address that is another one by now is worth nothing, also if it is this one again.
    change(&house, &cookie, ADDRESS);
    is_invalid(house.provider.verify_address(&to_new, &house.caller));
    let latest = letters(&house);
    let latest = latest.iter().find(|letter| letter.mail.to == ADDRESS);
    house
        .provider
        .verify_address(&code(latest.unwrap()), &house.caller)
        .unwrap();
    is_invalid(house.provider.verify_address(&to_new, &house.caller));
    assert_eq!(claims(&house), (Some(ADDRESS.into()), Some(true)));
}

#[test]
fn the_address_is_changed_by_who_has_just_logged_in() {
    let house = house();
    let cookie = logged_in(&house);
    house.clock.advance(Duration::from_secs(11 * 60));
    let asked = change(&house, &cookie, "eve@evil.example");
    assert!(matches!(asked, AccountPage::Login(_)), "{asked:?}");
    assert_eq!(
        overview(&house, &cookie).email,
        Some((ADDRESS.into(), false))
    );
    assert!(letters(&house).is_empty());
}

#[test]
fn what_is_no_address_is_refused_everywhere() {
    let house = house();
    let cookie = logged_in(&house);
    for bad in [
        "",
        "alice",
        "alice@bookshop.example\r\nBcc: eve@evil.example",
        "alice@bookshop.example, eve@evil.example",
        "Eve <eve@evil.example>",
    ] {
        let page = change(&house, &cookie, bad);
        let AccountPage::ChangeAddress {
            refused: Some(why), ..
        } = page
        else {
            panic!("{bad}: {page:?}");
        };
        assert!(why.contains("mail address"), "{why}");
        let profile = UserProfile {
            email: Some(bad.to_owned()),
            ..UserProfile::default()
        };
        let made =
            house
                .provider
                .create_user(&"mallory".parse().unwrap(), profile, None, &house.caller);
        assert!(made.is_err(), "{bad}");
    }
    assert!(letters(&house).is_empty());
}

#[test]
fn an_administrator_says_that_an_address_is_verified_and_another_one_is_not() {
    let house = house();
    let profile = |email: Option<&str>, email_verified| UserProfile {
        email: email.map(str::to_owned),
        email_verified,
        ..UserProfile::default()
    };
    let mut last = false;
    for (email, said, is_verified) in [
        (Some(ADDRESS), Some(true), true),
        (Some(ADDRESS), None, true),
        (Some("a@b.example"), None, false),
        (Some("a@b.example"), Some(true), true),
        (Some("a@b.example"), Some(false), false),
        (Some("c@b.example"), Some(true), true),
        (None, None, false),
        (Some("c@b.example"), None, false),
    ] {
        let version = house.provider.user(&house.alice).unwrap().version;
        house
            .provider
            .update_user(&house.alice, version, profile(email, said), &house.caller)
            .unwrap();
        last = house
            .provider
            .user(&house.alice)
            .unwrap()
            .record
            .email_verified;
        assert_eq!(last, is_verified, "{email:?} {said:?}");
    }
    assert!(!last);
    let version = house.provider.user(&house.alice).unwrap().version;
    let nothing = profile(None, Some(true));
    let done = house
        .provider
        .update_user(&house.alice, version, nothing, &house.caller);
    assert!(done.is_err());
    assert!(
        letters(&house).is_empty(),
        "users are told what they did themselves"
    );
}

#[test]
fn links_end_are_for_one_thing_and_die_with_their_user() {
    let house = house();
    let cookie = logged_in(&house);
    ask(&house, &cookie);
    let verify = code(&letter(&house));
    is_invalid(house.provider.password_reset_page(&verify));
    let mut forged = verify.clone();
    forged.replace_range(
        10..11,
        if verify.chars().nth(10) == Some('A') {
            "B"
        } else {
            "A"
        },
    );
    for bad in ["", "x", &forged, &"A".repeat(9_000), verify.split_at(1).1] {
        is_invalid(house.provider.verification_page(bad));
    }
    house.clock.advance(Duration::from_secs(4 * 3600));
    is_invalid(house.provider.verify_address(&verify, &house.caller));

    ask(&house, &logged_in(&house));
    let code = code(&letter(&house));
    house
        .provider
        .disable_user(&house.alice, &house.caller)
        .unwrap();
    is_invalid(house.provider.verify_address(&code, &house.caller));
    house
        .provider
        .delete_user(&house.alice, &house.caller)
        .unwrap();
    is_invalid(house.provider.verify_address(&code, &house.caller));
}

#[test]
fn nobody_fills_a_mailbox_through_us() {
    let house = house();
    let cookie = logged_in(&house);
    for _ in 0..4 {
        ask(&house, &cookie);
    }
    let view = overview(&house, &cookie);
    let fifth = act(&house, &cookie, &view.flow, AccountAction::VerifyAddress).unwrap();
    let AccountPage::ChangeAddress {
        refused: Some(why), ..
    } = fifth
    else {
        panic!("{fifth:?}");
    };
    assert!(why.contains("too many letters"), "{why}");
    // Of four that were asked for at once, what the last one says is all that is still good.
    assert_eq!(letters(&house).len(), 1);
    // Nor by changing the address to and fro.
    for round in 0..5 {
        change(&house, &cookie, &format!("victim{round}@bookshop.example"));
    }
    assert!(letters(&house).is_empty());
    house.clock.advance(Duration::from_secs(3601));
    ask(&house, &logged_in(&house));
    assert_eq!(letters(&house).len(), 1);
}

fn another_user(house: &House, name: &str) -> UserId {
    let profile = UserProfile {
        email: Some(format!("{name}@bookshop.example")),
        email_verified: Some(true),
        ..UserProfile::default()
    };
    let password = NewPassword::Given(PASSWORD.to_owned().into());
    let name = name.parse().unwrap();
    let made = house
        .provider
        .create_user(&name, profile, Some(&password), &house.caller);
    made.unwrap().record.id
}

/// Tells a user that the password was changed, because it was.
fn set_password(house: &House, user: &UserId) {
    let password = NewPassword::Given(format!("{PASSWORD}!").into());
    house
        .provider
        .set_password(user, &password, &house.caller)
        .unwrap();
}

fn due(provider: &Provider) -> Vec<DueMail> {
    provider.due_mails().unwrap()
}

#[test]
fn a_letter_waits_for_its_server_and_holds_up_no_other() {
    let house = house();
    let bob = another_user(&house, "bob");
    set_password(&house, &house.alice);
    set_password(&house, &house.alice);
    set_password(&house, &bob);
    let first = due(&house.provider);
    let to: Vec<&str> = first.iter().map(|letter| &*letter.mail.to).collect();
    assert_eq!(
        to,
        [ADDRESS, "bob@bookshop.example"],
        "one to each at a time"
    );
    let id = first[0].mail.id.clone();
    let broken = Delivery::Failed("no connection to the mail server".to_owned());
    house.provider.settle_mail(&first[0], &broken).unwrap();
    house.provider.settle_mail(&first[1], &TAKEN).unwrap();
    assert!(due(&house.provider).is_empty(), "it is given a pause");
    house.clock.advance(Duration::from_secs(2));
    let again = due(&house.provider);
    assert_eq!(
        (again.len(), &again[0].mail.id),
        (1, &id),
        "the same letter"
    );
    house.provider.settle_mail(&again[0], &TAKEN).unwrap();
    let second = due(&house.provider);
    assert_eq!(second.len(), 1);
    assert_ne!(second[0].mail.id, id);
    let refused = Delivery::Refused("the mail server answers with status 550".to_owned());
    house.provider.settle_mail(&second[0], &refused).unwrap();
    house.clock.advance(Duration::from_secs(3600));
    assert!(due(&house.provider).is_empty(), "a final no is final");
    let failures = house.events_named("mail.send", Outcome::Failure);
    assert_eq!(failures.len(), 2);
    let texts = serde_json::to_string(&house.events()).unwrap();
    assert!(
        !texts.contains("@bookshop.example"),
        "the ledger has no addresses"
    );
}

#[test]
fn a_crash_forgets_no_letter_and_its_link_is_good_afterwards() {
    let house = house();
    ask(&house, &logged_in(&house));
    let first = due(&house.provider);
    let code = code(&first[0]);
    // It dies between sending and settling.
    let provider = house.another_provider(7);
    assert!(
        due(&provider).is_empty(),
        "nobody has said yet that letters are carried"
    );
    provider.carry_mail(true);
    let again = due(&provider);
    assert_eq!(again[0].mail.id, first[0].mail.id);
    provider.settle_mail(&again[0], &TAKEN).unwrap();
    provider.verify_address(&code, &house.caller).unwrap();
}

#[test]
fn a_letter_whose_link_has_ended_is_not_sent() {
    let house = house();
    ask(&house, &logged_in(&house));
    house.clock.advance(Duration::from_secs(4 * 3600));
    assert!(letters(&house).is_empty());
    assert_eq!(house.events_named("mail.send", Outcome::Failure).len(), 1);
    assert_eq!(house.provider.waiting_mails(), 0);
}

#[test]
fn letters_under_way_do_not_hold_up_other_notices() {
    let house = house();
    for number in 0..6 {
        set_password(&house, &another_user(&house, &format!("user{number}")));
    }
    assert_eq!(due(&house.provider).len(), 4, "so many at a time");
    assert!(!house.provider.has_due_mail());
    house.tell_of_logouts(testudo_identity::ClientLogout {
        backchannel_logout_uri: Some("https://app.bookshop.example/bye".parse().unwrap()),
        ..Default::default()
    });
    let logged_in = house.login_through(&claimed_request(&[]));
    house.redeem_claimed(&code_of(&logged_in)).unwrap();
    house.log_out(logged_in.session_cookie.expose());
    assert_eq!(house.provider.due_notices().unwrap().len(), 1);
}

#[test]
fn without_a_mail_server_nothing_is_written() {
    let house = House::new();
    let cookie = logged_in(&house);
    let view = overview(&house, &cookie);
    assert!(!view.can_have_mail);
    let action = AccountAction::ConfirmAddress {
        address: "new@bookshop.example",
    };
    assert!(act(&house, &cookie, &view.flow, action).is_err());
    act(&house, &cookie, &view.flow, AccountAction::VerifyAddress).unwrap();
    set_password(&house, &house.alice);
    let nobody = Caller::default();
    assert!(house.provider.forget_password("alice", &nobody).is_err());
    house.provider.carry_mail(true);
    assert!(letters(&house).is_empty());
}
