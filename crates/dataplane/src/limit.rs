//! Rate limits by the generic cell rate algorithm (GCRA): one 64-bit number for each caller and limit.
//!
//! The number is the *theoretical arrival time*: when the caller would have used up what it was given. A
//! request moves it one emission interval further and is refused if that is more than the burst ahead of now.

use std::{
    collections::HashMap,
    hash::{BuildHasher, BuildHasherDefault, Hash, Hasher, RandomState},
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use testudo_model::{Clock, LimitKey, RateLimit, limits::MAX_LIMIT_CELLS};
use testudo_trust::sha256;

use crate::iplist::limited_network;

const SHARDS: usize = 64;
/// Cells a full shard looks at for each new key, so that no request pays for a whole sweep twice.
const SWEEP_INTERVAL: u32 = 256;

/// The cells of one proxy, shared by its workers.
pub(crate) struct Limiter {
    clock: Arc<dyn Clock>,
    hasher: RandomState,
    shards: Vec<Mutex<Shard>>,
    cells_per_shard: usize,
}

/// What a limit says about one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Whether the request fits.
    pub(crate) allowed: bool,
    /// Requests that would fit right now.
    pub(crate) remaining: u64,
    /// Nanoseconds until the next request fits; 0 if it does.
    pub(crate) retry_after_nanos: u64,
}

/// A limit that refused, with what the caller is told (RFC 6585 section 4, draft-ietf-httpapi-ratelimit-headers).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Limited {
    limit: RateLimit,
    verdict: Verdict,
}

impl Limited {
    pub(crate) fn new(limit: &RateLimit, verdict: Verdict) -> Self {
        Self {
            limit: limit.clone(),
            verdict,
        }
    }

    /// What was counted.
    pub(crate) fn key(&self) -> &'static str {
        key_name(self.limit.per)
    }

    /// `Retry-After` in whole seconds, at least 1.
    pub(crate) fn retry_after_seconds(&self) -> u64 {
        self.verdict
            .retry_after_nanos
            .div_ceil(1_000_000_000)
            .max(1)
    }

    /// The `RateLimit` field.
    pub(crate) fn state_field(&self) -> String {
        format!(
            "\"{}\";r={};t={}",
            self.key(),
            self.verdict.remaining,
            self.retry_after_seconds()
        )
    }

    /// The `RateLimit-Policy` field.
    pub(crate) fn policy_field(&self) -> String {
        let window_seconds = self.limit.period_millis.div_ceil(1000).max(1);
        format!(
            "\"{}\";q={};w={window_seconds}",
            self.key(),
            self.limit.requests
        )
    }
}

const fn key_name(key: LimitKey) -> &'static str {
    match key {
        LimitKey::Ip => "ip",
        LimitKey::User => "user",
        LimitKey::Service => "service",
        LimitKey::Route => "route",
    }
}

/// Who is counted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Counted<'a> {
    /// The client's address.
    pub(crate) client: IpAddr,
    /// `sub`, once authenticated.
    pub(crate) user: Option<&'a str>,
    /// The calling service.
    pub(crate) service: &'a str,
}

/// When a limit is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Before a signature is checked: limits by address. They bound what an unknown caller can make us do.
    Arrival,
    /// After it: limits by user, so that nobody uses up an allowance in another's name.
    Authenticated,
    /// When the call is allowed: limits that callers share. Whoever may not call uses up nothing of theirs.
    Permitted,
}

impl Stage {
    const fn covers(self, key: LimitKey) -> bool {
        matches!(
            (self, key),
            (Self::Arrival, LimitKey::Ip)
                | (Self::Authenticated, LimitKey::User)
                | (Self::Permitted, LimitKey::Service | LimitKey::Route)
        )
    }
}

/// The limits of one place: of the gateway, a service, an operation. What a request has to look at, and what names each
/// limit, is found out when a snapshot is compiled: most requests are counted several times.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    arrival: Vec<Named>,
    authenticated: Vec<Named>,
    permitted: Vec<Named>,
}

#[derive(Debug)]
struct Named {
    name: [u8; 16],
    limit: RateLimit,
}

impl Limits {
    /// `limits` of the place that `scope` names. A limit has the same name in every snapshot, so that it goes on counting
    /// when something else changes.
    pub(crate) fn new(scope: [&str; 2], limits: &[RateLimit]) -> Self {
        let at = |stage: Stage| {
            let numbered = limits.iter().enumerate();
            let covered = numbered.filter(|(_, limit)| stage.covers(limit.per));
            covered
                .map(|(number, limit)| Named {
                    name: name(scope, number),
                    limit: limit.clone(),
                })
                .collect()
        };
        Self {
            arrival: at(Stage::Arrival),
            authenticated: at(Stage::Authenticated),
            permitted: at(Stage::Permitted),
        }
    }

    fn at(&self, stage: Stage) -> &[Named] {
        match stage {
            Stage::Arrival => &self.arrival,
            Stage::Authenticated => &self.authenticated,
            Stage::Permitted => &self.permitted,
        }
    }
}

/// The name of a limit. No name of a service or an operation has a line break in it.
fn name(scope: [&str; 2], number: usize) -> [u8; 16] {
    let [place, operation] = scope;
    let text = format!("{place}\n{operation}\n{number}");
    let hash = sha256(text.as_bytes());
    hash.first_chunk().copied().unwrap_or_default()
}

#[derive(Default)]
struct Shard {
    cells: HashMap<u64, u64, BuildHasherDefault<Hashed>>,
    refused_since_sweep: u32,
}

impl Limiter {
    /// No cells yet; at most [`MAX_LIMIT_CELLS`] ever.
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self::with_capacity(clock, MAX_LIMIT_CELLS)
    }

    fn with_capacity(clock: Arc<dyn Clock>, cells: usize) -> Self {
        Self {
            clock,
            hasher: RandomState::new(),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            cells_per_shard: (cells / SHARDS).max(1),
        }
    }

    /// Counts one request against those of `limits` that belong to `stage`.
    ///
    /// # Errors
    /// The first limit that is used up.
    pub(crate) fn enforce(
        &self,
        limits: &Limits,
        stage: Stage,
        counted: &Counted<'_>,
    ) -> Result<(), Limited> {
        limits
            .at(stage)
            .iter()
            .try_for_each(|Named { name, limit }| {
                match (limit.per, counted.user) {
                    (LimitKey::User, Some(user)) => self.count(limit, name, user),
                    // Callers without a user are counted by address: being nobody is no way around a limit.
                    (LimitKey::Ip, _) | (LimitKey::User, None) => {
                        self.count(limit, name, limited_network(counted.client))
                    }
                    (LimitKey::Service, _) => self.count(limit, name, counted.service),
                    (LimitKey::Route, _) => self.count(limit, name, ()),
                }
            })
    }

    /// Counts one request of `caller` against `limit`, which is named by `scope`.
    ///
    /// # Errors
    /// The limit, if it is used up.
    pub(crate) fn count(
        &self,
        limit: &RateLimit,
        scope: impl Hash,
        caller: impl Hash,
    ) -> Result<(), Limited> {
        let verdict = self.check(limit, scope, caller);
        match verdict.allowed {
            true => Ok(()),
            false => Err(Limited::new(limit, verdict)),
        }
    }

    /// The same, and how much is left.
    pub(crate) fn check(&self, limit: &RateLimit, scope: impl Hash, caller: impl Hash) -> Verdict {
        let cell = self.hasher.hash_one((&scope, limit.per, caller));
        let now = self.clock.monotonic_nanos();
        let index = usize::try_from(cell >> 32).unwrap_or(0) % SHARDS;
        let Some(shard) = self.shards.get(index) else {
            return Verdict {
                allowed: false,
                remaining: 0,
                retry_after_nanos: 0,
            };
        };
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(arrival) = shard.cells.get_mut(&cell) {
            return arrive(arrival, now, limit);
        }
        // Callers that no longer fit are counted together: a flood of keys buys nobody a fresh allowance.
        let cell = if shard.has_room(now, self.cells_per_shard) {
            cell
        } else {
            self.hasher.hash_one((scope, limit.per))
        };
        arrive(shard.cells.entry(cell).or_insert(0), now, limit)
    }
}

/// The hash of a cell, which is one already, made with a secret key.
#[derive(Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn write(&mut self, bytes: &[u8]) {
        // A cell comes by `write_u64`; whatever else came would be as good as its bytes.
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, cell: u64) {
        self.0 = cell;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl Shard {
    fn has_room(&mut self, now: u64, capacity: usize) -> bool {
        if self.cells.len() < capacity {
            return true;
        }
        if self.refused_since_sweep == 0 {
            // A cell whose time has come is as good as none.
            self.cells.retain(|_, arrival| now < *arrival);
        }
        self.refused_since_sweep = (self.refused_since_sweep + 1) % SWEEP_INTERVAL;
        self.cells.len() < capacity
    }
}

fn arrive(theoretical_arrival: &mut u64, now: u64, limit: &RateLimit) -> Verdict {
    let period_nanos = limit.period_millis.max(1).saturating_mul(1_000_000);
    let interval = (period_nanos / u64::from(limit.requests.max(1))).max(1);
    let tolerance = interval.saturating_mul(u64::from(limit.burst.max(1)));
    let next = (*theoretical_arrival).max(now).saturating_add(interval);
    let ahead = next - now;
    if ahead > tolerance {
        return Verdict {
            allowed: false,
            remaining: 0,
            retry_after_nanos: ahead - tolerance,
        };
    }
    *theoretical_arrival = next;
    Verdict {
        allowed: true,
        remaining: (tolerance - ahead) / interval,
        retry_after_nanos: 0,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use testudo_testkit::FakeClock;

    use super::*;

    fn limit(requests: u32, period_millis: u64, burst: u32) -> RateLimit {
        RateLimit {
            per: LimitKey::Ip,
            requests,
            period_millis,
            burst,
        }
    }

    #[test]
    fn a_burst_fits_and_the_next_request_waits_one_interval() {
        let clock = FakeClock::today();
        let limiter = Limiter::new(clock.clone());
        let ten_a_second = limit(10, 1000, 3);
        let check = || limiter.check(&ten_a_second, "route", "203.0.113.9");
        assert_eq!(
            [check().remaining, check().remaining, check().remaining],
            [2, 1, 0]
        );
        let refused = check();
        assert!(!refused.allowed);
        assert_eq!(refused.retry_after_nanos, 100_000_000);
        clock.advance(Duration::from_millis(100));
        assert!(check().allowed);
        assert!(!check().allowed);
        assert!(
            limiter
                .check(&ten_a_second, "route", "203.0.113.10")
                .allowed,
            "another caller"
        );
        assert!(
            limiter.check(&ten_a_second, "other", "203.0.113.9").allowed,
            "another limit"
        );
    }

    #[test]
    fn a_refused_caller_is_told_when_to_come_back() {
        let limiter = Limiter::new(FakeClock::today());
        let one_a_minute = limit(1, 60_000, 1);
        assert!(limiter.check(&one_a_minute, "route", 1).allowed);
        let limited = Limited::new(&one_a_minute, limiter.check(&one_a_minute, "route", 1));
        assert_eq!(limited.retry_after_seconds(), 60);
        assert_eq!(limited.state_field(), "\"ip\";r=0;t=60");
        assert_eq!(limited.policy_field(), "\"ip\";q=1;w=60");
    }

    #[test]
    fn a_flood_of_keys_neither_grows_the_table_nor_frees_the_flooder() {
        let clock = FakeClock::today();
        let limiter = Limiter::with_capacity(clock.clone(), SHARDS * 10);
        let one_a_minute = limit(1, 60_000, 1);
        assert!(limiter.check(&one_a_minute, "route", "hot").allowed);
        let allowed = (0..100_000)
            .filter(|n: &u32| limiter.check(&one_a_minute, "route", n).allowed)
            .count();
        assert!(allowed <= SHARDS * 11, "{allowed}");
        let cells: usize = limiter
            .shards
            .iter()
            .map(|shard| shard.lock().unwrap().cells.len())
            .sum();
        assert!(cells <= SHARDS * 11, "{cells}");
        assert!(
            !limiter.check(&one_a_minute, "route", "hot").allowed,
            "the hot key was kept"
        );
        clock.advance(Duration::from_secs(61));
        assert!(
            limiter.check(&one_a_minute, "route", "new").allowed,
            "expired cells make room"
        );
    }

    #[test]
    fn limits_by_address_come_before_authentication_and_the_others_after() {
        let limiter = Limiter::new(FakeClock::today());
        let once = |per| RateLimit {
            per,
            requests: 1,
            period_millis: 60_000,
            burst: 1,
        };
        let limits = Limits::new(["orders", ""], &[once(LimitKey::User), once(LimitKey::Ip)]);
        let counted = |client: &str, user| Counted {
            client: client.parse().unwrap(),
            user,
            service: "gateway",
        };
        let enforce = |stage, counted: Counted<'_>| {
            limiter
                .enforce(&limits, stage, &counted)
                .map_err(|l| l.key())
        };
        let alice = counted("2001:db8::1", Some("usr_alice"));
        assert_eq!(enforce(Stage::Arrival, alice), Ok(()));
        assert_eq!(
            enforce(Stage::Arrival, counted("2001:db8::2", None)),
            Err("ip"),
            "the same /64"
        );
        assert_eq!(enforce(Stage::Authenticated, alice), Ok(()));
        assert_eq!(
            enforce(
                Stage::Authenticated,
                counted("192.0.2.1", Some("usr_alice"))
            ),
            Err("user")
        );
        assert_eq!(
            enforce(Stage::Authenticated, counted("192.0.2.1", Some("usr_bob"))),
            Ok(())
        );
        assert_eq!(
            enforce(Stage::Authenticated, counted("192.0.2.1", None)),
            Ok(())
        );
        assert_eq!(
            enforce(Stage::Authenticated, counted("192.0.2.1", None)),
            Err("user")
        );
    }

    #[test]
    fn a_limit_counts_on_in_another_snapshot_and_no_two_limits_count_together() {
        let limiter = Limiter::new(FakeClock::today());
        let counted = Counted {
            client: "192.0.2.1".parse().unwrap(),
            user: None,
            service: "gateway",
        };
        let per_address = [limit(1, 60_000, 1)];
        let twice = [limit(1, 60_000, 1), limit(5, 60_000, 1)];
        let passes = |scope, limits: &[RateLimit]| {
            let limits = Limits::new(scope, limits);
            limiter.enforce(&limits, Stage::Arrival, &counted).is_ok()
        };
        assert!(passes(["orders", ""], &twice));
        assert!(!passes(["orders", ""], &per_address));
        for scope in [["orders", "read"], ["orders-read", ""], ["stock", ""]] {
            assert!(passes(scope, &per_address), "{scope:?}");
        }
    }

    proptest! {
        #[test]
        fn never_more_than_rate_and_burst_pass(
            requests in 1u32..50, period in 1u64..5000, burst in 1u32..20,
            gaps in prop::collection::vec(0u64..200, 1..300),
        ) {
            let clock = FakeClock::today();
            let limiter = Limiter::new(clock.clone());
            let limit = limit(requests, period, burst);
            let mut passed = 0_u64;
            let mut elapsed = 0_u64;
            for gap in gaps {
                clock.advance(Duration::from_millis(gap));
                elapsed += gap;
                passed += u64::from(limiter.check(&limit, "route", 0).allowed);
            }
            // Rounding the interval down to whole nanoseconds gives at most one more.
            prop_assert!(passed <= elapsed * u64::from(requests) / period + u64::from(burst) + 1);
        }
    }
}
