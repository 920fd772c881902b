//! JSON schemas in few words.

use serde_json::{Map, Value, json};

/// Anything.
pub fn any() -> Value {
    json!({})
}

/// A text.
pub fn text() -> Value {
    json!({ "type": "string" })
}

/// A text of this form.
pub fn pattern(pattern: &str) -> Value {
    json!({ "type": "string", "pattern": pattern })
}

/// One of these texts.
pub fn one_of(words: &[&str]) -> Value {
    json!({ "type": "string", "enum": words })
}

/// A number of things.
pub fn count() -> Value {
    json!({ "type": "integer", "minimum": 0, "maximum": i64::MAX })
}

/// True or false.
pub fn flag() -> Value {
    json!({ "type": "boolean" })
}

/// This, or nothing.
pub fn maybe(shape: Value) -> Value {
    json!({ "anyOf": [shape, { "type": "null" }] })
}

/// Many of this.
pub fn list(of: Value) -> Value {
    json!({ "type": "array", "items": of })
}

/// All of these fields, and no other.
pub fn object<const N: usize>(fields: [(&str, Value); N]) -> Value {
    some_of(fields, [])
}

/// All of the first fields, perhaps some of the second, and no other.
pub fn some_of<const N: usize, const M: usize>(
    all: [(&str, Value); N],
    some: [(&str, Value); M],
) -> Value {
    let required: Vec<String> = all.iter().map(|(name, _)| (*name).to_owned()).collect();
    let fields = all.into_iter().chain(some);
    let fields: Map<String, Value> = fields
        .map(|(name, shape)| (name.to_owned(), shape))
        .collect();
    json!({
        "type": "object",
        "properties": fields,
        "required": required,
        "additionalProperties": false,
    })
}

/// An object with these fields, whatever else it has.
pub fn open<const N: usize>(fields: [(&str, Value); N]) -> Value {
    let mut shape = object(fields);
    if let Some(shape) = shape.as_object_mut() {
        shape.remove("additionalProperties");
    }
    shape
}

/// What is described under this name.
pub fn named(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}
