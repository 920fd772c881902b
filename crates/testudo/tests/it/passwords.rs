//! Passwords that nobody may choose, as administrators meet them.

use std::{fs, io::Write, process::Stdio};

use testudo_trust::{hex, sha1_checksum};

use crate::{fleet::Folder, shop::Shop};

const STOLEN: &str = "a quiet lamp under seven rivers";

/// Makes a user with `password`; what went wrong.
fn create(folder: &Folder, password: &str) -> Result<(), String> {
    let mut child = folder
        .command(&["user", "create", "marigold"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(password.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8(output.stderr).unwrap()),
    }
}

/// Applies the fleet file with these rules at its end; what was wrong with it.
fn apply(folder: &Folder, text: &str, rules: &str) -> Result<(), String> {
    let text = format!("{text}\n[passwords]\n{rules}\n");
    fs::write(folder.fleet_file(), text).unwrap();
    let output = folder.testudo(&["apply", "fleet.toml"]);
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8(output.stderr).unwrap()),
    }
}

#[test]
fn an_administrator_is_told_in_words_why_a_password_is_refused() {
    let shop = Shop::open("");
    let folder = &shop.fleet.folder;
    let text = fs::read_to_string(folder.fleet_file()).unwrap();
    let why = create(folder, "marigold-marigold-marigold").unwrap_err();
    assert!(why.contains("too easy to guess"), "{why}");
    let why = create(folder, "short").unwrap_err();
    assert!(why.contains("15 characters"), "{why}");

    let list = folder.path().join("pwned.txt");
    let hash = |password: &str| hex::encode(&sha1_checksum(password.as_bytes())).to_uppercase();
    let mut lines: Vec<String> = (0..500)
        .map(|number| format!("{}:7\n", hash(&number.to_string())))
        .collect();
    lines.push(format!("{}:1\n", hash(STOLEN)));
    fs::write(&list, lines.concat()).unwrap();
    let rules = format!("breached_file = \"{}\"", list.display());
    for (rules, expected) in [
        (&*rules, "not sorted"),
        ("breached_file = \"pwned.txt\"", "not an absolute path"),
        ("min_score = 5", "it goes from 0 to 4"),
    ] {
        let why = apply(folder, &text, rules).unwrap_err();
        assert!(why.contains(expected), "{why}");
    }
    lines.sort();
    fs::write(&list, lines.concat()).unwrap();
    apply(folder, &text, &rules).unwrap();
    let why = create(folder, STOLEN).unwrap_err();
    assert!(why.contains("stolen elsewhere"), "{why}");
    create(folder, "eleven sober owls count teaspoons").unwrap();
}
