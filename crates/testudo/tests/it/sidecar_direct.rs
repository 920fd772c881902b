//! Past the gateway, straight at a sidecar: the called side believes a certificate of the fleet, a transaction
//! token of an edge and its own policies, and nothing that anybody says.

use std::{
    io::{Read, Write},
    os::unix::fs::PermissionsExt,
    sync::Arc,
    time::Duration,
};

use testudo_model::{Clock, TenantName, Timestamp};
use testudo_runtime::SystemClock;
use testudo_store::Store;
use testudo_trust::{IdentitySource, SigningKey, Svid, SystemEntropy, TrustBundle};
use testudo_workload::{EventNotRecorded, EventSink, WorkloadOptions, Workloads};
use tokio_rustls::rustls::{
    self, ClientConfig, DigitallySignedStruct, SignatureScheme, SupportedProtocolVersion,
    client::{
        ResolvesClientCert,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime},
    sign::CertifiedKey,
};

use crate::{
    forge::{get, impostor},
    paths::transaction_of,
    shop::{Shop, claims_of, domain, service},
    wire::{self, Answer},
};

/// A client that talks to anybody: the attacker does not care who the sidecar is.
#[derive(Debug)]
struct Careless;

impl ServerCertVerifier for Careless {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// Shows one chain, whoever asks for which.
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

/// TLS of a client that trusts everybody and shows `own` chain and key, if there are any.
pub fn careless(
    version: &'static SupportedProtocolVersion,
    own: Option<(&[Vec<u8>], &SigningKey)>,
) -> Arc<ClientConfig> {
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Careless));
    let mut config = match own {
        Some((chain, key)) => {
            let chain = chain
                .iter()
                .map(|der| CertificateDer::from(der.clone()))
                .collect();
            let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.to_pkcs8().into_exposed()));
            let key = aws_lc_rs::sign::any_ecdsa_type(&key).unwrap();
            // `with_client_auth_cert` would notice a key that is not the certificate's.
            config
                .with_client_cert_resolver(Arc::new(Shown(Arc::new(CertifiedKey::new(chain, key)))))
        }
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

/// What comes back from the sidecar for a request with `config`; `None`: the connection is refused.
fn answer_to(shop: &Shop, config: &Arc<ClientConfig>) -> Option<Answer> {
    let address = shop.fleet.address("/sidecars/shop/inbound");
    let mut stream = wire::connect_tls(address, "127.0.0.1", config).unwrap();
    wire::exchange(&mut stream, get("/public", "").as_bytes())
        .ok()
        .flatten()
}

fn ask(
    shop: &Shop,
    identity: &IdentitySource,
    method: &str,
    path: &str,
    fields: &str,
) -> Option<Answer> {
    let request = format!("{method} {path} HTTP/1.1\r\nHost: shop\r\n{fields}\r\n");
    let mut connection = shop.at_sidecar("shop", identity).ok()?;
    wire::exchange(&mut connection, request.as_bytes())
        .ok()
        .flatten()
}

fn status(answer: Option<&Answer>) -> u16 {
    answer.map_or(0, |answer| answer.status)
}

/// Time as it was, for certificates that have ended.
struct Past(SystemClock);

impl Clock for Past {
    fn now(&self) -> Timestamp {
        self.0.now() - Duration::from_secs(3600)
    }

    fn monotonic_nanos(&self) -> u64 {
        self.0.monotonic_nanos()
    }
}

struct NoEvents;

impl EventSink for NoEvents {
    fn record(&self, _: testudo_model::event::Event) -> Result<(), EventNotRecorded> {
        Ok(())
    }
}

/// The workload room of a stopped fleet at another time.
fn authority(store: &Store, clock: Arc<dyn Clock>) -> Workloads {
    Workloads::open(WorkloadOptions {
        store: store.clone(),
        tenant: TenantName::default_tenant(),
        trust_domain: domain(),
        clock,
        entropy: Arc::new(SystemEntropy),
        sink: Arc::new(NoEvents),
    })
    .unwrap()
}

/// Certificates of the fleet's own CA that open no door.
struct Certificates {
    expired: Svid,
    web: (Vec<Vec<u8>>, SigningKey),
    server: Svid,
    bundle: TrustBundle,
}

#[test]
fn only_a_living_certificate_of_the_fleet_gets_through_the_handshake() {
    let shop = Shop::open("");
    let (shop, made) = shop.while_closed(|_, store| {
        let now = authority(store, Arc::new(SystemClock::new()));
        let web = now.issue_local_web(&["localhost".to_owned()]).unwrap();
        Certificates {
            expired: authority(store, Arc::new(Past(SystemClock::new())))
                .issue_local(&service("helper"))
                .unwrap(),
            web: (web.chain, web.key),
            server: now.issue_local(&domain().server()).unwrap(),
            bundle: now.bundle().unwrap().bundle,
        }
    });
    assert!(made.expired.not_after() < SystemClock::new().now());
    let (tls12, tls13) = (&rustls::version::TLS12, &rustls::version::TLS13);
    let own_ca = impostor(&service("helper")).0;
    let unknown = SigningKey::generate();
    let helper = shop.member(Some("helper"));
    let living = helper.current();
    for (what, config) in [
        ("no certificate", careless(tls13, None)),
        ("no certificate, TLS 1.2", careless(tls12, None)),
        (
            "another fleet's CA of the same name",
            careless(tls13, Some((own_ca.chain(), own_ca.key()))),
        ),
        (
            "an expired certificate",
            careless(tls13, Some((made.expired.chain(), made.expired.key()))),
        ),
        (
            "a web certificate of the fleet",
            careless(tls13, Some((&made.web.0, &made.web.1))),
        ),
        (
            "the root itself",
            careless(tls13, Some((made.bundle.roots(), &unknown))),
        ),
        (
            "a service's certificate without its key",
            careless(tls13, Some((living.chain(), &unknown))),
        ),
        ("a good certificate in a chain of others", {
            let chain = [own_ca.chain(), living.chain()].concat();
            careless(tls13, Some((&chain, own_ca.key())))
        }),
        (
            "a good certificate over TLS 1.2",
            careless(tls12, Some((living.chain(), living.key()))),
        ),
    ] {
        let answer = answer_to(&shop, &config);
        assert!(answer.is_none(), "{what}: {answer:?}");
        assert!(shop.upstream.take().is_empty(), "{what}");
    }
    // The same client with the living certificate is let in.
    let good = careless(tls13, Some((living.chain(), living.key())));
    assert_eq!(status(answer_to(&shop, &good).as_ref()), 200);
    shop.upstream.take();
    // The control plane is a member, and no caller of services.
    let server = careless(tls13, Some((made.server.chain(), made.server.key())));
    assert_eq!(status(answer_to(&shop, &server).as_ref()), 403);
    // Plain HTTP is no way in, and neither are bytes that are nothing.
    for bytes in [
        get("/public", "").into_bytes(),
        vec![0x16; 600],
        vec![0; 100],
    ] {
        let mut stream = wire::connect(shop.fleet.address("/sidecars/shop/inbound")).unwrap();
        stream.write_all(&bytes).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(
            !answer.starts_with(b"HTTP"),
            "{:?}",
            String::from_utf8_lossy(&answer)
        );
    }
    assert!(shop.upstream.take().is_empty());
}

#[test]
fn a_sidecar_decides_for_itself_whatever_it_is_told() {
    let shop = Shop::open("");
    let (alice, root) = (shop.token("alice"), shop.token("root"));
    let helper = shop.member(Some("helper"));
    let stranger = shop.member(Some("stranger"));
    let gateway = shop.member(None);
    let of_alice = format!("Txn-Token: {}\r\n", transaction_of(&shop, &alice));
    let of_root = {
        assert_eq!(
            shop.fleet.call("GET", "/admin", Some(&root), "").status,
            200
        );
        format!(
            "Txn-Token: {}\r\n",
            shop.upstream.take_one().only("txn-token").unwrap()
        )
    };
    let root_id = claims_of(&root)["sub"].as_str().unwrap().to_owned();
    let claims = format!(
        "X-User-Id: {root_id}\r\nX-User-Name: root\r\nX-User-Roles: shop-admin\r\nX-Calling-Service: gateway\r\n\
         X-Forwarded-For: 10.0.0.1\r\nTestudo-Decision: dec_00000000000000000000000000\r\n"
    );
    let bearer = format!("Authorization: Bearer {root}\r\n");
    let rows: Vec<(&str, &IdentitySource, &str, &str, String, u16)> = vec![
        // The right service, nobody behind it.
        (
            "no user",
            &helper,
            "GET",
            "/api/orders/1",
            String::new(),
            401,
        ),
        (
            "a user by word only",
            &helper,
            "GET",
            "/api/orders/1",
            claims.clone(),
            401,
        ),
        (
            "an outside token",
            &helper,
            "GET",
            "/api/orders/1",
            bearer.clone(),
            401,
        ),
        (
            "an outside token as transaction",
            &helper,
            "GET",
            "/api/orders/1",
            format!("Txn-Token: {root}\r\n"),
            401,
        ),
        (
            "no user from the edge",
            &gateway,
            "GET",
            "/api/orders/1",
            String::new(),
            401,
        ),
        (
            "a user by word only from the edge",
            &gateway,
            "GET",
            "/admin",
            claims.clone() + &bearer,
            401,
        ),
        // The wrong service, whoever is behind it.
        (
            "a stranger",
            &stranger,
            "GET",
            "/public",
            String::new(),
            403,
        ),
        (
            "a stranger for alice",
            &stranger,
            "GET",
            "/api/orders/1",
            of_alice.clone(),
            403,
        ),
        (
            "a stranger for root",
            &stranger,
            "GET",
            "/admin",
            of_root.clone(),
            403,
        ),
        (
            "a stranger by word a gateway",
            &stranger,
            "GET",
            "/public",
            claims.clone(),
            403,
        ),
        (
            "the service leg, for root",
            &helper,
            "GET",
            "/admin",
            of_root.clone(),
            403,
        ),
        (
            "the service leg, other method",
            &helper,
            "DELETE",
            "/api/orders/1",
            of_root.clone(),
            403,
        ),
        // The right service for the wrong user.
        (
            "the user leg",
            &gateway,
            "GET",
            "/admin",
            of_alice.clone(),
            403,
        ),
        (
            "the user leg, and a word",
            &gateway,
            "GET",
            "/admin",
            of_alice.clone() + &claims,
            403,
        ),
        (
            "the user leg, other method",
            &gateway,
            "DELETE",
            "/api/orders/1",
            of_alice.clone(),
            403,
        ),
        (
            "two users",
            &gateway,
            "GET",
            "/admin",
            of_alice.clone() + &of_root,
            401,
        ),
        // What does not exist.
        (
            "no route",
            &helper,
            "GET",
            "/nothing",
            of_alice.clone(),
            404,
        ),
        (
            "no method",
            &helper,
            "PUT",
            "/public",
            of_alice.clone(),
            405,
        ),
    ];
    for (what, identity, method, path, fields, expected) in &rows {
        let answer = ask(&shop, identity, method, path, fields);
        assert_eq!(status(answer.as_ref()), *expected, "{what}: {answer:?}");
        let seen = shop.upstream.take();
        assert!(seen.is_empty(), "{what}: {seen:#?}");
    }
    for (what, identity, path, fields) in [
        ("the public part", &helper, "/public", String::new()),
        ("for alice", &helper, "/api/orders/1", of_alice.clone()),
        ("the edge for root", &gateway, "/admin", of_root),
    ] {
        assert_eq!(
            status(ask(&shop, identity, "GET", path, &fields).as_ref()),
            200,
            "{what}"
        );
    }
    shop.upstream.take();

    // Thrown out: connections that are open and connections to come.
    let mut open = shop.at_sidecar("shop", &helper).unwrap();
    let request = get("/public", "");
    assert_eq!(
        status(
            wire::exchange(&mut open, request.as_bytes())
                .unwrap()
                .as_ref()
        ),
        200
    );
    shop.upstream.take();
    shop.fleet
        .folder
        .run(&["proxy", "revoke", service("helper").as_str()]);
    let refused = (0..50).any(|_| {
        std::thread::sleep(Duration::from_millis(100));
        status(ask(&shop, &helper, "GET", "/public", "").as_ref()) != 200
    });
    assert!(refused, "a revoked identity still calls");
    shop.upstream.take();
    let on_open = wire::exchange(&mut open, request.as_bytes()).ok().flatten();
    assert_ne!(status(on_open.as_ref()), 200, "{on_open:?}");
    assert!(shop.upstream.take().is_empty());
}

#[test]
fn the_outbound_side_speaks_for_its_service_and_for_users_it_was_given_only() {
    let shop = Shop::open("");
    let alice = shop.token("alice");
    let of_alice = transaction_of(&shop, &alice);
    let ask = |service: &str, request: String| {
        let address = shop.fleet.address(&format!("/sidecars/{service}/outbound"));
        let mut stream = wire::connect(address).unwrap();
        let answer = wire::exchange(&mut stream, request.as_bytes()).unwrap();
        (status(answer.as_ref()), shop.upstream.take())
    };
    let (allowed, seen) = ask(
        "helper",
        get("http://shop/public", "X-Calling-Service: gateway\r\n"),
    );
    assert_eq!((allowed, seen.len()), (200, 1));
    assert_eq!(seen[0].only("x-calling-service").as_deref(), Some("helper"));
    let own = shop.fleet.ready["server"].as_str().unwrap().to_owned();
    let upstream = shop.upstream.address;
    for (what, service, request) in [
        (
            "nobody behind it",
            "helper",
            get("http://shop/api/orders/1", ""),
        ),
        (
            "by word",
            "helper",
            get("http://shop/api/orders/1", "X-User-Id: usr_root\r\n"),
        ),
        (
            "an outside token",
            "helper",
            get(
                "http://shop/api/orders/1",
                &format!("Authorization: Bearer {alice}\r\n"),
            ),
        ),
        (
            "a transaction of others",
            "helper",
            get(
                "http://shop/api/orders/1",
                &format!("Txn-Token: {of_alice}\r\n"),
            ),
        ),
        ("no permission", "stranger", get("http://shop/public", "")),
        (
            "no permission for a route",
            "helper",
            get("http://shop/admin", ""),
        ),
        ("to itself", "stranger", get("http://stranger/wave", "")),
        (
            "around the sidecar",
            "helper",
            get(&format!("http://{upstream}/admin"), ""),
        ),
        (
            "to the control plane",
            "helper",
            get(
                &format!("{}/api/v1/status", own.replace("https", "http")),
                "",
            ),
        ),
        (
            "to the cloud",
            "helper",
            get("http://169.254.169.254/latest/meta-data/", ""),
        ),
        (
            "a tunnel",
            "helper",
            format!("CONNECT {upstream} HTTP/1.1\r\nHost: {upstream}\r\n\r\n"),
        ),
        (
            "another path",
            "helper",
            get("http://shop/public/../admin", ""),
        ),
        (
            "another name",
            "helper",
            get("http://shop.evil.example/public", ""),
        ),
        (
            "a user in the name",
            "helper",
            get("http://shop@127.0.0.1/public", ""),
        ),
    ] {
        let (status, seen) = ask(service, request);
        assert!(matches!(status, 400..=405 | 501), "{what}: {status}");
        assert!(seen.is_empty(), "{what}: {seen:#?}");
    }
}

#[test]
fn what_lies_on_disk_is_for_its_owner_alone() {
    let shop = Shop::open("");
    shop.token("alice");
    let folder = shop.fleet.folder.path();
    let mode = |path: &str| {
        std::fs::metadata(folder.join(path))
            .unwrap()
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!(mode("data"), 0o700);
    assert_eq!(mode("data.key"), 0o600);
    assert_eq!(mode("data/admin.sock"), 0o600);
    for entry in std::fs::read_dir(folder).unwrap() {
        let home = entry.unwrap().path();
        let login = home.join("login.json");
        if login.exists() {
            assert_eq!(
                std::fs::metadata(&login).unwrap().permissions().mode() & 0o777,
                0o600
            );
        }
    }
}
