//! Problem answers (RFC 9457) of the HTTP interface.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use testudo_model::Problem;
use testudo_runtime::with_causes;
use tracing::error;

/// What a refusal says, beside its answer: for who has to say it in other words.
#[derive(Debug, Clone)]
pub struct Told(pub String);

/// A refused or failed request, as the caller sees it.
#[derive(Debug)]
pub struct Refusal(Box<Problem>);

impl Refusal {
    /// A problem with a stable code.
    pub fn new(status: u16, code: &str, title: &str) -> Self {
        Self(Box::new(Problem::new(status, code, title)))
    }

    /// Adds public text.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.0.detail = Some(detail.into());
        self
    }

    /// 404 for a thing of `kind`.
    pub fn not_found(kind: &str) -> Self {
        Self::new(404, "api.not_found", "not found").detail(format!("there is no such {kind}"))
    }

    /// 400 with what is wrong and how to fix it.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(400, "api.bad_request", "the request is not usable").detail(detail)
    }

    /// 500. The cause goes to the log; the caller learns only that it was us.
    pub fn internal(cause: &(dyn std::error::Error + 'static)) -> Self {
        error!(cause = with_causes(cause), "a request failed");
        Self::new(
            500,
            "api.internal",
            "the control plane failed to do this; its log says why",
        )
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self.0).unwrap_or_default();
        let mut response = (status, body).into_response();
        let media_type = HeaderValue::from_static(Problem::MEDIA_TYPE);
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, media_type);
        let said = self.0.detail.as_deref().unwrap_or(&self.0.title);
        response.extensions_mut().insert(Told(said.to_owned()));
        if status == StatusCode::UNAUTHORIZED {
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
