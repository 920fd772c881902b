//! Seeding from a fleet file.

use std::collections::BTreeMap;

use testudo_identity::{
    NewPassword, NewSecret, Seed, SeedClient, SeedError, SeedServiceAccount, SeedUser,
    ServiceAccountProfile, UserProfile,
};
use testudo_model::{Redacted, event::Outcome};

use crate::house::{House, PASSWORD, native_profile, web_profile};

fn seed() -> Seed {
    Seed {
        roles: vec!["clerk".parse().unwrap()],
        groups: BTreeMap::from([
            ("staff".parse().unwrap(), vec!["everybody".parse().unwrap()]),
            ("everybody".parse().unwrap(), vec![]),
        ]),
        users: vec![
            SeedUser {
                username: "bob".parse().unwrap(),
                profile: UserProfile {
                    groups: vec!["staff".parse().unwrap()],
                    roles: vec!["clerk".parse().unwrap()],
                    ..UserProfile::default()
                },
                disabled: false,
                password: NewPassword::Given(Redacted::new(PASSWORD.to_owned())),
                totp: None,
            },
            SeedUser {
                username: "carol".parse().unwrap(),
                profile: UserProfile::default(),
                disabled: false,
                password: NewPassword::Generate,
                totp: None,
            },
        ],
        service_accounts: vec![SeedServiceAccount {
            name: "nightly".parse().unwrap(),
            profile: ServiceAccountProfile::default(),
            disabled: false,
            secret: NewSecret::Generate,
        }],
        clients: vec![
            SeedClient {
                client_id: "app".parse().unwrap(),
                profile: native_profile(),
                secret: NewSecret::None,
            },
            SeedClient {
                client_id: "portal".parse().unwrap(),
                profile: web_profile(),
                secret: NewSecret::Generate,
            },
        ],
        registration: None,
    }
}

#[test]
fn a_seed_makes_what_is_missing_and_tells_generated_secrets_once() {
    let house = House::new();
    let report = house.provider.seed(&seed(), &house.caller).unwrap();
    assert_eq!(
        report.created,
        [
            "role clerk",
            "group everybody",
            "group staff",
            "user bob",
            "user carol",
            "service account nightly",
            "client app",
            "client portal"
        ]
    );
    let generated: Vec<_> = report
        .generated
        .iter()
        .map(|made| (made.kind, made.name.as_str()))
        .collect();
    assert_eq!(
        generated,
        [
            ("user", "carol"),
            ("service account", "nightly"),
            ("client", "portal")
        ]
    );
    assert!(house.try_login("bob", PASSWORD).is_ok());
    assert!(
        house
            .try_login("carol", report.generated[0].secret.expose())
            .is_ok()
    );
    assert!(!format!("{report:?}").contains(report.generated[0].secret.expose()));
}

#[test]
fn seeding_again_changes_nothing_and_writes_nothing() {
    let house = House::new();
    house.provider.seed(&seed(), &house.caller).unwrap();
    let before = house.store.changes_since(0, 10_000).unwrap().len();
    let report = house.provider.seed(&seed(), &house.caller).unwrap();
    assert!(report.created.is_empty() && report.updated.is_empty() && report.generated.is_empty());
    assert_eq!(house.store.changes_since(0, 10_000).unwrap().len(), before);
}

#[test]
fn a_changed_seed_changes_what_it_says_and_leaves_passwords_alone() {
    let house = House::new();
    house.provider.seed(&seed(), &house.caller).unwrap();
    let mut changed = seed();
    changed.users[0].profile.clearance = 70;
    changed.users[0].password = NewPassword::Generate;
    changed.clients[0].profile.scopes.clear();
    let report = house.provider.seed(&changed, &house.caller).unwrap();
    assert_eq!(report.updated, ["user bob", "client app"]);
    assert!(report.generated.is_empty());
    assert!(house.try_login("bob", PASSWORD).is_ok());
    let bob = house
        .provider
        .user_by_name(&"bob".parse().unwrap())
        .unwrap();
    assert_eq!(bob.record.clearance, 70);
    assert_eq!(house.events_named("user.update", Outcome::Success).len(), 1);
}

#[test]
fn a_file_can_disable_but_never_enable() {
    let house = House::new();
    house.provider.seed(&seed(), &house.caller).unwrap();
    let bob = house
        .provider
        .user_by_name(&"bob".parse().unwrap())
        .unwrap()
        .record
        .id;
    let mut disabling = seed();
    disabling.users[0].disabled = true;
    house.provider.seed(&disabling, &house.caller).unwrap();
    assert!(house.try_login("bob", PASSWORD).is_err());
    house.provider.seed(&seed(), &house.caller).unwrap();
    assert!(house.provider.user(&bob).unwrap().record.disabled);
}

type Mistake = Box<dyn Fn(&mut Seed)>;

#[test]
fn a_seed_with_one_mistake_changes_nothing() {
    let house = House::new();
    let mistakes: Vec<(&str, Mistake)> = vec![
        (
            "unknown group",
            Box::new(|seed| seed.users[0].profile.groups = vec!["no".parse().unwrap()]),
        ),
        (
            "unknown role",
            Box::new(|seed| seed.users[0].profile.roles = vec!["no".parse().unwrap()]),
        ),
        (
            "cycle",
            Box::new(|seed| {
                seed.groups
                    .insert("everybody".parse().unwrap(), vec!["staff".parse().unwrap()]);
            }),
        ),
        (
            "clearance",
            Box::new(|seed| seed.users[1].profile.clearance = 1000),
        ),
        (
            "short password",
            Box::new(|seed| seed.users[0].password = NewPassword::Given("short".to_owned().into())),
        ),
        (
            "no proof",
            Box::new(|seed| seed.clients[1].secret = NewSecret::None),
        ),
        (
            "name of a client",
            Box::new(|seed| seed.service_accounts[0].name = "web".parse().unwrap()),
        ),
        (
            "name of an account",
            Box::new(|seed| seed.clients[0].client_id = "restock".parse().unwrap()),
        ),
    ];
    let before = house.store.changes_since(0, 10_000).unwrap().len();
    for (what, make) in mistakes {
        let mut broken = seed();
        make(&mut broken);
        let error = house.provider.seed(&broken, &house.caller).unwrap_err();
        assert!(
            matches!(error, SeedError::Refused { .. }),
            "{what}: {error:?}"
        );
        assert_eq!(
            house.store.changes_since(0, 10_000).unwrap().len(),
            before,
            "{what}"
        );
    }
}
