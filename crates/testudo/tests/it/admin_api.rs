//! The admin API, operation by operation: nobody without a token, with a wrong one or without the role for it.

use std::{
    io::Write,
    os::unix::{fs::PermissionsExt, net::UnixStream},
};

use testudo_controlplane::api::{AdminActionGroup, operations};
use testudo_trust::SigningKey;

use crate::{
    browser::Browser,
    shop::{Shop, claims_of},
    wire::{self, Answer},
};

/// A request for an operation, with parameters that exist and a body that says nothing.
fn request(method: &str, path: &str, fields: &str) -> String {
    let path = path
        .replace("{username}", "alice")
        .replace("{client}", "robot")
        .replace("{account}", "robot")
        .replace("{tenant}", "acme")
        .replace("{passkey}", "00000000000000000000000000000000")
        .replace("{link}", "00000000000000000000000000000000")
        .replace("{group}", "customers")
        .replace("{kind}/{member}", "user/larry")
        .replace("{role}", "shop-admin")
        .replace("{resource}", "usr_00000000000000000000000000")
        .replace("{type}", "User")
        .replace("{schema}", "urn:ietf:params:scim:schemas:core:2.0:User")
        .replace("{session}", "ses_00000000000000000000000000")
        .replace("{token}", "join_00000000000000000000000000")
        .replace("{registration_token}", "rgt_00000000000000000000000000")
        .replace("{api_key}", "key_00000000000000000000000000")
        .replace("{decision}", "dec_00000000000000000000000000")
        .replace("{stream}", "str_00000000000000000000000000")
        .replace("{event}", "0");
    assert!(
        !path.contains('{'),
        "{path} has a parameter the test does not know"
    );
    let query = match &*path {
        "/api/v1/audit/tail" => "?from=0",
        _ => "",
    };
    format!(
        "{method} {path}{query} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{fields}\
         Content-Length: 2\r\n\r\n{{}}"
    )
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

#[test]
fn every_operation_refuses_whoever_has_no_right_to_it() {
    let shop = Shop::open("");
    let (alice, audrey, root) = (
        shop.token("alice"),
        shop.token("audrey"),
        shop.token("root"),
    );
    let forged = SigningKey::generate()
        .sign_jwt("at+jwt", &claims_of(&root))
        .unwrap();
    let mut bent = root.clone();
    bent.replace_range(root.len() - 10.., "AAAAAAAAAA");
    let mut browser = Browser::new(&shop);
    // An application's token of an administrator, whatever it asked for: its backend is not the administrator.
    let admin_scope = [("scope", "openid testudo:admin")];
    let lent = browser.tokens_for("root", &admin_scope)["access_token"].clone();
    let lent = lent.as_str().unwrap();
    assert_eq!(claims_of(lent)["sub"], claims_of(&root)["sub"]);
    let cookie: String = browser
        .cookies
        .iter()
        .map(|(name, value)| format!("{name}={value}; "))
        .collect();
    // The router is made from this table: what is added to it is walked here.
    let operations = operations();
    assert!(operations.len() > 20);
    let strangers = [
        ("no token", String::new()),
        ("an empty token", "Authorization: Bearer \r\n".to_owned()),
        ("no JWT", bearer("root")),
        ("another's signature", bearer(&forged)),
        ("a bent signature", bearer(&bent)),
        ("two tokens", bearer(&root) + &bearer(&root)),
        ("another scheme", format!("Authorization: Basic {root}\r\n")),
        ("a name and a password", "Authorization: Basic cm9vdDpyb290\r\n".to_owned()),
        ("the cookie of a login", format!("Cookie: {cookie}\r\n")),
        ("words", "X-User-Id: usr_root\r\nX-User-Roles: testudo-admin\r\nX-Forwarded-For: 127.0.0.1\r\nForwarded: for=unix\r\n".to_owned()),
    ];
    for operation in &operations {
        let what = format!("{} {}", operation.method, operation.path);
        let ask = |fields: &str| {
            shop.ask_server(&request(operation.method.as_str(), operation.path, fields))
        };
        for (who, fields) in &strangers {
            let answer = ask(fields);
            assert_eq!(answer.status, 401, "{what} with {who}: {answer:?}");
            assert!(
                answer.header("www-authenticate").is_some(),
                "{what} with {who}"
            );
        }
        let answer = ask(&bearer(&alice));
        assert_eq!(
            answer.status, 403,
            "{what} by a user without a role: {answer:?}"
        );
        let answer = ask(&bearer(lent));
        assert_eq!(answer.status, 403, "{what} by an application: {answer:?}");
        if operation.action.group() != AdminActionGroup::Provision {
            assert_eq!(answer.json()["code"], "api.scope", "{what}: {answer:?}");
        }
        let answer = ask(&bearer(&audrey));
        if operation.action.group() != AdminActionGroup::Read {
            assert_eq!(answer.status, 403, "{what} by an auditor: {answer:?}");
        } else {
            assert!(
                !matches!(answer.status, 401 | 403 | 500..),
                "{what} by an auditor: {answer:?}"
            );
            let answer = ask(&bearer(&root));
            assert!(
                !matches!(answer.status, 401 | 403 | 500..),
                "{what} by an administrator: {answer:?}"
            );
        }
        // The guard is the operation's, not the method's or the spelling's.
        for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
            let request = request(method, operation.path, "Connection: close\r\n");
            let answer = wire::exchange(&mut shop.at_server(), request.as_bytes())
                .unwrap()
                .unwrap();
            assert!(
                matches!(answer.status, 401 | 404 | 405),
                "{method} {}: {answer:?}",
                operation.path
            );
        }
        for path in [
            format!("{}/", operation.path),
            format!("/{}", operation.path),
            operation.path.replace("/api/", "/api/./"),
            operation.path.replace("/api/", "/x/../api/"),
            operation.path.replace("/api/", "/API/"),
            operation.path.replace("/api/", "/%61pi/"),
            format!("{};x=1", operation.path),
            format!("{}%00", operation.path),
        ] {
            let answer = shop.ask_server(&request(operation.method.as_str(), &path, ""));
            assert!(
                matches!(answer.status, 400 | 401 | 404 | 405),
                "{path}: {answer:?}"
            );
        }
    }
    // A token in the address is none.
    let status =
        format!("GET /api/v1/status?access_token={root} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(shop.ask_server(&status).status, 401);
    // Nothing has changed, and every refusal of somebody known is on record.
    assert_eq!(
        shop.ask_server(&request("GET", "/api/v1/users/{username}", &bearer(&root)))
            .json()["disabled"],
        false
    );
    let refused = 2 * operations.len()
        + operations
            .iter()
            .filter(|operation| operation.action.group() != AdminActionGroup::Read)
            .count();
    let arguments = [
        "audit",
        "search",
        "--limit",
        "10000",
        "activity=api.call",
        "outcome=denied",
        "--output",
        "json",
    ];
    assert_eq!(shop.fleet.folder.run(&arguments).lines().count(), refused);
    // An export is readable text: not over the network, not even for an administrator.
    let export = request("POST", "/api/v1/audit/export", &bearer(&root)).replace(
        "Content-Length: 2\r\n\r\n{}",
        "Content-Length: 24\r\n\r\n{\"directory\":\"/tmp/none\"}",
    );
    let export = export.replace("Content-Length: 24", "Content-Length: 25");
    assert_eq!(shop.ask_server(&export).status, 403);
    // A role that is taken away is gone at once, with the token still good.
    assert_eq!(
        shop.ask_server(&request("GET", "/api/v1/status", &bearer(&audrey)))
            .status,
        200
    );
    shop.fleet.folder.run(&["user", "disable", "audrey"]);
    assert!(matches!(
        shop.ask_server(&request("GET", "/api/v1/status", &bearer(&audrey)))
            .status,
        401 | 403
    ));
}

#[test]
fn nothing_of_the_administration_is_served_elsewhere() {
    let shop = Shop::open("");
    let root = shop.token("root");
    for operation in operations() {
        let what = format!("{} {}", operation.method, operation.path);
        // Not by the gateway, whoever asks.
        let answer = shop
            .send(request(operation.method.as_str(), operation.path, &bearer(&root)).as_bytes())
            .unwrap();
        assert!(matches!(answer.status, 404 | 405), "{what}: {answer:?}");
    }
    for path in [
        "/oauth2/authorize",
        "/oauth2/token",
        "/login",
        "/.well-known/openid-configuration",
        "/metrics",
        "/admin.sock",
    ] {
        let answer = shop
            .send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes())
            .unwrap();
        assert_eq!(answer.status, 404, "{path}");
    }
    assert!(shop.upstream.take().is_empty());
    // Not in the clear: the redirect listener and the ops listener.
    for (listener, path) in [
        ("/redirect", "/api/v1/status"),
        ("/ops", "/api/v1/status"),
        ("/ops", "/public"),
    ] {
        let mut stream = wire::connect(shop.fleet.address(listener)).unwrap();
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\n{}\r\n",
            bearer(&root)
        );
        let answer = wire::exchange(&mut stream, request.as_bytes())
            .unwrap()
            .unwrap();
        assert!(
            matches!(answer.status, 308 | 404),
            "{listener} {path}: {answer:?}"
        );
    }
    let mut stream = wire::connect(shop.server()).unwrap();
    let plain = "GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n";
    assert!(
        wire::exchange(&mut stream, plain.as_bytes())
            .ok()
            .flatten()
            .is_none()
    );
    // Metrics name no people.
    assert_eq!(
        shop.fleet
            .call("GET", "/api/orders/1", Some(&shop.token("alice")), "")
            .status,
        200
    );
    let mut stream = wire::connect(shop.fleet.address("/ops")).unwrap();
    let metrics = wire::exchange(
        &mut stream,
        b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    )
    .unwrap()
    .unwrap();
    assert_eq!(metrics.status, 200);
    assert!(
        metrics.body.contains("shop")
            && !metrics.body.contains("alice")
            && !metrics.body.contains("usr_")
    );
}

#[test]
fn the_admin_socket_is_its_owners_and_serves_the_api_alone() {
    let shop = Shop::open("");
    let socket = shop.fleet.ready["socket"].as_str().unwrap();
    let socket = shop.fleet.folder.path().join(socket);
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600, "{mode:o}");
    let folder = std::fs::metadata(socket.parent().unwrap())
        .unwrap()
        .permissions()
        .mode()
        & 0o777;
    assert_eq!(folder, 0o700, "{folder:o}");
    let ask = |request: &str| -> Answer {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        wire::read_answer(&mut stream).unwrap().unwrap()
    };
    assert_eq!(
        ask("GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n").status,
        200
    );
    for path in ["/oauth2/authorize", "/oauth2/jwks", "/login", "/public"] {
        assert_eq!(
            ask(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).status,
            404,
            "{path}"
        );
    }
}
