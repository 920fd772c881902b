//! The pages that list what the code says, against the code: events and error codes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use crate::sources::{dotted_literals, first_cells, product, read, root};

/// Literals that look like an activity or an error code and are neither: files, scopes, a collection without a record type,
/// an example in a message.
const OTHERS: [&str; 21] = [
    "admin.sock",
    "built_in.cedar",
    "ca.pem",
    "fleet.cedarschema",
    "fleet.json",
    "fleet.toml",
    "guardrails.cedar",
    "login.json",
    "memory.max",
    "passkey.js",
    "returned.html",
    "pem.new",
    "schema.sql",
    "ssf.manage",
    "ssf.read",
    "shop.bookshop.example",
    "store.db",
    "store.lock",
    "store.sequence",
    "testudo.css",
    "upgrade.sock",
];

/// Beginnings of other names: settings, tasks, and attributes of OpenTelemetry.
const FOREIGN: [&str; 19] = [
    "client.address",
    "error.type",
    "http.",
    "listen.",
    "network.",
    "server.",
    "service.name",
    "service.version",
    "tcp.",
    "task.",
    "telemetry.",
    "testudo.",
    "url.",
    "webauthn.",
    // Attributes of Keycloak's clients.
    "backchannel.logout.session.required",
    "backchannel.logout.url",
    "dpop.bound.access.tokens",
    "post.logout.redirect.uris",
    "require.pushed.authorization.requests",
];

/// Activities that `docs/events.md` lists.
fn documented_activities() -> BTreeSet<String> {
    first_cells(&read("docs/events.md"))
        .into_iter()
        .filter(|cell| cell.contains('.'))
        .collect()
}

/// Error codes that the pages in `docs/errors` explain, with the page.
fn documented_codes() -> BTreeMap<String, String> {
    let mut codes = BTreeMap::new();
    for entry in fs::read_dir(root().join("docs/errors")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let page = read(&format!("docs/errors/{name}"));
        for code in page.lines().filter_map(|line| line.strip_prefix("## ")) {
            let before = codes.insert(code.to_owned(), name.clone());
            assert_eq!(before, None, "{code} is explained twice");
        }
    }
    codes
}

/// What the code calls things by: error codes, activities, and whatever else has a dot.
fn names() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for source in product() {
        for (before, name) in dotted_literals(&source) {
            let line = before.rsplit('\n').next().unwrap();
            let is_collection = line.contains("const COLLECTION") || line.contains("const LOG");
            let is_template = line.contains("#[template(path");
            if !is_collection && !is_template && !line.contains(".gate(") {
                names.insert(name.to_owned());
            }
        }
    }
    names
}

/// Whether an event is made with the literal that follows `before`.
fn names_an_activity(before: &str) -> bool {
    let before = before.trim_end();
    let after_class = before.strip_suffix(',').is_some_and(|rest| {
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
        let argument = &rest[rest.trim_end_matches(word).len()..];
        argument.starts_with("EventClass::")
    });
    let calls = [
        "activity:",
        "_report(",
        "own_event(",
        "record_issue(",
        "record_refusal(",
        "record_account(",
    ];
    after_class || calls.iter().any(|call| before.ends_with(call))
}

fn is_documented(name: &str, page: &BTreeSet<String>) -> bool {
    match name.split_once('{') {
        Some((start, _)) => page.iter().any(|known| known.starts_with(start)),
        None => page.contains(name),
    }
}

#[test]
fn every_activity_of_an_event_is_on_the_events_page() {
    let page = documented_activities();
    let mut seen = 0;
    for source in product() {
        for (before, name) in dotted_literals(&source) {
            if names_an_activity(before) {
                seen += 1;
                assert!(is_documented(name, &page), "docs/events.md lacks `{name}`");
            }
        }
    }
    assert!(
        seen >= 30,
        "only {seen} activities were found: how are events made now?"
    );
}

#[test]
fn every_name_in_the_sources_is_an_activity_or_an_error_code_that_is_documented() {
    let (activities, codes) = (documented_activities(), documented_codes());
    let known = |name: &String| {
        is_documented(name, &activities)
            || codes.contains_key(name)
            || OTHERS.contains(&name.as_str())
            || FOREIGN.iter().any(|start| name.starts_with(start))
    };
    let unknown: Vec<String> = names().into_iter().filter(|name| !known(name)).collect();
    assert!(
        unknown.is_empty(),
        "not in docs/events.md or docs/errors (if they are neither activities nor error codes, list them in this \
         test): {unknown:?}"
    );
}

#[test]
fn the_pages_describe_nothing_that_does_not_exist() {
    let names = names();
    let exists = |documented: &str| {
        names.iter().any(|name| match name.split_once('{') {
            Some((start, _)) => documented.starts_with(start),
            None => name == documented,
        })
    };
    let gone: Vec<String> = documented_activities()
        .into_iter()
        .chain(documented_codes().into_keys())
        .filter(|documented| !exists(documented))
        .collect();
    assert!(
        gone.is_empty(),
        "documented and nowhere in the sources: {gone:?}"
    );
}

#[test]
fn every_code_is_on_the_page_of_its_family_and_the_index_has_the_page() {
    let index = read("docs/errors/README.md");
    for (code, page) in documented_codes() {
        let (family, _) = code.split_once('.').unwrap();
        assert_eq!(page, format!("{family}.md"), "{code} is on the wrong page");
        assert!(
            index.contains(&format!("]({page})")),
            "docs/errors/README.md lacks {page}"
        );
    }
}
