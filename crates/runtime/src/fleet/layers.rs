//! Layers over the file: environment variables, then flags.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::{
    document::{self, Node, Numbering, Place, Value},
    problem::Problems,
};
use crate::Environment;

/// Environment variables that set something begin with this.
pub const VARIABLE_PREFIX: &str = "TESTUDO__";

/// A setting from the command line; it wins over everything else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Override {
    /// Dotted key as in the file: `listen.gateway`, `users."a@b.example".disabled`.
    pub key: String,
    /// Text of the value: TOML, or plain text without quotes.
    pub value: String,
    /// The flag as the user wrote it, for messages.
    pub flag: String,
}

/// Puts the variables `TESTUDO__SECTION__KEY` over `tree`.
///
/// Names are matched without regard to case, and `_` stands for `-` and `.` too, since a variable cannot have
/// them: `TESTUDO__SERVICES__STOCK_KEEPER__UPSTREAM` sets `services.stock-keeper.upstream` if there is one.
pub(super) fn apply_environment(
    tree: &mut Node,
    environment: &Environment,
    numbering: &mut Numbering,
    problems: &mut Problems<'_>,
) {
    for (name, value) in environment.iter() {
        let Some(key) = name.strip_prefix(VARIABLE_PREFIX) else {
            continue;
        };
        let place = Place::Environment(name.to_owned());
        let path = resolve(tree, key.split("__").map(str::to_ascii_lowercase));
        set(tree, &path, value, place, numbering, problems);
    }
}

/// Puts settings from the command line over `tree`.
pub(super) fn apply_overrides(
    tree: &mut Node,
    overrides: &[Override],
    numbering: &mut Numbering,
    problems: &mut Problems<'_>,
) {
    for setting in overrides {
        let place = Place::Flag(setting.flag.clone());
        match key_path(&setting.key) {
            Some(path) => set(tree, &path, &setting.value, place, numbering, problems),
            None => {
                let key: String = setting.key.chars().take(80).collect();
                problems
                    .error("fleet.invalid_key", &place, format!("`{key}` is not a key"))
                    .help("write section and key with a dot, such as `listen.gateway`");
            }
        }
    }
}

fn set(
    tree: &mut Node,
    path: &[String],
    text: &str,
    place: Place,
    numbering: &mut Numbering,
    problems: &mut Problems<'_>,
) {
    let Some(value) = parse_value(text, &place, numbering) else {
        problems.error("fleet.syntax", &place, "the value is not valid TOML");
        return;
    };
    let node = Node {
        value,
        ..Node::outside(Value::Boolean(false), place.clone(), numbering)
    };
    if let Err(key) = tree.set(path, node, numbering) {
        let key: String = key.chars().take(80).collect();
        problems
            .error(
                "fleet.invalid_key",
                &place,
                format!("there is no table that could have a key `{key}`"),
            )
            .help("lists are replaced as a whole");
    }
}

/// A list, table or quoted text is TOML; anything else is taken as it is and read as the setting wants it.
fn parse_value(text: &str, place: &Place, numbering: &mut Numbering) -> Option<Value> {
    if !text.trim_start().starts_with(['[', '{', '"', '\'']) {
        return Some(Value::Loose(text.to_owned()));
    }
    let everywhere = |_: Range<usize>| place.clone();
    let tree = document::parse(&format!("value = {text}\n"), numbering, &everywhere).ok()?;
    // `[1]\nother = 2` is more than a value.
    if tree.keys().count() != 1 {
        return None;
    }
    tree.get("value").map(|node| node.value.clone())
}

/// The path of a dotted TOML key.
fn key_path(key: &str) -> Option<Vec<String>> {
    if key.contains(['\n', '=']) {
        return None;
    }
    let nowhere = |_: Range<usize>| Place::File(0..0);
    let tree =
        document::parse(&format!("{key} = 0\n"), &mut Numbering::default(), &nowhere).ok()?;
    let mut path = Vec::new();
    let mut node = &tree;
    while let Some(key) = node.keys().next() {
        path.push(key.to_owned());
        node = node.get(key)?;
    }
    (!path.is_empty()).then_some(path)
}

/// Replaces each part of a variable's path by the key of the file that it means.
fn resolve(tree: &Node, parts: impl Iterator<Item = String>) -> Vec<String> {
    let mut table = Some(tree);
    let mut path = Vec::new();
    for part in parts {
        let meant = table.and_then(|table| table.keys().find(|key| as_variable(key) == part));
        let key = meant.unwrap_or(&part).to_owned();
        table = table.and_then(|table| table.get(&key));
        path.push(key);
    }
    path
}

fn as_variable(key: &str) -> String {
    key.to_ascii_lowercase()
        .replace(['-', '.', '@', '+', ':'], "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_toml_keys() {
        assert_eq!(
            key_path("listen.gateway"),
            Some(vec!["listen".to_owned(), "gateway".to_owned()])
        );
        let quoted = key_path("users.\"a@b.example\".name").unwrap();
        assert_eq!(quoted, ["users", "a@b.example", "name"]);
        for bad in ["", ".", "a..b", "a = 1\nb", "a b"] {
            assert_eq!(key_path(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_value_is_toml_where_it_looks_like_it() {
        let mut numbering = Numbering::default();
        let mut parse =
            |text: &str| parse_value(text, &Place::Flag("--set".to_owned()), &mut numbering);
        assert!(matches!(parse("5s"), Some(Value::Loose(text)) if text == "5s"));
        assert!(matches!(parse("\"5s\""), Some(Value::Text(text)) if text == "5s"));
        assert!(matches!(parse("[1, 2]"), Some(Value::Array(items)) if items.len() == 2));
        assert!(parse("[1, 2").is_none());
        assert!(parse("[1]\nother = 2").is_none());
    }
}
