//! Slowing down whoever guesses passwords: by name and network together, by network, and, far more generously, by name.
//!
//! A stranger who keeps guessing at a name is in nobody's way but their own: the name's owner comes from another network.
//!
//! An attempt is counted before the password is looked at and taken back if it was right: parallel guesses
//! cannot slip past a counter that is only raised afterwards. Names that do not exist are counted like those
//! that do, so the delay tells nothing about them.

use std::{net::IpAddr, time::Duration};

use serde::{Deserialize, Serialize};
use testudo_model::{SourceNetwork, Timestamp, UserId, Username, event::EventClass};
use testudo_store::{Expected, Record, Versioned};

use crate::{
    Caller, Fault, Provider,
    change::{Change, Report, until_settled},
    limits::{
        FAILURE_MEMORY, FREE_FAILURES_PER_NAME, FREE_FAILURES_PER_NAME_EVERYWHERE,
        FREE_FAILURES_PER_SOURCE, FREE_LETTERS, FREE_LETTERS_PER_SOURCE, FREE_WRONG_CODES,
        FREE_WRONG_CODES_EVERYWHERE, FREE_WRONG_USER_CODES, MAX_LOGIN_DELAY,
    },
    mail::mail_key,
    secret,
};

/// What an attempt is counted under.
pub(crate) struct Attempt {
    counts: Vec<Count>,
}

struct Count {
    key: String,
    /// Failures without delay.
    free: u32,
    span: Span,
    /// Whether a success forgets them all.
    forgiving: bool,
    pace: Pace,
}

/// How long those wait who try too often.
#[derive(Clone, Copy)]
enum Pace {
    /// A second, and twice as long each time: who guesses.
    Guesses,
    /// A minute, and twice as long each time: who has letters sent.
    Letters,
}

/// When counting starts afresh.
#[derive(Clone, Copy)]
enum Span {
    /// After a quiet time.
    Quiet,
    /// A time after it began. Otherwise a slow stream of failures would add up to any number.
    Fixed,
}

impl Attempt {
    /// An attempt to log in as `username` (if the typed text can be one) from the caller's address.
    pub(crate) fn new(username: Option<&Username>, source: Option<IpAddr>) -> Self {
        let network = source.map(SourceNetwork::of);
        let from = network.map_or_else(|| "here".to_owned(), |network| network.to_string());
        let by_name = username.map(|name| {
            [
                Count {
                    key: format!("name:{name} from {from}"),
                    free: FREE_FAILURES_PER_NAME,
                    span: Span::Quiet,
                    forgiving: true,
                    pace: Pace::Guesses,
                },
                Count {
                    key: format!("name:{name}"),
                    free: FREE_FAILURES_PER_NAME_EVERYWHERE,
                    span: Span::Fixed,
                    forgiving: false,
                    pace: Pace::Guesses,
                },
            ]
        });
        // One good account must not be a licence to guess others.
        let by_source = network.map(|network| Count {
            key: format!("source:{network}"),
            free: FREE_FAILURES_PER_SOURCE,
            span: Span::Quiet,
            forgiving: false,
            pace: Pace::Guesses,
        });
        Self {
            counts: by_name.into_iter().flatten().chain(by_source).collect(),
        }
    }
}

impl Attempt {
    /// An attempt of `user`, whose password was right, to show a second factor from the caller's address.
    pub(crate) fn at_second_factor(user: &UserId, source: Option<IpAddr>) -> Self {
        let network = source.map(SourceNetwork::of);
        let from = network.map_or_else(|| "here".to_owned(), |network| network.to_string());
        Self {
            counts: vec![
                Count {
                    key: format!("second factor:{user} from {from}"),
                    free: FREE_WRONG_CODES,
                    span: Span::Quiet,
                    forgiving: true,
                    pace: Pace::Guesses,
                },
                Count {
                    key: format!("second factor:{user}"),
                    free: FREE_WRONG_CODES_EVERYWHERE,
                    span: Span::Fixed,
                    forgiving: false,
                    pace: Pace::Guesses,
                },
            ],
        }
    }

    /// An attempt to log in with a passkey, by whoever it belongs to. There is nothing to guess; this bounds what one network can
    /// have checked and recorded.
    pub(crate) fn with_passkey(source: Option<IpAddr>) -> Self {
        let by_source = source.map(|address| Count {
            key: format!("passkey from {}", SourceNetwork::of(address)),
            free: FREE_FAILURES_PER_SOURCE,
            span: Span::Quiet,
            forgiving: false,
            pace: Pace::Guesses,
        });
        Self {
            counts: by_source.into_iter().collect(),
        }
    }

    /// An attempt to log in elsewhere. Who logs in there guesses nothing here; this bounds how often one network can have the
    /// other side asked.
    pub(crate) fn elsewhere(source: Option<IpAddr>) -> Self {
        let by_source = source.map(|address| Count {
            key: format!("upstream from {}", SourceNetwork::of(address)),
            free: FREE_FAILURES_PER_SOURCE,
            span: Span::Quiet,
            forgiving: false,
            pace: Pace::Guesses,
        });
        Self {
            counts: by_source.into_iter().collect(),
        }
    }

    /// An attempt of `user` to connect a device by its code, from the caller's address.
    pub(crate) fn at_user_code(user: &UserId, source: Option<IpAddr>) -> Self {
        let by_user = Count {
            key: format!("user code:{user}"),
            free: FREE_WRONG_USER_CODES,
            span: Span::Quiet,
            forgiving: true,
            pace: Pace::Guesses,
        };
        let by_source = source.map(|address| Count {
            key: format!("user code from {}", SourceNetwork::of(address)),
            free: FREE_FAILURES_PER_SOURCE,
            span: Span::Quiet,
            forgiving: false,
            pace: Pace::Guesses,
        });
        Self {
            counts: [Some(by_user), by_source].into_iter().flatten().collect(),
        }
    }
}

impl Attempt {
    /// An attempt to have a link sent to whoever is called `typed`, from the caller's address. What was typed may be anything.
    pub(crate) fn at_forgotten_password(typed: &str, source: Option<IpAddr>) -> Self {
        let by_name = Count {
            key: format!("forgotten password:{}", secret::digest(typed)),
            free: FREE_LETTERS,
            span: Span::Quiet,
            forgiving: false,
            pace: Pace::Letters,
        };
        let by_source = source.map(|address| Count {
            key: format!("forgotten password from {}", SourceNetwork::of(address)),
            free: FREE_LETTERS_PER_SOURCE,
            span: Span::Quiet,
            forgiving: false,
            pace: Pace::Letters,
        });
        Self {
            counts: [Some(by_name), by_source].into_iter().flatten().collect(),
        }
    }

    /// An attempt to have a letter sent to `user`, or anybody else, at `address`.
    pub(crate) fn to_send_letter(user: &UserId, address: &str) -> Self {
        let address = secret::digest(&mail_key(address));
        let keys = [format!("letter to {user}"), format!("letter to {address}")];
        let count = |key| Count {
            key,
            free: FREE_LETTERS,
            span: Span::Quiet,
            forgiving: false,
            pace: Pace::Letters,
        };
        Self {
            counts: keys.map(count).into(),
        }
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
            for count in &attempt.counts {
                let key = &count.key;
                let stored = self.tenant.get::<Failures>(key)?;
                let before = stored
                    .as_ref()
                    .map_or_else(|| Failures::none(key), |s| s.record.clone());
                let wait = before.blocked_until.since(now);
                if !wait.is_zero() {
                    return Ok(Some(Err(wait)));
                }
                let after = before.with_one_more(now, count);
                if after.count == count.free + 1 {
                    let report = Report::new(EventClass::DetectionFinding, "login.throttle")
                        .denied("too many failed attempts")
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

    /// Takes a successful attempt back, in a change of its own.
    pub(crate) fn settle_forgiveness(&self, attempt: &Attempt) -> Result<(), Fault> {
        until_settled(|| {
            let change = self.forgive(self.change(), attempt)?;
            Ok(change.commit()?.then_some(()))
        })
    }

    /// Takes a successful attempt back: where it shows who guessed, all failures with it, elsewhere itself alone.
    pub(crate) fn forgive<'p>(
        &self,
        mut change: Change<'p>,
        attempt: &Attempt,
    ) -> Result<Change<'p>, Fault> {
        for count in &attempt.counts {
            if count.forgiving {
                change = change.delete::<Failures>(Expected::Any, &count.key);
            } else if let Some(stored) = self.tenant.get::<Failures>(&count.key)? {
                let after = stored.record.clone().with_one_less(count);
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
    first_at: Timestamp,
    last_at: Timestamp,
    blocked_until: Timestamp,
}

impl Failures {
    fn none(key: &str) -> Self {
        let never = Timestamp::default();
        Self {
            key: key.to_owned(),
            count: 0,
            first_at: never,
            last_at: never,
            blocked_until: never,
        }
    }

    fn with_one_more(mut self, now: Timestamp, count: &Count) -> Self {
        let begin = match count.span {
            Span::Quiet => self.last_at,
            Span::Fixed => self.first_at,
        };
        if self.count == 0 || now.since(begin) >= FAILURE_MEMORY {
            self.count = 0;
            self.first_at = now;
        }
        self.count = self.count.saturating_add(1);
        self.last_at = now;
        self.blocked_until = now + delay(self.count, count.free, count.pace);
        self
    }

    fn with_one_less(mut self, count: &Count) -> Self {
        self.count = self.count.saturating_sub(1);
        self.blocked_until = self.last_at + delay(self.count, count.free, count.pace);
        self
    }
}

/// The first delay after the free failures, doubled with each further one.
fn delay(count: u32, free: u32, pace: Pace) -> Duration {
    let (first, longest) = match pace {
        Pace::Guesses => (Duration::from_secs(1), MAX_LOGIN_DELAY),
        Pace::Letters => (Duration::from_secs(60), FAILURE_MEMORY),
    };
    match count.checked_sub(free) {
        None | Some(0) => Duration::ZERO,
        Some(beyond) => {
            let times = 1_u32.checked_shl(beyond - 1).unwrap_or(u32::MAX);
            first.saturating_mul(times).min(longest)
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

    fn guesses(span: Span) -> Count {
        Count {
            key: String::new(),
            free: 5,
            span,
            forgiving: true,
            pace: Pace::Guesses,
        }
    }

    #[test]
    fn the_delay_doubles_after_the_free_failures_and_stays_finite() {
        let seconds: Vec<u64> = (4..=9)
            .map(|count| delay(count, 5, Pace::Guesses).as_secs())
            .collect();
        assert_eq!(seconds, [0, 0, 1, 2, 4, 8]);
        assert_eq!(delay(u32::MAX, 5, Pace::Guesses), MAX_LOGIN_DELAY);
        let minutes: Vec<u64> = (3..=10)
            .map(|count| delay(count, 3, Pace::Letters).as_secs() / 60)
            .collect();
        assert_eq!(minutes, [0, 1, 2, 4, 8, 16, 32, 60]);
    }

    #[test]
    fn failures_are_forgotten_after_a_quiet_time() {
        let start = Timestamp::from_unix_seconds(1_000_000);
        let many = (0..20).fold(Failures::none("name:x"), |f, _| {
            f.with_one_more(start, &guesses(Span::Quiet))
        });
        assert_eq!(many.count, 20);
        let next = many.with_one_more(start + FAILURE_MEMORY, &guesses(Span::Quiet));
        assert_eq!(next.count, 1);
    }

    #[test]
    fn a_name_is_counted_by_network_and_far_more_generously_over_all_of_them() {
        let name: Username = "alice".parse().unwrap();
        let free = |source: &str| -> std::collections::BTreeMap<String, u32> {
            let attempt = Attempt::new(Some(&name), Some(source.parse().unwrap()));
            let counts = attempt.counts.into_iter();
            counts.map(|count| (count.key, count.free)).collect()
        };
        let (one, other) = (free("192.0.2.1"), free("198.51.100.1"));
        let shared: Vec<u32> = one
            .iter()
            .filter(|(key, _)| other.contains_key(*key))
            .map(|(_, free)| *free)
            .collect();
        assert_eq!(shared, [FREE_FAILURES_PER_NAME_EVERYWHERE]);
        assert_eq!((one.len(), other.len()), (3, 3));
    }

    #[test]
    fn failures_that_never_pause_add_up_within_a_fixed_span_only() {
        let mut now = Timestamp::from_unix_seconds(1_000_000);
        let (mut fixed, mut quiet) = (Failures::none("x"), Failures::none("y"));
        for _ in 0..60 {
            fixed = fixed.with_one_more(now, &guesses(Span::Fixed));
            quiet = quiet.with_one_more(now, &guesses(Span::Quiet));
            now = now + FAILURE_MEMORY / 20;
        }
        assert_eq!((fixed.count, quiet.count), (20, 60));
    }
}
