//! Who is alive, and where sidecars find each other.

use testudo_model::{InstanceId, snapshot::SnapshotVersion};
use testudo_testkit::SeededEntropy;
use testudo_workload::{Caller, INSTANCE_LEASE, InstanceReport, WorkloadError};

use crate::fixture::{Fleet, SECOND, id, orders};

fn instance(fleet: &Fleet, seed: u64) -> InstanceId {
    InstanceId::generate(&*fleet.clock, &*SeededEntropy::new(seed))
}

fn report(fleet: &Fleet, seed: u64, port: u16) -> InstanceReport {
    InstanceReport {
        instance: instance(fleet, seed),
        id: orders(),
        inbound: Some(([10, 0, 0, 1], port).into()),
        acknowledged: Some(SnapshotVersion(3)),
        refused: None,
        build: "0.1.0".to_owned(),
    }
}

fn ports(fleet: &Fleet) -> Vec<u16> {
    let endpoints = fleet.workloads.endpoints().unwrap();
    let orders = endpoints.services.get(&"orders".parse().unwrap());
    orders
        .map(|at| at.iter().map(std::net::SocketAddr::port).collect())
        .unwrap_or_default()
}

#[test]
fn endpoints_follow_who_comes_moves_and_goes() {
    let fleet = Fleet::new();
    let (mut one, two) = (report(&fleet, 1, 7001), report(&fleet, 2, 7002));
    let first = fleet.workloads.report(&one).unwrap().unwrap();
    let second = fleet.workloads.report(&two).unwrap().unwrap();
    assert!(second.version > first.version);
    assert_eq!(ports(&fleet), [7001, 7002]);
    assert_eq!(fleet.workloads.report(&one).unwrap(), None, "nothing new");
    one.inbound = Some(([10, 0, 0, 1], 7009).into());
    assert!(fleet.workloads.report(&one).unwrap().is_some());
    assert_eq!(ports(&fleet), [7002, 7009]);
    assert!(
        fleet
            .workloads
            .depart(&two.instance, &orders())
            .unwrap()
            .is_some()
    );
    assert_eq!(ports(&fleet), [7009]);
}

#[test]
fn who_is_silent_for_a_lease_is_let_go_and_may_come_back() {
    let fleet = Fleet::new();
    let one = report(&fleet, 1, 7001);
    fleet.workloads.report(&one).unwrap();
    fleet.clock.advance(INSTANCE_LEASE - SECOND);
    assert_eq!(fleet.workloads.sweep().unwrap(), None);
    fleet.clock.advance(SECOND);
    assert!(fleet.workloads.sweep().unwrap().is_some());
    assert_eq!(ports(&fleet), [0; 0]);
    assert!(fleet.workloads.instances().unwrap()[0].departed);
    assert!(fleet.workloads.report(&one).unwrap().is_some());
    assert_eq!(ports(&fleet), [7001]);
}

#[test]
fn regular_reports_keep_an_instance_alive() {
    let fleet = Fleet::new();
    let one = report(&fleet, 1, 7001);
    for _ in 0..40 {
        fleet.workloads.report(&one).unwrap();
        assert_eq!(fleet.workloads.sweep().unwrap(), None);
        assert_eq!(ports(&fleet), [7001]);
        fleet.clock.advance(SECOND * 5);
    }
}

#[test]
fn an_absent_control_plane_empties_no_endpoints() {
    let mut fleet = Fleet::new();
    fleet.workloads.report(&report(&fleet, 1, 7001)).unwrap();
    fleet.workloads.report(&report(&fleet, 2, 7002)).unwrap();
    let two = report(&fleet, 2, 7002);
    fleet.workloads.depart(&two.instance, &orders()).unwrap();
    fleet.clock.advance(INSTANCE_LEASE * 100);
    fleet.restart();
    assert_eq!(fleet.workloads.sweep().unwrap(), None);
    assert_eq!(
        ports(&fleet),
        [7001],
        "who was alive has a lease to come back, who had left has not"
    );
    fleet.clock.advance(INSTANCE_LEASE);
    assert!(fleet.workloads.sweep().unwrap().is_some());
    assert_eq!(ports(&fleet), [0; 0]);
}

#[test]
fn nobody_reports_or_departs_in_the_name_of_another() {
    let fleet = Fleet::new();
    let one = report(&fleet, 1, 7001);
    fleet.workloads.report(&one).unwrap();
    let thief = InstanceReport {
        id: id("/svc/cart"),
        ..one.clone()
    };
    assert!(matches!(
        fleet.workloads.report(&thief),
        Err(WorkloadError::InstanceTaken { .. })
    ));
    let departed = fleet.workloads.depart(&one.instance, &id("/svc/cart"));
    assert!(matches!(departed, Err(WorkloadError::InstanceTaken { .. })));
    assert_eq!(ports(&fleet), [7001]);
}

#[test]
fn a_revoked_or_removed_identity_has_no_endpoints() {
    let fleet = Fleet::new();
    let one = report(&fleet, 1, 7001);
    fleet.workloads.report(&one).unwrap();
    fleet
        .workloads
        .revoke(&orders(), &Caller::default())
        .unwrap();
    fleet.workloads.sweep().unwrap();
    assert_eq!(ports(&fleet), [0; 0]);
    assert!(matches!(
        fleet.workloads.report(&one),
        Err(WorkloadError::Revoked { .. })
    ));
    fleet
        .workloads
        .reinstate(&orders(), &Caller::default())
        .unwrap();
    fleet.workloads.sweep().unwrap();
    assert_eq!(ports(&fleet), [7001]);
    fleet.declare(&["cart"]);
    fleet.workloads.sweep().unwrap();
    assert_eq!(ports(&fleet), [0; 0]);
}

#[test]
fn a_refused_snapshot_shows_and_cannot_break_a_terminal() {
    let fleet = Fleet::new();
    let refused = Some("unknown feature\u{1b}[31m\n".to_owned());
    fleet
        .workloads
        .report(&InstanceReport {
            refused,
            ..report(&fleet, 1, 7001)
        })
        .unwrap();
    let seen = fleet.workloads.instances().unwrap();
    assert_eq!(seen[0].acknowledged, Some(SnapshotVersion(3)));
    let shown = seen[0].refused.as_ref().unwrap().as_str();
    assert!(shown.starts_with("unknown feature") && !shown.contains('\u{1b}'));
}
