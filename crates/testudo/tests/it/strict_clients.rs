//! Client libraries that nobody adapted, at the identity provider: openid-client (Node.js) with everything at once, here;
//! those of other languages in [`languages`], and an application that is nothing but one in [`proxy`].
//! `./test.sh` installs them; `TESTUDO_TEST_FAST=1` leaves these tests out.

mod languages;
mod proxy;
pub mod reference;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};
use testudo_trust::{SigningKey, base64url};

use crate::{
    fleet::{free_ports, repository},
    installed::{left_out, tool},
    roles::eventually,
    shop::{Shop, password},
    token_story::{activities, explained},
};

const REDIRECT: &str = "https://strict.example/callback";

#[test]
fn openid_client_logs_in_with_a_key_a_pushed_request_and_bound_tokens() {
    if left_out() {
        return;
    }
    let shop = Shop::open("");
    let policy = "require_pushed_authorization_requests = true\ndpop_bound_access_tokens = true\n";
    let found = use_everything(&shop, policy, false);
    assert_eq!(
        (&found["name"], &found["rotated"]),
        (&json!("alice"), &json!(true))
    );
}

#[test]
fn openid_client_meets_the_fapi_2_security_profile_and_signs_its_requests() {
    if left_out() {
        return;
    }
    let shop = Shop::open("");
    let policy = "fapi2_security_profile = true\nrequire_signed_request_object = true\n";
    let found = use_everything(&shop, policy, true);
    assert_eq!(
        (&found["name"], &found["rotated"]),
        (&json!("alice"), &json!(false)),
        "the profile wants refresh tokens that stay"
    );
}

#[test]
fn openid_client_exchanges_a_token_for_one_service_as_the_policies_say() {
    if left_out() {
        return;
    }
    let shop = Shop::open("");
    let folder = &shop.fleet.folder;
    let key = SigningKey::generate();
    let jwks = json!({ "keys": [key.public_jwk()] });
    let file = fs::read_to_string(folder.fleet_file()).unwrap();
    let account = format!("\n[service_accounts.reports]\njwks = '{jwks}'\n");
    fs::write(folder.fleet_file(), format!("{file}{account}")).unwrap();
    let rule = r#"
@id("reports-for-customers")
@reason("reports are made for customers")
permit (principal, action == Fleet::Action::"exchange", resource == Fleet::Audience::"shop")
when { principal.account.username == "reports" && context.subject in Fleet::Group::"customers" };
"#;
    fs::write(folder.path().join("policies/exchange.cedar"), rule).unwrap();
    folder.run(&["apply", "fleet.toml"]);

    let told = |user: &str| {
        json!({
            "issuer": shop.fleet.ready["server"],
            "client_id": "reports",
            "key": base64url::encode(key.to_pkcs8().expose()),
            "kid": key.key_id(),
            "subject_token": shop.token(user),
            "resource": format!("https://localhost:{}/api/orders/1", shop.gateway().port()),
        })
    };
    let exchange = |user: &str| run(&shop, "exchange.mjs", &[library()], &told(user));
    let found = exchange("alice").unwrap();
    assert_eq!(
        found["issued_token_type"],
        "urn:ietf:params:oauth:token-type:access_token"
    );
    assert_eq!(
        (&found["token_type"], &found["order"]),
        (&json!("dpop"), &json!(200))
    );
    let active = &found["active"];
    assert_eq!(active["aud"], "https://shop.example/shop");
    assert_eq!(active["client_id"], "reports");
    let (subject, actor) = (&active["sub"], &active["act"]["sub"]);
    assert!(subject.as_str().unwrap().starts_with("usr_"), "{active}");
    assert!(actor.as_str().unwrap().starts_with("sva_"), "{active}");
    let story = explained(folder, active["jti"].as_str().unwrap());
    assert_eq!(
        activities(&story),
        [
            "login.password",
            "authorization.grant",
            "token.issue",
            "token.exchange"
        ]
    );
    assert_eq!(
        (
            &story["username"],
            &story["audience"],
            &story["steps"][3]["event"]["details"]["policies"]
        ),
        (
            &json!("alice"),
            &json!("shop"),
            &json!("reports-for-customers")
        )
    );
    for (what, code) in [
        ("elsewhere", "invalid_target"),
        ("nowhere", "invalid_target"),
        ("wider", "invalid_scope"),
        ("forged", "invalid_request"),
    ] {
        assert_eq!(found[what], code, "{what}");
    }
    let arrived = shop.upstream.take();
    assert_eq!(arrived.len(), 1, "{arrived:?}");
    // The same by hand, and verified by somebody else.
    let libraries = [oauth4webapi(), jose()];
    let by_hand = run(
        &shop,
        "oauth4webapi_exchange.mjs",
        &libraries,
        &told("alice"),
    );
    assert_eq!(
        by_hand.unwrap(),
        json!({
            "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
            "token_type": "bearer",
            "same": true,
            "actor": actor,
        })
    );
    // She is no customer.
    let refused = exchange("audrey").unwrap_err();
    assert!(refused.contains("invalid_target"), "{refused}");

    let search = [
        "audit",
        "search",
        "activity=token.exchange",
        "--output",
        "json",
    ];
    eventually("the exchange is in the ledger with its chain", || {
        let found = folder.run(&search);
        found.contains(actor.as_str().unwrap())
            && found.contains(subject.as_str().unwrap())
            && found.contains("policy.user_leg_denied")
    });
}

/// What the application found, as a client of which `policy` is demanded. If it `signs` its requests, it wants signed
/// answers too.
fn use_everything(shop: &Shop, policy: &str, signs: bool) -> Value {
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
        "signs": signs,
        "resource": format!("https://localhost:{}/api/orders/1", shop.gateway().port()),
    });
    let found = run(shop, "application.mjs", &[library()], &told).unwrap();
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
    let libraries = [library(), jose()];
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
    let found = run(&shop, "logout.mjs", &libraries, &told).unwrap();
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

#[test]
fn openid_client_connects_a_device() {
    if left_out() {
        return;
    }
    let shop = Shop::open("");
    let folder = &shop.fleet.folder;
    let file = fs::read_to_string(folder.fleet_file()).unwrap();
    let client = "[clients.tv]\ngrant_types = [\"device_code\", \"refresh_token\"]\n";
    fs::write(folder.fleet_file(), format!("{file}\n{client}")).unwrap();
    folder.run(&["apply", "fleet.toml"]);
    let told = json!({
        "issuer": shop.fleet.ready["server"],
        "client_id": "tv",
        "user": "alice",
        "password": password("alice"),
    });
    assert_eq!(
        run(&shop, "device.mjs", &[library()], &told).unwrap(),
        json!({ "code": true, "name": "alice", "rotated": true, "refused": "access_denied" })
    );
}

#[test]
fn a_build_shows_the_token_of_its_build_system_whatever_that_signs_with() {
    if left_out() {
        return;
    }
    let shop = Shop::open("");
    let folder = &shop.fleet.folder;
    let [port] = free_ports();
    let file = fs::read_to_string(folder.fleet_file()).unwrap();
    let trust = format!(
        r#"
[outbound]
allow_http = true
allow_networks = ["127.0.0.1"]

[trusted_issuers.builds]
issuer = "http://127.0.0.1:{port}"

[service_accounts.deployer]
external = [{{ issuer = "builds", claims = {{ repository = "acme/shop" }} }}]
"#
    );
    fs::write(folder.fleet_file(), format!("{file}{trust}")).unwrap();
    folder.run(&["apply", "fleet.toml"]);
    let told =
        json!({ "issuer": shop.fleet.ready["server"], "client_id": "deployer", "port": port });
    let libraries = [
        library(),
        tool(&[".tools/node_modules/jose/dist/webapi/index.js"]),
    ];
    let found = run(&shop, "build.mjs", &libraries, &told).unwrap();
    assert_eq!(
        (&found["first"], &found["stranger"]),
        (&json!("deployer"), &json!("invalid_client"))
    );
    assert_eq!(found["asked"], 4, "metadata and keys, twice: {found}");
    assert_eq!(
        found["rotated"],
        json!({ "RS256": "deployer", "PS256": "deployer", "ES384": "deployer", "EdDSA": "deployer" })
    );
}

fn library() -> String {
    tool(&[".tools/node_modules/openid-client/build/index.js"])
}

fn oauth4webapi() -> String {
    tool(&[".tools/node_modules/oauth4webapi/build/index.js"])
}

fn jose() -> String {
    tool(&[".tools/node_modules/jose/dist/webapi/index.js"])
}

/// What a script prints at our fleet, or what it failed with.
fn run(shop: &Shop, script: &str, libraries: &[String], told: &Value) -> Result<Value, String> {
    run_trusting(&authority(shop), script, libraries, told)
}

/// The certificate of the fleet's CA.
pub fn authority(shop: &Shop) -> PathBuf {
    let ca = shop.fleet.ready["ca"].as_str().unwrap();
    shop.fleet.folder.path().join(ca)
}

/// What a script prints that trusts the servers of `authority`, or what it failed with.
fn run_trusting(
    authority: &Path,
    script: &str,
    arguments: &[String],
    told: &Value,
) -> Result<Value, String> {
    let output = Command::new("node")
        .arg(script_path(script))
        .args(arguments)
        .arg(told.to_string())
        // Node.js; Go and Rust; Python.
        .env("NODE_EXTRA_CA_CERTS", authority)
        .env("SSL_CERT_FILE", authority)
        .env("REQUESTS_CA_BUNDLE", authority)
        .output()
        .unwrap();
    if output.status.success() {
        Ok(serde_json::from_slice(&output.stdout).unwrap())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

fn script_path(script: &str) -> PathBuf {
    repository()
        .join("crates/testudo/tests/it/strict_clients")
        .join(script)
}
