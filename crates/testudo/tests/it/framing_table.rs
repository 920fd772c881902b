//! Requests that two parsers cut differently (table A of the bad-input table), byte by byte, at the gateway and at both
//! sides of a sidecar: whatever is sent, nobody behind sees a request that was not decided about, and what they saw is
//! what the ledger has.

use std::{
    io::{Read, Write},
    time::{Duration, Instant},
};

use crate::{
    shop::{Shop, Stream},
    wire,
};

/// What must become of a row.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Safe {
    /// One answer with one of these statuses, then the end of the connection; nothing reaches the service.
    Refused(&'static [u16]),
    /// The same, but the head was good and the body is not: 400, and no whole request reaches the service.
    Broken,
}
use Safe::{Broken, Refused};

const BAD: Safe = Refused(&[400]);
const UNKNOWN: Safe = Refused(&[400, 501]);

struct Row {
    name: String,
    bytes: Vec<u8>,
    safe: Safe,
}

fn row(name: impl Into<String>, bytes: impl Into<Vec<u8>>, safe: Safe) -> Row {
    Row {
        name: name.into(),
        bytes: bytes.into(),
        safe,
    }
}

/// A POST of `hello` with these fields behind `Host`.
fn post(fields: &str) -> String {
    format!("POST /public HTTP/1.1\r\nHost: {{host}}\r\n{fields}\r\nhello")
}

/// A chunked POST.
fn chunked(body: &str) -> String {
    format!("POST /public HTTP/1.1\r\nHost: {{host}}\r\nTransfer-Encoding: chunked\r\n\r\n{body}")
}

/// A GET with these lines behind `Host`.
fn get(fields: &str) -> String {
    format!("GET /public HTTP/1.1\r\nHost: {{host}}\r\n{fields}\r\n\r\n")
}

/// A1 to A6: which body.
fn lengths() -> Vec<Row> {
    let mut rows = Vec::new();
    for fields in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "content-length: 0\r\ntransfer-encoding: chunked\r\n",
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 5\r\nX: y\r\ncontent-length: 5\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length: 5,6\r\n",
    ] {
        rows.push(row(format!("A1/A2 {fields:?}"), post(fields), BAD));
    }
    for length in [
        "+5",
        "-1",
        "-5",
        "0x5",
        "05",
        "5_0",
        " 5 5",
        "",
        "9223372036854775808",
        "18446744073709551616",
        "1000000000000000000000000000000",
        "5.0",
        "5e0",
        "\"5\"",
        "5;",
        "\t5",
        "٥",
    ] {
        rows.push(row(
            format!("A3 {length:?}"),
            post(&format!("Content-Length: {length}\r\n")),
            BAD,
        ));
    }
    for coding in [
        "xchunked",
        "chunked, identity",
        "identity",
        "chunked, chunked",
        "gzip, chunked",
        "chunked;a=b",
        ",chunked",
        "chunked,",
        "",
        "\"chunked\"",
        "chunkedx",
        "\tchunked",
        "chunked\t",
    ] {
        let fields = format!("Transfer-Encoding: {coding}\r\n");
        rows.push(row(format!("A4 {coding:?}"), post(&fields), UNKNOWN));
    }
    for fields in [
        "Transfer-Encoding: \x0bchunked\r\n",
        "Transfer-Encoding: chunked\x0c\r\n",
        "Transfer-Encoding: \0chunked\r\n",
        "Transfer-Encoding: chunked\0\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Transfer-Encoding\t: chunked\r\n",
        "Transfer-Encoding:\r\n chunked\r\n",
        "Transfer-Encoding: chunked\r\n , identity\r\n",
        "X: y\r\n Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding: chunked\nX: y\r\n",
        "X: y\nTransfer-Encoding: chunked\r\n",
        "X: y\rTransfer-Encoding: chunked\r\n",
    ] {
        rows.push(row(format!("A5 {fields:?}"), post(fields), UNKNOWN));
    }
    for head in [
        "POST /public HTTP/1.0\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET /public HTTP/1.0\r\nHost: {host}\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST /public HTTP/1.0\r\nHost: {host}\r\nTransfer-Encoding: xchunked\r\nContent-Length: 5\r\n\r\nhello",
        "POST /public HTTP/1.0\r\nHost: {host}\r\n\r\nhello",
    ] {
        rows.push(row(format!("A6 {head:?}"), head, BAD));
    }
    rows
}

/// A7 and A8: which chunk.
fn chunks() -> Vec<Row> {
    let mut rows = Vec::new();
    for size in [
        "0x5",
        "+5",
        "-5",
        " 5",
        "5 ",
        "5\t",
        "5_0",
        "0_2e",
        "FFFFFFFFFFFFFFFFF",
        "FFFFFFFFFFFFFFFF",
        "8000000000000000",
        "",
        "g",
        "5\0",
        "5,",
        "５",
    ] {
        rows.push(row(
            format!("A7 {size:?}"),
            chunked(&format!("{size}\r\nhello\r\n0\r\n\r\n")),
            Broken,
        ));
    }
    for extension in [
        ";",
        ";=x",
        ";a=",
        ";;a",
        "; a",
        ";a b",
        ";a\rb",
        ";a\nb",
        ";a\0b",
        ";a=\"b\nc\"",
        ";a=\"\rb\"",
        ";\n",
        ";a\x7f",
    ] {
        rows.push(row(
            format!("A8 {extension:?}"),
            chunked(&format!("5{extension}\r\nhello\r\n0\r\n\r\n")),
            Broken,
        ));
    }
    for (name, body) in [
        (
            "64 KiB of extension",
            format!("5;{}\r\nhello\r\n0\r\n\r\n", "a".repeat(65_536)),
        ),
        (
            "many extensions",
            format!(
                "{}0\r\n\r\n",
                format!("1;{}\r\nx\r\n", "a".repeat(200)).repeat(50)
            ),
        ),
        ("size line ends in LF", "5\nhello\r\n0\r\n\r\n".to_owned()),
        ("size line ends in CR", "5\rhello\r\n0\r\n\r\n".to_owned()),
        ("data ends in LF", "5\r\nhello\n0\r\n\r\n".to_owned()),
        ("data ends in CR", "5\r\nhello\r0\r\n\r\n".to_owned()),
        ("data ends in nothing", "5\r\nhello0\r\n\r\n".to_owned()),
        (
            "data spills over",
            "5\r\nhello world\r\n0\r\n\r\n".to_owned(),
        ),
        ("last chunk ends in LF", "5\r\nhello\r\n0\n\n".to_owned()),
        ("body ends in LF", "5\r\nhello\r\n0\r\n\n".to_owned()),
        (
            "trailer with space before the colon",
            "0\r\nX : y\r\n\r\n".to_owned(),
        ),
        ("folded trailer", "0\r\nX: y\r\n z\r\n\r\n".to_owned()),
        (
            "trailer that is a request",
            "0\r\nGET /admin HTTP/1.1\r\n\r\n".to_owned(),
        ),
        (
            "endless trailers",
            format!("0\r\n{}\r\n", "X: y\r\n".repeat(10_000)),
        ),
    ] {
        rows.push(row(format!("A8 {name}"), chunked(&body), Broken));
    }
    rows
}

/// A10 to A12, A14, A16: which lines, which host, which method.
fn lines() -> Vec<Row> {
    let mut rows = Vec::new();
    for head in [
        "GET /public HTTP/1.1\nHost: {host}\n\n",
        "GET /public HTTP/1.1\r\nHost: {host}\n\r\n",
        "GET /public HTTP/1.1\r\nHost: {host}\r\n\n",
        "GET /public HTTP/1.1\r\nHost: {host}\r\nX: a\rb\r\n\r\n",
        "GET /public HTTP/1.1\r\nHost: {host}\r\r\n\r\n",
        "GET /public HTTP/1.1\r\r\nHost: {host}\r\n\r\n",
        "\nGET /public HTTP/1.1\r\nHost: {host}\r\n\r\n",
        "\r\n\r\nGET /public HTTP/1.1\r\nHost: {host}\r\n\r\n",
    ] {
        rows.push(row(format!("A10 {head:?}"), head, BAD));
    }
    for field in [
        "X Y: z",
        "X\tY: z",
        "Ä: z",
        ":",
        ": z",
        "X: \0",
        "X: y\nZ: z",
        "X: y\rZ",
        "no colon",
        "(X): y",
        "X[0]: y",
        "X: \x7f",
        "X: \x1b[31m",
        " X: y",
        "\tX: y",
    ] {
        rows.push(row(format!("A11 {field:?}"), get(field), BAD));
    }
    rows.push(row(
        "A11 first line folded",
        "GET /public HTTP/1.1\r\n X: y\r\nHost: {host}\r\n\r\n",
        BAD,
    ));
    for hosts in [
        "",
        "Host: {host}\r\nHost: {host}\r\n",
        "Host: {host}\r\nhost: evil.example\r\n",
        "Host: {host},evil.example\r\n",
        "Host: evil.example@{host}\r\n",
        "Host: {host}:99999\r\n",
        "Host: {host}:\r\n",
        "Host: {host}:8a\r\n",
        "Host:\r\n",
        "Host: {host} evil.example\r\n",
        "Host: {host}/admin\r\n",
        "Host:\t{host}\r\n",
        "Host: [::1\r\n",
        "Host : {host}\r\n",
    ] {
        let head = format!("GET /public HTTP/1.1\r\n{hosts}\r\n");
        rows.push(row(format!("A12 {hosts:?}"), head, BAD));
    }
    for target in [
        "http://a@{host}/public",
        "http:///public",
        "http://{host}:99999/public",
    ] {
        let head = format!("GET {target} HTTP/1.1\r\nHost: {{host}}\r\n\r\n");
        rows.push(row(format!("A12 {target}"), head, BAD));
    }
    for expectation in ["200-ok", "100-continue, 200-ok", "", "100-continue;a=b"] {
        let fields = format!("Expect: {expectation}\r\nContent-Length: 5\r\n");
        rows.push(row(
            format!("A14 {expectation:?}"),
            post(&fields),
            Refused(&[400, 417]),
        ));
    }
    rows.push(row(
        "A14 folded expectation",
        post("Expect:\r\n 100-continue\r\nContent-Length: 5\r\n"),
        Refused(&[400, 417]),
    ));
    let method = Refused(&[400, 403, 405, 501, 505]);
    for line in [
        "CONNECT evil.example:443 HTTP/1.1",
        "CONNECT /public HTTP/1.1",
        "TRACE /public HTTP/1.1",
        "PRI * HTTP/2.0",
        "get /public HTTP/1.1",
        "\tGET /public HTTP/1.1",
        " GET /public HTTP/1.1",
        "GET  /public HTTP/1.1",
        "GET /public  HTTP/1.1",
        "GET\t/public HTTP/1.1",
        "GET /public HTTP/1.1 ",
        "GET /public HTTP/1.2",
        "GET /public HTTP/2.0",
        "GET /public HTTP/0.9",
        "GET /public HTTP/1",
        "GET /public HTTP/01.1",
        "GET /public http/1.1",
        "GET /public",
        "GET",
        "G\u{415}T /public HTTP/1.1",
        "GET /public HTTP/1.1\u{a0}",
    ] {
        let head = format!("{line}\r\nHost: {{host}}\r\n\r\n");
        rows.push(row(format!("A16 {line:?}"), head, method));
    }
    rows.push(row(
        "A16 method of 64 KiB",
        format!(
            "{} /public HTTP/1.1\r\nHost: {{host}}\r\n\r\n",
            "A".repeat(65_536)
        ),
        method,
    ));
    rows
}

/// A19 and A20: which target, and how much of anything.
fn targets_and_sizes() -> Vec<Row> {
    let mut rows = Vec::new();
    let target_is_bad = Refused(&[400, 404, 414]);
    let long = format!("/{}", "a".repeat(65_536));
    for target in [
        "*",
        "",
        "http://[::1",
        "/public#",
        "/public#/../admin",
        "/public/a b",
        "/public/\u{e9}",
        "public",
        "evil.example:80",
        "/public?a=\"",
        "/public?#",
        "ftp://{host}/public",
        "/public/\x07",
        &long,
    ] {
        let head = format!("GET {target} HTTP/1.1\r\nHost: {{host}}\r\n\r\n");
        let shown: String = target.chars().take(30).collect();
        rows.push(row(format!("A19 {shown:?}"), head, target_is_bad));
    }
    let overlong = [
        &b"GET /public/\xc0\xaf"[..],
        b" HTTP/1.1\r\nHost: {host}\r\n\r\n",
    ]
    .concat();
    rows.push(row("A19 raw overlong UTF-8", overlong, target_is_bad));
    let too_large = Refused(&[431]);
    let fields: String = (0..10_000)
        .map(|number| format!("X-{number}: y\r\n"))
        .collect();
    rows.push(row("A20 10,000 fields", get(fields.trim_end()), too_large));
    let field = format!("X: {}", "a".repeat(1024 * 1024));
    rows.push(row("A20 a field of 1 MiB", get(&field), too_large));
    let fields = format!("X: {}\r\n", "a".repeat(8 * 1024)).repeat(101);
    rows.push(row(
        "A20 101 fields of 8 KiB",
        get(fields.trim_end()),
        too_large,
    ));
    rows
}

/// Opens a connection.
type Opener<'a> = &'a dyn Fn() -> Box<dyn Stream>;

/// A way to the service, and what it is called there.
struct Door<'a> {
    shop: &'a Shop,
    name: &'static str,
    host: &'static str,
    open: Opener<'a>,
}

/// Requests that went through doors.
#[derive(Default)]
struct Forwarded {
    whole: usize,
    broken: usize,
}

impl Door<'_> {
    fn bytes(&self, template: &[u8]) -> Vec<u8> {
        let (mut bytes, mut rest) = (Vec::new(), template);
        while let Some(at) = rest.windows(6).position(|window| window == b"{host}") {
            bytes.extend_from_slice(&rest[..at]);
            bytes.extend_from_slice(self.host.as_bytes());
            rest = &rest[at + 6..];
        }
        bytes.extend_from_slice(rest);
        bytes
    }

    /// Everything that comes back for these bytes, to the end of the connection.
    fn exchange(&self, template: &[u8]) -> String {
        let mut stream = (self.open)();
        // Whoever refuses early may close before the rest is written.
        let _ = stream
            .write_all(&self.bytes(template))
            .and_then(|()| stream.flush());
        let mut answer = Vec::new();
        let began = Instant::now();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(
            began.elapsed() < Duration::from_secs(15),
            "{}: stays open: {answer}",
            self.name
        );
        answer
    }

    fn run(&self, rows: &[Row], forwarded: &mut Forwarded) {
        for row in rows {
            let what = format!("{} at the {}", row.name, self.name);
            // What follows on the connection is never served.
            let smuggled = b"GET /public/smuggled HTTP/1.1\r\nHost: {host}\r\n\r\nGET /admin HTTP/1.1\r\nHost: {host}\r\n\r\n";
            let answer = self.exchange(&[&row.bytes[..], smuggled].concat());
            let statuses = statuses(&answer);
            let allowed = match row.safe {
                Refused(allowed) => allowed,
                Broken => &[400],
            };
            assert!(
                matches!(&statuses[..], [status] if allowed.contains(status)),
                "{what}: {statuses:?} {answer}"
            );
            assert!(
                answer.to_lowercase().contains("connection: close\r\n"),
                "{what}: {answer}"
            );
            assert!(
                answer.contains("application/problem+json"),
                "{what}: {answer}"
            );
            let seen = self.shop.upstream.take();
            assert!(seen.is_empty(), "{what}: the service saw {seen:#?}");
            forwarded.broken += usize::from(row.safe == Broken);
            self.works_afterwards(&what);
            forwarded.whole += 1;
        }
    }

    /// I3.
    fn works_afterwards(&self, what: &str) {
        let began = Instant::now();
        let normal = b"GET /public/normal HTTP/1.1\r\nHost: {host}\r\n\r\n";
        let answer = wire::exchange(&mut (self.open)(), &self.bytes(normal)).unwrap();
        assert_eq!(
            answer.map(|answer| answer.status),
            Some(200),
            "{what}: afterwards"
        );
        // The table asks for 100 ms; a machine that runs other tests beside is given more.
        assert!(
            began.elapsed() < Duration::from_secs(5),
            "{what}: afterwards after {:?}",
            began.elapsed()
        );
        assert_eq!(
            self.shop.upstream.take_one().target(),
            "/public/normal",
            "{what}: afterwards"
        );
    }

    /// The service sees exactly these targets for these bytes, which are answered so.
    fn reads(&self, template: &str, targets: &[&str], expected: &[u16], forwarded: &mut Forwarded) {
        let last = template.rfind("\r\nHost:").expect("a request");
        let (before, behind) = template.split_at(last);
        let answer = self.exchange(format!("{before}\r\nConnection: close{behind}").as_bytes());
        let what = format!("{template:?} at the {}", self.name);
        assert_eq!(outcomes(&answer), expected, "{what}: {answer}");
        let seen = self.shop.upstream.take();
        let seen: Vec<&str> = seen.iter().map(|seen| seen.target()).collect();
        assert_eq!(seen, targets, "{what}");
        forwarded.whole += seen.len();
    }
}

/// Statuses of all answers.
fn statuses(answer: &str) -> Vec<u16> {
    let lines = answer.split("HTTP/1.1 ").skip(1);
    lines.map(|line| line[..3].parse().unwrap()).collect()
}

/// The same; that a user is missing (401) or a service may not (403) comes to the same here.
fn outcomes(answer: &str) -> Vec<u16> {
    let denied = |status| if status == 403 { 401 } else { status };
    statuses(answer).into_iter().map(denied).collect()
}

/// A shop, and what opens its doors.
fn at_every_door(test: impl Fn(&Door<'_>, &mut Forwarded)) {
    let shop = Shop::open("");
    let helper = shop.member(Some("helper"));
    let outbound = shop.fleet.address("/sidecars/helper/outbound");
    let doors: [(&str, &str, Opener<'_>); 3] = [
        ("gateway", "localhost", &|| shop.at_gateway()),
        ("inbound", "shop", &|| {
            shop.at_sidecar("shop", &helper).unwrap()
        }),
        ("outbound", "shop", &|| {
            Box::new(wire::connect(outbound).unwrap())
        }),
    ];
    let (mut all, mut broken) = (0, 0);
    for (name, host, open) in doors {
        let door = Door {
            shop: &shop,
            name,
            host,
            open,
        };
        let mut forwarded = Forwarded::default();
        test(&door, &mut forwarded);
        // I2, where the requests came in. The head of a request with a broken body was a good one.
        let expected = forwarded.whole + forwarded.broken;
        let activity = format!("decision.{name}");
        if name != "inbound" {
            assert_eq!(
                shop.decisions(&activity, "success", expected),
                expected,
                "{name}"
            );
        }
        all += forwarded.whole;
        broken += forwarded.broken;
    }
    // I2, at the service: a request whose body broke off may have been decided about, and no other.
    let decided = shop.decisions("decision.inbound", "success", all);
    assert!(
        (all..=all + broken).contains(&decided),
        "{all} and {broken} broken, but {decided} decisions"
    );
}

#[test]
fn a_body_of_uncertain_length_is_never_forwarded() {
    at_every_door(|door, forwarded| door.run(&lengths(), forwarded));
}

#[test]
fn a_malformed_chunk_ends_the_request_and_its_connection() {
    at_every_door(|door, forwarded| door.run(&chunks(), forwarded));
}

#[test]
fn lines_hosts_and_methods_that_parsers_read_differently_are_refused() {
    at_every_door(|door, forwarded| {
        door.run(&lines(), forwarded);
        // A forward proxy goes by the absolute target; others want the two to agree.
        let other_host = "GET http://shop/public HTTP/1.1\r\nHost: evil.example\r\n\r\n";
        if door.name == "outbound" {
            door.reads(other_host, &["/public"], &[200], forwarded);
        } else {
            door.run(
                &[row("A12 other host in the target", other_host, BAD)],
                forwarded,
            );
        }
    });
}

#[test]
fn odd_targets_and_too_much_of_anything_are_refused() {
    at_every_door(|door, forwarded| {
        door.run(&targets_and_sizes(), forwarded);
        // Where the request ends is certain here; what its path means is not.
        for path in ["//evil/", "/%c0%af", "/public/%c0%af", "/public\\"] {
            let normal = "GET /public/2 HTTP/1.1\r\nHost: {host}\r\n\r\n";
            let requests = format!("GET {path} HTTP/1.1\r\nHost: {{host}}\r\n\r\n{normal}");
            door.reads(&requests, &["/public/2"], &[400, 200], forwarded);
        }
    });
}

/// A13: what follows a request is a request of its own, and nothing else is.
#[test]
fn pipelined_requests_are_decided_one_by_one() {
    at_every_door(|door, forwarded| {
        let admin = "GET /admin HTTP/1.1\r\nHost: {host}\r\n\r\n";
        let inner = format!("{admin}X: y");
        let length = door.bytes(inner.as_bytes()).len();
        let framed = format!("Content-Length: {length}\r\n\r\n{inner}");
        let in_chunks =
            format!("Transfer-Encoding: chunked\r\n\r\n{length:x}\r\n{inner}\r\n0\r\n\r\n");
        let normal = "GET /public/2 HTTP/1.1\r\nHost: {host}\r\n\r\n";
        for (first, body) in [
            ("POST /public/1", &framed),
            ("POST /public/1", &in_chunks),
            ("GET /public/1", &framed),
            ("GET /public/1", &in_chunks),
        ] {
            let request = format!("{first} HTTP/1.1\r\nHost: {{host}}\r\n{body}{normal}");
            door.reads(
                &request,
                &["/public/1", "/public/2"],
                &[200, 200],
                forwarded,
            );
        }
        for first in [
            "POST /public/1 HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n",
            "POST /public/1 HTTP/1.1\r\nHost: {host}\r\n\r\n",
            "POST /public/1 HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ] {
            door.reads(
                &format!("{first}{admin}"),
                &["/public/1"],
                &[200, 401],
                forwarded,
            );
        }
        // A method without a route is answered, and its body is no request; nobody reads it, so the connection ends.
        for method in ["OPTIONS", "DELETE"] {
            let request =
                format!("{method} /public/1 HTTP/1.1\r\nHost: {{host}}\r\n{framed}{normal}");
            let answer = door.exchange(request.as_bytes());
            assert_eq!(statuses(&answer)[0], 405, "{method}: {answer}");
            let seen = door.shop.upstream.take();
            assert!(
                seen.iter().all(|seen| seen.target() == "/public/2"),
                "{method}: {seen:#?}"
            );
            forwarded.whole += seen.len();
        }
    });
}

/// A14: the body that was waited for is a body, whatever it looks like.
#[test]
fn a_body_that_comes_after_100_continue_is_a_body() {
    at_every_door(|door, forwarded| {
        let body = door.bytes(b"GET /admin HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let head = format!(
            "POST /public/1 HTTP/1.1\r\nHost: {{host}}\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let mut stream = (door.open)();
        stream.write_all(&door.bytes(head.as_bytes())).unwrap();
        stream.flush().unwrap();
        let mut interim = [0; 25];
        stream.read_exact(&mut interim).unwrap();
        assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
        let answer = wire::exchange(&mut stream, &body).unwrap().unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        let seen = door.shop.upstream.take_one();
        assert_eq!(
            (seen.target(), seen.taken_for("expect")),
            ("/public/1", vec![])
        );
        assert!(
            String::from_utf8_lossy(&seen.body).contains("GET /admin"),
            "{seen:?}"
        );
        forwarded.whole += 1;
    });
}

/// A9 and A17: what a trailer or `Connection` says changes nothing that matters.
#[test]
fn trailers_are_dropped_and_connection_names_no_field_of_ours() {
    at_every_door(|door, forwarded| {
        for trailer in [
            "Content-Length: 5",
            "Transfer-Encoding: chunked",
            "Host: evil.example",
            "Authorization: Bearer evil",
            "Content-Type: evil/evil",
            "X-Forwarded-For: 198.51.100.66",
            "X-User-Id: evil",
            "Cookie: evil=1",
        ] {
            let request = chunked(&format!("5\r\nhello\r\n0\r\n{trailer}\r\n\r\n"));
            let request =
                request.replace("Transfer", "Trailer: x\r\nConnection: close\r\nTransfer");
            let answer = door.exchange(request.as_bytes());
            assert_eq!(statuses(&answer), [200], "{trailer}: {answer}");
            let seen = door.shop.upstream.take_one();
            let (head, body) = (
                seen.head.to_lowercase(),
                String::from_utf8_lossy(&seen.body).to_lowercase(),
            );
            assert!(
                !head.contains("evil") && !head.contains("198.51.100.66"),
                "{trailer}: {head}"
            );
            assert!(
                !body.contains(':') && body.contains("hello"),
                "{trailer}: {body:?}"
            );
            forwarded.whole += 1;
        }
        let named = "GET /public HTTP/1.1\r\nHost: {host}\r\nConnection: close, X-Forwarded-For, X-Forwarded-Proto, Host, \
            X-Calling-Service, traceparent, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nTE: trailers\r\n\r\n";
        let answer = door.exchange(named.as_bytes());
        assert_eq!(statuses(&answer), [200], "{answer}");
        let seen = door.shop.upstream.take_one();
        for ours in [
            "x-forwarded-for",
            "x-forwarded-proto",
            "x-calling-service",
            "traceparent",
            "host",
        ] {
            assert!(seen.only(ours).is_some(), "{ours}: {}", seen.head);
        }
        for hop in ["x-hop", "keep-alive", "te", "trailer", "upgrade"] {
            assert!(seen.taken_for(hop).is_empty(), "{hop}: {}", seen.head);
        }
        forwarded.whole += 1;
    });
}

/// A15: nothing behind a request that asks for another protocol is anything before its answer.
#[test]
fn bytes_behind_an_upgrade_reach_nobody() {
    at_every_door(|door, forwarded| {
        let smuggled = "GET /admin HTTP/1.1\r\nHost: {host}\r\n\r\n";
        for fields in [
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: \
             dGhlIHNhbXBsZSBub25jZQ==",
            "Upgrade: TLS/1.0\r\nConnection: Upgrade",
            "Upgrade: h2c, websocket\r\nConnection: Upgrade",
        ] {
            let answer = door.exchange(format!("{}{smuggled}", get(fields)).as_bytes());
            let statuses = outcomes(&answer);
            assert!((400..=501).contains(&statuses[0]), "{fields}: {answer}");
            assert!(
                statuses[1..].iter().all(|status| *status == 401),
                "{fields}: {answer}"
            );
            let seen = door.shop.upstream.take();
            assert!(seen.is_empty(), "{fields}: {seen:#?}");
        }
        // RFC 9113 dropped the h2c upgrade: the request is an ordinary one, and so is the next.
        let h2c = get(
            "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nConnection: Upgrade, HTTP2-Settings",
        );
        let normal = "GET /public/2 HTTP/1.1\r\nHost: {host}\r\n\r\n";
        door.reads(
            &format!("{h2c}{normal}"),
            &["/public", "/public/2"],
            &[200, 200],
            forwarded,
        );
        door.reads(
            &format!("{h2c}{smuggled}"),
            &["/public"],
            &[200, 401],
            forwarded,
        );
        let without = get("Connection: Upgrade");
        door.reads(
            &format!("{without}{normal}"),
            &["/public", "/public/2"],
            &[200, 200],
            forwarded,
        );
    });
}
