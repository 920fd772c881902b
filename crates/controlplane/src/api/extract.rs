//! Reading the parts of a request; what cannot be read is refused with a problem like everything else.

use axum::{
    extract::{
        self, FromRequest, FromRequestParts, Request,
        rejection::{JsonRejection, PathRejection, QueryRejection},
    },
    http::request::Parts,
};
use http::StatusCode;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::http::Refusal;

/// The parameters of the path.
pub struct Path<T>(pub T);

/// The query.
pub struct Query<T>(pub T);

/// The JSON body.
pub struct Body<T>(pub T);

/// `?version=…`: what a change was decided on; without one the last writer wins.
#[derive(Deserialize)]
pub struct Decided {
    /// The version.
    pub version: Option<u64>,
}

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        match extract::Path::from_request_parts(parts, state).await {
            Ok(extract::Path(parameters)) => Ok(Self(parameters)),
            Err(rejection) => Err(unreadable_path(&rejection)),
        }
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        match extract::Query::from_request_parts(parts, state).await {
            Ok(extract::Query(query)) => Ok(Self(query)),
            Err(rejection) => Err(unreadable_query(&rejection)),
        }
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        match axum::Json::from_request(request, state).await {
            Ok(axum::Json(body)) => Ok(Self(body)),
            Err(rejection) => Err(unreadable_body(&rejection)),
        }
    }
}

/// One field of an object, and the rest of it, in which nothing unknown may be.
pub fn apart<F: DeserializeOwned, T: DeserializeOwned>(
    mut object: Map<String, Value>,
    field: &'static str,
) -> Result<(F, T), Refusal> {
    let own = object.remove(field).unwrap_or(Value::Null);
    let own = serde_json::from_value(own)
        .map_err(|error| Refusal::bad_request(format!("`{field}`: {error}")))?;
    let rest = serde_json::from_value(Value::Object(object))
        .map_err(|error| Refusal::bad_request(error.to_string()))?;
    Ok((own, rest))
}

fn unreadable_path(rejection: &PathRejection) -> Refusal {
    Refusal::bad_request(rejection.body_text())
}

fn unreadable_query(rejection: &QueryRejection) -> Refusal {
    Refusal::bad_request(rejection.body_text())
}

fn unreadable_body(rejection: &JsonRejection) -> Refusal {
    match rejection.status() {
        StatusCode::UNSUPPORTED_MEDIA_TYPE => {
            Refusal::new(415, "api.media_type", "the media type is not supported")
                .detail("send application/json")
        }
        StatusCode::PAYLOAD_TOO_LARGE => {
            Refusal::new(413, "api.too_large", "the request is too large")
                .detail(rejection.body_text())
        }
        _ => Refusal::bad_request(rejection.body_text()),
    }
}
