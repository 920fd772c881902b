//! Problem details (RFC 9457): how every role says no.

use serde::{Deserialize, Serialize};

use crate::DecisionId;

/// A problem answer. `type` is the page of the error code, `detail` is public text: it never repeats what
/// only the inside may know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// URI of the error code's page.
    #[serde(rename = "type")]
    pub kind: String,
    /// Short text for the code; the same for each occurrence.
    pub title: String,
    /// HTTP status.
    pub status: u16,
    /// What happened here and how to fix it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Stable machine-readable code, e.g. `policy.denied`.
    pub code: String,
    /// The decision, for `testudo policy explain`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<DecisionId>,
}

impl Problem {
    /// The media type of a problem answer.
    pub const MEDIA_TYPE: &'static str = "application/problem+json";

    /// A problem with `code`; the code's page is its `type`.
    pub fn new(status: u16, code: &str, title: &str) -> Self {
        Self {
            kind: format!("https://testudo.dev/errors/{code}"),
            title: title.to_owned(),
            status,
            detail: None,
            code: code.to_owned(),
            decision: None,
        }
    }

    /// Adds public text.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Adds the decision.
    #[must_use]
    pub fn with_decision(mut self, decision: DecisionId) -> Self {
        self.decision = Some(decision);
        self
    }
}
