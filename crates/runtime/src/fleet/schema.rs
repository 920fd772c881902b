//! The JSON schema of the fleet file, for editors. It is committed at `docs/fleet.schema.json`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::FleetFile;

/// Where the schema is published.
const SCHEMA_ID: &str = "https://testudo.dev/schema/fleet.schema.json";

/// The JSON schema (2020-12) of the fleet file.
pub fn schema() -> Value {
    let mut schema = schemars::schema_for!(FleetFile);
    schema.insert("$id".to_owned(), SCHEMA_ID.into());
    schema.insert("title".to_owned(), "Testudo fleet file".into());
    schema.to_value()
}

/// The schema as it is committed: indented, keys in the order of the alphabet, with a final line break.
pub fn schema_text() -> String {
    format!("{:#}\n", in_order(schema()))
}

/// Whether serde_json keeps keys in the order of their insertion depends on what else is built with it.
fn in_order(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let sorted: BTreeMap<_, _> = map.into_iter().collect();
            let entries = sorted
                .into_iter()
                .map(|(key, value)| (key, in_order(value)));
            Value::Object(entries.collect())
        }
        Value::Array(items) => items.into_iter().map(in_order).collect(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_schema_is_the_one_of_this_code() {
        let committed = include_str!("../../../../docs/fleet.schema.json");
        assert!(
            committed == schema_text(),
            "docs/fleet.schema.json is out of date; regenerate it: cargo run -p xtask -- gen-schema"
        );
    }

    #[test]
    fn every_table_refuses_unknown_keys_and_every_key_is_described() {
        let schema = schema();
        let definitions = schema["$defs"].as_object().unwrap().iter();
        let tables = definitions.filter(|(_, definition)| definition["properties"].is_object());
        let tables: Vec<_> = tables
            .chain([(&"fleet".to_owned(), &schema)])
            .map(|(n, d)| (n.clone(), d.clone()))
            .collect();
        assert!(tables.len() >= 12);
        for (name, table) in tables {
            // The places a secret can be are alternatives, each closed in itself.
            assert_eq!(table["additionalProperties"], false, "{name}");
            for (key, property) in table["properties"].as_object().unwrap() {
                assert!(
                    property["description"].is_string(),
                    "{name}.{key} has no description"
                );
            }
        }
    }
}
