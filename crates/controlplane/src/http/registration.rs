//! The client registration endpoint (RFC 7591) and, below it, what one client registered (RFC 7592).

use std::sync::Arc;

use axum::{
    Json,
    body::Bytes,
    extract::{Path, Request, State},
    response::{IntoResponse, Response},
    routing::{delete, put},
};
use http::{HeaderMap, Method, StatusCode, header};
use serde_json::Value;
use testudo_identity::{Caller, RegistrationError, paths};
use testudo_model::Redacted;

use super::{
    Endpoint, MAX_FORM_BYTES, Refusal, body,
    oauth::{no_store, oauth_error, single},
};
use crate::plane::Plane;

/// What one client registered: below [`paths::REGISTER`].
pub const REGISTERED: &str = "/oauth2/register/{client}";

/// Those of this file.
pub fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::post(paths::REGISTER, register),
        Endpoint::get(REGISTERED, show),
        Endpoint::new(Method::PUT, REGISTERED, put(replace)),
        Endpoint::new(Method::DELETE, REGISTERED, delete(deregister)),
    ]
}

/// A request with its bearer token.
struct Asked {
    token: Redacted<String>,
    caller: Caller,
    body: Bytes,
}

impl Asked {
    async fn read(plane: &Plane, request: Request) -> Result<Self, Refusal> {
        let (head, body) = request.into_parts();
        if matches!(head.method, http::Method::POST | http::Method::PUT) {
            require_json(&head.headers)?;
        }
        let (caller, _) = body::caller(&head.extensions, &head.headers, &*plane.entropy);
        let field = single(&head.headers, &header::AUTHORIZATION).unwrap_or("");
        let (scheme, token) = field.split_once(' ').unwrap_or_default();
        let is_bearer = scheme.eq_ignore_ascii_case("Bearer");
        let token = if is_bearer { token } else { "" };
        let body = axum::body::to_bytes(body, MAX_FORM_BYTES).await;
        let unread =
            |_| Refusal::bad_request("the description does not come whole, or is too large");
        Ok(Self {
            token: Redacted::new(token.to_owned()),
            caller,
            body: body.map_err(unread)?,
        })
    }
}

/// `POST /oauth2/register` (RFC 7591 section 3.1).
async fn register(State(plane): State<Arc<Plane>>, request: Request) -> Result<Response, Refusal> {
    let asked = Asked::read(&plane, request).await?;
    let answered = plane
        .blocking(move |plane| {
            let provider = &plane.provider;
            provider.register_client(asked.token.expose(), &asked.body, &asked.caller)
        })
        .await?;
    answer(StatusCode::CREATED, answered)
}

/// `GET /oauth2/register/{client}` (RFC 7592 section 2.1).
async fn show(
    State(plane): State<Arc<Plane>>,
    Path(client): Path<String>,
    request: Request,
) -> Result<Response, Refusal> {
    let asked = Asked::read(&plane, request).await?;
    let answered = plane
        .blocking(move |plane| {
            let provider = &plane.provider;
            provider.registered_client(&client, asked.token.expose(), &asked.caller)
        })
        .await?;
    answer(StatusCode::OK, answered)
}

/// `PUT /oauth2/register/{client}` (RFC 7592 section 2.2).
async fn replace(
    State(plane): State<Arc<Plane>>,
    Path(client): Path<String>,
    request: Request,
) -> Result<Response, Refusal> {
    let asked = Asked::read(&plane, request).await?;
    let answered = plane
        .blocking(move |plane| {
            let (token, caller) = (asked.token.expose(), &asked.caller);
            let provider = &plane.provider;
            provider.reregister_client(&client, token, &asked.body, caller)
        })
        .await?;
    answer(StatusCode::OK, answered)
}

/// `DELETE /oauth2/register/{client}` (RFC 7592 section 2.3).
async fn deregister(
    State(plane): State<Arc<Plane>>,
    Path(client): Path<String>,
    request: Request,
) -> Result<Response, Refusal> {
    let asked = Asked::read(&plane, request).await?;
    let answered = plane
        .blocking(move |plane| {
            let provider = &plane.provider;
            provider.deregister_client(&client, asked.token.expose(), &asked.caller)
        })
        .await?;
    match answered {
        Ok(()) => Ok(no_store(StatusCode::NO_CONTENT.into_response())),
        Err(error) => refused(&error),
    }
}

fn answer(
    status: StatusCode,
    answered: Result<Redacted<Value>, RegistrationError>,
) -> Result<Response, Refusal> {
    match answered {
        Ok(document) => Ok(no_store((status, Json(document.expose())).into_response())),
        Err(error) => refused(&error),
    }
}

fn refused(error: &RegistrationError) -> Result<Response, Refusal> {
    match error {
        // As if there were no such endpoint.
        RegistrationError::Off => Err(Refusal::not_found("resource")),
        error => Ok(oauth_error(&error.to_oauth())),
    }
}

fn require_json(headers: &HeaderMap) -> Result<(), Refusal> {
    let field = single(headers, &header::CONTENT_TYPE).unwrap_or("");
    let essence = field.split(';').next().unwrap_or("").trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(
        Refusal::new(415, "api.media_type", "the media type is not supported")
            .detail("send application/json"),
    )
}
