//! Dependencies: none that nobody uses, none that is not explained.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::sources::{is_test_support, read, root, rust_files, without_tests};

/// A direct dependency of a package.
struct Dependency {
    /// As Rust names it.
    name: String,
    /// As the registry names it; `None` for our own crates.
    foreign: Option<String>,
    only_for_tests: bool,
}

/// Every package of the workspace: its folder, and what it depends on.
fn packages() -> Vec<(PathBuf, Vec<Dependency>)> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap().iter();
    packages
        .map(|package| {
            let manifest = Path::new(package["manifest_path"].as_str().unwrap());
            let dependencies = package["dependencies"].as_array().unwrap().iter();
            (
                manifest.parent().unwrap().to_owned(),
                dependencies.map(dependency).collect(),
            )
        })
        .collect()
}

fn dependency(entry: &Value) -> Dependency {
    let package = entry["name"].as_str().unwrap();
    let name = entry["rename"].as_str().unwrap_or(package);
    Dependency {
        name: name.replace('-', "_"),
        foreign: entry["source"].is_string().then(|| package.to_owned()),
        only_for_tests: entry["kind"] == "dev",
    }
}

/// What of `folder` ends up in the product, and all of it.
fn texts(folder: &Path) -> (String, String) {
    let (mut product, mut all) = (String::new(), String::new());
    for path in rust_files(folder) {
        let text = fs::read_to_string(&path).unwrap();
        if path.starts_with(folder.join("src")) && !is_test_support(&path) {
            product.push_str(&without_tests(&text));
        }
        all.push_str(&text);
    }
    // Compiled into testkit's tests from where the fuzzer has it.
    if folder.ends_with("testkit") {
        all.push_str(&read("fuzz/src/parsers.rs"));
    }
    (product, all)
}

/// Whether `text` has a path that begins with the crate, or passes it on.
fn names(text: &str, name: &str) -> bool {
    let begins = |at: usize| {
        let before = text[..at].strip_suffix("::").unwrap_or(&text[..at]);
        !before.ends_with(|character: char| character.is_alphanumeric() || character == '_')
    };
    text.match_indices(&format!("{name}::"))
        .any(|(at, _)| begins(at))
        || text.contains(&format!("pub use {name};"))
}

#[test]
fn every_dependency_is_used_where_it_is_declared() {
    let mut unused = Vec::new();
    for (folder, dependencies) in packages() {
        let (product, all) = texts(&folder);
        for dependency in dependencies {
            let text = if dependency.only_for_tests {
                &all
            } else {
                &product
            };
            if !names(text, &dependency.name) {
                unused.push(format!("{}: {}", folder.display(), dependency.name));
            }
        }
    }
    assert!(unused.is_empty(), "remove from Cargo.toml: {unused:#?}");
}

#[test]
fn every_foreign_dependency_is_explained_and_no_other() {
    let used: BTreeSet<String> = packages()
        .into_iter()
        .flat_map(|(_, dependencies)| dependencies)
        .filter_map(|dependency| dependency.foreign)
        .collect();
    let page = read("docs/dependencies.md");
    let rows = page.lines().filter(|line| line.starts_with("| ")).skip(1);
    let explained: BTreeSet<String> = rows
        .filter_map(|row| row.split('|').nth(1))
        .flat_map(|cell| cell.split(','))
        .map(|name| name.trim().to_owned())
        .collect();
    assert_eq!(explained, used);
}
