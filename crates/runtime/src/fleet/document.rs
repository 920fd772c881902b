//! The fleet file as a tree whose every value knows where it came from.

use std::{collections::BTreeMap, ops::Range};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// Bytes of the fleet file.
    File(Range<usize>),
    /// This environment variable.
    Environment(String),
    /// This command-line flag.
    Flag(String),
}

/// A value of the tree.
#[derive(Debug, Clone)]
pub(super) struct Node {
    /// Number in the document, to name a node that is to be taken out.
    pub(super) id: u32,
    /// Where its key is; for elements of arrays and the root the value's own place.
    pub(super) key_place: Place,
    /// Where the value is.
    pub(super) place: Place,
    /// A part was taken out because it was wrong. What is missing here was reported already.
    pub(super) damaged: bool,
    pub(super) value: Value,
}

#[derive(Debug, Clone)]
pub(super) enum Value {
    Text(String),
    Integer(i64),
    /// A number that fits no integer, or a date: nothing in the fleet file is one.
    Other(&'static str, String),
    Boolean(bool),
    Array(Vec<Node>),
    Table(BTreeMap<String, Node>),
    /// From the environment or a flag: read as whatever the setting wants.
    Loose(String),
}

/// Gives out node numbers.
#[derive(Debug, Default)]
pub(super) struct Numbering(u32);

impl Numbering {
    fn next(&mut self) -> u32 {
        self.0 = self.0.saturating_add(1);
        self.0
    }
}

/// A syntax error with its place in the text.
#[derive(Debug)]
pub(super) struct SyntaxError {
    pub(super) message: String,
    pub(super) span: Range<usize>,
}

/// Parses TOML text into a tree; `place` turns a span of the text into a place.
pub(super) fn parse(
    text: &str,
    numbering: &mut Numbering,
    place: &dyn Fn(Range<usize>) -> Place,
) -> Result<Node, Vec<SyntaxError>> {
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        let located = |error: toml::de::Error| SyntaxError {
            message: error.message().to_owned(),
            span: error.span().unwrap_or(0..0),
        };
        return Err(errors.into_iter().map(located).collect());
    }
    Ok(Node {
        id: numbering.next(),
        key_place: place(0..0),
        place: place(0..0),
        damaged: false,
        value: table_value(table.get_ref(), numbering, place),
    })
}

fn table_value(
    table: &DeTable<'_>,
    numbering: &mut Numbering,
    place: &dyn Fn(Range<usize>) -> Place,
) -> Value {
    let entries = table.iter().map(|(key, value)| {
        let node = value_node(value, Some(place(key.span())), numbering, place);
        (key.get_ref().to_string(), node)
    });
    Value::Table(entries.collect())
}

fn value_node(
    spanned: &Spanned<DeValue<'_>>,
    key_place: Option<Place>,
    numbering: &mut Numbering,
    place: &dyn Fn(Range<usize>) -> Place,
) -> Node {
    let id = numbering.next();
    let value = match spanned.get_ref() {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(integer) => match i64::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(number) => Value::Integer(number),
            Err(_) => Value::Other("integer", integer.to_string()),
        },
        DeValue::Float(float) => Value::Other("float", float.to_string()),
        DeValue::Boolean(flag) => Value::Boolean(*flag),
        DeValue::Datetime(datetime) => Value::Other("date", datetime.to_string()),
        DeValue::Array(items) => Value::Array(
            items
                .iter()
                .map(|item| value_node(item, None, numbering, place))
                .collect(),
        ),
        DeValue::Table(table) => table_value(table, numbering, place),
    };
    let own = place(spanned.span());
    Node {
        id,
        key_place: key_place.unwrap_or_else(|| own.clone()),
        place: own,
        damaged: false,
        value,
    }
}

impl Node {
    /// A value that did not come from the file.
    pub(super) fn outside(value: Value, place: Place, numbering: &mut Numbering) -> Self {
        Self {
            id: numbering.next(),
            key_place: place.clone(),
            place,
            damaged: false,
            value,
        }
    }

    /// The entry `key` of a table.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        let Value::Table(entries) = &self.value else {
            return None;
        };
        entries.get(key)
    }

    /// The element `index` of an array.
    pub(super) fn index(&self, index: usize) -> Option<&Self> {
        let Value::Array(items) = &self.value else {
            return None;
        };
        items.get(index)
    }

    /// The keys of a table, in name order.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        let entries = match &self.value {
            Value::Table(entries) => Some(entries),
            _ => None,
        };
        entries.into_iter().flatten().map(|(key, _)| key.as_str())
    }

    /// The texts of an array.
    pub(super) fn texts(&self) -> impl Iterator<Item = &str> {
        let items = match &self.value {
            Value::Array(items) => items.as_slice(),
            _ => &[],
        };
        items.iter().filter_map(|item| match &item.value {
            Value::Text(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// Where to point at: the value of a plain setting, the key of a table.
    pub(super) fn point(&self) -> &Place {
        match self.value {
            Value::Table(_) => &self.key_place,
            _ => &self.place,
        }
    }

    /// Puts `node` at `path`, replacing what is there and making tables on the way. `Err` is the part of the
    /// path that is not a table.
    pub(super) fn set(
        &mut self,
        path: &[String],
        node: Self,
        numbering: &mut Numbering,
    ) -> Result<(), String> {
        let Some((key, rest)) = path.split_first() else {
            return Ok(());
        };
        let Value::Table(entries) = &mut self.value else {
            return Err(key.clone());
        };
        if rest.is_empty() {
            entries.insert(key.clone(), node);
            return Ok(());
        }
        let new_table =
            || Self::outside(Value::Table(BTreeMap::new()), node.place.clone(), numbering);
        let table = entries.entry(key.clone()).or_insert_with(new_table);
        table.set(rest, node, numbering)
    }

    /// Takes the node `id` out and marks its parent as damaged.
    pub(super) fn remove(&mut self, id: u32) -> bool {
        let removed_here = match &mut self.value {
            Value::Array(items) => {
                let before = items.len();
                items.retain(|item| item.id != id);
                items.len() != before
            }
            Value::Table(entries) => {
                let before = entries.len();
                entries.retain(|_, node| node.id != id);
                entries.len() != before
            }
            _ => return false,
        };
        if removed_here {
            self.damaged = true;
            return true;
        }
        match &mut self.value {
            Value::Array(items) => items.iter_mut().any(|item| item.remove(id)),
            Value::Table(entries) => entries.values_mut().any(|node| node.remove(id)),
            _ => false,
        }
    }
}

/// A walk through the tree beside the walk through the parsed file: wherever the value is a default, it points
/// at the nearest thing that was written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor<'a> {
    node: Option<&'a Node>,
    place: &'a Place,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(root: &'a Node) -> Self {
        Self {
            node: Some(root),
            place: root.point(),
        }
    }

    pub(super) fn key(self, key: &str) -> Self {
        self.to(self.node.and_then(|node| node.get(key)))
    }

    pub(super) fn index(self, index: usize) -> Self {
        self.to(self.node.and_then(|node| node.index(index)))
    }

    /// Where to point at.
    pub(super) const fn place(self) -> &'a Place {
        self.place
    }

    /// Where the key is.
    pub(super) fn key_place(self) -> &'a Place {
        self.node.map_or(self.place, |node| &node.key_place)
    }

    /// Whether it was written, be it wrongly.
    pub(super) fn is_written(self) -> bool {
        self.node.is_some()
    }

    /// Whether something in it was wrong and reported already.
    pub(super) fn is_damaged(self) -> bool {
        self.node.is_some_and(|node| node.damaged)
    }

    fn to(self, node: Option<&'a Node>) -> Self {
        Self {
            node,
            place: node.map_or(self.place, Node::point),
        }
    }
}

/// Every name that is declared in the file, rightly or wrongly, so that one mistake is reported once.
#[derive(Debug, Default)]
pub(super) struct DeclaredNames(BTreeMap<&'static str, Vec<String>>);

impl DeclaredNames {
    pub(super) fn of(root: &Node) -> Self {
        let mut names = BTreeMap::new();
        for section in ["services", "groups", "trusted_issuers"] {
            let keys = root
                .get(section)
                .map(|table| table.keys().map(str::to_owned).collect());
            names.insert(section, keys.unwrap_or_default());
        }
        let roles = root
            .get("roles")
            .map(|list| list.texts().map(str::to_owned).collect());
        names.insert("roles", roles.unwrap_or_default());
        Self(names)
    }

    /// The names of a section: `services`, `groups`, `roles` or `trusted_issuers`.
    pub(super) fn of_section(&self, section: &str) -> &[String] {
        self.0.get(section).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(text: &str) -> Node {
        parse(text, &mut Numbering::default(), &Place::File).unwrap()
    }

    #[test]
    fn a_cursor_points_at_the_nearest_thing_written() {
        let text = "[listen]\ngateway = 8443\n";
        let root = tree(text);
        let listen = Cursor::new(&root).key("listen");
        assert_eq!(listen.key("gateway").place(), &Place::File(19..23));
        assert_eq!(listen.key("gateway").key_place(), &Place::File(9..16));
        assert_eq!(listen.key("server").place(), listen.place());
        assert!(!listen.key("server").is_written());
    }

    #[test]
    fn a_node_taken_out_damages_its_parent_only() {
        let mut root = tree("a = { b = 1, c = 2 }\nd = 3\n");
        let id = root.get("a").unwrap().get("b").unwrap().id;
        assert!(root.remove(id));
        assert!(!root.remove(id));
        assert!(root.get("a").unwrap().damaged);
        assert!(!root.damaged);
        assert_eq!(root.get("a").unwrap().keys().collect::<Vec<_>>(), ["c"]);
    }

    #[test]
    fn all_syntax_errors_of_a_text_are_found() {
        let errors = parse(
            "a = \nb = 1\nc = [\n",
            &mut Numbering::default(),
            &Place::File,
        )
        .unwrap_err();
        assert!(errors.len() >= 2, "{errors:?}");
    }
}
