//! Killed at any moment, under load: what was promised to be kept is kept.
//!
//! The promise of the event spool: an event is on disk after the block interval and one write, and from then on no
//! crash loses it, wherever it is on its way. So every call that was answered [`SETTLED`] before a kill is in the
//! ledger after the restart, once, with the same decision id that the caller was shown.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use testudo_model::limits::BLOCK_INTERVAL;

use crate::{
    fleet::{Fleet, Folder},
    roles::{Apart, Role, eventually},
};

/// The block interval, and what one write may take on a machine that runs other tests at the same time.
const SETTLED: Duration = BLOCK_INTERVAL.saturating_add(Duration::from_millis(1500));
/// Time for all rounds of one test.
const ROUNDS: Duration = Duration::from_secs(30);
/// Shortest and longest run between two kills.
const SHORTEST_RUN: Duration = SETTLED.saturating_add(Duration::from_millis(500));
const LONGEST_RUN: Duration = Duration::from_millis(4500);

/// Decisions that callers were shown, with the moment of the answer.
#[derive(Default)]
struct Answers(Mutex<Vec<(String, Instant)>>);

impl Answers {
    /// Calls until `stop`; what breaks off with the kill was never answered.
    fn collect(&self, fleet: &Fleet, token: &str, stop: &AtomicBool) {
        let calls = [
            ("GET", "/books/1", None, ""),
            ("POST", "/orders", Some(token), r#"{"book":"1"}"#),
            ("GET", "/orders", None, ""),
        ];
        for (method, path, token, body) in calls.iter().cycle() {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let Some(answer) = fleet.try_call(method, path, *token, body) else {
                continue;
            };
            if let Some(decision) = answer.header("testudo-decision") {
                self.0
                    .lock()
                    .unwrap()
                    .push((decision.to_owned(), Instant::now()));
            }
        }
    }

    /// Decisions answered so long before `kill` that they must not be lost.
    fn settled(self, kill: Instant) -> BTreeSet<String> {
        let answers = self.0.into_inner().unwrap().into_iter();
        answers
            .filter(|(_, at)| *at + SETTLED <= kill)
            .map(|(decision, _)| decision)
            .collect()
    }
}

/// Runs load for `run`, then `kill`; the decisions that must be in the ledger afterwards.
fn under_load(fleet: &Fleet, token: &str, run: Duration, kill: impl FnOnce()) -> BTreeSet<String> {
    let (answers, stop) = (Answers::default(), AtomicBool::new(false));
    let mut killed = Instant::now();
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| answers.collect(fleet, token, &stop));
        }
        thread::sleep(run);
        killed = Instant::now();
        kill();
        stop.store(true, Ordering::Relaxed);
    });
    answers.settled(killed)
}

/// A different moment each time, some of it settled.
fn random_run() -> Duration {
    let nanos = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .subsec_nanos();
    let spread = LONGEST_RUN.saturating_sub(SHORTEST_RUN).as_millis() as u64;
    SHORTEST_RUN + Duration::from_millis(u64::from(nanos / 1000) % spread)
}

/// All leaves of the ledger, newest first.
fn ledger(folder: &Folder) -> Vec<Value> {
    let text = folder.run(&["audit", "search", "--limit", "1000000", "--output", "json"]);
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn decisions(ledger: &[Value]) -> BTreeSet<String> {
    let ids = ledger
        .iter()
        .filter_map(|leaf| leaf["event"]["decision"]["id"].as_str());
    ids.map(str::to_owned).collect()
}

/// Everything expected arrives, exactly once, and the ledger is whole.
fn nothing_is_lost(folder: &Folder, expected: &BTreeSet<String>) {
    eventually("every settled decision is in the ledger", || {
        let found = decisions(&ledger(folder));
        let missing: Vec<_> = expected.difference(&found).take(5).collect();
        missing.is_empty() || {
            eprintln!("missing for now: {missing:?}");
            false
        }
    });
    let leaves = ledger(folder);
    let mut seen = BTreeMap::new();
    for leaf in &leaves {
        let Some(id) = leaf["event"]["id"].as_str() else {
            continue;
        };
        if let Some(other) = seen.insert(id, leaf["index"].clone()) {
            panic!(
                "event {id} is in the ledger twice, at {other} and {}",
                leaf["index"]
            );
        }
    }
    let report = folder.run(&["audit", "verify", "--output", "json"]);
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["verified"], true, "{report:#}");
    assert_eq!(report["forks"], 0, "{report:#}");
    assert_eq!(report["missing_blocks"], 0, "{report:#}");
}

fn count(ledger: &[Value], activity: &str) -> usize {
    ledger
        .iter()
        .filter(|leaf| leaf["event"]["activity"] == activity)
        .count()
}

#[test]
fn a_fleet_killed_at_random_moments_loses_nothing_that_was_settled() {
    let mut fleet = Folder::bookshop().up();
    let token = fleet.token("alice");
    let (started, mut expected, mut kills) = (Instant::now(), BTreeSet::new(), 0);
    while started.elapsed() < ROUNDS || kills < 2 {
        let process = &fleet.process;
        let settled = under_load(&fleet, &token, random_run(), || process.signal("-KILL"));
        expected.extend(settled);
        kills += 1;
        let _ = fleet.process.0.wait();
        fleet = fleet.folder.up();
    }
    assert!(expected.len() > kills, "the load did not run");
    nothing_is_lost(&fleet.folder, &expected);
    let unclean = count(&ledger(&fleet.folder), "spool.unclean_stop");
    assert!(
        unclean >= kills,
        "{unclean} of at least {kills} unclean stops are told"
    );
    eprintln!("{kills} kills, {} settled decisions", expected.len());
}

#[test]
fn single_processes_killed_at_random_moments_lose_nothing_that_was_settled() {
    let mut apart = Apart::bookshop();
    let token = apart.fleet.token("alice");
    let (started, mut expected, mut kills) = (Instant::now(), BTreeSet::new(), 0);
    let victims = ["server", "gateway", "orders", "catalog", "inventory"];
    for victim in victims.iter().cycle() {
        if started.elapsed() > ROUNDS && kills >= victims.len() {
            break;
        }
        let process = match *victim {
            "server" => &apart.fleet.process,
            "gateway" => &apart.gateway.process,
            sidecar => &apart.sidecars[sidecar].process,
        };
        expected.extend(under_load(&apart.fleet, &token, random_run(), || {
            process.signal("-KILL")
        }));
        kills += 1;
        let Apart {
            fleet,
            gateway,
            sidecars,
            ..
        } = &mut apart;
        match *victim {
            "server" => apart.start_server_again(),
            "gateway" => gateway.start_again(&fleet.folder),
            sidecar => sidecars
                .get_mut(sidecar)
                .unwrap()
                .start_again(&fleet.folder),
        }
        apart.wait_until_it_answers();
    }
    assert!(expected.len() > kills, "the load did not run");
    nothing_is_lost(&apart.fleet.folder, &expected);
    eprintln!("{kills} kills, {} settled decisions", expected.len());
}

#[test]
fn events_taken_away_from_a_spool_leave_a_mark_in_the_ledger() {
    let mut apart = Apart::bookshop();
    let token = apart.fleet.token("alice");
    assert_eq!(
        apart.fleet.call("GET", "/orders", Some(&token), "").status,
        200
    );
    eventually(
        "the call is in the ledger, as the sidecar of orders saw it",
        || {
            let filter = [
                "audit",
                "search",
                "service=orders",
                "reporter=spiffe://bookshop.example/svc/orders",
            ];
            !apart.fleet.folder.run(&filter).is_empty()
        },
    );

    // While the control plane is away events wait in the spool; somebody removes them, and the call with them.
    apart.fleet.process.signal("-KILL");
    assert_eq!(
        apart.fleet.call("GET", "/orders", Some(&token), "").status,
        200
    );
    thread::sleep(SETTLED);
    let sidecar = apart.sidecars.get_mut("orders").unwrap();
    sidecar.process.signal("-KILL");
    let _ = sidecar.process.0.wait();
    let removed = segments(&apart.fleet.folder, "orders");
    assert!(!removed.is_empty());
    for segment in removed {
        fs::remove_file(segment).unwrap();
    }
    apart.start_server_again();
    let Apart {
        fleet, sidecars, ..
    } = &mut apart;
    sidecars
        .get_mut("orders")
        .unwrap()
        .start_again(&fleet.folder);
    apart.wait_until_it_answers();
    assert_eq!(
        apart.fleet.call("GET", "/orders", Some(&token), "").status,
        200
    );

    eventually("the ledger says that something is missing", || {
        let leaves = ledger(&apart.fleet.folder);
        count(&leaves, "audit.gap") + count(&leaves, "audit.fork") > 0
    });
    let report = apart
        .fleet
        .folder
        .run(&["audit", "verify", "--output", "json"]);
    let report: Value = serde_json::from_str(&report).unwrap();
    let marks = report["missing_blocks"].as_u64().unwrap() + report["forks"].as_u64().unwrap();
    assert!(marks > 0, "{report:#}");
    // The tree itself is whole: it says truthfully what it was not given.
    assert_eq!(report["verified"], true, "{report:#}");
}

fn segments(folder: &Folder, proxy: &str) -> Vec<PathBuf> {
    let spool = Role::data(folder, proxy).join("spool");
    let files = fs::read_dir(spool)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    files
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "segment")
        })
        .collect()
}
