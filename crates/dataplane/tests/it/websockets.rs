//! WebSockets: opened like any request, carried through every hop, ended when what allowed them does.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use testudo_model::{
    Service,
    event::{Detail, Event},
    snapshot::{Revoked, Snapshot, SnapshotVersion},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::client::TlsStream;

use crate::{
    changes::revocation,
    client::{self, status_of},
    fleet::{ALICE, BOB, Fleet},
    upstream::accept,
};

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const SOON: Duration = Duration::from_secs(2);

fn handshake(host: &str, target: &str, fields: &[(&str, &str)]) -> String {
    let mut text = format!(
        "GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n"
    );
    for (name, value) in fields {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text + "\r\n"
}

async fn read_until(stream: &mut (impl AsyncRead + Unpin), end: &str) -> String {
    let mut text = Vec::new();
    let reading = async {
        while !text.ends_with(end.as_bytes()) {
            match stream.read_u8().await {
                Ok(byte) => text.push(byte),
                Err(_) => break,
            }
        }
    };
    let _ = timeout(Duration::from_secs(5), reading).await;
    String::from_utf8_lossy(&text).into_owned()
}

/// An open WebSocket, and what the service says opened it.
struct Open<S> {
    stream: S,
    answer: String,
    told: Value,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Open<S> {
    async fn over(mut stream: S, handshake: &str) -> Self {
        stream.write_all(handshake.as_bytes()).await.unwrap();
        let answer = read_until(&mut stream, "\r\n\r\n").await;
        assert_eq!(status_of(&answer), 101, "{answer}");
        let told = read_until(&mut stream, "\n").await;
        let told = serde_json::from_str(&told).unwrap();
        Self {
            stream,
            answer,
            told,
        }
    }

    fn received(&self, name: &str) -> Option<&str> {
        self.told["headers"][name][0].as_str()
    }

    async fn echoes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
        self.stream.flush().await.unwrap();
        let mut heard = vec![0; bytes.len()];
        timeout(SOON, self.stream.read_exact(&mut heard))
            .await
            .expect("the echo comes")
            .unwrap();
        assert_eq!(heard, bytes);
    }

    /// Whether the stream ends by itself, within `limit`.
    async fn ends_within(&mut self, limit: Duration) -> bool {
        let mut rest = Vec::new();
        timeout(limit, self.stream.read_to_end(&mut rest))
            .await
            .is_ok()
    }
}

async fn open_at_gateway(fleet: &Fleet, token: &str) -> Open<TlsStream<TcpStream>> {
    let authorization = format!("Bearer {token}");
    let fields = [
        ("Authorization", authorization.as_str()),
        ("Sec-WebSocket-Protocol", "chat, superchat"),
        ("Sec-WebSocket-Extensions", "permessage-deflate"),
        ("X-User-Id", "usr_forged"),
    ];
    let handshake = handshake("localhost", "/live/7?room=1", &fields);
    Open::over(fleet.gateway_stream().await, &handshake).await
}

async fn refused(fleet: &Fleet, token: Option<&str>, path: &str) -> client::Reply {
    let authorization = token.map(|token| format!("Bearer {token}"));
    let mut fields = vec![
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", KEY),
    ];
    if let Some(authorization) = &authorization {
        fields.push(("authorization", authorization));
    }
    client::over_http1(fleet.gateway_stream().await, "GET", path, &fields, b"").await
}

/// How a stream ended, by the event of one proxy.
pub async fn end_of_stream(fleet: &Fleet, proxy: &str) -> Event {
    for _ in 0..100 {
        let events = fleet.proxies[proxy].ledger.events();
        let mut ends = events
            .into_iter()
            .filter(|event| event.activity.starts_with("stream.close."));
        if let Some(end) = ends.next() {
            assert!(ends.next().is_none(), "a stream ends once");
            return end;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{proxy} did not record the end of the stream");
}

pub fn detail(event: &Event, name: &str) -> String {
    match &event.details[name] {
        Detail::Text(text) => text.as_str().to_owned(),
        Detail::Number(number) => number.to_string(),
        Detail::Flag(flag) => flag.to_string(),
    }
}

pub fn service<'a>(snapshot: &'a mut Snapshot, name: &str) -> &'a mut Service {
    let named = |service: &&mut Service| service.name.as_str() == name;
    snapshot.services.iter_mut().find(named).unwrap()
}

/// A service that answers each connection with `answer`, once it has heard a head; and all it has heard.
async fn scripted(
    delay: Duration,
    answer: impl Fn(&str) -> String + Send + Sync + 'static,
) -> (SocketAddr, tokio::sync::mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (heard, hearing) = tokio::sync::mpsc::channel(8);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let head = read_until(&mut stream, "\r\n\r\n").await;
            let mut early = vec![0; 1024];
            let count = timeout(delay, stream.read(&mut early)).await;
            let early = &early[..count.map_or(0, Result::unwrap)];
            let told = head.clone() + &String::from_utf8_lossy(early);
            heard.send(told).await.unwrap();
            stream.write_all(answer(&head).as_bytes()).await.unwrap();
            let _ = read_until(&mut stream, "never").await;
        }
    });
    (address, hearing)
}

fn right_answer(head: &str) -> String {
    let key = head
        .lines()
        .find_map(|line| line.strip_prefix("sec-websocket-key: "))
        .unwrap();
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {}\r\n\r\n",
        accept(key)
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_is_a_request_first_and_then_carries_bytes_both_ways() {
    let fleet = Fleet::start().await;
    let token = fleet.token(ALICE);
    let mut open = open_at_gateway(&fleet, &token).await;
    let answer = open.answer.to_ascii_lowercase();
    assert!(open.answer.contains(&accept(KEY)), "{answer}");
    for field in [
        "connection: upgrade",
        "upgrade: websocket",
        "sec-websocket-protocol: chat, superchat",
        "sec-websocket-extensions: permessage-deflate",
        "testudo-decision: dec_",
    ] {
        assert!(answer.contains(field), "{field} in {answer}");
    }
    assert_eq!(open.told["path"], "/live/7?room=1");
    assert_eq!(open.received("x-user-id"), Some(ALICE));
    assert_eq!(open.received("x-calling-service"), Some("gateway"));
    assert_eq!(open.received("authorization"), None);
    assert_ne!(open.received("sec-websocket-key"), Some(KEY));
    let large: Vec<u8> = (0..200_000_u32).map(|n| n as u8).collect();
    let mut sent = 0;
    for bytes in [&b"hello"[..], b"\0\r\n\r\nGET / HTTP/1.1\r\n\r\n", &large] {
        open.echoes(bytes).await;
        sent += bytes.len();
    }
    open.stream.shutdown().await.unwrap();
    assert!(
        open.ends_within(SOON).await,
        "the end of one side reaches the other"
    );
    for (proxy, role) in [("gateway", "gateway"), ("orders", "inbound")] {
        let end = end_of_stream(&fleet, proxy).await;
        assert_eq!(end.activity, format!("stream.close.{role}"));
        assert_eq!(detail(&end, "reason"), "closed", "{end:?}");
        assert_eq!(end.target.as_deref(), Some("orders:orders.live"));
        assert_eq!(end.actor.subject.as_deref(), Some(ALICE));
        assert_eq!(detail(&end, "to_service_bytes"), sent.to_string());
        let decision = detail(&end, "decision");
        assert!(fleet.proxies[proxy].ledger.decision(&decision).is_some());
    }
    assert_eq!(fleet.get("/orders/7", Some(&token)).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_http2_client_opens_one_with_extended_connect() {
    let fleet = Fleet::start().await;
    let stream = TokioIo::new(fleet.gateway_h2_stream().await);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), stream)
            .await
            .unwrap();
    tokio::spawn(connection);
    let connect = |path: &str, protocol: &'static str, token: &str| {
        Request::builder()
            .method(Method::CONNECT)
            .uri(format!("https://localhost{path}"))
            .header("authorization", format!("Bearer {token}"))
            .header("sec-websocket-version", "13")
            .extension(hyper::ext::Protocol::from_static(protocol))
            .body(Empty::<Bytes>::new())
            .unwrap()
    };
    let (alice, bob) = (fleet.token(ALICE), fleet.token(BOB));
    // The server's settings are known after its first answer.
    for (path, protocol, token, status, code) in [
        ("/live/7", "websocket", &bob, 403, "policy.user_leg_denied"),
        ("/orders/7", "websocket", &alice, 501, "route.websocket"),
        ("/live/7", "connect-udp", &alice, 501, "request.method"),
    ] {
        let answer = sender.send_request(connect(path, protocol, token)).await;
        let answer = answer.unwrap();
        assert_eq!(answer.status().as_u16(), status, "{path} {protocol}");
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        let problem: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(problem["code"], code);
    }
    assert_eq!(fleet.upstreams["orders"].seen(), 0);

    let opening = sender.send_request(connect("/live/7", "websocket", &alice));
    let mut answer = opening.await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert!(!answer.headers().contains_key("sec-websocket-accept"));
    let upgraded = hyper::upgrade::on(&mut answer).await.unwrap();
    let mut stream = TokioIo::new(upgraded);
    let told = read_until(&mut stream, "\n").await;
    assert!(told.contains(ALICE), "{told}");
    stream.write_all(b"over HTTP/2").await.unwrap();
    let mut heard = [0; 11];
    timeout(SOON, stream.read_exact(&mut heard))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&heard, b"over HTTP/2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_opens_one_to_another_through_both_sidecars() {
    let fleet = Fleet::start().await;
    let outbound = fleet.proxies["orders"].outbound.unwrap();
    let direct = TcpStream::connect(outbound).await.unwrap();
    let target = "http://inventory/live/7";
    let mut open = Open::over(direct, &handshake("inventory", target, &[])).await;
    assert_eq!(open.received("x-calling-service"), Some("orders"));
    open.echoes(b"one").await;

    // Clients that know a proxy ask it for a tunnel first.
    let mut tunnel = TcpStream::connect(outbound).await.unwrap();
    tunnel
        .write_all(b"CONNECT inventory:80 HTTP/1.1\r\nHost: inventory:80\r\n\r\n")
        .await
        .unwrap();
    let answer = read_until(&mut tunnel, "\r\n\r\n").await;
    assert_eq!(status_of(&answer), 200, "{answer}");
    let mut tunnelled = Open::over(tunnel, &handshake("inventory", "/live/8", &[])).await;
    tunnelled.echoes(b"two").await;

    // The mailer may not call the inventory, over whatever.
    let outbound = fleet.proxies["mailer"].outbound.unwrap();
    let mut stream = TcpStream::connect(outbound).await.unwrap();
    stream
        .write_all(handshake("inventory", target, &[]).as_bytes())
        .await
        .unwrap();
    let answer = read_until(&mut stream, "\r\n\r\n").await;
    assert_eq!(status_of(&answer), 403, "{answer}");
    assert_eq!(fleet.upstreams["inventory"].seen(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_reaches_the_service_of_a_websocket_that_is_refused() {
    let fleet = Fleet::start().await;
    let (alice, bob) = (fleet.token(ALICE), fleet.token(BOB));
    for (token, path, status, code) in [
        (None, "/live/7", 401, "policy.user_required"),
        (Some("nonsense"), "/live/7", 401, "token.untrusted"),
        (Some(&*bob), "/live/7", 403, "policy.user_leg_denied"),
        (Some(&*alice), "/orders/7", 501, "route.websocket"),
        (None, "/public", 501, "route.websocket"),
        (Some(&*alice), "/nowhere", 404, "route.not_found"),
    ] {
        let reply = refused(&fleet, token, path).await;
        assert_eq!((reply.status, reply.code()), (status, code), "{path}");
    }
    let good = handshake("localhost", "/live/7", &[]);
    for (from, to, status) in [
        ("Version: 13", "Version: 8", 426),
        ("Connection: Upgrade", "Connection: keep-alive", 400),
        (KEY, "c2hvcnQ=", 400),
        ("Upgrade: websocket", "Upgrade: h2c, websocket", 501),
        ("Upgrade: websocket", "Upgrade: tls/1.3", 501),
        ("GET ", "POST ", 400),
        ("Host", "Content-Length: 4\r\nHost", 400),
    ] {
        let bytes = good.replace(from, to);
        let answer = client::raw(fleet.gateway_stream().await, bytes.as_bytes()).await;
        assert_eq!(status_of(&answer), status, "{to}: {answer}");
        assert_eq!(answer.contains("sec-websocket-version: 13"), status == 426);
    }
    assert_eq!(fleet.upstreams["orders"].seen(), 0);

    // h2c stays ignored: the request is an ordinary one.
    let fields = [("connection", "upgrade"), ("upgrade", "h2c")];
    let reply = fleet.call("GET", "/public", None, &fields).await;
    assert_eq!((reply.status, reply.received("upgrade")), (200, None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_byte_after_the_handshake_reaches_the_service_before_its_101() {
    const SMUGGLED: &str =
        "GET /orders/1 HTTP/1.1\r\nHost: localhost\r\nX-User-Id: usr_forged\r\n\r\n";
    let delay = Duration::from_millis(500);
    for (answer, is_opened) in [
        (right_answer as fn(&str) -> String, true),
        (
            |_| "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n".to_owned(),
            false,
        ),
    ] {
        let (address, mut heard) = scripted(delay, answer).await;
        let fleet =
            Fleet::start_with(|snapshot| service(snapshot, "orders").upstream = address).await;
        let authorization = format!("Bearer {}", fleet.token(ALICE));
        let fields = [("Authorization", authorization.as_str())];
        let bytes = handshake("localhost", "/live/7", &fields) + SMUGGLED;
        let answer = client::raw(fleet.gateway_stream().await, bytes.as_bytes()).await;
        let heard = heard.recv().await.unwrap();
        assert!(heard.ends_with("\r\n\r\n"), "{heard}");
        assert!(!heard.contains("usr_forged"), "{heard}");
        assert_eq!(status_of(&answer), if is_opened { 101 } else { 403 });
        // Refused by the service, what follows is the client's next request, decided about like any: it has no token.
        assert_eq!(answer.contains("HTTP/1.1 401"), !is_opened, "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_answers_another_handshake_is_not_believed() {
    let wrong = |head: &str| right_answer(head).replace("Accept: ", "Accept: x");
    let (address, _heard) = scripted(Duration::ZERO, wrong).await;
    let fleet = Fleet::start_with(|snapshot| service(snapshot, "orders").upstream = address).await;
    let token = fleet.token(ALICE);
    let reply = refused(&fleet, Some(&token), "/live/7").await;
    assert_eq!((reply.status, reply.code()), (502, "upstream.websocket"));
    // And one that switches although nobody asked.
    let switch = |_: &str| {
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
            .to_owned()
    };
    let (address, _heard) = scripted(Duration::ZERO, switch).await;
    let fleet = Fleet::start_with(|snapshot| service(snapshot, "orders").upstream = address).await;
    let reply = fleet.get("/public", None).await;
    assert_eq!((reply.status, reply.code()), (502, "upstream.websocket"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_ends_with_the_session_that_opened_it_and_no_other() {
    let fleet = Fleet::start().await;
    let claims = fleet.claims(ALICE);
    let mut open = open_at_gateway(&fleet, &fleet.sign(&claims)).await;
    let mut other = open_at_gateway(&fleet, &fleet.token(ALICE)).await;
    let revoked = revocation(&fleet, 1, Revoked::Session(claims.sid.unwrap()));
    let gateway = &fleet.gateway().state;
    gateway.apply_revocations(&[revoked]).unwrap();
    assert!(open.ends_within(Duration::from_secs(1)).await);
    let end = end_of_stream(&fleet, "gateway").await;
    assert_eq!(detail(&end, "reason"), "user_revoked");
    other.echoes(b"still here").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_ends_when_a_new_snapshot_forbids_it() {
    type Change = fn(&mut Snapshot);
    let changes: [(&str, Change); 4] = [
        ("policy.user_leg_denied", |snapshot| {
            snapshot.policies[0].text = snapshot.policies[0]
                .text
                .replace("Fleet::Action::\"read\", ", "");
        }),
        ("route_changed", |snapshot| {
            for route in &mut service(snapshot, "orders").routes {
                route.websocket = false;
            }
        }),
        ("source_denied", |snapshot| {
            snapshot.gateway.ip.deny = vec!["127.0.0.0/8".parse().unwrap()];
        }),
        ("policy.service_leg_denied", |snapshot| {
            service(snapshot, "orders").quarantined = true;
        }),
    ];
    for (reason, change) in changes {
        let mut fleet = Fleet::start().await;
        let mut open = open_at_gateway(&fleet, &fleet.token(ALICE)).await;
        fleet.snapshot.version = SnapshotVersion(2);
        fleet.activate();
        open.echoes(b"nothing has changed for it").await;
        fleet.snapshot.version = SnapshotVersion(3);
        change(&mut fleet.snapshot);
        fleet.activate();
        assert!(open.ends_within(Duration::from_secs(1)).await, "{reason}");
        let end = end_of_stream(&fleet, "gateway").await;
        assert_eq!(detail(&end, "reason"), reason);
        end_of_stream(&fleet, "orders").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_ends_when_a_workload_on_its_way_is_revoked() {
    let fleet = Fleet::start().await;
    let outbound = fleet.proxies["orders"].outbound.unwrap();
    let stream = TcpStream::connect(outbound).await.unwrap();
    let handshake = handshake("inventory", "http://inventory/live/7", &[]);
    let mut open = Open::over(stream, &handshake).await;
    open.echoes(b"fine").await;
    let revoked = revocation(&fleet, 1, Revoked::Workload(fleet.service_id("orders")));
    let inventory = &fleet.proxies["inventory"].state;
    inventory.apply_revocations(&[revoked]).unwrap();
    assert!(open.ends_within(Duration::from_secs(1)).await);
    let end = end_of_stream(&fleet, "inventory").await;
    assert_eq!(detail(&end, "reason"), "workload_revoked");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_outlives_the_deadline_of_its_route_but_not_that_of_the_drain() {
    let mut fleet = Fleet::start_with(|snapshot| {
        for route in &mut service(snapshot, "orders").routes {
            route.timeout_millis = 300;
        }
    })
    .await;
    let mut open = open_at_gateway(&fleet, &fleet.token(ALICE)).await;
    tokio::time::sleep(Duration::from_millis(900)).await;
    open.echoes(b"later").await;

    let gateway = fleet.proxies.get_mut("gateway").unwrap();
    let (signal, running) = (
        gateway.drain.take().unwrap(),
        gateway.running.take().unwrap(),
    );
    let drained = tokio::spawn(signal.start(Duration::from_secs(10)));
    tokio::time::sleep(Duration::from_millis(500)).await;
    open.echoes(b"a drain lets it finish").await;
    // The gateway's drain deadline is 5 s.
    assert!(open.ends_within(Duration::from_secs(8)).await);
    drained.await.unwrap();
    tokio::task::spawn_blocking(move || running.join())
        .await
        .unwrap()
        .unwrap();
    let end = end_of_stream(&fleet, "gateway").await;
    assert_eq!(detail(&end, "reason"), "drained");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_read_is_not_sent_to_without_end() {
    let fleet = Fleet::start().await;
    let mut open = open_at_gateway(&fleet, &fleet.token(ALICE)).await;
    // The echo comes back and nobody reads it, so in the end nobody may write either.
    let chunk = vec![0; 64 * 1024];
    let mut sent = 0;
    while timeout(Duration::from_secs(2), open.stream.write_all(&chunk))
        .await
        .is_ok()
    {
        sent += chunk.len();
        assert!(sent < 256 << 20, "somebody keeps {sent} bytes");
    }
}
