//! Provisioning by SCIM, as its clients see it: over TLS, with an access token, and by a tester that nobody here wrote.

use std::{fs, process::Command, time::Instant};

use serde_json::{Value, json};

use crate::{
    browser::form_request,
    fleet::repository,
    installed::{left_out, tool},
    roles::eventually,
    shop::Shop,
    wire::Answer,
};

const SECRET: &str = "a secret of thirty-two bytes or more";
const PATCH: &str = "urn:ietf:params:scim:api:messages:2.0:PatchOp";

/// A fleet with an account that provisions people.
fn with_provisioner() -> Shop {
    let shop = Shop::open("");
    let folder = &shop.fleet.folder;
    fs::write(folder.path().join("passwords/hr"), SECRET).unwrap();
    let account = "\n[service_accounts.hr]\nscopes = [\"testudo:scim\"]\nsecret = { file = \"passwords/hr\" }\n";
    let file = fs::read_to_string(folder.fleet_file()).unwrap();
    fs::write(folder.fleet_file(), file + account).unwrap();
    folder.run(&["apply", "fleet.toml"]);
    shop
}

fn provisioners_token(shop: &Shop) -> String {
    let form = [
        ("grant_type", "client_credentials"),
        ("client_id", "hr"),
        ("client_secret", SECRET),
        ("scope", "testudo:scim"),
    ];
    let answer = shop.ask_server(&form_request("/oauth2/token", &form, ""));
    answer.json()["access_token"].as_str().unwrap().to_owned()
}

fn ask(shop: &Shop, token: &str, method: &str, path: &str, body: &Value) -> Answer {
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    shop.ask_server(&format!(
        "{method} /scim/v2{path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: application/scim+json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ))
}

fn id_of(shop: &Shop, token: &str, kind: &str, filter: &str) -> String {
    let filter = filter.replace(' ', "+").replace('"', "%22");
    let found = ask(
        shop,
        token,
        "GET",
        &format!("/{kind}?filter={filter}"),
        &Value::Null,
    );
    let found = found.json();
    assert_eq!(found["totalResults"], 1, "{found}");
    found["Resources"][0]["id"].as_str().unwrap().to_owned()
}

fn patch(operation: Value) -> Value {
    json!({ "schemas": [PATCH], "Operations": [operation] })
}

#[test]
fn what_is_provisioned_holds_at_the_gateway_for_tokens_that_are_out_already() {
    let shop = with_provisioner();
    let hr = provisioners_token(&shop);
    let alice = shop.token("alice");
    let order = || {
        shop.fleet
            .call("GET", "/api/orders/1", Some(&alice), "")
            .status
    };
    assert_eq!(order(), 200);
    let user = id_of(&shop, &hr, "Users", "userName eq \"alice\"");
    let customers = id_of(&shop, &hr, "Groups", "displayName eq \"customers\"");
    let group = format!("/Groups/{customers}");

    let gone = patch(json!({ "op": "remove", "path": format!("members[value eq \"{user}\"]") }));
    let answer = ask(&shop, &hr, "PATCH", &group, &gone);
    let since = Instant::now();
    assert_eq!(answer.status, 204, "{answer:?}");
    assert!(answer.header("etag").unwrap().starts_with("W/\""));
    eventually("the membership is over at the gateway", || order() == 403);
    assert!(since.elapsed().as_secs() < 5, "{:?}", since.elapsed());
    // By a group around it she is back.
    let made = ask(
        &shop,
        &hr,
        "POST",
        "/Groups",
        &json!({
            "schemas": ["urn:ietf:params:scim:schemas:core:2.0:Group"],
            "displayName": "Loyal Customers",
            "members": [{ "value": user }],
        }),
    );
    assert_eq!(made.status, 201, "{made:?}");
    let loyal = made.json()["id"].clone();
    let nested = patch(json!({ "op": "add", "path": "members", "value": [{ "value": loyal }] }));
    assert_eq!(ask(&shop, &hr, "PATCH", &group, &nested).status, 204);
    eventually("she is a customer through another group", || order() == 200);

    let off = patch(json!({ "op": "replace", "value": { "active": false } }));
    let path = format!("/Users/{user}");
    assert_eq!(ask(&shop, &hr, "PATCH", &path, &off).status, 200);
    eventually("her token is worth nothing", || order() == 401);
    let command = shop
        .fleet
        .folder
        .run(&["user", "show", "alice", "-o", "json"]);
    let shown: Value = serde_json::from_str(&command).unwrap();
    assert_eq!(
        (&shown["disabled"], &shown["all_groups"]),
        (&json!(true), &json!(["customers", "loyal-customers"]))
    );
    let told = shop.fleet.folder.run(&[
        "audit",
        "search",
        "activity=group.remove_member",
        "-o",
        "json",
    ]);
    assert!(
        told.contains("alice") && told.contains("\"client\":\"hr\""),
        "{told}"
    );
}

#[test]
fn nobody_provisions_without_the_scope_and_nobody_becomes_an_administrator_by_it() {
    let shop = with_provisioner();
    let hr = provisioners_token(&shop);
    let error = |answer: &Answer, status: u16| {
        assert_eq!(answer.status, status, "{answer:?}");
        assert_eq!(
            answer.header("content-type"),
            Some("application/scim+json"),
            "{answer:?}"
        );
        assert_eq!(answer.json()["status"], status.to_string());
    };
    let nobody = "GET /scim/v2/Users HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let answer = shop.ask_server(nobody);
    error(&answer, 401);
    assert!(answer.header("www-authenticate").is_some());
    error(
        &ask(&shop, &shop.token("alice"), "GET", "/Users", &Value::Null),
        403,
    );
    error(
        &ask(&shop, &shop.token("audrey"), "GET", "/Users", &Value::Null),
        403,
    );
    assert_eq!(
        ask(&shop, &shop.token("root"), "GET", "/Users", &Value::Null).status,
        200
    );
    error(&ask(&shop, &hr, "GET", "/Nothing", &Value::Null), 404);
    error(&ask(&shop, &hr, "DELETE", "/Schemas", &Value::Null), 405);
    error(&ask(&shop, &hr, "PATCH", "/Users", &json!({})), 405);
    error(&ask(&shop, &hr, "POST", "/Users", &json!([])), 400);
    let large = json!({ "schemas": ["x".repeat(2 * 1024 * 1024)] });
    assert!(matches!(
        ask(&shop, &hr, "POST", "/Users", &large).status,
        413
    ));
    // The scope is for this alone.
    for path in ["/api/v1/users", "/api/v1/status"] {
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {hr}\r\n\r\n");
        assert_eq!(shop.ask_server(&request).status, 403, "{path}");
    }
    let root = id_of(&shop, &hr, "Users", "userName eq \"root\"");
    let path = format!("/Users/{root}");
    let password =
        patch(json!({ "op": "add", "path": "password", "value": "known to somebody else now" }));
    error(&ask(&shop, &hr, "PATCH", &path, &password), 403);
    error(&ask(&shop, &hr, "DELETE", &path, &Value::Null), 403);
    // An account that may no longer have the scope may no longer use it.
    shop.fleet
        .folder
        .edit("scopes = [\"testudo:scim\"]", "scopes = []");
    shop.fleet.folder.run(&["apply", "fleet.toml"]);
    error(&ask(&shop, &hr, "GET", "/Users", &Value::Null), 403);
}

#[test]
fn scim2_tester_finds_nothing_wrong() {
    if left_out() {
        return;
    }
    let shop = with_provisioner();
    let script = repository().join("crates/testudo/tests/it/scim/check.py");
    let run = Command::new(tool(&[".tools/venv/bin/python"]))
        .arg(script)
        .arg(format!(
            "{}/scim/v2",
            shop.fleet.ready["server"].as_str().unwrap()
        ))
        .arg(
            shop.fleet
                .folder
                .path()
                .join(shop.fleet.ready["ca"].as_str().unwrap()),
        )
        .arg(provisioners_token(&shop))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&run.stdout);
    let errors = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{said}\n{errors}");
    let checks: usize = said
        .lines()
        .last()
        .unwrap()
        .split(' ')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert!(checks > 60, "{said}");
}
