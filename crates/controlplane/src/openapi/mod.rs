//! The OpenAPI document (3.1) of everything the server answers over HTTPS, at [`PATH`].
//!
//! Each route has an entry and each entry a route; a test compares them. What an answer looks like is checked against it by
//! a fuzzer that reads the document.

mod admin;
mod applications;
mod provider;
mod scim;
mod shape;
mod signals;

use std::sync::Arc;

use axum::{Json, extract::State};
use http::Method;
use serde_json::{Map, Value, json};

use self::shape::{count, list, named, object, pattern, some_of, text};
use crate::{
    api::{self, AdminAction, AdminActionGroup},
    plane::Plane,
};

/// Where the document is.
pub const PATH: &str = "/openapi.json";

/// The Cedar action of an operation: what policies say who may do.
const ACTION: &str = "x-testudo-action";

const JSON: &str = "application/json";
const PROBLEM: &str = "application/problem+json";
const SCIM: &str = "application/scim+json";
const FORM: &str = "application/x-www-form-urlencoded";
const HTML: &str = "text/html";

/// What is said about one operation.
struct Entry {
    method: Method,
    path: &'static str,
    summary: &'static str,
    query: Vec<Value>,
    body: Option<(&'static str, Value)>,
    /// Status, media type and shape; no shape, no body.
    answers: Vec<(u16, Option<(&'static str, Value)>)>,
    /// How it says no.
    refusals: Vec<(&'static str, Value)>,
}

impl Entry {
    fn new(method: Method, path: &'static str, summary: &'static str) -> Self {
        Self {
            method,
            path,
            summary,
            query: Vec::new(),
            body: None,
            answers: Vec::new(),
            refusals: vec![(PROBLEM, named("Problem"))],
        }
    }

    /// It may be asked with this in the query.
    fn query(mut self, name: &str, shape: Value, description: &str) -> Self {
        self.query.push(json!({
            "in": "query",
            "name": name,
            "schema": shape,
            "description": description,
        }));
        self
    }

    /// It must be.
    fn must(mut self, name: &str, shape: Value, description: &str) -> Self {
        self.query.push(json!({
            "in": "query",
            "name": name,
            "schema": shape,
            "description": description,
            "required": true,
        }));
        self
    }

    fn takes(mut self, media: &'static str, shape: Value) -> Self {
        self.body = Some((media, shape));
        self
    }

    fn gives(mut self, status: u16, media: &'static str, shape: Value) -> Self {
        self.answers.push((status, Some((media, shape))));
        self
    }

    fn gives_nothing(mut self, status: u16) -> Self {
        self.answers.push((status, None));
        self
    }

    /// It says no like this as well: what cannot be read at all is a problem everywhere.
    fn refuses(mut self, media: &'static str, shape: Value) -> Self {
        self.refusals.push((media, shape));
        self
    }

    /// It says no like this alone.
    fn always_refuses(mut self, media: &'static str, shape: Value) -> Self {
        self.refusals = vec![(media, shape)];
        self
    }

    fn to_json(&self, action: Option<AdminAction>) -> Value {
        let content = |media: &str, shape: &Value| json!({ media: { "schema": shape } });
        let mut answers = Map::new();
        for (status, answer) in &self.answers {
            let mut said = json!({ "description": "done" });
            if let (Some(said), Some((media, shape))) = (said.as_object_mut(), answer) {
                said.insert("content".to_owned(), content(media, shape));
            }
            answers.insert(status.to_string(), said);
        }
        let refusals = self.refusals.iter();
        let refusals: Map<String, Value> = refusals
            .map(|(media, shape)| ((*media).to_owned(), json!({ "schema": shape })))
            .collect();
        let refused = json!({ "description": "refused", "content": refusals });
        answers.insert("default".to_owned(), refused);
        let parameters: Vec<Value> = path_parameters(self.path)
            .chain(self.query.clone())
            .collect();
        let mut said = json!({
            "operationId": operation_id(&self.method, self.path),
            "summary": self.summary,
            "parameters": parameters,
            "responses": answers,
            "security": [],
        });
        if let Some(said) = said.as_object_mut() {
            if let Some((media, shape)) = &self.body {
                let body = json!({ "required": true, "content": content(media, shape) });
                said.insert("requestBody".to_owned(), body);
            }
            if let Some(action) = action {
                said.insert("security".to_owned(), json!([{ "bearer": [] }]));
                said.insert("description".to_owned(), json!(needed(action)));
                said.insert(ACTION.to_owned(), json!(action.name()));
            }
        }
        said
    }
}

/// Who may, if the fleet's own policies say nothing about the action.
const fn needed(action: AdminAction) -> &'static str {
    match action.group() {
        AdminActionGroup::Read => {
            "Needs the role `testudo-auditor` or `testudo-admin`, or a policy that permits the action."
        }
        AdminActionGroup::Write => {
            "Needs the role `testudo-admin`, or a policy that permits the action."
        }
        AdminActionGroup::Provision => {
            "Needs a service account with the scope `testudo:scim`, the role `testudo-admin`, or a policy that permits \
             the action."
        }
    }
}

/// `get /api/v1/users/{username}` is `get_api_v1_users_username`.
fn operation_id(method: &Method, path: &str) -> String {
    let words = path.split(|character: char| !character.is_ascii_alphanumeric());
    let words = words.filter(|word| !word.is_empty());
    let method = method.as_str().to_lowercase();
    std::iter::once(method.as_str())
        .chain(words)
        .collect::<Vec<_>>()
        .join("_")
}

fn path_parameters(path: &str) -> impl Iterator<Item = Value> + '_ {
    let names = path
        .split('{')
        .skip(1)
        .filter_map(|rest| rest.split_once('}'));
    names.map(|(name, _)| {
        json!({ "in": "path", "name": name, "required": true, "schema": parameter_shape(path, name) })
    })
}

/// What a parameter of a path looks like, by its name.
fn parameter_shape(path: &str, name: &str) -> Value {
    match name {
        "token" if path.starts_with("/api/v1/tokens/") => pattern("^tok_[0-9A-HJKMNP-TV-Z]{26}$"),
        "username" => pattern("^[a-z0-9][-a-z0-9._@+]{0,127}$"),
        "client" => pattern("^[a-z0-9][-a-z0-9._]{0,127}$"),
        "group" | "role" => pattern("^[a-z0-9][-a-z0-9._:]{0,63}$"),
        "kind" => shape::one_of(&["user", "service-account", "group"]),
        "session" => pattern("^ses_[0-9A-HJKMNP-TV-Z]{26}$"),
        "api_key" => pattern("^key_[0-9A-HJKMNP-TV-Z]{26}$"),
        "registration_token" => pattern("^rgt_[0-9A-HJKMNP-TV-Z]{26}$"),
        "token" => pattern("^join_[0-9A-HJKMNP-TV-Z]{26}$"),
        "stream" => pattern("^str_[0-9A-HJKMNP-TV-Z]{26}$"),
        "decision" => pattern("^dec_[0-9A-HJKMNP-TV-Z]{26}$"),
        _ => pattern("^[-A-Za-z0-9_.:@]{1,128}$"),
    }
}

/// What everybody is told.
pub async fn serve(State(plane): State<Arc<Plane>>) -> Json<Value> {
    Json(document(&plane.provider.settings().issuer))
}

/// The document of the server at `url`.
pub fn document(url: &str) -> Value {
    let actions: Vec<(Method, &str, AdminAction)> = api::operations()
        .into_iter()
        .map(|operation| (operation.method, operation.path, operation.action))
        .collect();
    let mut paths: Map<String, Value> = Map::new();
    for entry in entries() {
        let action = actions
            .iter()
            .find(|(method, path, _)| *method == entry.method && *path == entry.path)
            .map(|(_, _, action)| *action);
        let operations = paths.entry(entry.path).or_insert_with(|| json!({}));
        if let Some(operations) = operations.as_object_mut() {
            let method = entry.method.as_str().to_lowercase();
            operations.insert(method, entry.to_json(action));
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Testudo",
            "description": "Identity provider, admin API and SCIM of a fleet's control plane.",
            "version": env!("CARGO_PKG_VERSION"),
        },
        "servers": [{ "url": url }],
        "paths": paths,
        "components": {
            "securitySchemes": { "bearer": { "type": "http", "scheme": "bearer" } },
            "schemas": schemas(),
        },
    })
}

fn entries() -> impl Iterator<Item = Entry> {
    let entries = admin::entries().into_iter();
    entries
        .chain(applications::entries())
        .chain(scim::entries())
        .chain(provider::entries())
        .chain(signals::entries())
}

/// What is used in many places.
fn schemas() -> Value {
    let mut schemas = Map::new();
    let problem = some_of(
        [
            ("type", text()),
            ("title", text()),
            ("status", count()),
            ("code", text()),
        ],
        [("detail", text()), ("decision", text())],
    );
    schemas.insert("Problem".to_owned(), problem);
    let oauth = some_of(
        [("error", text())],
        [("error_description", text()), ("error_uri", text())],
    );
    schemas.insert("OauthError".to_owned(), oauth);
    let all = [
        admin::schemas(),
        applications::schemas(),
        scim::schemas(),
        signals::schemas(),
    ];
    for (name, shape) in all.into_iter().flatten() {
        schemas.insert(name.to_owned(), shape);
    }
    Value::Object(schemas)
}

/// A page of a list.
fn page(of: Value) -> Value {
    object([("items", list(of)), ("next", shape::maybe(text()))])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// All methods and paths that are served.
    fn served() -> impl Iterator<Item = (Method, &'static str)> {
        let api = api::operations().into_iter();
        let api = api.map(|operation| (operation.method, operation.path));
        let provider = crate::http::endpoints().into_iter();
        api.chain(provider.map(|endpoint| (endpoint.method, endpoint.path)))
    }

    #[test]
    fn every_route_has_an_entry_and_every_entry_a_route() {
        let key = |method: Method, path: &str| format!("{method} {path}");
        let served: BTreeSet<String> = served().map(|(method, path)| key(method, path)).collect();
        let described: Vec<String> = entries()
            .map(|entry| key(entry.method, entry.path))
            .collect();
        let distinct: BTreeSet<String> = described.iter().cloned().collect();
        assert_eq!(
            described.len(),
            distinct.len(),
            "something is described twice"
        );
        let missing: Vec<_> = served.difference(&distinct).collect();
        assert!(missing.is_empty(), "not described in openapi/: {missing:?}");
        let gone: Vec<_> = distinct.difference(&served).collect();
        assert!(gone.is_empty(), "described and not served: {gone:?}");
    }

    #[test]
    fn every_administrative_operation_names_its_action_and_every_action_has_an_operation() {
        let document = document("https://localhost:9443");
        let paths = document["paths"].as_object().unwrap();
        let mut named = BTreeSet::new();
        for (path, operations) in paths {
            for (method, operation) in operations.as_object().unwrap() {
                let is_guarded = path.starts_with("/api/v1/") || path.starts_with("/scim/v2/");
                let action = operation[ACTION].as_str();
                assert_eq!(action.is_some(), is_guarded, "{method} {path}");
                let is_read = AdminAction::ALL.iter().any(|known| {
                    Some(known.name()) == action && known.group() == AdminActionGroup::Read
                });
                // What is asked with GET changes nothing; what is sent with another method may not be a mere look.
                let may_look = method == "get" || path == "/api/v1/audit/verify";
                assert!(may_look || !is_read, "{method} {path} is {action:?}");
                named.extend(action.map(str::to_owned));
            }
        }
        let known = AdminAction::ALL
            .iter()
            .map(|action| action.name().to_owned());
        assert_eq!(named, known.collect());
    }

    #[test]
    fn the_document_refers_to_nothing_that_is_not_in_it_and_names_no_operation_twice() {
        let document = document("https://localhost:9443");
        let text = document.to_string();
        let schemas = document["components"]["schemas"].as_object().unwrap();
        for reference in text.split("#/components/schemas/").skip(1) {
            let (name, _) = reference.split_once('"').unwrap();
            assert!(schemas.contains_key(name), "{name}");
        }
        let mut ids = BTreeSet::new();
        for operations in document["paths"].as_object().unwrap().values() {
            for operation in operations.as_object().unwrap().values() {
                let id = operation["operationId"].as_str().unwrap();
                assert!(ids.insert(id.to_owned()), "{id}");
                assert!(
                    operation["responses"].as_object().unwrap().len() > 1,
                    "{id}"
                );
            }
        }
        assert!(ids.len() > 70, "{}", ids.len());
    }
}
