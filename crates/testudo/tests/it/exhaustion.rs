//! What is meant to use up a proxy or the control plane (table G of the bad-input table): connections that only wait,
//! bombs, and bodies that parsers choke on.
//!
//! A proxy neither unpacks nor parses a body: it passes it on as it is, up to the route's size, and keeps none of it. So
//! bombs, multipart, JSON and XML are one row here, and the parsers of the control plane another. Nothing in Testudo runs
//! a regular expression over what clients send, reads XML, or runs code of others.
//!
//! | rows | where |
//! |---|---|
//! | slow headers, half-open TLS, idle connections | [`connections_that_only_wait_stop_nobody_and_end`], `slow_clients` (by the thousand) |
//! | bombs, nested and mislabelled encodings, multipart, JSON, XML, ranges | [`bodies_are_passed_on_unread`] |
//! | JSON, forms and bombs at the control plane | [`the_control_plane_reads_no_more_than_it_needs`] |
//! | slow bodies (R.U.D.Y.), slow reads | `slow_clients`; `dataplane`: `slowness`, `http2_table` (B5), `overload` |
//! | headers, cookies, parameters | [`ten_thousand_of_anything_in_a_head_are_refused`], `framing_table` (A19, A20), `http2_table` (B3, B4) |
//! | floods of frames and resets | `http2_table` (B1, B2, B5) |
//! | an upstream that never answers, too large bodies | `dataplane`: `limits` |
//! | overload by class, recovery, retry storms | `dataplane`: `overload` |
//! | bombs in tokens | `tokens`, `forged` (table E) |

use std::{
    fs,
    io::{Read, Write},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use crate::{
    fleet::TESTUDO,
    shop::{Shop, Stream},
    wire,
};

const GET: &[u8] = b"GET /public/x HTTP/1.1\r\nHost: localhost\r\n\r\n";
/// Connections of each kind.
const CROWD: usize = 150;
/// What a connection may cost in a build without optimisation, whose futures are several times as large, and a proxy for
/// everything it has seen.
const MOST_KILOBYTES_PER_CONNECTION: u64 = 128;
const MOST_GROWTH_KILOBYTES: u64 = 48 * 1024;

fn resident_kilobytes(shop: &Shop) -> u64 {
    kilobytes(shop, "status", "VmRSS:")
}

/// What the system says of the process.
fn kilobytes(shop: &Shop, file: &str, field: &str) -> u64 {
    let file = format!("/proc/{}/{file}", shop.fleet.process.0.id());
    let text = fs::read_to_string(file).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    let kilobytes = line.unwrap().trim().trim_end_matches(" kB");
    kilobytes.parse().unwrap()
}

/// I3: others are served, on new connections and in time.
fn serves_others(shop: &Shop) {
    for _ in 0..20 {
        let began = Instant::now();
        assert_eq!(shop.send(GET).unwrap().status, 200);
        let took = began.elapsed();
        assert!(took < Duration::from_secs(1), "{took:?}");
    }
}

#[test]
fn memory_is_held_in_small_pages() {
    let shop = Shop::open("");
    serves_others(&shop);
    // Two huge pages are there before `main`; the allocator would have asked for twenty.
    let huge = kilobytes(&shop, "smaps_rollup", "AnonHugePages:");
    assert!(huge <= 8 * 1024, "{huge}");
}

#[test]
fn the_programs_of_services_have_the_pages_that_the_system_gives_everybody() {
    let said = |command: &mut Command| -> Option<String> {
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let line = text.lines().find(|line| line.starts_with("THP_enabled:"));
        line.map(str::to_owned)
    };
    let parent = std::process::id().to_string();
    let mut bound = Command::new(TESTUDO);
    bound.args(["run-bound", &parent, "--", "cat", "/proc/self/status"]);
    let mut unbound = Command::new("cat");
    let expected = said(unbound.arg("/proc/self/status"));
    assert!(expected.is_some(), "a kernel that tells");
    assert_eq!(said(&mut bound), expected);
}

#[test]
fn connections_that_only_wait_stop_nobody_and_end() {
    let shop = Shop::open("");
    serves_others(&shop);
    let before = resident_kilobytes(&shop);
    let half_open: Vec<_> = (0..CROWD)
        .map(|_| wire::connect(shop.gateway()).unwrap())
        .collect();
    let mut unfinished: Vec<_> = (0..CROWD).map(|_| shop.at_gateway()).collect();
    for stream in &mut unfinished {
        stream
            .write_all(b"GET /public/x HTTP/1.1\r\nHost: ")
            .unwrap();
        stream.flush().unwrap();
    }
    let mut idle: Vec<_> = (0..CROWD).map(|_| shop.at_gateway()).collect();
    for stream in &mut idle {
        assert_eq!(wire::exchange(stream, GET).unwrap().unwrap().status, 200);
    }
    let began = Instant::now();
    serves_others(&shop);
    let grown = resident_kilobytes(&shop).saturating_sub(before);
    let connections = 3 * CROWD as u64;
    assert!(
        grown < connections * MOST_KILOBYTES_PER_CONNECTION,
        "{grown} kB for {connections} connections"
    );
    // A byte now and then does not make them last.
    for _ in 0..5 {
        thread::sleep(Duration::from_secs(1));
        for stream in &mut unfinished {
            let _ = stream.write_all(b"x").and_then(|()| stream.flush());
        }
    }
    for mut stream in half_open {
        // Whatever TLS says about it.
        let _ = stream.read_to_end(&mut Vec::new());
    }
    for mut stream in unfinished {
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 408"),
            "{answer}"
        );
    }
    let took = began.elapsed();
    assert!(took < Duration::from_secs(15), "{took:?}");
    // Whoever has asked before may wait longer before they ask again.
    for stream in &mut idle {
        assert_eq!(wire::exchange(stream, GET).unwrap().unwrap().status, 200);
    }
}

#[test]
fn ten_thousand_of_anything_in_a_head_are_refused() {
    let shop = Shop::open("");
    let parameters = "a=b&".repeat(10_000);
    let cookies = "a=b; ".repeat(10_000);
    let one_by_one = "Cookie: a=b\r\n".repeat(10_000);
    for (what, target, fields, expected) in [
        ("parameters", format!("/public/x?{parameters}"), "", 414),
        (
            "cookies",
            "/public/x".to_owned(),
            &*format!("Cookie: {cookies}\r\n"),
            431,
        ),
        (
            "fields of cookies",
            "/public/x".to_owned(),
            &*one_by_one,
            431,
        ),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n");
        let answer = shop.send(request.as_bytes()).unwrap();
        assert_eq!(answer.status, expected, "{what}");
    }
    assert!(shop.upstream.take().is_empty());
    serves_others(&shop);
}

/// Ten kilobytes of Zstandard (RFC 8878) that say 2,500 times: 128 KiB of zeros.
fn bomb() -> Vec<u8> {
    const BLOCKS: usize = 2_500;
    const RUN_OF: u32 = 1 << 1;
    let mut bomb = vec![0x28, 0xb5, 0x2f, 0xfd, 0, 0x38];
    for number in 1..=BLOCKS {
        let header = (128 * 1024) << 3 | RUN_OF | u32::from(number == BLOCKS);
        bomb.extend(&header.to_le_bytes()[..3]);
        bomb.push(0);
    }
    bomb
}

/// Bodies that cost whoever unpacks or parses them: what they are called, the fields that say so, and the bytes.
fn bodies() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let part = "--b\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\nx\r\n";
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    let keys: Vec<String> = (0..500_000).map(|key| format!("\"k{key}\":0")).collect();
    let entities: String = (1..10)
        .map(|level| {
            format!(
                "<!ENTITY e{level} \"{}\">",
                format!("&e{};", level - 1).repeat(10)
            )
        })
        .collect();
    let xml = format!(
        "<!DOCTYPE x [<!ENTITY e0 \"boom\">{entities}<!ENTITY f SYSTEM \"file:///etc/passwd\">]><x>&e9;&f;</x>"
    );
    let json = "Content-Type: application/json\r\n";
    let multipart = "Content-Type: multipart/form-data; boundary=b\r\n";
    vec![
        ("a bomb", "Content-Encoding: zstd\r\n", bomb()),
        (
            "a bomb five deep",
            "Content-Encoding: zstd, zstd, zstd, zstd, zstd\r\n",
            bomb(),
        ),
        (
            "something else",
            "Content-Encoding: gzip, gzip, br\r\n",
            bomb(),
        ),
        (
            "100,000 parts",
            multipart,
            (part.repeat(100_000) + "--b--\r\n").into_bytes(),
        ),
        (
            "parts without an end",
            multipart,
            part.repeat(1_000).into_bytes(),
        ),
        (
            "a boundary of 300 characters",
            "Content-Type: multipart/form-data; boundary=bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\
             bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\
             bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\r\n",
            part.as_bytes().to_vec(),
        ),
        ("JSON 100,000 deep", json, deep.into_bytes()),
        (
            "JSON with 500,000 keys",
            json,
            format!("{{{}}}", keys.join(",")).into_bytes(),
        ),
        (
            "a huge number",
            json,
            b"{\"ttl_seconds\":1e999999999}".to_vec(),
        ),
        (
            "entities that multiply",
            "Content-Type: application/xml\r\n",
            xml.into_bytes(),
        ),
        ("1,000 ranges", "Range: bytes=0-1{ranges}\r\n", Vec::new()),
    ]
}

fn post(path: &str, fields: &str, body: &[u8]) -> Vec<u8> {
    let fields = fields.replace("{ranges}", &",0-1".repeat(999));
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\n{fields}Content-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

#[test]
fn bodies_are_passed_on_unread() {
    let shop = Shop::open("");
    serves_others(&shop);
    shop.upstream.take();
    let before = resident_kilobytes(&shop);
    for (what, fields, body) in bodies() {
        let answer = shop.send(&post("/public/x", fields, &body));
        assert_eq!(answer.unwrap().status, 200, "{what}");
        let seen = shop.upstream.take_one();
        assert!(
            seen.body == body,
            "{what}: {} bytes arrive",
            seen.body.len()
        );
        let (name, value) = fields.trim_end().split_once(": ").unwrap();
        let value = value.replace("{ranges}", &",0-1".repeat(999));
        assert_eq!(seen.only(&name.to_lowercase()), Some(value), "{what}");
    }
    let grown = resident_kilobytes(&shop).saturating_sub(before);
    assert!(grown < MOST_GROWTH_KILOBYTES, "{grown} kB");
    serves_others(&shop);
}

#[test]
fn the_control_plane_reads_no_more_than_it_needs() {
    let shop = Shop::open("");
    let authorization = format!("Authorization: Bearer {}\r\n", shop.token("root"));
    let ask = |request: &[u8]| {
        let mut server: Box<dyn Stream> = shop.at_server();
        let began = Instant::now();
        let answer = wire::exchange(&mut server, request).unwrap();
        (answer.map(|answer| answer.status), began.elapsed())
    };
    let before = resident_kilobytes(&shop);
    let parameters = "a=b&".repeat(100_000).into_bytes();
    let form = "Content-Type: application/x-www-form-urlencoded\r\n";
    let mut rows = bodies();
    rows.push(("100,000 parameters", form, parameters));
    rows.push((
        "a form that is packed",
        "Content-Encoding: zstd\r\n",
        bomb(),
    ));
    for (what, fields, body) in rows {
        for (path, fields) in [
            ("/oauth2/token", fields.to_owned()),
            ("/api/v1/join-tokens", fields.to_owned()),
            ("/api/v1/join-tokens", format!("{authorization}{fields}")),
            ("/api/v1/fleet/apply", format!("{authorization}{fields}")),
        ] {
            let (status, took) = ask(&post(path, &fields, &body));
            let is_refused = status.is_none_or(|status| (400..500).contains(&status));
            assert!(is_refused, "{what} at {path}: {status:?}");
            assert!(took < Duration::from_secs(2), "{what} at {path}: {took:?}");
        }
    }
    let grown = resident_kilobytes(&shop).saturating_sub(before);
    assert!(grown < MOST_GROWTH_KILOBYTES, "{grown} kB");
    let discovery = b"GET /.well-known/openid-configuration HTTP/1.1\r\nHost: localhost\r\n\r\n";
    assert_eq!(ask(discovery).0, Some(200));
    // It still works for whoever may.
    shop.fleet
        .folder
        .run(&["join-token", "create", "--gateway"]);
}
