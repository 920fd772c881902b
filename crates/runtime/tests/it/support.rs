//! Loading fleet files that exist only as text.

use std::collections::BTreeMap;

use testudo_runtime::fleet::{Bundle, FleetErrors, Loaded, Override};

/// A bundle of `text` with the files and variables given.
pub fn bundle(text: &str, files: &[(&str, &str)], environment: &[(&str, &str)]) -> Bundle {
    let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
            .collect()
    };
    Bundle {
        name: "fleet.toml".to_owned(),
        text: text.to_owned(),
        files: map(files),
        environment: map(environment),
        overrides: Vec::new(),
    }
}

/// Loads `text` behind a line with the trust domain.
pub fn load(text: &str) -> Result<Loaded, FleetErrors> {
    bundle(
        &format!("trust_domain = \"b.example\"\n{text}"),
        &[("policies/a.cedar", "")],
        &[],
    )
    .load()
}

/// Loads `text` as [`load`] does; it must be accepted.
pub fn accept(text: &str) -> Loaded {
    load(text).unwrap_or_else(|errors| panic!("{errors}"))
}

/// Codes of the problems of `text`, errors and warnings, in the order of the file.
pub fn codes(text: &str) -> Vec<&'static str> {
    let problems = load(text).map_or_else(|errors| errors.problems, |loaded| loaded.warnings);
    problems.iter().map(|problem| problem.code).collect()
}

/// A setting from the command line.
pub fn flag(key: &str, value: &str) -> Override {
    Override {
        key: key.to_owned(),
        value: value.to_owned(),
        flag: format!("--set {key}"),
    }
}
