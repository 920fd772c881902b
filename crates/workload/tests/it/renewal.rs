//! Who is known gets the next certificate; who is not, or no longer, does not.

use testudo_model::{SpiffeId, event::Outcome, snapshot::Revoked};
use testudo_trust::{SvidKey, certificate_times, spiffe_id_of};
use testudo_workload::{Caller, ShownCertificate, WorkloadError};

use crate::fixture::{Fleet, HOUR, id, orders, request};

#[test]
fn a_renewed_certificate_is_for_the_peer_and_no_one_else() {
    let fleet = Fleet::new();
    let first = fleet.renew(&orders()).unwrap();
    let second = fleet.renew(&orders()).unwrap();
    assert_eq!(spiffe_id_of(&second.chain[0]).unwrap(), orders());
    assert_ne!(first.chain[0], second.chain[0]);
    assert_eq!(
        fleet.events.last(),
        ("workload.renew".to_owned(), Outcome::Success)
    );
}

#[test]
fn an_unknown_a_removed_and_a_revoked_identity_get_nothing() {
    let fleet = Fleet::new();
    let renew = |id: &SpiffeId| fleet.renew(id);
    let stranger = id("/svc/stranger");
    assert!(matches!(
        renew(&stranger),
        Err(WorkloadError::NotRegistered { .. })
    ));
    assert_eq!(
        fleet.events.last(),
        ("workload.renew".to_owned(), Outcome::Denied)
    );

    let changed = fleet.declare(&["orders"]);
    assert_eq!(changed.removed, [id("/svc/cart")]);
    assert!(matches!(
        renew(&id("/svc/cart")),
        Err(WorkloadError::NotRegistered { .. })
    ));

    let revoked = fleet
        .workloads
        .revoke(&orders(), &Caller::default())
        .unwrap();
    assert_eq!(revoked, Revoked::Workload(orders()));
    assert!(matches!(
        renew(&orders()),
        Err(WorkloadError::Revoked { .. })
    ));
}

#[test]
fn removing_and_adding_a_service_does_not_lift_its_revocation() {
    let fleet = Fleet::new();
    fleet
        .workloads
        .revoke(&orders(), &Caller::default())
        .unwrap();
    fleet.declare(&["cart"]);
    assert_eq!(fleet.declare(&["cart", "orders"]).added, [orders()]);
    let renewed = fleet.renew(&orders());
    assert!(matches!(renewed, Err(WorkloadError::Revoked { .. })));
    fleet
        .workloads
        .reinstate(&orders(), &Caller::default())
        .unwrap();
    fleet.renew(&orders()).unwrap();
}

#[test]
fn what_was_never_declared_cannot_be_reinstated_and_leaves_no_success_behind() {
    let fleet = Fleet::new();
    let before = fleet.events.last();
    let reinstated = fleet
        .workloads
        .reinstate(&id("/svc/stranger"), &Caller::default());
    assert!(matches!(
        reinstated,
        Err(WorkloadError::NotRegistered { .. })
    ));
    assert_eq!(fleet.events.last(), before);
}

#[test]
fn declaring_the_same_fleet_again_changes_nothing() {
    let fleet = Fleet::new();
    let before = fleet.workloads.registrations().unwrap();
    assert_eq!(
        fleet.declare(&["orders", "cart"]),
        testudo_workload::Declared::default()
    );
    assert_eq!(fleet.workloads.registrations().unwrap(), before);
}

#[test]
fn only_the_gateway_gets_web_certificates_and_only_for_public_names() {
    let fleet = Fleet::new();
    let gateway = fleet.workloads.trust_domain().gateway();
    let ask = |peer: &SpiffeId, names: &[&str]| {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        fleet
            .workloads
            .issue_web(peer, &request(), &names, &Caller::default())
    };
    let issued = ask(&gateway, &["shop.example", "127.0.0.1"]).unwrap();
    let (from, until) = certificate_times(&issued.chain[0]).unwrap();
    assert_eq!(until.since(from).as_secs() / 3600, 24);
    assert!(
        spiffe_id_of(&issued.chain[0]).is_err(),
        "a web certificate is no identity"
    );
    assert!(matches!(
        ask(&orders(), &["shop.example"]),
        Err(WorkloadError::NotTheGateway { .. })
    ));
    let foreign = ask(&gateway, &["shop.example", "bank.example"]);
    assert!(matches!(foreign, Err(WorkloadError::NameNotAllowed { .. })));
    assert!(matches!(
        ask(&gateway, &[]),
        Err(WorkloadError::NameMalformed { .. })
    ));
}

#[test]
fn the_control_plane_has_an_identity_of_its_own() {
    let fleet = Fleet::new();
    let server = fleet.workloads.trust_domain().server();
    let svid = fleet.workloads.issue_local(&server).unwrap();
    assert_eq!(svid.id(), &server);
    let bundle = fleet.workloads.bundle().unwrap().bundle;
    let now = testudo_model::Clock::now(&*fleet.clock);
    assert_eq!(bundle.verify_svid(svid.chain(), now).unwrap(), server);
    fleet.clock.advance(HOUR);
    let later = testudo_model::Clock::now(&*fleet.clock);
    assert!(bundle.verify_svid(svid.chain(), later).is_err());
    let web = fleet
        .workloads
        .issue_local_web(&["localhost".to_owned()])
        .unwrap();
    assert_eq!(web.chain.len(), 2);
}

#[test]
fn a_request_signed_with_another_key_is_refused() {
    let fleet = Fleet::new();
    let mut forged = SvidKey::generate().csr_der(&orders()).unwrap();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    let first = fleet.renew(&orders()).unwrap();
    let shown = ShownCertificate::read(&first.chain[0]).unwrap();
    let refused = fleet.workloads.renew(&shown, &forged, &Caller::default());
    assert!(matches!(refused, Err(WorkloadError::Certificate(_))));
}
