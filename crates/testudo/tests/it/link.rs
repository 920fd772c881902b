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
    link::{Expected, Link, LinkError, LinkOptions, ServerAddress, StateFolder, join},
    spool::{Spool, SpoolOptions, SpoolSink},
    state::{EventSink as _, ProxyState},
};
use testudo_model::{
    Clock, Entropy, EventId, JoinToken, ServiceName, SpiffeId, TenantName, Timestamp, TrustDomain,
    event::{Actor, Event, EventClass, Outcome},
    random_bytes,
    snapshot::{Directory, GatewayRules, Revoked, Snapshot, SnapshotVersion, TransferRules},
};
use testudo_runtime::{Drain, DrainSignal, Readiness, SystemClock, with_causes};
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

mod late;
mod life;
mod refusals;

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
        transfer: TransferRules::default(),
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
