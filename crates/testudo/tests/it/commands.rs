//! The command line: what it says, and the exit codes that scripts read.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    process::{Output, Stdio},
};

use serde_json::Value;

use crate::{
    browser::form_request,
    fleet::{Fleet, Folder, Process, repository},
    roles::eventually,
    wire,
};

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_fleet_file_is_checked_shown_and_described_without_a_fleet() {
    let folder = Folder::bookshop();
    assert!(
        folder
            .run(&["check", "fleet.toml"])
            .contains("is valid: 5 services")
    );
    assert!(
        folder
            .run(&["policy", "check", "fleet.toml"])
            .contains("valid")
    );
    let tested = folder.run(&["policy", "test", "fleet.toml"]);
    assert!(tested.contains("a customer orders"), "{tested}");

    // Every value says where it is from, and the environment wins over the file.
    let shown = folder.run(&["config", "show", "fleet.toml", "--origin"]);
    let line = |key: &str| {
        shown
            .lines()
            .find(|line| line.starts_with(key))
            .unwrap_or_else(|| panic!("{key}: {shown}"))
    };
    let file = fs::read_to_string(folder.fleet_file()).unwrap();
    let number = file
        .lines()
        .position(|line| line.starts_with("trust_domain"))
        .unwrap()
        + 1;
    assert!(
        line("trust_domain ").ends_with(&format!("fleet.toml:{number}")),
        "{}",
        line("trust_domain ")
    );
    assert!(line("listen.gateway ").contains("environment TESTUDO__LISTEN__GATEWAY"));
    assert!(line("data.directory ").ends_with("default"));
    assert!(
        !shown.contains("alice-reads-a-lot"),
        "passwords are not shown"
    );

    let schema = fs::read_to_string(repository().join("docs/fleet.schema.json")).unwrap();
    assert!(
        folder.run(&["config", "schema"]) == schema,
        "docs/fleet.schema.json is out of date"
    );
    for (shell, word) in [
        ("bash", "complete"),
        ("zsh", "#compdef testudo"),
        ("fish", "complete -c testudo"),
    ] {
        assert!(
            folder.run(&["completions", shell]).contains(word),
            "{shell}"
        );
    }
    folder.run(&["man", "man"]);
    let page = fs::read_to_string(folder.path().join("man/testudo-audit-verify.1")).unwrap();
    assert!(page.contains("exported"), "{page}");
    assert!(page.contains("TESTUDO_SERVER"), "{page}");
    let page = fs::read_to_string(folder.path().join("man/testudo-sidecar.1")).unwrap();
    assert!(page.contains("TESTUDO_JOIN_TOKEN_FILE"), "{page}");
    let hidden = fs::read_dir(folder.path().join("man"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    assert!(
        hidden
            .into_iter()
            .all(|name| !name.to_string_lossy().contains("run-bound"))
    );

    // A policy test that fails is a failure.
    let tests = folder.path().join("policies/bookshop.test.toml");
    let text = fs::read_to_string(&tests).unwrap();
    fs::write(
        &tests,
        text.replacen("expect = \"allow\"", "expect = \"deny\"", 1),
    )
    .unwrap();
    let failed = folder.testudo(&["policy", "test", "fleet.toml"]);
    assert_eq!(failed.status.code(), Some(6));
    assert!(String::from_utf8_lossy(&failed.stdout).contains("everybody looks at books"));
}

#[test]
fn exit_codes_say_what_happened() {
    let folder = Folder::bookshop();
    let code = |arguments: &[&str]| folder.testudo(arguments).status.code();
    assert_eq!(code(&["--version"]), Some(0));
    assert_eq!(code(&["no-such-command"]), Some(2));
    assert_eq!(code(&["status"]), Some(7), "no fleet was ever started here");
    assert_eq!(code(&["check", "no-such-file.toml"]), Some(6));
    let fleet = folder.up();
    let code = |arguments: &[&str]| fleet.folder.testudo(arguments).status.code();
    assert_eq!(code(&["status"]), Some(0));
    assert_eq!(code(&["user", "show", "nobody"]), Some(3));
    assert_eq!(
        code(&["audit", "show", "dec_01JDA0000000000000000000AA"]),
        Some(3)
    );
    assert_eq!(code(&["token"]), Some(4), "nobody is logged in");
    // Over the network an administrator must be one.
    let server = fleet.ready["server"].as_str().unwrap().to_owned();
    let ca = fleet.ready["ca"].as_str().unwrap().to_owned();
    assert_eq!(
        code(&["--server", &server, "--ca", &ca, "user", "list"]),
        Some(4)
    );
    let Fleet {
        mut process,
        folder,
        ..
    } = fleet;
    assert_eq!(process.stop(), Some(0));
    let code = |arguments: &[&str]| folder.testudo(arguments).status.code();
    assert_eq!(
        code(&[
            "--server",
            &server,
            "--ca",
            &ca,
            "login",
            "--username",
            "alice"
        ]),
        Some(1),
        "no password"
    );
    let password = fs::File::open(folder.path().join("passwords/alice")).unwrap();
    let login = folder
        .command(&["login", "--username", "alice"])
        .stdin(password)
        .output()
        .unwrap();
    assert_eq!(login.status.code(), Some(7), "{}", errors(&login));
}

#[test]
fn a_logout_tells_no_other_server_about_a_login() {
    let fleet = Folder::bookshop().up();
    let password = fs::File::open(fleet.folder.path().join("passwords/alice")).unwrap();
    let login = fleet
        .folder
        .command(&["login", "--username", "alice"])
        .stdin(password)
        .output()
        .unwrap();
    assert!(login.status.success(), "{}", errors(&login));
    // Nobody is there: a refresh token on its way would be seen by its failure.
    let ca = fleet.ready["ca"].as_str().unwrap();
    let elsewhere = ["--server", "https://localhost:1", "--ca", ca, "logout"];
    fleet.folder.run(&elsewhere);
    fleet.folder.run(&["token"]);
    fleet.folder.run(&["logout"]);
    assert_eq!(fleet.folder.testudo(&["token"]).status.code(), Some(4));
}

#[test]
fn a_key_file_that_is_wrong_or_open_to_others_is_refused_with_words() {
    let mut fleet = Folder::bookshop().up();
    assert_eq!(fleet.process.stop(), Some(0));
    let folder = &fleet.folder;
    let key = folder.path().join("data.key");
    let right = fs::read_to_string(&key).unwrap();
    let start = || folder.testudo(&["server", "fleet.toml"]);

    let set_mode = |mode| fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
    set_mode(0o644);
    let said = errors(&start());
    assert!(
        said.contains("can be read by others") && said.contains("chmod 600"),
        "{said}"
    );
    set_mode(0o600);

    fs::write(&key, "0".repeat(64)).unwrap();
    let output = start();
    let said = errors(&output);
    assert!(!output.status.success() && said.contains("key"), "{said}");
    assert!(!said.contains(right.trim()), "no key is printed");
    fs::write(&key, "not a key").unwrap();
    let said = errors(&start());
    assert!(said.contains("64 hexadecimal digits"), "{said}");

    // Lost altogether: a new key would not open the old data, so nothing is made.
    fs::remove_file(&key).unwrap();
    let output = start();
    assert!(!output.status.success(), "{}", errors(&output));

    fs::write(&key, &right).unwrap();
    set_mode(0o600);
    let fleet = fleet.folder.up();
    fleet.folder.run(&["audit", "verify"]);
}

#[test]
fn the_ledger_is_followed_searched_shown_and_proved() {
    let fleet = Folder::bookshop().up();
    let folder = &fleet.folder;
    let bob = fleet.token("bob");
    let mut tail = Process(
        folder
            .command(&["audit", "tail", "outcome=denied", "--output", "json"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let denied = fleet.call("POST", "/orders", Some(&bob), r#"{"book":"1"}"#);
    let decision = denied.json()["decision"].as_str().unwrap().to_owned();

    // It comes by itself, as one line of JSON.
    let lines = BufReader::new(tail.0.stdout.take().unwrap()).lines();
    let mut events = lines.map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
    let seen = events
        .find(|line| line["event"]["decision"]["id"] == decision.as_str())
        .unwrap();
    assert_eq!(seen["event"]["outcome"], "denied");
    drop(tail);

    let found = folder.run(&["audit", "search", "service=orders", "outcome=denied"]);
    assert!(found.contains(&decision), "{found}");
    let none = folder.run(&[
        "audit",
        "search",
        "service=orders",
        "outcome=denied",
        "actor=usr_nobody",
    ]);
    assert_eq!(none, "");
    let wrong = folder.testudo(&["audit", "search", "colour=blue"]);
    assert!(
        errors(&wrong).contains("is not a key"),
        "{}",
        errors(&wrong)
    );

    let shown: Value =
        serde_json::from_str(&folder.run(&["audit", "show", &decision, "--output", "json"]))
            .unwrap();
    assert_eq!(shown["event"]["decision"]["operation"], "orders.create");
    let index = shown["index"].to_string();
    let event = shown["event"]["id"].as_str().unwrap();
    assert!(folder.run(&["audit", "show", &index]).contains(event));

    // A proof in a file convinces whoever has the key, and nobody after one byte changed.
    let key = folder.run(&["audit", "key"]).trim().to_owned();
    folder.run(&["audit", "prove", event, "--to", "proof"]);
    let verify = |arguments: &[&str]| {
        folder.testudo(&[&["audit", "verify", "--proof", "proof"], arguments].concat())
    };
    let verified = verify(&["--key", &key]);
    assert!(verified.status.success(), "{}", errors(&verified));
    assert!(String::from_utf8_lossy(&verified.stdout).contains(&decision));
    let proof = fs::read(folder.path().join("proof")).unwrap();
    for place in (0..proof.len()).step_by(proof.len() / 12) {
        let mut flipped = proof.clone();
        flipped[place] ^= 1;
        if flipped[place].is_ascii_whitespace() || proof[place].is_ascii_whitespace() {
            continue;
        }
        fs::write(folder.path().join("proof"), &flipped).unwrap();
        let output = verify(&["--key", &key]);
        assert_ne!(
            output.status.code(),
            Some(0),
            "byte {place} of the proof does not matter"
        );
    }
    fs::write(folder.path().join("proof"), &proof).unwrap();
    let other = Folder::bookshop().up();
    let foreign = other.folder.run(&["audit", "key"]);
    assert_eq!(verify(&["--key", foreign.trim()]).status.code(), Some(6));

    let checkpoint = folder.run(&["audit", "checkpoint"]);
    assert!(checkpoint.lines().count() >= 4, "{checkpoint}");
    eventually("the ledger verifies in place", || {
        folder.testudo(&["audit", "verify"]).status.success()
    });
}

#[test]
fn a_client_secret_is_rotated_and_the_one_before_ends_when_it_is_said_to() {
    let fleet = Folder::bookshop().up();
    let rotate = |overlap: &str| {
        let arguments = ["client", "rotate-secret", "ci", "--overlap", overlap];
        fleet.folder.run(&arguments).trim().to_owned()
    };
    let status_with = |secret: &str| {
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", "ci"),
            ("client_secret", secret),
        ];
        let request = form_request("/oauth2/token", &form, "");
        let mut stream =
            wire::connect_tls(fleet.folder.address("SERVER"), "localhost", &fleet.tls()).unwrap();
        let answer = wire::exchange(&mut stream, request.as_bytes())
            .unwrap()
            .unwrap();
        answer.status
    };
    let first = rotate("1h");
    assert_eq!(status_with(&first), 200);
    let second = rotate("1h");
    assert_ne!(first, second);
    assert_eq!((status_with(&first), status_with(&second)), (200, 200));
    let third = rotate("0s");
    assert_eq!((status_with(&first), status_with(&second)), (401, 401));
    assert_eq!(status_with(&third), 200);

    let unknown = fleet.folder.testudo(&["client", "rotate-secret", "nobody"]);
    assert_eq!(unknown.status.code(), Some(3), "{}", errors(&unknown));
    let search = ["audit", "search", "activity=client_secret.rotate"];
    eventually("the ledger holds the rotations", || {
        fleet.folder.run(&search).lines().count() == 3
    });
    let whole = [&search[..], &["--output", "json"]].concat();
    let whole = fleet.folder.run(&whole);
    for secret in [first, second, third] {
        assert!(!whole.contains(&secret), "{whole}");
    }
}

#[test]
fn a_login_elsewhere_remembers_the_server_and_its_ca() {
    let fleet = Folder::bookshop().up();
    let server = fleet.ready["server"].as_str().unwrap();
    let home = fleet.folder.path().join("elsewhere");
    let ca = fleet.folder.path().join("downloaded.pem");
    fs::copy(
        fleet
            .folder
            .path()
            .join(fleet.ready["ca"].as_str().unwrap()),
        &ca,
    )
    .unwrap();
    let run = |arguments: &[&str]| {
        let password = fs::File::open(fleet.folder.path().join("passwords/alice")).unwrap();
        fleet
            .folder
            .command(arguments)
            .env("TESTUDO_HOME", &home)
            .stdin(password)
            .output()
            .unwrap()
    };
    let unknown = run(&["login", "--username", "alice", "--server", server]);
    assert_eq!(unknown.status.code(), Some(7), "{}", errors(&unknown));
    assert!(errors(&unknown).contains("--ca"), "{}", errors(&unknown));

    let ca_text = ca.to_str().unwrap();
    let named = ["--username", "alice", "--server", server, "--ca", ca_text];
    let login = run(&[&["login"], &named[..]].concat());
    assert!(login.status.success(), "{}", errors(&login));
    fs::remove_file(&ca).unwrap();
    let token = run(&["token"]);
    assert!(token.status.success(), "{}", errors(&token));
    // It gets there; that Alice is no administrator is another matter.
    for arguments in [&["user", "list"][..], &["user", "list", "--server", server]] {
        let denied = run(arguments);
        assert_eq!(denied.status.code(), Some(4), "{}", errors(&denied));
    }
    let logout = run(&["logout"]);
    assert!(logout.status.success(), "{}", errors(&logout));
    assert_eq!(run(&["token"]).status.code(), Some(7));
}

#[test]
fn every_list_is_an_array_of_objects_for_programs() {
    let fleet = Folder::bookshop().up();
    fleet.token("alice");
    fleet
        .folder
        .run(&["join-token", "create", "--service", "orders"]);
    let json = |arguments: &[&str]| -> Value {
        let arguments = [arguments, &["--output", "json"]].concat();
        serde_json::from_str(&fleet.folder.run(&arguments)).unwrap()
    };
    for list in [
        &["user", "list"][..],
        &["session", "list", "alice"],
        &["proxy", "list"],
        &["join-token", "list"],
        &["config", "show", "fleet.toml"],
    ] {
        let listed = json(list);
        let items = listed
            .as_array()
            .unwrap_or_else(|| panic!("{list:?}: {listed}"));
        assert!(!items.is_empty(), "{list:?}");
        for name in items
            .iter()
            .flat_map(|item| item.as_object().unwrap().keys())
        {
            let is_snake = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
            assert!(name.bytes().all(is_snake), "{list:?}: {name}");
        }
    }
    // A page that is not the last one says so to people, beside the data.
    let page = fleet
        .folder
        .testudo(&["user", "list", "--limit", "1", "--output", "json"]);
    let users: Value = serde_json::from_slice(&page.stdout).unwrap();
    assert_eq!(users.as_array().unwrap().len(), 1);
    let (_, cursor) = errors(&page)
        .split_once("--after ")
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .unwrap();
    let next = json(&["user", "list", "--limit", "1", "--after", cursor.trim()]);
    assert_ne!(next[0]["username"], users[0]["username"]);
    // A change answers what it changed.
    assert_eq!(json(&["user", "disable", "bob"])["disabled"], true);
    let problems = json(&["policy", "check", "fleet.toml"]);
    assert_eq!(problems["problems"], Value::Array(Vec::new()));
}
