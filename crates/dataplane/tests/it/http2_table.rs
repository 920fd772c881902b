//! Table B of the bad-input table, HTTP/2: floods, bombs and messages that would be another request in HTTP/1.1, at the
//! gateway and at both sides of a sidecar. Whatever is sent, the service sees no request that was not decided about, and
//! the next client is served.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use socket2::{Domain, Socket, Type};
use testudo_model::snapshot::TransferRules;
use testudo_trust::{ExpectedPeer, mesh_client_config};
use tokio::net::TcpStream;

use crate::{
    client,
    fleet::Fleet,
    frames::{
        CONTINUATION, DATA, Duplex, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, Ended, Frames,
        HEADERS, PING, PRIORITY, RESET, SETTINGS, WINDOW_UPDATE, literals,
    },
};

const WINDOW: u32 = 65_535;
const CANCEL: [u8; 4] = [0, 0, 0, 8];
const CALM: Ended = Ended::GoAway(ENHANCE_YOUR_CALM);

/// Where HTTP/2 is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    Gateway,
    Inbound,
    Outbound,
}

const DOORS: [Door; 3] = [Door::Gateway, Door::Inbound, Door::Outbound];

impl Door {
    async fn open(self, fleet: &Fleet, window: u32) -> Frames<Box<dyn Duplex>> {
        let stream: Box<dyn Duplex> = match self {
            Self::Gateway => Box::new(fleet.gateway_h2_stream().await),
            Self::Inbound => {
                let peer = fleet.identity(&fleet.domain.gateway());
                let clock = Arc::clone(&fleet.clock);
                let tls = mesh_client_config(&peer, ExpectedPeer::InTrustDomain, clock, &["h2"]);
                let address = fleet.proxies["orders"].address;
                Box::new(client::tls(address, tls).await.unwrap())
            }
            Self::Outbound => {
                let address = fleet.proxies["mailer"].outbound.unwrap();
                Box::new(TcpStream::connect(address).await.unwrap())
            }
        };
        Frames::open(stream, window).await
    }
}

/// I3.
async fn works_afterwards(fleet: &Fleet) {
    assert_eq!(fleet.get("/public", None).await.status, 200);
}

fn streams(count: u32) -> impl Iterator<Item = u32> {
    (0..count).map(|number| 2 * number + 1)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b1_rapid_resets_end_the_connection_of_a_client() {
    let fleet = Fleet::start().await;
    for door in [Door::Gateway, Door::Outbound] {
        let mut client = door.open(&fleet, WINDOW).await;
        for stream in streams(50_000) {
            client.request(stream, END_STREAM, "GET", "/public", "");
            client.queue(RESET, 0, stream, &CANCEL);
        }
        assert_eq!(client.ended().await, CALM, "{door:?}");
    }
    assert!(fleet.upstreams["orders"].seen() <= 250);
    works_afterwards(&fleet).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b1_resets_of_calls_that_have_begun_end_the_connection_of_a_client_too() {
    let fleet = Fleet::start().await;
    let mut client = Door::Gateway.open(&fleet, WINDOW).await;
    let mut ended = Ended::Open;
    for stream in streams(400) {
        client.request(stream, END_STREAM, "GET", "/slow", "");
        ended = client.ended_within(Duration::from_millis(3)).await;
        client.queue(RESET, 0, stream, &CANCEL);
        if ended != Ended::Open {
            break;
        }
    }
    assert_eq!(ended, CALM);
    assert!(fleet.upstreams["orders"].seen() <= 250);
    works_afterwards(&fleet).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b2_resets_that_the_proxy_is_made_to_send_count_as_well() {
    let fleet = Fleet::start().await;
    type Provocation = (&'static str, fn(&mut Frames<Box<dyn Duplex>>, u32));
    let provocations: [Provocation; 5] = [
        ("a window that grows by nothing", |client, stream| {
            client.request(stream, END_STREAM, "GET", "/slow", "");
            client.queue(WINDOW_UPDATE, 0, stream, &[0; 4]);
        }),
        ("a window that overflows", |client, stream| {
            client.request(stream, END_STREAM, "GET", "/slow", "");
            client.queue(WINDOW_UPDATE, 0, stream, &[0x7f, 0xff, 0xff, 0xff]);
        }),
        ("data behind the end", |client, stream| {
            client.request(stream, END_STREAM, "GET", "/slow", "");
            client.queue(DATA, 0, stream, b"x");
        }),
        ("data of another length", |client, stream| {
            client.request(stream, 0, "POST", "/public", "10");
            client.queue(DATA, END_STREAM, stream, b"x");
        }),
        ("a stream that depends on itself", |client, stream| {
            client.request(stream, END_STREAM, "GET", "/slow", "");
            let dependency = [&stream.to_be_bytes()[..], &[0]].concat();
            client.queue(PRIORITY, 0, stream, &dependency);
        }),
    ];
    for (what, provoke) in provocations {
        let mut client = Door::Gateway.open(&fleet, WINDOW).await;
        for stream in streams(5_000) {
            provoke(&mut client, stream);
        }
        let ended = client.ended().await;
        assert!(matches!(ended, Ended::GoAway(_)), "{what}: {ended:?}");
    }
    assert!(fleet.upstreams["orders"].seen() <= 5 * 250);
    works_afterwards(&fleet).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b3_a_header_section_that_does_not_end_ends_the_connection() {
    let fleet = Fleet::start().await;
    let fields = literals(&[("x", "y")]).repeat(3_000);
    for door in DOORS {
        for (count, payload) in [(10_000, &[][..]), (100, &fields)] {
            let mut client = door.open(&fleet, WINDOW).await;
            client.queue(HEADERS, END_STREAM, 1, &[]);
            for _ in 0..count {
                client.queue(CONTINUATION, 0, 1, payload);
            }
            let ended = client.ended().await;
            assert!(matches!(ended, Ended::GoAway(_)), "{door:?}: {ended:?}");
        }
    }
    assert_eq!(fleet.upstreams["orders"].seen(), 0);
    works_afterwards(&fleet).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b4_a_small_header_section_that_unpacks_to_a_large_one_reaches_nobody() {
    let fleet = Fleet::start().await;
    let request = literals(&[
        (":method", "GET"),
        (":scheme", "https"),
        (":path", "/public"),
        (":authority", "localhost"),
    ]);
    // A field of 3,000 bytes for the dynamic table (RFC 7541 section 6.2.1), whose length is 127 + 57 + 22 * 128.
    let entry = [&[0x40, 1, b'x', 0x7f, 0x80 | 57, 22][..], &[b'a'; 3_000]].concat();
    let references = vec![0x80 | 62; 12_000];
    let bomb = [&request[..], &entry, &references].concat();
    for door in DOORS {
        let mut client = door.open(&fleet, WINDOW).await;
        // 431 for a while, then the end.
        for stream in [1, 3, 5] {
            client.queue(HEADERS, END_STREAM | END_HEADERS, stream, &bomb);
        }
        client.ended_within(Duration::from_millis(300)).await;
    }
    assert_eq!(fleet.upstreams["orders"].seen(), 0);
    works_afterwards(&fleet).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b5_floods_of_frames_that_come_to_nothing_end_the_connection() {
    const UNKNOWN: u8 = 0xbb;
    let fleet = Fleet::start().await;
    for door in DOORS {
        for (kind, stream, payload) in [
            (SETTINGS, 0, &[][..]),
            (PING, 0, b"pingpong"),
            (PRIORITY, 1, &[0, 0, 0, 0, 9]),
            (WINDOW_UPDATE, 0, &[0, 0, 0, 1]),
            (WINDOW_UPDATE, 1, &[0, 0, 0, 1]),
            (DATA, 1, b""),
            (UNKNOWN, 0, b"unknown"),
        ] {
            let mut client = door.open(&fleet, WINDOW).await;
            client.request(1, 0, "POST", "/public", "");
            for _ in 0..20_000 {
                client.queue(kind, 0, stream, payload);
            }
            assert_eq!(client.ended().await, CALM, "{kind} at the {door:?}");
        }
    }
    works_afterwards(&fleet).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b5_a_connection_with_a_little_of_everything_goes_on() {
    let fleet = Fleet::start().await;
    let mut client = Door::Gateway.open(&fleet, WINDOW).await;
    for stream in streams(1_000) {
        client.queue(PING, 0, 0, b"pingpong");
        client.request(stream, END_STREAM, "GET", "/nowhere", "");
        client.queue(WINDOW_UPDATE, 0, 0, &[0, 0, 1, 0]);
        client.queue(WINDOW_UPDATE, 0, stream, &[0, 0, 1, 0]);
        assert_eq!(client.next_of(stream).await.unwrap().kind, HEADERS);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b5_a_client_that_takes_no_answer_or_takes_it_byte_by_byte_loses_its_connection() {
    let fleet = Fleet::start_with(|snapshot| {
        snapshot.transfer = TransferRules {
            min_bytes_per_second: 1_000,
            grace_millis: 1_000,
        };
    })
    .await;
    for byte_by_byte in [false, true] {
        let mut client = Door::Gateway.open(&fleet, 0).await;
        client.request(1, END_STREAM, "GET", "/public", "");
        let mut ended = Ended::Open;
        for _ in 0..50 {
            ended = client.ended_within(Duration::from_millis(100)).await;
            if ended != Ended::Open {
                break;
            }
            if byte_by_byte {
                client.queue(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]);
            }
            // Whatever else it does meanwhile.
            client.queue(PING, 0, 0, b"pingpong");
        }
        assert_eq!(ended, CALM, "{byte_by_byte}");
    }
    // Who takes the answer may stay, and whoever waits for one.
    let mut client = Door::Gateway.open(&fleet, WINDOW).await;
    client.request(1, END_STREAM, "GET", "/slow-but-fine", "");
    assert_eq!(client.next_of(1).await.unwrap().kind, HEADERS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b6_b7_messages_that_would_be_others_in_http1_reach_nobody() {
    let fleet = Fleet::start().await;
    let pseudo = [
        (":method", "GET"),
        (":scheme", "https"),
        (":path", "/public"),
        (":authority", "localhost"),
    ];
    let with = |name: &'static str, value: &'static str| {
        let mut fields = pseudo.to_vec();
        for field in fields.iter_mut().filter(|field| field.0 == name) {
            field.1 = value;
        }
        fields
    };
    let and = |name, value| [&pseudo[..], &[(name, value)]].concat();
    let mut rows = vec![
        with(":path", "public"),
        with(":path", ""),
        with(":path", "*"),
        with(":path", "/public HTTP/1.1\r\nX: y"),
        with(":path", "/public x"),
        with(":method", "GET /admin HTTP/1.1\r\nX: "),
        with(":method", "G ET"),
        with(":method", "get"),
        with(":method", "CONNECT"),
        with(":authority", "local host"),
        with(":authority", "a@localhost"),
        with(":authority", "localhost\r\nX: y"),
        and(":path", "/public"),
        and(":method", "GET"),
        and(":authority", "localhost"),
        and(":status", "200"),
        and(":x", "y"),
        and("host", "other"),
        and("Accept", "text/plain"),
        and("connection", "close"),
        and("keep-alive", "timeout=5"),
        and("proxy-connection", "close"),
        and("transfer-encoding", "chunked"),
        and("upgrade", "h2c"),
        and("te", "gzip"),
        and("x", "a\r\nX: y"),
        and("x", "a\nb"),
        and("x", "a\0b"),
        and("x y", "z"),
        and("x:", "z"),
        and("x\r\ny", "z"),
        and("", "z"),
        and("content-length", "1"),
        and("content-length", "+0"),
        and("content-length", "0, 0"),
        [&pseudo[..], &[("host", "localhost"), ("host", "localhost")]].concat(),
        [&[("x", "y")][..], &pseudo].concat(),
        pseudo[1..].to_vec(),
        pseudo[..2].to_vec(),
    ];
    rows.push(
        [
            &pseudo[..],
            &[("content-length", "0"), ("content-length", "1")],
        ]
        .concat(),
    );
    for door in DOORS {
        for fields in &rows {
            let mut client = door.open(&fleet, WINDOW).await;
            client.head(1, END_STREAM, fields);
            client.next_of(1).await;
            let seen = fleet.upstreams["orders"].seen();
            assert_eq!(seen, 0, "{fields:?} at the {door:?}");
        }
        for length in ["0", "5"] {
            let mut client = door.open(&fleet, WINDOW).await;
            client.request(1, 0, "POST", "/public", length);
            client.queue(DATA, END_STREAM, 1, b"GET /admin HTTP/1.1\r\n\r\n");
            let answer = client.next_of(1).await;
            assert!(
                answer.is_none_or(|frame| frame.kind == RESET),
                "{door:?} {length}"
            );
        }
    }
    assert_eq!(fleet.upstreams["orders"].seen(), 0);
    works_afterwards(&fleet).await;
}

/// A parser below us cuts a fragment off `:path`. So do the decision and what is forwarded: nobody sees another path.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b6_a_fragment_is_neither_decided_about_nor_forwarded() {
    let fleet = Fleet::start().await;
    for (door, seen) in [(Door::Gateway, 1), (Door::Inbound, 2)] {
        let mut client = door.open(&fleet, WINDOW).await;
        client.request(1, END_STREAM, "GET", "/public#/../orders/7", "");
        client.next_of(1).await;
        assert_eq!(fleet.upstreams["orders"].seen(), seen, "{door:?}");
    }
    for proxy in ["gateway", "orders"] {
        let events = fleet.proxies[proxy].ledger.events().into_iter();
        let decisions = events.filter_map(|event| event.decision);
        // Whether the caller may connect at all is decided without a path.
        let paths = decisions
            .map(|decision| decision.path)
            .filter(|path| !path.is_empty());
        let paths: Vec<_> = paths.collect();
        assert!(
            !paths.is_empty() && paths.iter().all(|path| path == "/public"),
            "{paths:?}"
        );
    }
}

/// h2 leaves out pseudo fields where there may be none. So do we all other trailers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b7_pseudo_fields_in_trailers_change_no_request() {
    let fleet = Fleet::start().await;
    for (door, seen) in [(Door::Gateway, 1), (Door::Inbound, 2)] {
        let mut client = door.open(&fleet, WINDOW).await;
        client.request(1, 0, "POST", "/public", "");
        client.queue(DATA, 0, 1, b"x");
        client.head(1, END_STREAM, &[(":path", "/orders/7"), (":method", "GET")]);
        client.next_of(1).await;
        assert_eq!(fleet.upstreams["orders"].seen(), seen, "{door:?}");
    }
    let decisions = fleet.gateway().ledger.events();
    assert!(
        decisions
            .iter()
            .all(|event| !format!("{event:?}").contains("orders.read"))
    );
    works_afterwards(&fleet).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b8_tunnels_over_http2_are_refused_with_what_is_in_them() {
    let fleet = Fleet::start().await;
    for door in DOORS {
        for fields in [
            &[(":method", "CONNECT"), (":authority", "localhost:80")][..],
            &[
                (":method", "CONNECT"),
                (":protocol", "websocket"),
                (":scheme", "https"),
                (":path", "/public"),
                (":authority", "localhost"),
                ("sec-websocket-version", "13"),
            ],
            &[
                (":method", "CONNECT"),
                (":protocol", "connect-tcp"),
                (":scheme", "https"),
                (":path", "/live/1"),
                (":authority", "localhost"),
            ],
        ] {
            let mut client = door.open(&fleet, WINDOW).await;
            client.head(1, 0, fields);
            client.queue(DATA, 0, 1, b"GET /public HTTP/1.1\r\nHost: a\r\n\r\n");
            client.ended_within(Duration::from_millis(100)).await;
        }
    }
    assert_eq!(fleet.upstreams["orders"].seen(), 0);
    works_afterwards(&fleet).await;
}

/// A client whose body comes byte by byte, to a service that takes none of it, holds tens of thousands of frames that
/// nobody has read on a connection that carries the calls of others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b5_a_body_that_comes_byte_by_byte_breaks_no_call_of_others() {
    let service = Deaf::listen();
    let fleet = Fleet::start_with(|snapshot| {
        for orders in &mut snapshot.services {
            orders.upstream = service.address;
            for route in &mut orders.routes {
                route.max_body_bytes = 1 << 20;
            }
        }
    })
    .await;
    let mut client = Door::Inbound.open(&fleet, WINDOW).await;
    client.request(1, 0, "POST", "/public", "");
    for _ in 0..60_000 {
        client.queue(DATA, 0, 1, b"x");
    }
    client.request(3, END_STREAM, "GET", "/nowhere", "");
    let answer = client.next_of(3).await.map(|frame| frame.kind);
    assert_eq!(answer, Some(HEADERS));
}

/// A service that nobody can connect to, and nobody is told so.
struct Deaf {
    address: SocketAddr,
    _listener: Socket,
    _waiting: Vec<Socket>,
}

impl Deaf {
    fn listen() -> Self {
        let socket = || Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let listener = socket();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        listener.bind(&any.into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let patience = Duration::from_millis(100);
        let mut waiting = Vec::new();
        // Nobody accepts: soon there is no room for one more.
        loop {
            let next = socket();
            if next.connect_timeout(&address, patience).is_err() {
                break;
            }
            waiting.push(next);
        }
        Self {
            address: address.as_socket().unwrap(),
            _listener: listener,
            _waiting: waiting,
        }
    }
}
