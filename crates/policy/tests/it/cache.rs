//! Decisions may be kept under their key.

use std::time::Duration;

use proptest::prelude::*;
use testudo_policy::{Call, Peer, TokenFacts};

use crate::{
    bookshop::{CARLA, NOW, OPEN, call, engine, peer, snapshot, token},
    random,
};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn equal_keys_mean_equal_decisions_with_equal_evidence(
        (snapshot, engine) in random::compiled(),
        first in random::facts(),
        others in prop::collection::vec((random::facts(), any::<[bool; 12]>()), 24),
    ) {
        let call = first.call(&snapshot);
        let Some(key) = engine.cacheable(&call) else { return Ok(()) };
        let decision = engine.decide(&call);
        for (other, take) in &others {
            // The same parties with some other facts, so that keys meet.
            let mut mixed = first.clone();
            if take[0] { mixed.verified = other.verified; }
            if take[1] { mixed.trust_domain = other.trust_domain; }
            if take[2] { mixed.expires = other.expires; }
            if take[3] { mixed.with_token = other.with_token; }
            if take[4] { mixed.scopes = other.scopes.clone(); }
            if take[5] { mixed.issuer = other.issuer; }
            if take[6] { mixed.assurance = other.assurance; }
            if take[7] { mixed.authenticated_at = other.authenticated_at; }
            if take[8] { mixed.ip = other.ip; }
            if take[9] { mixed.now = other.now; }
            if take[10] { mixed.path = other.path; }
            if take[11] { mixed.risk = other.risk; }
            let call = mixed.call(&snapshot);
            if engine.cacheable(&call).as_ref() == Some(&key) {
                prop_assert_eq!(&engine.decide(&call), &decision);
            }
        }
    }
}

#[test]
fn facts_that_no_candidate_policy_reads_are_not_in_the_key() {
    let snapshot = snapshot(&[OPEN]);
    let engine = engine(&[OPEN]);
    let base = call(&snapshot, "gateway", Some(CARLA), "orders:list");
    let key = engine.cacheable(&base).unwrap();
    let scopes = ["x".to_owned()];
    for same in [
        Call {
            now: NOW + Duration::from_secs(60),
            ..base
        },
        Call {
            path: "/other",
            ..base
        },
        Call {
            source_ip: "203.0.113.9".parse().unwrap(),
            ..base
        },
        Call {
            token: Some(token(&scopes)),
            ..base
        },
        Call {
            token: None,
            ..base
        },
    ] {
        assert_eq!(engine.cacheable(&same).unwrap(), key);
    }
    for different in [
        Call { risk: 1, ..base },
        Call {
            peer: Peer {
                verified: false,
                ..base.peer
            },
            ..base
        },
        Call {
            peer: peer("catalog"),
            ..base
        },
        Call {
            subject: Some("usr_root"),
            ..base
        },
        Call {
            route: &snapshot.services[2].routes[3],
            ..base
        },
    ] {
        assert_ne!(engine.cacheable(&different).unwrap(), key);
    }
}

#[test]
fn the_scopes_of_the_token_count_where_the_route_requires_some() {
    let snapshot = snapshot(&[OPEN]);
    let engine = engine(&[OPEN]);
    let base = call(&snapshot, "gateway", Some(CARLA), "orders:create");
    let (one, other) = (
        ["ab".to_owned(), "c".to_owned()],
        ["a".to_owned(), "bc".to_owned()],
    );
    let key = |scopes| {
        engine
            .cacheable(&Call {
                token: Some(token(scopes)),
                ..base
            })
            .unwrap()
    };
    assert_ne!(key(&one), key(&other));
    let assured = Call {
        token: Some(TokenFacts {
            assurance: 3,
            ..token(&one)
        }),
        ..base
    };
    assert_eq!(engine.cacheable(&assured).unwrap(), key(&one));
}

#[test]
fn decisions_that_depend_on_the_time_or_on_strangers_are_not_cached() {
    let snapshot = snapshot(&[OPEN]);
    let engine = engine(&[OPEN]);
    for call in [
        call(&snapshot, "gateway", Some(CARLA), "orders:refund"),
        call(&snapshot, "gateway", Some("usr_nobody"), "orders:list"),
        call(&snapshot, "stranger", Some(CARLA), "orders:list"),
        call(&snapshot, "gateway", None, "orders:list"),
    ] {
        assert_eq!(engine.cacheable(&call), None);
    }
}
