//! Signing keys and what is published of them.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use testudo_identity::{
    Journal, KeyRotation, Outbox, PresentedToken, Provider, limits::SIGNING_KEY_ROTATION,
};
use testudo_model::event::{Event, Outcome};
use testudo_store::Transaction;
use testudo_testkit::SeededEntropy;

use crate::house::{House, settings};

fn key_ids(provider: &Provider) -> Vec<String> {
    let jwks = provider.jwks().unwrap();
    let keys = jwks["keys"].as_array().unwrap();
    keys.iter()
        .map(|key| key["kid"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn a_key_is_published_a_rotation_before_it_signs_and_one_after() {
    let house = House::new();
    let [next, current] = key_ids(&house.provider).try_into().unwrap();
    let tokens = house.tokens();
    house
        .provider
        .rotate_signing_keys(KeyRotation::Scheduled, &house.caller)
        .unwrap();
    let [newest, now_current, previous] = key_ids(&house.provider).try_into().unwrap();
    assert_eq!((now_current, previous), (next.clone(), current));
    assert_ne!(newest, next);
    assert!(
        house
            .provider
            .user_info(PresentedToken::bearer(&tokens.access_token, None))
            .is_ok(),
        "overlap"
    );
    assert!(
        house
            .provider
            .user_info(PresentedToken::bearer(&house.tokens().access_token, None))
            .is_ok()
    );
}

#[test]
fn after_a_compromise_no_old_token_is_good() {
    let house = House::new();
    let (before, tokens) = (key_ids(&house.provider), house.tokens());
    house
        .provider
        .rotate_signing_keys(KeyRotation::Compromise, &house.caller)
        .unwrap();
    assert!(
        key_ids(&house.provider)
            .iter()
            .all(|id| !before.contains(id))
    );
    assert!(
        house
            .provider
            .user_info(PresentedToken::bearer(&tokens.access_token, None))
            .is_err()
    );
}

#[test]
fn rotation_happens_when_it_is_due_and_only_then() {
    let house = House::new();
    assert!(
        !house
            .provider
            .rotate_signing_keys_if_due(&house.caller)
            .unwrap()
    );
    house.clock.advance(Duration::from_secs(30 * 24 * 3600));
    assert!(
        house
            .provider
            .rotate_signing_keys_if_due(&house.caller)
            .unwrap()
    );
    assert!(
        !house
            .provider
            .rotate_signing_keys_if_due(&house.caller)
            .unwrap()
    );
}

#[test]
fn two_nodes_share_keys_and_follow_each_others_rotation() {
    let house = House::new();
    let other = house.another_provider(9);
    assert_eq!(key_ids(&other), key_ids(&house.provider));
    house
        .provider
        .rotate_signing_keys(KeyRotation::Scheduled, &house.caller)
        .unwrap();
    house.clock.advance(Duration::from_secs(6));
    assert_eq!(key_ids(&other), key_ids(&house.provider));
}

#[test]
fn the_snapshot_names_the_issuer_the_audience_and_the_public_keys_alone() {
    let house = House::new();
    let issuer = house.provider.issuer().unwrap();
    assert_eq!(
        (issuer.issuer.as_str(), issuer.audience.as_str()),
        (crate::house::ISSUER, "bookshop.example")
    );
    assert!(!issuer.jwks.contains("\"d\""), "a private key got out");
}

/// Lets another node rotate just before the first change of this one is committed.
struct Overtaken(Mutex<Option<Box<dyn FnOnce() + Send>>>);

impl Journal for Overtaken {
    fn record(&self, transaction: Transaction, event: &Event) -> Transaction {
        if let Some(other) = self.0.lock().unwrap().take() {
            other();
        }
        Outbox.record(transaction, event)
    }
}

#[test]
fn of_two_nodes_that_find_the_keys_due_one_rotates_them() {
    let house = House::new();
    house.clock.advance(SIGNING_KEY_ROTATION);
    let (other, caller) = (house.another_provider(2), house.caller.clone());
    let rotation = move || {
        let rotated = other.rotate_signing_keys_if_due(&caller).unwrap();
        assert!(rotated);
    };
    let journal = Overtaken(Mutex::new(Some(Box::new(rotation))));
    let slower = Provider::open(
        &house.store,
        settings(),
        house.clock.clone(),
        SeededEntropy::new(3),
        Arc::new(journal),
    );
    let rotated = slower.unwrap().rotate_signing_keys_if_due(&house.caller);
    assert!(!rotated.unwrap());
    let events = house.events_named("signing_key.rotate", Outcome::Success);
    assert_eq!(events.len(), 1);
}
