//! `testudo import keycloak` with an export of a real Keycloak: people log in with what they had there.

use std::{fs, process::Command};

use serde_json::{Value, json};
use testudo_trust::hex;

use crate::{
    browser::{Browser, authorize_path, flow_of},
    fleet::{Folder, repository},
    installed::left_out,
    shop::Shop,
};

const EXPORT: &str = "crates/identity/src/import/realm.json";

fn import(folder: &Folder, more: &[&str]) -> Value {
    let export = repository().join(EXPORT);
    let arguments = [
        "import",
        "keycloak",
        export.to_str().unwrap(),
        "--output",
        "json",
    ];
    serde_json::from_str(&folder.run(&[&arguments[..], more].concat())).unwrap()
}

/// Sends the login form with this name and password; the status of the answer.
fn log_in(browser: &mut Browser<'_>, username: &str, password: &str) -> u16 {
    let page = browser.get(&authorize_path(&[]));
    let form = [
        ("flow", &*flow_of(&page)),
        ("username", username),
        ("password", password),
    ];
    browser.post("/login", &form).status
}

#[test]
fn people_move_in_with_their_passwords_and_a_second_time_changes_nothing() {
    let shop = Shop::open("");
    let folder = &shop.fleet.folder;
    let rehearsed = import(folder, &["--dry-run"]);
    let anna = "anna@acme.example";
    let password = "correct horse battery";
    assert_eq!(log_in(&mut Browser::new(&shop), anna, password), 401);

    let report = import(folder, &[]);
    assert_eq!(report["created"], rehearsed["created"]);
    assert_eq!(report["left_out"].as_array().unwrap().len(), 10);
    assert_eq!(report["generated"], json!([]));
    let again = import(folder, &[]);
    assert_eq!(
        (&again["created"], &again["present"]),
        (&json!([]), &report["created"])
    );

    let user: Value =
        serde_json::from_str(&folder.run(&["user", "show", anna, "--output", "json"])).unwrap();
    assert_eq!(user["roles"], json!(["admin", "shop:refunds", "staff"]));
    // The first time verifies the hash of there, the second one the hash that was made of it.
    for _ in 0..2 {
        assert_eq!(log_in(&mut Browser::new(&shop), anna, "wrong horse"), 401);
        assert_eq!(log_in(&mut Browser::new(&shop), anna, password), 303);
    }
    assert_eq!(
        log_in(&mut Browser::new(&shop), "bert", "wrong mule capacitor"),
        303
    );
    assert_eq!(
        log_in(&mut Browser::new(&shop), "carla", "silent owl terminal"),
        401,
        "she was disabled there"
    );
    let words = folder.run(&[
        "import",
        "keycloak",
        repository().join(EXPORT).to_str().unwrap(),
    ]);
    assert!(
        words.starts_with("acme: 0 roles, 0 groups, 0 users, 0 clients made\n"),
        "{words}"
    );
    assert!(words.contains("\nleft out: user `dora doe`: "), "{words}");
    fs::write(folder.path().join("other.json"), "{}").unwrap();
    let refused = folder.testudo(&["import", "keycloak", "other.json"]);
    assert_eq!(refused.status.code(), Some(1));
}

#[test]
fn an_authenticator_moves_in_with_its_user() {
    if left_out() {
        return;
    }
    let shop = Shop::open("");
    import(&shop.fleet.folder, &[]);
    let mut browser = Browser::new(&shop);
    let page = browser.get(&authorize_path(&[]));
    let form = [
        ("flow", &*flow_of(&page)),
        ("username", "emil"),
        ("password", "correct horse battery"),
    ];
    let page = browser.post("/login", &form);
    assert_eq!(page.status, 200, "half a login: {page:?}");
    let output = Command::new("oathtool")
        .args(["--totp", &hex::encode(b"Zk3hX9pQ2rT7vB5nM8wL")])
        .output()
        .unwrap();
    let code = String::from_utf8(output.stdout).unwrap();
    let form = [("flow", &*flow_of(&page)), ("code", code.trim())];
    assert_eq!(browser.post("/login/code", &form).status, 303);
}
