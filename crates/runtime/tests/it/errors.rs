//! What people are told.

use testudo_runtime::{
    Environment,
    fleet::{self, Problem},
};

use crate::support::{bundle, load};

#[test]
fn everything_that_is_wrong_is_said_at_once_with_line_and_caret() {
    let errors = load(
        r#"
[listen]
gatway = 8443

[gateway]
ip = { deny = ["10.0.0.0/33", "10.1.2.3/8"] }

[services.orders]
upstream = "127.0.0.1:7002"
exposure = "public"

[[services.orders.routes]]
operation = "orders.create"
match = "post /orders"

[[services.orders.routes]]
operation = "orders.list"
match = "GET /orders"
timeout = "10"

[[services.orders.routes]]
operation = "orders.list"
match = "GET /orders/{id}"

[users.alice]
groups = ["custmers"]
password = "hunter2"

[groups]
customers = []
"#,
    )
    .unwrap_err();
    assert!(!errors.to_string().contains("hunter2"));
    insta::assert_snapshot!(errors, @r#"
    error[fleet.unknown_key]: unknown key `gatway`
     --> fleet.toml:4:1
      |
    4 | gatway = 8443
      | ^^^^^^
      = help: did you mean `gateway`?

    error[fleet.invalid_value]: `10.0.0.0/33` is not a network: write an address or a CIDR such as `10.0.0.0/8` or `2001:db8::/32`
     --> fleet.toml:7:16
      |
    7 | ip = { deny = ["10.0.0.0/33", "10.1.2.3/8"] }
      |                ^^^^^^^^^^^^^

    error[fleet.invalid_value]: `10.1.2.3/8` has address bits beyond its prefix: write `10.0.0.0/8` for the network, or `10.1.2.3` for the one address
     --> fleet.toml:7:31
      |
    7 | ip = { deny = ["10.0.0.0/33", "10.1.2.3/8"] }
      |                               ^^^^^^^^^^^^

    error[fleet.invalid_value]: `public` is none of `internal` and `external`
      --> fleet.toml:11:12
       |
    11 | exposure = "public"
       |            ^^^^^^^^

    error[fleet.invalid_value]: `post` is not an HTTP method; methods are upper-case words such as GET, POST, PUT, PATCH or DELETE
      --> fleet.toml:15:9
       |
    15 | match = "post /orders"
       |         ^^^^^^^^^^^^^^

    error[fleet.invalid_value]: `10` is not a duration: write a whole number and a unit of ms, s, m, h or d, such as `30s`
      --> fleet.toml:20:11
       |
    20 | timeout = "10"
       |           ^^^^

    error[fleet.duplicate_operation]: the operation `orders.list` is declared twice
      --> fleet.toml:23:13
       |
    23 | operation = "orders.list"
       |             ^^^^^^^^^^^^^
       = why: the first one is in line 18; policies and events could not tell them apart

    error[fleet.unknown_reference]: there is no group `custmers`
      --> fleet.toml:27:11
       |
    27 | groups = ["custmers"]
       |           ^^^^^^^^^^
       = help: did you mean `customers`?

    error[fleet.secret_in_file]: a secret is given by reference, never in the fleet file
      --> fleet.toml:28:12
       |
    28 | password = …
       |            ^
       = help: write `{ file = "…" }`, `{ env = "…" }` or `{ hash = "$argon2id$…" }`

    9 errors
    "#);
}

#[test]
fn a_syntax_error_names_line_and_column() {
    let errors = load("[services.orders\nupstream = 1\n").unwrap_err();
    insta::assert_snapshot!(errors, @r"
    error[fleet.syntax]: unclosed table, expected `]`
     --> fleet.toml:2:17
      |
    2 | [services.orders
      |                 ^

    1 error
    ");
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fleet.toml");
    let load = || {
        fleet::load(&path, &Environment::empty(), &[])
            .unwrap_err()
            .to_string()
    };
    assert!(
        load()
            .contains("error[fleet.unreadable]: the fleet file cannot be used: it does not exist")
    );
    std::fs::write(&path, [0xff, 0xfe]).unwrap();
    assert!(load().contains("it is not UTF-8 text"));
    std::fs::write(&path, vec![b'\n'; 4 * 1024 * 1024 + 1]).unwrap();
    assert!(load().contains("it is larger than 4194304 bytes"));
}

#[test]
fn rules_can_be_looked_at_without_the_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fleet.toml");
    let text =
        "trust_domain = \"b.example\"\n[services]\n[users.a]\npassword = { file = \"secret\" }\n";
    std::fs::write(&path, text).unwrap();
    let environment = Environment::empty();
    let codes = |problems: &[Problem]| -> Vec<_> { problems.iter().map(|p| p.code).collect() };
    let loaded = fleet::inspect(&path, &environment, &[]).unwrap();
    let refused = fleet::load(&path, &environment, &[]).unwrap_err();
    for problems in [&loaded.warnings, &refused.problems] {
        assert!(codes(problems).contains(&"fleet.secret_unreadable"));
    }
}

#[test]
fn a_missing_secret_or_policy_folder_is_an_error_where_it_is_named() {
    let text = r#"trust_domain = "b.example"
[services]
[policy]
directory = "rules"
[users.a]
password = { file = "secret" }
[users.b]
password = { env = "B_PASSWORD" }
[users.c]
password = { env = "EMPTY" }
[users.d]
password = { hash = "$2b$12$x" }
"#;
    let errors = bundle(text, &[], &[("EMPTY", "")]).load().unwrap_err();
    let lines: Vec<String> = errors
        .problems
        .iter()
        .map(|problem| format!("{} {}: {}", problem.location, problem.code, problem.message))
        .collect();
    insta::assert_snapshot!(lines.join("\n"), @r"
    fleet.toml:4:13 fleet.policy_folder: the policy folder `rules` cannot be used: it does not exist
    fleet.toml:6:1 fleet.secret_unreadable: the secret file `secret` cannot be used: it does not exist
    fleet.toml:8:1 fleet.secret_unreadable: the environment variable `B_PASSWORD` is not set
    fleet.toml:10:1 fleet.secret_unreadable: the secret is empty
    fleet.toml:12:1 fleet.secret_hash: this is not an argon2id hash in PHC form
    ");
}

#[test]
fn a_hundred_problems_are_enough() {
    let text: String = (0..500).map(|n| format!("unknown{n} = 1\n")).collect();
    let errors = load(&format!("{text}[services]\n")).unwrap_err();
    assert_eq!(errors.problems.len(), 100);
    assert!(
        errors
            .to_string()
            .ends_with("100 errors (no more than 100 problems are listed)")
    );
}

/// The codes of the code and the chapters of the page, in both directions.
#[test]
fn every_code_is_explained_in_the_documentation() {
    let page = include_str!("../../../../docs/errors/fleet.md");
    let explained: Vec<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("## "))
        // The admin API's answers to a file with any of the others, and to one after which nobody could apply another.
        .filter(|code| !matches!(*code, "fleet.invalid" | "fleet.lockout"))
        .collect();
    let mut used: Vec<String> = Vec::new();
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src/fleet");
    for entry in std::fs::read_dir(source).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        for rest in text.split("\"fleet.").skip(1) {
            let code = format!("fleet.{}", rest.split('"').next().unwrap());
            if !matches!(code.as_str(), "fleet.toml" | "fleet.example") {
                used.push(code);
            }
        }
    }
    used.sort();
    used.dedup();
    assert_eq!(used, explained);
}
