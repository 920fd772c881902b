//! From the tree to typed sections, with every wrong value reported and not only the first.
//!
//! Serde stops at the first error. So a value that cannot be read is reported, taken out of the tree, and the
//! tree is read again, until what is left can be read. Keys that no section knows are reported on the way.

use std::{
    cell::RefCell,
    collections::{BTreeMap, btree_map},
    fmt,
};

use serde::{
    Deserializer,
    de::{
        self, DeserializeOwned, DeserializeSeed, IntoDeserializer, Unexpected, Visitor,
        value::StrDeserializer,
    },
};

use super::{
    document::{Node, Place, Value},
    problem::{Problems, listed, nearest},
    secret::SecretReference,
};

/// Reads `tree` as a `T`, taking out of it what is wrong. `None` if what is left lacks something that `T` needs.
pub(super) fn read<T: DeserializeOwned>(tree: &mut Node, problems: &mut Problems<'_>) -> Option<T> {
    loop {
        let findings = Findings::default();
        let result = T::deserialize(Reader {
            node: tree,
            findings: &findings,
        });
        let found = findings.0.into_inner();
        let is_clean = found.is_empty();
        for finding in &found {
            if let Some(message) = &finding.message {
                let problem = problems.error(finding.code, &finding.place, message.as_str());
                problem.help = finding.help.clone();
            }
        }
        match result {
            Ok(value) if is_clean => return Some(value),
            Err(_) if is_clean || problems.is_full() => return None,
            _ => {}
        }
        // What was wrong may lie in something else that was wrong and is gone by now.
        let removed = found
            .iter()
            .filter(|finding| tree.remove(finding.node))
            .count();
        if removed == 0 {
            return None;
        }
    }
}

/// Something wrong in the tree.
#[derive(Debug)]
struct Finding {
    node: u32,
    place: Place,
    code: &'static str,
    /// Absent if it is the consequence of what was reported before.
    message: Option<String>,
    help: Option<String>,
    /// The key that was probably meant.
    meant: Option<String>,
}

#[derive(Debug, Default)]
struct Findings(RefCell<Vec<Finding>>);

/// Serde's error on the way up to the node it belongs to.
#[derive(Debug)]
enum Failure {
    /// Not yet connected with a node.
    Message(String),
    /// A struct lacks this field.
    Missing(&'static str),
    /// Recorded as a finding.
    Recorded,
}

impl std::error::Error for Failure {}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Message(message) => formatter.write_str(message),
            Self::Missing(field) => write!(formatter, "`{field}` is missing"),
            Self::Recorded => formatter.write_str("recorded"),
        }
    }
}

impl de::Error for Failure {
    fn custom<M: fmt::Display>(message: M) -> Self {
        Self::Message(message.to_string())
    }

    fn missing_field(field: &'static str) -> Self {
        Self::Missing(field)
    }

    fn invalid_type(_: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::Message(format!("expected {expected}"))
    }

    fn invalid_value(_: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::Message(format!("expected {expected}"))
    }
}

/// A node with the list that takes what is wrong with it.
#[derive(Debug, Clone, Copy)]
struct Reader<'a> {
    node: &'a Node,
    findings: &'a Findings,
}

impl<'a> Reader<'a> {
    fn with(self, node: &'a Node) -> Self {
        Self { node, ..self }
    }

    fn record(
        self,
        code: &'static str,
        place: &Place,
        message: Option<String>,
        help: Option<String>,
    ) -> Failure {
        let finding = Finding {
            node: self.node.id,
            place: place.clone(),
            code,
            message,
            help,
            meant: None,
        };
        self.findings.0.borrow_mut().push(finding);
        Failure::Recorded
    }

    /// Whether what is missing here was reported already: as a wrong value, or as a misspelt key.
    fn is_known_to_lack(self, field: &str) -> bool {
        let Value::Table(entries) = &self.node.value else {
            return false;
        };
        let is_child = |id: u32| entries.values().any(|node| node.id == id);
        let findings = self.findings.0.borrow();
        self.node.damaged
            || findings
                .iter()
                .any(|f| f.meant.as_deref() == Some(field) && is_child(f.node))
    }

    /// Connects an error with this node, unless a deeper one has it already.
    fn locate<T>(self, result: Result<T, Failure>) -> Result<T, Failure> {
        result.map_err(|failure| match failure {
            Failure::Message(message) => self.record(
                "fleet.invalid_value",
                self.node.point(),
                Some(message),
                None,
            ),
            Failure::Missing(field) => {
                let message = format!("`{field}` is missing here");
                let message = (!self.is_known_to_lack(field)).then_some(message);
                self.record("fleet.missing_key", self.node.point(), message, None)
            }
            Failure::Recorded => Failure::Recorded,
        })
    }

    fn expected<T>(self, expected: &str) -> Result<T, Failure> {
        let message = format!("expected {expected}, found {}", found(&self.node.value));
        self.locate(Err(Failure::Message(message)))
    }

    /// An integer between `least` and `most`.
    fn integer(self, least: i64, most: i64) -> Result<i64, Failure> {
        let number = match &self.node.value {
            Value::Integer(number) => Some(*number),
            Value::Loose(text) => text.trim().parse().ok(),
            _ => None,
        };
        match number {
            Some(number) if (least..=most).contains(&number) => Ok(number),
            Some(number) => {
                let message = format!("{number} is out of range: {least} to {most} are allowed");
                self.locate(Err(Failure::Message(message)))
            }
            None => self.expected("a whole number"),
        }
    }

    /// Reports the keys of a table that are none of `fields`.
    fn report_unknown_keys(self, entries: &'a BTreeMap<String, Node>, fields: &[&str]) {
        for (key, node) in entries {
            if fields.contains(&key.as_str()) {
                continue;
            }
            let meant = nearest(key, fields.iter().copied()).map(str::to_owned);
            let help = match &meant {
                Some(field) => format!("did you mean `{field}`?"),
                None => format!("known here: {}", listed(fields.iter().copied())),
            };
            let shown: String = key.chars().take(80).collect();
            self.findings.0.borrow_mut().push(Finding {
                node: node.id,
                place: node.key_place.clone(),
                code: "fleet.unknown_key",
                message: Some(format!("unknown key `{shown}`")),
                help: Some(help),
                meant,
            });
        }
    }
}

/// What a value is, in words. Never the value of a text: it may be a secret.
fn found(value: &Value) -> String {
    match value {
        Value::Text(_) | Value::Loose(_) => "text".to_owned(),
        Value::Integer(number) => format!("the number {number}"),
        Value::Other(kind, text) => format!("the {kind} {text}"),
        Value::Boolean(flag) => format!("{flag}"),
        Value::Array(_) => "a list".to_owned(),
        Value::Table(_) => "a table".to_owned(),
    }
}

macro_rules! integers {
    ($($method:ident, $visit:ident, $type:ty, $most:expr;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
            let number = self.integer(<$type>::MIN.into(), $most)?;
            let number = <$type>::try_from(number).map_err(de::Error::custom)?;
            self.locate(visitor.$visit(number))
        }
    )*};
}

impl<'de> Deserializer<'de> for Reader<'_> {
    type Error = Failure;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        match &self.node.value {
            Value::Text(text) | Value::Loose(text) => self.locate(visitor.visit_str(text)),
            Value::Integer(number) => self.locate(visitor.visit_i64(*number)),
            Value::Boolean(flag) => self.locate(visitor.visit_bool(*flag)),
            Value::Other(..) => {
                self.expected("text, a whole number, true, false, a list or a table")
            }
            Value::Array(_) => self.deserialize_seq(visitor),
            Value::Table(_) => self.deserialize_map(visitor),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        match &self.node.value {
            Value::Text(text) | Value::Loose(text) => self.locate(visitor.visit_str(text)),
            _ => self.expected("text in quotes"),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        self.deserialize_str(visitor)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        match &self.node.value {
            Value::Boolean(flag) => self.locate(visitor.visit_bool(*flag)),
            Value::Loose(text) if text == "true" || text == "false" => {
                self.locate(visitor.visit_bool(text == "true"))
            }
            _ => self.expected("true or false"),
        }
    }

    integers! {
        deserialize_u8, visit_u8, u8, u8::MAX.into();
        deserialize_u16, visit_u16, u16, u16::MAX.into();
        deserialize_u32, visit_u32, u32, u32::MAX.into();
        deserialize_i64, visit_i64, i64, i64::MAX;
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        self.locate(visitor.visit_some(self))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Failure> {
        self.locate(visitor.visit_newtype_struct(self))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        match &self.node.value {
            Value::Array(items) => self.locate(visitor.visit_seq(Items {
                reader: self,
                rest: items.iter(),
            })),
            _ => self.expected("a list in `[ ]`"),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        match &self.node.value {
            Value::Table(entries) => self.locate(visitor.visit_map(Entries::new(self, entries))),
            _ => self.expected("a table"),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failure> {
        match &self.node.value {
            Value::Table(entries) => {
                self.report_unknown_keys(entries, fields);
                self.locate(visitor.visit_map(Entries {
                    known: Some(fields),
                    ..Entries::new(self, entries)
                }))
            }
            _ => self.expected(&format!("a table with {}", listed(fields.iter().copied()))),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failure> {
        let by_reference = name == SecretReference::TYPE_NAME;
        match &self.node.value {
            Value::Table(entries) if by_reference => match entries.first_key_value() {
                Some((key, node)) if entries.len() == 1 && variants.contains(&key.as_str()) => {
                    let value = self.with(node);
                    self.locate(visitor.visit_enum(Choice { key, value }))
                }
                Some(_) if entries.len() == 1 => {
                    self.report_unknown_keys(entries, variants);
                    Err(Failure::Recorded)
                }
                _ => self.expected(&format!(
                    "exactly one of {}",
                    listed(variants.iter().copied())
                )),
            },
            _ if by_reference => Err(self.record(
                "fleet.secret_in_file",
                self.node.point(),
                Some("a secret is given by reference, never in the fleet file".to_owned()),
                Some(
                    "write `{ file = \"…\" }`, `{ env = \"…\" }` or `{ hash = \"$argon2id$…\" }`"
                        .to_owned(),
                ),
            )),
            Value::Text(text) | Value::Loose(text) if variants.contains(&text.as_str()) => {
                let choice: StrDeserializer<'_, Failure> = text.as_str().into_deserializer();
                self.locate(visitor.visit_enum(choice))
            }
            Value::Text(text) | Value::Loose(text) => {
                let shown: String = text.chars().take(80).collect();
                let message = format!("`{shown}` is none of {}", listed(variants.iter().copied()));
                let help = nearest(text, variants.iter().copied())
                    .map(|variant| format!("did you mean `{variant}`?"));
                Err(self.record(
                    "fleet.invalid_value",
                    self.node.point(),
                    Some(message),
                    help,
                ))
            }
            _ => self.expected(&format!("one of {}", listed(variants.iter().copied()))),
        }
    }

    serde::forward_to_deserialize_any! {
        i8 i16 i32 i128 u64 u128 f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct identifier
        ignored_any
    }
}

/// The elements of a list.
struct Items<'a> {
    reader: Reader<'a>,
    rest: std::slice::Iter<'a, Node>,
}

impl<'de> de::SeqAccess<'de> for Items<'_> {
    type Error = Failure;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Failure> {
        self.rest
            .next()
            .map(|node| seed.deserialize(self.reader.with(node)))
            .transpose()
    }
}

/// The entries of a table.
struct Entries<'a> {
    reader: Reader<'a>,
    rest: btree_map::Iter<'a, String, Node>,
    /// Keys to look at; the others were reported.
    known: Option<&'static [&'static str]>,
    value: Option<&'a Node>,
}

impl<'a> Entries<'a> {
    fn new(reader: Reader<'a>, entries: &'a BTreeMap<String, Node>) -> Self {
        Self {
            reader,
            rest: entries.iter(),
            known: None,
            value: None,
        }
    }
}

impl<'de> de::MapAccess<'de> for Entries<'_> {
    type Error = Failure;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Failure> {
        let known = self.known;
        let Some((key, node)) = self
            .rest
            .find(|(key, _)| known.is_none_or(|known| known.contains(&key.as_str())))
        else {
            return Ok(None);
        };
        self.value = Some(node);
        let text: StrDeserializer<'_, Failure> = key.as_str().into_deserializer();
        seed.deserialize(text).map(Some).map_err(|failure| {
            self.reader.with(node).record(
                "fleet.invalid_name",
                &node.key_place,
                Some(failure.to_string()),
                None,
            )
        })
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Failure> {
        match self.value.take() {
            Some(node) => seed.deserialize(self.reader.with(node)),
            None => Err(de::Error::custom("a value was asked for before its key")),
        }
    }
}

/// A table with one key: a variant with its value.
struct Choice<'a> {
    key: &'a str,
    value: Reader<'a>,
}

impl<'de, 'a> de::EnumAccess<'de> for Choice<'a> {
    type Error = Failure;
    type Variant = Reader<'a>;

    fn variant_seed<T: DeserializeSeed<'de>>(
        self,
        seed: T,
    ) -> Result<(T::Value, Reader<'a>), Failure> {
        let key: StrDeserializer<'_, Failure> = self.key.into_deserializer();
        Ok((seed.deserialize(key)?, self.value))
    }
}

impl<'de> de::VariantAccess<'de> for Reader<'_> {
    type Error = Failure;

    fn unit_variant(self) -> Result<(), Failure> {
        self.expected("no value")
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Failure> {
        seed.deserialize(self)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Failure> {
        self.deserialize_seq(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failure> {
        self.deserialize_struct("", fields, visitor)
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use testudo_model::{Exposure, ServiceName};

    use super::*;
    use crate::fleet::{
        document::{self, Numbering},
        problem::Source,
        units::Period,
    };

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Section {
        name: ServiceName,
        #[serde(default)]
        timeouts: Vec<Period>,
        #[serde(default)]
        exposure: Exposure,
        #[serde(default)]
        weight: u8,
        secret: Option<SecretReference>,
    }

    fn read_text(text: &str) -> (Option<Section>, Vec<String>) {
        let mut tree = document::parse(text, &mut Numbering::default(), &Place::File).unwrap();
        let mut problems = Problems::new(Source::new("fleet.toml", text));
        let section = read(&mut tree, &mut problems);
        (
            section,
            problems
                .into_sorted()
                .into_iter()
                .map(|problem| problem.message)
                .collect(),
        )
    }

    #[test]
    fn every_wrong_value_is_reported_and_the_rest_is_read() {
        let (section, messages) = read_text(
            "name = \"orders\"\ntimeouts = [\"5s\", \"soon\", 7, \"1m\"]\nexposure = \"extern\"\nweight = 256\nwheight = 1\n",
        );
        assert_eq!(
            messages,
            [
                "`soon` is not a duration: write a whole number and a unit of ms, s, m, h or d, such as `30s`",
                "expected text in quotes, found the number 7",
                "`extern` is none of `internal` and `external`",
                "256 is out of range: 0 to 255 are allowed",
                "unknown key `wheight`",
            ]
        );
        let timeouts = vec!["5s".parse().unwrap(), "1m".parse().unwrap()];
        let name = "orders".parse().unwrap();
        assert_eq!(
            section,
            Some(Section {
                name,
                timeouts,
                exposure: Exposure::Internal,
                weight: 0,
                secret: None
            })
        );
    }

    #[test]
    fn a_wrong_value_is_not_reported_again_as_missing() {
        assert_eq!(
            read_text("name = 5\n"),
            (
                None,
                vec!["expected text in quotes, found the number 5".to_owned()]
            )
        );
        assert_eq!(
            read_text("weight = 5\n"),
            (None, vec!["`name` is missing here".to_owned()])
        );
    }

    #[test]
    fn a_secret_in_the_file_is_refused_without_repeating_it() {
        let (_, messages) = read_text("name = \"a\"\nsecret = \"hunter2\"\n");
        assert_eq!(
            messages,
            ["a secret is given by reference, never in the fleet file"]
        );
        let (_, messages) = read_text("name = \"a\"\nsecret = { file = \"a\", env = \"B\" }\n");
        assert_eq!(
            messages,
            ["expected exactly one of `file`, `env` and `hash`, found a table"]
        );
        assert_eq!(
            read_text("nam = \"a\"\n"),
            (None, vec!["unknown key `nam`".to_owned()])
        );
        let (section, messages) = read_text("name = \"a\"\nsecret = { env = \"B\" }\n");
        assert_eq!(
            (section.unwrap().secret, messages.len()),
            (Some(SecretReference::Env("B".to_owned())), 0)
        );
    }
}
