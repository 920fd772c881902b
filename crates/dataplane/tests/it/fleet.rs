//! A fleet of one gateway and the sidecars of `orders`, `mailer` (both public) and `inventory` (internal).
//!
//! `orders` may call `inventory`, `mailer` may not. Alice is a clerk and may everything, Bob nothing.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    num::NonZeroUsize,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rustls::ClientConfig;
use serde_json::json;
use testudo_dataplane::{
    Delivered, Gateway, GatewayOptions, Listeners, ProxyMetrics, ProxyParts, Running, Sidecar,
    SidecarOptions,
    state::{EventSink, ProxyState, SinkFull},
};
use testudo_model::{
    ACCESS_TOKEN_TYPE, AccessTokenClaims, Clock, Entropy, ServiceName, SessionId, SpiffeId,
    TenantName, Timestamp, TokenId, TrustDomain,
    event::Event,
    snapshot::{Endpoints, Snapshot},
};
use testudo_runtime::{Drain, DrainSignal, Metrics, SystemClock};
use testudo_trust::{
    CertificateAuthority, ExpectedPeer, IdentitySource, SigningKey, Svid, SystemEntropy,
    TrustBundle, WebCertificate, mesh_client_config, web_client_config,
};

use crate::{
    client::{self, Reply},
    upstream::Upstream,
};

pub const ALICE: &str = "usr_01KAN3YH0000000000000000AA";
pub const BOB: &str = "usr_01KAN3YH0000000000000000BB";
pub const ISSUER: &str = "https://login.fleet.example";
pub const AUDIENCE: &str = "https://fleet.example";

const POLICY: &str = r#"
    @id("orders-use-inventory")
    permit (
      principal == Fleet::Service::"orders",
      action in [Fleet::Action::"connect", Fleet::Action::"invoke"],
      resource in Fleet::Api::"inventory"
    );
    @id("clerks-do-everything")
    permit (
      principal in Fleet::Group::"clerks",
      action in [Fleet::Action::"read", Fleet::Action::"write"],
      resource
    );
"#;

/// Keeps events, or refuses them all.
#[derive(Default)]
pub struct Ledger {
    events: Mutex<Vec<Event>>,
    pub full: AtomicBool,
}

impl EventSink for Ledger {
    fn record(&self, event: Event) -> Result<(), SinkFull> {
        if self.full.load(Ordering::SeqCst) {
            return Err(SinkFull);
        }
        self.events.lock().unwrap().push(event);
        Ok(())
    }
}

impl Ledger {
    pub fn events(&self) -> Vec<Event> {
        self.events.lock().unwrap().clone()
    }

    pub fn decision(&self, id: &str) -> Option<Event> {
        self.events()
            .into_iter()
            .find(|event| event.decision.as_ref().is_some_and(|d| d.id.as_str() == id))
    }
}

pub struct Proxy {
    pub address: SocketAddr,
    pub outbound: Option<SocketAddr>,
    #[cfg(feature = "http3")]
    pub http3: Option<SocketAddr>,
    /// Where it leads to services that take connections.
    pub connections: BTreeMap<&'static str, SocketAddr>,
    pub state: Arc<ProxyState>,
    pub ledger: Arc<Ledger>,
    pub drain: Option<DrainSignal>,
    pub running: Option<Running>,
}

pub struct Fleet {
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    pub domain: TrustDomain,
    ca: CertificateAuthority,
    pub signer: SigningKey,
    metrics: (Metrics, ProxyMetrics),
    pub snapshot: Snapshot,
    pub upstreams: BTreeMap<&'static str, Upstream>,
    pub proxies: BTreeMap<&'static str, Proxy>,
    web: Arc<ClientConfig>,
    web_h2: Arc<ClientConfig>,
}

impl Fleet {
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// A running fleet that enforces the standard snapshot after `change`.
    pub async fn start_with(change: impl FnOnce(&mut Snapshot)) -> Self {
        let mut fleet = Self::prepare().await;
        change(&mut fleet.snapshot);
        fleet.start_proxies();
        fleet.activate();
        fleet
    }

    /// A running fleet whose proxies have no snapshot yet.
    pub async fn start_blank() -> Self {
        let mut fleet = Self::prepare().await;
        fleet.start_proxies();
        fleet
    }

    fn start_proxies(&mut self) {
        for name in ["gateway", "inventory", "mailer", "orders"] {
            let proxy = self.start_proxy(name);
            if let Some(upstream) = self.upstreams.get(name) {
                *upstream.outbound.lock().unwrap() = proxy.outbound;
            }
            self.proxies.insert(name, proxy);
        }
        self.announce_endpoints();
    }

    async fn prepare() -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy);
        let domain: TrustDomain = "fleet.example".parse().unwrap();
        let ca = CertificateAuthority::generate(&domain, clock.now(), Duration::from_secs(86_400))
            .unwrap();
        let root = pem(ca.cert_der());
        let mut upstreams = BTreeMap::new();
        for name in ["inventory", "mailer", "orders"] {
            upstreams.insert(name, Upstream::start().await);
        }
        let signer = SigningKey::generate();
        let snapshot = snapshot(&domain, &signer, &upstreams);
        let metrics = Metrics::new(&*clock);
        let proxy_metrics = ProxyMetrics::register(&metrics);
        Self {
            web: web_client_config(root.as_bytes(), &["http/1.1"]).unwrap(),
            web_h2: web_client_config(root.as_bytes(), &["h2"]).unwrap(),
            metrics: (metrics, proxy_metrics),
            proxies: BTreeMap::new(),
            clock,
            entropy,
            domain,
            ca,
            signer,
            snapshot,
            upstreams,
        }
    }

    /// Makes every proxy enforce [`Fleet::snapshot`].
    pub fn activate(&self) {
        for proxy in self.proxies.values() {
            proxy.state.activate(self.snapshot.clone()).unwrap();
        }
    }

    fn announce_endpoints(&self) {
        let services: BTreeMap<ServiceName, Vec<SocketAddr>> = self
            .proxies
            .iter()
            .filter(|(name, _)| **name != "gateway")
            .map(|(name, proxy)| (name.parse().unwrap(), vec![proxy.address]))
            .collect();
        for proxy in self.proxies.values() {
            proxy.state.set_endpoints(Endpoints {
                version: 1,
                services: services.clone(),
            });
        }
    }

    fn start_proxy(&self, name: &'static str) -> Proxy {
        let workers = NonZeroUsize::MIN;
        let listeners = || Listeners::bind("127.0.0.1:0".parse().unwrap(), workers).unwrap();
        let state = ProxyState::new(Arc::clone(&self.clock));
        let ledger = Arc::new(Ledger::default());
        let (signal, drain) = Drain::new();
        let id = if name == "gateway" {
            self.domain.gateway()
        } else {
            self.service_id(name)
        };
        let parts = ProxyParts {
            identity: self.identity(&id),
            state: Arc::clone(&state),
            events: ledger.clone(),
            clock: Arc::clone(&self.clock),
            entropy: Arc::clone(&self.entropy),
            metrics: self.metrics.1.clone(),
            spans: None,
        };
        let drain_deadline = Duration::from_secs(5);
        let ways: BTreeMap<_, _> = ["inventory", "mailer"]
            .map(|called| (called, listeners()))
            .into();
        let connections = ways
            .iter()
            .map(|(called, listeners)| (*called, listeners.address()))
            .collect();
        let ways = ways
            .into_iter()
            .map(|(called, listeners)| (called.parse().unwrap(), listeners))
            .collect();
        let inbound = listeners();
        let address = inbound.address();
        #[cfg(feature = "http3")]
        let datagrams = (name == "gateway").then(|| {
            let any = "127.0.0.1:0".parse().unwrap();
            testudo_dataplane::Datagrams::bind(any, workers).unwrap()
        });
        #[cfg(feature = "http3")]
        let http3 = datagrams.as_ref().map(|datagrams| datagrams.address());
        let (running, outbound) = if name == "gateway" {
            let options = GatewayOptions {
                listen: inbound,
                certificate: self.web_certificate(),
                allow_tls12: false,
                redirect: None,
                connections: ways,
                parts,
                drain,
                drain_deadline,
            };
            #[cfg(feature = "http3")]
            let running = Gateway::start_with_http3(options, datagrams.unwrap());
            #[cfg(not(feature = "http3"))]
            let running = Gateway::start(options);
            (running.unwrap(), None)
        } else {
            let outbound = listeners();
            let outbound_address = outbound.address();
            let service = name.parse().unwrap();
            let options = SidecarOptions {
                service,
                inbound,
                outbound,
                delivered: Delivered::new(Arc::clone(&self.clock)),
                connections: ways,
                parts,
                drain,
                drain_deadline,
            };
            (Sidecar::start(options).unwrap(), Some(outbound_address))
        };
        Proxy {
            address,
            outbound,
            #[cfg(feature = "http3")]
            http3,
            connections,
            state,
            ledger,
            drain: Some(signal),
            running: Some(running),
        }
    }

    pub fn service_id(&self, name: &str) -> SpiffeId {
        self.domain.service(&name.parse().unwrap())
    }

    /// A valid identity of the fleet.
    pub fn identity(&self, id: &SpiffeId) -> IdentitySource {
        self.identity_from(id, self.clock.now())
    }

    /// An identity of the fleet that is valid from `begin` on.
    pub fn identity_from(&self, id: &SpiffeId, begin: Timestamp) -> IdentitySource {
        let key = SigningKey::generate();
        let csr = key.csr_der(id).unwrap();
        let lifetime = Duration::from_secs(900);
        let leaf = self
            .ca
            .issue(&csr, id, &[], begin, lifetime, &*self.entropy)
            .unwrap();
        IdentitySource::new(Svid::new(vec![leaf], key).unwrap(), self.bundle())
    }

    /// An identity that another CA issued, with the fleet's bundle.
    pub fn impostor(&self, id: &SpiffeId) -> IdentitySource {
        let lifetime = Duration::from_secs(900);
        let ca = CertificateAuthority::generate(&self.domain, self.clock.now(), lifetime).unwrap();
        let key = SigningKey::generate();
        let csr = key.csr_der(id).unwrap();
        let leaf = ca
            .issue(&csr, id, &[], self.clock.now(), lifetime, &*self.entropy)
            .unwrap();
        IdentitySource::new(Svid::new(vec![leaf], key).unwrap(), self.bundle())
    }

    fn bundle(&self) -> TrustBundle {
        TrustBundle::new(self.domain.clone(), vec![self.ca.cert_der().to_vec()]).unwrap()
    }

    /// The fleet's root certificate, DER.
    pub fn root(&self) -> &[u8] {
        self.ca.cert_der()
    }

    fn web_certificate(&self) -> WebCertificate {
        let key = SigningKey::generate();
        let csr = key.csr_der(&self.domain.gateway()).unwrap();
        let names = ["localhost".to_owned()];
        let lifetime = Duration::from_secs(900);
        let leaf = self
            .ca
            .issue_web(
                &csr,
                &names,
                &[],
                self.clock.now(),
                lifetime,
                &*self.entropy,
            )
            .unwrap();
        WebCertificate::issued(&[leaf], &key).unwrap()
    }

    pub fn claims(&self, subject: &str) -> AccessTokenClaims {
        let now = self.clock.now().unix_seconds();
        AccessTokenClaims {
            iss: ISSUER.to_owned(),
            sub: subject.to_owned(),
            aud: AUDIENCE.to_owned(),
            exp: now + 300,
            iat: now - 2,
            jti: TokenId::generate(&*self.clock, &*self.entropy),
            client_id: "tests".to_owned(),
            scope: "orders:read orders:write".to_owned(),
            sid: Some(SessionId::generate(&*self.clock, &*self.entropy)),
            auth_time: Some(now - 2),
            acr: None,
            amr: vec!["pwd".to_owned()],
            cnf: None,
            act: None,
        }
    }

    pub fn token(&self, subject: &str) -> String {
        self.sign(&self.claims(subject))
    }

    pub fn sign(&self, claims: &AccessTokenClaims) -> String {
        self.signer.sign_jwt(ACCESS_TOKEN_TYPE, claims).unwrap()
    }

    pub fn gateway(&self) -> &Proxy {
        &self.proxies["gateway"]
    }

    pub async fn gateway_stream(&self) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
        client::tls(self.gateway().address, Arc::clone(&self.web))
            .await
            .unwrap()
    }

    pub async fn gateway_h2_stream(
        &self,
    ) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
        client::tls(self.gateway().address, Arc::clone(&self.web_h2))
            .await
            .unwrap()
    }

    /// TLS that trusts the fleet's CA.
    pub fn web_config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.web)
    }

    /// A request through the gateway, with `token` if there is one.
    pub async fn call(
        &self,
        method: &str,
        path: &str,
        token: Option<&str>,
        fields: &[(&str, &str)],
    ) -> Reply {
        let authorization = token.map(|token| format!("Bearer {token}"));
        let mut all = fields.to_vec();
        if let Some(authorization) = &authorization {
            all.push(("authorization", authorization));
        }
        client::over_http1(self.gateway_stream().await, method, path, &all, b"").await
    }

    pub async fn get(&self, path: &str, token: Option<&str>) -> Reply {
        self.call("GET", path, token, &[]).await
    }

    /// A request straight at a sidecar's inbound listener with the certificate of `identity`.
    pub async fn attack(
        &self,
        target: &str,
        identity: &IdentitySource,
        path: &str,
        fields: &[(&str, &str)],
    ) -> std::io::Result<Reply> {
        let stream = self.attack_raw(target, identity).await?;
        Ok(client::over_http1(stream, "GET", path, fields, b"").await)
    }

    pub async fn attack_raw(
        &self,
        target: &str,
        identity: &IdentitySource,
    ) -> std::io::Result<tokio_rustls::client::TlsStream<tokio::net::TcpStream>> {
        let expected = ExpectedPeer::InTrustDomain;
        let config = mesh_client_config(identity, expected, Arc::clone(&self.clock), &["http/1.1"]);
        client::tls(self.proxies[target].address, config).await
    }

    pub fn metrics_page(&self) -> String {
        self.metrics.0.encode()
    }
}

fn snapshot(
    domain: &TrustDomain,
    signer: &SigningKey,
    upstreams: &BTreeMap<&'static str, Upstream>,
) -> Snapshot {
    let route = |operation: &str, methods: &[&str], path: &str, action: &str, user: &str| {
        json!({ "operation": operation, "methods": methods, "path": path, "action": action, "user": user,
            "scopes": [], "sensitivity": 0, "step_up": false, "limits": [],
            "max_body_bytes": 1000, "timeout_millis": 10_000 })
    };
    let service = |name: &str, exposure: &str, routes: Vec<serde_json::Value>| {
        json!({ "name": name, "spiffe_id": domain.service(&name.parse().unwrap()), "exposure": exposure,
            "hosts": [], "upstream": upstreams[name].address, "routes": routes, "groups": [],
            "environment": "test", "ip": {}, "limits": [], "quarantined": false })
    };
    let mut limited = route("orders.limited", &["GET"], "/limited", "read", "required");
    limited["limits"] =
        json!([{ "per": "user", "requests": 2, "period_millis": 60_000, "burst": 2 }]);
    let mut slow = route("orders.slow", &["GET"], "/slow", "read", "none");
    slow["timeout_millis"] = json!(300);
    let live = |operation: &str, path: &str, user: &str| {
        let mut live = route(operation, &["GET"], path, "read", user);
        live["websocket"] = json!(true);
        live
    };
    let services = vec![
        service(
            "inventory",
            "internal",
            vec![
                route("stock.read", &["GET"], "/stock/{id}", "read", "required"),
                live("stock.live", "/live/{id}", "none"),
            ],
        ),
        service(
            "mailer",
            "external",
            vec![route(
                "mail.read",
                &["GET"],
                "/mail/via/{service}",
                "read",
                "required",
            )],
        ),
        service(
            "orders",
            "external",
            vec![
                route("orders.read", &["GET"], "/orders/{id}", "read", "required"),
                route("orders.create", &["POST"], "/orders", "write", "required"),
                route(
                    "orders.stock",
                    &["GET"],
                    "/orders/{id}/via/{service}",
                    "read",
                    "required",
                ),
                route("orders.public", &["GET", "POST"], "/public", "read", "none"),
                route(
                    "orders.finishing",
                    &["GET"],
                    "/slow-but-fine",
                    "read",
                    "none",
                ),
                limited,
                slow,
                live("orders.live", "/live/{id}", "required"),
            ],
        ),
    ];
    let subject = |id: &str, username: &str, groups: &[&str]| {
        json!({ "id": id, "username": username, "tenant": "default", "disabled": false, "clearance": 0,
            "groups": groups, "roles": groups.iter().map(|_| "clerk").collect::<Vec<_>>() })
    };
    serde_json::from_value(json!({
        "version": 1, "requires": ["http", "cedar", "gcra", "ip-lists"],
        "tenant": TenantName::default_tenant(), "trust_domain": domain, "services": services,
        "directory": {
            "subjects": [subject(ALICE, "alice", &["clerks"]), subject(BOB, "bob", &[])],
            "groups": { "clerks": [] }, "roles": ["clerk"],
        },
        "policies": [{ "name": "fleet.cedar", "text": POLICY }],
        "issuers": [{ "issuer": ISSUER, "audience": AUDIENCE,
            "jwks": json!({ "keys": [signer.public_jwk()] }).to_string() }],
        "edges": [domain.gateway()],
        "gateway": { "ip": {}, "trusted_proxies": [], "limits": [] },
    }))
    .unwrap()
}

pub fn pem(der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<_> = text
        .as_bytes()
        .chunks(64)
        .map(|line| std::str::from_utf8(line).unwrap())
        .collect();
    format!(
        "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
        lines.join("\n")
    )
}
