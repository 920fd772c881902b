//! Which of several endpoints: the less loaded of two chosen at random, without those that keep failing.

use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
};

use testudo_model::{Entropy, random_below};

/// Failures in a row after which an endpoint is left out.
const FAILURES_TO_EJECT: u32 = 5;
/// How long, for the first time; each further failure adds as much again.
const EJECTION_NANOS: u64 = 5_000_000_000;
/// The longest ejection is this many times the first.
const MAX_EJECTIONS: u32 = 12;

/// How one endpoint is doing.
#[derive(Debug, Default)]
pub(crate) struct Health {
    open: AtomicUsize,
    failures: AtomicU32,
    ejected_until: AtomicU64,
}

impl Health {
    /// Requests under way.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    pub(crate) fn begin(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn end(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    /// The endpoint answered, whatever it answered.
    pub(crate) fn succeeded(&self) {
        self.failures.store(0, Ordering::Relaxed);
    }

    /// It could not be reached or broke off.
    pub(crate) fn failed(&self, now_nanos: u64) {
        let failures = self
            .failures
            .fetch_add(1, Ordering::Relaxed)
            .saturating_add(1);
        if let Some(beyond) = failures.checked_sub(FAILURES_TO_EJECT) {
            let times = u64::from(beyond.saturating_add(1).min(MAX_EJECTIONS));
            self.ejected_until
                .store(now_nanos + times * EJECTION_NANOS, Ordering::Relaxed);
        }
    }

    pub(super) fn is_ejected(&self, now_nanos: u64) -> bool {
        now_nanos < self.ejected_until.load(Ordering::Relaxed)
    }
}

/// Chooses an endpoint: power of two choices by requests under way. Ejected endpoints are chosen only when
/// there is no other: an answer that may fail is better than none.
pub(crate) fn choose<'a, E>(
    endpoints: &'a [Arc<E>],
    health: impl Fn(&E) -> &Health,
    entropy: &dyn Entropy,
    now_nanos: u64,
) -> Option<&'a Arc<E>> {
    if let [only] = endpoints {
        return Some(only);
    }
    let fit: Vec<_> = endpoints
        .iter()
        .filter(|endpoint| !health(endpoint).is_ejected(now_nanos))
        .collect();
    let candidates = if fit.is_empty() {
        endpoints.iter().collect()
    } else {
        fit
    };
    let count = u64::try_from(candidates.len())
        .ok()
        .filter(|count| *count > 0)?;
    let first = random_below(entropy, count);
    // The second is another one, each with equal chance.
    let second = (first + 1 + random_below(entropy, count - 1)) % count;
    let at = |index: u64| {
        usize::try_from(index)
            .ok()
            .and_then(|index| candidates.get(index))
            .copied()
    };
    let (first, second) = (at(first)?, at(second)?);
    Some(if health(second).open() < health(first).open() {
        second
    } else {
        first
    })
}

#[cfg(test)]
mod tests {
    use testudo_testkit::SeededEntropy;

    use super::*;

    fn endpoints(count: usize) -> Vec<Arc<Health>> {
        (0..count).map(|_| Arc::new(Health::default())).collect()
    }

    fn times_chosen(endpoints: &[Arc<Health>], now: u64) -> Vec<usize> {
        let entropy = SeededEntropy::new(7);
        let mut times = vec![0; endpoints.len()];
        for _ in 0..1000 {
            let chosen = choose(endpoints, |health| health, &*entropy, now).unwrap();
            times[endpoints
                .iter()
                .position(|e| Arc::ptr_eq(e, chosen))
                .unwrap()] += 1;
        }
        times
    }

    #[test]
    fn equal_endpoints_share_and_a_loaded_one_gets_less() {
        let endpoints = endpoints(3);
        assert!(times_chosen(&endpoints, 0).iter().all(|times| *times > 250));
        for _ in 0..10 {
            endpoints[0].begin();
        }
        assert_eq!(times_chosen(&endpoints, 0)[0], 0);
    }

    #[test]
    fn an_endpoint_that_keeps_failing_is_left_out_for_a_while() {
        let endpoints = endpoints(2);
        for _ in 0..FAILURES_TO_EJECT {
            assert!(times_chosen(&endpoints, 0)[0] > 0);
            endpoints[0].failed(0);
        }
        assert_eq!(times_chosen(&endpoints, 0)[0], 0);
        assert!(times_chosen(&endpoints, EJECTION_NANOS)[0] > 0);
        endpoints[0].succeeded();
        endpoints[0].failed(EJECTION_NANOS);
        assert!(
            times_chosen(&endpoints, EJECTION_NANOS)[0] > 0,
            "one failure after a success does not eject"
        );
    }

    #[test]
    fn when_all_fail_some_endpoint_is_still_tried() {
        let endpoints = endpoints(2);
        for endpoint in &endpoints {
            (0..FAILURES_TO_EJECT).for_each(|_| endpoint.failed(0));
        }
        assert!(times_chosen(&endpoints, 0).iter().all(|times| *times > 0));
        assert!(choose(&[] as &[Arc<Health>], |h| h, &*SeededEntropy::new(1), 0).is_none());
    }
}
