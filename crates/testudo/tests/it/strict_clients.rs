//! Client libraries that nobody adapted, at the identity provider: openid-client (Node.js) with everything at once.
//! `./test.sh` installs it; `TESTUDO_TEST_FAST=1` leaves this test out.

use std::{fs, process::Command};

use serde_json::{Value, json};
use testudo_trust::{SigningKey, base64url};

use crate::{
    fleet::{free_ports, repository},
    installed::{left_out, tool},
    shop::{Shop, password},
};

const REDIRECT: &str = "https://strict.example/callback";

#[test]
fn openid_client_logs_in_with_a_key_a_pushed_request_and_bound_tokens() {
    if left_out() {
        return;
    }
    let shop = Shop::open("");
    let policy = "require_pushed_authorization_requests = true\ndpop_bound_access_tokens = true\n";
    let found = use_everything(&shop, policy);
    assert_eq!(
        (&found["name"], &found["rotated"]),
        (&json!("alice"), &json!(true))
    );
}

#[test]
fn openid_client_meets_the_fapi_2_security_profile_as_it_is() {
    if left_out() {
        return;
    }
    let shop = Shop::open("");
    let found = use_everything(&shop, "fapi2_security_profile = true\n");
    assert_eq!(
        (&found["name"], &found["rotated"]),
        (&json!("alice"), &json!(false)),
        "the profile wants refresh tokens that stay"
    );
}

/// What the application found, as a client of which `policy` is demanded.
fn use_everything(shop: &Shop, policy: &str) -> Value {
    let library = tool(&[".tools/node_modules/openid-client/build/index.js"]);
    let folder = &shop.fleet.folder;
    let key = SigningKey::generate();
    let jwks = json!({ "keys": [key.public_jwk()] });
    let file = fs::read_to_string(folder.fleet_file()).unwrap();
    let client = format!(
        r#"
[clients.strict]
kind = "confidential"
redirect_uris = ["{REDIRECT}"]
jwks = '{jwks}'
{policy}
"#
    );
    fs::write(folder.fleet_file(), format!("{file}{client}")).unwrap();
    folder.run(&["apply", "fleet.toml"]);

    let told = json!({
        "issuer": shop.fleet.ready["server"],
        "client_id": "strict",
        "redirect_uri": REDIRECT,
        "key": base64url::encode(key.to_pkcs8().expose()),
        "kid": key.key_id(),
        "user": "alice",
        "password": password("alice"),
        "resource": format!("https://localhost:{}/api/orders/1", shop.gateway().port()),
    });
    let found = run(&shop, "application.mjs", &[library], &told);
    assert_eq!(
        found["token_type"], "dpop",
        "the library writes it small: {found}"
    );
    let active = &found["active"];
    assert_eq!(
        (
            &active["active"],
            &active["client_id"],
            &active["token_type"]
        ),
        (&json!(true), &json!("strict"), &json!("DPoP"))
    );
    assert!(active["cnf"]["jkt"].is_string(), "{active}");
    assert_eq!(found["revoked"], json!({ "active": false }));
    assert_eq!(found["refused"], 401);
    assert_eq!(found["orders"], json!([200, 200]));
    assert_eq!(found["stolen"], json!([401, "token.unbound"]));
    let arrived = shop.upstream.take();
    assert_eq!(arrived.len(), 2, "{arrived:?}");
    found
}

#[test]
fn openid_client_logs_out_and_is_told_until_it_takes_it() {
    if left_out() {
        return;
    }
    let libraries = [
        tool(&[".tools/node_modules/openid-client/build/index.js"]),
        tool(&[".tools/node_modules/jose/dist/webapi/index.js"]),
    ];
    let shop = Shop::open("");
    let folder = &shop.fleet.folder;
    let [port] = free_ports();
    let text = fs::read_to_string(folder.fleet_file()).unwrap();
    let text = text.replace(
        "[clients.help-desk]",
        &format!(
            r#"[outbound]
allow_http = true
allow_networks = ["127.0.0.1"]

[clients.help-desk]
post_logout_redirect_uris = ["https://desk.example/bye"]
backchannel_logout_uri = "http://127.0.0.1:{port}/backchannel?app=desk"
backchannel_logout_session_required = true"#
        ),
    );
    fs::write(folder.fleet_file(), text).unwrap();
    folder.run(&["apply", "fleet.toml"]);
    let told = json!({
        "issuer": shop.fleet.ready["server"],
        "client_id": "help-desk",
        "client_secret": password("help-desk"),
        "redirect_uri": "https://desk.example/callback",
        "post_logout_redirect_uri": "https://desk.example/bye",
        "port": port,
        "user": "alice",
        "password": password("alice"),
    });
    let found = run(&shop, "logout.mjs", &libraries, &told);
    assert_eq!(
        found,
        json!({
            "supported": [true, true],
            "returned": "https://desk.example/bye?state=to-be-continued",
            "types": ["application/x-www-form-urlencoded", "application/x-www-form-urlencoded"],
            "same": true,
            "ids": 2,
            "events": { "http://schemas.openid.net/event/backchannel-logout": {} },
            "nonce": null,
        })
    );
}

/// What a script prints.
fn run(shop: &Shop, script: &str, libraries: &[String], told: &Value) -> Value {
    let folder = &shop.fleet.folder;
    let script = repository()
        .join("crates/testudo/tests/it/strict_clients")
        .join(script);
    let output = Command::new("node")
        .arg(script)
        .args(libraries)
        .arg(told.to_string())
        .env(
            "NODE_EXTRA_CA_CERTS",
            folder.path().join(shop.fleet.ready["ca"].as_str().unwrap()),
        )
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    serde_json::from_slice(&output.stdout).unwrap()
}
