//! What a proxy counts. Labels are few: declared services, fixed codes; nothing a client can choose.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use http::StatusCode;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
};
use testudo_model::{Priority, SpiffeId, Timestamp};
use testudo_runtime::Metrics;

use crate::spool::SpoolStatus;

/// Upper bounds in seconds. The first is below the cost of a denial, the last above the default deadline.
const DURATION_BUCKETS: [f64; 12] = [
    0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 5.0, 30.0,
];

/// Where in the path of a call a proxy stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Role {
    /// From outside into the fleet.
    Gateway,
    /// Into the local service.
    Inbound,
    /// From the local service to another one.
    Outbound,
}

impl Role {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    role: &'static str,
    service: Arc<str>,
    status: &'static str,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ServiceLabels {
    role: &'static str,
    service: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DirectionLabels {
    role: &'static str,
    service: Arc<str>,
    direction: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RoleLabels {
    role: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LimitLabels {
    role: &'static str,
    per: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TurnedAwayLabels {
    role: &'static str,
    priority: &'static str,
    by: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CacheLabels {
    cache: &'static str,
    result: &'static str,
}

/// Several proxies may share a process.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WorkloadLabels {
    workload: String,
}

type Seconds = Family<WorkloadLabels, Gauge<f64, AtomicU64>>;
type Durations = Family<ServiceLabels, Histogram, fn() -> Histogram>;

/// The metrics of all proxies of one process. Register once, clone for each proxy.
#[derive(Debug, Clone)]
pub struct ProxyMetrics {
    requests: Family<RequestLabels, Counter>,
    durations: Durations,
    connections: Family<RoleLabels, Gauge>,
    streams: Family<ServiceLabels, Gauge>,
    stream_bytes: Family<DirectionLabels, Counter>,
    handshake_failures: Family<RoleLabels, Counter>,
    limited: Family<LimitLabels, Counter>,
    token_cache: CacheCounters,
    decision_cache: CacheCounters,
    turned_away: Family<TurnedAwayLabels, Counter>,
    upstream_limits: Family<ServiceLabels, Gauge>,
    events_refused: Counter,
    svid_expiry: Seconds,
    silence: Seconds,
    spool_waiting: Family<WorkloadLabels, Gauge>,
    spool_faults: Family<WorkloadLabels, Gauge>,
}

/// Lookups in one cache. Found once: every call counts one.
#[derive(Debug, Clone)]
struct CacheCounters {
    hits: Counter,
    misses: Counter,
}

impl CacheCounters {
    fn of(cache: &'static str, lookups: &Family<CacheLabels, Counter>) -> Self {
        let counter = |result| {
            lookups
                .get_or_create(&CacheLabels { cache, result })
                .clone()
        };
        Self {
            hits: counter("hit"),
            misses: counter("miss"),
        }
    }

    fn count(&self, hit: bool) {
        if hit { &self.hits } else { &self.misses }.inc();
    }
}

/// How a proxy stands in its fleet.
#[derive(Debug)]
pub(crate) struct Standing {
    /// End of its certificate.
    pub(crate) svid_expires: Timestamp,
    /// How long ago the control plane was last heard, `None` if it never was.
    pub(crate) silence: Option<Duration>,
    /// Its event spool.
    pub(crate) spool: SpoolStatus,
}

impl ProxyMetrics {
    /// Adds the families to the metrics of the process.
    pub fn register(metrics: &Metrics) -> Self {
        let durations: Durations =
            Family::new_with_constructor(|| Histogram::new(DURATION_BUCKETS));
        let caches = metrics.register(
            "cache_lookups",
            "Lookups of remembered results",
            Family::default(),
        );
        Self {
            requests: metrics.register(
                "requests",
                "Requests answered, by decision reason",
                Family::default(),
            ),
            durations: metrics.register(
                "request_duration_seconds",
                "Time from a request's head to its answer's head",
                durations,
            ),
            connections: metrics.register(
                "connections",
                "Open downstream connections",
                Family::default(),
            ),
            streams: metrics.register(
                "streams",
                "Open WebSockets and connections that are carried unread",
                Family::default(),
            ),
            stream_bytes: metrics.register(
                "stream_bytes",
                "Bytes carried by WebSockets and connections",
                Family::default(),
            ),
            handshake_failures: metrics.register(
                "tls_handshake_failures",
                "TLS handshakes that did not complete",
                Family::default(),
            ),
            limited: metrics.register(
                "limit_rejections",
                "Requests over a rate limit",
                Family::default(),
            ),
            token_cache: CacheCounters::of("token", &caches),
            decision_cache: CacheCounters::of("decision", &caches),
            turned_away: metrics.register(
                "turned_away",
                "Requests turned away because the proxy or the upstream had too much to do",
                Family::default(),
            ),
            upstream_limits: metrics.register(
                "upstream_concurrency_limit",
                "Requests that an upstream is asked for at once at most, as found out from its answers",
                Family::default(),
            ),
            events_refused: metrics.register(
                "events_refused",
                "Decisions that could not be recorded and were therefore refused",
                Counter::default(),
            ),
            svid_expiry: metrics.register(
                "svid_expiry_timestamp_seconds",
                "When the proxy's certificate expires",
                Family::default(),
            ),
            silence: metrics.register(
                "control_plane_silence_seconds",
                "Time since the control plane was last heard",
                Family::default(),
            ),
            spool_waiting: metrics.register(
                "spool_waiting_bytes",
                "Events on disk that the ledger has not confirmed",
                Family::default(),
            ),
            spool_faults: metrics.register(
                "spool_faulty",
                "1 while events cannot be recorded and calls are therefore refused",
                Family::default(),
            ),
        }
    }

    pub(crate) fn request(
        &self,
        role: Role,
        service: &Arc<str>,
        status: StatusCode,
        reason: &'static str,
        took: Duration,
    ) {
        let labels = RequestLabels {
            role: role.as_str(),
            service: Arc::clone(service),
            status: class(status),
            reason,
        };
        self.requests.get_or_create(&labels).inc();
        let labels = ServiceLabels {
            role: role.as_str(),
            service: Arc::clone(service),
        };
        self.durations
            .get_or_create(&labels)
            .observe(took.as_secs_f64());
    }

    pub(crate) fn connection(&self, role: Role) -> OpenConnection {
        let gauge = self
            .connections
            .get_or_create(&RoleLabels {
                role: role.as_str(),
            })
            .clone();
        gauge.inc();
        OpenConnection(gauge)
    }

    pub(crate) fn handshake_failed(&self, role: Role) {
        self.handshake_failures
            .get_or_create(&RoleLabels {
                role: role.as_str(),
            })
            .inc();
    }

    /// Counts a stream to `service` as open, and its bytes.
    pub(crate) fn stream(&self, role: Role, service: &str) -> OpenStream {
        let (role, service) = (role.as_str(), Arc::<str>::from(service));
        let labels = ServiceLabels {
            role,
            service: Arc::clone(&service),
        };
        let open = self.streams.get_or_create(&labels).clone();
        open.inc();
        let bytes = |direction| {
            let labels = DirectionLabels {
                role,
                service: Arc::clone(&service),
                direction,
            };
            self.stream_bytes.get_or_create(&labels).clone()
        };
        OpenStream {
            _open: OpenConnection(open),
            to_service_bytes: bytes("to_service"),
            to_client_bytes: bytes("to_client"),
        }
    }

    pub(crate) fn limited(&self, role: Role, per: &'static str) {
        self.limited
            .get_or_create(&LimitLabels {
                role: role.as_str(),
                per,
            })
            .inc();
    }

    pub(crate) fn token_lookup(&self, hit: bool) {
        self.token_cache.count(hit);
    }

    pub(crate) fn decision_lookup(&self, hit: bool) {
        self.decision_cache.count(hit);
    }

    /// `by` is what was overloaded: `proxy` or `upstream`.
    pub(crate) fn turned_away(&self, role: Role, priority: Priority, by: &'static str) {
        self.turned_away
            .get_or_create(&TurnedAwayLabels {
                role: role.as_str(),
                priority: priority.as_str(),
                by,
            })
            .inc();
    }

    /// What a worker lets through to `service` at once; the workers' limits are shown as their sum.
    pub(crate) fn upstream_limit(&self, role: Role, service: &str) -> ShownLimit {
        let labels = ServiceLabels {
            role: role.as_str(),
            service: Arc::from(service),
        };
        ShownLimit {
            sum: self.upstream_limits.get_or_create(&labels).clone(),
            own: 0,
        }
    }

    pub(crate) fn event_refused(&self) {
        self.events_refused.inc();
    }

    pub(crate) fn standing(&self, id: &SpiffeId, standing: &Standing) {
        let labels = WorkloadLabels {
            workload: id.path().to_owned(),
        };
        #[expect(
            clippy::cast_precision_loss,
            reason = "seconds since 1970 fit a double exactly"
        )]
        let expires = standing.svid_expires.unix_seconds() as f64;
        self.svid_expiry.get_or_create(&labels).set(expires);
        if let Some(silence) = standing.silence {
            let gauge = self.silence.get_or_create(&labels);
            gauge.set(silence.as_secs_f64());
        }
        let waiting = i64::try_from(standing.spool.unshipped_bytes).unwrap_or(i64::MAX);
        self.spool_waiting.get_or_create(&labels).set(waiting);
        let faulty = i64::from(standing.spool.fault.is_some());
        self.spool_faults.get_or_create(&labels).set(faulty);
    }
}

/// Counts a stream as open while it lives, and what it carries.
#[derive(Debug)]
pub(crate) struct OpenStream {
    _open: OpenConnection,
    pub(crate) to_service_bytes: Counter,
    pub(crate) to_client_bytes: Counter,
}

/// Counts a connection as open while it lives.
#[derive(Debug)]
pub(crate) struct OpenConnection(Gauge);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// A worker's part of a limit that is shown; goes with it.
#[derive(Debug)]
pub(crate) struct ShownLimit {
    sum: Gauge,
    own: i64,
}

impl ShownLimit {
    pub(crate) fn set(&mut self, limit: usize) {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        if limit != self.own {
            self.sum.inc_by(limit - self.own);
            self.own = limit;
        }
    }
}

impl Drop for ShownLimit {
    fn drop(&mut self) {
        self.set(0);
    }
}

const fn class(status: StatusCode) -> &'static str {
    match status.as_u16() {
        100..=199 => "1xx",
        200..=299 => "2xx",
        300..=399 => "3xx",
        400..=499 => "4xx",
        _ => "5xx",
    }
}
