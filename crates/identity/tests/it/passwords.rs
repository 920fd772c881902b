//! Which passwords may be chosen.

use std::{fs, sync::Arc};

use serde_json::json;
use testudo_identity::{
    AdminError, BreachedPasswords, Fault, NewPassword, PasswordRules, ResetError, ScimMethod, Seed,
    SeedError, SeedUser, UserProfile,
};
use testudo_model::Redacted;
use testudo_trust::{hash_password, hex, sha1_checksum};

use crate::{
    house::{House, PASSWORD},
    mail::{code, house, letter},
};

/// Hard to guess, but for who has the list.
const STOLEN: &str = "a quiet lamp under seven rivers";

fn set(house: &House, password: &str) -> Result<(), AdminError> {
    let password = NewPassword::Given(Redacted::new(password.to_owned()));
    house
        .provider
        .set_password(&house.alice, &password, &house.caller)
        .map(|_| ())
}

fn why(result: Result<(), AdminError>) -> String {
    match result {
        Err(AdminError::Invalid {
            field: "password",
            why,
        }) => why,
        other => panic!("{other:?}"),
    }
}

/// A list with [`STOLEN`] and others in `folder`.
fn list(folder: &tempfile::TempDir) -> std::path::PathBuf {
    let hash = |text: &str| hex::encode(&sha1_checksum(text.as_bytes())).to_uppercase();
    let mut lines: Vec<String> = (0..1_000)
        .map(|number| format!("{}:{number}\r\n", hash(&number.to_string())))
        .collect();
    lines.push(format!("{}:1\r\n", hash(STOLEN)));
    lines.sort();
    let path = folder.path().join("pwned.txt");
    fs::write(&path, lines.concat()).unwrap();
    path
}

fn demand(house: &House, path: &std::path::Path) {
    house.provider.demand_of_passwords(PasswordRules {
        breached: Some(Arc::new(BreachedPasswords::open(path).unwrap())),
        ..PasswordRules::default()
    });
}

#[test]
fn what_is_easy_to_guess_is_refused_in_words() {
    let house = House::new();
    for bad in [
        "passwordpassword",
        "aaaaaaaaaaaaaaaaaaaaaaaa",
        "123456789012345678",
        "qwertyuiopasdfghjkl",
        "password12345678",
        "iloveyouiloveyou1",
        "abcdefghijklmnopqrstuvwxyz",
    ] {
        let why = why(set(&house, bad));
        assert!(why.starts_with("is too easy to guess"), "{bad}: {why}");
        assert!(!why.contains(bad), "{why}");
    }
    assert!(why(set(&house, "hX8!qLw2#")).contains("15 characters"));
    for good in [
        "correct horse battery staple",
        "alice-reads-a-lot-of-odd-books",
        "Vierzehn Pinguine tanzen",
        "七只沉默的企鹅在月光下慢慢地跳着古老的舞",
    ] {
        set(&house, good).unwrap_or_else(|error| panic!("{good}: {error}"));
    }
}

#[test]
fn what_is_known_about_somebody_is_easy_to_guess() {
    let house = House::new();
    // Without it this is good enough.
    let own = "marigoldfeatherstonehaugh";
    set(&house, own).unwrap();
    let version = house.provider.user(&house.alice).unwrap().version;
    let profile = UserProfile {
        display_name: Some("Marigold Featherstonehaugh".to_owned()),
        email: Some("marigold@featherstonehaugh.example".to_owned()),
        ..UserProfile::default()
    };
    house
        .provider
        .update_user(&house.alice, version, profile, &house.caller)
        .unwrap();
    why(set(&house, own));
    why(set(&house, "id.bookshop.example1"));
}

#[test]
fn how_hard_it_must_be_is_the_fleet_s_to_say() {
    let house = House::new();
    let weak = "passwordpassword";
    why(set(&house, weak));
    house.provider.demand_of_passwords(PasswordRules {
        min_score: 0,
        breached: None,
    });
    set(&house, weak).unwrap();
}

#[test]
fn a_stolen_password_is_refused_wherever_one_is_set() {
    let folder = tempfile::tempdir().unwrap();
    let house = house();
    let path = list(&folder);
    house
        .provider
        .vouch_for_address(&house.alice, &house.caller)
        .unwrap();
    set(&house, STOLEN).unwrap();
    letter(&house);
    demand(&house, &path);
    assert!(
        house.try_login("alice", STOLEN).is_ok(),
        "what is there stays"
    );

    assert!(why(set(&house, STOLEN)).contains("stolen"));
    let given = NewPassword::Given(STOLEN.to_owned().into());
    let bob = "bob".parse().unwrap();
    let made =
        house
            .provider
            .create_user(&bob, UserProfile::default(), Some(&given), &house.caller);
    assert!(why(made.map(|_| ())).contains("stolen"));
    let seed = Seed {
        users: vec![SeedUser {
            username: bob.clone(),
            profile: UserProfile::default(),
            disabled: false,
            password: given,
            totp: None,
        }],
        ..Seed::default()
    };
    let seeded = house.provider.seed(&seed, &house.caller);
    assert!(
        matches!(seeded, Err(SeedError::Refused { .. })),
        "{seeded:?}"
    );
    let user = json!({
        "schemas": ["urn:ietf:params:scim:schemas:core:2.0:User"], "userName": "bob", "password": STOLEN,
    });
    let (status, kind) = crate::scim::refused(&house, ScimMethod::Post, "/Users", user);
    assert_eq!((status, &*kind), (400, "invalidValue"));
    house
        .provider
        .forget_password("alice", &house.caller)
        .unwrap();
    let code = code(&letter(&house));
    let reset = |password: &str| {
        let password = Redacted::new(password.to_owned());
        house
            .provider
            .reset_password(&code, &password, &house.caller)
    };
    let refused = reset(STOLEN);
    assert!(
        matches!(refused, Err(ResetError::Password(_))),
        "{refused:?}"
    );
    reset(PASSWORD).unwrap();

    // Of a hash nobody knows what it is of.
    let hash = hash_password(&STOLEN.to_owned().into(), &testudo_trust::SystemEntropy);
    let hash = NewPassword::Hash(hash.into());
    house
        .provider
        .create_user(&bob, UserProfile::default(), Some(&hash), &house.caller)
        .unwrap();
}

#[test]
fn a_list_that_cannot_be_read_any_more_allows_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new();
    let path = list(&folder);
    demand(&house, &path);
    set(&house, PASSWORD).unwrap();
    // A new list takes the old one's place: it counts once the fleet is applied.
    fs::rename(&path, folder.path().join("old.txt")).unwrap();
    set(&house, PASSWORD).unwrap();
    let cut = fs::OpenOptions::new()
        .write(true)
        .open(folder.path().join("old.txt"))
        .unwrap();
    cut.set_len(100).unwrap();
    let refused = set(&house, PASSWORD);
    assert!(
        matches!(
            refused,
            Err(AdminError::Unavailable(Fault::BreachedList(_)))
        ),
        "{refused:?}"
    );
}
