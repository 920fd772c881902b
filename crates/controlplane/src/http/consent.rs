//! The page where a user is asked what an application may have.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    response::Response,
};
use http::StatusCode;
use testudo_identity::{ConsentDecision, ConsentError, paths};

use super::{
    Endpoint, Refusal,
    authorize::{message, redirect, refuse_cross_site, sentence},
    body::Form,
    cookies,
};
use crate::{
    pages::{self, ConsentPage},
    plane::Plane,
};

/// Those of this file.
pub fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::get(paths::CONSENT, ask),
        Endpoint::post(paths::CONSENT, decide),
    ]
}

/// `GET /consent`: where the authorization endpoint and the login send the browser.
async fn ask(State(plane): State<Arc<Plane>>, request: Request) -> Result<Response, Refusal> {
    let form = Form::read(request, &*plane.entropy).await?;
    let answered = plane
        .blocking(move |plane| {
            let session = cookies::read(&form.headers, cookies::SESSION);
            let flow = form.parameters.get("flow").unwrap_or("");
            plane.provider.consent_question(flow, session)
        })
        .await?;
    match answered {
        Ok(question) => {
            let page = ConsentPage {
                site: plane.site(),
                client: &question.client_name,
                scopes: &question.scopes,
                flow: &question.flow,
            };
            Ok(pages::render(StatusCode::OK, &page))
        }
        Err(error) => refused(&plane, &error),
    }
}

/// `POST /consent`: the answer.
async fn decide(State(plane): State<Arc<Plane>>, request: Request) -> Result<Response, Refusal> {
    refuse_cross_site(request.headers())?;
    let form = Form::read(request, &*plane.entropy).await?;
    let answered = plane
        .blocking(move |plane| {
            let session = cookies::read(&form.headers, cookies::SESSION);
            let flow = form.parameters.get("flow").unwrap_or("");
            let decision = match form.parameters.get("decision") {
                Some("allow") => ConsentDecision::Allow,
                _ => ConsentDecision::Deny,
            };
            let provider = &plane.provider;
            provider.decide_consent(flow, decision, session, &form.caller)
        })
        .await?;
    match answered {
        Ok(location) => Ok(redirect(location.expose())),
        Err(error) => refused(&plane, &error),
    }
}

fn refused(plane: &Plane, error: &ConsentError) -> Result<Response, Refusal> {
    match error {
        ConsentError::Unavailable(fault) => Err(Refusal::internal(fault)),
        ConsentError::FormInvalid => {
            let text = sentence(error);
            Ok(message(
                plane,
                StatusCode::BAD_REQUEST,
                "Please start again",
                &text,
            ))
        }
    }
}
