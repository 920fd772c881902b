//! What a proxy enforces at this moment, and how it changes: the border between the control link and the
//! request path.
//!
//! The link calls [`ProxyState::activate`], [`ProxyState::set_endpoints`] and
//! [`ProxyState::apply_revocations`]; the request path reads. Reading never waits: snapshots are compiled
//! aside and swapped as a whole.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::{ArcSwap, ArcSwapOption};
use testudo_model::{
    Clock, FleetMap, Route, Service, SpiffeId,
    event::Event,
    snapshot::{Endpoints, KNOWN_FEATURES, Revocation, Snapshot, SnapshotVersion, Subject},
};
use testudo_policy::{GATEWAY, PolicyEngine};
use testudo_trust::JwkSet;
use tokio::sync::watch;

use crate::{
    api_keys::ApiKeys,
    iplist::{IpFilter, IpSet},
    limit::Limits,
    revocations::{RevocationSet, RevocationsFull},
    routes::{RouteConflict, RouteRef, RouteTable},
};

/// Takes events off the request path.
pub trait EventSink: Send + Sync + 'static {
    /// Queues `event`. Never waits.
    ///
    /// # Errors
    /// [`SinkFull`] when the event could not be taken; the call it belongs to must then be refused, because
    /// a decision without evidence is none.
    fn record(&self, event: Event) -> Result<(), SinkFull>;
}

/// The event queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the event spool is full: free space in the data folder or bring the control plane back")]
pub struct SinkFull;

/// Why a snapshot is not enforced. The proxy keeps the one it has.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It needs what this build cannot do.
    #[error(
        "the snapshot requires the feature `{feature}`, which this proxy cannot enforce: upgrade it"
    )]
    UnknownFeature {
        /// The first unknown feature.
        feature: String,
    },
    /// Its policies do not compile.
    #[error("the policies of the snapshot do not compile")]
    Policy(#[source] testudo_policy::PolicyErrors),
    /// Its routes contradict each other.
    #[error("the routes of the snapshot contradict each other")]
    Routes(#[source] RouteConflict),
    /// An issuer's keys cannot be read.
    #[error("the keys of issuer `{issuer}` cannot be used")]
    Issuer {
        /// The issuer.
        issuer: String,
        /// What is wrong with them.
        #[source]
        source: testudo_trust::JoseError,
    },
    /// Two services or two issuers with one identity: which one is meant is not decidable.
    #[error("`{identity}` is declared twice")]
    Duplicate {
        /// The identity.
        identity: String,
    },
}

/// An issuer of access tokens with its keys.
#[derive(Debug)]
pub struct TrustedIssuer {
    /// `iss`.
    pub issuer: String,
    /// The audience its tokens must name.
    pub audience: String,
    /// Its verification keys.
    pub keys: JwkSet,
}

/// A snapshot, compiled: everything a request needs, by index.
pub struct Enforced {
    snapshot: Arc<Snapshot>,
    policy: Arc<PolicyEngine>,
    routes: RouteTable,
    issuers: Vec<TrustedIssuer>,
    issuers_fingerprint: [u8; 32],
    edges: HashSet<SpiffeId>,
    callers: FleetMap<SpiffeId, String>,
    subjects: FleetMap<String, Subject>,
    api_keys: ApiKeys,
    gateway_ip: IpFilter,
    service_ip: Vec<IpFilter>,
    service_labels: Vec<Arc<str>>,
    gateway_limits: Limits,
    service_limits: Vec<ServiceLimits>,
    trusted_proxies: IpSet,
}

/// The limits of a service, and those of each of its operations.
struct ServiceLimits {
    own: Limits,
    operations: Vec<Limits>,
}

impl Enforced {
    /// Compiles `snapshot`.
    ///
    /// # Errors
    /// [`Refusal`] when any part of it could not be enforced exactly as meant.
    pub fn compile(snapshot: &Snapshot) -> Result<Self, Refusal> {
        if let Some(feature) = snapshot
            .requires
            .iter()
            .find(|f| !KNOWN_FEATURES.contains(&f.as_str()))
        {
            return Err(Refusal::UnknownFeature {
                feature: feature.clone(),
            });
        }
        let snapshot = Arc::new(snapshot.clone());
        let policy = Arc::new(PolicyEngine::compile(&snapshot).map_err(Refusal::Policy)?);
        let routes = RouteTable::compile(&snapshot.services).map_err(Refusal::Routes)?;
        Ok(Self {
            issuers: compile_issuers(&snapshot)?,
            issuers_fingerprint: fingerprint_issuers(&snapshot),
            edges: snapshot.edges.iter().cloned().collect(),
            callers: compile_callers(&snapshot)?,
            subjects: snapshot
                .directory
                .subjects
                .iter()
                .map(|s| (s.id.clone(), s.clone()))
                .collect(),
            api_keys: ApiKeys::new(&snapshot),
            gateway_ip: IpFilter::new(&snapshot.gateway.ip),
            service_ip: snapshot
                .services
                .iter()
                .map(|s| IpFilter::new(&s.ip))
                .collect(),
            service_labels: snapshot
                .services
                .iter()
                .map(|s| Arc::from(s.name.as_str()))
                .collect(),
            gateway_limits: Limits::new([GATEWAY, ""], &snapshot.gateway.limits),
            service_limits: snapshot.services.iter().map(ServiceLimits::of).collect(),
            trusted_proxies: IpSet::new(&snapshot.gateway.trusted_proxies),
            policy,
            routes,
            snapshot,
        })
    }

    /// The snapshot itself.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Its version.
    pub fn version(&self) -> SnapshotVersion {
        self.snapshot.version
    }

    /// The decision engine.
    pub fn policy(&self) -> &PolicyEngine {
        &self.policy
    }

    /// The routes.
    pub fn routes(&self) -> &RouteTable {
        &self.routes
    }

    /// The issuer whose `iss` is exactly `issuer`.
    pub fn issuer(&self, issuer: &str) -> Option<&TrustedIssuer> {
        self.issuers.iter().find(|known| known.issuer == issuer)
    }

    /// All trusted issuers.
    pub fn issuers(&self) -> &[TrustedIssuer] {
        &self.issuers
    }

    /// Changes whenever an issuer, an audience or a key does: part of the key of every verified token.
    pub fn issuers_fingerprint(&self) -> &[u8; 32] {
        &self.issuers_fingerprint
    }

    /// Whether `id` may mint transaction tokens.
    pub fn is_edge(&self, id: &SpiffeId) -> bool {
        self.edges.contains(id)
    }

    /// The Cedar service name of the workload `id`: a declared service, or the gateway.
    pub fn caller(&self, id: &SpiffeId) -> Option<&str> {
        self.callers.get(id).map(String::as_str)
    }

    /// The user or service account `subject`.
    pub fn subject(&self, subject: &str) -> Option<&Subject> {
        self.subjects.get(subject)
    }

    /// The API keys in force.
    pub(crate) fn api_keys(&self) -> &ApiKeys {
        &self.api_keys
    }

    /// Who may connect to the gateway.
    pub fn gateway_ip(&self) -> &IpFilter {
        &self.gateway_ip
    }

    /// Who may reach the service at `index` of [`Snapshot::services`].
    pub fn service_ip(&self, index: usize) -> Option<&IpFilter> {
        self.service_ip.get(index)
    }

    /// The limits of every request at the gateway.
    pub(crate) fn gateway_limits(&self) -> &Limits {
        &self.gateway_limits
    }

    /// The limits of the service of `route`, and of its operation.
    pub(crate) fn limits(&self, route: RouteRef) -> Option<[&Limits; 2]> {
        let service = self.service_limits.get(route.service)?;
        Some([&service.own, service.operations.get(route.route)?])
    }

    /// The metrics label of the service at `index`.
    pub(crate) fn service_label(&self, index: usize) -> Option<&Arc<str>> {
        self.service_labels.get(index)
    }

    /// Proxies whose forwarding headers are believed.
    pub fn trusted_proxies(&self) -> &IpSet {
        &self.trusted_proxies
    }

    /// Index of a declared service.
    pub fn service_index(&self, name: &str) -> Option<usize> {
        // The snapshot promises the order; a caller that breaks it finds nothing and is refused.
        self.snapshot
            .services
            .binary_search_by(|service| service.name.as_str().cmp(name))
            .ok()
    }
}

impl ServiceLimits {
    fn of(service: &Service) -> Self {
        let name = service.name.as_str();
        let of_operation =
            |route: &Route| Limits::new([name, route.operation.as_str()], &route.limits);
        Self {
            own: Limits::new([name, ""], &service.limits),
            operations: service.routes.iter().map(of_operation).collect(),
        }
    }
}

fn compile_issuers(snapshot: &Snapshot) -> Result<Vec<TrustedIssuer>, Refusal> {
    let mut issuers: Vec<TrustedIssuer> = Vec::with_capacity(snapshot.issuers.len());
    for declared in &snapshot.issuers {
        if issuers.iter().any(|known| known.issuer == declared.issuer) {
            return Err(Refusal::Duplicate {
                identity: declared.issuer.clone(),
            });
        }
        let keys = JwkSet::parse(&declared.jwks).map_err(|source| Refusal::Issuer {
            issuer: declared.issuer.clone(),
            source,
        })?;
        issuers.push(TrustedIssuer {
            issuer: declared.issuer.clone(),
            audience: declared.audience.clone(),
            keys,
        });
    }
    Ok(issuers)
}

fn fingerprint_issuers(snapshot: &Snapshot) -> [u8; 32] {
    let mut bytes = Vec::new();
    for issuer in &snapshot.issuers {
        for part in [&issuer.issuer, &issuer.audience, &issuer.jwks] {
            bytes.extend_from_slice(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            bytes.extend_from_slice(part.as_bytes());
        }
    }
    testudo_trust::sha256(&bytes)
}

fn compile_callers(snapshot: &Snapshot) -> Result<FleetMap<SpiffeId, String>, Refusal> {
    let mut callers = FleetMap::default();
    callers.insert(snapshot.trust_domain.gateway(), GATEWAY.to_owned());
    for service in &snapshot.services {
        // A service called like the gateway would be decided as the gateway.
        if service.name.as_str() == GATEWAY {
            return Err(Refusal::Duplicate {
                identity: GATEWAY.to_owned(),
            });
        }
        if callers
            .insert(service.spiffe_id.clone(), service.name.as_str().to_owned())
            .is_some()
        {
            return Err(Refusal::Duplicate {
                identity: service.spiffe_id.to_string(),
            });
        }
    }
    Ok(callers)
}

/// The state of one proxy. Shared by the control link (writes) and all workers (read).
pub struct ProxyState {
    enforced: ArcSwapOption<Enforced>,
    endpoints: ArcSwap<Endpoints>,
    revocations: RevocationSet,
    newest_snapshot: AtomicU64,
    newest_revocation: AtomicU64,
    changed: watch::Sender<u64>,
}

impl ProxyState {
    /// A proxy that knows nothing yet and therefore refuses everything.
    pub fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            enforced: ArcSwapOption::empty(),
            endpoints: ArcSwap::from_pointee(Endpoints::default()),
            revocations: RevocationSet::new(clock),
            newest_snapshot: AtomicU64::new(0),
            newest_revocation: AtomicU64::new(0),
            changed: watch::Sender::new(0),
        })
    }

    /// Compiles `snapshot` and enforces it from now on, whatever its number: a control plane that went back to a backup
    /// has lower ones. Takes as long as compiling does: not for a thread
    /// that serves requests.
    ///
    /// # Errors
    /// [`Refusal`]; what was enforced before stays.
    pub fn activate(&self, snapshot: Snapshot) -> Result<SnapshotVersion, Refusal> {
        let compiled = Arc::new(Enforced::compile(&snapshot)?);
        let version = compiled.version();
        self.enforced.store(Some(compiled));
        self.newest_snapshot.fetch_max(version.0, Ordering::AcqRel);
        self.announce_change();
        Ok(version)
    }

    /// Replaces the addresses of the other proxies. They come in order, each set whole.
    pub fn set_endpoints(&self, endpoints: Endpoints) {
        self.endpoints.store(Arc::new(endpoints));
    }

    /// Takes in entries of the revocation log.
    ///
    /// # Errors
    /// [`RevocationsFull`] when they do not fit; from then on every token is refused until entries expire.
    pub fn apply_revocations(&self, entries: &[Revocation]) -> Result<u64, RevocationsFull> {
        let result = self.revocations.apply(entries);
        self.announce_change();
        result
    }

    /// Notes what the control plane says is newest.
    pub fn note_newest(&self, snapshot: SnapshotVersion, revocation: u64) {
        self.newest_snapshot.store(snapshot.0, Ordering::Release);
        self.newest_revocation.store(revocation, Ordering::Release);
    }

    /// Whether the control plane knows more than this proxy enforces.
    pub fn is_behind(&self) -> bool {
        let snapshot = self.snapshot_version().map_or(0, |version| version.0);
        snapshot < self.newest_snapshot.load(Ordering::Acquire)
            || self.revocations.sequence() < self.newest_revocation.load(Ordering::Acquire)
    }

    /// What is enforced; `None` before the first snapshot.
    pub fn enforced(&self) -> Option<Arc<Enforced>> {
        self.enforced.load_full()
    }

    /// Version of what is enforced.
    pub fn snapshot_version(&self) -> Option<SnapshotVersion> {
        self.enforced
            .load()
            .as_ref()
            .map(|enforced| enforced.version())
    }

    /// Inbound addresses of the live sidecars of `service`, as now known.
    pub fn endpoints(&self) -> Arc<Endpoints> {
        self.endpoints.load_full()
    }

    /// What no longer holds.
    pub fn revocations(&self) -> &RevocationSet {
        &self.revocations
    }

    /// A receiver that sees a change whenever decisions about open connections may come out differently.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn announce_change(&self) {
        self.changed
            .send_modify(|generation| *generation = generation.wrapping_add(1));
    }
}
