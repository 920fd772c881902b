//! Reading what a client writes: names in any case become those of the schema, what nobody may write is left out, and every
//! value is of its type.

use serde_json::{Map, Value};

use super::{
    error::ScimError,
    schema::{Attribute, Kind, Mutability, ResourceType},
};
use crate::{admin::check_text, limits::MAX_MEMBER_CHANGES};

/// What a client may write of the resource in `body` (RFC 7644 sections 3.3 and 3.5.1). Attributes that are not known, or
/// read only, are left out, as are those without a value.
pub(super) fn read_resource(
    of: ResourceType,
    body: &Value,
) -> Result<Map<String, Value>, ScimError> {
    let body = object(body)?;
    expect_schema(body, of.urn())?;
    let mut resource = Map::new();
    for (name, value) in body {
        let Some(attribute) = of.attribute(name) else {
            continue;
        };
        if attribute.mutability == Mutability::ReadOnly {
            continue;
        }
        if let Some(value) = read_value(attribute, value)? {
            let before = resource.insert(attribute.name.to_owned(), value);
            if before.is_some() {
                return Err(ScimError::syntax(format!("`{name}` comes twice")));
            }
        }
    }
    Ok(resource)
}

/// An object.
pub(super) fn object(value: &Value) -> Result<&Map<String, Value>, ScimError> {
    value
        .as_object()
        .ok_or_else(|| ScimError::syntax("an object is expected"))
}

/// The member with this name, whatever its case.
pub(super) fn member<'v>(object: &'v Map<String, Value>, name: &str) -> Option<&'v Value> {
    let mut members = object.iter();
    let found = members.find(|(key, _)| key.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value)
}

/// Refuses a message that says it is another.
pub(super) fn expect_schema(body: &Map<String, Value>, urn: &str) -> Result<(), ScimError> {
    let said = member(body, "schemas").and_then(Value::as_array);
    let mut said = said.into_iter().flatten().filter_map(Value::as_str);
    if said.any(|said| said.eq_ignore_ascii_case(urn)) {
        return Ok(());
    }
    Err(ScimError::syntax(format!("`schemas` must have {urn}")))
}

/// A value of `attribute`; none if there is nothing in it.
pub(super) fn read_value(attribute: &Attribute, value: &Value) -> Result<Option<Value>, ScimError> {
    if !attribute.is_many {
        return read_one(attribute, value);
    }
    let given = match value {
        Value::Array(given) => given.as_slice(),
        one => std::slice::from_ref(one),
    };
    if given.len() > MAX_MEMBER_CHANGES {
        let (name, count) = (attribute.name, given.len());
        let why = format!("`{name}` has {count} values, {MAX_MEMBER_CHANGES} are allowed");
        return Err(ScimError::too_many(why));
    }
    let mut values = Vec::with_capacity(given.len());
    for one in given.iter().filter(|one| !one.is_null()) {
        let name = attribute.name;
        let nothing = || ScimError::value(format!("there is nothing in a value of `{name}`"));
        values.push(read_one(attribute, one)?.ok_or_else(nothing)?);
    }
    let is_primary = |value: &&Value| value.get("primary") == Some(&Value::Bool(true));
    if values.iter().filter(is_primary).count() > 1 {
        let name = attribute.name;
        return Err(ScimError::value(format!(
            "more than one of `{name}` is primary"
        )));
    }
    Ok((!values.is_empty()).then_some(Value::Array(values)))
}

fn read_one(attribute: &Attribute, value: &Value) -> Result<Option<Value>, ScimError> {
    let name = attribute.name;
    let wrong = |expected: &str| ScimError::value(format!("`{name}` is to be {expected}"));
    if value.is_null() {
        return Ok(None);
    }
    match attribute.kind {
        Kind::Text | Kind::Reference(_) | Kind::Moment => {
            let text = value.as_str().ok_or_else(|| wrong("a text"))?;
            // A password has limits of its own, and may be of any characters.
            if attribute.mutability != Mutability::WriteOnly {
                check_text(name, Some(text))?;
            }
            Ok((!text.is_empty()).then(|| value.clone()))
        }
        Kind::Boolean => match value {
            Value::Bool(_) => Ok(Some(value.clone())),
            // Said by clients that should know better.
            Value::String(text) if text.eq_ignore_ascii_case("true") => Ok(Some(Value::Bool(true))),
            Value::String(text) if text.eq_ignore_ascii_case("false") => {
                Ok(Some(Value::Bool(false)))
            }
            _ => Err(wrong("true or false")),
        },
        // Nobody writes one.
        Kind::Integer => Err(wrong("left out")),
        Kind::Complex(_) => {
            let given = value.as_object().ok_or_else(|| wrong("an object"))?;
            let mut parts = Map::new();
            for (name, value) in given {
                let part = attribute.part(name);
                let part = part.filter(|part| part.mutability != Mutability::ReadOnly);
                if let Some(part) = part
                    && let Some(value) = read_one(part, value)?
                {
                    parts.insert(part.name.to_owned(), value);
                }
            }
            Ok((!parts.is_empty()).then_some(Value::Object(parts)))
        }
    }
}
