//! The root changes while everything runs.

use testudo_model::Clock;
use testudo_workload::{Caller, JoinTokenRequest, RootStage, Rotation, WorkloadError};

use crate::fixture::{DAY, Fleet, HOUR, MINUTE, SECOND, orders};

fn stages(fleet: &Fleet) -> Vec<RootStage> {
    fleet
        .workloads
        .roots()
        .unwrap()
        .into_iter()
        .map(|root| root.stage)
        .collect()
}

fn verifies(fleet: &Fleet, chain: &[Vec<u8>]) -> bool {
    let bundle = fleet.workloads.bundle().unwrap().bundle;
    bundle.verify_svid(chain, fleet.clock.now()).is_ok()
}

fn renew(fleet: &Fleet) -> Vec<Vec<u8>> {
    fleet.renew(&orders()).unwrap().chain
}

#[test]
fn the_root_survives_a_restart() {
    let mut fleet = Fleet::new();
    let before = fleet.workloads.roots().unwrap();
    fleet.restart();
    assert_eq!(fleet.workloads.roots().unwrap(), before);
    assert_eq!(stages(&fleet), [RootStage::Active]);
}

#[test]
fn a_new_root_is_known_to_all_before_it_signs_and_the_old_one_until_its_last_certificate_ends() {
    let fleet = Fleet::new();
    let old = fleet.workloads.bundle().unwrap();
    let prepared = fleet.workloads.rotate_ca(&Caller::default()).unwrap();
    assert!(prepared.version > old.version);
    assert_eq!(prepared.bundle.roots().len(), 2);
    assert_eq!(
        prepared.bundle.sha256(),
        old.bundle.sha256(),
        "the old root still signs"
    );
    assert_eq!(fleet.workloads.maintain().unwrap(), []);
    assert!(
        old.bundle
            .verify_svid(&renew(&fleet), fleet.clock.now())
            .is_ok()
    );

    fleet.clock.advance(DAY - SECOND);
    let last_of_old = renew(&fleet);
    fleet.clock.advance(SECOND);
    assert_eq!(fleet.workloads.maintain().unwrap(), [Rotation::Activated]);
    assert_eq!(stages(&fleet), [RootStage::Active, RootStage::Retiring]);
    let first_of_new = renew(&fleet);
    assert!(
        prepared
            .bundle
            .verify_svid(&first_of_new, fleet.clock.now())
            .is_ok(),
        "no one is behind"
    );
    assert!(
        old.bundle
            .verify_svid(&first_of_new, fleet.clock.now())
            .is_err()
    );
    assert!(verifies(&fleet, &last_of_old) && verifies(&fleet, &first_of_new));

    fleet.clock.advance(DAY + HOUR);
    assert_eq!(fleet.workloads.maintain().unwrap(), [Rotation::Retired]);
    let now = fleet.workloads.bundle().unwrap();
    assert_eq!(now.bundle.roots().len(), 1);
    assert_ne!(now.bundle.sha256(), old.bundle.sha256());
}

#[test]
fn a_retired_root_still_verifies_what_was_signed_in_its_time() {
    let fleet = Fleet::new();
    let (signed_at, chain) = (fleet.clock.now(), renew(&fleet));
    fleet.workloads.rotate_ca(&Caller::default()).unwrap();
    for _ in 0..3 {
        fleet.clock.advance(DAY + HOUR);
        fleet.workloads.maintain().unwrap();
    }
    assert_eq!(stages(&fleet), [RootStage::Active, RootStage::Retired]);
    assert!(
        fleet
            .workloads
            .historic_bundle()
            .unwrap()
            .verify_svid(&chain, signed_at)
            .is_ok()
    );
    assert!(
        fleet
            .workloads
            .bundle()
            .unwrap()
            .bundle
            .verify_svid(&chain, signed_at)
            .is_err()
    );
}

#[test]
fn one_rotation_at_a_time() {
    let fleet = Fleet::new();
    fleet.workloads.rotate_ca(&Caller::default()).unwrap();
    let again = fleet.workloads.rotate_ca(&Caller::default());
    assert!(matches!(again, Err(WorkloadError::RotationUnderWay { .. })));
}

#[test]
fn a_root_is_replaced_in_time_without_anybody_asking() {
    let fleet = Fleet::new();
    let first = fleet.workloads.bundle().unwrap().bundle.sha256();
    fleet.clock.advance(DAY * 182);
    assert_eq!(fleet.workloads.maintain().unwrap(), []);
    fleet.clock.advance(DAY);
    assert_eq!(fleet.workloads.maintain().unwrap(), [Rotation::Prepared]);
    assert_eq!(fleet.workloads.maintain().unwrap(), []);
    fleet.clock.advance(DAY);
    assert_eq!(fleet.workloads.maintain().unwrap(), [Rotation::Activated]);
    assert_ne!(fleet.workloads.bundle().unwrap().bundle.sha256(), first);
    assert!(verifies(&fleet, &renew(&fleet)));
}

#[test]
fn years_of_rotations_keep_the_bundle_small() {
    let fleet = Fleet::new();
    for _ in 0..20 {
        fleet.workloads.rotate_ca(&Caller::default()).unwrap();
        fleet.clock.advance(DAY);
        fleet.workloads.maintain().unwrap();
        fleet.clock.advance(DAY * 2);
        fleet.workloads.maintain().unwrap();
    }
    assert_eq!(fleet.workloads.bundle().unwrap().bundle.roots().len(), 1);
    let all = fleet.workloads.roots().unwrap();
    assert_eq!(all.len(), 13);
    assert!(
        all[1..].is_sorted_by_key(|root| std::cmp::Reverse(root.since)),
        "the oldest left"
    );
    fleet.workloads.historic_bundle().unwrap();
}

#[test]
fn no_join_token_outlives_the_root_it_pins() {
    let fleet = Fleet::new();
    fleet.workloads.rotate_ca(&Caller::default()).unwrap();
    fleet.clock.advance(DAY - MINUTE);
    let request = JoinTokenRequest {
        id: orders(),
        lifetime: HOUR,
        server: None,
    };
    let token = fleet
        .workloads
        .create_join_token(&request, &Caller::default())
        .unwrap();
    let listed = &fleet.workloads.join_tokens().unwrap()[0];
    assert_eq!(listed.expires.since(fleet.clock.now()), MINUTE);
    assert_eq!(
        fleet.workloads.bundle().unwrap().bundle.sha256(),
        token.ca_sha256
    );
}
