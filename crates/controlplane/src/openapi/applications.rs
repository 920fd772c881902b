//! The admin API about applications and service accounts.

use http::Method;
use serde_json::Value;

use super::{
    Entry, JSON,
    admin::{decided, entry, listed},
    shape::{any, count, flag, list, maybe, named, object, one_of, some_of, text},
};

const GET: Method = Method::GET;
const POST: Method = Method::POST;
const PUT: Method = Method::PUT;
const DELETE: Method = Method::DELETE;

const CLIENTS: &str = "/api/v1/clients";
const CLIENT: &str = "/api/v1/clients/{client}";
const API_KEYS: &str = "/api/v1/api-keys";
const API_KEY: &str = "/api/v1/api-keys/{api_key}";
const ACCOUNTS: &str = "/api/v1/service-accounts";
const ACCOUNT: &str = "/api/v1/service-accounts/{account}";

pub(super) fn entries() -> Vec<Entry> {
    let client = || named("Client");
    let account = || named("ServiceAccount");
    vec![
        listed(CLIENTS, "Applications", "Client"),
        entry(
            POST,
            CLIENTS,
            "Make an application",
            some_of(client_fields(), [("secret", maybe(text()))]),
        )
        .takes(JSON, named("NewClient")),
        entry(GET, CLIENT, "An application", client()),
        decided(entry(PUT, CLIENT, "Change an application", client()))
            .takes(JSON, named("ClientProfile")),
        entry(DELETE, CLIENT, "Delete an application", client()),
        entry(
            POST,
            "/api/v1/clients/{client}/disable",
            "Give an application no tokens any more",
            client(),
        ),
        entry(
            POST,
            "/api/v1/clients/{client}/enable",
            "Give an application tokens again",
            client(),
        ),
        entry(
            POST,
            "/api/v1/clients/{client}/rotate-secret",
            "A new client secret",
            object([
                ("client_id", text()),
                ("secret", text()),
                ("previous_secret_ends", text()),
            ]),
        )
        .takes(JSON, object([("overlap_seconds", count())])),
        listed(ACCOUNTS, "Service accounts", "ServiceAccount"),
        entry(
            POST,
            ACCOUNTS,
            "Make a service account",
            some_of(account_fields(), [("secret", maybe(text()))]),
        )
        .takes(JSON, named("NewServiceAccount")),
        entry(GET, ACCOUNT, "A service account", account()),
        decided(entry(PUT, ACCOUNT, "Change a service account", account()))
            .takes(JSON, named("ServiceAccountProfile")),
        entry(
            DELETE,
            ACCOUNT,
            "Delete a service account",
            object([("deleted", text())]),
        ),
        entry(
            POST,
            "/api/v1/service-accounts/{account}/disable",
            "End the tokens of a service account and give it no others",
            account(),
        ),
        entry(
            POST,
            "/api/v1/service-accounts/{account}/enable",
            "Give a service account tokens again",
            account(),
        ),
        listed(API_KEYS, "API keys that are good", "ApiKey"),
        entry(POST, API_KEYS, "Make an API key", named("MadeApiKey"))
            .takes(JSON, named("NewApiKey")),
        entry(GET, API_KEY, "An API key", named("ApiKey")),
        entry(DELETE, API_KEY, "Take an API key back", named("ApiKey")),
        entry(
            POST,
            "/api/v1/api-keys/{api_key}/rotate",
            "A new API key like this one",
            named("MadeApiKey"),
        )
        .takes(JSON, object([("overlap_seconds", count())])),
    ]
}

pub(super) fn schemas() -> Vec<(&'static str, Value)> {
    let [display_name, kind, grants] = client_required();
    vec![
        ("Client", object(client_fields())),
        (
            "ClientProfile",
            some_of(client_required(), client_optional()),
        ),
        (
            "NewClient",
            some_of(
                [("client_id", text()), display_name, kind, grants],
                client_optional(),
            ),
        ),
        ("ServiceAccount", object(account_fields())),
        ("ServiceAccountProfile", some_of([], account_profile())),
        (
            "NewServiceAccount",
            some_of([("name", text())], account_profile()),
        ),
        ("ApiKey", object(api_key())),
        ("MadeApiKey", {
            let [a, b, c, d, e, f, g, h, i] = api_key();
            object([a, b, c, d, e, f, g, h, i, ("key", text())])
        }),
        (
            "NewApiKey",
            some_of(
                [("account", text()), ("name", text())],
                [
                    ("ttl_seconds", maybe(count())),
                    ("scopes", maybe(list(text()))),
                    ("services", list(text())),
                    ("networks", list(text())),
                ],
            ),
        ),
    ]
}

fn api_key() -> [(&'static str, Value); 9] {
    [
        ("id", text()),
        ("name", text()),
        ("account", maybe(text())),
        ("scopes", maybe(list(text()))),
        ("services", list(text())),
        ("networks", list(text())),
        ("created", text()),
        ("expires", text()),
        ("rotated_from", maybe(text())),
    ]
}

fn client_required() -> [(&'static str, Value); 3] {
    let grants = ["authorization_code", "refresh_token", "device_code"];
    [
        ("display_name", text()),
        ("kind", one_of(&["public", "confidential"])),
        ("grants", list(one_of(&grants))),
    ]
}

fn client_optional() -> [(&'static str, Value); 7] {
    let algorithm = || one_of(&["ES256", "RS256"]);
    let signing = [
        ("id_token_signed_response_alg", algorithm()),
        ("userinfo_signed_response_alg", maybe(algorithm())),
    ];
    let policy = [
        ("require_pushed_authorization_requests", flag()),
        ("require_signed_request_object", flag()),
        ("dpop_bound_access_tokens", flag()),
        ("fapi2_security_profile", flag()),
        ("pkce_optional", flag()),
        ("consent", one_of(&["implied", "required"])),
    ];
    let logout = [
        ("post_logout_redirect_uris", list(text())),
        ("backchannel_logout_uri", maybe(text())),
        ("backchannel_logout_session_required", flag()),
    ];
    [
        ("redirect_uris", list(text())),
        ("scopes", list(text())),
        ("workload", maybe(text())),
        ("jwks", maybe(text())),
        ("policy", some_of([], policy)),
        ("signing", some_of([], signing)),
        ("logout", some_of([], logout)),
    ]
}

fn client_fields() -> [(&'static str, Value); 17] {
    let [display_name, kind, grants] = client_required();
    let [
        redirect_uris,
        scopes,
        workload,
        jwks,
        policy,
        signing,
        logout,
    ] = client_optional();
    [
        ("client_id", text()),
        display_name,
        kind,
        grants,
        redirect_uris,
        scopes,
        workload,
        jwks,
        policy,
        signing,
        logout,
        ("disabled", flag()),
        ("version", count()),
        ("created", text()),
        ("registered_with", maybe(text())),
        ("about", any()),
        ("expires", maybe(text())),
    ]
}

fn account_profile() -> [(&'static str, Value); 9] {
    let external = some_of(
        [("issuer", text())],
        [("subject", maybe(text())), ("claims", any())],
    );
    let signals = some_of(
        [],
        [
            ("signed_response_alg", one_of(&["ES256", "RS256"])),
            ("audience", maybe(text())),
        ],
    );
    [
        ("description", maybe(text())),
        ("clearance", count()),
        ("groups", list(text())),
        ("roles", list(text())),
        ("scopes", list(text())),
        ("workloads", list(text())),
        ("jwks", maybe(text())),
        ("external", list(external)),
        ("signals", maybe(signals)),
    ]
}

fn account_fields() -> [(&'static str, Value); 15] {
    let [
        description,
        clearance,
        groups,
        roles,
        scopes,
        workloads,
        jwks,
        external,
        signals,
    ] = account_profile();
    [
        ("id", text()),
        ("name", text()),
        description,
        clearance,
        groups,
        roles,
        scopes,
        workloads,
        jwks,
        external,
        signals,
        ("disabled", flag()),
        ("version", count()),
        ("created", text()),
        ("updated", text()),
    ]
}
