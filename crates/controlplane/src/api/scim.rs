//! SCIM 2.0 on the wire (RFC 7644): bodies, media types and entity tags. What is done is `testudo_identity`'s.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{MatchedPath, RawPathParams, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use testudo_identity::{
    Provisioner, SCIM_PATH, ScimAnswer, ScimMethod, ScimRequest, limits::MAX_SCIM_BODY_BYTES,
};

use super::Administrator;
use crate::{
    http::{Refusal, Told},
    plane::Plane,
};

/// RFC 7644 section 3.1.
const MEDIA_TYPE: HeaderValue = HeaderValue::from_static("application/scim+json");

/// Every operation below [`SCIM_PATH`].
pub async fn serve(
    State(plane): State<Arc<Plane>>,
    Extension(administrator): Extension<Administrator>,
    matched: MatchedPath,
    parameters: RawPathParams,
    request: Request,
) -> Result<Response, Refusal> {
    let path = path_of(&matched, &parameters);
    let (head, body) = request.into_parts();
    let method = ScimMethod::parse(head.method.as_str());
    let method = method.ok_or_else(|| Refusal::not_found("endpoint"))?;
    let body = axum::body::to_bytes(body, MAX_SCIM_BODY_BYTES)
        .await
        .map_err(|_| too_large())?;
    if !body.is_empty() {
        require_json(&head.headers)?;
    }
    let hashes = has_password(&body);
    let work = move |plane: &Plane| {
        let text = |name: HeaderName| head.headers.get(name).and_then(|value| value.to_str().ok());
        let request = ScimRequest {
            method,
            path: &path,
            query: head.uri.query().unwrap_or(""),
            body: &body,
            if_match: text(header::IF_MATCH),
            if_none_match: text(header::IF_NONE_MATCH),
        };
        let by = Provisioner {
            caller: administrator.identity_caller(),
            reserved: administrator.reserved(plane),
        };
        plane.provider.scim(&request, &by)
    };
    let answered = if hashes {
        plane.hashing(work).await?
    } else {
        plane.blocking(work).await?
    };
    let answer = answered.map_err(|fault| match fault.is_transient() {
        true => Refusal::new(503, "identity.unavailable", "try again in a few seconds"),
        false => Refusal::internal(&fault),
    })?;
    Ok(response(answer))
}

/// The path behind [`SCIM_PATH`], decoded part for part.
fn path_of(matched: &MatchedPath, parameters: &RawPathParams) -> String {
    let pattern = matched.as_str().strip_prefix(SCIM_PATH).unwrap_or("");
    parameters
        .iter()
        .fold(pattern.to_owned(), |path, (name, value)| {
            path.replace(&format!("{{{name}}}"), value)
        })
}

/// Whether there may be a password to hash: those take their turn among the logins.
fn has_password(body: &Bytes) -> bool {
    const NAME: &[u8] = b"password";
    body.windows(NAME.len())
        .any(|part| part.eq_ignore_ascii_case(NAME))
}

fn require_json(headers: &HeaderMap) -> Result<(), Refusal> {
    let media_type = headers.get(header::CONTENT_TYPE);
    let media_type = media_type
        .and_then(|value| value.to_str().ok())
        .unwrap_or("");
    let essence = media_type.split(';').next().unwrap_or("").trim();
    let is_known = ["application/scim+json", "application/json"]
        .iter()
        .any(|known| essence.eq_ignore_ascii_case(known));
    if is_known {
        return Ok(());
    }
    Err(
        Refusal::new(415, "api.media_type", "the media type is not supported")
            .detail("send application/scim+json"),
    )
}

fn too_large() -> Refusal {
    Refusal::new(413, "api.too_large", "the request is too large").detail(format!(
        "at most {MAX_SCIM_BODY_BYTES} bytes are read, and they must come whole and in time"
    ))
}

fn response(answer: ScimAnswer) -> Response {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = match answer.body {
        Some(body) => (status, Json(body)).into_response(),
        None => status.into_response(),
    };
    let headers = response.headers_mut();
    if headers.contains_key(header::CONTENT_TYPE) {
        headers.insert(header::CONTENT_TYPE, MEDIA_TYPE);
    }
    for (name, value) in [
        (header::ETAG, answer.version),
        (header::LOCATION, answer.location),
    ] {
        if let Some(value) = value.and_then(|value| HeaderValue::from_str(&value).ok()) {
            headers.insert(name, value);
        }
    }
    response
}

/// Says in SCIM's words what others have refused: a missing token, an unknown path, a method that is not there
/// (RFC 7644 section 3.12).
pub async fn speak(request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let is_scim = path == SCIM_PATH
        || path
            .strip_prefix(SCIM_PATH)
            .is_some_and(|rest| rest.starts_with('/'));
    let answered = next.run(request).await;
    let status = answered.status();
    let is_said = answered.headers().get(header::CONTENT_TYPE) == Some(&MEDIA_TYPE);
    if !is_scim || is_said || !(status.is_client_error() || status.is_server_error()) {
        return answered;
    }
    let detail = match answered.extensions().get::<Told>() {
        Some(Told(detail)) => detail.clone(),
        None => status.canonical_reason().unwrap_or("refused").to_owned(),
    };
    let mut said = response(ScimAnswer::error(status.as_u16(), &detail));
    for (name, value) in answered.headers() {
        if ![header::CONTENT_TYPE, header::CONTENT_LENGTH].contains(name) {
            said.headers_mut().append(name.clone(), value.clone());
        }
    }
    said
}
