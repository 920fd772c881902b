//! `testudo token explain`: why a token exists, whether it is still good, and the proof of each step.

use std::fs;

use serde_json::{Value, json};

use crate::{fleet::Folder, shop::Shop};

#[test]
fn a_token_tells_who_logged_in_what_they_allowed_and_how_it_ended_and_proves_it() {
    let shop = Shop::open("");
    let folder = &shop.fleet.folder;
    let token = shop.token("alice");
    let story = explained(folder, &token);
    assert_eq!(
        activities(&story),
        ["login.password", "authorization.grant", "token.issue"]
    );
    assert_eq!(
        (&story["username"], &story["standing"], &story["ended_at"]),
        (&json!("alice"), &json!("good"), &Value::Null)
    );
    let id = story["token"].as_str().unwrap();
    assert_eq!(explained(folder, id), story, "by its id as well");

    let words = folder.run(&["token", "explain", &token, "--proofs", "proofs"]);
    assert!(words.starts_with(&format!("{id}: for alice, given to `")));
    assert!(words.contains("alice logged in with password"), "{words}");
    assert!(words.contains("\ngood until 20"), "{words}");
    let mut files: Vec<String> = fs::read_dir(folder.path().join("proofs"))
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    assert_eq!(
        files,
        [
            "1-login.password.proof",
            "2-authorization.grant.proof",
            "3-token.issue.proof"
        ]
    );
    for file in &files {
        folder.run(&["audit", "verify", "--proof", &format!("proofs/{file}")]);
    }

    let sessions = json_of(folder, &["session", "list", "alice"]);
    let sessions: Vec<Value> = serde_json::from_str(&sessions).unwrap();
    assert_eq!(sessions.len(), 1, "{sessions:?}");
    folder.run(&["session", "revoke", sessions[0]["id"].as_str().unwrap()]);
    let story = explained(folder, &token);
    assert_eq!(story["standing"], "taken back");
    let steps = story["steps"].as_array().unwrap();
    assert_eq!(steps.len(), 4, "{story}");
    assert_eq!(steps[3]["event"]["activity"], "session.end");
    assert_eq!(steps[3]["what"], "taken back by session.end: administrator");
}

#[test]
fn whatever_takes_a_token_back_ends_its_story() {
    let shop = Shop::open("");
    let folder = &shop.fleet.folder;
    for (user, end) in [("alice", "disable"), ("audrey", "delete")] {
        let token = shop.token(user);
        folder.run(&["user", end, user]);
        let story = explained(folder, &token);
        assert_eq!(story["standing"], "taken back", "{story}");
        let last = activities(&story).pop().unwrap().to_owned();
        assert_eq!(last, format!("user.{end}"));
    }
    // A fleet file knows names alone.
    let token = shop.token("larry");
    folder.edit("[users.larry]", "[users.larry]\ndisabled = true");
    folder.run(&["apply", "fleet.toml"]);
    let story = explained(folder, &token);
    assert_eq!(activities(&story).pop(), Some("user.update"), "{story}");
    // An end that was before has nothing to do with a later token.
    folder.run(&["user", "enable", "alice"]);
    std::thread::sleep(std::time::Duration::from_millis(1_100));
    let later = explained(folder, &shop.token("alice"));
    assert_eq!(later["standing"], "good", "{later}");
}

#[test]
fn a_token_that_was_never_issued_has_no_story() {
    let shop = Shop::open("");
    let folder = &shop.fleet.folder;
    for (token, exit) in [("tok_01ARZ3NDEKTSV4RRFFQ69G5FAV", 3), ("a.b.c", 1)] {
        let output = folder.testudo(&["token", "explain", token]);
        assert_eq!(output.status.code(), Some(exit), "{output:?}");
        assert!(output.stdout.is_empty());
    }
}

/// What `token explain` says, as JSON.
pub fn explained(folder: &Folder, token: &str) -> Value {
    serde_json::from_str(&json_of(folder, &["token", "explain", token])).unwrap()
}

/// The activities of the steps, in order.
pub fn activities(story: &Value) -> Vec<&str> {
    let steps = story["steps"].as_array().unwrap();
    steps
        .iter()
        .map(|step| step["event"]["activity"].as_str().unwrap())
        .collect()
}

fn json_of(folder: &Folder, arguments: &[&str]) -> String {
    folder.run(&[arguments, &["--output", "json"]].concat())
}
