//! Table B of the bad-input table, TLS over TCP: hellos, names and certificates that nobody should be served for (B9 to
//! B12). QUIC (B13) has tests of its own, and B14 is in `connections`.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, SignatureScheme, client::ResolvesClientCert,
    pki_types::ServerName, sign::CertifiedKey,
};
use testudo_model::snapshot::Snapshot;
use testudo_trust::{ExpectedPeer, IdentitySource, mesh_client_config};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    client,
    fleet::Fleet,
    frames::{END_STREAM, Frames, HEADERS},
};

const HANDSHAKE: u8 = 22;
const SERVER_NAME: u16 = 0;
const SUPPORTED_GROUPS: u16 = 10;
const SIGNATURE_ALGORITHMS: u16 = 13;
const SUPPORTED_VERSIONS: u16 = 43;
const KEY_SHARE: u16 = 51;
const X25519: u16 = 0x001d;
const ECDSA_P256: u16 = 0x0403;
const TLS13: u16 = 0x0304;
const TLS12: u16 = 0x0303;
const AES_128_GCM: u16 = 0x1301;

/// A ClientHello (RFC 8446 section 4.1.2) as bytes, for what no client library sends.
struct Hello {
    version: u16,
    suites: Vec<u16>,
    extensions: Vec<(u16, Vec<u8>)>,
}

impl Hello {
    /// One that every server with TLS 1.3 answers.
    fn good() -> Self {
        let key = [&X25519.to_be_bytes()[..], &32_u16.to_be_bytes(), &[9; 32]].concat();
        Self {
            version: TLS12,
            suites: vec![AES_128_GCM],
            extensions: vec![
                (
                    SUPPORTED_VERSIONS,
                    [&[2][..], &TLS13.to_be_bytes()].concat(),
                ),
                (SUPPORTED_GROUPS, counted(&X25519.to_be_bytes())),
                (SIGNATURE_ALGORITHMS, counted(&ECDSA_P256.to_be_bytes())),
                (KEY_SHARE, counted(&key)),
            ],
        }
    }

    /// One of an older version.
    fn old(version: u16, suites: &[u16]) -> Self {
        let mut hello = Self::good();
        hello.version = version;
        hello.suites = suites.to_vec();
        let is_known = |kind| kind == SUPPORTED_GROUPS || kind == SIGNATURE_ALGORITHMS;
        hello.extensions.retain(|(kind, _)| is_known(*kind));
        hello
    }

    /// With these names of type `host_name` (RFC 6066 section 3).
    fn naming(mut self, names: &[&[u8]]) -> Self {
        let entries = names.iter().map(|name| [&[0][..], &counted(name)].concat());
        let list = entries.collect::<Vec<_>>().concat();
        self.extensions.push((SERVER_NAME, counted(&list)));
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let suites: Vec<u8> = self
            .suites
            .iter()
            .flat_map(|suite| suite.to_be_bytes())
            .collect();
        let extensions: Vec<u8> = self
            .extensions
            .iter()
            .flat_map(|(kind, content)| [&kind.to_be_bytes()[..], &counted(content)].concat())
            .collect();
        let body = [
            &self.version.to_be_bytes()[..],
            &[7; 32],
            &[0],
            &counted(&suites),
            &[1, 0],
            &counted(&extensions),
        ]
        .concat();
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        let message = [&[1][..], &length[1..], &body].concat();
        [&[HANDSHAKE, 3, 1][..], &counted(&message)].concat()
    }
}

/// `bytes` behind their length in two bytes.
fn counted(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
    [&length[..], bytes].concat()
}

/// The first record that comes back: its type. `None`: the connection is closed.
async fn answer_to(address: SocketAddr, bytes: &[u8]) -> Option<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let kind = timeout(Duration::from_secs(5), stream.read_u8()).await;
    kind.expect("an answer or the end").ok()
}

/// Where TLS ends.
fn doors(fleet: &Fleet) -> [SocketAddr; 2] {
    [fleet.gateway().address, fleet.proxies["orders"].address]
}

/// I1 and I3.
async fn works_and_nothing_came_of_it(fleet: &Fleet) {
    assert_eq!(fleet.upstreams["orders"].seen(), 0);
    assert_eq!(fleet.get("/public", None).await.status, 200);
}

/// The mailer's own TLS for `vault.example`, and a host of its own for the inventory.
fn with_hosts(snapshot: &mut Snapshot) {
    for service in &mut snapshot.services {
        if service.name.as_str() == "mailer" {
            service.hosts = vec!["mail.example".to_owned()];
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b9_what_a_handshake_was_for_decides_about_no_request() {
    let fleet = Fleet::start_with(with_hosts).await;
    // A connection for `localhost`, which is shared with every other host of the certificate.
    for (host, path, status) in [
        ("localhost", "/public", "200"),
        ("mail.example", "/mail/via/orders", "401"),
        ("mail.example", "/public", "404"),
        ("inventory", "/stock/7", "404"),
        ("unknown.example", "/orders/7", "401"),
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let answer = client::raw(fleet.gateway_stream().await, request.as_bytes()).await;
        assert_eq!(
            client::status_of(&answer).to_string(),
            status,
            "{host}{path}"
        );
        let mut frames = Frames::open(fleet.gateway_h2_stream().await, 65_535).await;
        let fields = [
            (":method", "GET"),
            (":scheme", "https"),
            (":path", path),
            (":authority", host),
        ];
        frames.head(1, END_STREAM, &fields);
        assert_eq!(frames.next_of(1).await.unwrap().kind, HEADERS);
    }
    assert_eq!(fleet.upstreams["mailer"].seen(), 0);
    assert_eq!(fleet.upstreams["inventory"].seen(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b10_old_versions_and_weak_suites_are_refused() {
    let fleet = Fleet::start().await;
    const NULL: u16 = 0x0001;
    const EXPORT: u16 = 0x0003;
    const RC4: u16 = 0x0005;
    const TRIPLE_DES: u16 = 0x000a;
    const AES_128_CBC: u16 = 0x002f;
    const ECDHE_GCM: u16 = 0xc02b;
    let all = [NULL, EXPORT, RC4, TRIPLE_DES, AES_128_CBC, ECDHE_GCM];
    let mut rows: Vec<(String, Vec<u8>)> = Vec::new();
    for version in [0x0300, 0x0301, 0x0302, TLS12] {
        let hello = Hello::old(version, &all).bytes();
        rows.push((format!("{version:#06x}"), hello));
    }
    for suite in all {
        let mut hello = Hello::good();
        hello.suites = vec![suite];
        rows.push((format!("TLS 1.3 with {suite:#06x}"), hello.bytes()));
    }
    let mut downgraded = Hello::good();
    downgraded.extensions[0].1 = vec![4, 3, 2, 3, 1];
    rows.push((
        "TLS 1.1 and 1.0 in the extension".to_owned(),
        downgraded.bytes(),
    ));
    let ssl2 = [&[0x80, 0x2e, 1, 0, 2, 0, 21, 0, 0, 0, 16][..], &[1; 37]].concat();
    rows.push(("SSL 2.0".to_owned(), ssl2));
    for address in doors(&fleet) {
        let good = Hello::good().bytes();
        assert_eq!(answer_to(address, &good).await, Some(HANDSHAKE));
        for (what, hello) in &rows {
            let answer = answer_to(address, hello).await;
            assert_ne!(answer, Some(HANDSHAKE), "{what}");
        }
    }
    works_and_nothing_came_of_it(&fleet).await;
}

/// Early data can be replayed (RFC 8446 section 8), so nobody may send any, on a resumed connection least of all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b10_no_request_is_taken_before_the_handshake_is_complete() {
    let fleet = Fleet::start().await;
    let mut config = ClientConfig::clone(&fleet.web_config());
    config.enable_early_data = true;
    let config = Arc::new(config);
    let stream = client::tls(fleet.gateway().address, Arc::clone(&config))
        .await
        .unwrap();
    let request = b"GET /public HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    assert!(
        client::raw(stream, request)
            .await
            .starts_with("HTTP/1.1 200")
    );
    let name = ServerName::try_from("localhost").unwrap();
    let mut next = ClientConnection::new(Arc::clone(&config), name).unwrap();
    assert!(next.early_data().is_none(), "a ticket allows early data");
    // And yet there is a ticket.
    let stream = client::tls(fleet.gateway().address, config).await.unwrap();
    let kind = stream.get_ref().1.handshake_kind();
    assert_eq!(kind, Some(HandshakeKind::Resumed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b11_odd_server_names_lead_nowhere() {
    let fleet = Fleet::start().await;
    let long = [&[b'a'; 63][..], &b".a".repeat(100)].concat();
    for address in doors(&fleet) {
        for names in [
            &[][..],
            &[&b""[..]],
            &[b"localhost\0.evil.example"],
            &[b"local\0host"],
            &[b"localhost."],
            &[b"."],
            &[b"..localhost"],
            &[b"127.0.0.1"],
            &[b"-"],
            &["b\u{fc}cher.example".as_bytes()],
            &[b"\xff\xfe"],
            &[b"unknown.example"],
            &[&long],
            &[&[b'a'; 256]],
            &[b"localhost", b"other.example"],
        ] {
            // Refused, or answered with the certificate the server has: names decide about nothing here.
            answer_to(address, &Hello::good().naming(names).bytes()).await;
        }
        let mut cut = Hello::good().naming(&[b"localhost"]);
        for (_, content) in &mut cut.extensions {
            content.truncate(3);
        }
        let answer = answer_to(address, &cut.bytes()).await;
        assert_ne!(answer, Some(HANDSHAKE));
    }
    works_and_nothing_came_of_it(&fleet).await;
}

/// Shows `CertifiedKey`, whatever the server asks for.
#[derive(Debug)]
struct Shown(Arc<CertifiedKey>);

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// TLS to a sidecar with the certificate of `identity` and `more` behind it.
fn showing(fleet: &Fleet, identity: &IdentitySource, more: &[Vec<u8>]) -> Arc<ClientConfig> {
    let clock = Arc::clone(&fleet.clock);
    let config = mesh_client_config(identity, ExpectedPeer::InTrustDomain, clock, &["http/1.1"]);
    let mut config = ClientConfig::clone(&config);
    let resolver = &config.client_auth_cert_resolver;
    let own = resolver
        .resolve(&[], &[SignatureScheme::ECDSA_NISTP256_SHA256])
        .unwrap();
    let mut chain = own.cert.clone();
    chain.extend(more.iter().map(|der| der.clone().into()));
    let shown = CertifiedKey::new(chain, Arc::clone(&own.key));
    config.client_auth_cert_resolver = Arc::new(Shown(Arc::new(shown)));
    Arc::new(config)
}

/// Whether a request over a connection with `config` is answered with anything.
async fn is_served(fleet: &Fleet, config: Arc<ClientConfig>) -> bool {
    let Ok(stream) = client::tls(fleet.proxies["orders"].address, config).await else {
        return false;
    };
    let request = b"GET /public HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n";
    let mut stream = stream;
    let mut answer = Vec::new();
    // With TLS 1.3 a client is told only after its first bytes.
    let exchange = async {
        stream.write_all(request).await?;
        stream.read_to_end(&mut answer).await
    };
    let ended = timeout(Duration::from_secs(5), exchange).await;
    ended.expect("an end").is_ok() && !answer.is_empty()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b12_only_a_certificate_of_the_fleet_for_now_gets_through_a_handshake() {
    let fleet = Fleet::start().await;
    let orders = fleet.service_id("mailer");
    let hour = Duration::from_secs(3_600);
    let now = fleet.clock.now();
    let good = fleet.identity(&orders);
    assert!(is_served(&fleet, showing(&fleet, &good, &[])).await);
    let root = fleet.root().to_vec();
    let rows = [
        (
            "another CA of the same name",
            fleet.impostor(&orders),
            vec![],
        ),
        (
            "another CA, and our root",
            fleet.impostor(&orders),
            vec![root.clone()],
        ),
        ("expired", fleet.identity_from(&orders, now - hour), vec![]),
        (
            "not yet valid",
            fleet.identity_from(&orders, now + hour),
            vec![],
        ),
        (
            "a chain of a hundred",
            fleet.identity(&orders),
            vec![root.clone(); 99],
        ),
        (
            "64 KiB behind it",
            fleet.identity(&orders),
            vec![vec![0x30; 64 * 1024]],
        ),
        (
            "no certificate behind it",
            fleet.identity(&orders),
            vec![vec![0]],
        ),
    ];
    for (what, identity, more) in rows {
        let config = showing(&fleet, &identity, &more);
        assert!(!is_served(&fleet, config).await, "{what}");
    }
    assert_eq!(fleet.get("/public", None).await.status, 200);
}
