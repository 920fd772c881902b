//! A ledger in a temporary folder, and proxies that report to it.

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use tempfile::TempDir;
use testudo_audit::{Ledger, LedgerOptions};
use testudo_model::{
    Clock, DecisionId, EventId, InstanceId, SpiffeId, TrustDomain,
    event::{
        Actor, Block, BlockHead, DecisionRecord, DeterminingPolicy, Event, EventClass, EventLines,
        Grounds, LegRecord, Outcome,
    },
};
use testudo_store::{Store, StoreOptions};
use testudo_testkit::{FakeClock, SeededEntropy};
use testudo_trust::{
    CertificateAuthority, RootKey, Svid, SvidKey, TrustBundle, base64url, hex, merkle, sha256,
};

pub struct World {
    pub ledger: Ledger,
    pub store: Store,
    pub clock: Arc<FakeClock>,
    pub entropy: Arc<SeededEntropy>,
    pub authority: CertificateAuthority,
    pub roots: TrustBundle,
    pub folder: TempDir,
}

pub fn domain() -> TrustDomain {
    "bookshop.example".parse().unwrap()
}

impl World {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (clock, entropy) = (FakeClock::today(), SeededEntropy::new(1));
        let store = Store::open(store_options(&folder, &clock)).unwrap();
        let authority =
            CertificateAuthority::generate(&domain(), clock.now(), Duration::from_secs(86_400))
                .unwrap();
        let roots = TrustBundle::new(domain(), vec![authority.cert_der().to_vec()]).unwrap();
        let ledger = Ledger::open(ledger_options(&store, &clock, 2)).unwrap();
        Self {
            ledger,
            store,
            clock,
            entropy,
            authority,
            roots,
            folder,
        }
    }

    /// A second control plane on the same store.
    pub fn second_ledger(&self) -> Ledger {
        Ledger::open(ledger_options(&self.store, &self.clock, 3)).unwrap()
    }

    /// The same ledger after a restart.
    pub fn reopen(self) -> Self {
        let Self {
            ledger,
            store,
            clock,
            entropy,
            authority,
            roots,
            folder,
        } = self;
        drop((ledger, store));
        Self::restore(folder, clock, entropy, authority, roots)
    }

    /// The ledger that the folder holds now.
    pub fn restore(
        folder: TempDir,
        clock: Arc<FakeClock>,
        entropy: Arc<SeededEntropy>,
        authority: CertificateAuthority,
        roots: TrustBundle,
    ) -> Self {
        let (store, ledger) = Self::try_restore(&folder, &clock).unwrap();
        Self {
            ledger,
            store,
            clock,
            entropy,
            authority,
            roots,
            folder,
        }
    }

    pub fn try_restore(folder: &TempDir, clock: &Arc<FakeClock>) -> Option<(Store, Ledger)> {
        let store = Store::open(store_options(folder, clock)).ok()?;
        let ledger = Ledger::open(ledger_options(&store, clock, 4)).ok()?;
        Some((store, ledger))
    }

    pub fn proxy(&self, service: &str) -> Proxy {
        let id = domain().service(&service.parse().unwrap());
        Proxy {
            instance: InstanceId::generate(&*self.clock, &*self.entropy),
            svid: self.svid(&id),
            block: 0,
            sequence: 0,
            previous: "0".repeat(64),
        }
    }

    pub fn svid(&self, id: &SpiffeId) -> Svid {
        let key = SvidKey::generate();
        let lifetime = Duration::from_secs(900);
        let leaf = self
            .authority
            .issue(
                &key.csr_der(id).unwrap(),
                id,
                &[],
                self.clock.now(),
                lifetime,
                &*self.entropy,
            )
            .unwrap();
        Svid::new(vec![leaf, self.authority.cert_der().to_vec()], key).unwrap()
    }

    /// An event of `reporter`, as a decision about `path`. They all rest on the same.
    pub fn decision(&self, reporter: &SpiffeId, path: &str, outcome: Outcome) -> Event {
        let mut event = self.event(reporter, "decision.enforce");
        event.class = EventClass::AuthorizeSession;
        event.outcome = outcome;
        event.decision = Some(DecisionRecord {
            id: DecisionId::generate(&*self.clock, &*self.entropy),
            snapshot: 1,
            service: "orders".parse().unwrap(),
            operation: None,
            method: "GET".to_owned(),
            path: path.to_owned(),
            reason: "allowed".to_owned(),
            grounds: GROUNDS.clone(),
            status: 0,
        });
        event
    }

    /// Two decisions that rest on the same: `policy` allowed.
    pub fn alike(&self, reporter: &SpiffeId, policy: &str) -> [Event; 2] {
        let grounds = grounds(policy);
        ["/first", "/second"].map(|path| {
            let mut event = self.decision(reporter, path, Outcome::Success);
            event.decision.as_mut().unwrap().grounds = grounds.clone();
            event
        })
    }

    pub fn event(&self, reporter: &SpiffeId, activity: &str) -> Event {
        Event {
            id: EventId::generate(&*self.clock, &*self.entropy),
            time: self.clock.now(),
            tenant: "default".parse().unwrap(),
            class: EventClass::ApplicationLifecycle,
            activity: activity.to_owned(),
            outcome: Outcome::Success,
            actor: Actor::default(),
            target: None,
            reporter: reporter.clone(),
            source_ip: None,
            trace_id: None,
            transaction: None,
            decision: None,
            details: std::collections::BTreeMap::new(),
        }
    }

    pub fn own_events(&self, count: usize) -> Vec<Event> {
        (0..count)
            .map(|_| self.event(&domain().server(), "process.start"))
            .collect()
    }

    /// All activities in the ledger, blocks and forks by name.
    pub fn activities(&self) -> Vec<String> {
        let entries = self.ledger.tail(0, 1_000).unwrap();
        entries
            .iter()
            .map(|entry| match &entry.leaf {
                testudo_audit::Leaf::Event(event) => event.activity.clone(),
                testudo_audit::Leaf::Alike(_) => panic!("an entry has the whole event"),
                testudo_audit::Leaf::Block(_) => "BLOCK".to_owned(),
                testudo_audit::Leaf::Fork(_) => "FORK".to_owned(),
            })
            .collect()
    }
}

static GROUNDS: LazyLock<Grounds> = LazyLock::new(|| grounds("everybody"));

/// `policy` allowed.
fn grounds(policy: &str) -> Grounds {
    let policies = vec![DeterminingPolicy {
        id: policy.to_owned(),
        reason: None,
        file: "shop.cedar".to_owned(),
        line: 1,
    }];
    let leg = LegRecord {
        leg: "service".to_owned(),
        principal: String::new(),
        action: "invoke".to_owned(),
        resource: String::new(),
        allowed: true,
        policies,
        errors: Vec::new(),
    };
    Grounds {
        legs: Arc::from([leg]),
        context: Some("{}".into()),
    }
}

/// The lines that a proxy makes of `events`.
pub fn lines(events: &[Event]) -> Vec<String> {
    let mut lines = EventLines::default();
    let line = |event: &Event| lines.push(Box::new(event.clone())).unwrap().to_vec();
    events
        .iter()
        .map(line)
        .map(|line| String::from_utf8(line).unwrap())
        .collect()
}

fn store_options(folder: &TempDir, clock: &Arc<FakeClock>) -> StoreOptions {
    StoreOptions {
        path: folder.path().join("data"),
        root_key: RootKey::from_bytes([7; 32]),
        clock: clock.clone(),
        entropy: SeededEntropy::new(9),
    }
}

fn ledger_options(store: &Store, clock: &Arc<FakeClock>, seed: u64) -> LedgerOptions {
    LedgerOptions {
        store: store.clone(),
        tenant: "default".parse().unwrap(),
        trust_domain: domain(),
        clock: clock.clone(),
        entropy: SeededEntropy::new(seed),
    }
}

/// A proxy with its spool.
#[derive(Clone)]
pub struct Proxy {
    pub instance: InstanceId,
    pub svid: Svid,
    pub block: u64,
    pub sequence: u64,
    pub previous: String,
}

impl Proxy {
    pub fn id(&self) -> &SpiffeId {
        self.svid.id()
    }

    /// The next block with `count` events.
    pub fn seal(&mut self, world: &World, count: usize) -> Block {
        let events = (0..count)
            .map(|at| world.decision(self.id(), &format!("/{at}"), Outcome::Success))
            .collect::<Vec<_>>();
        self.seal_events(world, &events, 0)
    }

    pub fn seal_events(&mut self, world: &World, events: &[Event], lost: u64) -> Block {
        self.seal_texts(world, lines(events), lost)
    }

    pub fn seal_texts(&mut self, world: &World, events: Vec<String>, lost: u64) -> Block {
        let hashes: Vec<_> = events
            .iter()
            .map(|event| merkle::leaf_hash(event.as_bytes()))
            .collect();
        let head = BlockHead {
            reporter: self.id().clone(),
            instance: self.instance.clone(),
            block: self.block,
            first_sequence: self.sequence,
            count: u32::try_from(events.len()).unwrap(),
            previous: self.previous.clone(),
            root: hex::encode(&merkle::root(&hashes)),
            lost,
            sealed_at: world.clock.now(),
        };
        self.block += 1;
        self.sequence += events.len() as u64;
        let block = self.sign(&head, events);
        self.previous = hex::encode(&sha256(block.head.as_bytes()));
        block
    }

    pub fn sign(&self, head: &BlockHead, events: Vec<String>) -> Block {
        let head = serde_json::to_string(head).unwrap();
        Block {
            signature: base64url::encode(&self.svid.sign(head.as_bytes())),
            chain: self
                .svid
                .chain()
                .iter()
                .map(|der| STANDARD.encode(der))
                .collect(),
            head,
            events,
        }
    }
}
