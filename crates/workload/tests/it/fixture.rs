//! A fleet with a fake clock, on a store in a temporary folder.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tempfile::TempDir;
use testudo_model::{
    Clock, Redacted, SpiffeId,
    event::{Event, Outcome},
};
use testudo_store::{Store, StoreOptions};
use testudo_testkit::{FakeClock, SeededEntropy};
use testudo_trust::{CertificateAuthority, RootKey, SvidKey};
use testudo_workload::{
    Caller, EventNotRecorded, EventSink, FleetIdentities, IssuedChain, JoinTokenRequest,
    ShownCertificate, WorkloadError, WorkloadOptions, Workloads,
};

pub const SECOND: Duration = Duration::from_secs(1);
pub const MINUTE: Duration = Duration::from_secs(60);
pub const HOUR: Duration = Duration::from_secs(3600);
pub const DAY: Duration = Duration::from_secs(24 * 3600);

#[derive(Default)]
pub struct Events {
    pub taken: Mutex<Vec<Event>>,
    pub broken: Mutex<bool>,
}

impl EventSink for Events {
    fn record(&self, event: Event) -> Result<(), EventNotRecorded> {
        if *self.broken.lock().unwrap() {
            return Err(EventNotRecorded("the ledger is away".into()));
        }
        self.taken.lock().unwrap().push(event);
        Ok(())
    }
}

impl Events {
    pub fn last(&self) -> (String, Outcome) {
        let taken = self.taken.lock().unwrap();
        taken
            .last()
            .map(|event| (event.activity.clone(), event.outcome))
            .unwrap()
    }
}

pub struct Fleet {
    pub workloads: Workloads,
    pub clock: Arc<FakeClock>,
    pub events: Arc<Events>,
    pub store: Store,
    _folder: TempDir,
}

impl Fleet {
    /// A fleet with the services `orders` and `cart`.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = FakeClock::today();
        let store = Store::open(StoreOptions {
            path: folder.path().join("data"),
            root_key: RootKey::from_bytes([7; 32]),
            clock: clock.clone(),
            entropy: SeededEntropy::new(1),
        })
        .unwrap();
        let events = Arc::new(Events::default());
        let workloads = open(&store, &clock, &events);
        let fleet = Self {
            workloads,
            clock,
            events,
            store,
            _folder: folder,
        };
        fleet.declare(&["orders", "cart"]);
        fleet
    }

    /// The same fleet after a restart of the control plane.
    pub fn restart(&mut self) {
        self.workloads = open(&self.store, &self.clock, &self.events);
    }

    pub fn declare(&self, services: &[&str]) -> testudo_workload::Declared {
        let identities = FleetIdentities {
            services: services.iter().map(|name| name.parse().unwrap()).collect(),
            web_names: vec!["shop.example".to_owned(), "127.0.0.1".to_owned()],
        };
        self.workloads
            .declare(&identities, &Caller::default())
            .unwrap()
    }

    /// Renews with a certificate of `id` that holds. What signed it was for the connection to ask.
    pub fn renew(&self, id: &SpiffeId) -> Result<IssuedChain, WorkloadError> {
        let now = self.clock.now();
        let authority = CertificateAuthority::generate(&id.trust_domain(), now, HOUR).unwrap();
        let csr = SvidKey::generate().csr_der(id).unwrap();
        let life = 15 * MINUTE;
        let leaf = authority
            .issue(&csr, id, &[], now, life, &*SeededEntropy::new(3))
            .unwrap();
        self.renew_with(&leaf)
    }

    /// Renews with the certificate `leaf`.
    pub fn renew_with(&self, leaf: &[u8]) -> Result<IssuedChain, WorkloadError> {
        let shown = ShownCertificate::read(leaf).unwrap();
        self.workloads.renew(&shown, &request(), &Caller::default())
    }

    /// A join token for `id`, as the proxy sends it.
    pub fn credential(&self, id: &SpiffeId) -> Redacted<String> {
        let request = JoinTokenRequest {
            id: id.clone(),
            lifetime: HOUR,
            server: None,
        };
        let token = self
            .workloads
            .create_join_token(&request, &Caller::default())
            .unwrap();
        token.credential()
    }
}

fn open(store: &Store, clock: &Arc<FakeClock>, events: &Arc<Events>) -> Workloads {
    Workloads::open(WorkloadOptions {
        store: store.clone(),
        tenant: "default".parse().unwrap(),
        trust_domain: "bookshop.example".parse().unwrap(),
        clock: clock.clone(),
        entropy: SeededEntropy::new(2),
        sink: events.clone(),
    })
    .unwrap()
}

pub fn id(path: &str) -> SpiffeId {
    format!("spiffe://bookshop.example{path}").parse().unwrap()
}

pub fn orders() -> SpiffeId {
    id("/svc/orders")
}

/// A request for a certificate with a fresh key; the name in it is the requester's wish and nothing more.
pub fn request() -> Vec<u8> {
    SvidKey::generate()
        .csr_der(&id("/whatever/I/like"))
        .unwrap()
}
