//! The few pages people see: login, account and plain messages. Rendered here, until `console` has its room. They work
//! without JavaScript, except for passkeys, which need a few lines of it.

use askama::Template;
use axum::response::{Html, IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use testudo_identity::{PasskeyCreation, PasskeyRequest};

/// Path of the one style sheet; `layout.html` names it.
pub const STYLESHEET: &str = "/assets/testudo.css";
/// Path of the shield, which is also the icon of the browser's tab.
pub const SHIELD: &str = "/assets/shield.svg";

/// Path of the one script.
pub const PASSKEY_SCRIPT: &str = "/assets/passkey.js";

/// Nothing is loaded from elsewhere, nothing runs, nobody frames us. `form-action` names no host: after the
/// login the browser is redirected to the client, which Chromium counts as the form's action.
const CONTENT_SECURITY_POLICY: &str =
    "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; frame-ancestors 'none'";

/// The same for pages with the script: ours runs and nothing else, and no text becomes markup.
const CONTENT_SECURITY_POLICY_WITH_SCRIPT: &str = "default-src 'none'; style-src 'self'; img-src 'self'; script-src 'self'; \
    require-trusted-types-for 'script'; trusted-types 'none'; base-uri 'none'; frame-ancestors 'none'";

/// Whose pages they are: the fleet's, or those of one of its tenants.
#[derive(Debug, Clone, Copy)]
pub struct Site<'a> {
    /// What people read.
    pub name: &'a str,
    /// What comes before the paths of its pages: nothing for the fleet itself.
    pub base: &'a str,
}

/// The login form.
#[derive(Template)]
#[template(path = "login.html")]
pub struct LoginPage<'a> {
    /// Whose page it is.
    pub site: Site<'a>,
    /// Client that asked.
    pub client: &'a str,
    /// The sealed authorization request.
    pub flow: &'a str,
    /// What was typed before.
    pub username: &'a str,
    /// Why it is shown again.
    pub message: Option<&'a str>,
    /// What the browser is asked for, if passkeys work here.
    pub passkey: Option<PasskeyRequest>,
    /// Whether the browser offers them by itself. Not right after one was refused: some answer at once.
    pub offer_passkeys: bool,
    /// The identity provider of the account elsewhere that the login connects, if it does.
    pub connects: Option<&'a str>,
    /// Where else people may log in.
    pub elsewhere: Vec<Button>,
    /// Whether a forgotten password can be changed with a letter.
    pub can_reset: bool,
}

/// An identity provider elsewhere.
pub struct Button {
    /// Its name in addresses.
    pub name: String,
    /// What it is called.
    pub label: String,
}

/// The form for the name of whoever forgot a password.
#[derive(Template)]
#[template(path = "forgot_password.html")]
pub struct ForgotPasswordPage<'a> {
    /// Whose page it is.
    pub site: Site<'a>,
    /// Why it is shown again.
    pub message: Option<&'a str>,
}

/// The form for a new password.
#[derive(Template)]
#[template(path = "new_password.html")]
pub struct NewPasswordPage<'a> {
    /// Whose page it is.
    pub site: Site<'a>,
    /// Whose password.
    pub username: &'a str,
    /// Where the form is sent.
    pub action: &'a str,
    /// Name of the hidden field that says who may do it.
    pub proof: &'a str,
    /// What is in that field.
    pub value: &'a str,
    /// Why it is shown again.
    pub message: Option<&'a str>,
}

/// The question whether an address is the user's.
#[derive(Template)]
#[template(path = "verify_address.html")]
pub struct VerifyAddressPage<'a> {
    /// Whose page it is.
    pub site: Site<'a>,
    /// Whose account it is about.
    pub username: &'a str,
    /// The address.
    pub address: &'a str,
    /// The code of the link.
    pub code: &'a str,
}

/// The form for another mail address.
#[derive(Template)]
#[template(path = "account_address.html")]
pub struct AddressPage<'a> {
    /// Whose page it is.
    pub site: Site<'a>,
    /// The sealed hidden field.
    pub flow: &'a str,
    /// What is there, or was typed.
    pub address: &'a str,
    /// Why it is shown again.
    pub message: Option<&'a str>,
}

/// A heading and a sentence.
#[derive(Template)]
#[template(path = "message.html")]
pub struct MessagePage<'a> {
    /// Whose page it is.
    pub site: Site<'a>,
    /// Heading.
    pub heading: &'a str,
    /// Sentence.
    pub text: &'a str,
}

/// The question before a logout.
#[derive(Template)]
#[template(path = "logout.html")]
pub struct LogoutPage<'a> {
    /// Whose page it is.
    pub site: Site<'a>,
    /// Client that asked, if one did.
    pub client: Option<&'a str>,
    /// The sealed logout request.
    pub flow: &'a str,
}

/// The form for the code of an authenticator.
#[derive(Template)]
#[template(path = "login_code.html")]
pub struct LoginCodePage<'a> {
    /// Whose page it is.
    pub site: Site<'a>,
    /// The sealed hidden field.
    pub flow: &'a str,
    /// Why it is shown again.
    pub message: Option<&'a str>,
}

/// A user's account.
#[derive(Template)]
#[template(path = "account.html")]
pub struct AccountOverviewPage<'a> {
    /// Whose page it is.
    pub site: Site<'a>,
    /// Login name.
    pub username: &'a str,
    /// The sealed hidden field.
    pub flow: &'a str,
    /// Mail address, and whether it is verified.
    pub email: Option<(String, bool)>,
    /// Whether letters are sent.
    pub can_have_mail: bool,
    /// Whether they have a password.
    pub has_password: bool,
    /// Where they are logged in.
    pub sessions: Vec<SessionLine>,
    /// Since when there is an authenticator, and how many recovery codes are left.
    pub second_factor: Option<(String, usize)>,
    /// What they allowed to applications.
    pub consents: Vec<ConsentLine>,
    /// Passkeys.
    pub passkeys: Vec<PasskeyLine>,
    /// Whether passkeys work here.
    pub can_have_passkeys: bool,
    /// Accounts elsewhere that log them in.
    pub links: Vec<LinkLine>,
    /// Whether the last of them may go.
    pub can_part_with_links: bool,
    /// Where further ones may be.
    pub elsewhere: Vec<Button>,
}

/// An account elsewhere in a list.
pub struct LinkLine {
    /// Its id.
    pub id: String,
    /// What the identity provider is called.
    pub label: String,
    /// What it calls them.
    pub account: Option<String>,
    /// Since when.
    pub since: String,
    /// When it was last used, if it was.
    pub used: Option<String>,
}

/// An application in a list.
pub struct ConsentLine {
    /// Its id.
    pub client_id: String,
    /// Its name.
    pub client: String,
    /// What it may have.
    pub scopes: String,
    /// Since when.
    pub since: String,
}

/// The question whether an application may have what it asks for.
#[derive(Template)]
#[template(path = "consent.html")]
pub struct ConsentPage<'a> {
    /// Whose page it is.
    pub site: Site<'a>,
    /// Client that asks.
    pub client: &'a str,
    /// What for.
    pub scopes: &'a [String],
    /// The sealed request.
    pub flow: &'a str,
}

/// A passkey in a list.
pub struct PasskeyLine {
    /// Its id.
    pub id: String,
    /// What its user calls it.
    pub name: String,
    /// When it was added.
    pub added: String,
    /// When it was last used, if it was.
    pub used: Option<String>,
}

/// A login in a list.
pub struct SessionLine {
    /// Its id.
    pub id: String,
    /// It is the one that looks.
    pub is_current: bool,
    /// When it began.
    pub since: String,
    /// From where, if known.
    pub source: Option<String>,
    /// The applications that have something of it.
    pub clients: String,
}

/// A new authenticator.
#[derive(Template)]
#[template(path = "account_totp.html")]
pub struct TotpPage<'a> {
    /// Whose page it is.
    pub site: Site<'a>,
    /// The sealed hidden field.
    pub flow: &'a str,
    /// The secret, to be typed.
    pub secret: &'a str,
    /// The same as a link.
    pub uri: &'a str,
    /// A code was typed, and it was wrong.
    pub was_wrong: bool,
}

/// The form for a new passkey.
#[derive(Template)]
#[template(path = "passkey_create.html")]
pub struct PasskeyCreatePage<'a> {
    /// Whose page it is.
    pub site: Site<'a>,
    /// Where the form is sent.
    pub action: &'a str,
    /// The sealed hidden field.
    pub flow: &'a str,
    /// What the browser is asked.
    pub creation: &'a PasskeyCreation,
    /// The ids of credentials there are, with spaces between.
    pub exclude: String,
    /// The numbers of algorithms, with spaces between.
    pub algorithms: String,
    /// Why it is shown again.
    pub refused: Option<&'a str>,
}

/// Recovery codes, once.
#[derive(Template)]
#[template(path = "account_recovery.html")]
pub struct RecoveryCodesPage<'a> {
    /// Whose page it is.
    pub site: Site<'a>,
    /// The codes.
    pub codes: Vec<&'a str>,
}

/// The form for a device's code.
#[derive(Template)]
#[template(path = "device_code.html")]
pub struct DeviceCodePage<'a> {
    /// Whose page it is.
    pub site: Site<'a>,
    /// The sealed hidden field.
    pub flow: &'a str,
    /// What was typed before, or came with the link.
    pub user_code: &'a str,
    /// Why it is shown again.
    pub message: Option<&'a str>,
}

/// The question whether a device may act for the user.
#[derive(Template)]
#[template(path = "device_question.html")]
pub struct DeviceQuestionPage<'a> {
    /// Whose page it is.
    pub site: Site<'a>,
    /// The device's client.
    pub client: &'a str,
    /// The code, to compare.
    pub user_code: &'a str,
    /// What it asks for.
    pub scopes: &'a [String],
    /// The sealed hidden field.
    pub flow: &'a str,
}

/// A page with the headers every page carries.
pub fn render(status: StatusCode, page: &impl Template) -> Response {
    render_under(CONTENT_SECURITY_POLICY, status, page)
}

/// The same for a page with the script.
pub fn render_with_script(status: StatusCode, page: &impl Template) -> Response {
    render_under(CONTENT_SECURITY_POLICY_WITH_SCRIPT, status, page)
}

fn render_under(policy: &'static str, status: StatusCode, page: &impl Template) -> Response {
    let Ok(html) = page.render() else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let mut response = (status, Html(html)).into_response();
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// The style sheet.
pub async fn stylesheet() -> Response {
    asset(
        "text/css; charset=utf-8",
        include_str!("../../templates/testudo.css"),
    )
}

/// The shield.
pub async fn shield() -> Response {
    asset("image/svg+xml", include_str!("../../templates/shield.svg"))
}

/// The script.
pub async fn passkey_script() -> Response {
    asset(
        "text/javascript; charset=utf-8",
        include_str!("../../templates/passkey.js"),
    )
}

fn asset(media_type: &'static str, text: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, media_type),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "public, max-age=3600"),
    ];
    (headers, text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_typed_cannot_become_markup() {
        let page = LoginPage {
            site: Site {
                name: "bookshop.example",
                base: "",
            },
            client: "<script>",
            flow: "\"><b>",
            username: "\"onfocus=alert(1)",
            message: None,
            passkey: None,
            offer_passkeys: true,
            connects: Some("<script>"),
            elsewhere: vec![Button {
                name: "\"><b>".to_owned(),
                label: "<script>".to_owned(),
            }],
            can_reset: true,
        };
        let html = page.render().unwrap();
        assert!(
            !html.contains("<script>") && !html.contains("\"><b>") && !html.contains("\"onfocus")
        );
    }
}
