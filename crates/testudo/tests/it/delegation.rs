//! Administration that policies hand on: the helpdesk of the manual, and how somebody like that tries to become more.

use std::fs;

use serde_json::{Value, json};

use crate::{
    fleet::repository,
    shop::{Shop, password},
    wire::Answer,
};

/// A shop with a helpdesk, in which Hilda is, and these policies besides its own.
fn with_helpdesk(policies: &str) -> Shop {
    let shop = Shop::open("");
    let folder = &shop.fleet.folder;
    folder.edit(
        "customers = []\n",
        "customers = []\nhelpdesk = []\n\n[users.hilda]\ngroups = [\"helpdesk\"]\n\
         password = { file = \"passwords/hilda\" }\n",
    );
    fs::write(folder.path().join("passwords/hilda"), password("hilda")).unwrap();
    put_in_force(&shop, policies);
    shop
}

fn put_in_force(shop: &Shop, policies: &str) {
    write(shop, policies);
    shop.fleet.folder.run(&["apply", "fleet.toml"]);
}

fn write(shop: &Shop, policies: &str) {
    let file = shop.fleet.folder.path().join("policies/desk.cedar");
    fs::write(file, policies).unwrap();
}

fn ask(shop: &Shop, token: &str, method: &str, path: &str, body: &Value) -> Answer {
    let body = body.to_string();
    shop.ask_server(&format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ))
}

fn allowed(shop: &Shop, token: &str, method: &str, path: &str, body: &Value) -> Value {
    let answer = ask(shop, token, method, path, body);
    assert!(
        (200..300).contains(&answer.status),
        "{method} {path}: {answer:?}"
    );
    match answer.body.is_empty() {
        true => Value::Null,
        false => answer.json(),
    }
}

fn refused(shop: &Shop, token: &str, (method, path, body): (&str, &str, Value), why: &str) {
    let answer = ask(shop, token, method, path, &body);
    assert_eq!(answer.status, 403, "{method} {path} {body}: {answer:?}");
    assert!(
        answer.body.contains(why),
        "{method} {path} {body}: {answer:?}"
    );
}

#[test]
fn the_helpdesk_of_the_manual_does_its_work_and_no_more() {
    let page = fs::read_to_string(repository().join("docs/policies.md")).unwrap();
    let (_, section) = page.split_once("\n## Administration\n").unwrap();
    let (_, block) = section.split_once("```cedar\n").unwrap();
    let shop = with_helpdesk(block.split_once("```").unwrap().0);
    let (hilda, alice) = (shop.token("hilda"), shop.token("alice"));

    let shown = allowed(&shop, &hilda, "GET", "/api/v1/users/alice", &json!({}));
    assert_eq!(shown["username"], "alice");
    let sessions = allowed(
        &shop,
        &hilda,
        "GET",
        "/api/v1/users/alice/sessions",
        &json!({}),
    );
    let session = sessions["items"][0]["id"].as_str().unwrap();
    let path = format!("/api/v1/sessions/{session}");
    allowed(&shop, &hilda, "DELETE", &path, &json!({}));
    // They are hers no more, and nobody else has got anything by the policy.
    let path = "/api/v1/users/alice";
    assert_eq!(ask(&shop, &alice, "GET", path, &json!({})).status, 401);
    let alice = shop.token("alice");
    assert_eq!(ask(&shop, &alice, "GET", path, &json!({})).status, 403);

    let reset = json!({ "password": "a-new-one-for-her-that-is-long" });
    let set_password = ("PUT", "/api/v1/users/alice/password", reset);
    refused(&shop, &hilda, set_password, "helpdesk-two-factors");
    for (method, path) in [
        ("POST", "/api/v1/users"),
        ("DELETE", "/api/v1/users/alice"),
        ("POST", "/api/v1/users/alice/disable"),
        ("GET", "/api/v1/clients"),
        ("PUT", "/api/v1/clients/web"),
        ("GET", "/api/v1/audit/events"),
        ("POST", "/api/v1/fleet/apply"),
        ("POST", "/api/v1/keys/rotate"),
        ("GET", "/scim/v2/Users"),
    ] {
        assert_eq!(
            ask(&shop, &hilda, method, path, &json!({})).status,
            403,
            "{method} {path}"
        );
    }
    // What was refused is on record, with the action and what forbids it.
    let found = shop.fleet.folder.run(&[
        "audit",
        "search",
        "activity=api.call",
        "outcome=denied",
        "--output",
        "json",
    ]);
    for part in ["credential:write", "helpdesk-two-factors", "fleet:apply"] {
        assert!(found.contains(part), "{part}: {found}");
    }
    // Whoever leaves the helpdesk leaves it at once, with the token still good.
    shop.fleet
        .folder
        .run(&["group", "remove", "helpdesk", "hilda"]);
    assert_eq!(ask(&shop, &hilda, "GET", path, &json!({})).status, 403);
}

/// Nearly everything, but no role.
const BROAD: &str = r#"
@id("desk")
@reason("the helpdesk does nearly everything")
permit (
  principal in Fleet::Group::"helpdesk",
  action in [
    Testudo::Action::"read", Testudo::Action::"provision",
    Testudo::Action::"user:write", Testudo::Action::"user:disable", Testudo::Action::"credential:write",
    Testudo::Action::"group:write", Testudo::Action::"role:write", Testudo::Action::"role:grant",
    Testudo::Action::"client:write", Testudo::Action::"service-account:write", Testudo::Action::"import:write",
    Testudo::Action::"registration:write", Testudo::Action::"session:revoke", Testudo::Action::"api-key:write"
  ],
  resource
);
@id("bosses")
permit (principal in Fleet::Role::"boss", action in Testudo::Action::"administer", resource);
"#;

#[test]
fn whoever_writes_users_groups_and_clients_makes_nobody_an_administrator() {
    let shop = with_helpdesk(BROAD);
    let hilda = shop.token("hilda");
    let roles = |role: &str| json!({ "roles": [role] });
    let root = allowed(
        &shop,
        &hilda,
        "GET",
        "/scim/v2/Users?filter=userName%20eq%20%22root%22",
        &json!({}),
    );
    let root = root["Resources"][0]["id"].as_str().unwrap().to_owned();
    let desk = allowed(&shop, &hilda, "GET", "/api/v1/groups/helpdesk", &json!({}));
    let desk = format!("/scim/v2/Groups/{}", desk["id"].as_str().unwrap());
    let by_scim = format!("/scim/v2/Users/{root}");
    let patch = |path: &str, value: Value| {
        json!({
            "schemas": ["urn:ietf:params:scim:api:messages:2.0:PatchOp"],
            "Operations": [{ "op": "add", "path": path, "value": value }],
        })
    };

    // What she may.
    let new = json!({ "username": "bob", "password": "a-password-for-bob-to-change" });
    allowed(&shop, &hilda, "POST", "/api/v1/users", &new);
    let customers = json!({ "groups": ["customers"], "clearance": 10 });
    allowed(&shop, &hilda, "PUT", "/api/v1/users/bob", &customers);
    allowed(
        &shop,
        &hilda,
        "POST",
        "/api/v1/groups",
        &json!({ "name": "clerks", "roles": ["shop-admin"] }),
    );
    let password = json!({ "password": "another-password-for-bob" });
    allowed(
        &shop,
        &hilda,
        "PUT",
        "/api/v1/users/bob/password",
        &password,
    );
    allowed(
        &shop,
        &hilda,
        "POST",
        "/api/v1/service-accounts",
        &json!({ "name": "night" }),
    );
    let key_of = |account: &str| json!({ "account": account, "name": "x" });
    let keys = "/api/v1/api-keys";
    allowed(&shop, &hilda, "POST", keys, &key_of("night"));
    let of_robot = shop
        .fleet
        .folder
        .run(&["-o", "json", "api-key", "create", "robot", "--name", "x"]);
    let of_robot: Value = serde_json::from_str(&of_robot).unwrap();
    let of_robot = format!("{keys}/{}", of_robot["id"].as_str().unwrap());
    let rotate_of_robot = format!("{of_robot}/rotate");

    let reserved = "guardrail.administration_reserved";
    let attacks: Vec<(&str, &str, Value)> = vec![
        // A role, for others or herself: straight, by a group, by a group in a group.
        ("PUT", "/api/v1/users/bob", roles("testudo-admin")),
        ("PUT", "/api/v1/users/bob", roles("testudo-auditor")),
        (
            "PUT",
            "/api/v1/users/hilda",
            json!({ "groups": ["helpdesk"], "roles": ["testudo-admin"] }),
        ),
        (
            "POST",
            "/api/v1/users",
            json!({ "username": "eve", "roles": ["testudo-admin"] }),
        ),
        (
            "POST",
            "/api/v1/users",
            json!({ "username": "eve", "groups": ["helpdesk"] }),
        ),
        ("PUT", "/api/v1/groups/clerks", roles("testudo-admin")),
        (
            "PUT",
            "/api/v1/groups/clerks",
            json!({ "parents": ["helpdesk"] }),
        ),
        (
            "POST",
            "/api/v1/groups",
            json!({ "name": "kings", "roles": ["testudo-admin"] }),
        ),
        ("PUT", "/api/v1/groups/helpdesk", roles("testudo-admin")),
        ("DELETE", "/api/v1/groups/helpdesk?dissolve=true", json!({})),
        ("PUT", "/api/v1/groups/helpdesk/members/user/bob", json!({})),
        (
            "PUT",
            "/api/v1/groups/helpdesk/members/group/clerks",
            json!({}),
        ),
        // A role that a policy names and nobody has made yet.
        ("POST", "/api/v1/roles", json!({ "name": "boss" })),
        // Somebody who is one.
        ("PUT", "/api/v1/users/root/password", password.clone()),
        (
            "PUT",
            "/api/v1/users/root",
            json!({ "email": "hilda@shop.example", "email_verified": true }),
        ),
        ("POST", "/api/v1/users/root/reset-second-factor", json!({})),
        (
            "POST",
            "/api/v1/users/root/invitation",
            json!({ "ttl_seconds": 600 }),
        ),
        (
            "POST",
            "/api/v1/users/root/links",
            json!({ "identity_provider": "x", "subject": "hilda" }),
        ),
        ("POST", "/api/v1/users/root/disable", json!({})),
        ("DELETE", "/api/v1/users/root", json!({})),
        ("DELETE", "/api/v1/users/%72oot", json!({})),
        // Machines.
        (
            "POST",
            "/api/v1/service-accounts",
            json!({ "name": "king", "roles": ["testudo-admin"] }),
        ),
        (
            "POST",
            "/api/v1/service-accounts",
            json!({ "name": "king", "scopes": ["testudo:scim"] }),
        ),
        (
            "PUT",
            "/api/v1/service-accounts/night",
            roles("testudo-admin"),
        ),
        ("PUT", "/api/v1/service-accounts/robot", json!({})),
        (
            "POST",
            "/api/v1/clients/robot/rotate-secret",
            json!({ "overlap_seconds": 0 }),
        ),
        ("POST", keys, key_of("robot")),
        ("POST", &rotate_of_robot, json!({ "overlap_seconds": 0 })),
        ("DELETE", &of_robot, json!({})),
        // Applications whose tokens administer.
        (
            "PUT",
            "/api/v1/clients/cli",
            json!({ "display_name": "x", "kind": "public", "redirect_uris": ["https://evil.example/"] }),
        ),
        ("DELETE", "/api/v1/clients/cli", json!({})),
        // All at once.
        (
            "POST",
            "/api/v1/import",
            json!({ "users": [{ "username": "eve", "profile": { "roles": ["testudo-admin"] } }] }),
        ),
    ];
    for attack in attacks {
        refused(&shop, &hilda, attack, reserved);
    }
    let client = json!({
        "client_id": "king", "display_name": "King", "kind": "public", "grants": ["authorization_code"],
        "scopes": ["openid", "testudo:admin"], "redirect_uris": ["https://evil.example/"],
    });
    let made = ask(&shop, &hilda, "POST", "/api/v1/clients", &client);
    assert_eq!(made.status, 403, "{made:?}");
    for (path, body) in [
        (&by_scim, patch("password", json!("hilda-knows-it-too-now"))),
        (&desk, patch("members", json!([{ "value": root }]))),
    ] {
        let answer = ask(&shop, &hilda, "PATCH", path, &body);
        assert_eq!(answer.status, 403, "{path}: {answer:?}");
    }
    refused(
        &shop,
        &hilda,
        ("POST", "/api/v1/fleet/apply", json!({})),
        "fleet:apply",
    );
    refused(
        &shop,
        &hilda,
        ("POST", "/api/v1/tenants", json!({ "name": "acme" })),
        "tenant:write",
    );

    // Nothing has changed.
    let root = shop.token("root");
    let shown = allowed(&shop, &root, "GET", "/api/v1/users/bob", &json!({}));
    assert_eq!(shown["all_roles"], json!([]));
    for gone in [
        "/api/v1/users/eve",
        "/api/v1/groups/kings",
        "/api/v1/service-accounts/king",
        "/api/v1/clients/king",
    ] {
        assert_eq!(
            ask(&shop, &root, "GET", gone, &json!({})).status,
            404,
            "{gone}"
        );
    }
    // An administrator may.
    allowed(
        &shop,
        &root,
        "PUT",
        "/api/v1/groups/helpdesk/members/user/bob",
        &json!({}),
    );
}

#[test]
fn who_may_write_users_and_grant_nothing_makes_users_without_anything() {
    let shop = with_helpdesk(
        "permit (principal in Fleet::Group::\"helpdesk\", action == Testudo::Action::\"user:write\", resource);",
    );
    let hilda = shop.token("hilda");
    let post = |body: Value| ("POST", "/api/v1/users", body);
    for granted in [
        json!({ "username": "bob", "roles": ["shop-admin"] }),
        json!({ "username": "bob", "groups": ["customers"] }),
        json!({ "username": "bob", "clearance": 1 }),
    ] {
        refused(&shop, &hilda, post(granted), "role:grant");
    }
    allowed(
        &shop,
        &hilda,
        "POST",
        "/api/v1/users",
        &json!({ "username": "bob" }),
    );
    let put = |body: Value| ("PUT", "/api/v1/users/alice", body);
    refused(&shop, &hilda, put(json!({ "groups": [] })), "role:grant");
    let name = json!({ "groups": ["customers"], "display_name": "Alice" });
    allowed(&shop, &hilda, "PUT", "/api/v1/users/alice", &name);
}

const NOBODY: &str = r#"
@id("nobody")
@reason("nobody administers")
forbid (principal, action in Testudo::Action::"administer", resource);
"#;

#[test]
fn policies_that_lock_everybody_out_need_to_be_meant() {
    let shop = with_helpdesk("");
    let root = shop.token("root");
    let status = || ask(&shop, &root, "GET", "/api/v1/status", &json!({})).status;
    write(&shop, NOBODY);
    for arguments in [
        &["apply", "fleet.toml"][..],
        &["apply", "fleet.toml", "--dry-run"],
    ] {
        let output = shop.fleet.folder.testudo(arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && errors.contains("--allow-lockout"),
            "{errors}"
        );
    }
    assert_eq!(status(), 200);
    shop.fleet
        .folder
        .run(&["apply", "fleet.toml", "--allow-lockout"]);
    assert_eq!(status(), 403);
    // The owner of the data folder is asked nothing, and a fleet that is locked is not kept so.
    put_in_force(&shop, "");
    assert_eq!(status(), 200);
}
