//! Trace spans, as an OpenTelemetry collector gets them.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    fleet::{Fleet, Folder},
    wire,
};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";
const PATIENCE: Duration = Duration::from_secs(20);

/// A collector: speaks OTLP over HTTP, refuses the first exports it gets, keeps the others.
struct Collector {
    address: SocketAddr,
    exports: Arc<Mutex<Vec<Value>>>,
}

/// A span as it arrived, with what is looked at most.
#[derive(Debug, Clone)]
struct Received {
    id: String,
    parent: String,
    name: String,
    kind: u64,
    emitter: String,
    attributes: BTreeMap<String, Value>,
    raw: Value,
}

impl Collector {
    fn start(refusals: u32) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let collector = Self {
            address: listener.local_addr().unwrap(),
            exports: Arc::default(),
        };
        let (exports, refusals) = (
            collector.exports.clone(),
            Arc::new(AtomicU32::new(refusals)),
        );
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (exports, refusals) = (exports.clone(), refusals.clone());
                std::thread::spawn(move || {
                    while take_export(stream.as_ref().unwrap(), &exports, &refusals) {}
                });
            }
        });
        collector
    }

    /// The spans of `trace`, once there are `count`.
    fn spans_of(&self, trace: &str, count: usize) -> Vec<Received> {
        let until = Instant::now() + PATIENCE;
        loop {
            let spans: Vec<_> = self
                .spans()
                .into_iter()
                .filter(|span| span.raw["traceId"] == trace)
                .collect();
            if spans.len() >= count {
                return spans;
            }
            assert!(
                Instant::now() < until,
                "{count} spans do not come: {spans:#?}"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn spans(&self) -> Vec<Received> {
        let exports = self.exports.lock().unwrap();
        let groups = exports
            .iter()
            .flat_map(|export| export["resourceSpans"].as_array().unwrap());
        groups
            .flat_map(|group| {
                let resource = attributes(&group["resource"]);
                let emitter = resource["service.name"].as_str().unwrap().to_owned();
                let spans = group["scopeSpans"][0]["spans"].as_array().unwrap().clone();
                spans.into_iter().map(move |raw| Received {
                    id: raw["spanId"].as_str().unwrap().to_owned(),
                    parent: raw["parentSpanId"].as_str().unwrap_or_default().to_owned(),
                    name: raw["name"].as_str().unwrap().to_owned(),
                    kind: raw["kind"].as_u64().unwrap(),
                    emitter: emitter.clone(),
                    attributes: attributes(&raw),
                    raw,
                })
            })
            .collect()
    }
}

fn attributes(of: &Value) -> BTreeMap<String, Value> {
    let list = of["attributes"].as_array().unwrap().iter();
    let value = |value: &Value| {
        value
            .get("stringValue")
            .or(value.get("intValue"))
            .unwrap()
            .clone()
    };
    list.map(|pair| {
        (
            pair["key"].as_str().unwrap().to_owned(),
            value(&pair["value"]),
        )
    })
    .collect()
}

/// Reads one request and answers it; `false` when the connection has ended.
fn take_export(stream: &TcpStream, exports: &Mutex<Vec<Value>>, refusals: &AtomicU32) -> bool {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).unwrap_or(0) == 0 {
            return false;
        }
    }
    let head = head.to_ascii_lowercase();
    assert!(head.starts_with("post /v1/traces http/1.1\r\n"), "{head}");
    assert!(
        head.contains("content-type: application/json\r\n"),
        "{head}"
    );
    let length = head
        .split("content-length: ")
        .nth(1)
        .and_then(|rest| rest.lines().next())
        .unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    reader.read_exact(&mut body).unwrap();
    let left = refusals.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
        left.checked_sub(1)
    });
    let answer: &[u8] = if left.is_ok() {
        b"HTTP/1.1 503 Busy\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n"
    } else {
        exports
            .lock()
            .unwrap()
            .push(serde_json::from_slice(&body).unwrap());
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
    };
    let mut stream = stream;
    stream.write_all(answer).is_ok()
}

fn bookshop(collector: SocketAddr) -> Fleet {
    let folder = Folder::bookshop();
    let mut text = fs::read_to_string(folder.fleet_file()).unwrap();
    text.push_str(&format!(
        "\n[observability]\notlp_endpoint = \"http://{collector}\"\n"
    ));
    fs::write(folder.fleet_file(), text).unwrap();
    folder.up()
}

fn traced(fleet: &Fleet, target: &str, token: &str, traceparent: &str) -> wire::Answer {
    let request = format!(
        "GET {target} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\
         traceparent: {traceparent}\r\nConnection: close\r\n\r\n"
    );
    fleet.raw(request.as_bytes()).unwrap()
}

#[test]
fn one_call_is_one_trace_over_every_proxy_it_passes() {
    let collector = Collector::start(1);
    let fleet = bookshop(collector.address);
    let alice = fleet.token("alice");
    let answer = traced(
        &fleet,
        "/books/1/stock?code=hidden",
        &alice,
        &format!("00-{TRACE}-{CALLER}-01"),
    );
    assert_eq!(answer.status, 200, "{}", answer.body);

    let spans = collector.spans_of(TRACE, 4);
    assert_eq!(spans.len(), 4, "{spans:#?}");
    // Follow the parents from the caller down.
    let mut chain: Vec<&Received> = Vec::new();
    let mut parent = CALLER;
    while let Some(span) = spans.iter().find(|span| span.parent == parent) {
        parent = &span.id;
        chain.push(span);
    }
    let told: Vec<_> = chain
        .iter()
        .map(|span| (span.emitter.as_str(), span.kind, span.name.as_str()))
        .collect();
    const SERVER: u64 = 2;
    const CLIENT: u64 = 3;
    assert_eq!(
        told,
        [
            ("gateway", SERVER, "GET /books/{id}/stock"),
            ("catalog", SERVER, "GET /books/{id}/stock"),
            ("catalog", CLIENT, "GET /stock/{id}"),
            ("inventory", SERVER, "GET /stock/{id}"),
        ]
    );
    for pair in chain.windows(2) {
        let time =
            |span: &Received, end: &str| span.raw[end].as_str().unwrap().parse::<u64>().unwrap();
        assert!(time(pair[0], "startTimeUnixNano") <= time(pair[1], "startTimeUnixNano"));
        assert!(time(pair[0], "endTimeUnixNano") >= time(pair[1], "endTimeUnixNano"));
    }

    let gateway = &chain[0].attributes;
    for (name, value) in [
        ("http.request.method", json!("GET")),
        ("http.response.status_code", json!("200")),
        ("http.route", json!("/books/{id}/stock")),
        ("url.scheme", json!("https")),
        ("url.path", json!("/books/1/stock")),
        ("server.address", json!("localhost")),
        ("client.address", json!("127.0.0.1")),
        ("network.protocol.version", json!("1.1")),
        ("testudo.role", json!("gateway")),
        ("testudo.service", json!("catalog")),
        ("testudo.operation", json!("catalog.stock")),
        ("testudo.reason", json!("allowed")),
    ] {
        assert_eq!(gateway.get(name), Some(&value), "{name}");
    }
    assert!(
        gateway["testudo.decision"]
            .as_str()
            .unwrap()
            .starts_with("dec_")
    );
    assert_eq!(
        chain[1].attributes["network.protocol.version"], "2",
        "proxies speak HTTP/2"
    );
    let outbound = &chain[2].attributes;
    assert_eq!(outbound["url.full"], "http://inventory/stock/1");
    assert_eq!(outbound["url.template"], "/stock/{id}");
    assert_eq!(outbound["server.address"], "inventory");
    let everything = format!("{:?}", collector.exports.lock().unwrap());
    assert!(!everything.contains("hidden"), "a query has left the fleet");
    assert!(!everything.contains(&alice), "a token has left the fleet");
}

#[test]
fn a_denied_call_is_a_span_that_says_why_and_an_unsampled_one_is_none() {
    let collector = Collector::start(0);
    let fleet = bookshop(collector.address);
    let unsampled = "0af7651916cd43dd8448eb211c80319c";
    assert_eq!(
        traced(
            &fleet,
            "/books/1",
            "x.y.z",
            &format!("00-{unsampled}-{CALLER}-00")
        )
        .status,
        401
    );
    let refused = traced(
        &fleet,
        "/orders",
        "x.y.z",
        &format!("00-{TRACE}-{CALLER}-01"),
    );
    assert_eq!(refused.status, 401);
    let span = &collector.spans_of(TRACE, 1)[0];
    assert_eq!(span.attributes["http.response.status_code"], "401");
    assert_eq!(span.attributes["testudo.reason"], refused.json()["code"]);
    assert_eq!(
        span.raw["status"],
        json!({}),
        "a caller's mistake is no error of the gateway"
    );
    assert!(
        collector
            .spans()
            .iter()
            .all(|span| span.raw["traceId"] != unsampled)
    );
}

#[test]
fn a_collector_that_is_away_hinders_neither_calls_nor_the_end() {
    let nobody = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let mut fleet = bookshop(nobody);
    assert_eq!(fleet.call("GET", "/books/1", None, "").status, 200);
    assert_eq!(fleet.process.stop(), Some(0));
}
