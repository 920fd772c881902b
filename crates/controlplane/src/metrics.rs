//! What the control plane counts. Names follow the Prometheus conventions; labels are bounded.

use std::sync::{
    Arc,
    atomic::{AtomicI64, AtomicU64},
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};
use testudo_runtime::Metrics;

use crate::{plane::Plane, proxies::Distribution};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    /// Route pattern, not the path.
    endpoint: String,
    /// `2xx` and the like.
    status: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProxyLabels {
    /// `enforcing`, `behind` or `refused`.
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MailLabels {
    /// `sent`, `refused` or `failed`.
    outcome: &'static str,
}

/// The control plane's metrics.
#[derive(Debug, Clone)]
pub struct ControlMetrics {
    mails: Family<MailLabels, Counter>,
    mails_waiting: Gauge<i64, AtomicI64>,
    signals_waiting: Gauge<i64, AtomicI64>,
    requests: Family<RequestLabels, Counter>,
    proxies: Family<ProxyLabels, Gauge>,
    snapshot: Gauge<i64, AtomicI64>,
    revocations_behind: Gauge<i64, AtomicI64>,
    ledger_entries: Gauge<i64, AtomicI64>,
    ca_expiry: Gauge<f64, AtomicU64>,
}

impl ControlMetrics {
    /// Adds the families to the metrics of the process.
    pub fn register(metrics: &Metrics, distribution: &Distribution) -> Self {
        metrics.register(
            "control_revocation_delivery_seconds",
            "Time from a revocation until a connected proxy enforces it, for each proxy",
            distribution.delivery.clone(),
        );
        Self {
            revocations_behind: metrics.register(
                "control_revocations_behind",
                "Revocations that the connected proxy which is furthest behind does not enforce yet",
                Gauge::default(),
            ),
            mails: metrics.register(
                "control_mails",
                "Attempts to send a letter, by what came of it",
                Family::default(),
            ),
            mails_waiting: metrics.register(
                "control_mails_waiting",
                "Letters that wait to be sent",
                Gauge::default(),
            ),
            signals_waiting: metrics.register(
                "control_signals_waiting",
                "Signals that wait for their receivers",
                Gauge::default(),
            ),
            requests: metrics.register(
                "control_requests",
                "Requests to the identity provider and the admin API",
                Family::default(),
            ),
            proxies: metrics.register(
                "control_proxies",
                "Connected proxies by what they do with the newest snapshot",
                Family::default(),
            ),
            snapshot: metrics.register(
                "control_snapshot",
                "Number of the newest snapshot",
                Gauge::default(),
            ),
            ledger_entries: metrics.register(
                "ledger_entries",
                "Entries of the ledger",
                Gauge::default(),
            ),
            ca_expiry: metrics.register(
                "ca_expiry_timestamp_seconds",
                "When the first of the trusted CA certificates expires",
                Gauge::default(),
            ),
        }
    }

    /// Counts an answer.
    pub fn request(&self, endpoint: &str, status: u16) {
        let status = match status {
            100..200 => "1xx",
            200..300 => "2xx",
            300..400 => "3xx",
            400..500 => "4xx",
            _ => "5xx",
        };
        let labels = RequestLabels {
            endpoint: endpoint.to_owned(),
            status,
        };
        self.requests.get_or_create(&labels).inc();
    }

    /// Counts an attempt to send a letter.
    pub fn mail(&self, outcome: &'static str) {
        self.mails.get_or_create(&MailLabels { outcome }).inc();
    }

    /// Looks at the plane. Blocks on the store.
    pub fn observe(&self, plane: &Arc<Plane>) {
        let rollout = plane.distribution.rollout();
        for (state, count) in [
            ("enforcing", rollout.enforcing),
            ("behind", rollout.behind),
            ("refused", rollout.refused),
        ] {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.proxies
                .get_or_create(&ProxyLabels { state })
                .set(count);
        }
        let behind = rollout.revocations_behind;
        self.revocations_behind
            .set(i64::try_from(behind).unwrap_or(i64::MAX));
        let providers = plane.tenants.providers();
        let waiting: usize = providers
            .iter()
            .map(|provider| provider.waiting_mails())
            .sum();
        self.mails_waiting
            .set(i64::try_from(waiting).unwrap_or(i64::MAX));
        let waiting: usize = providers
            .iter()
            .map(|provider| provider.waiting_signals())
            .sum();
        self.signals_waiting
            .set(i64::try_from(waiting).unwrap_or(i64::MAX));
        self.snapshot
            .set(i64::try_from(rollout.newest.0).unwrap_or(i64::MAX));
        if let Ok(size) = plane.ledger.size() {
            self.ledger_entries
                .set(i64::try_from(size).unwrap_or(i64::MAX));
        }
        if let Ok(roots) = plane.workloads.roots()
            && let Some(first) = roots.iter().map(|root| root.not_after.unix_seconds()).min()
        {
            #[expect(
                clippy::cast_precision_loss,
                reason = "seconds since 1970 fit an f64 exactly"
            )]
            self.ca_expiry.set(first as f64);
        }
    }
}
