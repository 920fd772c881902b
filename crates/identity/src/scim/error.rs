//! What is wrong with a request (RFC 7644 section 3.12).

use serde_json::{Value, json};

use crate::{AdminError, Fault};

const URN: &str = "urn:ietf:params:scim:api:messages:2.0:Error";

/// Why a request was not done.
#[derive(Debug, thiserror::Error)]
pub(super) enum ScimError {
    /// The client's fault.
    #[error("{detail}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// `scimType`, if there is one for it.
        kind: Option<&'static str>,
        /// For whoever reads logs.
        detail: String,
    },
    /// Ours.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl ScimError {
    fn bad(kind: &'static str, detail: impl Into<String>) -> Self {
        Self::new(400, Some(kind), detail)
    }

    pub(super) fn new(status: u16, kind: Option<&'static str>, detail: impl Into<String>) -> Self {
        Self::Refused {
            status,
            kind,
            detail: detail.into(),
        }
    }

    /// A body that is no SCIM message.
    pub(super) fn syntax(detail: impl Into<String>) -> Self {
        Self::bad("invalidSyntax", detail)
    }

    /// A value that an attribute cannot have.
    pub(super) fn value(detail: impl Into<String>) -> Self {
        Self::bad("invalidValue", detail)
    }

    /// A filter that cannot be used.
    pub(super) fn filter(detail: impl Into<String>) -> Self {
        Self::bad("invalidFilter", detail)
    }

    /// A path that leads to no attribute.
    pub(super) fn path(detail: impl Into<String>) -> Self {
        Self::bad("invalidPath", detail)
    }

    /// An attribute that cannot be changed so.
    pub(super) fn mutability(detail: impl Into<String>) -> Self {
        Self::bad("mutability", detail)
    }

    /// More than is answered or done at once.
    pub(super) fn too_many(detail: impl Into<String>) -> Self {
        Self::bad("tooMany", detail)
    }

    /// A path whose filter finds nothing.
    pub(super) fn no_target(detail: impl Into<String>) -> Self {
        Self::bad("noTarget", detail)
    }

    pub(super) fn not_found(what: &str) -> Self {
        Self::new(404, None, format!("there is no such {what}"))
    }

    /// Something that only administrators may do.
    pub(super) fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(403, None, detail)
    }

    pub(super) fn stale() -> Self {
        let detail = "the resource is another than `If-Match` says; read it again";
        Self::new(412, None, detail)
    }
}

impl From<AdminError> for ScimError {
    fn from(error: AdminError) -> Self {
        let detail = error.to_string();
        match error {
            AdminError::Unavailable(fault) => Self::Fault(fault),
            AdminError::Taken { .. } => Self::new(409, Some("uniqueness"), detail),
            AdminError::InUse { .. } => Self::new(409, None, detail),
            AdminError::Stale { .. } => Self::stale(),
            AdminError::NotFound { .. } | AdminError::Invalid { .. } => Self::value(detail),
        }
    }
}

impl From<testudo_store::StoreError> for ScimError {
    fn from(error: testudo_store::StoreError) -> Self {
        Self::Fault(error.into())
    }
}

/// The body of an answer with this status.
pub(super) fn body(status: u16, kind: Option<&str>, detail: &str) -> Value {
    let mut body = json!({ "schemas": [URN], "status": status.to_string(), "detail": detail });
    if let (Some(body), Some(kind)) = (body.as_object_mut(), kind) {
        body.insert("scimType".to_owned(), json!(kind));
    }
    body
}
