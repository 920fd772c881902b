//! Logging in elsewhere: the way there and the way back.

use std::sync::Arc;

use axum::{
    extract::{Path, Request, State},
    response::Response,
};
use http::StatusCode;
use serde::Deserialize;
use testudo_identity::{
    AccountError, Connecting, Fault, IdentityProvider, LoginError, UpstreamAnswer, UpstreamCaller,
    UpstreamClaims, UpstreamError, UpstreamLogin,
};
use testudo_model::Redacted;

use super::{
    Endpoint, Refusal,
    authorize::{
        Shown, Typed, code_page, logged_in_answer, login_page, login_page_saying, message,
        redirect, refuse_cross_site, sentence, with_retry_after,
    },
    body::Form,
    cookies,
};
use crate::{
    plane::Plane,
    upstreams::{Upstream, Upstreams},
};

/// Where a login elsewhere begins, and where the browser comes back to.
pub const ELSEWHERE: &str = "/login/at/{identity_provider}";
/// Where an account is connected to one elsewhere.
pub const CONNECT: &str = "/account/connect/{identity_provider}";

/// Those of this file.
pub fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::post(ELSEWHERE, begin),
        Endpoint::get(ELSEWHERE, finish),
        Endpoint::post(CONNECT, connect),
    ]
}

/// `POST /login/at/{identity_provider}`: the button of the login page.
async fn begin(
    State(plane): State<Arc<Plane>>,
    Path(name): Path<String>,
    request: Request,
) -> Result<Response, Refusal> {
    refuse_cross_site(request.headers())?;
    let form = Form::read(request, &*plane.entropy).await?;
    let flow = form.parameters.get("flow").unwrap_or("").to_owned();
    let (at, upstream) = match asked(&plane, &name).await? {
        Ok(found) => found,
        Err(label) => return Ok(unreachable(&plane, &label, Some(flow))),
    };
    let begun = plane
        .blocking(move |plane| {
            let flow = form.parameters.get("flow").unwrap_or("");
            let browser = cookies::read(&form.headers, cookies::BROWSER);
            let provider = &plane.provider;
            provider.begin_upstream_login(&at.name, &upstream.metadata, flow, browser)
        })
        .await?;
    match begun {
        Ok(location) => Ok(redirect(location.expose())),
        Err(LoginError::Unavailable(fault)) => Err(Refusal::internal(&fault)),
        Err(error) => Ok(start_again(&plane, error.status(), &error)),
    }
}

/// `POST /account/connect/{identity_provider}`: the button of the account page.
async fn connect(
    State(plane): State<Arc<Plane>>,
    Path(name): Path<String>,
    request: Request,
) -> Result<Response, Refusal> {
    refuse_cross_site(request.headers())?;
    let form = Form::read(request, &*plane.entropy).await?;
    let (at, upstream) = match asked(&plane, &name).await? {
        Ok(found) => found,
        Err(label) => return Ok(unreachable(&plane, &label, None)),
    };
    let begun = plane
        .blocking(move |plane| {
            let flow = form.parameters.get("flow").unwrap_or("");
            let provider = &plane.provider;
            provider.begin_connecting(&at.name, &upstream.metadata, flow, &caller_of(&form))
        })
        .await?;
    match begun {
        Ok(Connecting::Elsewhere { location, browser }) => {
            let mut response = redirect(location.expose());
            cookies::set(response.headers_mut(), cookies::BROWSER, &browser, None);
            Ok(response)
        }
        Ok(Connecting::Login(prompt)) => Ok(login_page(&plane, &prompt)),
        Err(AccountError::Unavailable(fault)) => Err(Refusal::internal(&fault)),
        Err(error) => Ok(start_again(&plane, 400, &error)),
    }
}

/// `GET /login/at/{identity_provider}`: the redirect URI (RFC 6749 section 4.1.2).
async fn finish(
    State(plane): State<Arc<Plane>>,
    Path(name): Path<String>,
    request: Request,
) -> Result<Response, Refusal> {
    let form = Arc::new(Form::read(request, &*plane.entropy).await?);
    let (at, upstream) = match asked(&plane, &name).await? {
        Ok(found) => found,
        Err(label) => return Ok(unreachable(&plane, &label, None)),
    };
    let outcome = match received(&plane, &at, &upstream, &form).await? {
        Ok((answer, claims)) => {
            plane
                .blocking(move |plane| {
                    let by = caller_of(&form);
                    plane.provider.finish_upstream_login(answer, &claims, &by)
                })
                .await?
        }
        Err(error) => Err(error),
    };
    shown(&plane, outcome)
}

/// The identity provider of that name with what it says of itself; what it is called, if it cannot be reached.
async fn asked(
    plane: &Arc<Plane>,
    name: &str,
) -> Result<Result<(Arc<IdentityProvider>, Arc<Upstream>), String>, Refusal> {
    let at = plane.provider.identity_provider(name);
    let at = at.ok_or_else(|| Refusal::not_found("identity provider"))?;
    match upstreams(plane)?.of(&at).await {
        Ok(upstream) => Ok(Ok((at, upstream))),
        Err(_) => Ok(Err(at.label.clone())),
    }
}

fn upstreams(plane: &Plane) -> Result<&Upstreams, Refusal> {
    let starting = || Refusal::new(503, "api.busy", "the control plane is starting");
    plane.upstreams.get().ok_or_else(starting)
}

/// The part of a token response (RFC 6749 section 5.1) that counts.
#[derive(Deserialize)]
struct Tokens {
    id_token: String,
    access_token: Option<Redacted<String>>,
}

/// Reads what the browser brought, and asks the identity provider the rest.
async fn received(
    plane: &Arc<Plane>,
    at: &Arc<IdentityProvider>,
    upstream: &Arc<Upstream>,
    form: &Arc<Form>,
) -> Result<Result<(UpstreamAnswer, UpstreamClaims), UpstreamError>, Refusal> {
    let (of, said, by) = (Arc::clone(at), Arc::clone(upstream), Arc::clone(form));
    let received = plane.blocking(move |plane| {
        let browser = cookies::read(&by.headers, cookies::BROWSER);
        let (provider, metadata) = (&plane.provider, &said.metadata);
        let parameters = &by.parameters;
        let answer = provider
            .receive_upstream_answer(&of.name, metadata, parameters, browser, &by.caller)?;
        let call = provider.upstream_token_call(&answer, metadata)?;
        Ok::<_, UpstreamError>((answer, call))
    });
    let (answer, call) = match received.await? {
        Ok(received) => received,
        Err(error) => return Ok(Err(error)),
    };
    let asked = upstreams(plane)?;
    let tokens = match asked.redeem(&call).await {
        Ok((200, body)) => serde_json::from_slice::<Tokens>(&body)
            .map_err(|_| "its answer has no ID token".to_owned()),
        Ok((status, body)) => Err(format!(
            "its token endpoint answers {status} {}",
            error_of(&body)
        )),
        Err(error) => Err(format!("its token endpoint: {error}")),
    };
    let tokens = match tokens {
        Ok(tokens) => tokens,
        Err(why) => return failed(plane, answer, why, form).await,
    };
    let (answer, mut claims) = match checked(plane, at, upstream, answer, &tokens, form).await? {
        Ok(checked) => checked,
        Err(error) => return Ok(Err(error)),
    };
    let userinfo = upstream
        .metadata
        .userinfo_endpoint()
        .zip(tokens.access_token);
    if let Some((url, access_token)) = userinfo {
        let why = match asked.user_info(url, &access_token).await {
            Ok(told) if claims.add_user_info(&told) => None,
            Ok(_) => Some("its UserInfo endpoint speaks of somebody else".to_owned()),
            Err(error) => Some(format!("its UserInfo endpoint: {error}")),
        };
        if let Some(why) = why {
            return failed(plane, answer, why, form).await;
        }
    }
    Ok(Ok((answer, claims)))
}

/// Checks the ID token, with newer keys if its own is not among those that are known.
async fn checked(
    plane: &Arc<Plane>,
    at: &Arc<IdentityProvider>,
    upstream: &Arc<Upstream>,
    answer: UpstreamAnswer,
    tokens: &Tokens,
    form: &Arc<Form>,
) -> Result<Result<(UpstreamAnswer, UpstreamClaims), UpstreamError>, Refusal> {
    let mut answer = answer;
    let mut upstream = Arc::clone(upstream);
    let mut is_again = false;
    loop {
        let (by, token) = (Arc::clone(form), tokens.id_token.clone());
        let (back, claims) = plane
            .blocking(move |plane| {
                let (provider, keys) = (&plane.provider, &upstream.keys);
                let claims = provider.check_upstream_token(&answer, &token, keys, &by.caller);
                (answer, claims)
            })
            .await?;
        match claims {
            Ok(claims) => return Ok(Ok((back, claims))),
            Err(UpstreamError::UnknownKey) if !is_again => {}
            Err(UpstreamError::UnknownKey) => {
                let why = "ID token: its key is not known".to_owned();
                return failed(plane, back, why, form).await;
            }
            Err(error) => return Ok(Err(error)),
        }
        is_again = true;
        upstream = match upstreams(plane)?.again(at).await {
            Ok(newer) => newer,
            Err(error) => return failed(plane, back, error.to_string(), form).await,
        };
        answer = back;
    }
}

/// Records why the rest could not be asked.
async fn failed<T>(
    plane: &Arc<Plane>,
    answer: UpstreamAnswer,
    why: String,
    form: &Arc<Form>,
) -> Result<Result<T, UpstreamError>, Refusal> {
    let by = Arc::clone(form);
    let recorded = plane.blocking(move |plane| {
        let provider = &plane.provider;
        provider.upstream_failed(&answer, &why, &by.caller)
    });
    let error = recorded.await?;
    Ok(Err(error.map_err(|fault: Fault| Refusal::internal(&fault))?))
}

/// `error` of an error response (RFC 6749 section 5.2), as far as it is one word.
fn error_of(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Answer {
        error: String,
    }
    let is_word = |word: &str| word.len() <= 64 && word.bytes().all(|byte| byte.is_ascii_graphic());
    let answer: Option<Answer> = serde_json::from_slice(body).ok();
    let error = answer.map(|answer| answer.error);
    error.filter(|error| is_word(error)).unwrap_or_default()
}

fn shown(
    plane: &Plane,
    outcome: Result<UpstreamLogin, UpstreamError>,
) -> Result<Response, Refusal> {
    let error = match outcome {
        Ok(UpstreamLogin::LoggedIn(logged_in)) => return Ok(logged_in_answer(&logged_in)),
        Ok(UpstreamLogin::SecondFactorNeeded { flow }) => {
            return Ok(code_page(plane, StatusCode::OK, &flow, None));
        }
        Ok(UpstreamLogin::Connect(prompt)) => return Ok(login_page(plane, &prompt)),
        Ok(UpstreamLogin::Connected { location }) => return Ok(redirect(&location)),
        Err(UpstreamError::Login(LoginError::Unavailable(fault))) => {
            return Err(Refusal::internal(&fault));
        }
        Err(UpstreamError::Unknown) => return Err(Refusal::not_found("identity provider")),
        Err(error) => error,
    };
    Ok(match &error {
        UpstreamError::Refused {
            flow: Some(flow), ..
        }
        | UpstreamError::NotAccepted {
            flow: Some(flow), ..
        }
        | UpstreamError::NotEnough {
            flow: Some(flow), ..
        } => saying(plane, flow.clone(), error.status(), &sentence(&error)),
        UpstreamError::Login(LoginError::Throttled { retry_after }) => {
            with_retry_after(start_again(plane, error.status(), &error), *retry_after)
        }
        _ => start_again(plane, error.status(), &error),
    })
}

/// The identity provider cannot be asked: people log in in another way, if they have one.
fn unreachable(plane: &Plane, label: &str, flow: Option<String>) -> Response {
    let text = format!("{label} cannot be reached; try again, or log in in another way.");
    match flow {
        Some(flow) => saying(plane, flow, 502, &text),
        None => message(plane, StatusCode::BAD_GATEWAY, "Please start again", &text),
    }
}

fn saying(plane: &Plane, flow: String, status: u16, text: &str) -> Response {
    let typed = Typed {
        flow,
        username: String::new(),
    };
    let shown = Shown {
        status: StatusCode::from_u16(status).unwrap_or(StatusCode::UNAUTHORIZED),
        text,
        offer_passkeys: false,
    };
    login_page_saying(plane, &typed, &shown)
}

fn start_again(plane: &Plane, status: u16, error: &dyn std::fmt::Display) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
    message(plane, status, "Please start again", &sentence(error))
}

fn caller_of(form: &Form) -> UpstreamCaller<'_> {
    UpstreamCaller {
        session: cookies::read(&form.headers, cookies::SESSION),
        browser: cookies::read(&form.headers, cookies::BROWSER),
        caller: &form.caller,
    }
}
