//! The README's promise: the example fleet, as a newcomer meets it.

use std::fs;

use crate::fleet::Folder;

#[test]
fn the_bookshop_answers_whom_it_should_and_nobody_else() {
    let fleet = Folder::bookshop().up();
    let alice = fleet.token("alice");
    let bob = fleet.token("bob");
    let order = r#"{"book":"1"}"#;

    // Anybody may look at the books.
    assert_eq!(fleet.call("GET", "/books/1", None, "").status, 200);

    // An order needs a user, the right one, and goes through orders' sidecar to inventory's.
    assert_eq!(
        fleet.call("POST", "/orders", Some(&alice), order).status,
        201
    );
    let without_token = fleet.call("POST", "/orders", None, order);
    assert_eq!(without_token.status, 401);
    assert!(without_token.header("www-authenticate").is_some());
    let wrong_user = fleet.call("POST", "/orders", Some(&bob), order);
    assert_eq!(wrong_user.status, 403);
    assert_eq!(
        wrong_user.header("content-type"),
        Some("application/problem+json")
    );

    // The right user through the wrong service: the catalogue may not reserve, whoever asks it to.
    let wrong_service = fleet.call("POST", "/books/1/reserve", Some(&alice), "");
    assert_eq!(wrong_service.status, 403, "{}", wrong_service.body);
    assert_eq!(
        fleet.call("GET", "/books/1/stock", Some(&alice), "").status,
        200
    );

    // The decision explains itself.
    let decision = wrong_user.json()["decision"].as_str().unwrap().to_owned();
    let explained = fleet.folder.run(&["policy", "explain", &decision]);
    assert!(explained.contains("denied"), "{explained}");
    assert!(explained.contains("orders.create"), "{explained}");
}

#[test]
fn the_limit_of_a_route_answers_429_and_says_when_to_come_back() {
    let fleet = Folder::bookshop().up();
    let answers: Vec<_> = (0..30)
        .map(|_| fleet.call("GET", "/books", None, ""))
        .collect();
    assert_eq!(answers[0].status, 200);
    let refused = answers
        .iter()
        .find(|answer| answer.status == 429)
        .expect("a refused call");
    let seconds: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&seconds));
    assert!(refused.header("ratelimit").is_some(), "{}", refused.head);
    assert!(
        refused.header("ratelimit-policy").is_some(),
        "{}",
        refused.head
    );
}

#[test]
fn the_ledger_verifies_and_one_flipped_byte_does_not() {
    let fleet = Folder::bookshop().up();
    let alice = fleet.token("alice");
    let answer = fleet.call("GET", "/orders", Some(&alice), "");
    assert_eq!(answer.status, 200);
    fleet.folder.run(&["audit", "verify"]);
    let export = fleet.folder.path().join("export");
    let export_text = export.to_str().unwrap();
    let key = fleet.folder.run(&["audit", "key"]);
    fleet.folder.run(&["audit", "export", export_text]);
    let verify = [
        "audit",
        "verify",
        "--export",
        export_text,
        "--key",
        key.trim(),
    ];
    fleet.folder.run(&verify);

    let entries = largest_file(&export);
    let mut bytes = fs::read(&entries).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&entries, bytes).unwrap();
    let output = fleet.folder.testudo(&verify);
    assert_eq!(
        output.status.code(),
        Some(6),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn ctrl_c_stops_cleanly_and_a_second_start_knows_everything() {
    let mut fleet = Folder::bookshop().up();
    let alice = fleet.token("alice");
    assert_eq!(
        fleet
            .call("POST", "/orders", Some(&alice), r#"{"book":"1"}"#)
            .status,
        201
    );
    fleet.process.signal("-INT");
    assert_eq!(fleet.process.stop(), Some(0));

    let again = fleet.folder.up();
    // The token of before the restart still holds: keys and sessions are in the store.
    assert_eq!(again.call("GET", "/orders", Some(&alice), "").status, 200);
    let events = again
        .folder
        .run(&["audit", "search", "service=orders", "outcome=success"]);
    assert!(events.contains("orders.create"), "{events}");
    again.folder.run(&["audit", "verify"]);
}

fn largest_file(folder: &std::path::Path) -> std::path::PathBuf {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else {
                files.push((entry.metadata().unwrap().len(), entry.path()));
            }
        }
    }
    files.into_iter().max().unwrap().1
}
