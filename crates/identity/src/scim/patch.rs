//! Changes of parts of a resource (RFC 7644 section 3.5.2).

use serde_json::{Map, Value};

use super::{
    error::ScimError,
    filter::{Comparison, Filter, Path},
    schema::{Attribute, Mutability, ResourceType},
    values::{expect_schema, member, object, read_value},
};
use crate::limits::MAX_PATCH_OPERATIONS;

const URN: &str = "urn:ietf:params:scim:api:messages:2.0:PatchOp";

/// What is done at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Add,
    Replace,
    Remove,
}

/// One change.
#[derive(Debug, Clone)]
pub(super) struct Operation {
    pub(super) verb: Verb,
    pub(super) path: Path,
    pub(super) value: Value,
}

/// Reads the changes in `body`. One without a path becomes one for each attribute in its value.
pub(super) fn read_operations(of: ResourceType, body: &Value) -> Result<Vec<Operation>, ScimError> {
    let body = object(body)?;
    expect_schema(body, URN)?;
    let given = member(body, "Operations").and_then(Value::as_array);
    let given = given.ok_or_else(|| ScimError::syntax("`Operations` is missing"))?;
    let mut operations = Vec::new();
    for one in given {
        read_operation(of, object(one)?, &mut operations)?;
        if operations.len() > MAX_PATCH_OPERATIONS {
            let why = format!("more than {MAX_PATCH_OPERATIONS} operations");
            return Err(ScimError::too_many(why));
        }
    }
    if operations.is_empty() && given.is_empty() {
        return Err(ScimError::syntax("`Operations` is empty"));
    }
    Ok(operations)
}

fn read_operation(
    of: ResourceType,
    given: &Map<String, Value>,
    operations: &mut Vec<Operation>,
) -> Result<(), ScimError> {
    let verb = match member(given, "op").and_then(Value::as_str) {
        Some(op) if op.eq_ignore_ascii_case("add") => Verb::Add,
        Some(op) if op.eq_ignore_ascii_case("replace") => Verb::Replace,
        Some(op) if op.eq_ignore_ascii_case("remove") => Verb::Remove,
        _ => {
            return Err(ScimError::syntax(
                "`op` is to be `add`, `replace` or `remove`",
            ));
        }
    };
    let value = member(given, "value").cloned().unwrap_or(Value::Null);
    match member(given, "path") {
        Some(Value::String(path)) => {
            let path = Path::parse(path, of)?;
            let leaf = path.part.unwrap_or(path.attribute);
            for written in [path.attribute, leaf] {
                if written.mutability == Mutability::ReadOnly {
                    let why = format!("`{}` is read only", written.name);
                    return Err(ScimError::mutability(why));
                }
            }
            operations.push(Operation { verb, path, value });
            Ok(())
        }
        None | Some(Value::Null) if verb == Verb::Remove => {
            Err(ScimError::no_target("what is to be removed needs a `path`"))
        }
        None | Some(Value::Null) => {
            for (name, value) in object(&value)? {
                // What a body may have besides, a change may have too.
                let Ok(path) = Path::parse(name, of) else {
                    continue;
                };
                let leaf = path.part.unwrap_or(path.attribute);
                let is_written = [path.attribute, leaf]
                    .iter()
                    .all(|written| written.mutability != Mutability::ReadOnly);
                if is_written {
                    let value = value.clone();
                    operations.push(Operation { verb, path, value });
                }
            }
            Ok(())
        }
        Some(_) => Err(ScimError::path("`path` is to be a text")),
    }
}

impl Operation {
    /// Does it to `resource`, which has the attributes a client may write.
    pub(super) fn apply(&self, resource: &mut Map<String, Value>) -> Result<(), ScimError> {
        let attribute = self.path.attribute;
        if attribute.is_many {
            return self.apply_to_many(resource);
        }
        match self.path.part {
            Some(part) => {
                let known = resource.remove(attribute.name);
                let mut parts = known.and_then(into_object).unwrap_or_default();
                self.set(&mut parts, part, &self.value)?;
                if !parts.is_empty() {
                    resource.insert(attribute.name.to_owned(), Value::Object(parts));
                }
                Ok(())
            }
            None => self.set(resource, attribute, &self.value),
        }
    }

    /// Sets or removes one attribute of an object.
    fn set(
        &self,
        holder: &mut Map<String, Value>,
        attribute: &Attribute,
        value: &Value,
    ) -> Result<(), ScimError> {
        let name = attribute.name;
        let value = match self.verb {
            Verb::Remove => None,
            Verb::Add | Verb::Replace => read_value(attribute, value)?,
        };
        match (value, holder.get_mut(name)) {
            // Parts that are not named stay.
            (Some(Value::Object(parts)), Some(Value::Object(known))) => known.extend(parts),
            (Some(value), _) => {
                holder.insert(name.to_owned(), value);
            }
            (None, _) if attribute.is_required => {
                let why = format!("`{name}` cannot be without a value");
                return Err(ScimError::mutability(why));
            }
            // It is not in what was read, and has to go all the same.
            (None, _) if attribute.mutability == Mutability::WriteOnly => {
                holder.insert(name.to_owned(), Value::Null);
            }
            (None, _) => {
                holder.remove(name);
            }
        }
        Ok(())
    }

    fn apply_to_many(&self, resource: &mut Map<String, Value>) -> Result<(), ScimError> {
        let name = self.path.attribute.name;
        let known = resource.remove(name);
        let mut values = known.and_then(into_array).unwrap_or_default();
        let touched = if self.path.filter.is_none() && self.path.part.is_none() {
            self.change_all(&mut values)?
        } else {
            self.change_some(&mut values)?
        };
        only_one_primary(&mut values, &touched);
        if !values.is_empty() {
            resource.insert(name.to_owned(), Value::Array(values));
        }
        Ok(())
    }

    /// Adds values, or puts others in the place of all. Answers which they are.
    fn change_all(&self, values: &mut Vec<Value>) -> Result<Vec<usize>, ScimError> {
        let given = read_value(self.path.attribute, &self.value)?;
        let given = given.and_then(into_array).unwrap_or_default();
        match self.verb {
            Verb::Add => {
                let mut touched = Vec::new();
                for value in given {
                    if !values.contains(&value) {
                        touched.push(values.len());
                        values.push(value);
                    }
                }
                Ok(touched)
            }
            Verb::Replace => {
                *values = given;
                Ok(Vec::new())
            }
            // The values to be removed are named by some clients here, instead of in a filter.
            Verb::Remove if !given.is_empty() => {
                let named = |value: &Value| {
                    given
                        .iter()
                        .any(|one| one.get("value") == value.get("value"))
                };
                values.retain(|value| !named(value));
                Ok(Vec::new())
            }
            Verb::Remove => {
                values.clear();
                Ok(Vec::new())
            }
        }
    }

    /// Changes the values that the filter finds, or a part of all. Answers which.
    fn change_some(&self, values: &mut Vec<Value>) -> Result<Vec<usize>, ScimError> {
        let filter = self.path.filter.as_ref();
        let is_meant = |value: &Value| filter.is_none_or(|filter| filter.matches(value));
        let mut touched = Vec::new();
        match (self.verb, self.path.part) {
            (Verb::Remove, None) => {
                values.retain(|value| !is_meant(value));
                return Ok(touched);
            }
            (_, part) => {
                for (at, value) in values.iter_mut().enumerate() {
                    if is_meant(value)
                        && let Some(parts) = value.as_object_mut()
                    {
                        self.change_one(parts, part)?;
                        touched.push(at);
                    }
                }
                values.retain(|value| value.as_object().is_none_or(|parts| !parts.is_empty()));
            }
        }
        if touched.is_empty() && self.verb != Verb::Remove {
            let new = (self.verb == Verb::Add)
                .then(|| filter.and_then(described))
                .flatten();
            let mut new = new.ok_or_else(|| ScimError::no_target("the path finds no value"))?;
            self.change_one(&mut new, self.path.part)?;
            touched.push(values.len());
            values.push(Value::Object(new));
        }
        Ok(touched)
    }

    fn change_one(
        &self,
        parts: &mut Map<String, Value>,
        part: Option<&'static Attribute>,
    ) -> Result<(), ScimError> {
        if let Some(part) = part {
            return self.set(parts, part, &self.value);
        }
        let given = read_value(self.path.attribute, &self.value)?;
        let mut given = given.and_then(into_array).unwrap_or_default().into_iter();
        match (given.next().and_then(into_object), given.next()) {
            (Some(given), None) => {
                parts.extend(given);
                Ok(())
            }
            _ => Err(ScimError::value("the parts of one value are expected")),
        }
    }
}

/// The value that a filter describes by saying what its parts equal.
fn described(filter: &Filter) -> Option<Map<String, Value>> {
    match filter {
        Filter::All(filters) => {
            let parts = filters.iter().map(described).collect::<Option<Vec<_>>>()?;
            Some(parts.into_iter().flatten().collect())
        }
        Filter::Compare(place, Comparison::Equal, value) if !value.is_null() => Some(
            Map::from_iter([(place.attribute.name.to_owned(), value.clone())]),
        ),
        _ => None,
    }
}

/// If one of those `touched` is primary now, no other is (RFC 7644 section 3.5.2).
fn only_one_primary(values: &mut [Value], touched: &[usize]) {
    let is_primary = |value: &Value| value.get("primary") == Some(&Value::Bool(true));
    let newest = touched
        .iter()
        .copied()
        .rfind(|&at| values.get(at).is_some_and(is_primary));
    let Some(newest) = newest else { return };
    for (at, value) in values.iter_mut().enumerate() {
        if at != newest
            && is_primary(value)
            && let Some(parts) = value.as_object_mut()
        {
            parts.insert("primary".to_owned(), Value::Bool(false));
        }
    }
}

fn into_object(value: Value) -> Option<Map<String, Value>> {
    match value {
        Value::Object(object) => Some(object),
        _ => None,
    }
}

fn into_array(value: Value) -> Option<Vec<Value>> {
    match value {
        Value::Array(array) => Some(array),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn patched(resource: Value, operations: Value) -> Result<Value, ScimError> {
        let body = json!({ "schemas": [URN], "Operations": operations });
        let mut resource = into_object(resource).unwrap();
        for operation in read_operations(ResourceType::User, &body)? {
            operation.apply(&mut resource)?;
        }
        Ok(Value::Object(resource))
    }

    fn refused(resource: Value, operation: Value) -> &'static str {
        match patched(resource, json!([operation])) {
            Err(ScimError::Refused {
                kind: Some(kind), ..
            }) => kind,
            other => panic!("{other:?}"),
        }
    }

    fn two() -> Value {
        json!({ "userName": "b", "emails": [
            { "value": "w@x.org", "type": "work", "primary": true },
            { "value": "h@x.org", "type": "home" },
        ]})
    }

    #[test]
    fn single_values_are_set_and_removed() {
        let after = patched(
            json!({ "userName": "b", "name": { "givenName": "B" } }),
            json!([
                { "op": "Replace", "path": "DisplayName", "value": "Babs" },
                { "op": "add", "path": "name.familyName", "value": "J" },
                { "op": "add", "path": "name", "value": { "formatted": "B J" } },
                { "op": "remove", "path": "name.givenName" },
                { "op": "replace", "value": { "externalId": "7", "id": "x", "unknown": 1, "name.givenName": "C" } },
                { "op": "replace", "path": "active", "value": "False" },
            ]),
        );
        let expected = json!({ "userName": "b", "displayName": "Babs", "externalId": "7", "active": false,
            "name": { "familyName": "J", "formatted": "B J", "givenName": "C" } });
        assert_eq!(after.unwrap(), expected);
        let gone = patched(
            json!({ "userName": "b", "name": { "givenName": "B" }, "displayName": "x" }),
            json!([
                { "op": "remove", "path": "name.givenName" },
                { "op": "remove", "path": "displayName" },
                { "op": "remove", "path": "password" },
            ]),
        );
        assert_eq!(gone.unwrap(), json!({ "userName": "b", "password": null }));
    }

    #[test]
    fn values_of_many_are_found_by_filters() {
        let after =
            |operation: Value| patched(two(), json!([operation])).unwrap()["emails"].clone();
        let added = json!({ "op": "add", "path": "emails", "value": [{ "value": "n@x.org", "primary": true }] });
        assert_eq!(after(added)[0]["primary"], false);
        let again = json!({ "op": "add", "path": "emails", "value": { "value": "h@x.org", "type": "home" } });
        assert_eq!(after(again), two()["emails"]);
        let changed = json!({ "op": "replace", "path": "emails[type eq \"home\"].value", "value": "z@x.org" });
        assert_eq!(after(changed)[1]["value"], "z@x.org");
        let made =
            json!({ "op": "add", "path": "emails[type eq \"other\"].value", "value": "o@x.org" });
        assert_eq!(
            after(made)[2],
            json!({ "type": "other", "value": "o@x.org" })
        );
        let primary =
            json!({ "op": "add", "path": "emails[type eq \"home\"].primary", "value": true });
        assert_eq!(
            (
                after(primary.clone())[0]["primary"].clone(),
                after(primary)[1]["primary"].clone()
            ),
            (json!(false), json!(true))
        );
        let removed = json!({ "op": "remove", "path": "emails[type eq \"work\"]" });
        assert_eq!(
            after(removed),
            json!([{ "value": "h@x.org", "type": "home" }])
        );
        let named = json!({ "op": "remove", "path": "emails", "value": [{ "value": "w@x.org" }] });
        assert_eq!(after(named).as_array().unwrap().len(), 1);
        let part = json!({ "op": "remove", "path": "emails.type" });
        assert_eq!(after(part)[1], json!({ "value": "h@x.org" }));
        assert_eq!(
            after(json!({ "op": "remove", "path": "emails" })),
            Value::Null
        );
        let other = json!({ "op": "replace", "path": "emails", "value": [{ "value": "n@x.org" }] });
        assert_eq!(after(other), json!([{ "value": "n@x.org" }]));
    }

    #[test]
    fn what_cannot_be_done_is_said_by_its_name() {
        for (operation, kind) in [
            (json!({ "op": "move", "path": "name" }), "invalidSyntax"),
            (json!({ "op": "remove" }), "noTarget"),
            (json!({ "op": "remove", "path": "userName" }), "mutability"),
            (
                json!({ "op": "replace", "path": "userName", "value": null }),
                "mutability",
            ),
            (
                json!({ "op": "replace", "path": "id", "value": "x" }),
                "mutability",
            ),
            (
                json!({ "op": "add", "path": "groups", "value": [{ "value": "grp_1" }] }),
                "mutability",
            ),
            (
                json!({ "op": "add", "path": "meta.version", "value": "x" }),
                "mutability",
            ),
            (
                json!({ "op": "add", "path": "nothing", "value": 1 }),
                "invalidPath",
            ),
            (json!({ "op": "add", "path": 7, "value": 1 }), "invalidPath"),
            (
                json!({ "op": "add", "path": "emails[type like \"x\"]", "value": 1 }),
                "invalidFilter",
            ),
            (
                json!({ "op": "replace", "path": "emails[type eq \"other\"].value", "value": "x" }),
                "noTarget",
            ),
            (
                json!({ "op": "add", "path": "displayName", "value": 7 }),
                "invalidValue",
            ),
            (
                json!({ "op": "add", "path": "active", "value": "perhaps" }),
                "invalidValue",
            ),
            (
                json!({ "op": "add", "path": "emails", "value": ["x"] }),
                "invalidValue",
            ),
            (json!({ "op": "add", "value": "x" }), "invalidSyntax"),
        ] {
            assert_eq!(refused(two(), operation.clone()), kind, "{operation}");
        }
        let many: Vec<Value> = (0..=MAX_PATCH_OPERATIONS)
            .map(|_| json!({ "op": "add", "path": "displayName", "value": "x" }))
            .collect();
        assert!(patched(two(), json!(many)).is_err());
        assert!(patched(two(), json!([])).is_err());
    }
}
