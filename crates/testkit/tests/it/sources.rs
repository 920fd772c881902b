//! The product's sources as text, for tests that compare them with the documentation.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// The repository.
pub fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// A page or file of the repository.
pub fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The sources of the product's crates without comments, tests and generated code.
pub fn product() -> Vec<String> {
    let mut files = Vec::new();
    for room in fs::read_dir(root().join("crates")).unwrap() {
        let room = room.unwrap().path();
        if room.file_name().is_some_and(|name| name != "testkit") {
            collect(&room.join("src"), &mut files);
        }
    }
    assert!(files.len() > 100, "the sources are not where they were");
    let is_generated = |path: &Path| path.components().any(|part| part.as_os_str() == "wire");
    files
        .iter()
        .filter(|path| is_rust(path) && !is_generated(path) && !is_test_support(path))
        .map(|path| without_tests(&fs::read_to_string(path).unwrap()))
        .collect()
}

/// All Rust files below `folder`.
pub fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    collect(folder, &mut files);
    files.retain(|path| is_rust(path));
    files
}

/// Whether a file below `src` is compiled for tests only.
pub fn is_test_support(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| name == "tests.rs" || name == "fixtures.rs")
}

fn is_rust(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "rs")
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            collect(&path, files);
        } else {
            files.push(path);
        }
    }
}

/// A source file without its unit tests and comments.
pub fn without_tests(source: &str) -> String {
    let product = source.split("#[cfg(test)]\nmod tests").next().unwrap();
    let lines = product
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

/// Text literals of the form `noun.verb`, with what is written before each. `{}` stands for what `format!` fills in.
pub fn dotted_literals(source: &str) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    for (at, _) in source.match_indices('"') {
        let (before, after) = (&source[..at], &source[at + 1..]);
        let Some((text, _)) = after.split_once('"') else {
            break;
        };
        let is_name = |part: &str| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || b"_{}".contains(&byte))
        };
        if text.contains('.') && text.split('.').all(is_name) && !text.starts_with('{') {
            found.push((before, text));
        }
    }
    found
}

/// What stands in backticks at the start of the rows of a page's tables.
pub fn first_cells(page: &str) -> BTreeSet<String> {
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.filter_map(|row| Some(row.split_once('`')?.0.to_owned()))
        .collect()
}
