//! The pages that letters lead to, and the one where a letter is asked for.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    response::Response,
};
use http::StatusCode;
use testudo_identity::{LinkError, ResetError, ResetRequestError, paths};
use testudo_model::Redacted;

use super::{
    Endpoint, Refusal,
    authorize::{message, refuse_cross_site, sentence, with_retry_after},
    body::Form,
};
use crate::{
    pages::{self, ForgotPasswordPage, NewPasswordPage, VerifyAddressPage},
    plane::Plane,
};

/// Those of this file.
pub fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::get(paths::VERIFY_ADDRESS, ask_address),
        Endpoint::post(paths::VERIFY_ADDRESS, verify_address),
        Endpoint::get(paths::FORGOT_PASSWORD, ask_name),
        Endpoint::post(paths::FORGOT_PASSWORD, forget_password),
        Endpoint::get(paths::RESET_PASSWORD, ask_password),
        Endpoint::post(paths::RESET_PASSWORD, reset_password),
    ]
}

/// `GET /verify-address`: mail scanners come here too, so it changes nothing.
async fn ask_address(
    State(plane): State<Arc<Plane>>,
    request: Request,
) -> Result<Response, Refusal> {
    let form = Form::read(request, &*plane.entropy).await?;
    let code = form.parameters.get("code").unwrap_or("").to_owned();
    let looked_up = code.clone();
    let answered = plane
        .blocking(move |plane| plane.provider.verification_page(&looked_up))
        .await?;
    match answered {
        Ok(question) => {
            let page = VerifyAddressPage {
                site: plane.site(),
                username: &question.username,
                address: &question.address,
                code: &code,
            };
            Ok(pages::render(StatusCode::OK, &page))
        }
        Err(error) => dead_end(&plane, &error),
    }
}

/// `POST /verify-address`.
async fn verify_address(
    State(plane): State<Arc<Plane>>,
    request: Request,
) -> Result<Response, Refusal> {
    refuse_cross_site(request.headers())?;
    let form = Form::read(request, &*plane.entropy).await?;
    let answered = plane
        .blocking(move |plane| {
            let code = form.parameters.get("code").unwrap_or("");
            plane.provider.verify_address(code, &form.caller)
        })
        .await?;
    match answered {
        Ok(()) => {
            let heading = "Your mail address is confirmed";
            let text = "You can close this page.";
            Ok(message(&plane, StatusCode::OK, heading, text))
        }
        Err(error) => dead_end(&plane, &error),
    }
}

/// `GET /forgot-password`.
async fn ask_name(State(plane): State<Arc<Plane>>) -> Response {
    if plane.provider.mail_is_carried() {
        name_page(&plane, StatusCode::OK, None)
    } else {
        no_letters(&plane)
    }
}

/// `POST /forgot-password`: the same answer for every name.
async fn forget_password(
    State(plane): State<Arc<Plane>>,
    request: Request,
) -> Result<Response, Refusal> {
    refuse_cross_site(request.headers())?;
    let form = Form::read(request, &*plane.entropy).await?;
    let answered = plane
        .blocking(move |plane| {
            let typed = form.parameters.get("username").unwrap_or("");
            plane.provider.forget_password(typed, &form.caller)
        })
        .await?;
    Ok(match answered {
        Ok(()) => {
            let text = "If we know you under what you typed, and your mail address is confirmed, a letter is on its way. The \
                link in it is good once, for half an hour. If nothing comes, ask an administrator.";
            message(&plane, StatusCode::OK, "Look into your mailbox", text)
        }
        Err(ResetRequestError::Unavailable(fault)) => return Err(Refusal::internal(&fault)),
        Err(ResetRequestError::NoMail) => no_letters(&plane),
        Err(error @ ResetRequestError::NoName) => {
            name_page(&plane, StatusCode::BAD_REQUEST, Some(&sentence(&error)))
        }
        Err(ref error @ ResetRequestError::Throttled { retry_after }) => {
            let status = StatusCode::TOO_MANY_REQUESTS;
            with_retry_after(
                name_page(&plane, status, Some(&sentence(error))),
                retry_after,
            )
        }
    })
}

fn name_page(plane: &Plane, status: StatusCode, message: Option<&str>) -> Response {
    let page = ForgotPasswordPage {
        site: plane.site(),
        message,
    };
    pages::render(status, &page)
}

fn no_letters(plane: &Plane) -> Response {
    let text = sentence(&ResetRequestError::NoMail);
    let heading = "No letters are sent here";
    message(plane, StatusCode::NOT_FOUND, heading, &text)
}

/// `GET /reset-password`: mail scanners come here too, so it changes nothing.
async fn ask_password(
    State(plane): State<Arc<Plane>>,
    request: Request,
) -> Result<Response, Refusal> {
    let form = Form::read(request, &*plane.entropy).await?;
    let code = form.parameters.get("code").unwrap_or("").to_owned();
    password_page(&plane, code, StatusCode::OK, None).await
}

/// `POST /reset-password`.
async fn reset_password(
    State(plane): State<Arc<Plane>>,
    request: Request,
) -> Result<Response, Refusal> {
    refuse_cross_site(request.headers())?;
    let form = Form::read(request, &*plane.entropy).await?;
    let field = |name: &str| form.parameters.get(name).unwrap_or("").to_owned();
    let (code, password) = (field("code"), Redacted::new(field("password")));
    if field("again") != *password.expose() {
        let why = "The two passwords differ.".to_owned();
        return password_page(&plane, code, StatusCode::OK, Some(why)).await;
    }
    let used = code.clone();
    let answered = plane
        .hashing(move |plane| {
            let provider = &plane.provider;
            provider.reset_password(&used, &password, &form.caller)
        })
        .await?;
    match answered {
        Ok(()) => {
            let heading = "Your password is changed";
            let text = "You are logged out everywhere. Go back to the application and log in with the new password.";
            Ok(message(&plane, StatusCode::OK, heading, text))
        }
        Err(ResetError::Unavailable(fault)) => Err(Refusal::internal(&fault)),
        Err(ResetError::Link(error)) => dead_end(&plane, &error),
        Err(ResetError::Password(why)) => {
            let why = sentence(&why);
            password_page(&plane, code, StatusCode::OK, Some(why)).await
        }
    }
}

async fn password_page(
    plane: &Arc<Plane>,
    code: String,
    status: StatusCode,
    message: Option<String>,
) -> Result<Response, Refusal> {
    let looked_up = code.clone();
    let answered = plane
        .blocking(move |plane| plane.provider.password_reset_page(&looked_up))
        .await?;
    match answered {
        Ok(form) => {
            let page = NewPasswordPage {
                site: plane.site(),
                username: &form.username,
                action: paths::RESET_PASSWORD,
                proof: "code",
                value: &code,
                message: message.as_deref(),
            };
            Ok(pages::render(status, &page))
        }
        Err(error) => dead_end(plane, &error),
    }
}

fn dead_end(plane: &Plane, error: &LinkError) -> Result<Response, Refusal> {
    match error {
        LinkError::Unavailable(fault) => Err(Refusal::internal(fault)),
        LinkError::Invalid => {
            let heading = "This link leads nowhere";
            let text = sentence(error);
            Ok(message(plane, StatusCode::BAD_REQUEST, heading, &text))
        }
    }
}
