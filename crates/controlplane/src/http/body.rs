//! Reading forms and callers of the provider's endpoints.

use std::error::Error;

use axum::{body::Bytes, extract::Request};
use http::{HeaderMap, header};
use http_body_util::LengthLimitError;
use testudo_identity::{Caller, Parameters};
use testudo_model::Entropy;
use testudo_runtime::TraceContext;

use super::{Refusal, Remote, Workload};

/// Largest form; the router limits bodies to the same.
const MAX_FORM_BYTES: usize = super::MAX_FORM_BYTES;

/// A request with its form, or query for `GET`.
pub struct Form {
    /// Header fields.
    pub headers: HeaderMap,
    /// Decoded parameters.
    pub parameters: Parameters,
    /// Who asks.
    pub caller: Caller,
    /// The workload, if the connection showed its certificate.
    pub workload: Option<Workload>,
}

impl Form {
    /// Reads the query of a `GET`, the `application/x-www-form-urlencoded` body of a `POST`.
    pub async fn read(request: Request, entropy: &dyn Entropy) -> Result<Self, Refusal> {
        let (head, body) = request.into_parts();
        let (caller, workload) = caller(&head.extensions, &head.headers, entropy);
        let parameters = if head.method == http::Method::POST {
            require_form(&head.headers)?;
            let body: Bytes = axum::body::to_bytes(body, MAX_FORM_BYTES)
                .await
                .map_err(|error| unread(&error))?;
            let text = std::str::from_utf8(&body).map_err(|_| malformed("it is not UTF-8"))?;
            Parameters::parse(text)
        } else {
            Parameters::parse(head.uri.query().unwrap_or(""))
        };
        let parameters = parameters.map_err(|error| malformed(&error.to_string()))?;
        Ok(Self {
            headers: head.headers,
            parameters,
            caller,
            workload,
        })
    }
}

/// Who asks, as far as the connection tells.
pub fn caller(
    extensions: &http::Extensions,
    headers: &HeaderMap,
    entropy: &dyn Entropy,
) -> (Caller, Option<Workload>) {
    let traceparent = headers
        .get("traceparent")
        .and_then(|value| value.to_str().ok());
    let trace_id = Some(TraceContext::accept(traceparent, [], entropy).trace_id());
    match extensions.get::<Remote>() {
        Some(Remote::Network { address, workload }) => {
            let caller = Caller {
                source_ip: Some(*address),
                trace_id,
                ..Caller::default()
            };
            (caller, workload.clone())
        }
        _ => (
            Caller {
                trace_id,
                ..Caller::default()
            },
            None,
        ),
    }
}

/// Whether the body is a form.
pub fn is_form(headers: &HeaderMap) -> bool {
    let media_type = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or("");
    let essence = media_type.split(';').next().unwrap_or("").trim();
    essence.eq_ignore_ascii_case("application/x-www-form-urlencoded")
}

fn require_form(headers: &HeaderMap) -> Result<(), Refusal> {
    if is_form(headers) {
        return Ok(());
    }
    Err(
        Refusal::new(415, "api.media_type", "the media type is not supported")
            .detail("send application/x-www-form-urlencoded"),
    )
}

fn unread(error: &axum::Error) -> Refusal {
    let mut causes = std::iter::successors(error.source(), |&cause| cause.source());
    if !causes.any(|cause| cause.is::<LengthLimitError>()) {
        return malformed("it did not come whole, or not in time");
    }
    Refusal::new(413, "api.too_large", "the request is too large")
        .detail(format!("at most {MAX_FORM_BYTES} bytes are read"))
}

fn malformed(why: &str) -> Refusal {
    Refusal::bad_request(format!("the form cannot be read: {why}"))
}
