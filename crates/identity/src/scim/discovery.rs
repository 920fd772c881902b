//! What the interface can do and what its resources are made of (RFC 7644 section 4).

use serde_json::{Value, json};

use super::{
    ScimAnswer,
    description::schemas,
    error::ScimError,
    filter::{Filter, Path},
    schema::ResourceType,
    search::{Query, list_response},
};
use crate::{
    Provider,
    limits::{MAX_BULK_OPERATIONS, MAX_SCIM_BODY_BYTES, MAX_SCIM_PAGE},
};

impl Provider {
    pub(super) fn discover(&self, parts: &[&str], query: &str) -> Result<ScimAnswer, ScimError> {
        if Query::parse(query)?.has_filter() {
            return Err(ScimError::forbidden("these are not filtered"));
        }
        let base = self.scim_base();
        let types = || ResourceType::ALL.into_iter();
        match parts {
            ["ServiceProviderConfig"] => Ok(ScimAnswer::found(service_provider(&base))),
            ["ResourceTypes"] => Ok(list_response(
                1,
                types().map(|of| of.to_json(&base)).collect(),
            )),
            ["ResourceTypes", name] => match types().find(|of| of.name() == *name) {
                Some(of) => Ok(ScimAnswer::found(of.to_json(&base))),
                None => Err(ScimError::not_found("resource type")),
            },
            ["Schemas"] => Ok(list_response(
                1,
                schemas().map(|schema| schema.to_json(&base)).collect(),
            )),
            ["Schemas", urn] => match schemas().find(|known| known.urn.eq_ignore_ascii_case(urn)) {
                Some(schema) => Ok(ScimAnswer::found(schema.to_json(&base))),
                None => Err(ScimError::not_found("schema")),
            },
            _ => Err(ScimError::not_found("endpoint")),
        }
    }
}

/// RFC 7643 section 5.
fn service_provider(base: &str) -> Value {
    json!({
        "schemas": ["urn:ietf:params:scim:schemas:core:2.0:ServiceProviderConfig"],
        "patch": { "supported": true },
        "bulk": {
            "supported": true,
            "maxOperations": MAX_BULK_OPERATIONS,
            "maxPayloadSize": MAX_SCIM_BODY_BYTES,
        },
        "filter": { "supported": true, "maxResults": MAX_SCIM_PAGE },
        "changePassword": { "supported": true },
        "sort": { "supported": true },
        "etag": { "supported": true },
        "authenticationSchemes": [{
            "type": "oauthbearertoken",
            "name": "OAuth bearer token",
            "description": "An access token of a service account with the scope testudo:scim",
            "specUri": "https://www.rfc-editor.org/rfc/rfc6750",
            "primary": true,
        }],
        "meta": {
            "resourceType": "ServiceProviderConfig",
            "location": format!("{base}/ServiceProviderConfig"),
        },
    })
}

/// Feeds `text` to the readers of filters and paths, for fuzzing; whether either takes it.
#[doc(hidden)]
pub fn scim_fuzz(text: &str) -> bool {
    let resource = json!({
        "userName": "a", "active": true, "meta": { "created": "2026-11-22T10:00:00Z" },
        "emails": [{ "value": "a@b.example", "type": "work", "primary": true }],
        "members": [{ "value": "usr_1", "$ref": "x", "type": "User" }],
    });
    let filter = Filter::parse(text, &ResourceType::ALL);
    if let Ok(filter) = &filter {
        filter.matches(&resource);
        for name in ["userName", "members"] {
            filter.demands(name);
            filter.asks_about(name);
        }
    }
    let paths = ResourceType::ALL.map(|of| Path::parse(text, of).is_ok());
    filter.is_ok() || paths.contains(&true)
}
