//! Slowing down whoever guesses passwords, by name and by address.
//!
//! An attempt is counted before the password is looked at and taken back if it was right: parallel guesses
//! cannot slip past a counter that is only raised afterwards. Names that do not exist are counted like those
//! that do, so the delay tells nothing about them.

use std::{net::IpAddr, time::Duration};

use serde::{Deserialize, Serialize};
use testudo_model::{Timestamp, Username, event::EventClass};
use testudo_store::{Expected, Record, Versioned};

use crate::{
    Caller, Fault, Provider,
    change::{Change, Report, until_settled},
    limits::{FAILURE_MEMORY, FREE_FAILURES_PER_NAME, FREE_FAILURES_PER_SOURCE, MAX_LOGIN_DELAY},
};

/// What an attempt is counted under.
pub(crate) struct Attempt {
    keys: Vec<(String, u32)>,
}

impl Attempt {
    /// An attempt to log in as `username` (if the typed text can be one) from the caller's address.
    pub(crate) fn new(username: Option<&Username>, source: Option<IpAddr>) -> Self {
        let by_name = username.map(|name| (format!("name:{name}"), FREE_FAILURES_PER_NAME));
        let by_source = source.map(|address| {
            (
                format!("source:{}", network(address)),
                FREE_FAILURES_PER_SOURCE,
            )
        });
        Self {
            keys: by_name.into_iter().chain(by_source).collect(),
        }
    }
}

/// Addresses that one customer of a provider can change at will count as one: IPv6 by /64.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let mask = !0_u128 << 64;
            IpAddr::V6((u128::from(address) & mask).into())
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

impl Provider {
    /// Counts an attempt as failed. `Err` with the time to wait if there were too many.
    pub(crate) fn begin_attempt(
        &self,
        attempt: &Attempt,
        caller: &Caller,
    ) -> Result<Result<(), Duration>, Fault> {
        let outcome = until_settled(|| {
            let now = self.clock.now();
            let mut change = self.change();
            for (key, free) in &attempt.keys {
                let stored = self.tenant.get::<Failures>(key)?;
                let before = stored
                    .as_ref()
                    .map_or_else(|| Failures::none(key), |s| s.record.clone());
                let wait = before.blocked_until.since(now);
                if !wait.is_zero() {
                    return Ok(Some(Err(wait)));
                }
                let after = before.with_one_more(now, *free);
                if after.count == free + 1 {
                    let report = Report::new(EventClass::DetectionFinding, "login.throttle")
                        .denied("too many failed logins")
                        .target(key);
                    change = change.report(report, caller);
                }
                change = change.put(expected(stored.as_ref()), &after);
            }
            Ok::<_, Fault>(change.commit()?.then_some(Ok(())))
        });
        match outcome {
            // So many guesses at once that they get into each other's way: that is what is to be slowed down.
            Err(Fault::Contended) => Ok(Err(Duration::from_secs(1))),
            other => other,
        }
    }

    /// Takes the count of a successful attempt back. The name starts afresh; the address only loses this one
    /// attempt, or one good account would be a licence to guess others.
    pub(crate) fn forgive<'p>(
        &self,
        mut change: Change<'p>,
        attempt: &Attempt,
    ) -> Result<Change<'p>, Fault> {
        for (key, free) in &attempt.keys {
            if key.starts_with("name:") {
                change = change.delete::<Failures>(Expected::Any, key);
            } else if let Some(stored) = self.tenant.get::<Failures>(key)? {
                let after = stored.record.clone().with_one_less(*free);
                change = change.put(Expected::Version(stored.version), &after);
            }
        }
        Ok(change)
    }
}

fn expected(stored: Option<&Versioned<Failures>>) -> Expected {
    stored.map_or(Expected::Absent, |stored| Expected::Version(stored.version))
}

/// Failed attempts under one key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Failures {
    key: String,
    count: u32,
    last_at: Timestamp,
    blocked_until: Timestamp,
}

impl Failures {
    fn none(key: &str) -> Self {
        let never = Timestamp::default();
        Self {
            key: key.to_owned(),
            count: 0,
            last_at: never,
            blocked_until: never,
        }
    }

    fn with_one_more(mut self, now: Timestamp, free: u32) -> Self {
        if now.since(self.last_at) >= FAILURE_MEMORY {
            self.count = 0;
        }
        self.count = self.count.saturating_add(1);
        self.last_at = now;
        self.blocked_until = now + delay(self.count, free);
        self
    }

    fn with_one_less(mut self, free: u32) -> Self {
        self.count = self.count.saturating_sub(1);
        self.blocked_until = self.last_at + delay(self.count, free);
        self
    }
}

/// One second after the free failures, doubled with each further one.
fn delay(count: u32, free: u32) -> Duration {
    match count.checked_sub(free) {
        None | Some(0) => Duration::ZERO,
        Some(beyond) => {
            let seconds = 1_u64.checked_shl(beyond - 1).unwrap_or(u64::MAX);
            Duration::from_secs(seconds).min(MAX_LOGIN_DELAY)
        }
    }
}

impl Record for Failures {
    const COLLECTION: &'static str = "identity.login_failures";

    fn key(&self) -> String {
        self.key.clone()
    }

    fn expires(&self) -> Option<Timestamp> {
        Some(self.last_at + FAILURE_MEMORY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_doubles_after_the_free_failures_and_stays_finite() {
        let seconds: Vec<u64> = (4..=9).map(|count| delay(count, 5).as_secs()).collect();
        assert_eq!(seconds, [0, 0, 1, 2, 4, 8]);
        assert_eq!(delay(u32::MAX, 5), MAX_LOGIN_DELAY);
    }

    #[test]
    fn an_ipv6_customer_counts_as_one_and_a_mapped_ipv4_address_as_itself() {
        let parse = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(
            network(parse("2001:db8::1")),
            network(parse("2001:db8::ffff:2"))
        );
        assert_ne!(
            network(parse("2001:db8::1")),
            network(parse("2001:db8:0:1::1"))
        );
        assert_eq!(network(parse("::ffff:192.0.2.1")), parse("192.0.2.1"));
    }

    #[test]
    fn failures_are_forgotten_after_a_quiet_time() {
        let start = Timestamp::from_unix_seconds(1_000_000);
        let many = (0..20).fold(Failures::none("name:x"), |f, _| f.with_one_more(start, 5));
        assert_eq!(many.count, 20);
        assert_eq!(many.with_one_more(start + FAILURE_MEMORY, 5).count, 1);
    }
}
