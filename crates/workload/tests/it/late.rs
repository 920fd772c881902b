//! What a certificate is worth after its end: the next one, once, if nothing came between.

use std::time::Duration;

use testudo_model::{
    event::Outcome,
    limits::{LATE_RENEWAL, SVID_LIFETIME},
};
use testudo_workload::{Caller, ShownCertificate, WorkloadError};

use crate::fixture::{Fleet, HOUR, MINUTE, SECOND, id, orders, request};

/// A proxy's certificate.
type Leaf = Vec<u8>;

fn enrol(fleet: &Fleet) -> Leaf {
    let credential = fleet.credential(&orders());
    let enrolled = fleet
        .workloads
        .enrol(&credential, &request(), &Caller::default());
    enrolled.unwrap().issued.chain[0].clone()
}

fn renew(fleet: &Fleet, leaf: &[u8]) -> Result<Leaf, WorkloadError> {
    Ok(fleet.renew_with(leaf)?.chain[0].clone())
}

#[track_caller]
fn assert_final(renewed: Result<Leaf, WorkloadError>, reason: &str) {
    match renewed {
        Err(WorkloadError::CertificateEnded { why, .. }) => assert!(why.contains(reason), "{why}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_ended_certificate_renews_for_a_day_and_the_event_says_that_it_was_late() {
    for (late, renews) in [
        (Duration::ZERO, true),
        (8 * HOUR, true),
        (LATE_RENEWAL - SECOND, true),
        (LATE_RENEWAL, false),
        (300 * HOUR, false),
    ] {
        let fleet = Fleet::new();
        let first = enrol(&fleet);
        fleet.clock.advance(SVID_LIFETIME + late);
        let renewed = renew(&fleet, &first);
        if renews {
            let next = ShownCertificate::read(&renewed.unwrap()).unwrap();
            assert_eq!(next.id, orders());
            assert_eq!(
                fleet.events.last(),
                ("workload.renew_late".to_owned(), Outcome::Success)
            );
        } else {
            assert_final(renewed, "too long ago");
            assert_eq!(
                fleet.events.last(),
                ("workload.renew".to_owned(), Outcome::Denied)
            );
        }
    }
}

#[test]
fn a_certificate_that_was_replaced_is_worth_nothing_after_its_end() {
    let fleet = Fleet::new();
    let stolen = enrol(&fleet);
    fleet.clock.advance(7 * MINUTE);
    let second = renew(&fleet, &stolen).unwrap();
    fleet.clock.advance(7 * MINUTE);
    let third = renew(&fleet, &second).unwrap();
    fleet.clock.advance(2 * MINUTE);
    assert_final(renew(&fleet, &stolen), "not the newest");

    fleet.clock.advance(10 * HOUR);
    assert_final(renew(&fleet, &stolen), "not the newest");
    let fourth = renew(&fleet, &third).unwrap();
    assert_final(renew(&fleet, &second), "not the newest");
    fleet.clock.advance(10 * HOUR);
    renew(&fleet, &fourth).unwrap();
    assert_final(
        renew(&fleet, &third).and(renew(&fleet, &second)),
        "not the newest",
    );
}

#[test]
fn a_lost_answer_can_be_asked_for_again() {
    let fleet = Fleet::new();
    let first = enrol(&fleet);
    fleet.clock.advance(HOUR);
    let lost = renew(&fleet, &first).unwrap();
    let arrived = renew(&fleet, &first).unwrap();
    fleet.clock.advance(HOUR);
    assert_final(renew(&fleet, &lost), "not the newest");
    renew(&fleet, &arrived).unwrap();
    assert_final(renew(&fleet, &first), "not the newest");
}

#[test]
fn a_refused_request_costs_the_proxy_nothing() {
    let fleet = Fleet::new();
    let first = enrol(&fleet);
    fleet.clock.advance(HOUR);
    let shown = ShownCertificate::read(&first).unwrap();
    let malformed = fleet.workloads.renew(&shown, b"", &Caller::default());
    assert!(matches!(malformed, Err(WorkloadError::Certificate(_))));
    renew(&fleet, &first).unwrap();
}

#[test]
fn a_certificate_the_control_plane_does_not_remember_renews_while_it_holds_only() {
    let fleet = Fleet::new();
    let unknown = fleet.workloads.issue_local(&orders()).unwrap();
    let leaf = &unknown.chain()[0];
    let next = renew(&fleet, leaf).unwrap();
    fleet.clock.advance(HOUR);
    renew(&fleet, &next).unwrap();

    let forgotten = fleet.workloads.issue_local(&orders()).unwrap();
    fleet.clock.advance(HOUR);
    assert_final(renew(&fleet, &forgotten.chain()[0]), "not the newest");
}

#[test]
fn removing_the_service_ends_it_for_good_also_if_the_service_comes_back() {
    let fleet = Fleet::new();
    let first = enrol(&fleet);
    fleet.clock.advance(HOUR);
    fleet.declare(&["cart"]);
    assert!(matches!(
        renew(&fleet, &first),
        Err(WorkloadError::NotRegistered { .. })
    ));
    fleet.declare(&["cart", "orders"]);
    assert_final(renew(&fleet, &first), "revoked or removed");

    fleet.clock.advance(MINUTE);
    let joined_again = enrol(&fleet);
    fleet.clock.advance(HOUR);
    renew(&fleet, &joined_again).unwrap();
}

#[test]
fn a_revocation_ends_it_for_good_also_if_the_identity_is_given_back() {
    let fleet = Fleet::new();
    let first = enrol(&fleet);
    fleet.clock.advance(HOUR);
    fleet
        .workloads
        .revoke(&orders(), &Caller::default())
        .unwrap();
    assert!(matches!(
        renew(&fleet, &first),
        Err(WorkloadError::Revoked { .. })
    ));
    fleet
        .workloads
        .reinstate(&orders(), &Caller::default())
        .unwrap();
    assert_final(renew(&fleet, &first), "revoked or removed");

    fleet.clock.advance(MINUTE);
    let joined_again = enrol(&fleet);
    fleet.clock.advance(HOUR);
    renew(&fleet, &joined_again).unwrap();
}

#[test]
fn each_proxy_of_a_service_has_its_own_newest_certificate() {
    let fleet = Fleet::new();
    let (one, other) = (enrol(&fleet), enrol(&fleet));
    fleet.clock.advance(7 * MINUTE);
    let next = renew(&fleet, &one).unwrap();
    fleet.clock.advance(HOUR);
    renew(&fleet, &other).unwrap();
    renew(&fleet, &next).unwrap();
}

#[test]
fn the_control_plane_may_restart_in_between() {
    let mut fleet = Fleet::new();
    let first = enrol(&fleet);
    fleet.clock.advance(HOUR);
    fleet.restart();
    renew(&fleet, &first).unwrap();
    assert!(fleet.renew(&id("/svc/stranger")).is_err());
}
