//! Prometheus metrics of one process.

use std::sync::{Arc, PoisonError, RwLock};

use prometheus_client::{
    encoding::text,
    metrics::info::Info,
    registry::{Metric, Registry},
};
use testudo_model::Clock;

use crate::process::ProcessCollector;

/// The metrics of one process: its own, named `testudo_…`, and the usual `process_…`. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Arc<RwLock<Registry>>,
}

impl Metrics {
    /// Media type of [`Metrics::encode`]'s text (OpenMetrics 1.0).
    pub const CONTENT_TYPE: &'static str =
        "application/openmetrics-text; version=1.0.0; charset=utf-8";

    /// Process metrics and `testudo_build_info`; `clock` gives the start time.
    pub fn new(clock: &dyn Clock) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(ProcessCollector::new(clock.now())));
        registry.register(
            "testudo_build",
            "Version of the running binary",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        Self {
            registry: Arc::new(RwLock::new(registry)),
        }
    }

    /// Adds `metric` as `testudo_<name>` and returns it. `name` follows the Prometheus conventions: unit at the
    /// end (`_seconds`, `_bytes`), no `_total` (it is added to counters). `help` is a phrase without period.
    pub fn register<M: Metric + Clone>(&self, name: &str, help: &str, metric: M) -> M {
        let mut registry = self
            .registry
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        registry.register(format!("testudo_{name}"), help, metric.clone());
        metric
    }

    /// All metrics in the text format of Prometheus and OpenMetrics.
    pub fn encode(&self) -> String {
        let registry = self.registry.read().unwrap_or_else(PoisonError::into_inner);
        let mut page = String::with_capacity(16 * 1024);
        // Writing to a `String` cannot fail; a metric whose encoding does is a bug of that metric.
        if let Err(error) = text::encode(&mut page, &registry) {
            tracing::error!(%error, "the metrics page is incomplete");
        }
        page
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::{counter::Counter, family::Family};

    use super::*;
    use crate::SystemClock;

    fn value(page: &str, metric: &str) -> f64 {
        let line = page.lines().find(|line| line.starts_with(metric)).unwrap();
        line.rsplit_once(' ').unwrap().1.parse().unwrap()
    }

    #[test]
    fn registered_families_are_on_the_page_under_our_prefix() {
        let metrics = Metrics::new(&SystemClock::new());
        let requests = Family::<Vec<(String, String)>, Counter>::default();
        let requests = metrics.register("requests", "Requests answered", requests);
        requests
            .get_or_create(&vec![("code".to_owned(), "200".to_owned())])
            .inc_by(3);
        let page = metrics.encode();
        assert!(
            page.contains("testudo_requests_total{code=\"200\"} 3"),
            "{page}"
        );
        assert!(page.contains("testudo_build_info{version="), "{page}");
        assert!(page.ends_with("# EOF\n"));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_process_reports_its_memory_time_and_descriptors() {
        let page = Metrics::new(&SystemClock::new()).encode();
        assert!(value(&page, "process_resident_memory_bytes") > 100_000.0);
        assert!(value(&page, "process_open_fds") >= 3.0);
        assert!(value(&page, "process_max_fds") >= value(&page, "process_open_fds"));
        assert!(value(&page, "process_threads") >= 1.0);
        assert!(value(&page, "process_start_time_seconds") > 1.7e9);
        assert!(value(&page, "process_cpu_seconds_total") >= 0.0);
    }
}
