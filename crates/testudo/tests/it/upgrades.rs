//! Nobody notices that a process is replaced: what clients of a gateway and of sidecars see while one process takes
//! over from another, while one stops, and what becomes of the events.

use std::{
    io::{Read, Write},
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustls::ClientConfig;
use serde_json::Value;

use crate::{
    roles::{Apart, eventually, readiness},
    wire,
};

/// Which proxies are replaced, in this order. The bench (`testudo-bench upgrade`) does it a hundred times at 1,000
/// requests a second.
const UPGRADES: [&str; 5] = ["gateway", "catalog", "inventory", "orders", "gateway"];

/// When the certificate of a proxy expires.
const EXPIRY: &str = "testudo_svid_expiry_timestamp_seconds{";

/// One kind of request and the status that is right for it.
#[derive(Clone)]
struct Call {
    bytes: Vec<u8>,
    expected: u16,
}

impl Call {
    fn new(method: &str, path: &str, token: Option<&str>, body: &str, expected: u16) -> Self {
        let authorization = token
            .map(|token| format!("Authorization: Bearer {token}\r\n"))
            .unwrap_or_default();
        let text = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\n{authorization}Content-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        Self {
            bytes: text.into_bytes(),
            expected,
        }
    }
}

/// Clients that call without a pause over kept connections, as RFC 9112 has it: a connection whose answer says `close`
/// is not used again. Nothing is tried twice.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    wrong: Arc<Mutex<Vec<String>>>,
    clients: Vec<thread::JoinHandle<()>>,
}

impl Load {
    fn start(gateway: SocketAddr, tls: &Arc<ClientConfig>, calls: &[Call]) -> Self {
        let mut load = Self {
            stop: Arc::default(),
            answered: Arc::default(),
            wrong: Arc::default(),
            clients: Vec::new(),
        };
        for call in calls {
            let (stop, answered, wrong) = (
                Arc::clone(&load.stop),
                Arc::clone(&load.answered),
                Arc::clone(&load.wrong),
            );
            let (tls, call) = (Arc::clone(tls), call.clone());
            load.clients.push(thread::spawn(move || {
                let mut stream = None;
                while !stop.load(Ordering::Relaxed) {
                    match exchange(&mut stream, gateway, &tls, &call) {
                        Ok(status) if status == call.expected => {
                            answered.fetch_add(1, Ordering::Relaxed);
                        }
                        Ok(status) => wrong.lock().unwrap().push(format!("status {status}")),
                        Err(error) => {
                            wrong.lock().unwrap().push(error);
                            stream = None;
                        }
                    }
                }
            }));
        }
        load
    }

    fn answered(&self) -> usize {
        self.answered.load(Ordering::Relaxed)
    }

    /// Stops, and how many were answered as they should be; all were.
    fn end(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.join().unwrap();
        }
        let wrong = self.wrong.lock().unwrap();
        assert!(wrong.is_empty(), "{} of many: {wrong:#?}", wrong.len());
        self.answered.load(Ordering::Relaxed)
    }
}

trait Stream: Read + Write {}
impl<S: Read + Write> Stream for S {}

fn exchange(
    kept: &mut Option<Box<dyn Stream>>,
    gateway: SocketAddr,
    tls: &Arc<ClientConfig>,
    call: &Call,
) -> Result<u16, String> {
    let mut stream = match kept.take() {
        Some(stream) => stream,
        None => Box::new(
            wire::connect_tls(gateway, "localhost", tls)
                .map_err(|error| format!("connecting: {error}"))?,
        ),
    };
    let answer = wire::exchange(&mut stream, &call.bytes)
        .map_err(|error| format!("no answer: {error}"))?
        .ok_or("closed without an answer")?;
    if answer.header("connection") != Some("close") {
        *kept = Some(stream);
    }
    Ok(answer.status)
}

/// Requests with and without a user, allowed and denied, through one sidecar and through three.
fn calls(apart: &Apart) -> Vec<Call> {
    let (alice, bob) = (apart.fleet.token("alice"), apart.fleet.token("bob"));
    let order = r#"{"book":"1"}"#;
    vec![
        Call::new("GET", "/books/1", None, "", 200),
        Call::new("GET", "/books/1/stock", Some(&alice), "", 200),
        Call::new("GET", "/books/1/stock", Some(&alice), "", 200),
        Call::new("GET", "/orders", None, "", 401),
        Call::new("POST", "/orders", Some(&bob), order, 403),
    ]
}

/// Lets some requests pass.
fn let_pass(load: &Load, requests: usize) {
    let until = load.answered() + requests;
    eventually("requests pass", || load.answered() >= until);
}

#[test]
fn no_request_fails_while_every_proxy_is_upgraded() {
    let mut apart = Apart::bookshop();
    let (gateway, tls) = (apart.fleet.address("/gateway"), apart.fleet.tls());
    let load = Load::start(gateway, &tls, &calls(&apart));
    for name in UPGRADES {
        let_pass(&load, 20);
        let proxy = match name {
            "gateway" => &mut apart.gateway,
            service => apart.sidecars.get_mut(service).unwrap(),
        };
        proxy.upgrade(&apart.fleet.folder);
    }
    let_pass(&load, 20);
    let answered = load.end();
    assert!(answered >= 20 * (UPGRADES.len() + 1));

    // What the processes decided is in the ledger, whoever of them it was.
    apart.fleet.folder.run(&["audit", "verify"]);
    for lost in [
        "spool.lost",
        "spool.unclean_stop",
        "audit.gap",
        "audit.fork",
    ] {
        let found = apart
            .fleet
            .folder
            .run(&["audit", "search", &format!("activity={lost}")]);
        assert_eq!(found.lines().count(), 0, "{found}");
    }
    // Six proxies, each with its place in the fleet and none twice.
    let listed = apart
        .fleet
        .folder
        .run(&["proxy", "list", "--output", "json"]);
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let live = listed.as_array().unwrap().iter();
    assert_eq!(live.filter(|item| item["live"] == true).count(), 6);
}

#[test]
fn no_request_fails_while_changes_are_applied() {
    let apart = Apart::bookshop();
    let (gateway, tls) = (apart.fleet.address("/gateway"), apart.fleet.tls());
    let load = Load::start(gateway, &tls, &calls(&apart));
    let folder = &apart.fleet.folder;
    for seconds in 10..15 {
        let_pass(&load, 20);
        let timeout = |seconds: u32| format!("timeout = \"{seconds}s\"");
        folder.edit(&timeout(seconds), &timeout(seconds + 1));
        folder.run(&["apply", "fleet.toml"]);
    }
    let_pass(&load, 20);
    load.end();
    let status = folder.run(&["status", "--output", "json"]);
    let status: Value = serde_json::from_str(&status).unwrap();
    assert!(status["snapshot"].as_u64() > Some(5), "{status:#}");
}

#[test]
fn a_storm_of_sighup_renews_certificates_and_fails_no_request() {
    let apart = Apart::bookshop();
    let (gateway, tls) = (apart.fleet.address("/gateway"), apart.fleet.tls());
    let catalog = &apart.sidecars["catalog"];
    let expiries = || [&apart.gateway, catalog].map(|role| role.metric(EXPIRY));
    let before = expiries();
    let load = Load::start(gateway, &tls, &calls(&apart));
    let_pass(&load, 20);
    for _ in 0..200 {
        apart.gateway.process.signal("-HUP");
        catalog.process.signal("-HUP");
    }
    eventually("certificates are renewed", || {
        let now = expiries();
        now.iter().zip(&before).all(|(now, before)| now != before)
    });
    let_pass(&load, 20);
    load.end();
}

#[test]
fn sigusr2_starts_a_process_that_takes_over_and_a_second_one_is_refused_without_it() {
    let mut apart = Apart::bookshop();
    let (gateway, tls) = (apart.fleet.address("/gateway"), apart.fleet.tls());
    let folder = &apart.fleet.folder;
    let refused = apart.gateway.start_beside(folder);
    assert!(refused.contains("--upgrade"), "{refused}");

    let before = apart.gateway.started();
    let load = Load::start(gateway, &tls, &calls(&apart)[..1]);
    apart.gateway.process.signal("-USR2");
    assert_eq!(apart.gateway.process.wait(), Some(0));
    let_pass(&load, 20);
    load.end();
    assert_ne!(apart.gateway.started(), before);
    // That one is no child of the test; the next is again.
    apart.gateway.take_over(&apart.fleet.folder);
    assert_eq!(apart.gateway.process.stop(), Some(0));
}

#[test]
fn a_process_that_stops_says_so_first_and_answers_what_it_has() {
    let mut apart = Apart::bookshop();
    let (gateway, tls) = (apart.fleet.address("/gateway"), apart.fleet.tls());
    let ops = apart.gateway.ops();
    apart
        .gateway
        .restart_with(&apart.fleet.folder, &["--stop-delay", "1s"]);
    apart.wait_until_it_answers();
    let call = Call::new("GET", "/books/1", None, "", 200);
    let mut kept = None;
    assert_eq!(exchange(&mut kept, gateway, &tls, &call).unwrap(), 200);

    let started = Instant::now();
    apart.gateway.process.signal("-TERM");
    eventually("it is not ready", || readiness(ops).0 == 503);
    assert_eq!(exchange(&mut kept, gateway, &tls, &call).unwrap(), 200);
    let mut new = None;
    assert_eq!(
        exchange(&mut new, gateway, &tls, &call).unwrap(),
        200,
        "still accepted"
    );
    thread::sleep(Duration::from_millis(1300).saturating_sub(started.elapsed()));
    assert!(wire::connect(gateway).is_err(), "no longer accepted");
    assert_eq!(readiness(ops).0, 503, "and still asked how it is");
    // The kept connection has its last answer yet.
    assert_eq!(exchange(&mut kept, gateway, &tls, &call).unwrap(), 200);
    assert!(kept.is_none(), "and it says that it is the last");
    assert_eq!(apart.gateway.process.stop(), Some(0));
}

#[test]
fn a_control_plane_with_proxies_connected_stops_at_once() {
    let mut apart = Apart::bookshop();
    let started = Instant::now();
    assert_eq!(apart.fleet.process.stop(), Some(0));
    assert!(
        started.elapsed() < Duration::from_secs(3),
        "{:?}",
        started.elapsed()
    );
}
