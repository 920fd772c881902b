//! What all workers of a proxy share, and what each worker has for itself.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::{Arc, Mutex, PoisonError},
};

use testudo_model::{
    Clock, Entropy, FleetMap, Service, ServiceName, SpiffeId, Timestamp, limits,
    snapshot::{SnapshotVersion, TransferRules},
};
use testudo_policy::{Decision, DecisionKey};
use testudo_runtime::SpanSink;
use testudo_trust::IdentitySource;

use crate::{
    authorize::{Caller, authorize_connection},
    cache::Generations,
    limit::{Counted, Limiter, Stage},
    metrics::{ProxyMetrics, Role},
    overload::{Pressure, Turnstiles},
    pool::{H2cPool, LocalPool, MeshPool},
    rejection::{NotReady, Rejection},
    routes::RouteRef,
    span::Spans,
    state::{Enforced, EventSink, ProxyState},
};

/// What every role is given: identity, what to enforce, where evidence goes.
#[derive(Clone)]
pub struct ProxyParts {
    /// The proxy's SVID and the trust bundle, renewed by the control link.
    pub identity: IdentitySource,
    /// What is enforced.
    pub state: Arc<ProxyState>,
    /// Takes the events.
    pub events: Arc<dyn EventSink>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
    /// Counters.
    pub metrics: ProxyMetrics,
    /// Takes trace spans, if they are exported.
    pub spans: Option<SpanSink>,
}

/// One proxy.
pub(crate) struct Proxy {
    pub(crate) identity: IdentitySource,
    pub(crate) state: Arc<ProxyState>,
    pub(crate) events: Arc<dyn EventSink>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) metrics: ProxyMetrics,
    pub(crate) spans: Option<Spans>,
    pub(crate) limiter: Limiter,
}

impl Proxy {
    pub(crate) fn new(parts: ProxyParts) -> Arc<Self> {
        let ProxyParts {
            identity,
            state,
            events,
            clock,
            entropy,
            metrics,
            spans,
        } = parts;
        let spans = spans.map(|sink| Spans::new(sink, identity.current().id()));
        let limiter = Limiter::new(Arc::clone(&clock));
        Arc::new(Self {
            identity,
            state,
            events,
            clock,
            entropy,
            metrics,
            spans,
            limiter,
        })
    }

    /// What is enforced, if the proxy may serve at all.
    ///
    /// # Errors
    /// [`Rejection::NotReady`] before the first snapshot and after the end of the proxy's own certificate.
    pub(crate) fn ready(&self) -> Result<Arc<Enforced>, Rejection> {
        if self.identity.current().not_after() <= self.clock.now() {
            return Err(Rejection::NotReady(NotReady::IdentityExpired));
        }
        self.state
            .enforced()
            .ok_or(Rejection::NotReady(NotReady::NoSnapshot))
    }

    /// How slowly bodies may be sent and taken.
    pub(crate) fn transfer(&self) -> TransferRules {
        let enforced = self.state.enforced();
        enforced.map_or_else(TransferRules::default, |enforced| {
            enforced.snapshot().transfer
        })
    }

    /// The proxy's own workload identity at this moment.
    pub(crate) fn own_identity(&self) -> OwnIdentity {
        let svid = self.identity.current();
        OwnIdentity {
            id: svid.id().clone(),
            certificate_expires: svid.not_after(),
        }
    }

    /// Counts a request against the limits of the service and its operation that belong to `stage`.
    ///
    /// # Errors
    /// [`Rejection::Limited`].
    pub(crate) fn enforce_limits(
        &self,
        role: Role,
        enforced: &Enforced,
        route: RouteRef,
        stage: Stage,
        counted: &Counted<'_>,
    ) -> Result<(), Rejection> {
        let [service, operation] = enforced.limits(route).ok_or(Rejection::NoRoute)?;
        self.limiter
            .enforce(service, stage, counted)
            .and_then(|()| self.limiter.enforce(operation, stage, counted))
            .map_err(|limited| {
                self.metrics.limited(role, limited.key());
                Rejection::Limited(limited)
            })
    }
}

/// Who the proxy is to other proxies.
pub(crate) struct OwnIdentity {
    pub(crate) id: SpiffeId,
    pub(crate) certificate_expires: Timestamp,
}

impl OwnIdentity {
    /// The proxy as the calling service `name`.
    pub(crate) const fn as_caller<'a>(&'a self, name: &'a str) -> Caller<'a> {
        Caller {
            service: name,
            id: &self.id,
            certificate_expires: self.certificate_expires,
        }
    }
}

/// What a worker thread has for itself, so that no request waits for another core.
pub(crate) struct Worker {
    pub(crate) proxy: Arc<Proxy>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) decisions: Mutex<Generations<DecisionKey, Arc<Decision>>>,
    pub(crate) mesh: MeshPool,
    pub(crate) local: LocalPool,
    pub(crate) h2c: H2cPool,
    /// How this worker is.
    pub(crate) pressure: Arc<Pressure>,
    /// What other services, and the local one, are asked for at once.
    pub(crate) to_proxies: Turnstiles,
    pub(crate) to_service: Turnstiles,
    /// Label of requests that reached no service.
    pub(crate) no_service: Arc<str>,
    /// The snapshot under which a connection to the service of this index was last allowed.
    connects: Mutex<FleetMap<usize, SnapshotVersion>>,
}

impl Worker {
    pub(crate) fn new(proxy: Arc<Proxy>) -> Self {
        let entropy: Arc<dyn Entropy> = Arc::new(BufferedEntropy::new(Arc::clone(&proxy.entropy)));
        Self {
            mesh: MeshPool::new(
                proxy.identity.clone(),
                Arc::clone(&proxy.clock),
                Arc::clone(&entropy),
            ),
            local: LocalPool::new(Arc::clone(&proxy.clock)),
            h2c: H2cPool::new(Arc::clone(&proxy.clock)),
            decisions: Mutex::new(Generations::new(limits::MAX_CACHED_DECISIONS)),
            pressure: Arc::default(),
            to_proxies: Turnstiles::new(Arc::clone(&proxy.clock), proxy.metrics.clone()),
            to_service: Turnstiles::new(Arc::clone(&proxy.clock), proxy.metrics.clone()),
            no_service: Arc::from("none"),
            connects: Mutex::default(),
            entropy,
            proxy,
        }
    }

    /// Turns a request for `route` away if the worker has too much to do for one of its importance.
    ///
    /// # Errors
    /// [`Rejection::Overloaded`].
    pub(crate) fn admit(
        &self,
        role: Role,
        enforced: &Enforced,
        route: RouteRef,
    ) -> Result<(), Rejection> {
        let service = enforced.snapshot().services.get(route.service);
        let operation = service.and_then(|service| service.routes.get(route.route));
        let priority = operation.ok_or(Rejection::NoRoute)?.priority;
        if self.pressure.admits(priority) {
            return Ok(());
        }
        self.proxy.metrics.turned_away(role, priority, "proxy");
        Err(Rejection::Overloaded)
    }

    /// Decides whether `caller`, which is this proxy, may use a mesh connection to the service at `index`: when
    /// it does so first, and again under each snapshot.
    ///
    /// # Errors
    /// [`Rejection::Denied`], [`Rejection::Peer`] for a revoked service.
    pub(crate) fn may_connect(
        &self,
        role: Role,
        enforced: &Arc<Enforced>,
        caller: &Caller<'_>,
        index: usize,
    ) -> Result<(), Rejection> {
        let service = enforced
            .snapshot()
            .services
            .get(index)
            .ok_or(Rejection::NoRoute)?;
        if self
            .proxy
            .state
            .revocations()
            .revokes_workload(&service.spiffe_id)
        {
            return Err(Rejection::Peer("the called service's identity is revoked"));
        }
        let version = enforced.version();
        if self
            .connects
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&index)
            == Some(&version)
        {
            return Ok(());
        }
        let source_ip = self.own_address(&service.name);
        authorize_connection(self, role, enforced, caller, &service.name, source_ip)?;
        self.connects
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(index, version);
        Ok(())
    }

    /// Closes mesh connections that policy or revocation forbids by now, whenever either changes. `name` is the
    /// proxy as a calling service. Never ends.
    pub(crate) async fn close_forbidden_connections(self: Arc<Self>, name: String) {
        let mut changes = self.proxy.state.changes();
        while changes.changed().await.is_ok() {
            let Some(enforced) = self.proxy.state.enforced() else {
                continue;
            };
            self.mesh
                .close_unless(|peer| self.is_connection_allowed(&enforced, &name, peer));
        }
    }

    /// The address from which the sidecars of `service` see this proxy connect.
    pub(crate) fn own_address(&self, service: &ServiceName) -> IpAddr {
        let endpoints = self.proxy.state.endpoints();
        let first = endpoints
            .services
            .get(service)
            .and_then(|addresses| addresses.first());
        // Without an endpoint there is no connection either.
        first
            .and_then(|endpoint| address_towards(*endpoint))
            .unwrap_or(Ipv4Addr::UNSPECIFIED.into())
    }

    fn is_connection_allowed(&self, enforced: &Enforced, name: &str, peer: &SpiffeId) -> bool {
        let called = |service: &&Service| service.spiffe_id == *peer;
        let Some(service) = enforced.snapshot().services.iter().find(called) else {
            return false;
        };
        let own = self.proxy.own_identity();
        let caller = crate::authorize::peer(enforced, &own.as_caller(name));
        let source_ip = self.own_address(&service.name);
        !self.proxy.state.revocations().revokes_workload(peer)
            && enforced
                .policy()
                .decide_connect(&caller, &service.name, source_ip, self.proxy.clock.now())
                .allowed
    }
}

/// The local address the kernel would use towards `endpoint`. Connecting a datagram socket sends nothing.
fn address_towards(endpoint: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr = match endpoint {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(endpoint).ok()?;
    Some(socket.local_addr().ok()?.ip().to_canonical())
}

const BUFFER_BYTES: usize = 1024;

/// Draws random bytes in runs: ids and load balancing need a few bytes for each request, and a call to the
/// generator costs more than the bytes. Not for keys.
struct BufferedEntropy {
    source: Arc<dyn Entropy>,
    buffer: Mutex<Vec<u8>>,
}

impl BufferedEntropy {
    fn new(source: Arc<dyn Entropy>) -> Self {
        Self {
            source,
            buffer: Mutex::new(Vec::new()),
        }
    }
}

impl Entropy for BufferedEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        if bytes.len() > BUFFER_BYTES {
            return self.source.fill(bytes);
        }
        let mut buffer = self.buffer.lock().unwrap_or_else(PoisonError::into_inner);
        if buffer.len() < bytes.len() {
            buffer.resize(BUFFER_BYTES, 0);
            self.source.fill(&mut buffer);
        }
        let rest = buffer.len() - bytes.len();
        for (byte, random) in bytes.iter_mut().zip(buffer.drain(rest..)) {
            *byte = random;
        }
    }
}
