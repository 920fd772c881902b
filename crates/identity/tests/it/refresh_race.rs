//! One refresh token twice at the same moment: an honest race of one sender, or a theft of two.

use std::{sync::Barrier, thread, time::Duration};

use testudo_identity::{ClientProfile, NewSecret, Parameters, Peer, TokenError, TokenResponse};
use testudo_model::{
    Redacted,
    event::{Detail, EventClass, Outcome},
    snapshot::Revoked,
};

use crate::house::{
    House, SECRET, WEB_REDIRECT, code_of, form, native_request, redemption, web_profile,
};

const DESK: &str = "spiffe://bookshop.example/svc/desk";

/// A connection of the client's workload with one of its certificates.
fn desk(certificate: &str) -> Peer {
    Peer {
        spiffe_id: DESK.parse().unwrap(),
        certificate_thumbprint: certificate.to_owned(),
    }
}

/// Alice's tokens at a client that has a secret and a workload.
fn desk_tokens(house: &House) -> TokenResponse {
    let profile = ClientProfile {
        workload: Some(DESK.parse().unwrap()),
        ..web_profile()
    };
    let secret = NewSecret::Given(Redacted::new(SECRET.to_owned()));
    let name = "desk".parse().unwrap();
    house
        .provider
        .create_client(&name, profile, &secret, &house.caller)
        .unwrap();
    let request = native_request(&[("client_id", "desk"), ("redirect_uri", WEB_REDIRECT)]);
    let code = code_of(&house.login_through(&request));
    let redemption = redemption(
        &code,
        &[
            ("client_id", "desk"),
            ("redirect_uri", WEB_REDIRECT),
            ("client_secret", SECRET),
        ],
    );
    house.token(&redemption).unwrap()
}

fn by_certificate(token: &str) -> Parameters {
    form(&[
        ("grant_type", "refresh_token"),
        ("client_id", "desk"),
        ("refresh_token", token),
    ])
}

fn by_secret(token: &str) -> Parameters {
    form(&[
        ("grant_type", "refresh_token"),
        ("client_id", "desk"),
        ("client_secret", SECRET),
        ("refresh_token", token),
    ])
}

fn refresh_token(tokens: &TokenResponse) -> &str {
    tokens.refresh_token.as_deref().unwrap()
}

#[test]
fn a_workload_that_got_its_next_certificate_in_between_is_the_same_sender() {
    let house = House::new();
    let tokens = desk_tokens(&house);
    let request = by_certificate(refresh_token(&tokens));
    let first = house.token_of(&request, Some(&desk("one"))).unwrap();
    let again = house.token_of(&request, Some(&desk("two"))).unwrap();
    assert_eq!(refresh_token(&first), refresh_token(&again));
    let bound = house.access_claims(&again).cnf.unwrap();
    assert_eq!(bound.certificate_thumbprint.as_deref(), Some("two"));
}

#[test]
fn the_same_token_with_another_key_ends_the_session_at_once() {
    let house = House::new();
    let tokens = desk_tokens(&house);
    let token = refresh_token(&tokens);
    let peer = desk("one");
    let next = house.token_of(&by_certificate(token), Some(&peer)).unwrap();
    let stolen = house.token(&by_secret(token));
    assert!(matches!(stolen, Err(TokenError::RefreshReplayed)));
    let successor = by_certificate(refresh_token(&next));
    assert!(house.token_of(&successor, Some(&peer)).is_err());
    let sid = house.access_claims(&next).sid.unwrap();
    let taken_back =
        |entry: &testudo_model::snapshot::Revocation| entry.what == Revoked::Session(sid.clone());
    assert!(house.revocations().iter().any(taken_back));
    let reported = house.events_named("session.end", Outcome::Denied);
    assert_eq!(reported.len(), 1);
    assert_eq!(reported[0].class, EventClass::DetectionFinding);
    assert_eq!(
        reported[0].details.get("reason"),
        Some(&Detail::from("refresh token presented with another key"))
    );
}

#[test]
fn the_next_token_may_come_with_another_key() {
    let house = House::new();
    let tokens = desk_tokens(&house);
    let next = house.token(&by_secret(refresh_token(&tokens))).unwrap();
    let request = by_certificate(refresh_token(&next));
    assert!(house.token_of(&request, Some(&desk("one"))).is_ok());
}

#[test]
fn of_two_senders_at_once_at_most_one_gets_a_token_and_nobody_keeps_it() {
    for _ in 0..4 {
        let house = House::new();
        let tokens = desk_tokens(&house);
        let token = refresh_token(&tokens);
        let barrier = Barrier::new(2);
        let peer = desk("one");
        let (honest, thief) = thread::scope(|scope| {
            let honest = scope.spawn(|| {
                barrier.wait();
                house.token_of(&by_certificate(token), Some(&peer))
            });
            let thief = scope.spawn(|| {
                barrier.wait();
                house.token(&by_secret(token))
            });
            (honest.join().unwrap(), thief.join().unwrap())
        });
        let given = [honest.ok(), thief.ok()];
        assert!(given.iter().flatten().count() <= 1, "{given:?}");
        house.clock.advance(Duration::from_secs(1));
        for tokens in given.iter().flatten() {
            assert!(house.token(&by_secret(refresh_token(tokens))).is_err());
        }
        let ended = house.events_named("session.end", Outcome::Denied);
        assert_eq!(ended.len(), 1);
    }
}
