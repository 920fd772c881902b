//! Who a request comes from, and whose it is (table D): fields that claim an address or an identity are believed
//! from a proxy the fleet file trusts, and from nobody else.

use std::{net::IpAddr, sync::Arc, time::Duration};

use serde_json::Value;
use tokio::net::TcpSocket;

use crate::{
    paths::transaction_of,
    recorder::Seen,
    shop::{Shop, Stream, claims_of},
    wire::{self, Answer},
};

/// A proxy in front of the gateway. Everything on loopback that is not this address comes from outside.
const BALANCER: &str = "127.0.0.9";
const TRUSTING: &str = r#"trusted_proxies = ["127.0.0.9/32", "10.0.0.0/8", "fd00::/8"]
ip = { deny = ["203.0.113.0/24", "2001:db8:bad::/48"] }"#;

/// Fields by which somebody claims to be another address.
const CLAIMS: [&str; 15] = [
    "X-Forwarded-For: 198.51.100.7",
    "x_forwarded_for: 198.51.100.7",
    "X.Forwarded.For: 198.51.100.7",
    "Forwarded: for=198.51.100.7",
    "X-Real-IP: 198.51.100.7",
    "X_Real_IP: 198.51.100.7",
    "True-Client-IP: 198.51.100.7",
    "CF-Connecting-IP: 198.51.100.7",
    "X-Client-IP: 198.51.100.7",
    "X-Cluster-Client-IP: 198.51.100.7",
    "Fastly-Client-IP: 198.51.100.7",
    "X-Original-Forwarded-For: 198.51.100.7",
    "X-Remote-Addr: 198.51.100.7",
    "X-Forwarded: 198.51.100.7",
    "Forwarded-For: 198.51.100.7",
];

impl Shop {
    /// A connection to the gateway from another address of this host.
    fn from(&self, source: &str) -> Box<dyn Stream> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let connecting = async {
            let socket = TcpSocket::new_v4().unwrap();
            socket
                .bind((source.parse::<IpAddr>().unwrap(), 0).into())
                .unwrap();
            socket
                .connect(self.gateway())
                .await
                .unwrap()
                .into_std()
                .unwrap()
        };
        let tcp = runtime.block_on(connecting);
        tcp.set_nonblocking(false).unwrap();
        tcp.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Box::new(wire::connect_tls_on(tcp, "localhost", &Arc::clone(&self.fleet.tls())).unwrap())
    }

    fn get_from(&self, source: &str, path: &str, fields: &str) -> Answer {
        self.try_from(source, path, fields).expect("an answer")
    }

    fn try_from(&self, source: &str, path: &str, fields: &str) -> Option<Answer> {
        let end = if fields.is_empty() { "" } else { "\r\n" };
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{fields}{end}\r\n");
        wire::exchange(&mut self.from(source), request.as_bytes()).unwrap()
    }

    /// Whether a header section is refused for its size; its sender may not live to read the answer.
    fn is_too_large(&self, source: &str, fields: &str) -> bool {
        let answer = self.try_from(source, "/public", fields);
        answer.is_none_or(|answer| answer.status == 431) && self.upstream.take().is_empty()
    }
}

/// Which address the service is told, if it is told one and nothing else about addresses.
fn address_told(seen: &Seen) -> Option<String> {
    let others = [
        "forwarded",
        "forwarded-for",
        "x-real-ip",
        "true-client-ip",
        "cf-connecting-ip",
        "x-client-ip",
    ];
    let more = [
        "x-cluster-client-ip",
        "fastly-client-ip",
        "x-original-forwarded-for",
        "x-remote-addr",
    ];
    let clean = others
        .iter()
        .chain(&more)
        .all(|name| seen.taken_for(name).is_empty());
    seen.only("x-forwarded-for").filter(|_| clean)
}

#[test]
fn an_address_is_believed_from_a_trusted_proxy_only() {
    let shop = Shop::open(TRUSTING);
    // D1: a peer that is no proxy is itself, whatever it says.
    for source in ["127.0.0.1", "127.0.0.2"] {
        for claim in CLAIMS {
            assert_eq!(
                shop.get_from(source, "/public", claim).status,
                200,
                "{claim}"
            );
            let seen = shop.upstream.take_one();
            assert_eq!(
                address_told(&seen).as_deref(),
                Some(source),
                "{claim}: {seen:#?}"
            );
        }
    }
    // D2: behind a proxy, the rightmost address that is no proxy.
    for (lines, client) in [
        ("X-Forwarded-For: 198.51.100.7", "198.51.100.7"),
        ("X-Forwarded-For: 127.0.0.1, 198.51.100.7", "198.51.100.7"),
        (
            "X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-For: 198.51.100.7, 10.1.2.3",
            "198.51.100.7",
        ),
        (
            "X-Forwarded-For: 198.51.100.7\r\nX-Forwarded-For: 10.1.2.3",
            "198.51.100.7",
        ),
        ("X-Forwarded-For: ::ffff:198.51.100.7", "198.51.100.7"),
        ("X-Forwarded-For: ::ffff:c633:6407", "198.51.100.7"),
        ("X-Forwarded-For: 2001:db8::7, fd00::1", "2001:db8::7"),
        ("X-Forwarded-For: 2001:DB8:0:0::7", "2001:db8::7"),
        ("X-Forwarded-For:198.51.100.7\t", "198.51.100.7"),
        // Junk ends the walk: who stands right of it answers.
        ("X-Forwarded-For: unknown", BALANCER),
        ("X-Forwarded-For: 198.51.100.7, unknown", BALANCER),
        (
            "X-Forwarded-For: 198.51.100.7, unknown, 10.1.2.3",
            "10.1.2.3",
        ),
        ("X-Forwarded-For: _hidden", BALANCER),
        ("X-Forwarded-For: [::1]:80", BALANCER),
        ("X-Forwarded-For: [2001:db8::7]", BALANCER),
        ("X-Forwarded-For: 198.51.100.7:4711", BALANCER),
        ("X-Forwarded-For: 0177.0.0.1", BALANCER),
        ("X-Forwarded-For: 127.1", BALANCER),
        ("X-Forwarded-For: 1.1", BALANCER),
        ("X-Forwarded-For: 2130706433", BALANCER),
        ("X-Forwarded-For: 0x7f.0.0.1", BALANCER),
        ("X-Forwarded-For: fe80::1%eth0", BALANCER),
        ("X-Forwarded-For: 198.51.100.7,", BALANCER),
        ("X-Forwarded-For: ,", BALANCER),
        ("X-Forwarded-For:", BALANCER),
        ("X-Forwarded-For: \"198.51.100.7\"", BALANCER),
        ("X-Forwarded-For: for=198.51.100.7", BALANCER),
        ("X-Forwarded-For: 198.51.100.7 10.1.2.3", BALANCER),
        ("x_forwarded_for: 198.51.100.7", BALANCER),
        ("Forwarded: for=198.51.100.7", BALANCER),
        ("X-Real-IP: 198.51.100.7", BALANCER),
        // What the proxy sent is not taken away by what the client sent along.
        (
            "X-Forwarded-For: 198.51.100.7\r\nConnection: X-Forwarded-For",
            "198.51.100.7",
        ),
    ] {
        assert_eq!(
            shop.get_from(BALANCER, "/public", lines).status,
            200,
            "{lines}"
        );
        let seen = shop.upstream.take_one();
        assert_eq!(
            address_told(&seen).as_deref(),
            Some(client),
            "{lines}: {seen:#?}"
        );
    }
    // Ten thousand entries do not fit the header section; what fits is read up to a limit.
    let endless = format!(
        "X-Forwarded-For: 198.51.100.7, {}",
        vec!["10.1.2.3"; 10_000].join(", ")
    );
    assert!(shop.is_too_large(BALANCER, &endless));
    let long = format!(
        "X-Forwarded-For: 198.51.100.7, {}",
        vec!["10.1.2.3"; 1_000].join(", ")
    );
    assert_eq!(shop.get_from(BALANCER, "/public", &long).status, 200);
    assert_eq!(
        address_told(&shop.upstream.take_one()).as_deref(),
        Some("10.1.2.3")
    );
}

#[test]
fn lists_and_limits_go_by_the_address_that_was_found() {
    let shop = Shop::open(TRUSTING);
    for (source, claimed, status) in [
        (BALANCER, "203.0.113.9", 403),
        (BALANCER, "::ffff:203.0.113.9", 403),
        (BALANCER, "::FFFF:CB00:7109", 403),
        (BALANCER, "2001:db8:bad::1", 403),
        (BALANCER, "198.51.100.7, 203.0.113.9", 403),
        (BALANCER, "203.0.113.9, 10.1.2.3", 403),
        (BALANCER, "203.0.113.9, 198.51.100.7", 200),
        (BALANCER, "198.51.100.7", 200),
        // Nobody is denied or allowed by what they say themselves.
        ("127.0.0.1", "203.0.113.9", 200),
    ] {
        let answer = shop.get_from(source, "/public", &format!("X-Forwarded-For: {claimed}"));
        assert_eq!(answer.status, status, "{source} {claimed}: {answer:?}");
        assert_eq!(
            shop.upstream.take().len(),
            usize::from(status == 200),
            "{source} {claimed}"
        );
    }
    // Three of them an hour, from one address.
    let spent = |source: &str, claims: &mut dyn FnMut(u8) -> String| {
        (0..6)
            .filter(|n| shop.get_from(source, "/limited", &claims(*n)).status == 200)
            .count()
    };
    // An outsider is one address whatever it writes, and so are the two spellings of one behind a proxy.
    assert_eq!(
        spent("127.0.0.2", &mut |n| format!(
            "X-Forwarded-For: 198.51.100.{n}"
        )),
        3
    );
    assert_eq!(
        spent(BALANCER, &mut |n| match n % 3 {
            0 => "X-Forwarded-For: 198.51.100.77".to_owned(),
            1 => "X-Forwarded-For: ::ffff:198.51.100.77".to_owned(),
            _ => "X-Forwarded-For: ::ffff:c633:644d".to_owned(),
        }),
        3
    );
    // One IPv6 customer has a /64 of addresses.
    assert_eq!(
        spent(BALANCER, &mut |n| format!(
            "X-Forwarded-For: 2001:db8:1:1::{n}"
        )),
        3
    );
    assert_eq!(
        spent(BALANCER, &mut |n| format!(
            "X-Forwarded-For: 2001:db8:2:{n}::1"
        )),
        6
    );
}

#[test]
fn nobody_is_a_proxy_unless_the_fleet_file_says_so() {
    let shop = Shop::open("");
    for claim in CLAIMS {
        assert_eq!(
            shop.get_from(BALANCER, "/public", claim).status,
            200,
            "{claim}"
        );
        assert_eq!(
            address_told(&shop.upstream.take_one()).as_deref(),
            Some(BALANCER),
            "{claim}"
        );
    }
    // D4: how the request came is the gateway's to say.
    let fields = "X-Forwarded-Proto: http\r\nX-Forwarded-Host: evil.example\r\nX-Forwarded-Port: 81\r\n\
                  X-Forwarded-Prefix: /evil\r\nX-Forwarded-Server: evil.example\r\nX-Url-Scheme: http\r\n\
                  Front-End-Https: off\r\nX_Forwarded_Host: evil.example\r\nX-Forwarded-Ssl: off";
    assert_eq!(shop.get_from("127.0.0.1", "/public", fields).status, 200);
    let seen = shop.upstream.take_one();
    assert_eq!(seen.only("x-forwarded-proto").as_deref(), Some("https"));
    assert_eq!(seen.only("x-forwarded-host").as_deref(), Some("localhost"));
    assert!(
        !seen.head.contains("evil") && !seen.head.contains("off\r\n"),
        "{}",
        seen.head
    );
    redirects_stay_at_home(&shop);
}

fn redirects_stay_at_home(shop: &Shop) {
    let redirect = shop.fleet.address("/redirect");
    for (host, fields, path) in [
        ("evil.example", "", "/public"),
        ("localhost", "X-Forwarded-Host: evil.example\r\n", "/public"),
        ("localhost", "X-Forwarded-Proto: https\r\n", "/public"),
        ("localhost", "", "//evil.example/"),
        ("localhost", "", "/\\evil.example"),
        ("localhost@evil.example", "", "/public"),
        ("localhost:80@evil.example", "", "/public"),
        ("localhost", "", "http://evil.example/public"),
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n");
        let answer =
            wire::exchange(&mut wire::connect(redirect).unwrap(), request.as_bytes()).unwrap();
        let Some(answer) = answer else { continue };
        let location = answer.header("location").unwrap_or("");
        let is_home =
            location.starts_with(&format!("https://localhost:{}/", shop.gateway().port()));
        assert!(
            is_home || (location.is_empty() && answer.status == 400),
            "{host} {path}: {answer:?}"
        );
        assert!(!location.contains("evil"), "{host} {path}: {location}");
    }
    assert!(
        shop.upstream.take().is_empty(),
        "nothing is served in the clear"
    );
}

#[test]
fn identity_fields_from_outside_reach_no_service() {
    let shop = Shop::open("");
    let alice = shop.token("alice");
    let alice_id = claims_of(&alice)["sub"].as_str().unwrap().to_owned();
    let bearer = format!("Authorization: Bearer {alice}");
    // D3.
    for forged in [
        "X-User-Id: usr_root",
        "x_user_id: usr_root",
        "X_USER_ID: usr_root",
        "X.User.Id: usr_root",
        "X-User_Id: usr_root",
        "X-USER-ID: usr_root",
        "x-user-id: usr_root",
        "X-User-Id: usr_root\r\nX-User-Id: usr_root",
        "X-User-Id: usr_root\r\nx_user_id: usr_root\r\nX.User.Id: usr_root",
        "Connection: X-User-Id\r\nX-User-Id: usr_root",
        "Connection: close, X-User-Id, X-User-Roles, Txn-Token",
        "X-User-Roles: shop-admin\r\nX_User_Roles: shop-admin",
        "X-User-Groups: shop-admin\r\nX-User-Name: root\r\nX-User-Scopes: everything",
        "X-Calling-Service: stranger\r\nX_Calling_Service: stranger",
        "Txn-Token: usr_root.shop-admin.x",
        "Txn_Token: usr_root\r\nTestudo-Decision: usr_root\r\nX-Testudo-User: usr_root",
    ] {
        let fields = format!("{bearer}\r\n{forged}");
        let answer = shop.get_from("127.0.0.1", "/api/orders/1", &fields);
        assert_eq!(answer.status, 200, "{forged}: {answer:?}");
        let seen = shop.upstream.take_one();
        assert_eq!(
            seen.only("x-user-id").as_deref(),
            Some(&*alice_id),
            "{forged}: {seen:#?}"
        );
        assert_eq!(
            seen.only("x-user-name").as_deref(),
            Some("alice"),
            "{forged}: {seen:#?}"
        );
        assert_eq!(
            seen.only("x-calling-service").as_deref(),
            Some("gateway"),
            "{forged}: {seen:#?}"
        );
        assert!(
            seen.taken_for("x-user-roles").is_empty(),
            "{forged}: {seen:#?}"
        );
        let foreign = ["usr_root", "shop-admin", "stranger", "everything"]
            .iter()
            .any(|text| seen.head.contains(text));
        assert!(!foreign, "{forged}: {seen:#?}");
        assert!(
            seen.taken_for("authorization").is_empty(),
            "the outside token stays outside: {seen:#?}"
        );
        // Anonymous: nobody it could be.
        assert_eq!(
            shop.get_from("127.0.0.1", "/public", forged).status,
            200,
            "{forged}"
        );
        let seen = shop.upstream.take_one();
        assert!(
            seen.taken_for("x-user-id").is_empty() && !seen.head.contains("usr_root"),
            "{forged}: {seen:#?}"
        );
    }
    // A name with a space behind it is no name.
    assert_eq!(
        shop.get_from("127.0.0.1", "/public", "X-User-Id : usr_root")
            .status,
        400
    );
    assert!(shop.upstream.take().is_empty());
    // Trailers are not fields.
    let request = "POST /public HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nTE: trailers\r\n\
                   Trailer: X-User-Id\r\n\r\n2\r\nhi\r\n0\r\nX-User-Id: usr_root\r\nAuthorization: usr_root\r\n\r\n";
    assert_eq!(shop.send(request.as_bytes()).unwrap().status, 200);
    let seen = shop.upstream.take_one();
    assert!(
        !format!("{seen:?}{}", String::from_utf8_lossy(&seen.body)).contains("usr_root"),
        "{seen:#?}"
    );
    // The same straight at the sidecar, from a service that may call it.
    let helper = shop.member(Some("helper"));
    let transaction = transaction_of(&shop, &alice);
    for forged in [
        "X-User-Id: usr_root",
        "X_User_Id: usr_root",
        "X-Calling-Service: gateway",
        "X-User-Roles: shop-admin",
    ] {
        let request = format!(
            "GET /api/orders/1 HTTP/1.1\r\nHost: shop\r\nTxn-Token: {transaction}\r\n{forged}\r\nX-Forwarded-For: 198.51.100.7\r\n\r\n"
        );
        let mut connection = shop.at_sidecar("shop", &helper).unwrap();
        let answer = wire::exchange(&mut connection, request.as_bytes())
            .unwrap()
            .unwrap();
        assert_eq!(answer.status, 200, "{forged}: {answer:?}");
        let seen = shop.upstream.take_one();
        assert_eq!(
            seen.only("x-user-id").as_deref(),
            Some(&*alice_id),
            "{forged}"
        );
        assert_eq!(
            seen.only("x-calling-service").as_deref(),
            Some("helper"),
            "{forged}"
        );
        assert_eq!(
            seen.only("x-forwarded-for").as_deref(),
            Some("127.0.0.1"),
            "{forged}"
        );
        assert!(seen.taken_for("x-user-roles").is_empty(), "{forged}");
    }
}

#[test]
fn traces_request_ids_and_logs_take_no_text_of_strangers() {
    let shop = Shop::open("");
    let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    // D5.
    assert_eq!(
        shop.get_from("127.0.0.1", "/public", &format!("traceparent: {good}"))
            .status,
        200
    );
    assert_eq!(
        shop.upstream.take_one().only("traceparent").unwrap()[..35],
        good[..35]
    );
    let (long_state, long_id) = (
        format!("tracestate: a={}", "x".repeat(10_240)),
        "i".repeat(20_000),
    );
    for fields in [
        "traceparent: <script>".to_owned(),
        format!("traceparent: {}", good.to_uppercase()),
        format!("traceparent: {good}\r\ntraceparent: {good}"),
        "traceparent: 00-00000000000000000000000000000000-00f067aa0ba902b7-01".to_owned(),
        format!("traceparent: {good}\r\n{long_state}"),
        format!("X-Request-Id: {long_id}"),
        "X-Request-Id: a b\"c".to_owned(),
        "X-Request-Id: one\r\nX-Request-Id: two".to_owned(),
        "X_Request_Id: <script>".to_owned(),
    ] {
        assert_eq!(
            shop.get_from("127.0.0.1", "/public", &fields).status,
            200,
            "{fields}"
        );
        let seen = shop.upstream.take_one();
        let trace = seen.only("traceparent").unwrap();
        assert!(
            trace.len() == 55 && trace.bytes().all(|b| b == b'-' || b.is_ascii_hexdigit()),
            "{fields}: {trace}"
        );
        let id = seen.only("x-request-id").unwrap();
        assert!(
            id.len() <= 128
                && id
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)),
            "{id}"
        );
        assert!(
            seen.only("tracestate")
                .is_none_or(|state| state.len() <= 512),
            "{fields}"
        );
        assert!(!seen.head.contains("<script>"), "{fields}: {seen:#?}");
    }
    // A megabyte is no request id, and no header section either.
    let huge = format!("X-Request-Id: {}", "i".repeat(1 << 20));
    assert!(shop.is_too_large("127.0.0.1", &huge));
    // D6: whatever stands in a path or a field, a record is one line of JSON.
    let marker = "injected-by-a-stranger";
    for (path, fields) in [
        (format!("/public/%22%7D{marker}"), String::new()),
        (format!("/none/%1b[31m{marker}"), String::new()),
        (format!("/none/%0d%0a{marker}"), String::new()),
        (
            format!("/none/{marker}\",\"outcome\":\"success"),
            String::new(),
        ),
        (
            format!("/none/{marker}"),
            format!("User-Agent: \x1b[2J{marker}\"}}"),
        ),
        (
            format!("/public/{marker}"),
            format!("User-Agent: {marker}\"}}{{\"a\":\"b"),
        ),
        (format!("/admin/{marker}"), format!("Referer: {marker}\\n")),
    ] {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\n{fields}{}\r\n",
            if fields.is_empty() { "" } else { "\r\n" }
        );
        let _ = shop.send(request.as_bytes());
    }
    shop.upstream.take();
    let denied = shop.decisions("decision.gateway", "denied", 1);
    assert!(denied >= 1);
    let events = shop
        .fleet
        .folder
        .run(&["audit", "search", "--limit", "100000", "--output", "json"]);
    for line in events.lines() {
        let event: Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(event.is_object());
        assert!(!line.chars().any(char::is_control), "{line:?}");
    }
    let log = std::fs::read_to_string(shop.fleet.folder.path().join("log")).unwrap();
    for line in log
        .lines()
        .filter(|line| line.contains(marker) || line.starts_with('{'))
    {
        serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(!line.chars().any(char::is_control), "{line:?}");
    }
    // For people it is shown without what a terminal would obey.
    let shown = shop
        .fleet
        .folder
        .run(&["audit", "search", "--limit", "100000"]);
    assert!(
        !shown.chars().any(|c| c.is_control() && c != '\n'),
        "{shown:?}"
    );
}
