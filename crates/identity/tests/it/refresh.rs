//! Refresh tokens: rotation, races, theft.

use std::{sync::Barrier, thread, time::Duration};

use proptest::prelude::*;
use testudo_identity::{Authorization, IdTokenClaims, PresentedToken, TokenError, TokenResponse};
use testudo_model::{event::Outcome, snapshot::Revoked};

use crate::house::{House, SECRET, claimed_request, code_of, form, native_request, query};

fn refresh_token(tokens: &TokenResponse) -> &str {
    tokens.refresh_token.as_deref().unwrap()
}

#[test]
fn each_refresh_gives_a_new_token_and_the_same_session() {
    let house = House::new();
    let first = house.tokens();
    let second = house.refresh(refresh_token(&first)).unwrap();
    house.clock.advance(Duration::from_secs(60));
    let third = house.refresh(refresh_token(&second)).unwrap();
    assert_ne!(refresh_token(&first), refresh_token(&second));
    assert_ne!(refresh_token(&second), refresh_token(&third));
    let (before, after) = (house.access_claims(&first), house.access_claims(&third));
    assert_eq!(before.sid, after.sid);
    assert_eq!(before.auth_time, after.auth_time, "a refresh is no login");
    assert_ne!(before.jti, after.jti);
    let id: IdTokenClaims = house.claims(third.id_token.as_deref().unwrap(), "JWT");
    assert_eq!(id.nonce, None);
}

#[test]
fn an_old_token_ends_the_session_of_both_who_hold_it() {
    let house = House::new();
    let first = house.tokens();
    let second = house.refresh(refresh_token(&first)).unwrap();
    house.clock.advance(Duration::from_secs(6));
    assert!(matches!(
        house.refresh(refresh_token(&first)),
        Err(TokenError::RefreshReplayed)
    ));
    assert!(matches!(
        house.refresh(refresh_token(&second)),
        Err(TokenError::UnknownGrant)
    ));
    let sid = house.access_claims(&second).sid.unwrap();
    assert!(
        house
            .revocations()
            .iter()
            .any(|entry| entry.what == Revoked::Session(sid.clone()))
    );
    assert!(
        house
            .provider
            .user_info(PresentedToken::bearer(&second.access_token, None))
            .is_err()
    );
    let reported = house.events_named("session.end", Outcome::Denied);
    assert_eq!(reported.len(), 1);
    assert_eq!(reported[0].actor.session.as_ref(), Some(&sid));
    assert_eq!(reported[0].source_ip, house.caller.source_ip);
}

#[test]
fn the_same_token_within_seconds_gets_the_same_successor() {
    let house = House::new();
    let first = house.tokens();
    let second = house.refresh(refresh_token(&first)).unwrap();
    house.clock.advance(Duration::from_secs(5));
    let again = house.refresh(refresh_token(&first)).unwrap();
    assert_eq!(refresh_token(&again), refresh_token(&second));
    assert!(house.refresh(refresh_token(&second)).is_ok());
}

#[test]
fn a_token_two_generations_old_is_reuse_at_any_time() {
    let house = House::new();
    let first = house.tokens();
    let second = house.refresh(refresh_token(&first)).unwrap();
    house.refresh(refresh_token(&second)).unwrap();
    assert!(matches!(
        house.refresh(refresh_token(&first)),
        Err(TokenError::RefreshReplayed)
    ));
}

#[test]
fn parallel_refreshes_all_get_the_same_successor() {
    let house = House::new();
    let tokens = house.tokens();
    let barrier = Barrier::new(8);
    let successors: Vec<String> = thread::scope(|scope| {
        let refresh = || {
            barrier.wait();
            house
                .refresh(refresh_token(&tokens))
                .unwrap()
                .refresh_token
                .unwrap()
        };
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(refresh)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    assert!(
        successors
            .iter()
            .all(|successor| *successor == successors[0])
    );
    assert!(house.refresh(&successors[0]).is_ok());
}

#[test]
fn a_forged_token_is_refused_and_harms_nobody() {
    let house = House::new();
    let tokens = house.tokens();
    let genuine = refresh_token(&tokens);
    let (head, mac) = genuine.rsplit_once('.').unwrap();
    let grant = head.split_once('.').unwrap().0;
    let flipped = if mac.starts_with('A') { "B" } else { "A" };
    for forged in [
        format!("{head}.{flipped}{}", mac.get(1..).unwrap()),
        format!("{grant}.1.{mac}"),
        format!("{grant}.18446744073709551615.{mac}"),
        format!("{head}."),
        head.to_owned(),
        format!("{genuine}x"),
        "x".repeat(5000),
    ] {
        assert!(
            matches!(house.refresh(&forged), Err(TokenError::UnknownGrant)),
            "{forged}"
        );
    }
    assert!(house.refresh(genuine).is_ok());
}

#[test]
fn a_token_in_the_hands_of_another_client_ends_the_grant() {
    let house = House::new();
    let tokens = house.tokens();
    let stolen = form(&[
        ("grant_type", "refresh_token"),
        ("client_id", "web"),
        ("client_secret", SECRET),
        ("refresh_token", refresh_token(&tokens)),
    ]);
    assert!(matches!(
        house.token(&stolen),
        Err(TokenError::RefreshReplayed)
    ));
    assert!(house.refresh(refresh_token(&tokens)).is_err());
}

#[test]
fn scopes_can_be_narrowed_at_a_refresh_but_not_widened() {
    let house = House::new();
    let tokens = house.tokens();
    let refresh = |scope: &str, token: &str| {
        house.token(&form(&[
            ("grant_type", "refresh_token"),
            ("client_id", "cli"),
            ("refresh_token", token),
            ("scope", scope),
        ]))
    };
    let error = refresh("orders:read orders:write", refresh_token(&tokens)).unwrap_err();
    assert_eq!(error.to_oauth().error.as_str(), "invalid_scope");
    let narrow = refresh("orders:read", refresh_token(&tokens)).unwrap();
    assert_eq!(narrow.scope, "orders:read");
    assert!(narrow.id_token.is_none(), "openid was given up");
    let wide = house.refresh(refresh_token(&narrow)).unwrap();
    assert_eq!(
        wide.scope, "openid orders:read profile",
        "the grant itself is not narrowed"
    );
}

#[test]
fn a_grant_ends_with_its_session_unless_it_is_offline() {
    let house = House::new();
    let online = house.tokens();
    let parameters = native_request(&[("scope", "openid offline_access")]);
    let offline = house
        .redeem(&code_of(&house.login_through(&parameters)))
        .unwrap();
    house.clock.advance(Duration::from_secs(12 * 3600));
    assert!(house.refresh(refresh_token(&online)).is_err());
    let later = house.refresh(refresh_token(&offline)).unwrap();
    house.clock.advance(Duration::from_secs(14 * 24 * 3600));
    assert!(
        house.refresh(refresh_token(&later)).is_err(),
        "idle for two weeks"
    );
}

#[test]
fn no_grant_lives_longer_than_ninety_days() {
    let house = House::new();
    let parameters = native_request(&[("scope", "openid offline_access")]);
    let mut tokens = house
        .redeem(&code_of(&house.login_through(&parameters)))
        .unwrap();
    let mut days = 0;
    while let Ok(next) = house.refresh(refresh_token(&tokens)) {
        tokens = next;
        days += 10;
        house.clock.advance(Duration::from_secs(10 * 24 * 3600));
        assert!(days < 200, "the grant never ends");
    }
    assert_eq!(days, 90);
}

#[test]
fn disabling_the_user_or_the_client_stops_refreshes() {
    let house = House::new();
    let tokens = house.tokens();
    let cli = "cli".parse().unwrap();
    house
        .provider
        .set_client_disabled(&cli, true, &house.caller)
        .unwrap();
    let error = house.refresh(refresh_token(&tokens)).unwrap_err();
    assert_eq!(error.to_oauth().error.as_str(), "invalid_client");
    house
        .provider
        .set_client_disabled(&cli, false, &house.caller)
        .unwrap();
    house
        .provider
        .disable_user(&house.alice, &house.caller)
        .unwrap();
    house
        .provider
        .enable_user(&house.alice, &house.caller)
        .unwrap();
    assert!(
        house.refresh(refresh_token(&tokens)).is_err(),
        "enabling does not bring sessions back"
    );
}

/// What the protocol promises, told again without MACs, records and transactions.
struct Model {
    issued: Vec<String>,
    rotated: Duration,
    now: Duration,
    ended: bool,
}

impl Model {
    /// The index of the token that presenting `index` gives, if any.
    fn present(&mut self, index: usize) -> Option<usize> {
        let current = self.issued.len() - 1;
        let in_window = self.now - self.rotated <= Duration::from_secs(5);
        if self.ended {
            None
        } else if index == current {
            self.rotated = self.now;
            Some(current + 1)
        } else if index + 1 == current && in_window {
            Some(current)
        } else {
            self.ended = true;
            None
        }
    }
}

#[test]
fn in_any_order_of_presentations_the_family_does_what_its_model_does() {
    let house = House::new();
    let cookie = house
        .login_through(&native_request(&[]))
        .session_cookie
        .into_exposed();
    let steps = prop::collection::vec((0_usize..4, 0_u64..8), 1..12);
    proptest!(ProptestConfig::with_cases(32), |(steps in steps)| {
        let answer = house.provider.authorize(&claimed_request(&[]), Some(&cookie), None, &house.caller);
        let Authorization::Code { location } = answer.unwrap() else { panic!("no code") };
        let tokens = house.redeem_claimed(&query(location.expose())["code"]).unwrap();
        let issued = vec![tokens.refresh_token.unwrap()];
        let mut model =
            Model { issued, rotated: Duration::ZERO, now: Duration::ZERO, ended: false };
        for (back, seconds) in steps {
            let index = (model.issued.len() - 1).saturating_sub(back);
            let result = house.refresh(&model.issued[index]);
            match model.present(index) {
                Some(next) => {
                    let given = result.unwrap().refresh_token.unwrap();
                    if next == model.issued.len() {
                        prop_assert!(!model.issued.contains(&given));
                        model.issued.push(given);
                    } else {
                        prop_assert_eq!(&given, &model.issued[next]);
                    }
                }
                None => prop_assert!(result.is_err()),
            }
            house.clock.advance(Duration::from_secs(seconds));
            model.now += Duration::from_secs(seconds);
        }
    });
}
