//! Both ends of the link in one process: what a proxy and its control plane say to each other over real
//! sockets and real TLS.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use testudo_audit::{Leaf, Ledger, LedgerOptions};
use testudo_controlplane::proxies::{
    Distribution, ProxyPort, RevocationLog, Rollout, keep_up, keep_up_once, own_identity,
};
use testudo_dataplane::{
    link::{Link, LinkError, LinkOptions, ServerAddress, StateFolder, join},
    spool::{Spool, SpoolOptions, SpoolSink},
    state::{EventSink as _, ProxyState},
};
use testudo_model::{
    Clock, Entropy, EventId, JoinToken, ServiceName, SpiffeId, TenantName, Timestamp, TrustDomain,
    event::{Actor, Event, EventClass, Outcome},
    random_bytes,
    snapshot::{Directory, GatewayRules, Revoked, Snapshot, SnapshotVersion},
};
use testudo_runtime::{Drain, DrainSignal, Readiness, SystemClock};
use testudo_store::{Store, StoreOptions};
use testudo_trust::{
    CertificateAuthority, ExpectedPeer, IdentitySource, Keyring, RootKey, Svid, SvidKey,
    SystemEntropy, TrustBundle, mesh_client_config, mesh_server_name, pinned_client_config,
};
use testudo_workload::{
    Caller, EventNotRecorded, EventSink, FleetIdentities, JoinTokenRequest, WorkloadOptions,
    Workloads,
};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Runtime,
    task::JoinHandle,
};
use tokio_rustls::{TlsConnector, rustls};

/// Long enough for a busy machine; nothing waits that long when it works.
const PATIENCE: Duration = Duration::from_secs(30);

/// Time that runs, and that a test can move.
struct ShiftedClock {
    real: SystemClock,
    shift_millis: AtomicI64,
}

impl ShiftedClock {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            real: SystemClock::new(),
            shift_millis: AtomicI64::new(0),
        })
    }

    fn shift_to(&self, shift: Duration) {
        self.shift_millis
            .store(i64::try_from(shift.as_millis()).unwrap(), Ordering::SeqCst);
    }
}

impl Clock for ShiftedClock {
    fn now(&self) -> Timestamp {
        let shift = self.shift_millis.load(Ordering::SeqCst);
        Timestamp::from_unix_millis(self.real.now().unix_millis() + shift)
    }

    fn monotonic_nanos(&self) -> u64 {
        self.real.monotonic_nanos()
    }
}

/// The ledger as the workload room sees it.
struct LedgerSink(Arc<Ledger>);

impl EventSink for LedgerSink {
    fn record(&self, event: Event) -> Result<(), EventNotRecorded> {
        self.0
            .append(&[event])
            .map(|_| ())
            .map_err(|error| EventNotRecorded(Box::new(error)))
    }
}

fn domain() -> TrustDomain {
    "fleet.example".parse().unwrap()
}

fn service(name: &str) -> SpiffeId {
    domain().service(&name.parse().unwrap())
}

/// A control plane's half of the link, over a real store.
struct ControlPlane {
    workloads: Arc<Workloads>,
    ledger: Arc<Ledger>,
    distribution: Arc<Distribution>,
    identity: IdentitySource,
    address: SocketAddr,
    clock: Arc<ShiftedClock>,
    /// Its own, so that it can end like a process.
    runtime: Option<Runtime>,
    _drain: DrainSignal,
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl ControlPlane {
    async fn start(folder: &Path, port: u16, clock: &Arc<ShiftedClock>) -> Self {
        let (workloads, ledger, distribution) = open_rooms(folder, clock);
        let identity = own_identity(&workloads).unwrap();
        keep_up_once(&workloads, &distribution, &identity, clock.now()).unwrap();
        let listener = bind(port).await.into_std().unwrap();
        let address = listener.local_addr().unwrap();
        let (signal, drain) = Drain::new();
        let port = ProxyPort {
            workloads: Arc::clone(&workloads),
            ledger: Arc::clone(&ledger),
            distribution: Arc::clone(&distribution),
            identity: identity.clone(),
            clock: clock.clone(),
        };
        let runtime = Runtime::new().unwrap();
        let watch = drain.watch();
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            port.serve(listener, watch).await.unwrap();
        });
        runtime.spawn(keep_up(
            Arc::clone(&workloads),
            Arc::clone(&distribution),
            identity.clone(),
            clock.clone(),
            drain.watch(),
        ));
        let (clock, runtime) = (Arc::clone(clock), Some(runtime));
        Self {
            workloads,
            ledger,
            distribution,
            identity,
            address,
            clock,
            runtime,
            _drain: signal,
        }
    }

    /// Ends it the way a crash would: connections break, nobody says goodbye.
    async fn stop(mut self) {
        let runtime = self.runtime.take();
        let ended = tokio::task::spawn_blocking(|| drop(runtime));
        ended.await.unwrap();
        assert_eq!(
            Arc::strong_count(&self.ledger),
            2,
            "ours and that of the workload room"
        );
    }

    fn token(&self, id: &SpiffeId) -> JoinToken {
        let request = JoinTokenRequest {
            id: id.clone(),
            lifetime: Duration::from_secs(600),
            server: Some(self.address.to_string()),
        };
        self.workloads
            .create_join_token(&request, &Caller::default())
            .unwrap()
    }

    fn publish(&self, version: u64) {
        self.distribution.publish(&snapshot(version, &[])).unwrap();
    }

    /// Events of proxies in the ledger, by activity, in order.
    fn activities(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut from = 0;
        loop {
            let page = self.ledger.tail(from, 500).unwrap();
            let Some(last) = page.last() else {
                return found;
            };
            from = last.index + 1;
            for entry in page {
                if let Leaf::Event(event) = entry.leaf
                    && event.reporter != domain().server()
                {
                    found.push(event.activity);
                }
            }
        }
    }
}

fn open_rooms(
    folder: &Path,
    clock: &Arc<ShiftedClock>,
) -> (Arc<Workloads>, Arc<Ledger>, Arc<Distribution>) {
    let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy);
    let store = Store::open(StoreOptions {
        path: folder.to_owned(),
        root_key: RootKey::from_bytes([7; 32]),
        clock: clock.clone(),
        entropy: Arc::clone(&entropy),
    })
    .unwrap();
    let tenant = TenantName::default_tenant();
    let ledger = Arc::new(
        Ledger::open(LedgerOptions {
            store: store.clone(),
            tenant: tenant.clone(),
            trust_domain: domain(),
            clock: clock.clone(),
            entropy: Arc::clone(&entropy),
        })
        .unwrap(),
    );
    let workloads = Workloads::open(WorkloadOptions {
        store: store.clone(),
        tenant: tenant.clone(),
        trust_domain: domain(),
        clock: clock.clone(),
        entropy,
        sink: Arc::new(LedgerSink(Arc::clone(&ledger))),
    })
    .unwrap();
    let services: Vec<ServiceName> = ["orders", "stock"]
        .map(|name| name.parse().unwrap())
        .to_vec();
    let fleet = FleetIdentities {
        services,
        web_names: vec!["localhost".to_owned()],
    };
    workloads.declare(&fleet, &Caller::default()).unwrap();
    let log = RevocationLog::open(store.tenant(&tenant), clock.clone()).unwrap();
    (Arc::new(workloads), ledger, Distribution::new(log))
}

/// A restarted control plane wants its old port, which the kernel may give back a moment later.
async fn bind(port: u16) -> TcpListener {
    let began = Instant::now();
    loop {
        match TcpListener::bind(("127.0.0.1", port)).await {
            Ok(listener) => return listener,
            Err(error) => assert!(began.elapsed() < PATIENCE, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A proxy's half of the link.
struct Proxy {
    link: Arc<Link>,
    identity: IdentitySource,
    state: Arc<ProxyState>,
    spool: Arc<Spool>,
    sink: Arc<SpoolSink>,
    readiness: Readiness,
    drain: Option<DrainSignal>,
    running: JoinHandle<()>,
}

/// What differs between the proxies of the tests.
struct Start<'a> {
    data: &'a Path,
    token: Option<JoinToken>,
    server: SocketAddr,
    /// The state key, if the proxy has one.
    key: Option<[u8; 32]>,
    inbound: Option<SocketAddr>,
    clock: Arc<ShiftedClock>,
}

impl Proxy {
    async fn join(control_plane: &ControlPlane, id: &SpiffeId, data: &Path) -> Self {
        let inbound = id.service().map(|_| "127.0.0.1:15006".parse().unwrap());
        let start = Start {
            data,
            token: Some(control_plane.token(id)),
            server: control_plane.address,
            key: None,
            inbound,
            clock: Arc::clone(&control_plane.clock),
        };
        Self::start(start).await.unwrap()
    }

    async fn start(start: Start<'_>) -> Result<Self, LinkError> {
        let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy);
        let clock: Arc<dyn Clock> = start.clock;
        let folder = start.key.map(|key| {
            let key = RootKey::from_bytes(key);
            Arc::new(StateFolder::open(start.data, &key, Arc::clone(&entropy)).unwrap())
        });
        let server = ServerAddress::parse(&start.server.to_string()).unwrap();
        let membership = join(
            folder.as_deref(),
            start.token.as_ref(),
            Some(&server),
            None,
            Arc::clone(&clock),
        )
        .await?;
        let identity = membership.identity;
        let keyring = folder.as_ref().map_or_else(
            || Arc::new(Keyring::new(&*entropy)),
            |folder| folder.keyring(),
        );
        let (spool, sink) = Spool::open(SpoolOptions {
            folder: start.data.join("spool"),
            keyring,
            identity: identity.clone(),
            tenant: TenantName::default_tenant(),
            max_bytes: 10_000_000,
            ring: 1024,
            clock: Arc::clone(&clock),
            entropy: Arc::clone(&entropy),
        })?;
        let state = ProxyState::new(Arc::clone(&clock));
        let readiness = Readiness::new();
        let link = Link::new(LinkOptions {
            server,
            identity: identity.clone(),
            state: Arc::clone(&state),
            spool: Arc::clone(&spool),
            folder,
            inbound: start.inbound,
            version: "test",
            readiness: readiness.clone(),
            clock,
            entropy,
        })?;
        let (signal, drain) = Drain::new();
        let running = tokio::spawn(Arc::clone(&link).run(drain.watch()));
        Ok(Self {
            link,
            identity,
            state,
            spool,
            sink,
            readiness,
            drain: Some(signal),
            running,
        })
    }

    fn enforces(&self) -> u64 {
        self.state.snapshot_version().map_or(0, |version| version.0)
    }

    fn record(&self, activity: &str) {
        let clock = SystemClock::new();
        let event = Event {
            id: EventId::generate(&clock, &SystemEntropy),
            time: clock.now(),
            tenant: TenantName::default_tenant(),
            class: EventClass::HttpActivity,
            activity: activity.to_owned(),
            outcome: Outcome::Denied,
            actor: Actor::default(),
            target: None,
            reporter: self.identity.current().id().clone(),
            source_ip: None,
            trace_id: None,
            transaction: None,
            decision: None,
            details: [].into(),
        };
        self.sink.record(event).unwrap();
    }

    /// Ends it the way a crash would, but with what was recorded on disk.
    async fn kill(mut self) {
        self.running.abort();
        let _ = (&mut self.running).await;
        let spool = Arc::clone(&self.spool);
        assert!(
            tokio::task::spawn_blocking(move || spool.close(PATIENCE))
                .await
                .unwrap()
        );
    }
}

fn snapshot(version: u64, requires: &[&str]) -> Snapshot {
    Snapshot {
        version: SnapshotVersion(version),
        requires: requires
            .iter()
            .map(|feature| (*feature).to_owned())
            .collect(),
        tenant: TenantName::default_tenant(),
        trust_domain: domain(),
        services: Vec::new(),
        directory: Directory::default(),
        policies: Vec::new(),
        issuers: Vec::new(),
        edges: Vec::new(),
        gateway: GatewayRules::default(),
    }
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(
            began.elapsed() < PATIENCE,
            "not within {PATIENCE:?}: {what}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

struct Folders(tempfile::TempDir);

impl Folders {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_joins_enforces_what_it_is_told_and_its_events_reach_the_ledger() {
    let folders = Folders::new();
    let control_plane = ControlPlane::start(&folders.at("server"), 0, &ShiftedClock::new()).await;
    let proxy = Proxy::join(&control_plane, &service("orders"), &folders.at("orders")).await;
    assert_eq!(proxy.identity.current().id(), &service("orders"));
    assert!(
        !proxy.readiness.is_ready(),
        "without a snapshot everything is refused"
    );

    control_plane.publish(1);
    eventually("the snapshot is enforced", || proxy.enforces() == 1).await;
    eventually("the proxy is ready", || proxy.readiness.is_ready()).await;
    let done = Rollout {
        newest: SnapshotVersion(1),
        enforcing: 1,
        behind: 0,
        refused: 0,
    };
    eventually("the acknowledgement is visible", || {
        control_plane.distribution.rollout() == done
    })
    .await;
    eventually("the acknowledgement is on record", || {
        let known = control_plane.workloads.instances().unwrap();
        known.len() == 1 && known[0].acknowledged == Some(SnapshotVersion(1))
    })
    .await;
    eventually("its address is known to all", || {
        let orders: ServiceName = "orders".parse().unwrap();
        let at: SocketAddr = "127.0.0.1:15006".parse().unwrap();
        proxy.state.endpoints().services.get(&orders) == Some(&vec![at])
    })
    .await;

    proxy.record("test.event");
    eventually("the event is in the ledger", || {
        control_plane.activities() == ["test.event"]
    })
    .await;
    eventually("the spool is empty", || {
        proxy.spool.status().unshipped_blocks == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_drains_says_goodbye_and_leaves_the_endpoints_at_once() {
    let folders = Folders::new();
    let control_plane = ControlPlane::start(&folders.at("server"), 0, &ShiftedClock::new()).await;
    let mut proxy = Proxy::join(&control_plane, &service("orders"), &folders.at("orders")).await;
    let endpoints = || control_plane.workloads.endpoints().unwrap().services.len();
    eventually("it is there", || endpoints() == 1).await;
    drop(proxy.drain.take());
    eventually("it is gone", || endpoints() == 0).await;
    eventually("the link ended", || proxy.running.is_finished()).await;
    // The last event is recorded after the link ended, and still arrives.
    proxy.record("test.last");
    let spool = Arc::clone(&proxy.spool);
    assert!(
        tokio::task::spawn_blocking(move || spool.close(PATIENCE))
            .await
            .unwrap()
    );
    assert!(proxy.link.ship_rest(PATIENCE).await);
    assert_eq!(control_plane.activities(), ["test.last"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_token_admits_once_and_only_at_the_control_plane_it_pins() {
    let folders = Folders::new();
    let clock = ShiftedClock::new();
    let control_plane = ControlPlane::start(&folders.at("server"), 0, &clock).await;
    let enrol = async |token: &JoinToken, expected: Option<&SpiffeId>| {
        join(None, Some(token), None, expected, clock.clone())
            .await
            .map(|membership| membership.identity)
    };
    let token = control_plane.token(&service("orders"));

    let wrong_pin = JoinToken {
        ca_sha256: random_bytes(&SystemEntropy),
        ..token.clone()
    };
    let error = enrol(&wrong_pin, None).await.unwrap_err();
    assert!(matches!(error, LinkError::Refused { .. }), "{error}");
    let other_fleet = JoinToken {
        trust_domain: "other.example".parse().unwrap(),
        ..token.clone()
    };
    assert!(enrol(&other_fleet, None).await.is_err());
    let forged = JoinToken {
        secret: "A".repeat(43).into(),
        ..token.clone()
    };
    let error = enrol(&forged, None).await.unwrap_err().chain();
    assert!(error.contains("not known"), "{error}");

    // None of that used it up.
    let identity = enrol(&token, Some(&service("orders"))).await.unwrap();
    assert_eq!(identity.current().id(), &service("orders"));
    let error = enrol(&token, None).await.unwrap_err().chain();
    assert!(error.contains("was used"), "{error}");

    let for_stock = control_plane.token(&service("stock"));
    let error = enrol(&for_stock, Some(&service("orders")))
        .await
        .unwrap_err();
    assert!(matches!(error, LinkError::WrongIdentity { .. }), "{error}");
    let error = join(None, None, None, None, clock.clone())
        .await
        .err()
        .unwrap();
    assert!(matches!(error, LinkError::TokenNeeded), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_renewed_with_a_new_key_and_nothing_else_is_noticed() {
    let folders = Folders::new();
    let clock = ShiftedClock::new();
    let control_plane = ControlPlane::start(&folders.at("server"), 0, &clock).await;
    control_plane.publish(1);
    let proxy = Proxy::join(&control_plane, &service("orders"), &folders.at("orders")).await;
    eventually("the snapshot is enforced", || proxy.enforces() == 1).await;
    let first = proxy.identity.current();

    // Past the latest time of renewal, before the end of the certificate.
    clock.shift_to(Duration::from_secs(11 * 60));
    eventually("it is renewed", || {
        proxy.identity.current().not_after() > first.not_after()
    })
    .await;
    assert_ne!(
        proxy.identity.current().key().key_id(),
        first.key().key_id()
    );

    // Past the end of the first one: whatever still hung on it would fail now.
    clock.shift_to(Duration::from_secs(16 * 60));
    proxy.record("test.after_renewal");
    eventually("events still arrive", || {
        control_plane.activities() == ["test.after_renewal"]
    })
    .await;
    control_plane.publish(2);
    eventually("snapshots still arrive", || proxy.enforces() == 2).await;
    assert!(
        control_plane
            .workloads
            .instances()
            .unwrap()
            .iter()
            .all(|known| !known.departed)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_a_proxy_cannot_enforce_is_refused_and_both_sides_know() {
    let folders = Folders::new();
    let control_plane = ControlPlane::start(&folders.at("server"), 0, &ShiftedClock::new()).await;
    control_plane.publish(1);
    let proxy = Proxy::join(&control_plane, &service("orders"), &folders.at("orders")).await;
    eventually("the snapshot is enforced", || proxy.enforces() == 1).await;
    control_plane
        .distribution
        .publish(&snapshot(2, &["telepathy"]))
        .unwrap();
    eventually("the refusal is visible", || {
        control_plane.distribution.rollout().refused == 1
    })
    .await;
    assert_eq!(proxy.enforces(), 1);
    eventually("the proxy knows that it is behind", || {
        proxy.state.is_behind()
    })
    .await;
    let refused = control_plane
        .workloads
        .instances()
        .unwrap()
        .remove(0)
        .refused
        .unwrap();
    assert!(refused.as_str().contains("telepathy"), "{refused:?}");
    control_plane.publish(3);
    eventually("the next one is enforced", || proxy.enforces() == 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_is_pushed_and_a_revoked_workload_is_let_go() {
    let folders = Folders::new();
    let control_plane = ControlPlane::start(&folders.at("server"), 0, &ShiftedClock::new()).await;
    let orders = Proxy::join(&control_plane, &service("orders"), &folders.at("orders")).await;
    let stock = Proxy::join(&control_plane, &service("stock"), &folders.at("stock")).await;
    eventually("both watch", || {
        control_plane.distribution.connected().len() == 2
    })
    .await;

    let began = Instant::now();
    control_plane
        .distribution
        .revoke(Revoked::Subject("usr_mallory".to_owned()))
        .unwrap();
    eventually("everybody knows", || {
        [&orders, &stock]
            .iter()
            .all(|proxy| proxy.state.revocations().sequence() == 1)
    })
    .await;
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "pushed, not polled: {:?}",
        began.elapsed()
    );

    let revoked = control_plane
        .workloads
        .revoke(&service("stock"), &Caller::default())
        .unwrap();
    control_plane.distribution.revoke(revoked).unwrap();
    eventually("the other proxy refuses it", || {
        orders
            .state
            .revocations()
            .revokes_workload(&service("stock"))
    })
    .await;
    eventually("it no longer watches", || {
        control_plane
            .distribution
            .connected()
            .iter()
            .all(|proxy| proxy.id == service("orders"))
    })
    .await;
    eventually("its address is gone", || {
        let stock: ServiceName = "stock".parse().unwrap();
        !orders.state.endpoints().services.contains_key(&stock)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_control_plane_is_away_a_proxy_goes_on_and_loses_no_event() {
    let folders = Folders::new();
    let clock = ShiftedClock::new();
    let control_plane = ControlPlane::start(&folders.at("server"), 0, &clock).await;
    control_plane.publish(1);
    let proxy = Proxy::join(&control_plane, &service("orders"), &folders.at("orders")).await;
    eventually("the snapshot is enforced", || proxy.enforces() == 1).await;
    proxy.record("test.0");
    eventually("the first event arrived", || {
        control_plane.activities() == ["test.0"]
    })
    .await;
    let port = control_plane.address.port();
    control_plane.stop().await;

    for number in 1..=5 {
        proxy.record(&format!("test.{number}"));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    eventually("events wait", || proxy.spool.status().unshipped_blocks > 0).await;
    assert_eq!(proxy.enforces(), 1);
    assert!(proxy.readiness.is_ready(), "{:?}", proxy.readiness.status());

    let control_plane = ControlPlane::start(&folders.at("server"), port, &clock).await;
    control_plane
        .distribution
        .revoke(Revoked::Subject("usr_mallory".to_owned()))
        .unwrap();
    control_plane.publish(2);
    eventually("it catches up", || proxy.enforces() == 2).await;
    eventually("with revocations", || {
        proxy.state.revocations().sequence() == 1
    })
    .await;
    eventually("every event arrived once, in order", || {
        control_plane.activities() == ["test.0", "test.1", "test.2", "test.3", "test.4", "test.5"]
    })
    .await;
    eventually("the endpoints did not empty", || {
        proxy.state.endpoints().services.len() == 1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_with_a_state_key_restarts_without_a_token_and_without_a_control_plane() {
    let folders = Folders::new();
    let clock = ShiftedClock::new();
    let control_plane = ControlPlane::start(&folders.at("server"), 0, &clock).await;
    control_plane.publish(1);
    let start = |token: Option<JoinToken>, key: [u8; 32], server: SocketAddr| {
        let (data, clock) = (folders.at("orders"), clock.clone());
        async move {
            Proxy::start(Start {
                data: &data,
                token,
                server,
                key: Some(key),
                inbound: None,
                clock,
            })
            .await
        }
    };
    let (address, port) = (control_plane.address, control_plane.address.port());
    let token = control_plane.token(&service("orders"));
    let proxy = start(Some(token), [1; 32], address).await.unwrap();
    control_plane
        .distribution
        .revoke(Revoked::Subject("usr_mallory".to_owned()))
        .unwrap();
    eventually("it is up to date", || {
        proxy.enforces() == 1 && proxy.state.revocations().sequence() == 1
    })
    .await;
    // What is kept for a restart is kept a moment later.
    eventually("it is on disk", || {
        ["identity", "snapshot", "revocations"]
            .iter()
            .all(|name| folders.at("orders").join(name).exists())
    })
    .await;
    control_plane.stop().await;
    proxy.record("test.unshipped");
    proxy.kill().await;

    let proxy = start(None, [1; 32], address).await.unwrap();
    assert_eq!(proxy.identity.current().id(), &service("orders"));
    assert_eq!(proxy.enforces(), 1, "before anybody was asked");
    assert_eq!(proxy.state.revocations().sequence(), 1);
    let control_plane = ControlPlane::start(&folders.at("server"), port, &clock).await;
    eventually("the event of the last run arrived", || {
        control_plane.activities() == ["test.unshipped"]
    })
    .await;
    proxy.kill().await;

    // Nothing of it is readable, and another key opens nothing.
    let mut files = std::fs::read_dir(folders.at("orders"))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    assert!(files.all(|path| path.is_dir() || !contains(&path, "fleet.example")));
    let other = RootKey::from_bytes([2; 32]);
    assert!(StateFolder::open(&folders.at("orders"), &other, Arc::new(SystemEntropy)).is_err());
    // Once the certificate is over, only a token helps.
    clock.shift_to(Duration::from_secs(3600));
    let error = start(None, [1; 32], address).await.err().unwrap();
    assert!(matches!(error, LinkError::TokenNeeded), "{error}");
}

fn contains(path: &Path, text: &str) -> bool {
    std::fs::read(path)
        .unwrap()
        .windows(text.len())
        .any(|window| window == text.as_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn roots_rotate_while_everything_runs() {
    let folders = Folders::new();
    let clock = ShiftedClock::new();
    // The control plane's clock jumps over the days of the rotation; the proxy's does not.
    let server_clock = ShiftedClock::new();
    let control_plane = ControlPlane::start(&folders.at("server"), 0, &server_clock).await;
    control_plane.publish(1);
    let token = Some(control_plane.token(&service("orders")));
    let (data, server) = (folders.at("orders"), control_plane.address);
    let start = Start {
        data: &data,
        token,
        server,
        key: None,
        inbound: None,
        clock: clock.clone(),
    };
    let proxy = Proxy::start(start).await.unwrap();
    eventually("the snapshot is enforced", || proxy.enforces() == 1).await;
    let old_root = proxy.identity.current().chain().last().unwrap().clone();

    control_plane
        .workloads
        .rotate_ca(&Caller::default())
        .unwrap();
    eventually("the new root is trusted before it signs", || {
        proxy.identity.bundle().roots().len() == 2
    })
    .await;
    server_clock.shift_to(Duration::from_secs(25 * 3600));
    control_plane.workloads.maintain().unwrap();
    server_clock.shift_to(Duration::ZERO);
    let new_root = control_plane.workloads.bundle().unwrap().bundle.roots()[0].clone();
    assert_ne!(new_root, old_root, "the new root signs");
    eventually(
        "the control plane shows a certificate of the new root",
        || control_plane.identity.current().chain().last() == Some(&new_root),
    )
    .await;

    for (version, shift) in [(2, 11), (3, 16)] {
        for clock in [&clock, &server_clock] {
            clock.shift_to(Duration::from_secs(shift * 60));
        }
        control_plane.publish(version);
        eventually("snapshots still arrive", || proxy.enforces() == version).await;
    }
    eventually("the proxy has a certificate of the new root", || {
        proxy.identity.current().chain().last() == Some(&new_root)
    })
    .await;
    proxy.record("test.after_rotation");
    eventually("events still arrive", || {
        control_plane.activities() == ["test.after_rotation"]
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_certificate_is_for_the_gateway_alone() {
    let folders = Folders::new();
    let control_plane = ControlPlane::start(&folders.at("server"), 0, &ShiftedClock::new()).await;
    let gateway = Proxy::join(&control_plane, &domain().gateway(), &folders.at("gateway")).await;
    assert!(!gateway.link.web_identity().await.unwrap().chain.is_empty());
    let orders = Proxy::join(&control_plane, &service("orders"), &folders.at("orders")).await;
    let error = orders.link.web_identity().await.err().unwrap().chain();
    assert!(error.contains("only the gateway may"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_cannot_ship_events_in_the_name_of_another() {
    let folders = Folders::new();
    let clock = ShiftedClock::new();
    let control_plane = ControlPlane::start(&folders.at("server"), 0, &clock).await;
    let orders = Proxy::join(&control_plane, &service("orders"), &folders.at("orders")).await;
    let token = control_plane.token(&service("stock"));
    let stock = join(None, Some(&token), None, None, clock.clone())
        .await
        .unwrap()
        .identity;
    orders.running.abort();
    // The spool of `orders`, over a connection of `stock`.
    let link = Link::new(LinkOptions {
        server: ServerAddress::parse(&control_plane.address.to_string()).unwrap(),
        identity: stock,
        state: Arc::clone(&orders.state),
        spool: Arc::clone(&orders.spool),
        folder: None,
        inbound: None,
        version: "test",
        readiness: Readiness::new(),
        clock: clock.clone(),
        entropy: Arc::new(SystemEntropy),
    })
    .unwrap();
    orders.record("test.smuggled");
    assert!(orders.spool.sync(PATIENCE));
    assert!(!link.ship_rest(Duration::from_secs(2)).await);
    assert_eq!(control_plane.activities(), Vec::<String>::new());
    assert_eq!(
        orders.spool.status().unshipped_blocks,
        1,
        "and nothing is lost by it"
    );
}

/// One gRPC call without a client, as a stranger would make it. Answers the status code.
async fn call(
    address: SocketAddr,
    tls: Arc<rustls::ClientConfig>,
    method: &str,
) -> io::Result<String> {
    let tcp = TcpStream::connect(address).await?;
    let stream = TlsConnector::from(tls)
        .connect(mesh_server_name(), tcp)
        .await?;
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    tokio::spawn(connection);
    // An empty message: one flag byte, four of length.
    let request = http::Request::post(format!("http://{address}/testudo.proxy.v1.{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(Bytes::from_static(&[0; 5])))
        .unwrap();
    let response = sender
        .send_request(request)
        .await
        .map_err(io::Error::other)?;
    let status =
        |headers: &http::HeaderMap| Some(headers.get("grpc-status")?.to_str().unwrap().to_owned());
    if let Some(status) = status(response.headers()) {
        return Ok(status);
    }
    let body = response
        .into_body()
        .collect()
        .await
        .map_err(io::Error::other)?;
    Ok(status(body.trailers().unwrap()).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_but_enrolment_is_open_to_who_shows_no_certificate_of_the_fleet() {
    const UNAUTHENTICATED: &str = "16";
    let folders = Folders::new();
    let clock = ShiftedClock::new();
    let control_plane = ControlPlane::start(&folders.at("server"), 0, &clock).await;
    let pin = control_plane.identity.bundle().sha256();
    let server = domain().server();
    for method in [
        "Enrolment/Enrol",
        "Proxy/Renew",
        "Proxy/IssueWebCertificate",
        "Proxy/Ship",
        "Proxy/Watch",
    ] {
        let tls = pinned_client_config(pin, &server, clock.clone(), &["h2"]);
        let status = call(control_plane.address, tls, method).await.unwrap();
        assert_eq!(status, UNAUTHENTICATED, "{method}");
    }

    // The same names, signed by somebody else.
    let ca =
        CertificateAuthority::generate(&domain(), clock.now(), Duration::from_secs(3600)).unwrap();
    let key = SvidKey::generate();
    let request = key.csr_der(&service("orders")).unwrap();
    let life = Duration::from_secs(600);
    let leaf = ca
        .issue(
            &request,
            &service("orders"),
            &[],
            clock.now(),
            life,
            &SystemEntropy,
        )
        .unwrap();
    let svid = Svid::new(vec![leaf, ca.cert_der().to_vec()], key).unwrap();
    let stranger = IdentitySource::new(svid, TrustBundle::clone(&control_plane.identity.bundle()));
    let tls = mesh_client_config(&stranger, ExpectedPeer::Id(server), clock.clone(), &["h2"]);
    assert!(
        call(control_plane.address, tls, "Proxy/Renew")
            .await
            .is_err()
    );
}
