//! Links with which somebody who cannot log in gets a passkey.

use std::{thread, time::Duration};

use testudo_identity::{
    AdminError, InvitationAnswer, InvitationError, InvitationPage, PasskeyCreation, Provider,
};
use testudo_model::{UserId, event::Outcome};

use crate::{
    authenticator::{Authenticator, Created, VERIFIED},
    house::{House, query},
    passkeys::{another_user, detail, log_in, passkeys},
};

/// The code of a new link.
pub fn invite(house: &House, user: &UserId) -> String {
    let hour = Duration::from_secs(3600);
    let made = house
        .provider
        .invite_user(user, hour, &house.caller)
        .unwrap();
    query(made.link.expose())["code"].clone()
}

struct Offer {
    flow: String,
    browser: String,
    creation: PasskeyCreation,
}

fn open(house: &House, code: &str) -> Result<Offer, InvitationError> {
    match house.provider.invitation_page(code, None)? {
        InvitationPage::Offer {
            flow,
            browser,
            creation,
            refused: None,
        } => Ok(Offer {
            flow,
            browser: browser.expose().clone(),
            creation: *creation,
        }),
        other => panic!("{other:?}"),
    }
}

fn answer_offer(
    provider: &Provider,
    house: &House,
    offer: &Offer,
    created: &Created,
) -> Result<InvitationPage, InvitationError> {
    let answer = InvitationAnswer {
        flow: &offer.flow,
        browser: Some(&offer.browser),
        name: "From a link",
        response: created.response(),
    };
    provider.accept_invitation(&answer, &house.caller)
}

/// Follows a link to its end.
pub fn accept(house: &House, code: &str) -> Result<Authenticator, InvitationError> {
    let offer = open(house, code)?;
    let mut authenticator = Authenticator::new();
    let created = authenticator.create(&offer.creation);
    match answer_offer(&house.provider, house, &offer, &created)? {
        InvitationPage::Done => Ok(authenticator),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_link_gives_one_passkey_to_one_account() {
    let house = House::new();
    let code = invite(&house, &house.alice);
    // To look at it is not to use it.
    for _ in 0..3 {
        open(&house, &code).unwrap();
    }
    let before = open(&house, &code).unwrap();
    let mut authenticator = accept(&house, &code).unwrap();
    assert!(log_in(&house, &mut authenticator).is_ok());
    assert!(matches!(
        accept(&house, &code),
        Err(InvitationError::Invalid)
    ));
    // Also not for who had opened it before.
    let late = Authenticator::new().create(&before.creation);
    assert!(matches!(
        answer_offer(&house.provider, &house, &before, &late),
        Err(InvitationError::Invalid)
    ));
    assert_eq!(passkeys(&house).len(), 1);
    assert_eq!(house.events_named("user.invite", Outcome::Success).len(), 1);
    let added = &house.events_named("passkey.add", Outcome::Success)[0];
    assert_eq!(detail(added, "invited"), "true");
}

#[test]
fn a_link_is_good_for_its_time_its_browser_and_its_user() {
    let house = House::new();
    let replaced = invite(&house, &house.alice);
    let code = invite(&house, &house.alice);
    let bob = another_user(&house, "bob");
    let secret = code.split_once('.').unwrap().1;
    for bad in [
        "",
        "x",
        ".",
        &*replaced,
        &*format!("{bob}.{secret}"),
        &*format!("{}.", house.alice),
        &*format!("{code}x"),
        &*format!("{}.{}", house.alice, "x".repeat(10_000)),
    ] {
        assert!(
            matches!(open(&house, bad), Err(InvitationError::Invalid)),
            "{bad}"
        );
    }
    let offer = open(&house, &code).unwrap();
    let created = Authenticator::new().create(&offer.creation);
    let elsewhere = Offer {
        browser: open(&house, &code).unwrap().browser,
        flow: offer.flow.clone(),
        creation: open(&house, &code).unwrap().creation,
    };
    assert!(matches!(
        answer_offer(&house.provider, &house, &elsewhere, &created),
        Err(InvitationError::OtherBrowser)
    ));
    // What is refused leaves the link as it is.
    let bent = Authenticator::new().create_bent(&offer.creation, |said| said.flags &= !VERIFIED);
    let page = answer_offer(&house.provider, &house, &offer, &bent).unwrap();
    assert!(
        matches!(&page, InvitationPage::Offer { refused: Some(why), .. } if why.contains("verified")),
        "{page:?}"
    );
    house
        .provider
        .disable_user(&house.alice, &house.caller)
        .unwrap();
    assert!(matches!(open(&house, &code), Err(InvitationError::Invalid)));
    house
        .provider
        .enable_user(&house.alice, &house.caller)
        .unwrap();
    assert!(
        matches!(
            answer_offer(&house.provider, &house, &offer, &created),
            Err(InvitationError::Invalid)
        ),
        "a link to a disabled account is not good again"
    );

    let code = invite(&house, &house.alice);
    let offer = open(&house, &code).unwrap();
    let created = Authenticator::new().create(&offer.creation);
    house.clock.advance(Duration::from_secs(3600));
    assert!(matches!(open(&house, &code), Err(InvitationError::Invalid)));
    assert!(answer_offer(&house.provider, &house, &offer, &created).is_err());
    for lifetime in [Duration::ZERO, Duration::from_secs(7 * 24 * 3600 + 1)] {
        let refused = house.provider.invite_user(&bob, lifetime, &house.caller);
        assert!(matches!(
            refused,
            Err(AdminError::Invalid {
                field: "lifetime",
                ..
            })
        ));
    }
    house.provider.disable_user(&bob, &house.caller).unwrap();
    let hour = Duration::from_secs(3600);
    assert!(
        house
            .provider
            .invite_user(&bob, hour, &house.caller)
            .is_err()
    );
    assert!(passkeys(&house).is_empty());
}

#[test]
fn of_two_who_follow_one_link_at_once_one_gets_in() {
    for _ in 0..8 {
        let house = House::new();
        let code = invite(&house, &house.alice);
        let other = house.another_provider(99);
        let offers = [open(&house, &code).unwrap(), open(&house, &code).unwrap()];
        let outcomes = thread::scope(|scope| {
            let house = &house;
            let [one, two] = &offers;
            [(&*house.provider, one), (&other, two)]
                .map(|(provider, offer)| {
                    scope.spawn(move || {
                        let created = Authenticator::new().create(&offer.creation);
                        answer_offer(provider, house, offer, &created)
                    })
                })
                .map(|answer| answer.join().unwrap())
        });
        let done = outcomes
            .iter()
            .filter(|outcome| matches!(outcome, Ok(InvitationPage::Done)))
            .count();
        assert_eq!(done, 1, "{outcomes:?}");
        assert_eq!(passkeys(&house).len(), 1);
    }
}
