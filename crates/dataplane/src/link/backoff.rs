//! How long to wait before trying again.

use std::{sync::Arc, time::Duration};

use testudo_model::{Entropy, random_below};

/// Doubling pauses, each drawn from its upper half: a restarted control plane is not met by all proxies at
/// once, and nobody hammers.
pub(super) struct Backoff {
    entropy: Arc<dyn Entropy>,
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    /// Starts with `first`, never waits longer than `longest`.
    pub(super) fn new(entropy: Arc<dyn Entropy>, first: Duration, longest: Duration) -> Self {
        Self {
            entropy,
            first,
            longest,
            next: first,
        }
    }

    /// It worked: the next pause is short again.
    pub(super) fn reset(&mut self) {
        self.next = self.first;
    }

    /// The pause to make now.
    pub(super) fn pause(&mut self) -> Duration {
        let half = self.next / 2;
        self.next = (self.next * 2).min(self.longest);
        half + jitter(&*self.entropy, half)
    }
}

/// A random duration below `bound`.
pub(super) fn jitter(entropy: &dyn Entropy, bound: Duration) -> Duration {
    Duration::from_nanos(random_below(
        entropy,
        u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX),
    ))
}

#[cfg(test)]
mod tests {
    use testudo_testkit::SeededEntropy;

    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_start_over_after_success() {
        let (first, longest) = (Duration::from_millis(100), Duration::from_secs(1));
        let mut backoff = Backoff::new(SeededEntropy::new(1), first, longest);
        let pauses: Vec<Duration> = (0..20).map(|_| backoff.pause()).collect();
        assert!(pauses[0] >= first / 2 && pauses[0] <= first);
        assert!(
            pauses[10..]
                .iter()
                .all(|pause| *pause >= longest / 2 && *pause <= longest)
        );
        assert!(
            pauses[10..].windows(2).any(|pair| pair[0] != pair[1]),
            "there is jitter"
        );
        backoff.reset();
        assert!(backoff.pause() <= first);
    }
}
