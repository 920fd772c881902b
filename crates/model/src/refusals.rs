//! Which refusals of strangers get an event of their own.
//!
//! Each event is a durable row for ever, and a stranger's request costs its sender next to nothing. So a source has
//! a few, all sources together have more, and what is beyond is counted and told in one event for each interval.

use std::{
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{SourceNetwork, bucket::Buckets};

/// Events of one source at once: somebody who mistypes or misconfigures is seen attempt by attempt.
const PER_SOURCE: u32 = 20;
/// Time in which a source gets one more.
const PER_SOURCE_REFILL: Duration = Duration::from_secs(5);
/// Events of all sources at once.
const TOGETHER: u32 = 200;
/// Time in which all together get one more: less than 90,000 a day, whoever comes.
const TOGETHER_REFILL: Duration = Duration::from_secs(1);
/// Sources remembered, with about 40 bytes each. Beyond them only the bound of all together holds.
const MAX_SOURCES: usize = 4_096;
/// Time between two summaries.
const SUMMARY_INTERVAL: Duration = Duration::from_secs(60);

/// What is left of refusals to record. Share it; it is one for a process.
#[derive(Debug)]
pub struct RefusalBudget(Mutex<State>);

#[derive(Debug)]
struct State {
    sources: Buckets<SourceNetwork>,
    together: Buckets<()>,
    left_out: u64,
    /// When the first of those left out came.
    since: u64,
}

impl Default for RefusalBudget {
    fn default() -> Self {
        Self(Mutex::new(State {
            sources: Buckets::new(PER_SOURCE, PER_SOURCE_REFILL, MAX_SOURCES),
            together: Buckets::new(TOGETHER, TOGETHER_REFILL, 1),
            left_out: 0,
            since: 0,
        }))
    }
}

impl RefusalBudget {
    /// Whether a refusal of somebody at `source` gets an event of its own; otherwise it is counted. `now` is
    /// [`Clock::monotonic_nanos`](crate::Clock::monotonic_nanos).
    pub fn admits(&self, source: Option<IpAddr>, now: u64) -> bool {
        let mut state = self.lock();
        // The source first: one that has spent its own must not spend what is everybody's.
        let network = source.map(SourceNetwork::neighbourhood_of);
        let admitted = network.is_none_or(|network| state.sources.take(network, now))
            && state.together.take((), now);
        if !admitted {
            if state.left_out == 0 {
                state.since = now;
            }
            state.left_out = state.left_out.saturating_add(1);
        }
        admitted
    }

    /// How many got no event, when an interval is over in which some did not: the caller records it.
    pub fn summary(&self, now: u64) -> Option<u64> {
        let mut state = self.lock();
        let age = Duration::from_nanos(now.saturating_sub(state.since));
        if state.left_out == 0 || age < SUMMARY_INTERVAL {
            return None;
        }
        Some(std::mem::take(&mut state.left_out))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn recorded(budget: &RefusalBudget, source: [u8; 4], refusals: usize, now: u64) -> usize {
        let source = Some(IpAddr::from(source));
        (0..refusals).filter(|_| budget.admits(source, now)).count()
    }

    #[test]
    fn a_flood_from_one_network_leaves_the_others_their_events() {
        let budget = RefusalBudget::default();
        let few = PER_SOURCE as usize;
        assert_eq!(recorded(&budget, [192, 0, 2, 1], 100_000, 0), few);
        assert_eq!(recorded(&budget, [192, 0, 2, 2], 100, 0), 0, "a neighbour");
        assert_eq!(recorded(&budget, [198, 51, 100, 1], 100, 0), few);
    }

    #[test]
    fn a_flood_from_everywhere_is_bounded_and_told_once_an_interval() {
        let budget = RefusalBudget::default();
        let flood = |now| -> usize {
            let sources = (0..50_u8).flat_map(|a| (0..200_u8).map(move |b| [10, a, b, 1]));
            sources
                .map(|source| recorded(&budget, source, 1, now))
                .sum()
        };
        assert_eq!(flood(0), TOGETHER as usize);
        assert_eq!(budget.summary(SECOND), None, "the interval is not over");
        let left_out = 10_000 - u64::from(TOGETHER);
        let later = u64::try_from(SUMMARY_INTERVAL.as_nanos()).unwrap();
        assert_eq!(budget.summary(later), Some(left_out));
        assert_eq!(budget.summary(later), None);
    }
}
