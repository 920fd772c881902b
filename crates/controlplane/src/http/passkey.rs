//! Where a browser sends what an authenticator said: logging in, and adding a passkey with a link. Adding one to an open
//! account is on the account's page.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    response::Response,
};
use http::StatusCode;
use testudo_identity::{
    InvitationAnswer, InvitationError, InvitationPage, LoginError, Parameters, PasskeyCreation,
    PasskeyLoginRequest, paths,
    webauthn::{AssertionResponse, RegistrationResponse},
};

use super::{
    Endpoint, Refusal,
    authorize::{Typed, logged_in_answer, login_page_again, message, refuse_cross_site, sentence},
    body::Form,
    cookies,
};
use crate::{
    pages::{self, PasskeyCreatePage},
    plane::Plane,
};

/// Where a passkey logs in.
pub const LOGIN_PASSKEY: &str = "/login/passkey";

/// Those of this file.
pub fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::post(LOGIN_PASSKEY, login),
        Endpoint::get(paths::INVITATION, open_invitation),
        Endpoint::post(paths::INVITATION, accept_invitation),
    ]
}

/// `POST /login/passkey`.
async fn login(State(plane): State<Arc<Plane>>, request: Request) -> Result<Response, Refusal> {
    refuse_cross_site(request.headers())?;
    let form = Form::read(request, &*plane.entropy).await?;
    let typed = Typed {
        flow: form.parameters.get("flow").unwrap_or("").to_owned(),
        username: String::new(),
    };
    let outcome = plane
        .blocking(move |plane| {
            let request = PasskeyLoginRequest {
                flow: form.parameters.get("flow").unwrap_or(""),
                browser: cookies::read(&form.headers, cookies::BROWSER),
                session: cookies::read(&form.headers, cookies::SESSION),
                response: assertion_of(&form.parameters),
            };
            plane.provider.login_with_passkey(&request, &form.caller)
        })
        .await?;
    match outcome {
        Ok(logged_in) => Ok(logged_in_answer(&logged_in)),
        Err(LoginError::Unavailable(fault)) => Err(Refusal::internal(&fault)),
        Err(error @ (LoginError::WrongPasskey | LoginError::Throttled { .. })) => {
            Ok(login_page_again(&plane, &typed, &error))
        }
        Err(error) => {
            let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::BAD_REQUEST);
            let text = sentence(&error);
            Ok(message(&plane, status, "Please start again", &text))
        }
    }
}

/// `GET /invitation`.
async fn open_invitation(
    State(plane): State<Arc<Plane>>,
    request: Request,
) -> Result<Response, Refusal> {
    let form = Form::read(request, &*plane.entropy).await?;
    let answered = plane
        .blocking(move |plane| {
            let code = form.parameters.get("code").unwrap_or("");
            let browser = cookies::read(&form.headers, cookies::BROWSER);
            plane.provider.invitation_page(code, browser)
        })
        .await?;
    invitation_answer(&plane, answered)
}

/// `POST /invitation`.
async fn accept_invitation(
    State(plane): State<Arc<Plane>>,
    request: Request,
) -> Result<Response, Refusal> {
    refuse_cross_site(request.headers())?;
    let form = Form::read(request, &*plane.entropy).await?;
    let answered = plane
        .blocking(move |plane| {
            let answer = InvitationAnswer {
                flow: form.parameters.get("flow").unwrap_or(""),
                browser: cookies::read(&form.headers, cookies::BROWSER),
                name: form.parameters.get("name").unwrap_or(""),
                response: registration_of(&form.parameters),
            };
            plane.provider.accept_invitation(&answer, &form.caller)
        })
        .await?;
    invitation_answer(&plane, answered)
}

fn invitation_answer(
    plane: &Plane,
    answered: Result<InvitationPage, InvitationError>,
) -> Result<Response, Refusal> {
    match answered {
        Ok(InvitationPage::Offer {
            flow,
            browser,
            creation,
            refused,
        }) => {
            let action = paths::INVITATION;
            let mut page = creation_page(plane, action, &flow, &creation, refused.as_deref());
            cookies::set(page.headers_mut(), cookies::BROWSER, &browser, None);
            Ok(page)
        }
        Ok(InvitationPage::Done) => {
            let text =
                "From now on log in with it: choose the passkey instead of typing a password.";
            let heading = "Your passkey is ready";
            Ok(message(plane, StatusCode::OK, heading, text))
        }
        Err(InvitationError::Unavailable(fault)) => Err(Refusal::internal(&fault)),
        Err(error) => {
            let heading = "This link leads nowhere";
            let text = sentence(&error);
            Ok(message(plane, StatusCode::BAD_REQUEST, heading, &text))
        }
    }
}

/// The page that makes a passkey.
pub(super) fn creation_page(
    plane: &Plane,
    action: &str,
    flow: &str,
    creation: &PasskeyCreation,
    refused: Option<&str>,
) -> Response {
    let refused = refused.map(|refused| sentence(&refused));
    let page = PasskeyCreatePage {
        site: plane.site(),
        action,
        flow,
        creation,
        exclude: creation.exclude.join(" "),
        algorithms: creation
            .algorithms
            .map(|number| number.to_string())
            .join(" "),
        refused: refused.as_deref(),
    };
    pages::render_with_script(StatusCode::OK, &page)
}

/// What the script put into the form of the page above.
pub(super) fn registration_of(parameters: &Parameters) -> RegistrationResponse<'_> {
    let field = |name: &str| parameters.get(name).unwrap_or("");
    RegistrationResponse {
        client_data: field("client_data"),
        attestation_object: field("attestation_object"),
    }
}

fn assertion_of(parameters: &Parameters) -> AssertionResponse<'_> {
    let field = |name: &str| parameters.get(name).unwrap_or("");
    AssertionResponse {
        credential_id: field("credential_id"),
        client_data: field("client_data"),
        authenticator_data: field("authenticator_data"),
        signature: field("signature"),
        user_handle: field("user_handle"),
    }
}
