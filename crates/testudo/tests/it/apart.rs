//! The same bookshop with every role in a process of its own, joined with one-time tokens.

use std::{fs, process::Command, thread, time::Duration};

use serde_json::Value;

use crate::{
    fleet::{Folder, Process, TESTUDO, free_ports, wait_for_ready},
    roles::{Apart, Role, eventually, join_token, readiness},
};

const ORDER: &str = r#"{"book":"1"}"#;

#[test]
fn the_bookshop_answers_the_same_with_every_role_in_its_own_process() {
    let mut apart = Apart::bookshop();
    let alice = apart.fleet.token("alice");
    let bob = apart.fleet.token("bob");
    the_bookshop_answers(&apart, &alice, &bob);
    let limited = (0..30).any(|_| apart.fleet.call("GET", "/books", None, "").status == 429);
    assert!(limited, "the route's limit holds");
    // Readiness, not luck: each says that nothing is missing.
    for proxy in apart.proxies() {
        let (status, gates) = proxy.readiness();
        assert_eq!(status, 200, "{gates}");
    }
    let listed = apart
        .fleet
        .folder
        .run(&["proxy", "list", "--output", "json"]);
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let live = listed
        .as_array()
        .unwrap()
        .iter()
        .filter(|item| item["live"] == true);
    assert_eq!(live.count(), 6, "{listed:#}");

    // Stopped or killed, a proxy goes on without a new token: its state is in its folder, sealed.
    apart.sidecars.get_mut("orders").unwrap().process.stop();
    let Apart {
        fleet,
        gateway,
        sidecars,
        ..
    } = &mut apart;
    sidecars
        .get_mut("orders")
        .unwrap()
        .start_again(&fleet.folder);
    gateway.process.signal("-KILL");
    gateway.start_again(&fleet.folder);
    apart.wait_until_it_answers();
    the_bookshop_answers(&apart, &alice, &bob);

    // A folder does not open under another key, and a missing one is not made up.
    let key = Role::data(&apart.fleet.folder, "catalog.key");
    apart.sidecars.get_mut("catalog").unwrap().process.stop();
    let kept = key.with_extension("kept");
    fs::rename(&key, &kept).unwrap();
    let start = || {
        let [ops] = free_ports();
        let output = apart.fleet.folder.testudo(&[
            "sidecar",
            "--data",
            Role::data(&apart.fleet.folder, "catalog").to_str().unwrap(),
            "--ops",
            &format!("127.0.0.1:{ops}"),
            "--inbound",
            "127.0.0.1:0",
            "--outbound",
            "127.0.0.1:0",
        ]);
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let errors = start();
    assert!(errors.contains("catalog.key is missing"), "{errors}");
    assert!(!key.exists());
    fs::copy(Role::data(&apart.fleet.folder, "orders.key"), &key).unwrap();
    let errors = start();
    assert!(
        errors.contains("does not open with this state key"),
        "{errors}"
    );
    fs::rename(&kept, &key).unwrap();

    apart.fleet.folder.run(&["audit", "verify"]);
}

fn the_bookshop_answers(apart: &Apart, alice: &str, bob: &str) {
    let call = |method, path, token, body| apart.fleet.call(method, path, token, body);
    assert_eq!(call("GET", "/books/1", None, "").status, 200);
    let made = call("POST", "/orders", Some(alice), ORDER);
    assert_eq!(made.status, 201, "{}", made.body);
    assert_eq!(call("POST", "/orders", None, ORDER).status, 401);
    assert_eq!(call("POST", "/orders", Some(bob), ORDER).status, 403);
    assert_eq!(
        call("POST", "/books/1/reserve", Some(alice), "").status,
        403
    );
}

#[test]
fn every_proxy_says_that_it_enforces_what_was_revoked() {
    let apart = Apart::bookshop();
    let bob = apart.fleet.token("bob");
    assert_eq!(
        apart
            .fleet
            .call("POST", "/orders", Some(&bob), ORDER)
            .status,
        403
    );
    let folder = &apart.fleet.folder;
    let behind = || -> Vec<Value> {
        let listed = folder.run(&["proxy", "list", "--output", "json"]);
        let listed: Vec<Value> = serde_json::from_str(&listed).unwrap();
        let live = listed.iter().filter(|item| item["live"] == true);
        live.map(|item| item["revocations_behind"].clone())
            .collect()
    };
    folder.run(&["user", "disable", "bob"]);
    eventually("six proxies say that they enforce it", || {
        behind() == [0; 6]
    });
    assert_eq!(
        apart
            .fleet
            .call("POST", "/orders", Some(&bob), ORDER)
            .status,
        401
    );
    let shown = folder.run(&["proxy", "list"]);
    let lines: Vec<&str> = shown.lines().collect();
    assert!(lines[0].contains("REVOCATIONS"), "{shown}");
    assert!(
        lines[1..].iter().all(|line| line.contains(" all ")),
        "{shown}"
    );
}

#[test]
fn join_tokens_are_listed_without_their_secrets_and_taken_back() {
    let folder = Folder::bookshop();
    let _server = start_server(&folder);
    let taken_back = join_token(&folder, &["--service", "orders"]);
    let used = join_token(&folder, &["--service", "orders"]);
    drop(Role::sidecar(
        &folder,
        "orders",
        free_ports::<1>()[0],
        Some(&used),
    ));
    let list = || -> Vec<Value> {
        let page = folder.run(&["join-token", "list", "--output", "json"]);
        for token in [&taken_back, &used] {
            let secret = token.split('.').nth(2).unwrap();
            assert!(secret.len() >= 43 && !page.contains(secret), "{page}");
        }
        let page: Value = serde_json::from_str(&page).unwrap();
        page.as_array().unwrap().clone()
    };
    let states: Vec<_> = list().iter().map(|token| token["state"].clone()).collect();
    assert_eq!(states, ["used", "waiting"], "the newest first");
    let ids: Vec<String> = list()
        .iter()
        .map(|token| token["id"].as_str().unwrap().to_owned())
        .collect();
    let table = folder.run(&["join-token", "list"]);
    assert!(
        table.contains("/svc/orders") && table.contains(&ids[0]),
        "{table}"
    );

    let delete = |id: &str| {
        let output = folder.testudo(&["join-token", "delete", id]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), said)
    };
    let (code, said) = delete(&ids[1]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("nobody has used it"), "{said}");
    let refused = refused_sidecar(&folder, "thief", &taken_back);
    assert!(refused.contains("is not known"), "{refused}");
    let (code, said) = delete(&ids[0]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("testudo proxy revoke spiffe://"), "{said}");
    assert_eq!(list(), Vec::<Value>::new());

    for unknown in [&*ids[0], "join_00000000000000000000000000"] {
        assert_eq!(delete(unknown).0, Some(3), "{unknown}");
    }
    assert_ne!(delete("../users/alice/disable").0, Some(0));
    let events = folder.run(&["audit", "search", "activity=join_token.delete"]);
    assert_eq!(events.lines().count(), 2, "{events}");
}

#[test]
fn a_join_token_works_once_in_its_fleet_and_in_its_time() {
    let folder = Folder::bookshop();
    let server = start_server(&folder);
    let token = join_token(&folder, &["--service", "orders"]);
    let first = Role::sidecar(&folder, "orders", free_ports::<1>()[0], Some(&token));
    drop(first);

    // Used a second time, by somebody who read it.
    let refused = refused_sidecar(&folder, "thief", &token);
    assert!(refused.contains("used"), "{refused}");
    assert!(!Role::data(&folder, "thief").join("identity").exists());

    // The token of another fleet: its pin is of another CA. The secret does not leave.
    let token = join_token(&folder, &["--service", "orders"]);
    let pin = token.split('.').nth(3).unwrap();
    let refused = refused_sidecar(&folder, "stranger", &token.replace(pin, &"0".repeat(64)));
    assert!(refused.contains("not the pinned one"), "{refused}");
    // The control plane never saw it, so it still holds.
    drop(Role::sidecar(
        &folder,
        "still-good",
        free_ports::<1>()[0],
        Some(&token),
    ));

    let token = join_token(&folder, &["--service", "orders", "--ttl", "1s"]);
    thread::sleep(Duration::from_millis(1100));
    let refused = refused_sidecar(&folder, "late", &token);
    assert!(refused.contains("expired"), "{refused}");

    // A sidecar's token makes no gateway and a gateway's no sidecar; what is not declared gets none.
    let for_orders = join_token(&folder, &["--service", "orders"]);
    let refused = refusal(
        &folder,
        "impostor",
        &for_orders,
        &["gateway", "--listen", "127.0.0.1:0"],
    );
    assert!(
        refused.contains("/svc/orders is not a gateway"),
        "{refused}"
    );
    let token = join_token(&folder, &["--gateway"]);
    let refused = refused_sidecar(&folder, "other-impostor", &token);
    assert!(
        refused.contains("/testudo/gateway is not a sidecar"),
        "{refused}"
    );
    // A mistake uses no token up.
    let [outbound] = free_ports();
    drop(Role::sidecar(&folder, "meant", outbound, Some(&for_orders)));
    let unknown = folder.testudo(&["join-token", "create", "--service", "accounting"]);
    assert_eq!(
        unknown.status.code(),
        Some(3),
        "{}",
        String::from_utf8_lossy(&unknown.stderr)
    );

    // All of it is in the ledger.
    let events = folder.run(&["audit", "search", "outcome=denied", "--output", "json"]);
    assert!(events.lines().count() >= 2, "{events}");
    drop(server);
}

fn start_server(folder: &Folder) -> Process {
    let log = folder.path().join("server.log");
    let mut child = folder
        .command(&["server", "fleet.toml", "--output", "json"])
        .stdout(std::process::Stdio::piped())
        .stderr(fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    wait_for_ready(&mut child, &log);
    Process(child)
}

fn refused_sidecar(folder: &Folder, name: &str, token: &str) -> String {
    refusal(
        folder,
        name,
        token,
        &[
            "sidecar",
            "--inbound",
            "127.0.0.1:0",
            "--outbound",
            "127.0.0.1:0",
        ],
    )
}

/// What a proxy says that must not get in.
fn refusal(folder: &Folder, name: &str, token: &str, arguments: &[&str]) -> String {
    let token_file = folder.path().join(format!("{name}.token"));
    fs::write(&token_file, token).unwrap();
    let data = Role::data(folder, name);
    let arguments: Vec<&str> = arguments
        .iter()
        .copied()
        .chain(["--ops", "127.0.0.1:0", "--data", data.to_str().unwrap()])
        .chain(["--join-token-file", token_file.to_str().unwrap()])
        .collect();
    let output = folder.testudo(&arguments);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{name} got in: {errors}");
    errors
}

#[test]
fn calls_go_on_while_the_control_plane_is_away_and_nothing_is_forgotten() {
    let mut apart = Apart::bookshop();
    let alice = apart.fleet.token("alice");
    let bob = apart.fleet.token("bob");
    the_bookshop_answers(&apart, &alice, &bob);
    apart.fleet.process.signal("-KILL");

    // Tokens already issued go on, refusals go on, and each call is an event that waits.
    the_bookshop_answers(&apart, &alice, &bob);
    let refused = apart.fleet.call("POST", "/orders", Some(&bob), ORDER);
    let decision = refused.json()["decision"].as_str().unwrap().to_owned();
    let unreachable = apart
        .fleet
        .folder
        .testudo(&["login", "--username", "alice"]);
    assert!(!unreachable.status.success());

    // Even proxies that are stopped and started meanwhile: what they enforced is in their folder, and so are the
    // events that nobody took.
    let Apart {
        fleet,
        gateway,
        sidecars,
        ..
    } = &mut apart;
    let inventory = sidecars.get_mut("inventory").unwrap();
    for proxy in [inventory, gateway] {
        assert_eq!(proxy.process.stop(), Some(0));
        proxy.start_again(&fleet.folder);
    }
    apart.wait_until_it_answers();
    the_bookshop_answers(&apart, &alice, &bob);

    apart.start_server_again();
    let folder = &apart.fleet.folder;
    eventually("the refused call is in the ledger", || {
        folder
            .testudo(&["audit", "show", &decision])
            .status
            .success()
    });
    folder.run(&["audit", "verify"]);
    let orders = folder.run(&[
        "audit",
        "search",
        "service=orders",
        "outcome=denied",
        "-n",
        "500",
    ]);
    assert!(orders.contains(&decision), "{orders}");
    the_bookshop_answers(&apart, &alice, &bob);
}

#[test]
fn a_proxy_whose_control_plane_is_away_from_the_start_says_so_and_joins_when_it_is_there() {
    let folder = Folder::bookshop();
    let server = start_server(&folder);
    let token = join_token(&folder, &["--service", "orders"]);
    drop(server);

    let token_file = folder.path().join("orders.token");
    fs::write(&token_file, token).unwrap();
    let [ops] = free_ports();
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], ops));
    let child = Command::new(TESTUDO)
        .args([
            "sidecar",
            "--inbound",
            "127.0.0.1:0",
            "--outbound",
            "127.0.0.1:0",
        ])
        .args(["--ops", &address.to_string(), "--data"])
        .arg(Role::data(&folder, "orders"))
        .arg("--join-token-file")
        .arg(&token_file)
        .stdout(std::process::Stdio::null())
        .stderr(fs::File::create(folder.path().join("orders.log")).unwrap())
        .spawn()
        .unwrap();
    let sidecar = Process(child);
    eventually("it says what is missing", || {
        let Ok(stream) = crate::wire::connect(address) else {
            return false;
        };
        drop(stream);
        let (status, said) = readiness(address);
        status == 503 && said["gates"].to_string().contains("control plane")
    });

    let server = start_server(&folder);
    eventually("it joins", || readiness(address).0 == 200);
    drop((sidecar, server));
}
