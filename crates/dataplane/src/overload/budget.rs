//! How much is tried again: a share of what is asked for. Without a bound, each hop of an upstream that fails multiplies
//! its load by the number of its attempts, and what is overloaded never recovers.

use std::sync::atomic::{AtomicU32, Ordering};

/// What a request adds, in thousandths of a retry: with all of them failing, an upstream sees 1.2 times the load.
const PER_REQUEST: u32 = 200;
const RETRY: u32 = 1000;
/// Retries that are saved up at most, for a moment in which many fail at once.
const MOST_SAVED: u32 = 10 * RETRY;

/// The retries of one worker towards one upstream.
#[derive(Debug)]
pub(crate) struct RetryBudget(AtomicU32);

impl Default for RetryBudget {
    fn default() -> Self {
        Self(AtomicU32::new(MOST_SAVED))
    }
}

impl RetryBudget {
    /// Counts a request.
    pub(crate) fn earn(&self) {
        let more = |saved: u32| Some((saved + PER_REQUEST).min(MOST_SAVED));
        // It always changes.
        let _ = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    }

    /// Whether a request may be tried once more.
    pub(crate) fn spend(&self) -> bool {
        let less = |saved: u32| saved.checked_sub(RETRY);
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upstream_that_always_fails_sees_a_fifth_more_and_not_three_times_as_much() {
        let budget = RetryBudget::default();
        let mut seen = 0;
        for _ in 0..10_000 {
            budget.earn();
            seen += 1;
            for _ in 0..2 {
                seen += u32::from(budget.spend());
            }
        }
        assert!((12_000..=12_010).contains(&seen), "{seen}");
    }

    #[test]
    fn a_few_failures_are_always_tried_again() {
        let budget = RetryBudget::default();
        assert!((0..10).all(|_| budget.spend()));
        assert!(!budget.spend());
        (0..5).for_each(|_| budget.earn());
        assert!(budget.spend() && !budget.spend());
    }
}
