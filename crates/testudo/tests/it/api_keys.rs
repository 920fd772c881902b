//! API keys, from the command that makes them to the gateway that takes them, and until they end.

use std::{
    fs,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::{
    fleet::Folder,
    forge::get,
    roles::{Apart, eventually},
    shop::Shop,
    wire::{self, Answer},
};

const ORDERS: &str = "/api/orders/1";

/// A shop that takes keys, with accounts that may read orders.
fn with_keys() -> Shop {
    let shop = Shop::open("");
    let folder = &shop.fleet.folder;
    let upstream = format!("upstream = \"{}\"", shop.upstream.address);
    folder.edit(
        &upstream,
        &format!("{upstream}\ntenants = [\"*\"]\napi_keys = true"),
    );
    folder.run(&["apply", "fleet.toml"]);
    for account in ["ci", "other"] {
        folder.run(&[
            "service-account",
            "create",
            account,
            "--group",
            "customers",
            "--scope",
            "orders:read",
        ]);
    }
    shop
}

fn json_of(shop: &Shop, arguments: &[&str]) -> Value {
    let arguments = [&["-o", "json"], arguments].concat();
    serde_json::from_str(&shop.fleet.folder.run(&arguments)).unwrap()
}

/// A new key of `ci`, once gateways know it, and its id.
fn key(shop: &Shop, more: &[&str]) -> (String, String) {
    let arguments = [&["api-key", "create", "ci", "--name", "deploys"], more].concat();
    let made = json_of(shop, &arguments);
    let text = |field: &str| made[field].as_str().unwrap().to_owned();
    let (key, id) = (text("key"), text("id"));
    becomes(shop, &key, |code| code != Some("token.api_key_unknown"));
    (key, id)
}

fn show(shop: &Shop, fields: &str) -> Answer {
    shop.send(get(ORDERS, fields).as_bytes()).unwrap()
}

fn bearer(key: &str) -> String {
    format!("Authorization: Bearer {key}\r\n")
}

fn with_checksum(body: &str) -> String {
    let sum = testudo_trust::hex::encode(&testudo_trust::sha256(body.as_bytes())[..4]);
    format!("{body}{sum}")
}

fn outcome(answer: &Answer) -> (u16, Option<String>) {
    let code = (answer.status != 200).then(|| answer.json()["code"].as_str().map(str::to_owned));
    (answer.status, code.flatten())
}

/// Waits until what the gateway says about `key` is as `wanted`, and says how long that took.
fn becomes(shop: &Shop, key: &str, wanted: impl Fn(Option<&str>) -> bool) -> Duration {
    let begin = Instant::now();
    loop {
        let (_, code) = outcome(&show(shop, &bearer(key)));
        if wanted(code.as_deref()) {
            return begin.elapsed();
        }
        assert!(begin.elapsed() < Duration::from_secs(20), "{code:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_key_opens_what_its_account_may_and_never_reaches_the_service() {
    let shop = with_keys();
    let (key, id) = key(&shop, &[]);
    shop.upstream.take();
    for fields in [
        bearer(&key),
        format!("X-API-Key: {key}\r\n"),
        format!("authorization: bearer {key}\r\n"),
    ] {
        let answer = show(&shop, &fields);
        assert_eq!(answer.status, 200, "{fields} {answer:?}");
    }
    let received = shop.upstream.take();
    assert_eq!(received.len(), 3);
    for request in &received {
        let request = format!("{request:?}");
        assert!(!request.contains("tst_"), "{request}");
        assert!(request.contains("sva_"), "{request}");
    }
    // What is not allowed to the account is not allowed to its key.
    let denied = shop
        .send(get("/admin/x", &bearer(&key)).as_bytes())
        .unwrap();
    assert_eq!(denied.status, 403, "{denied:?}");
    // A field of the service's own passes.
    let public = get("/public/x", "X-API-Key: of-the-shop\r\n");
    assert_eq!(shop.send(public.as_bytes()).unwrap().status, 200);
    let received = format!("{:?}", shop.upstream.take());
    assert!(received.contains("of-the-shop"), "{received}");

    // Evidence has the id and never the key; nobody is shown the key again.
    assert!(shop.decisions("decision.gateway", "success", 3) >= 3);
    let folder = &shop.fleet.folder;
    let found = folder.run(&[
        "-o",
        "json",
        "audit",
        "search",
        "--limit",
        "1000",
        "target=shop:*",
    ]);
    assert!(found.contains(&id) && !found.contains(&key), "{found}");
    let secret = key.rsplit('_').next().unwrap();
    for shown in [
        folder.run(&["api-key", "show", &id]),
        folder.run(&["-o", "json", "api-key", "list"]),
        folder.run(&[
            "-o",
            "json",
            "audit",
            "search",
            "--limit",
            "1000",
            "activity=api_key.*",
        ]),
    ] {
        assert!(shown.contains(&id) && !shown.contains(secret), "{shown}");
    }
    let log = fs::read_to_string(folder.path().join("log")).unwrap();
    assert!(log.contains("enforcing") && !log.contains(secret), "{log}");
}

#[test]
fn what_is_not_a_key_or_not_for_here_opens_nothing() {
    let shop = with_keys();
    let (key, id) = key(&shop, &[]);
    let (far, far_id) = self::key(&shop, &["--network", "192.0.2.0/24"]);
    let (near, _) = self::key(&shop, &["--network", "127.0.0.0/8", "--service", "shop"]);
    let folder = &shop.fleet.folder;
    folder.run(&["tenant", "create", "acme"]);
    let acme = [
        "--tenant",
        "acme",
        "service-account",
        "create",
        "ci",
        "--group",
        "customers",
    ];
    folder.run(&["--tenant", "acme", "group", "create", "customers"]);
    folder.run(&acme);
    // The helper is not for them, so they are not even told that it is there.
    folder.edit(
        "[services.helper]\n",
        "[services.helper]\napi_keys = true\n",
    );
    folder.run(&["apply", "fleet.toml"]);
    for service in ["helper", "nowhere"] {
        let arguments = [
            "--tenant",
            "acme",
            "api-key",
            "create",
            "ci",
            "--name",
            "x",
            "--service",
            service,
        ];
        let refused = folder.testudo(&arguments);
        let told = String::from_utf8_lossy(&refused.stderr).into_owned();
        let why = format!("no service `{service}` takes API keys");
        assert!(!refused.status.success() && told.contains(&why), "{told}");
    }
    let foreign = json_of(
        &shop,
        &["--tenant", "acme", "api-key", "create", "ci", "--name", "x"],
    );
    let foreign = foreign["key"].as_str().unwrap().to_owned();
    becomes(&shop, &foreign, |code| {
        code != Some("token.api_key_unknown")
    });
    shop.upstream.take();

    assert_eq!(show(&shop, &bearer(&near)).status, 200);
    let (body, checksum) = key.split_at(key.len() - 8);
    let (head, digit) = body.split_at(body.len() - 1);
    let other_digit = if digit == "0" { "1" } else { "0" };
    // Well-formed, with a checksum that is right: only the digest tells.
    let guessed = with_checksum(&format!("tst_{}_{}", &id[4..], "0".repeat(64)));
    // The secret of one key behind the id of another, with the right checksum.
    let (_, secret) = body.rsplit_once('_').unwrap();
    let swapped = with_checksum(&format!("tst_{}_{secret}", &far_id[4..]));
    let long = format!("{key}{}", "0".repeat(9 * 1024));
    let token = shop.token("alice");
    let unknown = Some("token.api_key_unknown");
    for (what, fields, expected) in [
        ("cut", bearer(body), (401, unknown)),
        (
            "mistyped",
            bearer(&format!("{head}{other_digit}{checksum}")),
            (401, unknown),
        ),
        ("guessed", bearer(&guessed), (401, unknown)),
        (
            "the id alone",
            bearer(&format!("tst_{}", &id[4..])),
            (401, unknown),
        ),
        ("two words", bearer(&format!("{key} {key}")), (401, unknown)),
        (
            "as a proof",
            format!("Authorization: DPoP {key}\r\n"),
            (401, Some("token.unbound")),
        ),
        (
            "from elsewhere",
            bearer(&far),
            (401, Some("token.api_key_network")),
        ),
        (
            "from elsewhere, with words",
            format!(
                "{}X-Forwarded-For: 192.0.2.7\r\nForwarded: for=192.0.2.7\r\n",
                bearer(&far)
            ),
            (401, Some("token.api_key_network")),
        ),
        (
            "twice",
            format!("X-API-Key: {key}\r\nX-API-Key: {key}\r\n"),
            (400, Some("token.misplaced")),
        ),
        (
            "beside something else",
            format!("X-API-Key: {key}\r\nX-API-Key: other\r\n"),
            (400, Some("token.misplaced")),
        ),
        (
            "in both places",
            format!("{}X-API-Key: {key}\r\n", bearer(&key)),
            (400, Some("token.misplaced")),
        ),
        (
            "beside an access token",
            format!("{}X-API-Key: {key}\r\n", bearer(&token)),
            (400, Some("token.misplaced")),
        ),
        (
            "beside a cut one",
            format!("{}X-API-Key: {body}\r\n", bearer(&token)),
            (400, Some("token.misplaced")),
        ),
        (
            "as a password",
            format!(
                "Authorization: Basic {}\r\n",
                STANDARD.encode(format!("ci:{key}"))
            ),
            (401, Some("token.misplaced")),
        ),
        ("of another account", bearer(&swapped), (401, unknown)),
        ("long", bearer(&long), (401, Some("token.untrusted"))),
        (
            "long, in its field",
            format!("X-API-Key: {long}\r\n"),
            (401, Some("token.untrusted")),
        ),
    ] {
        let answer = show(&shop, &fields);
        let (status, code) = outcome(&answer);
        assert_eq!((status, code.as_deref()), expected, "{what}: {answer:?}");
    }
    // A member of another tenant's group of the same name is none of ours.
    let answer = show(&shop, &bearer(&foreign));
    assert_eq!(answer.status, 403, "{answer:?}");
    for name in ["api_key", "key", "x%2Dapi", ""] {
        let path = format!("{ORDERS}?{name}={key}");
        let answer = shop.send(get(&path, &bearer(&key)).as_bytes()).unwrap();
        assert_eq!(
            outcome(&answer).1.as_deref(),
            Some("token.misplaced"),
            "{name}"
        );
    }
    let path = format!("{ORDERS}?{}=", key.replace('_', "%5f"));
    let answer = shop.send(get(&path, "").as_bytes()).unwrap();
    assert_eq!(outcome(&answer).1.as_deref(), Some("token.misplaced"));
    // The control plane takes none.
    let status = shop.ask_server(&get("/api/v1/status", &bearer(&key)));
    assert_eq!(status.status, 401, "{status:?}");
    let received = format!("{:?}", shop.upstream.take());
    assert!(!received.contains("tst_"), "{received}");

    // A service that did not ask for keys takes none.
    folder.edit("tenants = [\"*\"]\napi_keys = true", "tenants = [\"*\"]");
    folder.run(&["apply", "fleet.toml"]);
    becomes(&shop, &key, |code| code == Some("token.api_key_not_taken"));
}

#[test]
fn a_key_ends_at_once_when_it_is_revoked_rotated_away_or_its_account_disabled() {
    let shop = with_keys();
    let folder = &shop.fleet.folder;
    let (first, id) = key(&shop, &[]);
    let good = |code: Option<&str>| code.is_none();
    let bad = |code: Option<&str>| code.is_some();

    // A rotation leaves both good for the overlap, and then the new one alone.
    let rotated = json_of(&shop, &["api-key", "rotate", &id, "--overlap", "5s"]);
    let second = rotated["key"].as_str().unwrap().to_owned();
    assert_eq!(rotated["rotated_from"], json!(id));
    becomes(&shop, &second, good);
    assert_eq!(show(&shop, &bearer(&first)).status, 200);
    becomes(&shop, &first, bad);
    assert_eq!(show(&shop, &bearer(&second)).status, 200);

    // Revoked: a second, for what else this machine has to do twice that.
    let second_id = rotated["id"].as_str().unwrap();
    folder.run(&["api-key", "revoke", second_id]);
    let took = becomes(&shop, &second, bad);
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert_eq!(
        folder
            .testudo(&["api-key", "show", second_id])
            .status
            .code(),
        Some(3)
    );

    // On a connection that is open, and by an account that is disabled, and again when it is deleted.
    let (third, third_id) = key(&shop, &[]);
    let mut open = shop.at_gateway();
    let request = get(ORDERS, &bearer(&third));
    let answer = wire::exchange(&mut open, request.as_bytes())
        .unwrap()
        .unwrap();
    assert_eq!(answer.status, 200);
    folder.run(&["service-account", "disable", "ci"]);
    becomes(&shop, &third, bad);
    let answer = wire::exchange(&mut open, request.as_bytes())
        .unwrap()
        .unwrap();
    assert_eq!(answer.status, 401, "{answer:?}");
    folder.run(&["service-account", "delete", "ci"]);
    assert_eq!(
        folder
            .testudo(&["api-key", "show", &third_id])
            .status
            .code(),
        Some(3)
    );
    assert_eq!(show(&shop, &bearer(&third)).status, 401);

    // It ends by itself.
    let made = json_of(
        &shop,
        &[
            "api-key", "create", "other", "--name", "brief", "--ttl", "4s",
        ],
    );
    let brief = made["key"].as_str().unwrap();
    becomes(&shop, brief, good);
    becomes(&shop, brief, bad);
}

#[test]
fn a_key_that_was_told_is_kept_and_one_that_was_revoked_stays_so_whatever_is_killed() {
    let mut shop = with_keys();
    let (kept, _) = key(&shop, &[]);
    let (revoked, id) = key(&shop, &[]);
    let made = json_of(&shop, &["api-key", "create", "ci", "--name", "last"]);
    let last = made["key"].as_str().unwrap().to_owned();
    shop.fleet.folder.run(&["api-key", "revoke", &id]);
    shop.fleet.process.signal("-KILL");
    shop.fleet.process.wait();
    let folder = shop.fleet.folder;
    shop = Shop {
        fleet: folder.up(),
        upstream: shop.upstream,
    };
    assert_eq!(show(&shop, &bearer(&revoked)).status, 401);
    let answer = show(&shop, &bearer(&kept));
    assert_eq!(answer.status, 200, "{answer:?}");
    // The gateway starts with the snapshot it had. That of the last key may not have come before the kill.
    becomes(&shop, &last, |code| code.is_none());
    assert_eq!(show(&shop, &bearer(&revoked)).status, 401);
}

#[test]
fn gateways_take_keys_while_the_control_plane_is_away_and_still_know_which_were_revoked() {
    let folder = Folder::bookshop();
    folder.edit(
        "[services.orders]\n",
        "[services.orders]\napi_keys = true\n",
    );
    let mut apart = Apart::of(folder);
    apart.fleet.folder.run(&[
        "service-account",
        "create",
        "deployer",
        "--group",
        "customers",
        "--scope",
        "orders:write",
    ]);
    let make = |apart: &Apart| {
        let arguments = ["-o", "json", "api-key", "create", "deployer", "--name", "x"];
        let made: Value = serde_json::from_str(&apart.fleet.folder.run(&arguments)).unwrap();
        let text = |field: &str| made[field].as_str().unwrap().to_owned();
        (text("key"), text("id"))
    };
    let order = |apart: &Apart, key: &str| {
        let order = r#"{"book":"1"}"#;
        apart.fleet.call("POST", "/orders", Some(key), order).status
    };
    let ((kept, _), (lost, id)) = (make(&apart), make(&apart));
    eventually("both open the orders", || {
        [&kept, &lost].map(|key| order(&apart, key)) == [201, 201]
    });
    apart.fleet.folder.run(&["api-key", "revoke", &id]);
    eventually("the key is revoked", || order(&apart, &lost) == 401);

    apart.fleet.process.signal("-KILL");
    apart.gateway.process.signal("-KILL");
    apart.gateway.start_again(&apart.fleet.folder);
    apart.wait_until_it_answers();
    assert_eq!(order(&apart, &lost), 401);
    assert_eq!(order(&apart, &kept), 201);
    apart.start_server_again();
    assert_eq!(order(&apart, &lost), 401);
    assert_eq!(order(&apart, &kept), 201);
}

#[test]
fn a_key_that_cannot_be_as_it_is_wanted_is_refused_with_the_reason() {
    let shop = with_keys();
    let create = |more: &[&str]| {
        let arguments = [&["api-key", "create", "ci", "--name", "x"], more].concat();
        let refused = shop.fleet.folder.testudo(&arguments);
        let told = String::from_utf8_lossy(&refused.stderr).into_owned();
        (refused.status.success(), told)
    };
    for (more, reason) in [
        (&["--ttl", "367d"][..], "366 days"),
        (&["--ttl", "0s"], "366 days"),
        (&["--scope", "orders:write"], "orders:write"),
        (&["--service", "helper"], "api_keys = true"),
        (&["--service", "nowhere"], "api_keys = true"),
        (&["--network", "192.0.2.0/99"], "no network such as"),
    ] {
        let (is_made, told) = create(more);
        assert!(!is_made && told.contains(reason), "{more:?}: {told}");
    }
    let folder = &shop.fleet.folder;
    folder.run(&["service-account", "disable", "ci"]);
    let (is_made, told) = create(&[]);
    assert!(!is_made && told.contains("is disabled"), "{told}");
    folder.run(&["service-account", "enable", "ci"]);
    for made in 0..20 {
        assert!(create(&[]).0, "{made}");
    }
    let (is_made, told) = create(&[]);
    assert!(!is_made && told.contains("at most 20"), "{told}");
}
