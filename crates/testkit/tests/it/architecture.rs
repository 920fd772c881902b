//! The table in ARCHITECTURE.md against what cargo says.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

/// Room → (may import, must never import).
type Table = BTreeMap<String, (Vec<String>, Vec<String>)>;

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

fn table() -> Table {
    let page = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let names = |cell: &str| -> Vec<String> {
        cell.split('`')
            .skip(1)
            .step_by(2)
            .map(str::to_owned)
            .collect()
    };
    let (_, after_header) = page
        .split_once("| Room | May import | Must never import |")
        .unwrap();
    after_header
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| {
            let cells: Vec<&str> = line.split('|').collect();
            (
                names(cells[1])[0].clone(),
                (names(cells[2]), names(cells[3])),
            )
        })
        .collect()
}

/// Room → its direct dependencies that end up in the product (not the ones of tests).
fn dependencies() -> BTreeMap<String, Vec<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let rooms = metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|package| {
            let path = package["manifest_path"].as_str().unwrap();
            path.contains("/crates/") && !path.contains("/testkit/")
        });
    rooms
        .map(|package| {
            let dependencies = package["dependencies"].as_array().unwrap().iter();
            let names = dependencies
                .filter(|dependency| dependency["kind"].is_null())
                .map(|dependency| room(dependency["name"].as_str().unwrap()))
                .collect();
            (room(package["name"].as_str().unwrap()), names)
        })
        .collect()
}

fn room(package: &str) -> String {
    package
        .strip_prefix("testudo-")
        .unwrap_or(package)
        .to_owned()
}

#[test]
fn every_room_is_in_the_table_and_every_row_is_a_room() {
    let rooms: Vec<String> = dependencies().into_keys().collect();
    let rows: Vec<String> = table().into_keys().collect();
    assert_eq!(rooms, rows);
}

#[test]
fn rooms_import_only_the_rooms_they_may() {
    let (table, all) = (table(), dependencies());
    for (room, imports) in &all {
        let (allowed, _) = &table[room];
        for import in imports.iter().filter(|import| all.contains_key(*import)) {
            assert!(
                allowed.contains(import),
                "{room} imports {import}; ARCHITECTURE.md does not allow it"
            );
        }
    }
}

#[test]
fn rooms_do_not_name_the_libraries_that_belong_to_others() {
    let (table, all) = (table(), dependencies());
    for (room, imports) in &all {
        let (_, forbidden) = &table[room];
        for import in imports {
            assert!(
                !forbidden.contains(import),
                "{room} names {import}; ARCHITECTURE.md forbids it"
            );
        }
    }
}

#[test]
fn unsafe_code_is_forbidden_and_lints_hold_in_every_crate() {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    assert!(manifest.contains("unsafe_code = \"forbid\""));
    for room in dependencies().keys() {
        let manifest = root().join("crates").join(room).join("Cargo.toml");
        let text = std::fs::read_to_string(&manifest).unwrap();
        assert!(
            text.contains("[lints]\nworkspace = true"),
            "{} escapes the lints",
            manifest.display()
        );
    }
}

/// Beyond this a file is about more than one thing.
const MAX_LINES: usize = 800;

/// Names that say nothing about what is inside.
const EMPTY_NAMES: [&str; 4] = ["util", "helper", "manager", "common"];

#[test]
fn no_source_file_is_too_long_to_be_about_one_thing() {
    let long: Vec<_> = sources()
        .into_iter()
        .map(|path| {
            (
                std::fs::read_to_string(&path).unwrap().lines().count(),
                path,
            )
        })
        .filter(|(lines, _)| *lines > MAX_LINES)
        .collect();
    assert!(long.is_empty(), "longer than {MAX_LINES} lines: {long:#?}");
}

#[test]
fn every_source_file_is_named_after_what_is_in_it() {
    for path in sources() {
        let name = path.strip_prefix(root()).unwrap().to_str().unwrap();
        for part in EMPTY_NAMES {
            assert!(!name.contains(part), "{name}: `{part}` says nothing");
        }
    }
}

/// All Rust files of the repository.
fn sources() -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders: Vec<PathBuf> = ["crates", "bench", "examples", "fuzz", "xtask"]
        .map(|folder| root().join(folder))
        .into();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                let is_built = path.file_name().is_some_and(|name| name == "target");
                folders.extend((!is_built).then_some(path));
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    assert!(files.len() > 200, "the sources are not where they were");
    files
}
