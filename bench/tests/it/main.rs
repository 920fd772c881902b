//! The bench's own parts work together; nothing is timed.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "test code")]

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

use serde_json::Value;

const BENCH: &str = env!("CARGO_BIN_EXE_testudo-bench");

struct Upstream(Child);

impl Drop for Upstream {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Upstream {
    fn start() -> (Self, u16) {
        let mut command = Command::new(BENCH);
        let mut child = command
            .arg("upstream")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        (Self(child), line.trim().parse().unwrap())
    }
}

fn load(port: u16) -> (String, Value) {
    let target = format!("127.0.0.1:{port}");
    let output = Command::new(BENCH)
        .args([
            "load",
            "--target",
            &target,
            "--host",
            "localhost",
            "--path",
            "/",
        ])
        .args([
            "--connections",
            "4",
            "--warm-up",
            "0.05",
            "--seconds",
            "0.2",
        ])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (first, second) = text.split_once('\n').unwrap_or_else(|| panic!("{text}"));
    (first.to_owned(), serde_json::from_str(second).unwrap())
}

#[test]
fn the_generator_counts_what_the_upstream_answers() {
    let (_upstream, port) = Upstream::start();
    let (first, tally) = load(port);
    assert_eq!(first, "started");
    assert!(tally["requests"].as_u64().unwrap() > 0, "{tally}");
    assert_eq!(tally["errors"], serde_json::json!({}));
    assert!(tally["p50"].as_u64() <= tally["p99"].as_u64());
    assert!(tally["p99"].as_u64() <= tally["slowest"].as_u64());
}

/// As long as `TESTUDO_SOAK_MINUTES` says, e.g. `1`; without it not at all. It builds Testudo and needs a quiet machine.
#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "a test that is asked for by its environment, and says when it is not"
)]
fn a_fleet_that_keeps_breaking_decides_nothing_wrongly() {
    let Ok(minutes) = std::env::var("TESTUDO_SOAK_MINUTES") else {
        return eprintln!("skipped: TESTUDO_SOAK_MINUTES is not set");
    };
    let output = Command::new(BENCH)
        .args(["soak", "--minutes", &minutes, "--rate", "100"])
        .output()
        .unwrap();
    let report = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaint}\n{report}");
}
