//! The bookshop beyond HTTP, with its own client: gRPC, WebSocket and server-sent events.

use std::{
    io::{BufRead, BufReader},
    process::{ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    fleet::{Fleet, Folder, Process, bookshop_binary},
    roles::eventually,
};

const ORDER: &str = r#"{"book":"1"}"#;
const SOON: Duration = Duration::from_secs(10);

/// A call of the client.
fn client(fleet: &Fleet, token: Option<&str>, words: &[&str]) -> Command {
    let shop = format!("localhost:{}", fleet.address("/gateway").port());
    let mut command = Command::new(bookshop_binary());
    command
        .args(words)
        .args(["--shop", &shop, "--ca", fleet.ready["ca"].as_str().unwrap()])
        .args(token.iter().flat_map(|token| ["--token", token]))
        .current_dir(fleet.folder.path());
    command
}

/// What a call prints; it must get an answer.
fn ask(fleet: &Fleet, token: Option<&str>, words: &[&str]) -> String {
    let output = client(fleet, token, words).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// A call that stays, and what it prints meanwhile.
struct Listener {
    process: Process,
    lines: BufReader<ChildStdout>,
}

impl Listener {
    fn start(fleet: &Fleet, token: &str, words: &[&str]) -> Self {
        let mut child = client(fleet, Some(token), words)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self {
            process: Process(child),
            lines,
        }
    }

    fn next(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("`{line}` is no update"))
    }

    /// Waits until it ends by itself.
    fn ends(mut self) {
        let until = Instant::now() + SOON;
        while self.process.0.try_wait().unwrap().is_none() {
            assert!(Instant::now() < until, "the stream is still open");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

#[test]
fn prices_are_told_over_grpc_to_whom_may_know_them() {
    let fleet = Folder::bookshop().up();
    let (alice, carol) = (fleet.token("alice"), fleet.token("carol"));

    let refused = ask(&fleet, None, &["price", "1"]);
    assert!(refused.starts_with("grpc-status: 16 "), "{refused}");
    assert!(refused.contains("policy.user_required"), "{refused}");
    let price = ask(&fleet, Some(&alice), &["price", "1"]);
    assert_eq!(price, "{\"book\":\"1\",\"cents\":1495}\n");
    let unknown = ask(&fleet, Some(&alice), &["price", "9"]);
    assert!(unknown.contains("there is no book 9"), "{unknown}");

    // A refusal says why, whatever the protocol.
    let refused = ask(&fleet, Some(&alice), &["reprice", "1", "1"]);
    assert!(refused.starts_with("grpc-status: 7 "), "{refused}");
    let (_, decision) = refused.split_once("testudo-decision: ").unwrap();
    let explained = fleet.folder.run(&["policy", "explain", decision.trim()]);
    assert!(explained.contains("pricing.reprice"), "{explained}");

    // A stream brings what there is, and then every change.
    let mut prices = Listener::start(&fleet, &alice, &["prices", "--updates", "4"]);
    for (book, cents) in [("1", 1495), ("2", 1250), ("3", 1895)] {
        assert_eq!(prices.next(), json!({ "book": book, "cents": cents }));
    }
    ask(&fleet, Some(&carol), &["reprice", "1", "1595"]);
    assert_eq!(prices.next(), json!({ "book": "1", "cents": 1595 }));
    prices.ends();

    // Orders ask for the price on behalf of their customer, through both sidecars.
    let order = fleet.call("POST", "/orders", Some(&alice), ORDER);
    assert_eq!(order.status, 201, "{}", order.body);
    assert_eq!(order.json()["cents"], 1595);
    let asked = [
        "audit",
        "search",
        "activity=decision.outbound",
        "service=pricing",
    ];
    eventually("the ledger holds the call", || {
        fleet.folder.run(&asked).contains("pricing.quote")
    });
}

#[test]
fn the_ticker_tells_the_stock_until_what_allowed_it_ends() {
    let fleet = Folder::bookshop().up();
    let alice = fleet.token("alice");
    let refused = ask(&fleet, None, &["watch", "1"]);
    assert!(refused.contains("policy.user_required"), "{refused}");

    let mut ticker = Listener::start(&fleet, &alice, &["watch", "1"]);
    assert_eq!(ticker.next(), json!({ "book": "1", "copies": 1000 }));
    let order = fleet.call("POST", "/orders", Some(&alice), ORDER);
    assert_eq!(order.status, 201, "{}", order.body);
    assert_eq!(ticker.next(), json!({ "book": "1", "copies": 999 }));

    fleet.folder.run(&["user", "disable", "alice"]);
    ticker.ends();
}

#[test]
fn an_order_is_followed_by_who_made_it_event_by_event() {
    let fleet = Folder::bookshop().up();
    let (alice, bob) = (fleet.token("alice"), fleet.token("bob"));
    let order = fleet.call("POST", "/orders", Some(&alice), ORDER);
    assert_eq!(order.status, 201, "{}", order.body);

    let begun = Instant::now();
    let progress = fleet.call("GET", "/orders/1/progress", Some(&alice), "");
    assert_eq!(progress.status, 200, "{}", progress.body);
    assert_eq!(progress.header("content-type"), Some("text/event-stream"));
    let events: Vec<_> = progress
        .body
        .lines()
        .filter_map(|line| line.strip_prefix("event: "))
        .collect();
    assert_eq!(events, ["packed", "shipped", "delivered"]);
    assert!(begun.elapsed() >= Duration::from_secs(3));

    // Bob may look at orders, but this one is not his.
    let other = fleet.call("GET", "/orders/1/progress", Some(&bob), "");
    assert_eq!(other.status, 404, "{}", other.body);
}
