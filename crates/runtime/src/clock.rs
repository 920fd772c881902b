//! The real clock. Only the binary chooses it; everything else takes a `model::Clock`.

use std::time::{Instant, SystemTime};

use testudo_model::{Clock, Timestamp};

/// The operating system's clocks.
#[derive(Debug, Clone)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// A clock whose monotonic side starts at zero now.
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
        }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place that reads the wall clock"
    )]
    fn now(&self) -> Timestamp {
        let since_epoch = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        Timestamp::from_unix_millis(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
    }

    fn monotonic_nanos(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_monotonic_side_never_goes_back() {
        let clock = SystemClock::new();
        let samples: Vec<u64> = (0..1000).map(|_| clock.monotonic_nanos()).collect();
        assert!(samples.is_sorted());
    }

    #[test]
    fn the_wall_side_is_in_this_century() {
        let year_2024 = Timestamp::from_unix_seconds(1_704_067_200);
        assert!(SystemClock::new().now() > year_2024);
    }
}
