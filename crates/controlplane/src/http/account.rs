//! The page where users see and change their own account.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    response::Response,
};
use http::StatusCode;
use testudo_identity::{
    AccountAction, AccountError, AccountPage, AccountView, ConsentView, LinkView, Parameters,
    PasskeyView, SessionView, paths,
};
use testudo_model::Redacted;

use super::{
    Endpoint, Refusal,
    authorize::{buttons, login_page, message, refuse_cross_site, sentence},
    body::Form,
    cookies,
    passkey::{creation_page, registration_of},
};
use crate::{
    pages::{
        self, AccountOverviewPage, AddressPage, ConsentLine, LinkLine, NewPasswordPage,
        PasskeyLine, RecoveryCodesPage, SessionLine, TotpPage,
    },
    plane::Plane,
};

/// Those of this file.
pub fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::get(paths::ACCOUNT, show),
        Endpoint::post(paths::ACCOUNT, change),
    ]
}

/// `GET /account`.
async fn show(State(plane): State<Arc<Plane>>, request: Request) -> Result<Response, Refusal> {
    let form = Form::read(request, &*plane.entropy).await?;
    let answered = plane
        .blocking(move |plane| {
            let session = cookies::read(&form.headers, cookies::SESSION);
            let browser = cookies::read(&form.headers, cookies::BROWSER);
            plane.provider.account_page(session, browser)
        })
        .await?;
    let page = answered.map_err(|fault| Refusal::internal(&fault))?;
    Ok(shown(&plane, &page))
}

/// `POST /account`.
async fn change(State(plane): State<Arc<Plane>>, request: Request) -> Result<Response, Refusal> {
    refuse_cross_site(request.headers())?;
    let form = Form::read(request, &*plane.entropy).await?;
    let typed = |name: &str| Redacted::new(form.parameters.get(name).unwrap_or("").to_owned());
    let (password, again) = (typed("password"), typed("again"));
    let hashes = form.parameters.get("action") == Some("confirm-password");
    let work = move |plane: &Plane| {
        let action = match hashes {
            true => AccountAction::ConfirmPassword {
                password: &password,
                again: &again,
            },
            false => action_of(&form.parameters).ok_or(AccountError::FormInvalid)?,
        };
        let flow = form.parameters.get("flow").unwrap_or("");
        let session = cookies::read(&form.headers, cookies::SESSION);
        let browser = cookies::read(&form.headers, cookies::BROWSER);
        let provider = &plane.provider;
        provider.change_account(flow, action, session, browser, &form.caller)
    };
    let answered = match hashes {
        true => plane.hashing(work).await?,
        false => plane.blocking(work).await?,
    };
    match answered {
        Ok(page) => Ok(shown(&plane, &page)),
        Err(AccountError::Unavailable(fault)) => Err(Refusal::internal(&fault)),
        Err(error) => {
            let text = sentence(&error);
            let heading = "Please start again";
            Ok(message(&plane, StatusCode::BAD_REQUEST, heading, &text))
        }
    }
}

fn action_of(parameters: &Parameters) -> Option<AccountAction<'_>> {
    Some(match parameters.get("action")? {
        "end-session" => AccountAction::EndSession(parameters.get("session")?.parse().ok()?),
        "end-all-sessions" => AccountAction::EndAllSessions,
        "revoke-consent" => AccountAction::RevokeConsent(parameters.get("client")?.parse().ok()?),
        "verify-address" => AccountAction::VerifyAddress,
        "begin-address" => AccountAction::BeginAddress,
        "confirm-address" => AccountAction::ConfirmAddress {
            address: parameters.get("address").unwrap_or(""),
        },
        "begin-password" => AccountAction::BeginPassword,
        "begin-totp" => AccountAction::BeginTotp,
        "confirm-totp" => AccountAction::ConfirmTotp {
            code: parameters.get("code").unwrap_or(""),
        },
        "remove-totp" => AccountAction::RemoveTotp,
        "renew-recovery-codes" => AccountAction::RenewRecoveryCodes,
        "begin-passkey" => AccountAction::BeginPasskey,
        "confirm-passkey" => AccountAction::ConfirmPasskey {
            name: parameters.get("name").unwrap_or(""),
            response: registration_of(parameters),
        },
        "rename-passkey" => AccountAction::RenamePasskey {
            id: parameters.get("passkey")?.parse().ok()?,
            name: parameters.get("name").unwrap_or(""),
        },
        "disconnect" => AccountAction::Disconnect(parameters.get("link")?.parse().ok()?),
        "remove-passkey" => AccountAction::RemovePasskey(parameters.get("passkey")?.parse().ok()?),
        _ => return None,
    })
}

fn shown(plane: &Plane, page: &AccountPage) -> Response {
    match page {
        AccountPage::Login(prompt) => login_page(plane, prompt),
        AccountPage::Overview(view) => overview(plane, view),
        AccountPage::AddTotp {
            flow,
            setup,
            was_wrong,
        } => {
            let page = TotpPage {
                site: plane.site(),
                flow,
                secret: setup.secret.expose(),
                uri: setup.uri.expose(),
                was_wrong: *was_wrong,
            };
            pages::render(StatusCode::OK, &page)
        }
        AccountPage::AddPasskey {
            flow,
            creation,
            refused,
        } => creation_page(plane, paths::ACCOUNT, flow, creation, refused.as_deref()),
        AccountPage::ChangeAddress {
            flow,
            address,
            refused,
        } => {
            let refused = refused.as_ref().map(|refused| sentence(refused));
            let page = AddressPage {
                site: plane.site(),
                flow,
                address,
                message: refused.as_deref(),
            };
            pages::render(StatusCode::OK, &page)
        }
        AccountPage::ChangePassword {
            flow,
            username,
            refused,
        } => {
            let refused = refused.as_ref().map(|refused| sentence(refused));
            let page = NewPasswordPage {
                site: plane.site(),
                username,
                action: paths::ACCOUNT,
                proof: "flow",
                value: flow,
                message: refused.as_deref(),
            };
            pages::render(StatusCode::OK, &page)
        }
        AccountPage::PasswordChanged => {
            let text = "You are logged out everywhere; log in with the new password.";
            let mut response = message(plane, StatusCode::OK, "Your password is changed", text);
            cookies::clear(response.headers_mut(), cookies::SESSION);
            response
        }
        AccountPage::RecoveryCodes(codes) => {
            let page = RecoveryCodesPage {
                site: plane.site(),
                codes: codes.iter().map(|code| code.expose().as_str()).collect(),
            };
            pages::render(StatusCode::OK, &page)
        }
        AccountPage::LoggedOut => {
            let text = "Applications that you were logged in at are told.";
            let mut response = message(plane, StatusCode::OK, "You are logged out", text);
            cookies::clear(response.headers_mut(), cookies::SESSION);
            response
        }
    }
}

fn overview(plane: &Plane, view: &AccountView) -> Response {
    let line = |session: &SessionView| SessionLine {
        id: session.id.to_string(),
        is_current: session.id == view.current,
        since: session.authentication.at.to_string(),
        source: session.source_ip.map(|address| address.to_string()),
        clients: clients_of(session),
    };
    let consent = |consent: &ConsentView| ConsentLine {
        client_id: consent.client_id.to_string(),
        client: consent.client_name.clone(),
        scopes: consent.scopes.join(", "),
        since: consent.given_at.to_string(),
    };
    let passkey_line = |passkey: &PasskeyView| PasskeyLine {
        id: passkey.id.to_string(),
        name: passkey.name.clone(),
        added: passkey.created_at.to_string(),
        used: passkey.last_used_at.map(|used| used.to_string()),
    };
    let link_line = |link: &LinkView| LinkLine {
        id: link.id.to_string(),
        label: label_of(plane, link),
        account: link.account.clone(),
        since: link.created_at.to_string(),
        used: link.last_login_at.map(|used| used.to_string()),
    };
    let second_factor = view.second_factor;
    let page = AccountOverviewPage {
        site: plane.site(),
        username: &view.username,
        flow: &view.flow,
        email: view.email.clone(),
        can_have_mail: view.can_have_mail,
        has_password: view.has_password,
        sessions: view.sessions.iter().map(line).collect(),
        second_factor: second_factor
            .map(|factor| (factor.added_at.to_string(), factor.recovery_codes_left)),
        consents: view.consents.iter().map(consent).collect(),
        passkeys: view.passkeys.iter().map(passkey_line).collect(),
        can_have_passkeys: view.can_have_passkeys,
        links: view.links.iter().map(link_line).collect(),
        can_part_with_links: view.can_part_with_links,
        elsewhere: buttons(plane),
    };
    pages::render(StatusCode::OK, &page)
}

/// What the identity provider of a link is called now.
fn label_of(plane: &Plane, link: &LinkView) -> String {
    let known = plane.provider.identity_providers();
    let mut known = known.iter();
    let at = known.find(|at| at.issuer == link.authority);
    at.map_or_else(|| link.source.clone(), |at| at.label.clone())
}

fn clients_of(session: &SessionView) -> String {
    let mut names: Vec<&str> = session
        .grants
        .iter()
        .map(|grant| grant.client_id.as_str())
        .collect();
    names.sort_unstable();
    names.dedup();
    names.join(", ")
}
