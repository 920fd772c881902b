//! The lowest rate at which a client must send and take bodies.
//!
//! A timer for pauses lets a client hold a connection, and what is behind it, for hours with a byte now and then
//! (slow POST, slow read). Only the time in which everybody else waits for the client counts.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use testudo_model::snapshot::TransferRules;
use tokio::time::{Instant, Sleep};

/// A client that is waited for, now and then. Waiting runs up a debt, bytes pay it off; what they pay beyond is not saved.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waiting {
    rules: TransferRules,
    debt: Duration,
    since: Option<Instant>,
}

impl Waiting {
    pub(crate) const fn new(rules: TransferRules) -> Self {
        Self {
            rules,
            debt: Duration::ZERO,
            since: None,
        }
    }

    /// Notes that the client is waited for from `now` on, if it was not.
    pub(crate) fn begin(&mut self, now: Instant) {
        self.since.get_or_insert(now);
    }

    /// Notes that the client is not waited for any more.
    pub(crate) fn end(&mut self, now: Instant) {
        if let Some(since) = self.since.take() {
            self.debt += now.saturating_duration_since(since);
        }
    }

    /// Notes that so many bytes were moved.
    pub(crate) fn moved(&mut self, bytes: usize) {
        let nanos = u128::try_from(bytes)
            .unwrap_or(u128::MAX)
            .saturating_mul(1_000_000_000);
        let paid = match nanos.checked_div(u128::from(self.rules.min_bytes_per_second)) {
            Some(nanos) => Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)),
            None => Duration::MAX,
        };
        self.debt = self.debt.saturating_sub(paid);
    }

    /// When the client will have been waited for too long. `None`: it is not waited for.
    pub(crate) fn until(&self) -> Option<Instant> {
        self.since?
            .checked_add(self.rules.grace().saturating_sub(self.debt))
    }

    /// For how long at most it may be waited for at once.
    pub(crate) const fn grace(&self) -> Duration {
        self.rules.grace()
    }
}

/// The same with an alarm.
#[derive(Debug)]
pub(crate) struct Watched {
    waiting: Waiting,
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Watched {
    pub(crate) const fn new(rules: TransferRules) -> Self {
        Self {
            waiting: Waiting::new(rules),
            alarm: None,
        }
    }

    /// Notes that so many bytes were moved and that the client is not waited for any more.
    pub(crate) fn moved(&mut self, bytes: usize) {
        // Mostly nobody waited: then the time need not be asked for.
        if self.waiting.since.is_some() {
            self.waiting.end(Instant::now());
        }
        self.waiting.moved(bytes);
    }

    /// Waits for the client: ready when that has taken too long.
    pub(crate) fn poll_exceeded(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.waiting.since.is_none() {
            self.waiting.begin(Instant::now());
        }
        let Some(until) = self.waiting.until() else {
            return Poll::Pending;
        };
        let alarm = self
            .alarm
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        if alarm.deadline() != until {
            alarm.as_mut().reset(until);
        }
        alarm.as_mut().poll(context)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    const RULES: TransferRules = TransferRules {
        min_bytes_per_second: 100,
        grace_millis: 2_000,
    };
    const SECOND: Duration = Duration::from_secs(1);

    /// How often a client that brings `bytes` after each `pause` is waited for before it is given up.
    fn rounds(rules: TransferRules, bytes: usize, pause: Duration) -> Option<u32> {
        let mut waiting = Waiting::new(rules);
        let mut now = Instant::now();
        (0..1_000).find(|_| {
            waiting.begin(now);
            now += pause;
            let is_exceeded = waiting.until().is_some_and(|until| until < now);
            waiting.end(now);
            waiting.moved(bytes);
            is_exceeded
        })
    }

    #[test]
    fn who_is_slower_than_the_rate_is_given_up_when_the_grace_is_used_up() {
        assert_eq!(rounds(RULES, 1, 3 * SECOND), Some(0));
        assert_eq!(rounds(RULES, 1, SECOND), Some(2));
        // Half of the time is paid for.
        assert_eq!(rounds(RULES, 50, SECOND), Some(3));
        assert_eq!(rounds(RULES, 100, SECOND), None);
    }

    #[test]
    fn bytes_of_before_buy_no_pause_beyond_the_grace() {
        let mut waiting = Waiting::new(RULES);
        waiting.moved(1 << 30);
        let now = Instant::now();
        waiting.begin(now);
        assert_eq!(waiting.until(), Some(now + RULES.grace()));
    }

    #[test]
    fn without_a_rate_only_pauses_count() {
        let rules = TransferRules {
            min_bytes_per_second: 0,
            ..RULES
        };
        assert_eq!(rounds(rules, 1, 2 * SECOND), None);
        assert_eq!(rounds(rules, 1, 3 * SECOND), Some(0));
    }

    #[test]
    fn time_in_which_nobody_waits_for_the_client_is_not_the_clients() {
        let mut waiting = Waiting::new(RULES);
        let mut now = Instant::now();
        for _ in 0..10 {
            waiting.begin(now);
            waiting.end(now + SECOND / 10);
            now += 3_600 * SECOND;
        }
        assert_eq!(waiting.until(), None);
        waiting.begin(now);
        assert_eq!(waiting.until(), Some(now + SECOND));
    }

    #[tokio::test]
    async fn the_alarm_rings_once_the_grace_is_used_up() {
        let rules = TransferRules {
            min_bytes_per_second: 0,
            // Long enough that a machine that does something else meanwhile does not use it up.
            grace_millis: 1_000,
        };
        let mut watched = Watched::new(rules);
        for _ in 0..3 {
            let exceeded = poll_fn(|context| watched.poll_exceeded(context));
            let early = tokio::time::timeout(rules.grace() / 2, exceeded).await;
            assert!(early.is_err());
            watched.moved(1);
        }
        let began = Instant::now();
        poll_fn(|context| watched.poll_exceeded(context)).await;
        assert!(began.elapsed() >= rules.grace());
    }
}
