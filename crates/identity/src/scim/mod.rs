//! SCIM 2.0 (RFC 7643, RFC 7644): the same users and groups, for systems that say who comes and goes.
//!
//! One truth: what is written here are the records of the directory, with the events and revocations of any other change.
//! A client of this protocol provisions people; it makes nobody an administrator, and takes over nobody who is one.
//!
//! Without HTTP: a [`ScimRequest`] in, a [`ScimAnswer`] out.

mod bulk;
mod description;
mod discovery;
mod error;
mod filter;
mod groups;
mod patch;
mod schema;
mod search;
mod users;
mod values;

use serde_json::{Map, Value, json};
use testudo_model::Timestamp;

pub use self::discovery::scim_fuzz;
use self::{error::ScimError, schema::ResourceType, search::Query};
use crate::{Caller, Fault, Provider, Reserved};

/// Where the interface is, behind the issuer.
pub const SCIM_PATH: &str = "/scim/v2";

/// What is asked for (RFC 7644 section 3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScimMethod {
    /// Read.
    Get,
    /// Make, search, or do many.
    Post,
    /// Say all anew.
    Put,
    /// Change parts.
    Patch,
    /// Remove.
    Delete,
}

impl ScimMethod {
    const ALL: [(Self, &'static str); 5] = [
        (Self::Get, "GET"),
        (Self::Post, "POST"),
        (Self::Put, "PUT"),
        (Self::Patch, "PATCH"),
        (Self::Delete, "DELETE"),
    ];

    /// Its name.
    fn as_str(self) -> &'static str {
        let mut known = Self::ALL.into_iter();
        known
            .find(|(method, _)| *method == self)
            .map_or("", |(_, name)| name)
    }

    /// The method of this name.
    pub fn parse(text: &str) -> Option<Self> {
        let mut known = Self::ALL.into_iter();
        known
            .find(|(_, name)| *name == text)
            .map(|(method, _)| method)
    }
}

/// A request.
#[derive(Debug, Clone, Copy)]
pub struct ScimRequest<'a> {
    /// What to do.
    pub method: ScimMethod,
    /// To what: the path behind [`SCIM_PATH`], e.g. `/Users`.
    pub path: &'a str,
    /// The query, as it came.
    pub query: &'a str,
    /// The body, as it came; empty if there is none.
    pub body: &'a [u8],
    /// `If-Match`.
    pub if_match: Option<&'a str>,
    /// `If-None-Match`.
    pub if_none_match: Option<&'a str>,
}

/// Who asks.
#[derive(Debug, Clone)]
pub struct Provisioner {
    /// For the events.
    pub caller: Caller,
    /// What it may neither give nor touch who has it. `None`, if it is an administrator itself.
    pub reserved: Option<Reserved>,
}

/// An answer.
#[derive(Debug, Clone, PartialEq)]
pub struct ScimAnswer {
    /// HTTP status.
    pub status: u16,
    /// The body.
    pub body: Option<Value>,
    /// `ETag`.
    pub version: Option<String>,
    /// `Location`.
    pub location: Option<String>,
}

impl ScimAnswer {
    fn found(body: Value) -> Self {
        Self {
            status: 200,
            body: Some(body),
            version: None,
            location: None,
        }
    }

    fn nothing() -> Self {
        Self {
            status: 204,
            body: None,
            version: None,
            location: None,
        }
    }

    /// A resource, with where it is and in which version.
    fn resource(status: u16, resource: &Value, query: &Query, of: ResourceType) -> Self {
        let meta = |name| {
            let text = resource.get("meta").and_then(|meta| meta.get(name));
            text.and_then(Value::as_str).map(str::to_owned)
        };
        Self {
            status,
            version: meta("version"),
            location: meta("location"),
            body: Some(query.projected(resource, of)),
        }
    }

    /// An error that something else than SCIM has found.
    pub fn error(status: u16, detail: &str) -> Self {
        Self {
            status,
            body: Some(error::body(status, None, detail)),
            version: None,
            location: None,
        }
    }
}

impl Provider {
    /// Answers a request.
    ///
    /// # Errors
    /// Ours alone: what is wrong with the request is an answer.
    pub fn scim(&self, request: &ScimRequest<'_>, by: &Provisioner) -> Result<ScimAnswer, Fault> {
        match self.dispatch(request, by) {
            Ok(answer) => Ok(answer),
            Err(ScimError::Fault(fault)) => Err(fault),
            Err(ScimError::Refused {
                status,
                kind,
                detail,
            }) => Ok(ScimAnswer {
                body: Some(error::body(status, kind, &detail)),
                ..ScimAnswer::error(status, "")
            }),
        }
    }

    fn dispatch(
        &self,
        request: &ScimRequest<'_>,
        by: &Provisioner,
    ) -> Result<ScimAnswer, ScimError> {
        use ScimMethod::{Get, Post};
        let path = request.path.trim_start_matches('/');
        let parts: Vec<&str> = path.split('/').collect();
        match (request.method, parts.as_slice()) {
            (Get, ["ServiceProviderConfig" | "ResourceTypes" | "Schemas", ..]) => {
                self.discover(&parts, request.query)
            }
            (Post, ["Bulk"]) => self.bulk(request.body, by),
            (Post, [".search"]) => {
                let query = Query::of_body(request.body)?;
                self.search(&ResourceType::ALL, &query)
            }
            (_, [endpoint, rest @ ..]) => match ResourceType::at(endpoint) {
                Some(of) => self.on_resources(of, rest, request, by),
                None => Err(ScimError::not_found("endpoint")),
            },
            (_, []) => Err(ScimError::not_found("endpoint")),
        }
    }

    fn on_resources(
        &self,
        of: ResourceType,
        rest: &[&str],
        request: &ScimRequest<'_>,
        by: &Provisioner,
    ) -> Result<ScimAnswer, ScimError> {
        use ScimMethod::{Delete, Get, Patch, Post, Put};
        let query = || Query::parse(request.query);
        let body = || parse(request.body);
        match (request.method, rest) {
            (Get, []) => self.search(&[of], &query()?),
            (Post, [".search"]) => self.search(&[of], &Query::of_body(request.body)?),
            (Post, []) => {
                let (body, query) = (body()?, query()?);
                let made = match of {
                    ResourceType::User => self.create_scim_user(&body, by)?,
                    ResourceType::Group => self.create_scim_group(&body, by)?,
                };
                Ok(ScimAnswer::resource(201, &made, &query, of))
            }
            (Get, [id]) => {
                let (query, found) = (query()?, self.scim_resource(of, id)?);
                let answer = ScimAnswer::resource(200, &found, &query, of);
                let is_known = request
                    .if_none_match
                    .is_some_and(|known| names(known, answer.version.as_deref()));
                Ok(match is_known {
                    true => ScimAnswer {
                        status: 304,
                        body: None,
                        ..answer
                    },
                    false => answer,
                })
            }
            (Put, [id]) => {
                let (body, query) = (body()?, query()?);
                let expected = Expectation(request.if_match);
                let changed = match of {
                    ResourceType::User => self.replace_scim_user(id, &body, expected, by)?,
                    ResourceType::Group => self.replace_scim_group(id, &body, expected, by)?,
                };
                Ok(ScimAnswer::resource(200, &changed, &query, of))
            }
            (Patch, [id]) => {
                let (body, query) = (body()?, query()?);
                let expected = Expectation(request.if_match);
                match of {
                    ResourceType::User => {
                        let changed = self.patch_scim_user(id, &body, expected, by)?;
                        Ok(ScimAnswer::resource(200, &changed, &query, of))
                    }
                    ResourceType::Group => {
                        self.patch_scim_group(id, &body, expected, by)?;
                        self.patched_scim_group(id, &query)
                    }
                }
            }
            (Delete, [id]) => {
                let expected = Expectation(request.if_match);
                match of {
                    ResourceType::User => self.delete_scim_user(id, expected, by)?,
                    ResourceType::Group => self.delete_scim_group(id, expected, by)?,
                }
                Ok(ScimAnswer::nothing())
            }
            _ => Err(ScimError::not_found("endpoint")),
        }
    }

    fn scim_resource(&self, of: ResourceType, id: &str) -> Result<Value, ScimError> {
        match of {
            ResourceType::User => self.scim_user(id),
            ResourceType::Group => self.scim_group(id),
        }
    }

    /// The interface's address.
    fn scim_base(&self) -> String {
        format!("{}{SCIM_PATH}", self.settings.issuer)
    }
}

/// Which version a change was decided on (`If-Match`, RFC 7644 section 3.14); without one, any.
#[derive(Clone, Copy)]
struct Expectation<'a>(Option<&'a str>);

impl Expectation<'_> {
    fn check(self, version: u64) -> Result<(), ScimError> {
        match self.0 {
            Some(expected) if !names(expected, Some(&entity_tag(version))) => {
                Err(ScimError::stale())
            }
            _ => Ok(()),
        }
    }
}

/// What every resource says of itself (RFC 7643 section 3.1).
struct Stamps<'a> {
    id: &'a str,
    created_at: Timestamp,
    updated_at: Timestamp,
    version: u64,
}

impl Stamps<'_> {
    fn put_on(&self, resource: &mut Map<String, Value>, of: ResourceType, base: &str) {
        let meta = json!({
            "resourceType": of.name(),
            "created": self.created_at.to_string(),
            "lastModified": self.updated_at.to_string(),
            "location": format!("{base}/{}s/{}", of.name(), self.id),
            "version": entity_tag(self.version),
        });
        resource.insert("schemas".to_owned(), json!([of.urn()]));
        resource.insert("id".to_owned(), json!(self.id));
        resource.insert("meta".to_owned(), meta);
    }
}

/// The weak entity tag of a version: of one state, answers may differ in what was asked for.
fn entity_tag(version: u64) -> String {
    format!("W/\"{version}\"")
}

/// Whether a list of entity tags names this one (RFC 9110 section 13.1.1).
fn names(list: &str, version: Option<&str>) -> bool {
    let bare = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    let version = version.map(bare);
    let mut listed = list.split(',').map(bare);
    list.trim() == "*" || listed.any(|tag| Some(tag) == version)
}

fn parse(body: &[u8]) -> Result<Value, ScimError> {
    serde_json::from_slice(body).map_err(|error| ScimError::syntax(format!("is no JSON: {error}")))
}
