//! The endpoints a browser meets: authorization, login form, logout.

use std::{
    fmt::Display,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use testudo_identity::{
    Authorization, AuthorizeError, Caller, IdentityProvider, LoggedIn, LoginError, LoginPrompt,
    LoginRequest, LoginStep, Logout, LogoutError, Provider, SecondFactorRequest, paths,
};
use testudo_model::Redacted;

use super::{Endpoint, Refusal, body::Form, cookies};
use crate::{
    directories::{self, Sender},
    pages::{self, Button, LoginCodePage, LoginPage, LogoutPage, MessagePage},
    plane::Plane,
};

/// Where the login form goes.
pub const LOGIN: &str = "/login";
/// The second half of a login.
pub const LOGIN_CODE: &str = "/login/code";
/// The page that asks before a logout.
pub const LOGOUT: &str = "/logout";

/// Those of this file.
pub fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::get(paths::AUTHORIZE, authorize),
        Endpoint::post(paths::AUTHORIZE, authorize),
        Endpoint::post(LOGIN, login),
        Endpoint::post(LOGIN_CODE, finish_login),
        Endpoint::get(paths::END_SESSION, end_session),
        Endpoint::post(paths::END_SESSION, end_session),
        Endpoint::get(LOGOUT, resume_logout),
        Endpoint::post(LOGOUT, confirm_logout),
    ]
}

/// `GET|POST /oauth2/authorize` (RFC 6749 section 3.1).
async fn authorize(State(plane): State<Arc<Plane>>, request: Request) -> Result<Response, Refusal> {
    let form = Form::read(request, &*plane.entropy).await?;
    let answered = plane
        .blocking(move |plane| {
            let session = cookies::read(&form.headers, cookies::SESSION);
            let browser = cookies::read(&form.headers, cookies::BROWSER);
            plane
                .provider
                .authorize(&form.parameters, session, browser, &form.caller)
        })
        .await?;
    Ok(match answered {
        Ok(Authorization::Code { location } | Authorization::Consent { location }) => {
            redirect(location.expose())
        }
        Ok(Authorization::Login(prompt)) => login_page(&plane, &prompt),
        Err(AuthorizeError::Refused { location, .. }) => redirect(&location),
        Err(AuthorizeError::Unavailable(fault)) => return Err(Refusal::internal(&fault)),
        Err(shown) => {
            let status = StatusCode::from_u16(shown.status()).unwrap_or(StatusCode::BAD_REQUEST);
            message(
                &plane,
                status,
                "This request cannot be answered",
                &sentence(&shown),
            )
        }
    })
}

pub(super) fn login_page(plane: &Plane, prompt: &LoginPrompt) -> Response {
    let page = LoginPage {
        site: plane.site(),
        client: &prompt.client_name,
        flow: &prompt.flow,
        username: prompt.username_hint.as_deref().unwrap_or(""),
        message: None,
        passkey: plane.provider.passkey_request(&prompt.flow),
        offer_passkeys: true,
        connects: prompt.connects.as_deref(),
        elsewhere: buttons(plane),
        can_reset: plane.provider.mail_is_carried(),
    };
    let mut response = pages::render_with_script(StatusCode::OK, &page);
    cookies::set(
        response.headers_mut(),
        cookies::BROWSER,
        &prompt.browser,
        None,
    );
    response
}

/// Where else people may log in.
pub(super) fn buttons(plane: &Plane) -> Vec<Button> {
    let elsewhere = plane.provider.identity_providers();
    let button = |at: &Arc<IdentityProvider>| Button {
        name: at.name.clone(),
        label: at.label.clone(),
    };
    elsewhere.iter().map(button).collect()
}

/// What was typed, kept to show the form again.
pub(super) struct Typed {
    pub(super) flow: String,
    pub(super) username: String,
}

/// `POST /login`.
async fn login(State(plane): State<Arc<Plane>>, request: Request) -> Result<Response, Refusal> {
    refuse_cross_site(request.headers())?;
    let form = Form::read(request, &*plane.entropy).await?;
    let field = |name: &str| form.parameters.get(name).unwrap_or("").to_owned();
    let typed = Typed {
        flow: field("flow"),
        username: field("username"),
    };
    let password = Redacted::new(field("password"));
    let sender = Sender {
        session: cookies::read(&form.headers, cookies::SESSION).map(str::to_owned),
        caller: form.caller.clone(),
    };
    let (begun, typed_password) = (Instant::now(), password.clone());
    let outcome = plane
        .hashing(move |plane| {
            let request = LoginRequest {
                flow: form.parameters.get("flow").unwrap_or(""),
                browser: cookies::read(&form.headers, cookies::BROWSER),
                session: cookies::read(&form.headers, cookies::SESSION),
                username: form.parameters.get("username").unwrap_or(""),
                password: &password,
            };
            plane.provider.begin_login(&request, &form.caller)
        })
        .await?;
    let outcome = match outcome {
        Ok(LoginStep::LoggedIn(logged_in)) => Ok(logged_in),
        Ok(LoginStep::AskDirectories(asked)) => {
            directories::log_in(&plane, asked, &typed_password, sender).await?
        }
        Err(error) => Err(error),
    };
    if plane.directories.are_declared() && matches!(outcome, Err(LoginError::WrongCredentials)) {
        wait_for_round_time(begun).await;
    }
    match outcome {
        Ok(logged_in) => Ok(logged_in_answer(&logged_in)),
        Err(LoginError::Unavailable(fault)) => Err(Refusal::internal(&fault)),
        Err(LoginError::SecondFactorNeeded { flow }) => {
            Ok(code_page(&plane, StatusCode::OK, &flow, None))
        }
        Err(
            error @ (LoginError::WrongCredentials
            | LoginError::PasskeyNeeded
            | LoginError::Throttled { .. }),
        ) => Ok(login_page_again(&plane, &typed, &error)),
        Err(error) => {
            let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::BAD_REQUEST);
            Ok(message(
                &plane,
                status,
                "Please start again",
                &sentence(&error),
            ))
        }
    }
}

/// A directory takes another time to say no than we do, and another one for a name it knows than for one it does not: every no
/// comes at the end of such a step, whoever said it.
const REFUSAL_STEP: Duration = Duration::from_millis(500);

async fn wait_for_round_time(begun: Instant) {
    let step = REFUSAL_STEP.as_nanos().max(1);
    let rest = step - begun.elapsed().as_nanos() % step;
    let rest = u64::try_from(rest).unwrap_or(0);
    tokio::time::sleep(Duration::from_nanos(rest)).await;
}

/// `POST /login/code`.
async fn finish_login(
    State(plane): State<Arc<Plane>>,
    request: Request,
) -> Result<Response, Refusal> {
    refuse_cross_site(request.headers())?;
    let form = Form::read(request, &*plane.entropy).await?;
    let flow = form.parameters.get("flow").unwrap_or("").to_owned();
    let outcome = plane
        .blocking(move |plane| {
            let request = SecondFactorRequest {
                flow: form.parameters.get("flow").unwrap_or(""),
                browser: cookies::read(&form.headers, cookies::BROWSER),
                session: cookies::read(&form.headers, cookies::SESSION),
                code: form.parameters.get("code").unwrap_or(""),
            };
            plane.provider.finish_login(&request, &form.caller)
        })
        .await?;
    match outcome {
        Ok(logged_in) => Ok(logged_in_answer(&logged_in)),
        Err(LoginError::Unavailable(fault)) => Err(Refusal::internal(&fault)),
        Err(error) => {
            let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::BAD_REQUEST);
            let text = sentence(&error);
            Ok(match &error {
                LoginError::WrongCode => code_page(&plane, status, &flow, Some(&text)),
                LoginError::Throttled { retry_after } => {
                    let page = code_page(&plane, status, &flow, Some(&text));
                    with_retry_after(page, *retry_after)
                }
                _ => message(&plane, status, "Please start again", &text),
            })
        }
    }
}

pub(super) fn code_page(
    plane: &Plane,
    status: StatusCode,
    flow: &str,
    message: Option<&str>,
) -> Response {
    let page = LoginCodePage {
        site: plane.site(),
        flow,
        message,
    };
    pages::render(status, &page)
}

pub(super) fn with_retry_after(mut response: Response, retry_after: Duration) -> Response {
    let seconds = HeaderValue::from(retry_after.as_secs().max(1));
    response.headers_mut().insert(header::RETRY_AFTER, seconds);
    response
}

pub(super) fn logged_in_answer(logged_in: &LoggedIn) -> Response {
    let mut response = redirect(logged_in.location.expose());
    cookies::set(
        response.headers_mut(),
        cookies::SESSION,
        &logged_in.session_cookie,
        None,
    );
    response
}

/// Why a login form is shown again.
pub(super) struct Shown<'a> {
    pub(super) status: StatusCode,
    pub(super) text: &'a str,
    pub(super) offer_passkeys: bool,
}

pub(super) fn login_page_saying(plane: &Plane, typed: &Typed, shown: &Shown<'_>) -> Response {
    let form = plane.provider.login_form(&typed.flow);
    let client = form.as_ref().map(|form| form.client_name.as_str());
    let page = LoginPage {
        site: plane.site(),
        client: client.unwrap_or("the application"),
        flow: &typed.flow,
        username: &typed.username,
        message: Some(shown.text),
        passkey: plane.provider.passkey_request(&typed.flow),
        offer_passkeys: shown.offer_passkeys,
        connects: form.as_ref().and_then(|form| form.connects.as_deref()),
        elsewhere: buttons(plane),
        can_reset: plane.provider.mail_is_carried(),
    };
    pages::render_with_script(shown.status, &page)
}

pub(super) fn login_page_again(plane: &Plane, typed: &Typed, error: &LoginError) -> Response {
    let shown = Shown {
        status: StatusCode::from_u16(error.status()).unwrap_or(StatusCode::UNAUTHORIZED),
        text: &sentence(error),
        offer_passkeys: !matches!(error, LoginError::WrongPasskey),
    };
    let response = login_page_saying(plane, typed, &shown);
    match error {
        LoginError::Throttled { retry_after } => with_retry_after(response, *retry_after),
        _ => response,
    }
}

/// `GET|POST /oauth2/logout` (OpenID Connect RP-Initiated Logout 1.0 section 2).
async fn end_session(
    State(plane): State<Arc<Plane>>,
    request: Request,
) -> Result<Response, Refusal> {
    let is_form = request.method() == Method::POST;
    let form = Form::read(request, &*plane.entropy).await?;
    let answered = plane
        .blocking(move |plane| {
            let session = cookies::read(&form.headers, cookies::SESSION);
            if is_form && session.is_none() {
                // A form from another site came without cookies. They come along when the browser is sent on.
                let flow = plane.provider.defer_logout(&form.parameters)?;
                return Ok(EndSession::Elsewhere(format!("{LOGOUT}?flow={flow}")));
            }
            plane
                .provider
                .begin_logout(&form.parameters, session, &form.caller)
                .map(EndSession::Here)
        })
        .await?;
    match answered {
        Ok(EndSession::Elsewhere(location)) => Ok(redirect(&location)),
        Ok(EndSession::Here(logout)) => logout_answer(&plane, Ok(logout)),
        Err(error) => logout_answer(&plane, Err(error)),
    }
}

/// Where a logout request is answered.
enum EndSession {
    Here(Logout),
    Elsewhere(String),
}

/// `GET /logout`: the user's own wish, or a request on its way.
async fn resume_logout(
    State(plane): State<Arc<Plane>>,
    request: Request,
) -> Result<Response, Refusal> {
    answer_logout(plane, request, Provider::resume_logout).await
}

/// `POST /logout`: the form of the question.
async fn confirm_logout(
    State(plane): State<Arc<Plane>>,
    request: Request,
) -> Result<Response, Refusal> {
    refuse_cross_site(request.headers())?;
    answer_logout(plane, request, Provider::confirm_logout).await
}

async fn answer_logout(
    plane: Arc<Plane>,
    request: Request,
    handle: fn(&Provider, &str, Option<&str>, &Caller) -> Result<Logout, LogoutError>,
) -> Result<Response, Refusal> {
    let form = Form::read(request, &*plane.entropy).await?;
    let answered = plane
        .blocking(move |plane| {
            let session = cookies::read(&form.headers, cookies::SESSION);
            let flow = form.parameters.get("flow").unwrap_or("");
            handle(&plane.provider, flow, session, &form.caller)
        })
        .await?;
    logout_answer(&plane, answered)
}

fn logout_answer(
    plane: &Plane,
    answered: Result<Logout, LogoutError>,
) -> Result<Response, Refusal> {
    let mut response = match answered {
        Ok(Logout::Ask(question)) => {
            let page = LogoutPage {
                site: plane.site(),
                client: question.client_name.as_deref(),
                flow: &question.flow,
            };
            return Ok(pages::render(StatusCode::OK, &page));
        }
        Ok(Logout::Done {
            location: Some(location),
        }) => redirect(&location),
        Ok(Logout::Done { location: None }) => {
            let text = "Your session and all tokens that belong to it are ended.";
            message(plane, StatusCode::OK, "You are logged out", text)
        }
        Err(LogoutError::Unavailable(fault)) => return Err(Refusal::internal(&fault)),
        Err(error) => {
            let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::BAD_REQUEST);
            let heading = "This request cannot be answered";
            return Ok(message(plane, status, heading, &sentence(&error)));
        }
    };
    cookies::clear(response.headers_mut(), cookies::SESSION);
    Ok(response)
}

/// Fetch metadata (W3C): a form of another site is refused even before the pre-login cookie is looked at.
/// Clients without it (the command line) have no cookies to abuse.
pub(super) fn refuse_cross_site(headers: &HeaderMap) -> Result<(), Refusal> {
    match headers.get("sec-fetch-site").map(HeaderValue::as_bytes) {
        None | Some(b"same-origin" | b"none") => Ok(()),
        Some(_) => Err(Refusal::new(
            403,
            "api.cross_site",
            "the request comes from another site",
        )),
    }
}

/// 303: the browser follows with `GET` and does not send the password on (RFC 9700 section 4.12).
pub(super) fn redirect(location: &str) -> Response {
    let Ok(location) = HeaderValue::from_str(location) else {
        return Refusal::bad_request("the redirect address has characters a header cannot have")
            .into_response();
    };
    let headers = [
        (header::LOCATION, location),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (
            header::REFERRER_POLICY,
            HeaderValue::from_static("no-referrer"),
        ),
    ];
    (StatusCode::SEE_OTHER, headers).into_response()
}

pub(super) fn message(plane: &Plane, status: StatusCode, heading: &str, text: &str) -> Response {
    let page = MessagePage {
        site: plane.site(),
        heading,
        text,
    };
    pages::render(status, &page)
}

/// An error's text as a sentence for people.
pub(super) fn sentence(said: &dyn Display) -> String {
    let text = said.to_string();
    let mut characters = text.chars();
    let first = characters
        .next()
        .map(|first| first.to_uppercase().to_string())
        .unwrap_or_default();
    format!("{first}{}.", characters.as_str())
}
