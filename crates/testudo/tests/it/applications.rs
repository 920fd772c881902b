//! Applications and service accounts made by command and by API.

use serde_json::{Map, Value, json};

use crate::{browser::form_request, shop::Shop, wire::Answer};

fn made(shop: &Shop, arguments: &[&str]) -> Value {
    let arguments = [&["-o", "json"], arguments].concat();
    serde_json::from_str(&shop.fleet.folder.run(&arguments)).unwrap()
}

fn ask(shop: &Shop, token: &str, method: &str, path: &str, body: &Value) -> Answer {
    let body = body.to_string();
    shop.ask_server(&format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ))
}

/// Whether the token endpoint's clients may introspect, which takes nothing but to be one.
fn is_a_client(shop: &Shop, client: &str, secret: &str) -> bool {
    let form = [
        ("client_id", client),
        ("client_secret", secret),
        ("token", "x"),
    ];
    let answer = shop.ask_server(&form_request("/oauth2/introspect", &form, ""));
    assert!(matches!(answer.status, 200 | 401), "{answer:?}");
    answer.status == 200
}

#[test]
fn an_application_made_by_command_is_one_until_it_is_disabled() {
    let shop = Shop::open("");
    let folder = &shop.fleet.folder;
    let create = [
        "client",
        "create",
        "desk",
        "--confidential",
        "--redirect-uri",
        "https://desk.example/cb",
    ];
    let desk = made(&shop, &create);
    let secret = desk["secret"].as_str().unwrap();
    assert!(is_a_client(&shop, "desk", secret));
    assert!(!is_a_client(
        &shop,
        "desk",
        "another-secret-that-is-long-enough"
    ));
    folder.run(&["client", "disable", "desk"]);
    assert!(!is_a_client(&shop, "desk", secret));
    folder.run(&["client", "enable", "desk"]);
    assert!(is_a_client(&shop, "desk", secret));
    // Whoever is shown it is not shown the secret.
    let shown = folder.run(&["client", "show", "desk"]);
    assert!(
        shown.contains("https://desk.example/cb") && !shown.contains(secret),
        "{shown}"
    );
    folder.run(&["client", "delete", "desk"]);
    assert!(!is_a_client(&shop, "desk", secret));
    for (arguments, code) in [
        (&["client", "show", "desk"][..], 3),
        (
            &[
                "client",
                "create",
                "robot",
                "--redirect-uri",
                "https://x.example/",
            ],
            5,
        ),
        (
            &[
                "client",
                "create",
                "bad",
                "--redirect-uri",
                "http://x.example/cb",
            ],
            1,
        ),
        (&["client", "create", "bad"], 6),
    ] {
        let refused = folder.testudo(arguments);
        assert_eq!(
            refused.status.code(),
            Some(code),
            "{arguments:?}: {refused:?}"
        );
    }
}

#[test]
fn what_is_read_of_an_application_is_what_is_written_unless_somebody_else_was_faster() {
    let shop = Shop::open("");
    let root = shop.fleet.token_with_scope("root", "openid testudo:admin");
    for (path, name, profile) in [
        (
            "/api/v1/clients",
            "client_id",
            &[
                "display_name",
                "kind",
                "grants",
                "redirect_uris",
                "scopes",
                "jwks",
                "policy",
                "signing",
                "logout",
            ][..],
        ),
        (
            "/api/v1/service-accounts",
            "name",
            &["description", "roles", "groups", "scopes", "clearance"],
        ),
    ] {
        let new = match name {
            "client_id" => json!({
                "client_id": "made", "display_name": "Made", "kind": "public", "grants": ["authorization_code"],
                "redirect_uris": ["https://made.example/cb"],
            }),
            _ => json!({ "name": "made-account", "roles": ["shop-admin"] }),
        };
        let of = format!("{path}/{}", new[name].as_str().unwrap());
        let first = ask(&shop, &root, "POST", path, &new);
        assert_eq!(first.status, 200, "{first:?}");
        assert_eq!(
            first.json()["secret"].is_null(),
            name == "client_id",
            "{first:?}"
        );
        assert_eq!(ask(&shop, &root, "POST", path, &new).status, 409);
        let read = ask(&shop, &root, "GET", &of, &json!({})).json();
        let mut written: Map<String, Value> = profile
            .iter()
            .map(|field| ((*field).to_owned(), read[field].clone()))
            .collect();
        let changed = if name == "client_id" {
            "display_name"
        } else {
            "description"
        };
        written.insert(changed.to_owned(), json!("Changed"));
        let decided = format!("{of}?version={}", read["version"]);
        let answer = ask(
            &shop,
            &root,
            "PUT",
            &decided,
            &Value::Object(written.clone()),
        );
        assert_eq!(answer.status, 200, "{answer:?}");
        let mut expected = read.clone();
        expected[changed] = json!("Changed");
        expected["version"] = answer.json()["version"].clone();
        if !expected["updated"].is_null() {
            expected["updated"] = answer.json()["updated"].clone();
        }
        assert_eq!(answer.json(), expected);
        let late = ask(&shop, &root, "PUT", &decided, &Value::Object(written));
        assert_eq!(late.status, 412, "{late:?}");
        let unknown = ask(&shop, &root, "PUT", &of, &json!({ "nonsense": 1 }));
        assert_eq!(unknown.status, 400, "{unknown:?}");
    }
}

#[test]
fn a_service_account_made_by_command_acts_until_it_is_disabled() {
    let shop = Shop::open("");
    let folder = &shop.fleet.folder;
    let account = made(
        &shop,
        &[
            "service-account",
            "create",
            "nightly",
            "--role",
            "testudo-auditor",
        ],
    );
    let form = [
        ("grant_type", "client_credentials"),
        ("client_id", "nightly"),
        ("client_secret", account["secret"].as_str().unwrap()),
    ];
    let token = || shop.ask_server(&form_request("/oauth2/token", &form, ""));
    let given = token().json()["access_token"].as_str().unwrap().to_owned();
    let status = |token: &str| ask(&shop, token, "GET", "/api/v1/status", &json!({})).status;
    assert_eq!(status(&given), 200);
    folder.run(&["service-account", "disable", "nightly"]);
    assert_eq!((status(&given), token().status), (401, 401));
    folder.run(&["service-account", "enable", "nightly"]);
    // Times in tokens are whole seconds: one of the second of the end is not told from one before it.
    std::thread::sleep(std::time::Duration::from_millis(1_100));
    let again = token().json()["access_token"].as_str().unwrap().to_owned();
    assert_eq!(status(&again), 200);
    folder.run(&["service-account", "delete", "nightly"]);
    assert_eq!((status(&again), token().status), (401, 401));
}
