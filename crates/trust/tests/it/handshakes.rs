//! Handshakes in memory, between the configurations as other rooms get them.

use std::{io::Cursor, sync::Arc, time::Duration};

use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, NamedGroup, ProtocolVersion, ServerConfig,
    ServerConnection,
    pki_types::{ServerName, UnixTime},
    time_provider::TimeProvider,
    version::TLS12,
};
use testudo_model::Timestamp;
use testudo_trust::{
    ExpectedPeer, IdentitySource, PeerAuth, Svid, SvidKey, WebCertificate, install_crypto_provider,
    mesh_client_config, mesh_server_config, mesh_server_name, peer_identity, pinned_client_config,
    sha256, web_client_config, web_server_config, web_server_config_for_peers,
};

use crate::fleet::{DAY, Fleet, SVID_LIFETIME};

/// Both ends after a handshake that both accept.
#[derive(Debug)]
struct Connected {
    client: ClientConnection,
    server: ServerConnection,
}

fn connect(
    client: &Arc<ClientConfig>,
    server: &Arc<ServerConfig>,
    name: ServerName<'static>,
) -> Result<Connected, rustls::Error> {
    let mut client = ClientConnection::new(Arc::clone(client), name)?;
    let mut server = ServerConnection::new(Arc::clone(server))?;
    // Whatever there is to say, tickets after the handshake included.
    loop {
        let mut to_server = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut to_server).unwrap();
        }
        let mut to_client = Vec::new();
        let mut incoming = Cursor::new(&to_server);
        while incoming.position() < to_server.len() as u64 {
            server.read_tls(&mut incoming).unwrap();
            server.process_new_packets()?;
        }
        while server.wants_write() {
            server.write_tls(&mut to_client).unwrap();
        }
        let mut incoming = Cursor::new(&to_client);
        while incoming.position() < to_client.len() as u64 {
            client.read_tls(&mut incoming).unwrap();
            client.process_new_packets()?;
        }
        if to_server.is_empty() && to_client.is_empty() {
            assert!(!client.is_handshaking() && !server.is_handshaking());
            return Ok(Connected { client, server });
        }
    }
}

struct Mesh {
    fleet: Fleet,
    client: IdentitySource,
    server: IdentitySource,
}

impl Mesh {
    fn new() -> Self {
        let fleet = Fleet::new();
        let client = IdentitySource::new(fleet.svid("orders"), fleet.bundle());
        let server = IdentitySource::new(fleet.svid("stock"), fleet.bundle());
        Self {
            fleet,
            client,
            server,
        }
    }

    fn client_config(&self, expected: ExpectedPeer) -> Arc<ClientConfig> {
        mesh_client_config(&self.client, expected, self.fleet.clock(), &["h2"])
    }

    fn server_config(&self, peers: PeerAuth) -> Arc<ServerConfig> {
        mesh_server_config(&self.server, peers, self.fleet.clock(), &["h2"])
    }

    fn handshake(&self, expected: ExpectedPeer) -> Result<Connected, rustls::Error> {
        connect(
            &self.client_config(expected),
            &self.server_config(PeerAuth::Required),
            mesh_server_name(),
        )
    }

    fn anonymous_client(&self) -> Arc<ClientConfig> {
        let pin = self.fleet.bundle().sha256();
        pinned_client_config(pin, &self.fleet.id("stock"), self.fleet.clock(), &["h2"])
    }
}

fn client_of(connected: &Connected) -> Option<testudo_model::SpiffeId> {
    peer_identity(connected.server.peer_certificates().unwrap_or_default())
}

fn server_of(connected: &Connected) -> Option<testudo_model::SpiffeId> {
    peer_identity(connected.client.peer_certificates().unwrap_or_default())
}

#[test]
fn two_workloads_know_each_other_over_tls_13_with_a_post_quantum_key_exchange() {
    let mesh = Mesh::new();
    let stock = mesh.fleet.id("stock");
    for expected in [
        ExpectedPeer::Id(stock.clone()),
        ExpectedPeer::AnyOf(vec![mesh.fleet.id("orders"), stock.clone()]),
        ExpectedPeer::InTrustDomain,
    ] {
        let connected = mesh.handshake(expected).unwrap();
        assert_eq!(server_of(&connected), Some(stock.clone()));
        assert_eq!(client_of(&connected), Some(mesh.fleet.id("orders")));
        assert_eq!(
            connected.server.protocol_version(),
            Some(ProtocolVersion::TLSv1_3)
        );
        assert_eq!(connected.server.alpn_protocol(), Some(b"h2".as_slice()));
        assert_eq!(connected.server.server_name(), None);
        let group = connected
            .client
            .negotiated_key_exchange_group()
            .map(|group| group.name());
        assert_eq!(group, Some(NamedGroup::X25519MLKEM768));
    }
}

#[test]
fn a_valid_identity_that_was_not_expected_is_refused() {
    let mesh = Mesh::new();
    for expected in [
        ExpectedPeer::Id(mesh.fleet.id("payments")),
        ExpectedPeer::AnyOf(vec![mesh.fleet.id("orders")]),
        ExpectedPeer::AnyOf(vec![]),
    ] {
        let error = mesh.handshake(expected).unwrap_err();
        assert!(error.to_string().contains("UnexpectedPeer"), "{error}");
    }
}

#[test]
fn strangers_are_refused_by_both_sides() {
    let mesh = Mesh::new();
    for stranger in [Fleet::new(), Fleet::of("other.example")] {
        let source = IdentitySource::new(stranger.svid("orders"), mesh.fleet.bundle());
        let client = mesh_client_config(
            &source,
            ExpectedPeer::InTrustDomain,
            mesh.fleet.clock(),
            &["h2"],
        );
        let server = mesh.server_config(PeerAuth::Required);
        assert!(
            connect(&client, &server, mesh_server_name()).is_err(),
            "as a client"
        );
        // Asking politely does not mean taking any answer.
        let optional = mesh.server_config(PeerAuth::Optional);
        assert!(
            connect(&client, &optional, mesh_server_name()).is_err(),
            "as an optional client"
        );
        let server = mesh_server_config(&source, PeerAuth::None, mesh.fleet.clock(), &["h2"]);
        let client = mesh.client_config(ExpectedPeer::InTrustDomain);
        assert!(
            connect(&client, &server, mesh_server_name()).is_err(),
            "as a server"
        );
    }
}

#[test]
fn a_client_without_a_certificate_passes_only_where_that_is_allowed() {
    let mesh = Mesh::new();
    mesh.server.swap(mesh.fleet.svid_with_root("stock"));
    let client = mesh.anonymous_client();
    let with = |peers| connect(&client, &mesh.server_config(peers), mesh_server_name());
    assert!(with(PeerAuth::Required).is_err());
    assert_eq!(client_of(&with(PeerAuth::Optional).unwrap()), None);
    assert_eq!(client_of(&with(PeerAuth::None).unwrap()), None);
}

#[test]
fn a_rotated_svid_is_presented_by_the_same_configuration() {
    let mesh = Mesh::new();
    let client = mesh.client_config(ExpectedPeer::Id(mesh.fleet.id("stock")));
    let server = mesh.server_config(PeerAuth::Required);
    let leaf = |connected: &Connected| connected.client.peer_certificates().unwrap()[0].to_vec();
    let before = leaf(&connect(&client, &server, mesh_server_name()).unwrap());

    mesh.fleet
        .clock
        .advance(SVID_LIFETIME + Duration::from_secs(60));
    assert!(
        connect(&client, &server, mesh_server_name()).is_err(),
        "both have expired"
    );
    mesh.server.swap(mesh.fleet.svid("stock"));
    assert!(
        connect(&client, &server, mesh_server_name()).is_err(),
        "the client's has expired"
    );
    mesh.client.swap(mesh.fleet.svid("orders"));
    let after = leaf(&connect(&client, &server, mesh_server_name()).unwrap());
    assert_ne!(before, after);
    assert_eq!((mesh.client.generation(), mesh.server.generation()), (1, 1));
    assert_eq!(mesh.server.current().chain()[0], after);
}

#[test]
fn a_certificate_that_ended_lately_passes_only_where_renewals_are_served() {
    const LATE: Duration = Duration::from_secs(3600);
    let mesh = Mesh::new();
    let client = mesh.client_config(ExpectedPeer::InTrustDomain);
    let with = |peers| connect(&client, &mesh.server_config(peers), mesh_server_name());
    let others = [PeerAuth::Required, PeerAuth::Optional];
    let late = PeerAuth::OptionalAndLate(LATE);
    assert!(with(late).is_ok(), "one that holds passes too");

    mesh.fleet
        .clock
        .advance(SVID_LIFETIME + LATE - Duration::from_secs(1));
    mesh.server.swap(mesh.fleet.svid("stock"));
    assert_eq!(
        client_of(&with(late).unwrap()),
        Some(mesh.fleet.id("orders"))
    );
    for peers in others {
        assert!(with(peers).is_err(), "{peers:?}");
    }
    let web = WebCertificate::issued(
        &[mesh
            .fleet
            .web_leaf("localhost", mesh.server.current().key())],
        mesh.server.current().key(),
    );
    let web = web_server_config_for_peers(web.unwrap(), &mesh.server, mesh.fleet.clock(), &["h2"]);
    let acts_as_server = mesh_client_config(
        &mesh.client,
        ExpectedPeer::InTrustDomain,
        mesh.fleet.clock(),
        &["h2"],
    );
    assert!(connect(&acts_as_server, &web, mesh_server_name()).is_err());

    // Late is all that is forgiven.
    for stranger in [Fleet::new(), Fleet::of("other.example")] {
        let source = IdentitySource::new(stranger.svid("orders"), mesh.fleet.bundle());
        let client = mesh_client_config(
            &source,
            ExpectedPeer::InTrustDomain,
            mesh.fleet.clock(),
            &["h2"],
        );
        let server = mesh.server_config(late);
        assert!(connect(&client, &server, mesh_server_name()).is_err());
    }
    let new = mesh.fleet.with_new_root();
    mesh.server.swap_bundle(new.bundle());
    assert!(with(late).is_err(), "its root is gone");
    mesh.server.swap_bundle(mesh.fleet.bundle());

    mesh.fleet.clock.advance(Duration::from_secs(1));
    assert!(with(late).is_err(), "too late");
}

#[test]
fn a_certificate_that_ended_lately_needs_a_root_that_still_holds() {
    let mesh = Mesh::new();
    let late = PeerAuth::OptionalAndLate(DAY * 2);
    // The fleet's root lives a day, and signs shortly before its end.
    mesh.fleet.clock.advance(DAY - SVID_LIFETIME * 2);
    mesh.client.swap(mesh.fleet.svid("orders"));
    mesh.fleet
        .clock
        .advance(SVID_LIFETIME + Duration::from_secs(60));
    let new = mesh.fleet.with_new_root();
    mesh.client.swap_bundle(mesh.fleet.bundle_with(&new));
    mesh.server.swap_bundle(mesh.fleet.bundle_with(&new));
    mesh.server.swap(new.svid("stock"));
    let client = mesh.client_config(ExpectedPeer::InTrustDomain);
    let with = |peers| connect(&client, &mesh.server_config(peers), mesh_server_name());
    assert!(with(late).is_ok());
    mesh.fleet.clock.advance(SVID_LIFETIME);
    mesh.server.swap(new.svid("stock"));
    assert!(with(late).is_err(), "the root has ended");
}

#[test]
fn a_root_is_replaced_step_by_step_without_a_refused_handshake() {
    let mesh = Mesh::new();
    let new = mesh.fleet.with_new_root();
    let client = mesh.client_config(ExpectedPeer::InTrustDomain);
    let server = mesh.server_config(PeerAuth::Required);
    let holds = || connect(&client, &server, mesh_server_name()).is_ok();
    assert!(holds());
    mesh.client.swap_bundle(mesh.fleet.bundle_with(&new));
    assert!(holds());
    mesh.server.swap_bundle(mesh.fleet.bundle_with(&new));
    assert!(holds());
    mesh.server.swap(new.svid("stock"));
    assert!(holds());
    mesh.client.swap(new.svid("orders"));
    assert!(holds());
    mesh.client.swap_bundle(new.bundle());
    mesh.server.swap_bundle(new.bundle());
    assert!(holds());
    mesh.client.swap(mesh.fleet.svid("orders"));
    assert!(!holds(), "the old root is gone");
}

#[test]
fn mesh_sessions_never_resume() {
    let mesh = Mesh::new();
    let client = mesh.client_config(ExpectedPeer::InTrustDomain);
    let server = mesh.server_config(PeerAuth::Required);
    for _ in 0..3 {
        let connected = connect(&client, &server, mesh_server_name()).unwrap();
        assert_eq!(connected.client.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(connected.client.tls13_tickets_received(), 0);
    }
}

#[test]
fn tls_12_does_not_reach_the_mesh() {
    let mesh = Mesh::new();
    install_crypto_provider();
    let client = ClientConfig::builder_with_protocol_versions(&[&TLS12])
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let verdict = connect(
        &Arc::new(client),
        &mesh.server_config(PeerAuth::None),
        mesh_server_name(),
    );
    assert!(
        matches!(verdict, Err(rustls::Error::PeerIncompatible(_))),
        "{verdict:?}"
    );
}

#[test]
fn a_first_contact_trusts_the_pinned_root_and_nothing_else() {
    let mesh = Mesh::new();
    let (fleet, stock) = (&mesh.fleet, mesh.fleet.id("stock"));
    let pin = fleet.bundle().sha256();
    let contact = |svid: Svid, pin, expected: &testudo_model::SpiffeId| {
        let source = IdentitySource::new(svid, fleet.bundle());
        let server = mesh_server_config(&source, PeerAuth::Optional, fleet.clock(), &["h2"]);
        let client = pinned_client_config(pin, expected, fleet.clock(), &["h2"]);
        connect(&client, &server, mesh_server_name()).map(|connected| server_of(&connected))
    };
    let with_root = || fleet.svid_with_root("stock");
    assert_eq!(
        contact(with_root(), pin, &stock).unwrap(),
        Some(stock.clone())
    );
    assert!(
        contact(fleet.svid("stock"), pin, &stock).is_err(),
        "no root in the chain"
    );
    assert!(
        contact(with_root(), [0; 32], &stock).is_err(),
        "another pin"
    );
    assert!(
        contact(with_root(), pin, &fleet.id("server")).is_err(),
        "another identity"
    );
    let leaf = fleet.svid("stock");
    let leaf_pin = sha256(&leaf.chain()[0]);
    assert!(
        contact(leaf, leaf_pin, &stock).is_err(),
        "a leaf is not its own root"
    );
    // The public root appended to a chain it has nothing to do with.
    let (impostor, key) = (Fleet::new(), SvidKey::generate());
    let chain = vec![
        impostor.leaf("stock", &key),
        fleet.authority.cert_der().to_vec(),
    ];
    assert!(
        contact(Svid::new(chain, key).unwrap(), pin, &stock).is_err(),
        "a borrowed root"
    );
}

/// The web configurations run on the machine's clock; tests do not.
#[derive(Debug)]
struct StandingClock(Timestamp);

impl TimeProvider for StandingClock {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from(self.0.unix_seconds()).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}

struct Web {
    fleet: Fleet,
    certificate: WebCertificate,
    client: Arc<ClientConfig>,
}

impl Web {
    fn new() -> Self {
        let fleet = Fleet::new();
        let certificate = issued(&fleet);
        let pem = pem(fleet.authority.cert_der());
        let mut client = ClientConfig::clone(&web_client_config(pem.as_bytes(), &["h2"]).unwrap());
        client.time_provider = Arc::new(StandingClock(fleet.now()));
        Self {
            fleet,
            certificate,
            client: Arc::new(client),
        }
    }

    fn server(&self, min_tls12: bool) -> Arc<ServerConfig> {
        let config = web_server_config(self.certificate.clone(), min_tls12, &["h2", "http/1.1"]);
        let mut config = ServerConfig::clone(&config);
        config.time_provider = Arc::new(StandingClock(self.fleet.now()));
        Arc::new(config)
    }
}

fn issued(fleet: &Fleet) -> WebCertificate {
    let key = SvidKey::generate();
    WebCertificate::issued(&[fleet.web_leaf("shop.example", &key)], &key).unwrap()
}

fn pem(der: &[u8]) -> String {
    pem_of("CERTIFICATE", der)
}

fn pem_of(label: &str, der: &[u8]) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    format!(
        "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
        STANDARD.encode(der)
    )
}

fn name(text: &str) -> ServerName<'static> {
    ServerName::try_from(text.to_owned()).unwrap()
}

#[test]
fn a_web_listener_is_known_by_name_and_address() {
    let web = Web::new();
    let server = web.server(false);
    for known in ["shop.example", "127.0.0.1"] {
        assert!(
            connect(&web.client, &server, name(known)).is_ok(),
            "{known}"
        );
    }
    for unknown in [
        "shop.example.attacker.example",
        "127.0.0.2",
        "other.example",
    ] {
        assert!(
            connect(&web.client, &server, name(unknown)).is_err(),
            "{unknown}"
        );
    }
    let stranger = Web {
        certificate: issued(&Fleet::new()),
        ..Web::new()
    };
    assert!(connect(&web.client, &stranger.server(false), name("shop.example")).is_err());
}

#[test]
fn web_sessions_resume_until_the_certificate_is_swapped() {
    let web = Web::new();
    let server = web.server(false);
    let kind = || {
        let connected = connect(&web.client, &server, name("shop.example")).unwrap();
        connected.client.handshake_kind()
    };
    assert_eq!(kind(), Some(HandshakeKind::Full));
    assert_eq!(kind(), Some(HandshakeKind::Resumed));
    web.certificate.swap(&issued(&web.fleet));
    assert_eq!(kind(), Some(HandshakeKind::Full));
    assert_eq!(kind(), Some(HandshakeKind::Resumed));
}

#[test]
fn tls_12_reaches_a_web_listener_where_it_is_allowed() {
    let web = Web::new();
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(web.fleet.authority.cert_der().to_vec().into())
        .unwrap();
    let mut old = ClientConfig::builder_with_protocol_versions(&[&TLS12])
        .with_root_certificates(roots)
        .with_no_client_auth();
    old.time_provider = Arc::new(StandingClock(web.fleet.now()));
    let old = Arc::new(old);
    let connected = connect(&old, &web.server(true), name("shop.example")).unwrap();
    assert_eq!(
        connected.server.protocol_version(),
        Some(ProtocolVersion::TLSv1_2)
    );
    assert!(connect(&old, &web.server(false), name("shop.example")).is_err());
}

#[test]
fn pem_is_read_and_checked() {
    let web = Web::new();
    let key = SvidKey::generate();
    let chain = pem(&web.fleet.web_leaf("shop.example", &key));
    let private = |key: &SvidKey| pem_of("PRIVATE KEY", key.to_pkcs8().expose());
    let from = |chain: &str, key: &str| WebCertificate::from_pem(chain.as_bytes(), key.as_bytes());
    web.certificate.swap(&from(&chain, &private(&key)).unwrap());
    assert!(connect(&web.client, &web.server(false), name("shop.example")).is_ok());
    assert!(
        from(&chain, &private(&SvidKey::generate())).is_err(),
        "another key"
    );
    assert!(from(&chain, "").is_err() && from("", &private(&key)).is_err());
    assert!(web_client_config(b"", &[]).is_err());
    assert!(web_client_config(private(&key).as_bytes(), &[]).is_err());
}
