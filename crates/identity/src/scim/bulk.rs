//! Many requests in one (RFC 7644 section 3.7): each is done or not for itself, in the order in which they can be.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::{
    Provisioner, ScimAnswer, ScimMethod, ScimRequest, error,
    error::ScimError,
    parse,
    values::{expect_schema, member, object},
};
use crate::{Fault, Provider, limits::MAX_BULK_OPERATIONS};

const REQUEST: &str = "urn:ietf:params:scim:api:messages:2.0:BulkRequest";
const RESPONSE: &str = "urn:ietf:params:scim:api:messages:2.0:BulkResponse";
/// Before the id that a client gave to what another operation makes.
const REFERENCE: &str = "bulkId:";

/// One of the requests.
struct Job {
    method: ScimMethod,
    /// As it was written.
    path: String,
    bulk_id: Option<String>,
    version: Option<String>,
    data: Value,
    /// What it waits for.
    waits_for: BTreeSet<String>,
}

impl Provider {
    pub(super) fn bulk(&self, body: &[u8], by: &Provisioner) -> Result<ScimAnswer, ScimError> {
        let body = parse(body)?;
        let body = object(&body)?;
        expect_schema(body, REQUEST)?;
        let given = member(body, "Operations").and_then(Value::as_array);
        let given = given.ok_or_else(|| ScimError::syntax("`Operations` is missing"))?;
        if given.len() > MAX_BULK_OPERATIONS {
            let why = format!(
                "{} operations; {MAX_BULK_OPERATIONS} are allowed",
                given.len()
            );
            return Err(ScimError::new(413, Some("tooMany"), why));
        }
        let jobs = given.iter().map(Job::read).collect::<Result<Vec<_>, _>>()?;
        let mut made_under = BTreeSet::new();
        for id in jobs.iter().filter_map(|job| job.bulk_id.as_deref()) {
            if !made_under.insert(id) {
                return Err(ScimError::syntax(format!("`bulkId` {id} comes twice")));
            }
        }
        let fail_on = member(body, "failOnErrors").and_then(Value::as_u64);
        let answers = self.run(&jobs, fail_on.unwrap_or(u64::MAX), by)?;
        Ok(ScimAnswer::found(
            json!({ "schemas": [RESPONSE], "Operations": answers }),
        ))
    }

    /// Does the jobs, until as many have failed as make the rest pointless. Answers in the order of the jobs.
    fn run(&self, jobs: &[Job], fail_on: u64, by: &Provisioner) -> Result<Vec<Value>, Fault> {
        let mut made: BTreeMap<&str, String> = BTreeMap::new();
        let mut answers: BTreeMap<usize, Value> = BTreeMap::new();
        let mut failures = 0;
        loop {
            let next = jobs.iter().enumerate().find(|(at, job)| {
                let is_ready = job
                    .waits_for
                    .iter()
                    .all(|id| made.contains_key(id.as_str()));
                is_ready && !answers.contains_key(at)
            });
            let Some((at, job)) = next.filter(|_| failures < fail_on.max(1)) else {
                break;
            };
            let answer = self.scim(&job.request(&made).borrow(job), by)?;
            let id = answer.body.as_ref().and_then(|body| body.get("id"));
            if let (Some(bulk_id), Some(id), 201) = (
                job.bulk_id.as_deref(),
                id.and_then(Value::as_str),
                answer.status,
            ) {
                made.insert(bulk_id, id.to_owned());
            }
            failures += u64::from(answer.status >= 400);
            answers.insert(at, job.shown(answer, &self.scim_base()));
        }
        for (at, job) in jobs.iter().enumerate() {
            if !answers.contains_key(&at) && failures < fail_on.max(1) {
                let why = "refers to what no operation has made";
                let refused = ScimAnswer {
                    body: Some(error::body(409, Some("invalidValue"), why)),
                    ..ScimAnswer::error(409, why)
                };
                failures += 1;
                answers.insert(at, job.shown(refused, &self.scim_base()));
            }
        }
        Ok(answers.into_values().collect())
    }
}

/// A job with the ids of what was made in the places of references.
struct Resolved {
    path: String,
    body: Vec<u8>,
}

impl Resolved {
    fn borrow<'a>(&'a self, job: &'a Job) -> ScimRequest<'a> {
        ScimRequest {
            method: job.method,
            path: &self.path,
            query: "",
            body: &self.body,
            if_match: job.version.as_deref(),
            if_none_match: None,
        }
    }
}

impl Job {
    fn read(given: &Value) -> Result<Self, ScimError> {
        let given = object(given)?;
        let text = |name: &str| {
            member(given, name)
                .and_then(Value::as_str)
                .map(str::to_owned)
        };
        let method = text("method").map(|method| method.to_ascii_uppercase());
        let method = method.as_deref().and_then(ScimMethod::parse);
        let method = method.filter(|method| *method != ScimMethod::Get);
        let method =
            method.ok_or_else(|| ScimError::syntax("`method` is POST, PUT, PATCH or DELETE"))?;
        let path = text("path").unwrap_or_default();
        let is_resource = path.starts_with("/Users") || path.starts_with("/Groups");
        if !is_resource || path.contains("/.search") || path.contains('?') {
            return Err(ScimError::syntax("`path` leads to users or groups"));
        }
        let bulk_id = text("bulkId");
        if method == ScimMethod::Post && bulk_id.is_none() {
            return Err(ScimError::syntax("what is made needs a `bulkId`"));
        }
        let data = member(given, "data").cloned().unwrap_or(Value::Null);
        let mut waits_for = BTreeSet::new();
        references(&data, &mut waits_for);
        let in_path = path
            .split('/')
            .filter_map(|part| part.strip_prefix(REFERENCE));
        waits_for.extend(in_path.map(str::to_owned));
        Ok(Self {
            method,
            path,
            bulk_id,
            version: text("version"),
            data,
            waits_for,
        })
    }

    fn request(&self, made: &BTreeMap<&str, String>) -> Resolved {
        let resolve = |part: &str| match part.strip_prefix(REFERENCE) {
            Some(id) => made.get(id).cloned().unwrap_or_else(|| part.to_owned()),
            None => part.to_owned(),
        };
        let path: Vec<String> = self.path.split('/').map(resolve).collect();
        let mut data = self.data.clone();
        replace_references(&mut data, made);
        Resolved {
            path: path.join("/"),
            body: if data.is_null() {
                Vec::new()
            } else {
                data.to_string().into_bytes()
            },
        }
    }

    /// The answer to this job.
    fn shown(&self, answer: ScimAnswer, base: &str) -> Value {
        let mut shown = Map::from_iter([
            ("method".to_owned(), json!(self.method.as_str())),
            ("status".to_owned(), json!(answer.status.to_string())),
        ]);
        let own = (self.method != ScimMethod::Post).then(|| format!("{base}{}", self.path));
        let parts = [
            ("bulkId", self.bulk_id.clone()),
            ("version", answer.version),
            ("location", answer.location.or(own)),
        ];
        for (name, value) in parts {
            if let Some(value) = value {
                shown.insert(name.to_owned(), json!(value));
            }
        }
        if answer.status >= 400 {
            shown.insert("response".to_owned(), json!(answer.body));
        }
        Value::Object(shown)
    }
}

fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::String(text) => found.extend(text.strip_prefix(REFERENCE).map(str::to_owned)),
        Value::Array(values) => values.iter().for_each(|value| references(value, found)),
        Value::Object(parts) => parts.values().for_each(|value| references(value, found)),
        _ => {}
    }
}

fn replace_references(value: &mut Value, made: &BTreeMap<&str, String>) {
    match value {
        Value::String(text) => {
            let id = text.strip_prefix(REFERENCE).and_then(|id| made.get(id));
            if let Some(id) = id {
                *text = id.clone();
            }
        }
        Value::Array(values) => {
            for value in values {
                replace_references(value, made);
            }
        }
        Value::Object(parts) => {
            for value in parts.values_mut() {
                replace_references(value, made);
            }
        }
        _ => {}
    }
}
