//! Which value counts, and where it came from: `testudo config show --origin`.

use std::fmt;

use serde_json::Value as Json;

use super::{
    document::{Node, Place},
    file::FleetFile,
    problem::Source,
};

/// Every setting that counts, with its origin, in the order of their keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origins(Vec<Setting>);

/// One setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Dotted key; elements of lists of tables are `routes[0]`.
    pub key: String,
    /// Its value as JSON; `"<masked>"` if it is or may be a secret.
    pub value: String,
    /// Where it came from.
    pub origin: Origin,
}

/// Where a setting came from. A later one wins: default, file, environment, flag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// The fleet file.
    File {
        /// File as named by the user.
        file: String,
        /// Line, from 1.
        line: usize,
    },
    /// An environment variable.
    Environment {
        /// Its name.
        name: String,
    },
    /// A command-line flag.
    Flag {
        /// The flag.
        flag: String,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => formatter.write_str("default"),
            Self::File { file, line } => write!(formatter, "{file}:{line}"),
            Self::Environment { name } => write!(formatter, "environment {name}"),
            Self::Flag { flag } => write!(formatter, "flag {flag}"),
        }
    }
}

impl Origins {
    /// All settings.
    pub fn settings(&self) -> impl Iterator<Item = &Setting> {
        self.0.iter()
    }

    /// The value and origin of `key`.
    pub fn get(&self, key: &str) -> Option<&Setting> {
        self.0.iter().find(|setting| setting.key == key)
    }

    /// Pairs the effective `file` with the places in `tree`.
    pub(super) fn of(file: &FleetFile, tree: &Node, source: &Source<'_>) -> Self {
        let mut collector = Collector {
            source,
            settings: Vec::new(),
        };
        // A struct of text, numbers and lists always has a JSON form.
        let json = serde_json::to_value(file).unwrap_or(Json::Null);
        collector.visit("", &json, Some(tree));
        Self(collector.settings)
    }
}

struct Collector<'a> {
    source: &'a Source<'a>,
    settings: Vec<Setting>,
}

impl Collector<'_> {
    fn visit(&mut self, key: &str, value: &Json, node: Option<&Node>) {
        match value {
            Json::Object(entries) => {
                for (name, value) in entries {
                    let key = if key.is_empty() {
                        quoted(name)
                    } else {
                        format!("{key}.{}", quoted(name))
                    };
                    self.visit(&key, value, node.and_then(|node| node.get(name)));
                }
            }
            Json::Array(items) if items.iter().any(Json::is_object) => {
                for (index, value) in items.iter().enumerate() {
                    self.visit(
                        &format!("{key}[{index}]"),
                        value,
                        node.and_then(|node| node.index(index)),
                    );
                }
            }
            value => {
                let value = if is_secret(key) {
                    "\"<masked>\"".to_owned()
                } else {
                    value.to_string()
                };
                let origin = self.origin(node);
                self.settings.push(Setting {
                    key: key.to_owned(),
                    value,
                    origin,
                });
            }
        }
    }

    fn origin(&self, node: Option<&Node>) -> Origin {
        match node.map(|node| &node.place) {
            None => Origin::Default,
            Some(Place::File(span)) => {
                let line = self.source.line(span.start);
                Origin::File {
                    file: self.source.name.to_owned(),
                    line,
                }
            }
            Some(Place::Environment(name)) => Origin::Environment { name: name.clone() },
            Some(Place::Flag(flag)) => Origin::Flag { flag: flag.clone() },
        }
    }
}

/// Password hashes, and what a child program gets in its environment, which people do put secrets into.
fn is_secret(key: &str) -> bool {
    let is_hash = key.ends_with(".password.hash") || key.ends_with(".secret.hash");
    is_hash || (key.starts_with("services.") && key.contains(".run.env."))
}

/// A key as TOML wants it.
fn quoted(name: &str) -> String {
    let is_bare = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if !name.is_empty() && name.bytes().all(is_bare) {
        name.to_owned()
    } else {
        format!("{name:?}")
    }
}
