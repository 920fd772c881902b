//! `deny.toml` against what cargo really builds: bans, wrappers, licences and sources, as `cargo deny check` sees them, without
//! having to install it. (Advisories need its database.)
//!
//! `Cargo.lock` is no measure: it lists what a feature nobody turns on could bring (`ring` is such a one).

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    process::Command,
};

use toml::{Table, Value};

use crate::sources::{read, root};

/// A package in the tree of dependencies, with those that bring it in.
#[derive(Default)]
struct Package {
    dependents: BTreeSet<String>,
    licence: String,
    is_ours: bool,
}

/// Everything that is built for this host with all features, tests included.
fn packages() -> BTreeMap<String, Package> {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--workspace",
            "--all-features",
            "--locked",
            "--offline",
        ])
        .args([
            "--edges=normal,build,dev",
            "--prefix=depth",
            "--format=|{p}|{l}",
        ])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).unwrap();
    let mut packages: BTreeMap<String, Package> = BTreeMap::new();
    let mut path: Vec<String> = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        let [depth, package, licence] = line.splitn(3, '|').collect::<Vec<_>>()[..] else {
            panic!("cargo tree says `{line}`");
        };
        let name = package.split(' ').next().unwrap().to_owned();
        path.truncate(depth.parse().unwrap());
        let entry = packages.entry(name.clone()).or_default();
        entry.dependents.extend(path.last().cloned());
        entry.licence = licence.trim_end_matches(" (*)").to_owned();
        entry.is_ours = package.contains(" (/");
        path.push(name);
    }
    assert!(
        packages.len() > 200,
        "cargo tree lists {} packages",
        packages.len()
    );
    packages
}

fn deny(section: &str) -> Table {
    let mut file: Table = read("deny.toml").parse().unwrap();
    match file.remove(section) {
        Some(Value::Table(table)) => table,
        _ => panic!("deny.toml has no [{section}]"),
    }
}

fn strings(value: Option<&Value>) -> BTreeSet<String> {
    let list = value.and_then(Value::as_array).into_iter().flatten();
    list.map(|text| text.as_str().unwrap().to_owned()).collect()
}

/// Banned crate → who may bring it in nevertheless.
fn bans() -> BTreeMap<String, BTreeSet<String>> {
    let bans = deny("bans");
    let list = bans["deny"].as_array().unwrap().iter();
    list.map(|ban| {
        (
            ban["crate"].as_str().unwrap().to_owned(),
            strings(ban.get("wrappers")),
        )
    })
    .collect()
}

#[test]
fn no_banned_crate_is_built_but_by_those_that_may() {
    let packages = packages();
    for (banned, wrappers) in bans() {
        let Some(package) = packages.get(&banned) else {
            continue;
        };
        assert!(
            !wrappers.is_empty(),
            "{banned} is refused, and {:?} bring it in",
            package.dependents
        );
        let strangers: Vec<_> = package.dependents.difference(&wrappers).collect();
        assert!(
            strangers.is_empty(),
            "{strangers:?} must not name {banned} (deny.toml)"
        );
    }
}

#[test]
fn every_wrapper_is_one() {
    let packages = packages();
    for (banned, wrappers) in bans() {
        for wrapper in wrappers {
            let is_used = packages
                .get(&banned)
                .is_some_and(|package| package.dependents.contains(&wrapper));
            assert!(
                is_used,
                "deny.toml lets {wrapper} name {banned}, which it does not"
            );
        }
    }
}

#[test]
fn every_licence_is_allowed_and_every_allowed_licence_occurs() {
    let licences = deny("licenses");
    let allowed = strings(licences.get("allow"));
    let exceptions: BTreeMap<String, BTreeSet<String>> = licences["exceptions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|exception| {
            (
                exception["crate"].as_str().unwrap().to_owned(),
                strings(exception.get("allow")),
            )
        })
        .collect();
    let packages = packages();
    let mut named = BTreeSet::new();
    for (name, package) in &packages {
        let mut allowed = allowed.clone();
        allowed.extend(exceptions.get(name).into_iter().flatten().cloned());
        assert!(
            is_allowed(&package.licence, &allowed),
            "{name} is under `{}`",
            package.licence
        );
        named.extend(words(&package.licence));
    }
    let unused: Vec<_> = allowed
        .iter()
        .filter(|licence| !named.contains(*licence))
        .collect();
    assert!(
        unused.is_empty(),
        "nothing is under {unused:?}; deny.toml allows it"
    );
    for name in exceptions.keys() {
        assert!(
            packages.contains_key(name),
            "deny.toml has an exception for {name}, which is not used"
        );
    }
}

#[test]
fn everything_comes_from_crates_io_or_from_here() {
    let lock: Table = read("Cargo.lock").parse().unwrap();
    for package in lock["package"].as_array().unwrap() {
        let source = package.get("source").and_then(Value::as_str);
        let is_known = source
            .is_none_or(|source| source == "registry+https://github.com/rust-lang/crates.io-index");
        assert!(is_known, "{} comes from {source:?}", package["name"]);
    }
}

#[test]
fn no_dependency_takes_any_version() {
    let manifest: Table = read("Cargo.toml").parse().unwrap();
    for (name, wanted) in manifest["workspace"]["dependencies"].as_table().unwrap() {
        let version = wanted
            .as_str()
            .or_else(|| wanted.get("version").and_then(Value::as_str));
        assert_ne!(version, Some("*"), "{name}");
        assert!(
            version.is_some() || wanted.get("path").is_some(),
            "{name} has neither version nor path"
        );
    }
}

/// An SPDX expression is a list of words, `AND`, `OR` and brackets; `/` is the old form of `OR`. `WITH` belongs to its licence.
fn tokens(expression: &str) -> Vec<String> {
    let spaced = expression
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ");
    let mut tokens: Vec<String> = Vec::new();
    let mut words = spaced.split_whitespace();
    while let Some(word) = words.next() {
        match (word, tokens.last_mut()) {
            ("WITH", Some(licence)) => {
                *licence = format!("{licence} WITH {}", words.next().unwrap_or_default())
            }
            _ => tokens.push(word.to_owned()),
        }
    }
    tokens
}

fn words(expression: &str) -> impl Iterator<Item = String> {
    let is_word = |token: &String| !matches!(token.as_str(), "AND" | "OR" | "(" | ")");
    tokens(expression).into_iter().filter(is_word)
}

/// Whether a licensee that accepts `allowed` may use something under `expression`.
fn is_allowed(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let mut tokens = VecDeque::from(tokens(expression));
    any_of(&mut tokens, allowed) && tokens.is_empty()
}

fn any_of(tokens: &mut VecDeque<String>, allowed: &BTreeSet<String>) -> bool {
    let mut verdict = all_of(tokens, allowed);
    while tokens.pop_front_if(|token| token == "OR").is_some() {
        verdict |= all_of(tokens, allowed);
    }
    verdict
}

fn all_of(tokens: &mut VecDeque<String>, allowed: &BTreeSet<String>) -> bool {
    let mut verdict = one(tokens, allowed);
    while tokens.pop_front_if(|token| token == "AND").is_some() {
        verdict &= one(tokens, allowed);
    }
    verdict
}

fn one(tokens: &mut VecDeque<String>, allowed: &BTreeSet<String>) -> bool {
    match tokens.pop_front().as_deref() {
        Some("(") => {
            let verdict = any_of(tokens, allowed);
            assert_eq!(tokens.pop_front().as_deref(), Some(")"));
            verdict
        }
        Some(licence) => allowed.contains(licence),
        None => false,
    }
}

#[test]
fn licence_expressions_mean_what_spdx_says() {
    let allowed =
        BTreeSet::from(["MIT", "ISC", "Apache-2.0 WITH LLVM-exception"].map(str::to_owned));
    for good in [
        "MIT",
        "GPL-3.0 OR MIT",
        "Unlicense/MIT",
        "ISC AND (GPL-3.0 OR MIT) AND MIT",
        "Apache-2.0 WITH LLVM-exception OR GPL-3.0",
    ] {
        assert!(is_allowed(good, &allowed), "{good}");
    }
    for bad in [
        "",
        "GPL-3.0",
        "MIT AND GPL-3.0",
        "GPL-3.0 AND MIT OR Apache-2.0",
        "MIT MIT",
    ] {
        assert!(!is_allowed(bad, &allowed), "{bad}");
    }
}
