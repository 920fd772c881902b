//! The example in the repository.

use std::path::{Path, PathBuf};

use testudo_model::{ActionClass, Exposure, UserRequirement};
use testudo_runtime::{
    Environment,
    fleet::{self, Origin, SeedAuthentication, SeedCredential, TlsMinimum},
};

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/bookshop/fleet.toml")
}

#[test]
fn the_bookshop_loads_without_a_problem() {
    let loaded = fleet::load(&path(), &Environment::empty(), &[])
        .unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(loaded.warnings, []);
    let fleet = loaded.fleet;
    let names: Vec<_> = fleet
        .services
        .iter()
        .map(|service| service.name.as_str())
        .collect();
    assert_eq!(
        names,
        ["catalog", "inventory", "orders", "pricing", "ticker"]
    );
    assert_eq!(
        fleet.services[0].spiffe_id.as_str(),
        "spiffe://bookshop.example/svc/catalog"
    );
    assert_eq!(fleet.services[1].exposure, Exposure::Internal);
    assert_eq!(fleet.tls_min, TlsMinimum::Tls13);

    let create = fleet.services[2]
        .routes
        .iter()
        .find(|route| route.operation.as_str() == "orders.create")
        .unwrap();
    assert_eq!(
        (create.action, create.user),
        (ActionClass::Write, UserRequirement::Required)
    );
    assert_eq!(
        (create.max_body_bytes, create.timeout_millis),
        (16 * 1024, 10_000)
    );
    let list = &fleet.services[0].routes[0].limits[0];
    assert_eq!(
        (list.requests, list.period_millis, list.burst),
        (5, 1000, 10)
    );

    assert_eq!(fleet.policies.len(), 2);
    assert_eq!(fleet.policy_tests.len(), 1);
    assert!(
        matches!(&fleet.users[0].password, SeedCredential::Secret(secret) if secret.expose() == "alice-reads-a-lot")
    );
    let ci = &fleet.service_accounts[0].authentication;
    assert!(matches!(
        ci,
        Some(SeedAuthentication::Secret(SeedCredential::Generated))
    ));
}

#[test]
fn sidecars_get_ports_in_the_order_of_the_file() {
    let loaded = fleet::load(&path(), &Environment::empty(), &[]).unwrap();
    let ports = |name: &str| {
        let sidecar = &loaded.fleet.sidecars[&name.parse().unwrap()];
        (sidecar.inbound.to_string(), sidecar.outbound.to_string())
    };
    assert_eq!(
        ports("catalog"),
        ("127.0.0.1:15106".to_owned(), "127.0.0.1:15006".to_owned())
    );
    assert_eq!(
        ports("orders"),
        ("127.0.0.1:15107".to_owned(), "127.0.0.1:15007".to_owned())
    );
    assert_eq!(
        ports("inventory"),
        ("127.0.0.1:15108".to_owned(), "127.0.0.1:15008".to_owned())
    );
}

#[test]
fn a_bundle_loads_the_same_fleet_without_the_folder() {
    let here = fleet::load(&path(), &Environment::empty(), &[]).unwrap();
    let sent = serde_json::to_string(&here.bundle).unwrap();
    let bundle: fleet::Bundle = serde_json::from_str(&sent).unwrap();
    let there = bundle.load().unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(there.fleet.services, here.fleet.services);
    assert_eq!(there.fleet.policies, here.fleet.policies);
    assert_eq!(there.origins, here.origins);
    assert!(
        matches!(&there.fleet.users[1].password, SeedCredential::Secret(secret) if secret.expose() == "bob-looks-after-things")
    );
    assert!(
        !format!("{here:?}").contains("alice-reads-a-lot"),
        "a password shows in debug output"
    );
}

#[test]
fn the_lines_of_the_file_are_the_origins_of_its_settings() {
    let loaded = fleet::load(&path(), &Environment::empty(), &[]).unwrap();
    let domain = loaded.origins.get("trust_domain").unwrap();
    let Origin::File { line, .. } = &domain.origin else {
        panic!("{domain:?}")
    };
    let text = std::fs::read_to_string(path()).unwrap();
    assert_eq!(
        text.lines().nth(line - 1),
        Some("trust_domain = \"bookshop.example\"")
    );
    assert_eq!(
        loaded.origins.get("listen.gateway").unwrap().origin,
        Origin::Default
    );
}
