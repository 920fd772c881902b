//! Paths, hosts and methods that two parsers read differently (table C of the bad-input table): whatever is sent,
//! the service never sees a request to its administration that nobody with the right for it made.

use std::{
    io::{Read, Write},
    time::{Duration, Instant},
};

use crate::{
    recorder::Seen,
    shop::{Shop, Stream},
    wire,
};

/// What must become of a row.
enum Safe {
    /// Refused: nothing of it reaches the service.
    Refused,
    /// There is nothing to refuse if it is read one way only: the service sees exactly this target and method.
    ReadAs(&'static str, &'static str),
}
use Safe::{ReadAs, Refused};

struct Row {
    method: &'static str,
    target: Vec<u8>,
    fields: &'static str,
    safe: Safe,
}

fn refused(target: &str) -> Row {
    Row {
        method: "GET",
        target: target.as_bytes().to_vec(),
        fields: "",
        safe: Refused,
    }
}

fn with_field(target: &str, fields: &'static str, safe: Safe) -> Row {
    Row {
        method: "GET",
        target: target.as_bytes().to_vec(),
        fields,
        safe,
    }
}

/// Table C, row by row, and variants of its rows.
fn table() -> Vec<Row> {
    let mut rows: Vec<Row> = [
        "/public/../admin",
        "/public/%2e%2e/admin",
        "/public/%2E%2E/admin",
        "/public/.%2e/admin",
        "/public/..%2fadmin",
        "/public/..%2Fadmin",
        "/public/%2e%2e%2fadmin",
        "/public/..%5cadmin",
        "/public/..\\admin",
        "/public/..;/admin",
        "/public/..;x=1/admin",
        "/admin;x=1",
        "/admin%3bx",
        "/admin%3Bx=1",
        "//admin",
        "///admin",
        "//shop.example/admin",
        "/./admin",
        "/%2e/admin",
        "/admin/.",
        "/admin/..",
        "/admin/%2e",
        "/admin//",
        "/admin//users",
        "/admin",
        "/admin/",
        "/ADMIN",
        "/Admin",
        "/%61dmin",
        "/%41DMIN",
        "/%2561dmin",
        "/%252e%252e/admin",
        "/public/%252e%252e/admin",
        "/public/%252e%252e%252fadmin",
        "/admin%00",
        "/admin%00.css",
        "/public%00/../admin",
        "/admin%20",
        "/admin%09",
        "/admin%0a",
        "/admin%0d%0aX: y",
        "/admin%0d%0aX:%20y",
        "/admin\\",
        "\\admin",
        "/%5cadmin",
        "/%c0%ae%c0%ae/admin",
        "/public/%c0%ae%c0%ae/admin",
        "/public/%c0%af../admin",
        "/%e0%80%ae%e0%80%ae/admin",
        "/%uff0e%uff0e/admin",
        "/public/%uff0e%uff0e/admin",
        "/ａdmin",
        "/%ef%bd%81dmin",
        "/adm%C4%B1n",
        "/public/%2e%2e;/admin",
        "/public/%zz/../admin",
        "/public/%",
        "/public/%2",
        "http://localhost/admin",
        "http://shop.example/admin",
        "http://localhost/public/../admin",
        "https://localhost/admin",
        "/api/orders/1%2f..%2f2",
        "/api/orders/1/../2",
        "/api/orders/..%2f..%2fadmin",
        "/api/orders/%2e%2e",
        "/api/orders/..",
        "admin",
        "*",
        "?/admin",
        "/public/<admin>",
        "/public/\"",
        "/public/{x}",
        "/public/|admin",
        "/public/^admin",
        "/public/`admin`",
    ]
    .into_iter()
    .map(refused)
    .collect();
    rows.push(Row {
        method: "GET",
        target: format!("/public/{}admin", "../".repeat(10_000)).into(),
        fields: "",
        safe: Refused,
    });
    rows.push(Row {
        method: "GET",
        target: format!("/{}admin", "../".repeat(1_000)).into(),
        fields: "",
        safe: Refused,
    });
    // Raw bytes that are no ASCII: UTF-8, Latin 1, overlong.
    for raw in [
        &b"/public/\xc3\xa9/../admin"[..],
        b"/public/\xe9",
        b"/\xc0\xae\xc0\xae/admin",
        b"/public/\xff",
    ] {
        rows.push(Row {
            method: "GET",
            target: raw.to_vec(),
            fields: "",
            safe: Refused,
        });
    }
    // A query is no path: what stands there is the service's to read.
    rows.push(with_field(
        "/public?/../admin",
        "",
        ReadAs("GET", "/public?/../admin"),
    ));
    rows.push(with_field(
        "/public/%3f/admin",
        "",
        ReadAs("GET", "/public/%3F/admin"),
    ));
    rows.push(with_field(
        "http://localhost/public/a",
        "",
        ReadAs("GET", "/public/a"),
    ));
    // Fields that rewrite the target for some frameworks.
    for fields in [
        "X-Original-URL: /admin",
        "X-Rewrite-URL: /admin",
        "X_Original_URL: /admin",
        "X-Original-URI: /admin",
        "X-Forwarded-Prefix: /admin",
        "X-Forwarded-Path: /admin",
        "X-Forwarded-Uri: /admin",
        "X-Original-URL: /admin\r\nConnection: X-Original-URL",
    ] {
        rows.push(with_field("/public", fields, ReadAs("GET", "/public")));
    }
    for fields in [
        "X-HTTP-Method-Override: DELETE",
        "X-HTTP-Method: DELETE",
        "X-Method-Override: DELETE",
        "X_HTTP_Method_Override: DELETE",
    ] {
        rows.push(with_field("/public/1", fields, ReadAs("GET", "/public/1")));
        rows.push(Row {
            method: "DELETE",
            target: b"/public/1".to_vec(),
            fields,
            safe: Refused,
        });
    }
    // A parameter is the service's own business; the method that was decided is the method that arrives.
    rows.push(with_field(
        "/public/1?_method=DELETE",
        "",
        ReadAs("GET", "/public/1?_method=DELETE"),
    ));
    // Methods.
    for method in [
        "get",
        "Get",
        "TRACE",
        "CONNECT",
        "PRI",
        "PROPFIND",
        "FOO",
        "GET\u{a0}",
        "DELETE",
        "PUT",
    ] {
        rows.push(Row {
            method,
            target: b"/public/1".to_vec(),
            fields: "",
            safe: Refused,
        });
    }
    rows
}

/// Targets with a fragment, which no request has (RFC 9112 section 3.2). What is behind `#` is nobody's to read.
const FRAGMENTS: [&str; 2] = ["/public#/../admin", "/public?#/../admin"];

/// Rows that say which of several things an order number is: the one that was decided is the one that arrives.
const ORDERS: [(&str, &str); 4] = [
    ("/api/orders/01", "/api/orders/01"),
    ("/api/orders/1.0", "/api/orders/1.0"),
    ("/api/orders/%31", "/api/orders/1"),
    ("/api/orders/1?id=2", "/api/orders/1?id=2"),
];

#[test]
fn no_path_leads_around_the_gateway_or_a_sidecar() {
    let shop = Shop::open("");
    let (alice, root) = (shop.token("alice"), shop.token("root"));
    let bearer = format!("Authorization: Bearer {alice}\r\n");

    // The administration is there, for whom it is.
    let admin =
        format!("GET /admin HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {root}\r\n\r\n");
    assert_eq!(shop.send(admin.as_bytes()).unwrap().status, 200);
    assert_eq!(shop.upstream.take_one().target(), "/admin");
    let mut forwarded = 1;

    let at_gateway = Door {
        shop: &shop,
        name: "gateway",
        open: &|| shop.at_gateway(),
    };
    forwarded += at_gateway.run("nobody", "");
    forwarded += at_gateway.run("alice", &bearer);

    // The same straight at the sidecar, by a service that may call the public part, with and without the
    // transaction token of a user who may see orders.
    let helper = shop.member(Some("helper"));
    let stolen = transaction_of(&shop, &alice);
    forwarded += 1;
    let transaction = format!("Txn-Token: {stolen}\r\n");
    let at_sidecar = Door {
        shop: &shop,
        name: "sidecar",
        open: &|| shop.at_sidecar("shop", &helper).unwrap(),
    };
    forwarded += at_sidecar.run("helper", "");
    forwarded += at_sidecar.run("helper for alice", &transaction);
    // And by a gateway that was taken over: it may call everything, and its user may not.
    let gateway = shop.member(None);
    let at_sidecar = Door {
        shop: &shop,
        name: "sidecar",
        open: &|| shop.at_sidecar("shop", &gateway).unwrap(),
    };
    forwarded += at_sidecar.run("gateway for alice", &transaction);

    // I2: what the service saw is what the ledger has.
    assert_eq!(
        shop.decisions("decision.inbound", "success", forwarded),
        forwarded
    );
}

#[test]
fn an_order_number_arrives_as_it_was_decided() {
    let shop = Shop::open("");
    let alice = shop.token("alice");
    for (target, expected) in ORDERS {
        let anonymous = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert_eq!(
            shop.send(anonymous.as_bytes()).unwrap().status,
            401,
            "{target}"
        );
        assert!(shop.upstream.take().is_empty(), "{target}");
        assert_eq!(
            shop.fleet.call("GET", target, Some(&alice), "").status,
            200,
            "{target}"
        );
        assert_eq!(shop.upstream.take_one().target(), expected);
        assert_eq!(
            shop.fleet.call("DELETE", target, Some(&alice), "").status,
            403,
            "{target}"
        );
        assert!(shop.upstream.take().is_empty(), "{target}");
    }
}

/// A way to the service, and who stands in front of it.
struct Door<'a> {
    shop: &'a Shop,
    name: &'a str,
    open: &'a dyn Fn() -> Box<dyn Stream>,
}

impl Door<'_> {
    /// Sends every row; how many requests reached the service.
    fn run(&self, who: &str, credentials: &str) -> usize {
        let mut forwarded = 0;
        for row in table().into_iter().chain(FRAGMENTS.map(refused)) {
            let shown =
                String::from_utf8_lossy(&row.target[..row.target.len().min(60)]).into_owned();
            let what = format!(
                "{} {shown} {:?} at the {} by {who}",
                row.method, row.fields, self.name
            );
            let mut connection = (self.open)();
            let answer = wire::exchange(&mut connection, &request(&row, credentials)).unwrap();
            let status = answer.as_ref().map(|answer| answer.status);
            let seen = self.shop.upstream.take();
            assert!(
                !seen.iter().any(means_admin),
                "{what}: the service saw {seen:#?}"
            );
            match row.safe {
                Refused => {
                    let ok = status.is_none_or(|status| {
                        matches!(status, 400 | 401 | 403 | 404 | 405 | 414 | 431 | 501)
                    });
                    assert!(ok, "{what}: {answer:?}");
                    assert!(
                        status != Some(401) || credentials.is_empty(),
                        "{what}: {answer:?}"
                    );
                    assert!(seen.is_empty(), "{what}: the service saw {seen:#?}");
                }
                ReadAs(method, target) => {
                    assert_eq!(status, Some(200), "{what}: {answer:?}");
                    assert_eq!(seen.len(), 1, "{what}: {seen:#?}");
                    assert_eq!(
                        (seen[0].method(), seen[0].target()),
                        (method, target),
                        "{what}"
                    );
                    assert!(
                        !seen[0].head.to_lowercase().contains("original-ur"),
                        "{what}: {}",
                        seen[0].head
                    );
                    forwarded += 1;
                }
            }
            forwarded += self.works_afterwards(connection, &what);
        }
        forwarded
    }

    /// I3: a normal request is answered on a new connection, and on the same one if it is still open.
    fn works_afterwards(&self, mut same: Box<dyn Stream>, what: &str) -> usize {
        let normal = b"GET /public/normal HTTP/1.1\r\nHost: localhost\r\n\r\n";
        let began = Instant::now();
        let on_new = wire::exchange(&mut (self.open)(), normal)
            .unwrap()
            .map(|answer| answer.status);
        assert_eq!(on_new, Some(200), "{what}: afterwards");
        // The table asks for 100 ms; a machine that runs other tests beside is given more.
        assert!(
            began.elapsed() < Duration::from_secs(5),
            "{what}: afterwards after {:?}",
            began.elapsed()
        );
        let on_same = wire::exchange(&mut same, normal)
            .ok()
            .flatten()
            .map(|answer| answer.status);
        assert!(
            matches!(on_same, None | Some(200)),
            "{what}: afterwards on the same connection {on_same:?}"
        );
        let seen = self.shop.upstream.take();
        assert!(
            seen.iter().all(|seen| seen.target() == "/public/normal"),
            "{what}: afterwards {seen:#?}"
        );
        assert_eq!(
            seen.len(),
            1 + usize::from(on_same.is_some()),
            "{what}: afterwards {seen:#?}"
        );
        seen.len()
    }
}

fn request(row: &Row, credentials: &str) -> Vec<u8> {
    let mut bytes = format!("{} ", row.method).into_bytes();
    bytes.extend_from_slice(&row.target);
    bytes.extend_from_slice(b" HTTP/1.1\r\nHost: localhost\r\n");
    bytes.extend_from_slice(credentials.as_bytes());
    if !row.fields.is_empty() {
        bytes.extend_from_slice(row.fields.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    bytes
}

/// Whether the most obliging of parsers could take a request for one to the administration: decode as often as
/// there is something to decode, any separator, any case, no parameters, dots and empty segments resolved.
fn means_admin(seen: &Seen) -> bool {
    let mut path = seen
        .target()
        .split(['?', '#'])
        .next()
        .unwrap_or("")
        .to_owned();
    for _ in 0..3 {
        path = decoded(&path);
    }
    let mut segments: Vec<String> = Vec::new();
    for segment in path.replace('\\', "/").split('/') {
        match segment.split([';', '\0']).next().unwrap_or("").trim() {
            "" | "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment.to_lowercase()),
        }
    }
    segments
        .first()
        .is_some_and(|first| first.starts_with("admin"))
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        let escape = behind
            .get(..2)
            .and_then(|digits| std::str::from_utf8(digits).ok());
        let value = escape.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match value.filter(|_| *first == b'%') {
            Some(value) => {
                bytes.push(value);
                rest = &behind[2..];
            }
            None => {
                bytes.push(*first);
                rest = behind;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The transaction token of a call of `user`, as the service that was called holds it.
pub fn transaction_of(shop: &Shop, user: &str) -> String {
    assert_eq!(
        shop.fleet
            .call("GET", "/api/orders/1", Some(user), "")
            .status,
        200
    );
    shop.upstream.take_one().only("txn-token").unwrap()
}

/// What is sent over HTTP/2 has been written by hand: clients refuse to send most of these paths.
#[test]
fn no_path_leads_around_the_gateway_over_http2() {
    let shop = Shop::open("");
    let alice = shop.token("alice");
    for row in table() {
        // In HTTP/2 a target is a path, and only `:path` bytes are interesting.
        if row.method != "GET" || !row.fields.is_empty() || row.target.len() > 10_000 {
            continue;
        }
        let what = String::from_utf8_lossy(&row.target).into_owned();
        let answer = over_http2(&shop, &row.target, &alice);
        let seen = shop.upstream.take();
        assert!(
            !seen.iter().any(means_admin),
            "{what}: the service saw {seen:#?}"
        );
        match row.safe {
            Refused => {
                assert!(
                    seen.is_empty() && !answer.contains("the service"),
                    "{what}: {answer} {seen:#?}"
                );
            }
            ReadAs(_, target) => {
                // An absolute target is no HTTP/2 path.
                let arrived = seen.first().map(|seen| seen.target().to_owned());
                assert!(
                    arrived.is_none_or(|arrived| arrived == target),
                    "{what}: {seen:#?}"
                );
            }
        }
    }
    // The HTTP/2 parser cuts fragments off before anybody sees them.
    for target in FRAGMENTS {
        over_http2(&shop, target.as_bytes(), &alice);
        let seen = shop.upstream.take();
        let is_public = |seen: &Seen| seen.target().trim_end_matches('?') == "/public";
        assert!(seen.iter().all(is_public), "{target}: {seen:#?}");
    }
    assert!(over_http2(&shop, b"/api/orders/7", &alice).contains("the service"));
    assert_eq!(shop.upstream.take_one().target(), "/api/orders/7");
    assert!(!over_http2(&shop, b"/admin", &alice).contains("the service"));
}

/// One `GET` on stream 1; the DATA of the answer as text, empty if there is none.
fn over_http2(shop: &Shop, path: &[u8], token: &str) -> String {
    let pem = std::fs::read(shop.fleet.folder.data().join("ca.pem")).unwrap();
    let tls = testudo_trust::web_client_config(&pem, &["h2"]).unwrap();
    let mut stream = wire::connect_tls(shop.gateway(), "localhost", &tls).unwrap();
    let mut block = Vec::new();
    for (name, value) in [
        (&b":method"[..], &b"GET"[..]),
        (b":scheme", b"https"),
        (b":authority", b"localhost"),
        (b":path", path),
        (b"authorization", format!("Bearer {token}").as_bytes()),
    ] {
        // RFC 7541 section 6.2.2: a literal without indexing, with a new name, without Huffman coding.
        block.push(0);
        hpack_string(&mut block, name);
        hpack_string(&mut block, value);
    }
    let mut request = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    request.extend(frame(4, 0, 0, &[]));
    request.extend(frame(1, 0x5, 1, &block));
    stream.write_all(&request).unwrap();
    stream.flush().unwrap();
    let mut text = Vec::new();
    loop {
        let mut head = [0; 9];
        if stream.read_exact(&mut head).is_err() {
            break;
        }
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        if stream.read_exact(&mut payload).is_err() {
            break;
        }
        let (kind, is_last) = (head[3], head[4] & 1 == 1);
        match kind {
            0 => text.extend(payload),
            // RST_STREAM, GOAWAY.
            3 | 7 => break,
            _ => {}
        }
        if matches!(kind, 0 | 1) && is_last {
            break;
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// RFC 7541 sections 5.1 and 5.2.
fn hpack_string(block: &mut Vec<u8>, text: &[u8]) {
    if text.len() < 127 {
        block.push(u8::try_from(text.len()).unwrap());
    } else {
        block.push(127);
        let mut rest = text.len() - 127;
        while rest >= 128 {
            block.push(u8::try_from(rest % 128).unwrap() | 0x80);
            rest /= 128;
        }
        block.push(u8::try_from(rest).unwrap());
    }
    block.extend_from_slice(text);
}
