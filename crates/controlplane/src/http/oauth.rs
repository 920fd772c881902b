//! The endpoints a client's backend meets: pushed authorization requests, token, revocation, introspection, userinfo, discovery, keys.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use serde_json::Value;
use testudo_identity::{
    Caller, Fault, OauthError, PresentedToken, ProofTarget, Provider, RequestProof, TokenRequest,
    UserInfoAnswer, UserInfoError, paths,
};
use testudo_model::Redacted;
use tokio::time::Instant;

use super::{
    Endpoint, Refusal,
    body::{self, Form},
};
use crate::plane::Plane;

/// RFC 9449 sections 4.1 and 8.1.
pub(super) const DPOP: HeaderName = HeaderName::from_static("dpop");
const DPOP_NONCE: HeaderName = HeaderName::from_static("dpop-nonce");
/// RFC 9701 section 5.
const SIGNED_INTROSPECTION: &str = "application/token-introspection+jwt";
/// OpenID Connect Core section 5.3.2.
const SIGNED_USER_INFO: &str = "application/jwt";
/// Clients may keep keys and metadata for so long; keys rotate with a longer overlap.
const PUBLIC_CACHE: &str = "public, max-age=300";

/// Time for which a request waits for keys of a trusted issuer, and how often it looks.
const KEYS_TIMEOUT: Duration = Duration::from_secs(5);
const KEYS_LOOK: Duration = Duration::from_millis(100);

/// Those of this file.
pub fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::post(paths::PUSH, push),
        Endpoint::post(paths::DEVICE_AUTHORIZATION, authorize_device),
        Endpoint::post(paths::TOKEN, token),
        Endpoint::post(paths::REVOKE, revoke),
        Endpoint::post(paths::INTROSPECT, introspect),
        Endpoint::get(paths::USERINFO, userinfo),
        Endpoint::post(paths::USERINFO, userinfo),
        Endpoint::get(paths::JWKS, jwks),
        Endpoint::get(paths::OPENID_CONFIGURATION, discovery),
        Endpoint::get(paths::AUTHORIZATION_SERVER, discovery),
    ]
}

/// `POST /oauth2/par` (RFC 9126 section 2).
async fn push(State(plane): State<Arc<Plane>>, request: Request) -> Result<Response, Refusal> {
    let answered = answer(plane, request, Provider::push_authorization).await?;
    Ok(match answered {
        Ok(pushed) => no_store((StatusCode::CREATED, Json(pushed)).into_response()),
        Err(error) => oauth_error(&error.to_oauth()),
    })
}

/// `POST /oauth2/device_authorization` (RFC 8628 section 3.1).
async fn authorize_device(
    State(plane): State<Arc<Plane>>,
    request: Request,
) -> Result<Response, Refusal> {
    let answered = answer(plane, request, Provider::authorize_device).await?;
    Ok(match answered {
        Ok(authorization) => no_store(Json(authorization).into_response()),
        Err(error) => oauth_error(&error.to_oauth()),
    })
}

/// `POST /oauth2/token` (RFC 6749 section 3.2).
async fn token(State(plane): State<Arc<Plane>>, request: Request) -> Result<Response, Refusal> {
    let answered = answer(plane, request, Provider::token).await?;
    Ok(match answered {
        Ok(tokens) => {
            let nonce = tokens.dpop_nonce.clone();
            with_nonce(no_store(Json(tokens).into_response()), nonce.as_deref())
        }
        Err(error) => oauth_error(&error.to_oauth()),
    })
}

/// `POST /oauth2/revoke` (RFC 7009).
async fn revoke(State(plane): State<Arc<Plane>>, request: Request) -> Result<Response, Refusal> {
    let answered = answer(plane, request, Provider::revoke).await?;
    Ok(match answered {
        Ok(()) => no_store(StatusCode::OK.into_response()),
        Err(error) => oauth_error(&error.to_oauth()),
    })
}

/// `POST /oauth2/introspect` (RFC 7662), as a JWT for who asks for one (RFC 9701 section 4).
async fn introspect(
    State(plane): State<Arc<Plane>>,
    request: Request,
) -> Result<Response, Refusal> {
    if accepts(request.headers(), SIGNED_INTROSPECTION) {
        let answered = answer(plane, request, Provider::introspect_signed).await?;
        return Ok(match answered {
            Ok(signed) => {
                let content_type = [(header::CONTENT_TYPE, SIGNED_INTROSPECTION)];
                no_store((content_type, signed).into_response())
            }
            Err(error) => oauth_error(&error.to_oauth()),
        });
    }
    let answered = answer(plane, request, Provider::introspect).await?;
    Ok(match answered {
        Ok(introspection) => no_store(Json(introspection).into_response()),
        Err(error) => oauth_error(&error.to_oauth()),
    })
}

/// Handles a request of a client. One whose proof takes a slow hash takes its turn among the logins; the others do not
/// wait for those.
async fn answer<T: Send + 'static>(
    plane: Arc<Plane>,
    request: Request,
    handle: fn(&Provider, &TokenRequest<'_>, &Caller) -> T,
) -> Result<T, Refusal> {
    let form = Arc::new(Form::read(request, &*plane.entropy).await?);
    if let Some(assertion) = form.parameters.get("client_assertion") {
        wait_for_keys(&plane.provider, assertion).await;
    }
    let asked = Arc::clone(&form);
    let quick = move |plane: &Plane| {
        with_request(plane, &asked, |request| {
            let slow = plane.provider.costs_a_hash(request)?;
            Ok((!slow).then(|| handle(&plane.provider, request, &asked.caller)))
        })
    };
    let answered: Result<Option<T>, Fault> = plane.blocking(quick).await?;
    if let Some(answer) = answered.map_err(|fault| Refusal::internal(&fault))? {
        return Ok(answer);
    }
    let slow = move |plane: &Plane| {
        with_request(plane, &form, |request| {
            handle(&plane.provider, request, &form.caller)
        })
    };
    plane.hashing(slow).await
}

/// Keys of a trusted issuer that are not here are fetched at once: builds and functions rarely try again.
async fn wait_for_keys(provider: &Provider, assertion: &str) {
    let until = Instant::now() + KEYS_TIMEOUT;
    while provider.awaits_keys(assertion) && Instant::now() < until {
        tokio::time::sleep(KEYS_LOOK).await;
    }
}

fn with_request<T>(plane: &Plane, form: &Form, handle: impl FnOnce(&TokenRequest<'_>) -> T) -> T {
    let peer = plane.standing(form.workload.as_ref());
    handle(&TokenRequest {
        parameters: &form.parameters,
        authorization: single(&form.headers, &header::AUTHORIZATION),
        dpop: single(&form.headers, &DPOP),
        peer: peer.as_ref(),
    })
}

/// `GET|POST /oauth2/userinfo` (OpenID Connect Core section 5.3). The token is in the header, or in a form (RFC 6750
/// section 2.2), but never in the query.
async fn userinfo(State(plane): State<Arc<Plane>>, request: Request) -> Result<Response, Refusal> {
    let (_, workload) = body::caller(request.extensions(), request.headers(), &*plane.entropy);
    let method = request.method().clone();
    let (headers, in_form) = if method == Method::POST && body::is_form(request.headers()) {
        let form = Form::read(request, &*plane.entropy).await?;
        let token = form.parameters.get("access_token").map(str::to_owned);
        let token = token.filter(|_| !form.parameters.is_repeated("access_token"));
        (form.headers, token.map(Redacted::new))
    } else {
        (request.into_parts().0.headers, None)
    };
    if in_form.is_some() && headers.contains_key(header::AUTHORIZATION) {
        return Ok(oauth_error(&UserInfoError::TwoTokens.to_oauth()));
    }
    let answered = plane
        .blocking(move |plane| {
            let field = single(&headers, &header::AUTHORIZATION).unwrap_or("");
            let (scheme, token) = match &in_form {
                Some(token) => ("Bearer", token.expose().as_str()),
                None => field.split_once(' ').unwrap_or_default(),
            };
            let proof = scheme.eq_ignore_ascii_case("DPoP").then(|| RequestProof {
                proof: single(&headers, &DPOP).unwrap_or(""),
                target: ProofTarget {
                    method: method.as_str(),
                    path: paths::USERINFO,
                },
            });
            let is_known = proof.is_some() || scheme.eq_ignore_ascii_case("Bearer");
            let peer = plane.standing(workload.as_ref());
            plane.provider.user_info_answer(PresentedToken {
                token: if is_known { token } else { "" },
                proof,
                peer: peer.as_ref(),
            })
        })
        .await?;
    Ok(match answered {
        Ok(UserInfoAnswer::Plain(claims)) => no_store(Json(claims).into_response()),
        Ok(UserInfoAnswer::Signed(token)) => {
            let content_type = [(header::CONTENT_TYPE, SIGNED_USER_INFO)];
            no_store((content_type, token.into_exposed()).into_response())
        }
        Err(error) => oauth_error(&error.to_oauth()),
    })
}

/// `GET /oauth2/jwks` (RFC 7517).
async fn jwks(State(plane): State<Arc<Plane>>) -> Result<Response, Refusal> {
    cacheable(plane.blocking(|plane| plane.provider.jwks()).await?)
}

/// `GET /.well-known/…` (OpenID Connect Discovery, RFC 8414).
async fn discovery(State(plane): State<Arc<Plane>>) -> Result<Response, Refusal> {
    cacheable(plane.blocking(|plane| plane.provider.discovery()).await?)
}

pub(super) fn cacheable(document: Result<Value, Fault>) -> Result<Response, Refusal> {
    let document = document.map_err(|fault| Refusal::internal(&fault))?;
    let headers = [
        (header::CACHE_CONTROL, PUBLIC_CACHE),
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
    ];
    Ok((headers, Json(document)).into_response())
}

/// Whether a client names this media type among those it takes (RFC 9110 section 12.5.1); a wildcard is no name.
fn accepts(headers: &HeaderMap, media_type: &str) -> bool {
    let fields = headers.get_all(header::ACCEPT).iter();
    fields
        .filter_map(|field| field.to_str().ok())
        .flat_map(|field| field.split(','))
        .any(|range| {
            let name = range.split(';').next().unwrap_or("").trim();
            name.eq_ignore_ascii_case(media_type)
        })
}

/// The one field of a name; two are as good as a wrong one.
pub(super) fn single<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    let mut fields = headers.get_all(name).iter();
    match (fields.next(), fields.next()) {
        (None, _) => None,
        (Some(field), None) => Some(field.to_str().unwrap_or("malformed")),
        (Some(_), Some(_)) => Some("repeated"),
    }
}

pub(super) fn oauth_error(error: &OauthError) -> Response {
    let status = StatusCode::from_u16(error.status).unwrap_or(StatusCode::BAD_REQUEST);
    let mut response = no_store((status, Json(error)).into_response());
    if let Some(challenge) = error
        .challenge
        .as_deref()
        .and_then(|text| HeaderValue::from_str(text).ok())
    {
        response
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, challenge);
    }
    with_nonce(response, error.dpop_nonce.as_deref())
}

/// Tells a client the nonce for its next proof (RFC 9449 section 8.2).
fn with_nonce(mut response: Response, nonce: Option<&str>) -> Response {
    if let Some(nonce) = nonce.and_then(|nonce| HeaderValue::from_str(nonce).ok()) {
        response.headers_mut().insert(DPOP_NONCE, nonce);
    }
    response
}

/// RFC 6749 section 5.1.
pub(super) fn no_store(mut response: Response) -> Response {
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
