//! A database that nobody adapted, behind Testudo: Debian's Redis, with its own client. `./test.sh` installs it;
//! `TESTUDO_TEST_FAST=1` leaves this test out.

use std::{
    fs,
    process::{Command, Output},
    time::{Duration, Instant},
};

use crate::{
    fleet::{Fleet, Folder, free_ports},
    installed::{left_out, tool},
};

/// A fleet in which `shop` may use the database and `guest` may not, though both have a way to it.
fn fleet() -> Fleet {
    let folder = Folder::empty();
    let [database, shop, guest] = free_ports();
    let server = tool(&["/usr/bin/redis-server", "/usr/local/bin/redis-server"]);
    let data = folder.path().display();
    let fleet = format!(
        r#"
trust_domain = "database.example"
public_names = ["localhost"]

[services.database]
upstream = "127.0.0.1:{database}"
protocol = "tcp"
run = {{ command = ["{server}", "--port", "{database}", "--bind", "127.0.0.1", "--save", "", "--dir", "{data}"] }}

[services.shop]
upstream = "127.0.0.1:{shop}"
routes = []
sidecar.connections = {{ database = 0 }}

[services.guest]
upstream = "127.0.0.1:{guest}"
routes = []
sidecar.connections = {{ database = 0 }}
"#
    );
    fs::write(folder.fleet_file(), fleet).unwrap();
    fs::create_dir(folder.path().join("policies")).unwrap();
    let policy = r#"
@id("shop-keeps-things")
@reason("the shop keeps its things in the database")
permit (
  principal == Fleet::Service::"shop",
  action in [Fleet::Action::"connect", Fleet::Action::"invoke"],
  resource in Fleet::Api::"database"
);
"#;
    fs::write(folder.path().join("policies/database.cedar"), policy).unwrap();
    folder.up()
}

/// Redis' own client, as `caller`.
fn redis(fleet: &Fleet, caller: &str, arguments: &[&str]) -> Output {
    let way = fleet.address(&format!("/sidecars/{caller}/connections/database"));
    Command::new(tool(&["/usr/bin/redis-cli", "/usr/local/bin/redis-cli"]))
        .args(["-h", "127.0.0.1", "-p", &way.port().to_string()])
        .args(arguments)
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn a_database_is_used_through_both_sidecars_by_whoever_may() {
    if left_out() {
        return;
    }
    let fleet = fleet();
    let value = "x".repeat(100_000);
    assert_eq!(
        said(&redis(&fleet, "shop", &["SET", "key", &value])),
        "OK\n"
    );
    assert_eq!(
        said(&redis(&fleet, "shop", &["GET", "key"])).trim_end(),
        value
    );
    // A thousand commands on one connection.
    let counted = said(&redis(&fleet, "shop", &["-r", "1000", "INCR", "counter"]));
    assert!(counted.ends_with("1000\n"), "{counted}");

    let denied = redis(&fleet, "guest", &["GET", "key"]);
    assert!(!denied.status.success(), "{denied:?}");
    assert!(!String::from_utf8_lossy(&denied.stdout).contains('x'));

    for activity in [
        "decision.outbound",
        "decision.inbound",
        "stream.close.inbound",
    ] {
        assert!(is_recorded(&fleet, activity), "{activity}");
    }
}

/// Whether the ledger comes to hold such an event about connections to the database.
fn is_recorded(fleet: &Fleet, activity: &str) -> bool {
    let activity = format!("activity={activity}");
    let terms = [
        "audit",
        "search",
        &activity,
        "target=database:connect",
        "--output",
        "json",
    ];
    let until = Instant::now() + Duration::from_secs(20);
    while Instant::now() < until {
        if fleet.folder.run(&terms).contains("database:connect") {
            return true;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    false
}
