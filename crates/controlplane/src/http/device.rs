//! The pages where a user connects a device (RFC 8628 section 3.3).

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    response::Response,
};
use http::StatusCode;
use testudo_identity::{DeviceDecision, DevicePage, DevicePageError, paths};

use super::{
    Endpoint, Refusal,
    authorize::{login_page, message, refuse_cross_site, sentence, with_retry_after},
    body::Form,
    cookies,
};
use crate::{
    pages::{self, DeviceCodePage, DeviceQuestionPage},
    plane::Plane,
};

/// Those of this file.
pub fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::get(paths::DEVICE, open),
        Endpoint::post(paths::DEVICE, send),
    ]
}

/// `GET /device`.
async fn open(State(plane): State<Arc<Plane>>, request: Request) -> Result<Response, Refusal> {
    let form = Form::read(request, &*plane.entropy).await?;
    let user_code = form.parameters.get("user_code").unwrap_or("").to_owned();
    let answered = plane
        .blocking(move |plane| {
            let session = cookies::read(&form.headers, cookies::SESSION);
            let browser = cookies::read(&form.headers, cookies::BROWSER);
            let user_code = form.parameters.get("user_code");
            plane.provider.device_page(user_code, session, browser)
        })
        .await?;
    let page = answered.map_err(|fault| Refusal::internal(&fault))?;
    Ok(shown(&plane, &page, &user_code))
}

/// `POST /device`: the code, or the decision.
async fn send(State(plane): State<Arc<Plane>>, request: Request) -> Result<Response, Refusal> {
    refuse_cross_site(request.headers())?;
    let form = Form::read(request, &*plane.entropy).await?;
    let typed = form.parameters.get("user_code").unwrap_or("").to_owned();
    let flow = form.parameters.get("flow").unwrap_or("").to_owned();
    let answered = plane
        .blocking(move |plane| {
            let parameters = &form.parameters;
            let session = cookies::read(&form.headers, cookies::SESSION);
            let flow = parameters.get("flow").unwrap_or("");
            let decision = match parameters.get("decision") {
                Some("allow") => DeviceDecision::Allow,
                Some(_) => DeviceDecision::Deny,
                None => {
                    let typed = parameters.get("user_code").unwrap_or("");
                    let provider = &plane.provider;
                    return provider.enter_user_code(flow, typed, session, &form.caller);
                }
            };
            let provider = &plane.provider;
            provider.decide_device(flow, decision, session, &form.caller)
        })
        .await?;
    Ok(match answered {
        Ok(page) => shown(&plane, &page, &typed),
        Err(DevicePageError::Unavailable(fault)) => return Err(Refusal::internal(&fault)),
        Err(DevicePageError::FormInvalid) => {
            let text = sentence(&DevicePageError::FormInvalid);
            message(&plane, StatusCode::BAD_REQUEST, "Please start again", &text)
        }
        Err(error) => again(&plane, &flow, &typed, &error),
    })
}

fn shown(plane: &Plane, page: &DevicePage, user_code: &str) -> Response {
    match page {
        DevicePage::Login(prompt) => login_page(plane, prompt),
        DevicePage::EnterCode { flow } => code_page(plane, StatusCode::OK, flow, user_code, None),
        DevicePage::Decide(question) => {
            let page = DeviceQuestionPage {
                site: plane.site(),
                client: &question.client_name,
                user_code: &question.user_code,
                scopes: &question.scopes,
                flow: &question.flow,
            };
            pages::render(StatusCode::OK, &page)
        }
        DevicePage::Decided(DeviceDecision::Allow) => {
            let text = "Go back to it: in a few seconds it goes on.";
            message(plane, StatusCode::OK, "Your device is connected", text)
        }
        DevicePage::Decided(DeviceDecision::Deny) => {
            let text = "It gets nothing. If you do not know the device, somebody else may have sent you its code.";
            message(plane, StatusCode::OK, "Your device is not connected", text)
        }
    }
}

/// The form once more, with what was wrong.
fn again(plane: &Plane, flow: &str, typed: &str, error: &DevicePageError) -> Response {
    let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::BAD_REQUEST);
    let response = code_page(plane, status, flow, typed, Some(&sentence(error)));
    match error {
        DevicePageError::Throttled { retry_after } => with_retry_after(response, *retry_after),
        _ => response,
    }
}

fn code_page(
    plane: &Plane,
    status: StatusCode,
    flow: &str,
    user_code: &str,
    message: Option<&str>,
) -> Response {
    let page = DeviceCodePage {
        site: plane.site(),
        flow,
        user_code,
        message,
    };
    pages::render(status, &page)
}
