//! The identity provider: what clients and browsers meet.

use http::Method;
use serde_json::Value;
use testudo_identity::paths;

use super::{
    Entry, FORM, HTML, JSON, PATH,
    shape::{any, count, list, named, one_of, open, text},
};
use crate::{
    http::{CONNECT, ELSEWHERE, LOGIN, LOGIN_CODE, LOGIN_PASSKEY, LOGOUT, REGISTERED},
    pages,
};

const GET: Method = Method::GET;
const POST: Method = Method::POST;

/// A request of a client with a form.
fn client(path: &'static str, summary: &'static str, form: Value) -> Entry {
    Entry::new(POST, path, summary)
        .takes(FORM, form)
        .refuses(JSON, named("OauthError"))
}

/// A page for people, which may also lead elsewhere.
fn page(method: Method, path: &'static str, summary: &'static str) -> Entry {
    Entry::new(method, path, summary)
        .gives(200, HTML, text())
        .gives_nothing(303)
        .refuses(HTML, text())
}

fn form_page(path: &'static str, summary: &'static str) -> Entry {
    page(POST, path, summary).takes(FORM, open([]))
}

pub(super) fn entries() -> Vec<Entry> {
    clients()
        .into_iter()
        .chain(registrations())
        .chain(browsers())
        .chain(documents())
        .collect()
}

fn clients() -> Vec<Entry> {
    let grants = [
        "authorization_code",
        "refresh_token",
        "client_credentials",
        "urn:ietf:params:oauth:grant-type:token-exchange",
        "urn:ietf:params:oauth:grant-type:device_code",
    ];
    let told = |method, summary| {
        Entry::new(method, paths::USERINFO, summary)
            .gives(200, JSON, open([("sub", text())]))
            .refuses(JSON, named("OauthError"))
    };
    vec![
        client(
            paths::TOKEN,
            "Get tokens (RFC 6749)",
            open([("grant_type", one_of(&grants))]),
        )
        .gives(
            200,
            JSON,
            open([
                ("access_token", text()),
                ("token_type", text()),
                ("expires_in", count()),
            ]),
        ),
        client(
            paths::PUSH,
            "Push an authorization request (RFC 9126)",
            open([]),
        )
        .gives(
            201,
            JSON,
            open([("request_uri", text()), ("expires_in", count())]),
        ),
        client(
            paths::DEVICE_AUTHORIZATION,
            "Ask for a device code (RFC 8628)",
            open([]),
        )
        .gives(
            200,
            JSON,
            open([
                ("device_code", text()),
                ("user_code", text()),
                ("expires_in", count()),
            ]),
        ),
        client(
            paths::REVOKE,
            "Take a token back (RFC 7009)",
            open([("token", text())]),
        )
        .gives_nothing(200),
        client(
            paths::INTROSPECT,
            "What a token is (RFC 7662)",
            open([("token", text())]),
        )
        .gives(200, JSON, open([("active", super::shape::flag())])),
        told(GET, "Claims about the user of an access token"),
        told(POST, "The same"),
    ]
}

/// A client that registers itself, or looks at what it registered.
fn registered(method: Method, path: &'static str, summary: &'static str) -> Entry {
    Entry::new(method, path, summary).refuses(JSON, named("OauthError"))
}

fn registrations() -> Vec<Entry> {
    let client = || open([("client_id", text())]);
    vec![
        registered(POST, paths::REGISTER, "Register an application (RFC 7591)")
            .takes(JSON, open([]))
            .gives(201, JSON, client()),
        registered(GET, REGISTERED, "What was registered (RFC 7592)").gives(200, JSON, client()),
        registered(Method::PUT, REGISTERED, "Register it anew")
            .takes(JSON, open([]))
            .gives(200, JSON, client()),
        registered(Method::DELETE, REGISTERED, "Take a registration back").gives_nothing(204),
    ]
}

fn browsers() -> Vec<Entry> {
    vec![
        page(GET, paths::AUTHORIZE, "Log in for an application"),
        form_page(paths::AUTHORIZE, "The same"),
        form_page(LOGIN, "Name and password"),
        form_page(LOGIN_CODE, "A second factor"),
        form_page(LOGIN_PASSKEY, "A passkey"),
        form_page(ELSEWHERE, "Go and log in elsewhere"),
        page(GET, ELSEWHERE, "Come back from there"),
        page(
            GET,
            paths::VERIFY_ADDRESS,
            "Confirm a mail address with a link",
        ),
        form_page(paths::VERIFY_ADDRESS, "The same"),
        page(
            GET,
            paths::FORGOT_PASSWORD,
            "Ask for a link that lets a password be changed",
        ),
        form_page(paths::FORGOT_PASSWORD, "The same"),
        page(GET, paths::RESET_PASSWORD, "Change a password with a link"),
        form_page(paths::RESET_PASSWORD, "The same"),
        page(GET, paths::INVITATION, "Add a passkey with a link"),
        form_page(paths::INVITATION, "The same"),
        page(GET, paths::END_SESSION, "An application asks for a logout"),
        form_page(paths::END_SESSION, "The same"),
        page(GET, LOGOUT, "Ask whether to log out"),
        form_page(LOGOUT, "Log out"),
        page(GET, paths::CONSENT, "Ask what an application may have"),
        form_page(paths::CONSENT, "Answer that"),
        page(GET, paths::ACCOUNT, "The account page"),
        form_page(paths::ACCOUNT, "Change something there"),
        form_page(CONNECT, "Connect it to an account elsewhere"),
        page(GET, paths::DEVICE, "Connect a device"),
        form_page(paths::DEVICE, "The same"),
    ]
}

fn documents() -> Vec<Entry> {
    let document = |path, summary, shape| Entry::new(GET, path, summary).gives(200, JSON, shape);
    let metadata = || open([("issuer", text()), ("token_endpoint", text())]);
    vec![
        document(
            paths::JWKS,
            "Keys of the provider (RFC 7517)",
            open([("keys", list(any()))]),
        ),
        document(paths::OPENID_CONFIGURATION, "Discovery", metadata()),
        document(
            paths::AUTHORIZATION_SERVER,
            "The same (RFC 8414)",
            metadata(),
        ),
        document(PATH, "This document", open([("openapi", text())])),
        Entry::new(GET, pages::STYLESHEET, "How pages look").gives(200, "text/css", text()),
        Entry::new(
            GET,
            pages::PASSKEY_SCRIPT,
            "What passkeys need in the browser",
        )
        .gives(200, "text/javascript", text()),
        Entry::new(GET, pages::SHIELD, "The shield").gives(200, "image/svg+xml", text()),
    ]
}
