//! HTTP/3: the same answers as over TCP, and what QUIC and its frames bring themselves.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use quinn::{
    ClientConfig, Endpoint, ReadError, ReadToEndError, VarInt, crypto::rustls::QuicClientConfig,
};
use testudo_dataplane::web_client_config;
use tokio::{net::UdpSocket, time::timeout};

use crate::{
    fleet::{ALICE, BOB, Fleet, pem},
    quic::{
        CONTROL, Client, DATA, HEADERS, Line, SETTINGS, SOON, config, connect, frame, head,
        headers, integer, pseudo,
    },
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_over_quic_is_a_request_like_any_other() {
    let fleet = Fleet::start().await;
    let client = Client::connect(&fleet).await;
    let forged = [
        ("x-forwarded-for", "198.51.100.7"),
        ("x-user-id", "usr_forged"),
    ];
    let answer = client.get("/public", &forged).await;
    assert_eq!(answer.status, 200);
    let told = answer.json();
    assert_eq!(told["headers"]["x-forwarded-for"][0], "127.0.0.1");
    assert!(told["headers"]["x-user-id"].is_null(), "{told}");
    assert_eq!(answer.field("x-own").unwrap(), "kept");

    let answer = client.send(&head("HEAD", "/nothing", &[])).await.unwrap();
    assert_eq!((answer.status.as_u16(), &answer.body[..]), (404, &b""[..]));

    for (length, status) in [(0, 200), (900, 200), (2000, 413)] {
        let body = frame(DATA, &vec![7; length]);
        let post = [head("POST", "/public", &[]), body].concat();
        let answer = client.send(&post).await.unwrap();
        assert_eq!(answer.status, status);
        if status == 200 {
            assert_eq!(answer.json()["body"], length);
        }
    }

    let bearer = |subject: &str| format!("Bearer {}", fleet.token(subject));
    for (authorization, status) in [(bearer(ALICE), 200), (bearer(BOB), 403)] {
        let answer = client
            .get("/orders/7", &[("authorization", &authorization)])
            .await;
        assert_eq!(answer.status, status);
        let decision = answer.field("testudo-decision").unwrap();
        let known = ["gateway", "orders"]
            .iter()
            .any(|proxy| fleet.proxies[proxy].ledger.decision(&decision).is_some());
        assert!(known, "{decision} is recorded");
    }
    for (path, status) in [
        ("/orders/7", 401),
        ("/nothing", 404),
        ("/public/%2e%2e/x", 400),
        ("/slow", 504),
    ] {
        assert_eq!(client.get(path, &[]).await.status, status, "{path}");
    }
    // As on the other versions a gRPC client is told in its own way.
    let grpc = [("content-type", "application/grpc"), ("te", "trailers")];
    let answer = client.get("/orders/7", &grpc).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.field("grpc-status").unwrap(), "16");
    let open = r#"testudo_connections{role="gateway"} 1"#;
    assert!(
        fleet.metrics_page().contains(open),
        "{}",
        fleet.metrics_page()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_over_tcp_are_told_where_http3_is_and_others_need_not_be() {
    let fleet = Fleet::start().await;
    let port = fleet.gateway().http3.unwrap().port();
    let over_tcp = fleet.get("/public", None).await;
    let expected = format!("h3=\":{port}\"; ma=86400");
    assert_eq!(over_tcp.headers["alt-svc"], expected);
    let client = Client::connect(&fleet).await;
    let answer = client.get("/public", &[]).await;
    // Entry 83 of the static table is `alt-svc`; no value there says `h3=`.
    assert!(!answer.head.windows(3).any(|window| window == b"h3="));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_malformed_request_is_answered_with_400_and_goes_nowhere() {
    let fleet = Fleet::start().await;
    let client = Client::connect(&fleet).await;
    let before = fleet.upstreams["orders"].seen();
    let get = pseudo("GET", "/public");
    let also = |line: Line<'static>| [&get[..], &[line]].concat();
    let mut rows: Vec<Vec<Line<'_>>> = [
        ("Accept", "a"),
        ("a b", "c"),
        ("a", "b\r\nx-user-id: usr_forged"),
        ("a", "b\0"),
        ("a", " b"),
        ("connection", "close"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "close"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "websocket"),
        ("te", "gzip"),
        ("host", "elsewhere.example"),
        (":path", "/orders/7"),
        (":status", "200"),
        ("content-length", "5"),
        ("content-length", "+0"),
    ]
    .map(also)
    .to_vec();
    // Twice, late, missing.
    rows.push([&get[..], &get[..1]].concat());
    rows.push([&get[..3], &[("a", "b")], &get[3..]].concat());
    for missing in 0..get.len() {
        let mut lines = get.to_vec();
        lines.remove(missing);
        rows.push(lines);
    }
    for (place, value) in [
        (0, "G ET"),
        (1, "http"),
        (2, "user@localhost"),
        (2, "a,b"),
        (3, "public"),
        (3, "/public#x"),
        (3, "/pub lic"),
        (3, "*"),
        (3, "//evil/"),
        (3, "/%c0%af"),
    ] {
        let mut lines = get.to_vec();
        lines[place].1 = value;
        rows.push(lines);
    }
    for row in rows {
        let answer = client.send(&headers(&row)).await.unwrap();
        let status = if row[0].1 == "G ET" { 501 } else { 400 };
        assert_eq!(answer.status, status, "{row:?}");
    }
    for method in ["CONNECT", "TRACE", "get"] {
        let answer = client.send(&head(method, "/public", &[])).await.unwrap();
        assert_eq!(answer.status, 501, "{method}");
    }
    // A WebSocket over HTTP/3 (RFC 9220).
    let mut websocket = pseudo("CONNECT", "/live/7").to_vec();
    websocket.push((":protocol", "websocket"));
    assert_eq!(client.send(&headers(&websocket)).await.unwrap().status, 501);
    let many: Vec<_> = (0..101).map(|n| format!("x-{n}")).collect();
    let many: Vec<_> = many.iter().map(|name| (name.as_str(), "")).collect();
    assert_eq!(client.get("/public", &many).await.status, 431);
    assert_eq!(fleet.upstreams["orders"].seen(), before);
    assert_eq!(client.get("/public", &[]).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_length_that_is_not_kept_makes_no_second_request_and_no_shorter_one() {
    let fleet = Fleet::start().await;
    let client = Client::connect(&fleet).await;
    let post = |length| head("POST", "/public", &[("content-length", length)]);
    let smuggled = frame(DATA, b"GET /orders/7 HTTP/1.1\r\n\r\n");
    for (stream, kept) in [
        ([post("4"), frame(DATA, b"1234")], true),
        ([post("4"), smuggled.clone()], false),
        ([post("0"), smuggled], false),
        ([post("40"), frame(DATA, b"1234")], false),
    ] {
        let before = fleet.upstreams["orders"].seen();
        let answer = client.send(&stream.concat()).await;
        match answer {
            Ok(answer) if kept => assert_eq!(
                (answer.status.as_u16(), answer.json()["body"].as_u64()),
                (200, Some(4))
            ),
            Ok(answer) => assert_eq!(answer.status, 400),
            Err(error) => assert!(!kept, "{error}"),
        }
        let seen = fleet.upstreams["orders"].seen() - before;
        assert!(seen <= 1, "{seen} requests");
    }
    // Trailers are nobody's fields.
    let trailers = headers(&[("x-user-id", "usr_forged"), ("content-length", "7")]);
    let stream = [head("POST", "/public", &[]), frame(DATA, b"1234"), trailers].concat();
    let told = client.send(&stream).await.unwrap().json();
    assert_eq!(told["body"], 4);
    assert!(told["headers"]["x-user-id"].is_null(), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_of_any_size_cost_no_more_than_the_limit() {
    let fleet = Fleet::start().await;
    let client = Client::connect(&fleet).await;
    let long = "x".repeat(40_000);
    assert_eq!(
        client.get("/public", &[("x-long", &long)]).await.status,
        431
    );
    // Only announced: it is refused before it comes.
    let announced = [integer(HEADERS), integer(1 << 40)].concat();
    let (mut up, mut down) = client.quic.open_bi().await.unwrap();
    up.write_all(&announced).await.unwrap();
    let first = timeout(SOON, down.read_chunk(64, true)).await.unwrap();
    assert!(first.unwrap().is_some());
    // Each byte stands for a line of the static table.
    let mut bomb = vec![0, 0];
    bomb.resize(30_000, 0xd1);
    let answer = client.send(&frame(HEADERS, &bomb)).await.unwrap();
    assert_eq!(answer.status, 431);
    assert_eq!(client.get("/public", &[]).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_breaks_the_rules_of_the_connection_loses_it() {
    let fleet = Fleet::start().await;
    let get = head("GET", "/public", &[]);
    // On a stream of requests.
    for (bytes, code) in [
        (frame(DATA, b"early"), 0x105),
        (frame(SETTINGS, b""), 0x105),
        ([get.clone(), frame(0x8, b"\x00")].concat(), 0x105),
        (
            [get.clone(), headers(&[]), frame(DATA, b"late")].concat(),
            0x105,
        ),
        (frame(HEADERS, b"\x02\x00\x80"), 0x200),
        (frame(HEADERS, b"\x00\x00\xff\x7f"), 0x200),
        (frame(HEADERS, b"")[..1].to_vec(), 0x106),
        (
            [get, integer(DATA), integer(9), b"cut".to_vec()].concat(),
            0x106,
        ),
    ] {
        let client = Client::connect(&fleet).await;
        let (mut up, down) = client.quic.open_bi().await.unwrap();
        up.write_all(&bytes).await.unwrap();
        up.finish().unwrap();
        assert_eq!(client.closed().await, code, "{bytes:?}");
        drop(down);
    }
    // On one of its own direction, with the one that the client has.
    for (bytes, is_whole, code) in [
        (CONTROL.to_vec(), false, 0x103),
        (b"\x01\x00".to_vec(), false, 0x103),
        (b"\x02\x3f\xe1\x1f".to_vec(), false, 0x201),
        (b"\x02\x20".to_vec(), true, 0x104),
        (b"\x03".to_vec(), true, 0x104),
    ] {
        let client = Client::connect(&fleet).await;
        let mut stream = client.quic.open_uni().await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        if is_whole {
            stream.finish().unwrap();
        }
        assert_eq!(client.closed().await, code, "{bytes:?}");
    }
    // As its control stream.
    for (bytes, is_whole, code) in [
        ([&[0][..], &frame(0x7, b"\x00")].concat(), false, 0x10a),
        ([CONTROL, &frame(DATA, b"")].concat(), false, 0x105),
        ([CONTROL, &frame(SETTINGS, b"")].concat(), false, 0x105),
        ([CONTROL, &frame(0x3, b"\x00")].concat(), false, 0x108),
        (
            [&[0][..], &frame(SETTINGS, b"\x02\x00")].concat(),
            false,
            0x109,
        ),
        (
            [&[0][..], &integer(SETTINGS), &integer(1 << 40)].concat(),
            false,
            0x107,
        ),
        (
            [CONTROL, &frame(0x21, b"grease").repeat(3000)].concat(),
            false,
            0x107,
        ),
        (CONTROL.to_vec(), true, 0x104),
    ] {
        let (_endpoint, quic) = connect(&fleet, config(&fleet)).await;
        let mut stream = quic.open_uni().await.unwrap();
        // It may be closed on the way.
        let _ = stream.write_all(&bytes).await;
        if is_whole {
            stream.finish().unwrap();
        }
        let closed = timeout(SOON, quic.closed()).await.unwrap().to_string();
        assert!(closed.contains(&code.to_string()), "{closed} for {code:#x}");
    }
    // Those that mean nothing are only told so, as long as they are few.
    let client = Client::connect(&fleet).await;
    let mut odd = client.quic.open_uni().await.unwrap();
    odd.write_all(b"\x21odd").await.unwrap();
    assert_eq!(odd.stopped().await.unwrap(), Some(VarInt::from_u32(0x103)));
    let greased = [
        frame(0x21, b"grease"),
        head("GET", "/public", &[]),
        frame(0x40, b""),
    ]
    .concat();
    assert_eq!(client.send(&greased).await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_requests_that_are_broken_off_ends_the_connection() {
    let fleet = Fleet::start().await;
    let other = Client::connect(&fleet).await;
    let client = Client::connect(&fleet).await;
    let get = head("GET", "/slow-but-fine", &[]);
    let before = fleet.upstreams["orders"].seen();
    let mut sent = 0;
    while let Ok(Ok((mut up, mut down))) = timeout(SOON, client.quic.open_bi()).await {
        let _ = up.write_all(&get).await;
        let _ = up.reset(VarInt::from_u32(0x10c));
        let _ = down.stop(VarInt::from_u32(0x10c));
        sent += 1;
        assert!(sent < 20_000, "the flood goes on");
    }
    assert_eq!(client.closed().await, 0x107);
    assert_eq!(other.get("/public", &[]).await.status, 200);
    let seen = fleet.upstreams["orders"].seen() - before;
    assert!(seen <= 201, "{seen} of {sent} requests came through");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_beyond_the_limit_wait() {
    let fleet = Fleet::start().await;
    let client = Client::connect(&fleet).await;
    let mut open = Vec::new();
    // Streams on which nothing is said.
    while let Ok(stream) = timeout(Duration::from_millis(300), client.quic.open_bi()).await {
        open.push(stream.unwrap());
        assert!(open.len() <= 100, "there is a limit");
    }
    assert_eq!(open.len(), 100);
    let other = Client::connect(&fleet).await;
    assert_eq!(other.get("/public", &[]).await.status, 200);
}

/// The client's first packets of one connection, as they would have been sent.
async fn first_packets(config: ClientConfig) -> Vec<Vec<u8>> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    let _connecting = endpoint.connect_with(config, address, "localhost").unwrap();
    let (mut packets, mut wait) = (Vec::new(), SOON);
    let mut packet = vec![0; 2048];
    while let Ok(length) = timeout(wait, socket.recv(&mut packet)).await {
        packets.push(packet[..length.unwrap()].to_vec());
        wait = Duration::from_millis(100);
    }
    packets
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_a_flood_of_handshakes_clients_must_show_their_address_first() {
    let fleet = Fleet::start().await;
    let gateway = fleet.gateway().http3.unwrap();
    // From addresses at which nobody goes on: each of the two workers trusts the first 64.
    let mut sockets = Vec::new();
    // Few at a time: the kernel drops what does not fit.
    for _ in 0..9 {
        let flood = (0..20).map(|_| async {
            let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            for packet in first_packets(config(&fleet)).await {
                socket.send_to(&packet, gateway).await.unwrap();
            }
            socket
        });
        sockets.extend(join_all(flood).await);
    }
    let (mut trusted, mut retried) = (0, 0);
    for socket in sockets {
        let mut packet = vec![0; 2048];
        let heard = timeout(Duration::from_secs(2), socket.recv(&mut packet)).await;
        heard.expect("an answer").unwrap();
        // RFC 9000 section 17.2: long header, of kind Initial or Retry. The second bit may be anything (RFC 9287).
        match packet[0] & 0xb0 {
            0x80 => trusted += 1,
            0xb0 => retried += 1,
            other => panic!("kind {other:#x}"),
        }
    }
    assert!(
        trusted <= 128 && retried >= 52,
        "{trusted} trusted, {retried} retried"
    );
    // Whoever is where it says is served.
    for _ in 0..8 {
        let client = Client::connect(&fleet).await;
        assert_eq!(client.get("/public", &[]).await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_sent_more_than_three_times_what_came_from_there() {
    let fleet = Fleet::start().await;
    let gateway = fleet.gateway().http3.unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let packets = first_packets(config(&fleet)).await;
    let mut sent = 0;
    for packet in &packets {
        assert!(packet.len() >= 1200);
        sent += socket.send_to(packet, gateway).await.unwrap();
    }
    let (mut came, mut heard) = (0, vec![0; 65_536]);
    while let Ok(count) = timeout(Duration::from_secs(2), socket.recv(&mut heard)).await {
        came += count.unwrap();
    }
    assert!(came > 0 && came <= 3 * sent, "{came} bytes for {sent}");
    // A first packet below 1200 bytes is worth no answer (RFC 9000 section 14.1).
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    silent.send_to(&packets[0][..600], gateway).await.unwrap();
    let answer = timeout(Duration::from_millis(300), silent.recv(&mut heard)).await;
    assert!(answer.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_taken_before_the_handshake_and_nothing_but_http3_is_spoken() {
    let fleet = Fleet::start().await;
    let root = pem(fleet.root());
    let mut tls = web_client_config(root.as_bytes(), &["h3"]).unwrap();
    Arc::make_mut(&mut tls).enable_early_data = true;
    let early = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    let other = web_client_config(root.as_bytes(), &["hq-interop"]).unwrap();
    let other = ClientConfig::new(Arc::new(QuicClientConfig::try_from(other).unwrap()));
    let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let gateway = fleet.gateway().http3.unwrap();
    for _ in 0..2 {
        // The second time with a ticket of the first.
        let connecting = endpoint
            .connect_with(early.clone(), gateway, "localhost")
            .unwrap();
        let Err(connecting) = connecting.into_0rtt() else {
            panic!("early data would be taken");
        };
        let quic = timeout(SOON, connecting).await.unwrap().unwrap();
        // Tickets come after the handshake.
        tokio::time::sleep(Duration::from_millis(100)).await;
        quic.close(VarInt::from_u32(0x100), b"");
    }
    let connecting = endpoint.connect_with(other, gateway, "localhost").unwrap();
    assert!(timeout(SOON, connecting).await.unwrap().is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_sends_or_takes_a_body_too_slowly_is_given_up() {
    let fleet = Fleet::start_with(|snapshot| {
        snapshot.transfer.min_bytes_per_second = 10_000;
        snapshot.transfer.grace_millis = 400;
    })
    .await;
    let client = Client::connect(&fleet).await;
    let begun = [head("POST", "/public", &[]), frame(DATA, b"x")].concat();
    let (mut up, mut down) = client.quic.open_bi().await.unwrap();
    up.write_all(&begun).await.unwrap();
    let answer = timeout(SOON, down.read_to_end(1 << 20)).await.unwrap();
    let answer = String::from_utf8_lossy(&answer.unwrap()).into_owned();
    assert!(answer.contains("request.body_too_slow"), "{answer}");

    // The service tells what it received, which is more than the client has room for.
    let mut narrow = quinn::TransportConfig::default();
    narrow.stream_receive_window(VarInt::from_u32(1024));
    let mut narrow_config = config(&fleet);
    narrow_config.transport_config(Arc::new(narrow));
    let client = Client::connect_with(&fleet, narrow_config).await;
    let long = "x".repeat(20_000);
    let (mut up, mut down) = client.quic.open_bi().await.unwrap();
    let get = head("GET", "/public", &[("x-long", &long)]);
    up.write_all(&get).await.unwrap();
    up.finish().unwrap();
    let reset = timeout(SOON, down.received_reset()).await.unwrap();
    assert_eq!(reset.unwrap(), Some(VarInt::from_u32(0x102)));
    assert_eq!(client.get("/nothing", &[]).await.status, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_says_goodbye_and_finishes_what_is_under_way() {
    let mut fleet = Fleet::start().await;
    let client = Client::connect(&fleet).await;
    let mut control = client.quic.accept_uni().await.unwrap();
    let (mut up, mut down) = client.quic.open_bi().await.unwrap();
    up.write_all(&head("GET", "/slow-but-fine", &[]))
        .await
        .unwrap();
    up.finish().unwrap();
    while fleet.upstreams["orders"].seen() == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let gateway = fleet.proxies.get_mut("gateway").unwrap();
    let signal = gateway.drain.take().unwrap();
    let running = gateway.running.take().unwrap();
    tokio::spawn(signal.start(Duration::from_secs(5)));
    let stopped = tokio::task::spawn_blocking(move || running.join());

    // Settings, and then GOAWAY with the number of the next request.
    let mut said = Vec::new();
    while !said.ends_with(&frame(0x7, &integer(4))) {
        let chunk = timeout(SOON, control.read_chunk(64, true)).await.unwrap();
        said.extend_from_slice(&chunk.unwrap().unwrap().bytes);
    }
    let late = client.send(&head("GET", "/public", &[])).await.unwrap_err();
    let rejected = ReadToEndError::Read(ReadError::Reset(VarInt::from_u32(0x10b)));
    assert_eq!(late, rejected);
    let answer = timeout(SOON, down.read_to_end(1 << 20)).await.unwrap();
    assert!(!answer.unwrap().is_empty());
    assert_eq!(client.closed().await, 0x100);
    timeout(SOON, stopped).await.unwrap().unwrap().unwrap();
}
