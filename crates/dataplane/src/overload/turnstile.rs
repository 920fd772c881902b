//! One upstream's share of a worker's requests: as many at once as it takes, the most important first.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use testudo_model::{Clock, FleetMap, Priority, limits::MAX_WAITING_REQUESTS};
use tokio::sync::oneshot;

use super::gradient::Gradient;
use crate::metrics::{ProxyMetrics, Role, ShownLimit};

/// Classes of requests.
const CLASSES: usize = 4;

/// As many requests of this class wait as they may. It is no worse for them to be told at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TurnedAway;

/// The upstreams of a worker, by the name of the service.
pub(crate) struct Turnstiles {
    clock: Arc<dyn Clock>,
    metrics: ProxyMetrics,
    by_service: Mutex<FleetMap<Box<str>, Arc<Turnstile>>>,
}

struct Turnstile {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

struct State {
    gradient: Gradient,
    shown: ShownLimit,
    underway: usize,
    /// Who waits, by class, the longest first.
    waiting: [VecDeque<oneshot::Sender<Ticket>>; CLASSES],
}

/// A request under way. Dropped, it is no longer, and says nothing about the upstream: the client gave up.
pub(crate) struct Ticket(Arc<Turnstile>);

impl Turnstiles {
    pub(crate) fn new(clock: Arc<dyn Clock>, metrics: ProxyMetrics) -> Self {
        Self {
            clock,
            metrics,
            by_service: Mutex::default(),
        }
    }

    /// Waits for a place among the requests to `service`.
    ///
    /// # Errors
    /// [`TurnedAway`] after the time that `priority` may wait, or for one of more importance.
    pub(crate) async fn enter(
        &self,
        role: Role,
        service: &str,
        priority: Priority,
    ) -> Result<Ticket, TurnedAway> {
        let turnstile = self.of(role, service);
        let receiver = match turnstile.try_enter(priority)? {
            Entry::Ticket(ticket) => return Ok(ticket),
            Entry::Wait(receiver) => receiver,
        };
        match tokio::time::timeout(patience(priority), receiver).await {
            Ok(Ok(ticket)) => Ok(ticket),
            _ => Err(TurnedAway),
        }
    }

    fn of(&self, role: Role, service: &str) -> Arc<Turnstile> {
        let mut known = self
            .by_service
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(turnstile) = known.get(service) {
            return Arc::clone(turnstile);
        }
        let shown = self.metrics.upstream_limit(role, service);
        let turnstile = Arc::new(Turnstile::new(Arc::clone(&self.clock), shown));
        known.insert(service.into(), Arc::clone(&turnstile));
        turnstile
    }
}

enum Entry {
    Ticket(Ticket),
    Wait(oneshot::Receiver<Ticket>),
}

impl Turnstile {
    fn new(clock: Arc<dyn Clock>, shown: ShownLimit) -> Self {
        let mut state = State {
            gradient: Gradient::new(clock.monotonic_nanos()),
            shown,
            underway: 0,
            waiting: Default::default(),
        };
        state.show();
        Self {
            clock,
            state: Mutex::new(state),
        }
    }

    fn try_enter(self: &Arc<Self>, priority: Priority) -> Result<Entry, TurnedAway> {
        let mut state = self.lock();
        if state.may_pass(priority) {
            state.underway += 1;
            return Ok(Entry::Ticket(Ticket(Arc::clone(self))));
        }
        if state.count_waiting() >= MAX_WAITING_REQUESTS {
            state.make_room(priority)?;
        }
        let (sender, receiver) = oneshot::channel();
        if let Some(queue) = state.waiting.get_mut(class(priority)) {
            queue.push_back(sender);
        }
        Ok(Entry::Wait(receiver))
    }

    /// A request has ended: lets those in who may.
    fn leave(self: &Arc<Self>) {
        let mut state = self.lock();
        state.underway = state.underway.saturating_sub(1);
        let mut let_in = Vec::new();
        while let Some(next) = state.next() {
            state.underway += 1;
            let_in.push(next);
        }
        drop(state);
        for next in let_in {
            // Who has given up meanwhile drops the ticket, and so leaves.
            drop(next.send(Ticket(Arc::clone(self))));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether a request may pass that has just come: there is room, and nobody as important waits.
    fn may_pass(&self, priority: Priority) -> bool {
        let mut before = self.waiting.iter().skip(class(priority));
        self.underway < room(priority, self.gradient.limit()) && before.all(VecDeque::is_empty)
    }

    /// The next one who may pass.
    fn next(&mut self) -> Option<oneshot::Sender<Ticket>> {
        let limit = self.gradient.limit();
        for (queue, priority) in self.waiting.iter_mut().zip(Priority::ALL).rev() {
            forget_gone(queue);
            if self.underway < room(priority, limit)
                && let Some(next) = queue.pop_front()
            {
                return Some(next);
            }
        }
        None
    }

    fn count_waiting(&self) -> usize {
        self.waiting.iter().map(VecDeque::len).sum()
    }

    /// Shows what the limit has become.
    fn show(&mut self) {
        self.shown.set(self.gradient.limit());
    }

    /// Turns away whoever came last of the least important, if that is not who asks, and nobody has gone by himself.
    fn make_room(&mut self, priority: Priority) -> Result<(), TurnedAway> {
        self.waiting.iter_mut().for_each(forget_gone);
        if self.count_waiting() < MAX_WAITING_REQUESTS {
            return Ok(());
        }
        let mut less_important = self.waiting.iter_mut().take(class(priority));
        let queue = less_important.find(|queue| !queue.is_empty());
        queue
            .and_then(VecDeque::pop_back)
            .map(drop)
            .ok_or(TurnedAway)
    }
}

/// Who waits longest gives up first, so those who have are in front.
fn forget_gone(queue: &mut VecDeque<oneshot::Sender<Ticket>>) {
    while queue.front().is_some_and(oneshot::Sender::is_closed) {
        queue.pop_front();
    }
}

impl Ticket {
    /// `operation` was answered, `took` after the upstream had the whole request.
    pub(crate) fn answered(self, operation: &str, took: Duration) {
        let now = self.0.clock.monotonic_nanos();
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let mut state = self.0.lock();
        let underway = state.underway;
        state.gradient.answered(operation, took, underway, now);
        state.show();
    }

    /// The upstream said nothing in the time it had.
    pub(crate) fn timed_out(self) {
        let now = self.0.clock.monotonic_nanos();
        let mut state = self.0.lock();
        let underway = state.underway;
        state.gradient.failed(underway, now);
        state.show();
    }

    /// Whether `operation` is known to be answered in less than `time`.
    pub(crate) fn is_usually_within(&self, operation: &str, time: Duration) -> bool {
        let usual = self.0.lock().gradient.usual_nanos(operation);
        usual.is_some_and(|nanos| nanos < time.as_nanos() as f64)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.0.leave();
    }
}

/// How long a request may wait. Whoever is turned away in time can try elsewhere, or tell somebody.
const fn patience(priority: Priority) -> Duration {
    Duration::from_millis(match priority {
        Priority::Low => 500,
        Priority::Default => 2_000,
        Priority::High => 3_000,
        Priority::Critical => 5_000,
    })
}

/// How much of the limit requests may take up: the rest is kept for those of more importance, or they would wait for
/// an upstream full of what matters less.
const fn room(priority: Priority, limit: usize) -> usize {
    match priority {
        Priority::Low => limit / 2,
        Priority::Default => limit - limit / 8,
        Priority::High => limit - limit / 16,
        Priority::Critical => limit,
    }
}

const fn class(priority: Priority) -> usize {
    priority as usize
}

#[cfg(test)]
mod tests {
    use testudo_runtime::Metrics;
    use testudo_testkit::FakeClock;

    use super::*;

    const ROLE: Role = Role::Gateway;

    fn turnstiles() -> Turnstiles {
        let metrics = ProxyMetrics::register(&Metrics::new(&*FakeClock::today()));
        Turnstiles::new(FakeClock::today(), metrics)
    }

    fn turnstile() -> Arc<Turnstile> {
        turnstiles().of(ROLE, "orders")
    }

    fn enter(turnstile: &Arc<Turnstile>, priority: Priority) -> Option<Ticket> {
        match turnstile.try_enter(priority) {
            Ok(Entry::Ticket(ticket)) => Some(ticket),
            _ => None,
        }
    }

    fn wait(turnstile: &Arc<Turnstile>, priority: Priority) -> oneshot::Receiver<Ticket> {
        match turnstile.try_enter(priority) {
            Ok(Entry::Wait(receiver)) => receiver,
            _ => panic!("{priority:?} does not have to wait"),
        }
    }

    fn fill(turnstile: &Arc<Turnstile>, priority: Priority) -> Vec<Ticket> {
        std::iter::from_fn(|| enter(turnstile, priority)).collect()
    }

    #[test]
    fn what_matters_less_leaves_room_for_what_matters_more() {
        let turnstile = turnstile();
        let mut tickets = Vec::new();
        let mut counts = Vec::new();
        for priority in Priority::ALL {
            tickets.extend(fill(&turnstile, priority));
            counts.push(tickets.len());
        }
        assert_eq!(counts, [128, 224, 240, 256]);
    }

    #[test]
    fn a_place_goes_to_the_most_important_and_then_to_the_longest_waiting() {
        let turnstile = turnstile();
        let mut tickets = fill(&turnstile, Priority::Critical);
        let mut low = wait(&turnstile, Priority::Low);
        let mut first = wait(&turnstile, Priority::Critical);
        let mut second = wait(&turnstile, Priority::Critical);
        drop(wait(&turnstile, Priority::Critical));
        tickets.pop();
        let ticket = first.try_recv().unwrap();
        assert!(second.try_recv().is_err());
        drop(ticket);
        let _second = second.try_recv().unwrap();
        assert!(low.try_recv().is_err());
        tickets.clear();
        let _low = low.try_recv().unwrap();
        assert_eq!(
            turnstile.lock().underway,
            2,
            "who has given up has no place"
        );
    }

    #[test]
    fn a_full_queue_turns_away_the_least_important() {
        let turnstile = turnstile();
        let _tickets = fill(&turnstile, Priority::Critical);
        let mut waiting: Vec<_> = (0..MAX_WAITING_REQUESTS)
            .map(|_| wait(&turnstile, Priority::Low))
            .collect();
        assert!(turnstile.try_enter(Priority::Low).is_err());
        let _high = wait(&turnstile, Priority::High);
        let turned_away = waiting.last_mut().unwrap().try_recv();
        assert_eq!(
            turned_away.err(),
            Some(oneshot::error::TryRecvError::Closed)
        );
        assert!(
            waiting[0]
                .try_recv()
                .is_err_and(|error| error == oneshot::error::TryRecvError::Empty)
        );
    }

    #[tokio::test]
    async fn who_would_wait_too_long_is_turned_away_and_leaves_no_trace() {
        let turnstiles = turnstiles();
        let tickets = fill(&turnstiles.of(ROLE, "orders"), Priority::Critical);
        let turned_away = turnstiles.enter(ROLE, "orders", Priority::Low).await.err();
        assert_eq!(turned_away, Some(TurnedAway));
        assert!(
            turnstiles.enter(ROLE, "stock", Priority::Low).await.is_ok(),
            "another upstream"
        );
        drop(tickets);
        assert!(
            turnstiles
                .enter(ROLE, "orders", Priority::Low)
                .await
                .is_ok()
        );
        assert_eq!(turnstiles.of(ROLE, "orders").lock().underway, 0);
    }
}
