//! Connections that nobody reads: between services, from outside at a port, and TLS that passes by its server name.

use std::{
    io::ErrorKind,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Empty;
use hyper::ext::Protocol;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConnection, RootCertStore, pki_types::ServerName};
use testudo_model::{
    Route, ServiceProtocol,
    snapshot::{ProxyProtocol, Revoked, Snapshot, SnapshotVersion},
};
use testudo_trust::{ExpectedPeer, mesh_client_config};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use crate::{
    changes::revocation,
    client::{self, status_of},
    fleet::Fleet,
    websockets::{detail, end_of_stream, service},
};

const SOON: Duration = Duration::from_secs(5);

/// A service that knows TCP and nothing else.
struct Plain {
    address: SocketAddr,
    seen: Arc<AtomicUsize>,
    connections: mpsc::Receiver<TcpStream>,
}

impl Plain {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, connections) = mpsc::channel(64);
        let seen = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let _ = sender.send(stream).await;
            }
        });
        Self {
            address,
            seen,
            connections,
        }
    }

    async fn next(&mut self) -> TcpStream {
        timeout(SOON, self.connections.recv())
            .await
            .expect("a connection comes")
            .unwrap()
    }

    fn seen(&self) -> usize {
        self.seen.load(Ordering::SeqCst)
    }
}

/// Makes `name` a service that takes connections, at `address`.
fn make_plain(snapshot: &mut Snapshot, name: &str, address: SocketAddr) {
    let service = service(snapshot, name);
    service.protocol = ServiceProtocol::Tcp;
    service.routes = vec![Route::for_connections()];
    service.upstream = address;
}

/// A fleet in which `name` takes connections, after `change`.
async fn fleet(name: &str, change: impl FnOnce(&mut Snapshot)) -> (Fleet, Plain) {
    let plain = Plain::start().await;
    let fleet = Fleet::start_with(|snapshot| {
        make_plain(snapshot, name, plain.address);
        change(snapshot);
    })
    .await;
    (fleet, plain)
}

/// A connection of `caller` to `called`, at its own sidecar.
async fn connect(fleet: &Fleet, caller: &str, called: &str) -> TcpStream {
    let address = fleet.proxies[caller].connections[called];
    TcpStream::connect(address).await.unwrap()
}

/// What is left to read, to its end or its reset.
async fn rest(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    timeout(SOON, stream.read_to_end(&mut bytes))
        .await
        .expect("the connection ends")
        .map(|_| bytes)
}

async fn is_reset(stream: &mut TcpStream) -> bool {
    matches!(rest(stream).await, Err(error) if error.kind() == ErrorKind::ConnectionReset)
}

/// Whether a connection of `caller` to `called` is reset with nothing to read.
async fn is_refused(fleet: &Fleet, caller: &str, called: &str) -> bool {
    let address = fleet.proxies[caller].connections[called];
    match TcpStream::connect(address).await {
        Ok(mut stream) => {
            // It may be reset before anything can be written.
            let _ = stream.write_all(b"hello").await;
            is_reset(&mut stream).await
        }
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

/// Both sides can hear each other.
async fn talk(client: &mut TcpStream, service: &mut TcpStream) {
    hears(client, service).await;
    hears(service, client).await;
}

async fn hears(from: &mut TcpStream, to: &mut TcpStream) {
    from.write_all(b"hello").await.unwrap();
    let mut heard = [0; 5];
    timeout(SOON, to.read_exact(&mut heard))
        .await
        .expect("the bytes come")
        .unwrap();
    assert_eq!(&heard, b"hello");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_pass_both_sidecars_and_each_side_closes_for_itself() {
    let (fleet, mut plain) = fleet("inventory", |_| {}).await;
    let mut client = connect(&fleet, "orders", "inventory").await;
    let mut service = plain.next().await;
    talk(&mut client, &mut service).await;
    let open = |role: &str, count: u8| {
        format!("testudo_streams{{role=\"{role}\",service=\"inventory\"}} {count}\n")
    };
    let page = fleet.metrics_page();
    assert!(page.contains(&open("outbound", 1)) && page.contains(&open("inbound", 1)));

    // The client has said all; the service answers after it has heard the end.
    let question: Vec<u8> = (0..300_000_u32).map(|number| number as u8).collect();
    let asking = async {
        client.write_all(&question).await.unwrap();
        client.shutdown().await.unwrap();
    };
    let ((), heard) = tokio::join!(asking, rest(&mut service));
    assert_eq!(heard.unwrap(), question);
    service.write_all(b"the answer").await.unwrap();
    service.shutdown().await.unwrap();
    assert_eq!(rest(&mut client).await.unwrap(), b"the answer");

    for (proxy, role) in [("orders", "outbound"), ("inventory", "inbound")] {
        let end = end_of_stream(&fleet, proxy).await;
        assert_eq!(end.activity, format!("stream.close.{role}"));
        assert_eq!(detail(&end, "reason"), "closed", "{end:?}");
        assert_eq!(end.target.as_deref(), Some("inventory:connect"));
        assert_eq!(end.actor.workload, Some(fleet.service_id("orders")));
        assert_eq!(detail(&end, "to_service_bytes"), "300005");
        assert_eq!(detail(&end, "to_client_bytes"), "15");
        let decision = detail(&end, "decision");
        let decision = fleet.proxies[proxy].ledger.decision(&decision).unwrap();
        let record = decision.decision.unwrap();
        assert_eq!(record.operation.as_deref(), Some("connect"));
        assert_eq!(record.method, "CONNECT");
        assert_eq!(record.reason, "allowed");
        let page = fleet.metrics_page();
        assert!(page.contains(&open(role, 0)), "{page}");
        for (direction, count) in [("to_service", 300_005), ("to_client", 15)] {
            let line = format!(
                "testudo_stream_bytes_total{{role=\"{role}\",service=\"inventory\",direction=\"{direction}\"}} {count}\n"
            );
            assert!(page.contains(&line), "{line}{page}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_may_speak_first_and_close_first() {
    let (fleet, mut plain) = fleet("inventory", |_| {}).await;
    let mut client = connect(&fleet, "orders", "inventory").await;
    let mut service = plain.next().await;
    service.write_all(b"220 ready").await.unwrap();
    service.shutdown().await.unwrap();
    assert_eq!(rest(&mut client).await.unwrap(), b"220 ready");
    client.write_all(b"thank you").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(rest(&mut service).await.unwrap(), b"thank you");
    let end = end_of_stream(&fleet, "inventory").await;
    assert_eq!(detail(&end, "reason"), "closed", "{end:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_breaks_off_is_no_end_for_the_other_side() {
    let (fleet, mut plain) = fleet("inventory", |_| {}).await;
    let mut client = connect(&fleet, "orders", "inventory").await;
    let mut service = plain.next().await;
    talk(&mut client, &mut service).await;
    service.set_zero_linger().unwrap();
    drop(service);
    assert!(is_reset(&mut client).await);
    for proxy in ["orders", "inventory"] {
        let end = end_of_stream(&fleet, proxy).await;
        assert_eq!(detail(&end, "reason"), "broken", "{end:?}");
    }

    let mut client = connect(&fleet, "orders", "inventory").await;
    let mut service = plain.next().await;
    talk(&mut client, &mut service).await;
    client.set_zero_linger().unwrap();
    drop(client);
    assert!(is_reset(&mut service).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connect_at_the_outbound_listener_leads_there_too() {
    let (fleet, mut plain) = fleet("inventory", |_| {}).await;
    let outbound = |caller: &str| fleet.proxies[caller].outbound.unwrap();
    let connect = "CONNECT inventory:5432 HTTP/1.1\r\nHost: inventory:5432\r\n\r\n";
    let mut client = TcpStream::connect(outbound("orders")).await.unwrap();
    client.write_all(connect.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(client.read_u8().await.unwrap());
    }
    assert_eq!(status_of(&String::from_utf8(answer).unwrap()), 200);
    let mut service = plain.next().await;
    talk(&mut client, &mut service).await;
    client.shutdown().await.unwrap();
    assert_eq!(rest(&mut service).await.unwrap(), b"");
    service.write_all(b"bye").await.unwrap();
    service.shutdown().await.unwrap();
    assert_eq!(rest(&mut client).await.unwrap(), b"bye");

    let mut denied = TcpStream::connect(outbound("mailer")).await.unwrap();
    denied.write_all(connect.as_bytes()).await.unwrap();
    denied.shutdown().await.unwrap();
    let answer = String::from_utf8(rest(&mut denied).await.unwrap()).unwrap();
    assert_eq!(status_of(&answer), 403, "{answer}");
    assert!(answer.contains("policy.service_leg_denied"), "{answer}");
    assert_eq!(plain.seen(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_denied_service_nothing_gets_through() {
    let (fleet, plain) = fleet("inventory", |_| {}).await;
    assert!(is_refused(&fleet, "mailer", "inventory").await);
    let events = fleet.proxies["mailer"].ledger.events();
    assert!(
        events.iter().any(|event| {
            event.decision.as_ref().is_some_and(|decision| {
                decision.service.as_str() == "inventory" && decision.reason != "allowed"
            })
        }),
        "{events:?}"
    );
    // Nor if it goes around its own sidecar.
    for (caller, status) in [("mailer", 403), ("orders", 200)] {
        let answered = ask_inbound(&fleet, "inventory", caller).await;
        assert_eq!(answered, status, "{caller}");
    }
    assert_eq!(plain.seen(), 1);
    // A service for requests is no service for connections.
    assert_eq!(ask_inbound(&fleet, "orders", "mailer").await, 403);
    assert!(is_refused(&fleet, "orders", "mailer").await);
    assert_eq!(fleet.upstreams["mailer"].seen(), 0);
}

/// The status that the inbound side of `called` answers `caller` who asks for a connection.
async fn ask_inbound(fleet: &Fleet, called: &str, caller: &str) -> u16 {
    let identity = fleet.identity(&fleet.service_id(caller));
    let clock = Arc::clone(&fleet.clock);
    let config = mesh_client_config(&identity, ExpectedPeer::InTrustDomain, clock, &["h2"]);
    let stream = client::tls(fleet.proxies[called].address, config)
        .await
        .unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    let request = Request::builder()
        .method(Method::CONNECT)
        .uri(format!("https://{called}/"))
        .extension(Protocol::from_static("connect-tcp"))
        .body(Empty::<Bytes>::new())
        .unwrap();
    sender
        .send_request(request)
        .await
        .unwrap()
        .status()
        .as_u16()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_reaches_a_service_that_takes_connections() {
    let (fleet, plain) = fleet("mailer", |snapshot| {
        service(snapshot, "mailer").hosts = vec!["mail.example".to_owned()];
    })
    .await;
    let identity = fleet.identity(&fleet.domain.gateway());
    for path in ["/", "/mail/via/orders"] {
        let reply = fleet.attack("mailer", &identity, path, &[]).await.unwrap();
        assert_eq!(reply.status, 404, "{path}");
    }
    let at_gateway = "GET / HTTP/1.1\r\nHost: mail.example\r\nConnection: close\r\n\r\n";
    let answer = client::raw(fleet.gateway_stream().await, at_gateway.as_bytes()).await;
    assert_eq!(status_of(&answer), 404, "{answer}");
    assert_eq!(plain.seen(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_forbids_a_connection_closes_it_and_the_event_says_so() {
    let (mut fleet, mut plain) = fleet("inventory", |_| {}).await;
    let mut client = connect(&fleet, "orders", "inventory").await;
    let mut service = plain.next().await;
    talk(&mut client, &mut service).await;
    // A change that has nothing to do with it.
    fleet.snapshot.version = SnapshotVersion(2);
    fleet.activate();
    talk(&mut client, &mut service).await;
    fleet.snapshot.version = SnapshotVersion(3);
    fleet.snapshot.policies.clear();
    fleet.activate();
    assert!(is_reset(&mut client).await);
    assert!(rest(&mut service).await.is_err());
    let denied = "policy.service_leg_denied";
    let end = end_of_stream(&fleet, "inventory").await;
    assert_eq!(detail(&end, "reason"), denied, "{end:?}");
    // It gets the policies last, and may see the other side break off before.
    let end = end_of_stream(&fleet, "orders").await;
    let reason = detail(&end, "reason");
    assert!([denied, "broken"].contains(&reason.as_str()), "{end:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_workload_loses_its_connections() {
    let (fleet, mut plain) = fleet("inventory", |_| {}).await;
    let mut client = connect(&fleet, "orders", "inventory").await;
    let mut service = plain.next().await;
    talk(&mut client, &mut service).await;
    let revoked = revocation(&fleet, 1, Revoked::Workload(fleet.service_id("orders")));
    fleet.proxies["inventory"]
        .state
        .apply_revocations(&[revoked])
        .unwrap();
    assert!(rest(&mut service).await.is_err());
    assert!(rest(&mut client).await.is_err());
    let end = end_of_stream(&fleet, "inventory").await;
    assert_eq!(detail(&end, "reason"), "workload_revoked", "{end:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_are_as_many_connections_as_the_service_takes_and_idle_ones_end() {
    let (fleet, mut plain) = fleet("inventory", |snapshot| {
        let rules = &mut service(snapshot, "inventory").connections;
        rules.max = 1;
        rules.idle_millis = 400;
    })
    .await;
    let mut client = connect(&fleet, "orders", "inventory").await;
    let mut first = plain.next().await;
    talk(&mut client, &mut first).await;
    assert!(is_refused(&fleet, "orders", "inventory").await);
    assert_eq!(plain.seen(), 1);
    assert!(is_reset(&mut client).await, "it was idle");
    // The event of the called side comes with the end of the connection, which makes room.
    let mut reasons = Vec::new();
    for proxy in ["orders", "inventory"] {
        reasons.push(detail(&end_of_stream(&fleet, proxy).await, "reason"));
    }
    // Either may notice first, and the other then sees it break off.
    assert!(reasons.contains(&"idle".to_owned()), "{reasons:?}");
    let mut third = connect(&fleet, "orders", "inventory").await;
    let mut service = plain.next().await;
    talk(&mut third, &mut service).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_count_connections() {
    let (fleet, mut plain) = fleet("inventory", |snapshot| {
        let limit = serde_json::json!([
            { "per": "service", "requests": 1, "period_millis": 60_000, "burst": 1 }
        ]);
        service(snapshot, "inventory").limits = serde_json::from_value(limit).unwrap();
    })
    .await;
    let mut client = connect(&fleet, "orders", "inventory").await;
    let mut service = plain.next().await;
    talk(&mut client, &mut service).await;
    assert!(is_refused(&fleet, "orders", "inventory").await);
    assert_eq!(plain.seen(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_is_not_there_is_a_reset() {
    let (mut fleet, plain) = fleet("inventory", |_| {}).await;
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    service(&mut fleet.snapshot, "inventory").upstream = gone.local_addr().unwrap();
    fleet.snapshot.version = SnapshotVersion(2);
    drop(gone);
    fleet.activate();
    assert!(is_refused(&fleet, "orders", "inventory").await);
    assert_eq!(plain.seen(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_external_service_has_a_port_of_its_own_and_is_told_who_calls() {
    let (fleet, mut plain) = fleet("mailer", |snapshot| {
        service(snapshot, "mailer").connections.proxy_header = true;
    })
    .await;
    let mut client = connect(&fleet, "gateway", "mailer").await;
    let mut service = plain.next().await;
    let mut header = [0; 28];
    service.read_exact(&mut header).await.unwrap();
    let mut expected = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x7f\0\0\x01\x7f\0\0\x01\0\0".to_vec();
    expected.extend(plain.address.port().to_be_bytes());
    assert_eq!(header.to_vec(), expected);
    talk(&mut client, &mut service).await;
    client.shutdown().await.unwrap();
    service.shutdown().await.unwrap();
    assert_eq!(rest(&mut client).await.unwrap(), b"");
    for (proxy, role) in [("gateway", "gateway"), ("mailer", "inbound")] {
        let end = end_of_stream(&fleet, proxy).await;
        assert_eq!(end.activity, format!("stream.close.{role}"));
        assert_eq!(detail(&end, "to_service_bytes"), "5", "{end:?}");
        assert_eq!(end.source_ip, Some("127.0.0.1".parse().unwrap()));
        assert_eq!(end.actor.workload, Some(fleet.domain.gateway()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_internal_service_is_reached_through_no_port_of_the_gateway() {
    let (fleet, plain) = fleet("inventory", |_| {}).await;
    assert!(is_refused(&fleet, "gateway", "inventory").await);
    assert_eq!(plain.seen(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn address_lists_hold_for_connections_from_outside() {
    let denied = |snapshot: &mut Snapshot| {
        service(snapshot, "mailer").ip.deny = vec!["127.0.0.0/8".parse().unwrap()];
    };
    let (mut fleet, mut plain) = fleet("mailer", denied).await;
    assert!(is_refused(&fleet, "gateway", "mailer").await);
    assert_eq!(plain.seen(), 0);
    service(&mut fleet.snapshot, "mailer").ip.deny.clear();
    fleet.activate();
    let mut client = connect(&fleet, "gateway", "mailer").await;
    let mut service = plain.next().await;
    talk(&mut client, &mut service).await;
    // Who is put on a list later is cut off.
    fleet.snapshot.gateway.ip.deny = vec!["127.0.0.0/8".parse().unwrap()];
    fleet.activate();
    assert!(is_reset(&mut client).await);
    let end = end_of_stream(&fleet, "gateway").await;
    assert_eq!(detail(&end, "reason"), "source_denied", "{end:?}");
}

/// The first bytes of a TLS client that wants `name`.
fn hello(name: &str) -> Vec<u8> {
    let config = rustls::ClientConfig::builder()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).unwrap();
    bytes
}

fn pass_tls(snapshot: &mut Snapshot) {
    let mailer = service(snapshot, "mailer");
    mailer.protocol = ServiceProtocol::Tls;
    mailer.hosts = vec!["mail.example".to_owned()];
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_for_a_declared_name_passes_untouched_and_all_other_ends_here() {
    let (fleet, mut plain) = fleet("mailer", pass_tls).await;
    let sent = hello("mail.example");
    for step in [sent.len(), 1] {
        let mut client = TcpStream::connect(fleet.gateway().address).await.unwrap();
        client.set_nodelay(true).unwrap();
        for bytes in sent.chunks(step) {
            client.write_all(bytes).await.unwrap();
        }
        let mut service = plain.next().await;
        let mut heard = vec![0; sent.len()];
        timeout(SOON, service.read_exact(&mut heard))
            .await
            .expect("the hello comes")
            .unwrap();
        assert_eq!(heard, sent);
        talk(&mut client, &mut service).await;
    }
    assert_eq!(fleet.get("/public", None).await.status, 200);
    // Another name, or none: the gateway's own certificate.
    for name in ["other.example", "127.0.0.1"] {
        let mut client = TcpStream::connect(fleet.gateway().address).await.unwrap();
        client.write_all(&hello(name)).await.unwrap();
        let record = client.read_u8().await.unwrap();
        assert_eq!(record, 22, "{name}: a handshake goes on");
    }
    // Not TLS at all: an alert, as ever.
    let mut client = TcpStream::connect(fleet.gateway().address).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let answer = rest(&mut client).await.unwrap_or_default();
    assert!(answer.is_empty() || answer[0] == 21, "{answer:?}");
    assert_eq!(plain.seen(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_passed_name_is_denied_like_any_other_call() {
    let (fleet, plain) = fleet("mailer", |snapshot| {
        pass_tls(snapshot);
        service(snapshot, "mailer").quarantined = true;
    })
    .await;
    let mut client = TcpStream::connect(fleet.gateway().address).await.unwrap();
    client.write_all(&hello("mail.example")).await.unwrap();
    assert!(is_reset(&mut client).await);
    assert_eq!(plain.seen(), 0);
    let events = fleet.gateway().ledger.events();
    let reasons: Vec<_> = events
        .iter()
        .filter_map(|event| Some(event.decision.as_ref()?.reason.as_str()))
        .collect();
    assert!(
        !reasons.is_empty() && !reasons.contains(&"allowed"),
        "{reasons:?}"
    );
}

/// A request to the gateway behind `header`, on a fresh connection; `None` if there is no answer.
async fn behind(fleet: &Fleet, header: &[u8]) -> Option<client::Reply> {
    let mut stream = TcpStream::connect(fleet.gateway().address).await.unwrap();
    // It may be closed before all is written.
    let _ = stream.write_all(header).await;
    let connector = TlsConnector::from(fleet.web_config());
    let name = ServerName::try_from("localhost").unwrap();
    let stream = timeout(SOON, connector.connect(name, stream))
        .await
        .ok()?
        .ok()?;
    Some(client::over_http1(stream, "GET", "/public", &[], b"").await)
}

const BEHIND: &[u8] = b"PROXY TCP4 198.51.100.7 10.0.0.1 56324 443\r\n";

fn proxy_protocol(trusted: &str, rule: ProxyProtocol) -> impl FnOnce(&mut Snapshot) {
    let trusted = trusted.parse().unwrap();
    move |snapshot| {
        snapshot.gateway.trusted_proxies = vec![trusted];
        snapshot.gateway.proxy_protocol = rule;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trusted_proxy_says_whose_connection_it_is() {
    let (mut fleet, _plain) = fleet(
        "inventory",
        proxy_protocol("127.0.0.0/8", ProxyProtocol::Required),
    )
    .await;
    let version_2 =
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc6\x33\x64\x07\x0a\0\0\x01\xdc\x04\x01\xbb";
    for header in [BEHIND, version_2] {
        let reply = behind(&fleet, header).await.unwrap();
        assert_eq!(reply.status, 200);
        assert_eq!(reply.received("x-forwarded-for"), Some("198.51.100.7"));
    }
    // The proxy speaks for itself: a health check.
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
    let reply = behind(&fleet, local).await.unwrap();
    assert_eq!(reply.received("x-forwarded-for"), Some("127.0.0.1"));
    // Whose it is was not said, or not as it should be.
    let endless = [
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff".as_slice(),
        &[0; 65_535],
    ]
    .concat();
    for header in [
        &b""[..],
        b"PROXY TCP4 198.51.100.7\r\n",
        b"PROXY TCP4 198.51.100.7 10.0.0.1 56324 443\n",
        &endless,
    ] {
        assert!(behind(&fleet, header).await.is_none());
    }
    let refused = fleet.gateway().ledger.events();
    let is_refusal = |event: &&testudo_model::event::Event| {
        event.activity == "request.refuse.gateway" && detail(event, "code") == "source.proxy_header"
    };
    assert_eq!(refused.iter().filter(is_refusal).count(), 4);

    fleet.snapshot.gateway.proxy_protocol = ProxyProtocol::Optional;
    fleet.activate();
    for (header, client) in [(BEHIND, "198.51.100.7"), (b"", "127.0.0.1")] {
        let reply = behind(&fleet, header).await.unwrap();
        assert_eq!(reply.received("x-forwarded-for"), Some(client));
    }
    fleet.snapshot.gateway.proxy_protocol = ProxyProtocol::Off;
    fleet.activate();
    assert!(behind(&fleet, BEHIND).await.is_none());
    assert_eq!(behind(&fleet, b"").await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_else_can_say_so() {
    let (fleet, _plain) = fleet(
        "inventory",
        proxy_protocol("10.0.0.0/8", ProxyProtocol::Required),
    )
    .await;
    assert!(behind(&fleet, BEHIND).await.is_none());
    let reply = behind(&fleet, b"").await.unwrap();
    assert_eq!(reply.received("x-forwarded-for"), Some("127.0.0.1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_a_port_for_tcp_trusted_proxies_always_say_whose_connection_it_is() {
    let (fleet, mut plain) = fleet("mailer", |snapshot| {
        proxy_protocol("127.0.0.0/8", ProxyProtocol::Optional)(snapshot);
        service(snapshot, "mailer").ip.deny =
            vec!["198.51.100.8".parse::<std::net::IpAddr>().unwrap().into()];
    })
    .await;
    let mut client = connect(&fleet, "gateway", "mailer").await;
    client.write_all(BEHIND).await.unwrap();
    let mut service = plain.next().await;
    talk(&mut client, &mut service).await;
    client.shutdown().await.unwrap();
    service.shutdown().await.unwrap();
    for proxy in ["gateway", "mailer"] {
        let end = end_of_stream(&fleet, proxy).await;
        assert_eq!(end.source_ip, Some("198.51.100.7".parse().unwrap()));
    }
    for header in [
        &b"PROXY TCP4 198.51.100.8 10.0.0.1 56324 443\r\n"[..],
        b"SELECT 1 FROM everything",
    ] {
        let mut client = connect(&fleet, "gateway", "mailer").await;
        client.write_all(header).await.unwrap();
        let ended = rest(&mut client).await;
        assert!(ended.map_or(true, |bytes| bytes.is_empty()));
    }
    assert_eq!(plain.seen(), 1);
}
