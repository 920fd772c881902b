//! How many requests an upstream takes at once, found out from how long it takes for them: the gradient of its answers'
//! times, as in Netflix's concurrency-limits (`Gradient2Limit`) and Envoy's `adaptive_concurrency`.
//!
//! As long as answers take what they usually take, the limit grows while it is used. When they take longer, requests queue
//! up in the upstream; there they only wait, so the limit shrinks by as much as the time has grown.

use std::time::Duration;

use testudo_model::FleetMap;

/// The limit of one worker towards one upstream, at first and at its bounds. The least still serves an upstream that was
/// taken for overloaded wrongly; it is no more than a queue that empties at once.
const FIRST: f64 = 256.0;
const LEAST: f64 = 16.0;
const MOST: f64 = 4_096.0;
/// Answers that are looked at together, and the shortest time over which.
const WINDOW_ANSWERS: u32 = 20;
const WINDOW_NANOS: u64 = nanos(Duration::from_millis(100));
/// How many times longer than usual an answer may take before the limit shrinks.
const TOLERANCE: f64 = 2.0;
/// Below this, time says more about the scheduler than about a queue.
const SHORT_NANOS: f64 = nanos(Duration::from_millis(10)) as f64;
/// A single answer counts as this many times slower at most.
const MOST_SLOWED: f64 = 10.0;
/// With so few under way hardly one waits, so an answer that is slow is slow by itself. The limit stays at its least until
/// that is what is usual, as far as this.
const FOUND_OUT: f64 = 1.25;
/// Share of the new limit in the next one.
const SMOOTHING: f64 = 0.2;
/// What is left of the limit after a window in which a tenth failed.
const AFTER_FAILURES: f64 = 0.8;
const FAILED_SHARE: u32 = 10;
/// In what time what is usual follows the answers: while the upstream has room, while the limit is in use (what is slow
/// then must not become usual), and when they are much faster or the limit at its least.
const FOLLOW_FREE_NANOS: f64 = nanos(Duration::from_secs(30)) as f64;
const FOLLOW_BUSY_NANOS: f64 = nanos(Duration::from_secs(3_600)) as f64;
const FOLLOW_AT_ONCE_NANOS: f64 = nanos(Duration::from_secs(1)) as f64;
/// How much a single answer changes it at most.
const MOST_CHANGE: f64 = 0.1;
/// Operations whose usual time is known. Beyond it they share one.
const MAX_OPERATIONS: usize = 1_000;

const fn nanos(duration: Duration) -> u64 {
    duration.as_nanos() as u64
}

/// The limit, and what it comes from.
#[derive(Debug)]
pub(super) struct Gradient {
    limit: f64,
    /// What answers of an operation usually take: a report takes longer than a look-up.
    usual: FleetMap<Box<str>, Usual>,
    window: Window,
}

#[derive(Debug, Clone, Copy)]
struct Usual {
    nanos: f64,
    as_of_nanos: u64,
}

/// How much of the limit is in use.
#[derive(Debug, Clone, Copy)]
enum Crowd {
    Free,
    Busy,
    /// The limit is at its least.
    Least,
}

#[derive(Debug, Default)]
struct Window {
    since_nanos: u64,
    answers: u32,
    failures: u32,
    /// Sum of how many times longer than usual the answers took.
    slowed: f64,
    most_underway: usize,
}

impl Gradient {
    pub(super) fn new(now_nanos: u64) -> Self {
        Self {
            limit: FIRST,
            usual: FleetMap::default(),
            window: Window::at(now_nanos),
        }
    }

    /// Requests that may be under way.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 16 and 4,096"
    )]
    pub(super) const fn limit(&self) -> usize {
        self.limit as usize
    }

    /// What answers of `operation` usually take, if it was ever answered.
    pub(super) fn usual_nanos(&self, operation: &str) -> Option<f64> {
        self.usual.get(operation).map(|usual| usual.nanos)
    }

    /// `operation` was answered after `took_nanos`, with `underway` requests under way.
    pub(super) fn answered(
        &mut self,
        operation: &str,
        took_nanos: u64,
        underway: usize,
        now_nanos: u64,
    ) {
        #[expect(clippy::cast_precision_loss, reason = "a time, roughly")]
        let took = took_nanos as f64;
        let at = if self.limit <= LEAST {
            Crowd::Least
        } else if self.is_busy(underway) {
            Crowd::Busy
        } else {
            Crowd::Free
        };
        let Some(usual) = self.usual(operation, took, now_nanos) else {
            return;
        };
        let slowed = took / usual.nanos.max(SHORT_NANOS);
        usual.follow(took, at, now_nanos);
        self.window.answers += 1;
        self.window.slowed += slowed.min(MOST_SLOWED);
        self.look(underway, now_nanos);
    }

    /// A request was not answered in time, with `underway` under way.
    pub(super) fn failed(&mut self, underway: usize, now_nanos: u64) {
        self.window.failures += 1;
        self.look(underway, now_nanos);
    }

    /// What `operation` usually takes: what it took now, if it is asked for first.
    fn usual(&mut self, operation: &str, took: f64, now_nanos: u64) -> Option<&mut Usual> {
        // Not an entry, which would need the name as its own each time.
        let name = if self.usual.contains_key(operation) {
            operation
        } else {
            self.meet(operation, took, now_nanos)
        };
        self.usual.get_mut(name)
    }

    /// The name under which `operation` is known from now on.
    fn meet<'a>(&mut self, operation: &'a str, took: f64, now_nanos: u64) -> &'a str {
        let is_one_too_many = self.usual.len() >= MAX_OPERATIONS;
        let name = if is_one_too_many { "" } else { operation };
        let first = Usual {
            nanos: took,
            as_of_nanos: now_nanos,
        };
        self.usual.entry(name.into()).or_insert(first);
        name
    }

    /// Whether the limit is in use: with less it says nothing about the upstream, nor the upstream about it.
    fn is_busy(&self, underway: usize) -> bool {
        underway * 2 >= self.limit()
    }

    fn look(&mut self, underway: usize, now_nanos: u64) {
        let window = &mut self.window;
        window.most_underway = window.most_underway.max(underway);
        let seen = window.answers + window.failures;
        if seen < WINDOW_ANSWERS || now_nanos.saturating_sub(window.since_nanos) < WINDOW_NANOS {
            return;
        }
        let window = std::mem::replace(window, Window::at(now_nanos));
        if self.is_busy(window.most_underway) {
            self.limit = self.next(&window).clamp(LEAST, MOST);
        }
    }

    fn next(&self, window: &Window) -> f64 {
        if window.failures * FAILED_SHARE >= window.answers + window.failures {
            return self.limit * AFTER_FAILURES;
        }
        let slowed = window.slowed / f64::from(window.answers.max(1));
        if self.limit <= LEAST && slowed > FOUND_OUT {
            return LEAST;
        }
        let gradient = (TOLERANCE / slowed).clamp(0.5, 1.0);
        // The root is room for a short queue, and how the limit grows.
        let next = self.limit * gradient + self.limit.sqrt();
        self.limit * (1.0 - SMOOTHING) + next * SMOOTHING
    }
}

impl Usual {
    fn follow(&mut self, took: f64, at: Crowd, now_nanos: u64) {
        let time = match at {
            _ if took * TOLERANCE < self.nanos => FOLLOW_AT_ONCE_NANOS,
            Crowd::Least => FOLLOW_AT_ONCE_NANOS,
            Crowd::Free => FOLLOW_FREE_NANOS,
            Crowd::Busy => FOLLOW_BUSY_NANOS,
        };
        #[expect(clippy::cast_precision_loss, reason = "a time, roughly")]
        let passed = now_nanos.saturating_sub(self.as_of_nanos) as f64;
        self.nanos += (took - self.nanos) * (passed / time).min(MOST_CHANGE);
        self.as_of_nanos = now_nanos;
    }
}

impl Window {
    fn at(now_nanos: u64) -> Self {
        Self {
            since_nanos: now_nanos,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{cmp::Reverse, collections::BinaryHeap};

    use proptest::prelude::*;

    use super::*;

    const MILLISECOND: u64 = 1_000_000;

    /// An upstream that works on `servers` requests at once, each for `work_nanos`; further ones wait in it. Clients
    /// keep as many requests under way as the limit allows, and at most `clients`.
    struct Simulation {
        gradient: Gradient,
        now: u64,
        /// When the servers are free.
        servers: BinaryHeap<Reverse<u64>>,
        /// Ends and beginnings of what is under way.
        underway: BinaryHeap<Reverse<(u64, u64)>>,
    }

    impl Simulation {
        fn new(servers: usize) -> Self {
            Self {
                gradient: Gradient::new(0),
                now: 0,
                servers: std::iter::repeat_n(Reverse(0), servers).collect(),
                underway: BinaryHeap::new(),
            }
        }

        /// Runs for `nanos`; the time of the last answer.
        fn run(&mut self, nanos: u64, work_nanos: u64, clients: usize) -> u64 {
            let until = self.now + nanos;
            let mut took = 0;
            while self.now < until {
                while self.underway.len() < clients.min(self.gradient.limit()) {
                    let Reverse(free) = self.servers.pop().unwrap();
                    let ends = free.max(self.now) + work_nanos;
                    self.servers.push(Reverse(ends));
                    self.underway.push(Reverse((ends, self.now)));
                }
                let underway = self.underway.len();
                let Reverse((ends, began)) = self.underway.pop().unwrap();
                self.now = ends;
                took = ends - began;
                self.gradient.answered("read", took, underway, ends);
            }
            took
        }
    }

    const SECOND: u64 = 1_000 * MILLISECOND;

    #[test]
    fn an_upstream_without_a_queue_gets_what_is_asked_for() {
        let mut simulation = Simulation::new(800);
        simulation.run(20 * SECOND, 40 * MILLISECOND, 600);
        let limit = simulation.gradient.limit();
        assert!(limit >= 600, "{limit}");
    }

    #[test]
    fn an_upstream_that_gets_slower_is_asked_for_less_and_later_for_more_again() {
        let mut simulation = Simulation::new(50);
        simulation.run(10 * SECOND, 40 * MILLISECOND, 20);
        let calm = simulation.gradient.limit();
        // A hundred times the clients: without a limit each would wait for a second and a half.
        let took = simulation.run(30 * SECOND, 40 * MILLISECOND, 2_000);
        let limit = simulation.gradient.limit();
        assert!(
            (50..=150).contains(&limit),
            "{limit}: its servers are busy, and few wait"
        );
        assert!(took < 160 * MILLISECOND, "{took}");
        assert!(calm > limit);
        // It is given more servers.
        let more = std::iter::repeat_n(Reverse(simulation.now), 250);
        simulation.servers.extend(more);
        simulation.run(20 * SECOND, 40 * MILLISECOND, 2_000);
        let limit = simulation.gradient.limit();
        assert!(limit > 250, "{limit}");
    }

    #[test]
    fn overload_does_not_become_usual() {
        let mut simulation = Simulation::new(10);
        simulation.run(10 * SECOND, 50 * MILLISECOND, 5);
        simulation.run(600 * SECOND, 50 * MILLISECOND, 2_000);
        let limit = simulation.gradient.limit();
        assert!(limit < 60, "{limit} after ten minutes");
    }

    #[test]
    fn what_has_become_slow_for_good_becomes_usual() {
        let mut simulation = Simulation::new(1_000);
        simulation.run(10 * SECOND, 20 * MILLISECOND, 500);
        simulation.run(5 * SECOND, 100 * MILLISECOND, 500);
        let limit = simulation.gradient.limit();
        assert!(limit < 200, "{limit}: it may be a queue");
        simulation.run(180 * SECOND, 100 * MILLISECOND, 500);
        let limit = simulation.gradient.limit();
        assert!(limit >= 500, "{limit}: it is not");
    }

    #[test]
    fn operations_that_take_their_time_are_not_slow() {
        let mut gradient = Gradient::new(0);
        for number in 0..100_000_u64 {
            let now = number * MILLISECOND;
            let (operation, took) = match (number / 5_000) % 2 {
                0 => ("look-up", 5 * MILLISECOND),
                _ => ("report", 2_000 * MILLISECOND),
            };
            gradient.answered(operation, took, 200, now);
        }
        assert!(gradient.limit() > 200, "{}", gradient.limit());
    }

    #[test]
    fn what_is_not_answered_shrinks_the_limit_to_its_least() {
        let mut gradient = Gradient::new(0);
        for number in 0..10_000 {
            gradient.failed(gradient.limit(), number * 10 * MILLISECOND);
        }
        assert_eq!(gradient.limit(), 16);
    }

    proptest! {
        #[test]
        fn the_limit_stays_in_its_bounds(
            answers in prop::collection::vec((0..u64::MAX / 4, 0..10_000_usize, 0..SECOND, any::<bool>()), 0..2_000)
        ) {
            let mut gradient = Gradient::new(0);
            let mut now = 0_u64;
            for (took, underway, later, is_answered) in answers {
                now += later;
                if is_answered {
                    gradient.answered("read", took, underway, now);
                } else {
                    gradient.failed(underway, now);
                }
                prop_assert!((16..=4_096).contains(&gradient.limit()));
            }
        }
    }
}
