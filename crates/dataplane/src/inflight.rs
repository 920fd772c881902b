//! Which user stands behind a call that the local service makes.
//!
//! A service passes on `traceparent` (or the whole `Txn-Token`) and nothing else. The sidecar knows which
//! transactions it has handed to the service; it attaches one of those and never another.

use std::{
    collections::{HashMap, HashSet},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use testudo_model::{Clock, Timestamp, TransactionId, limits};

use crate::{
    sibling::{Behind, Knows, Siblings},
    transaction::Transaction,
};

/// Traces open at once in one sidecar.
const MAX_OPEN_TRACES: usize = 100_000;
/// Transactions of one token lifetime that are remembered as delivered; about 60 bytes each.
const MAX_DELIVERED: usize = 50_000;

/// The transactions handed to the local service, shared by the workers of a sidecar.
pub struct Delivered {
    clock: Arc<dyn Clock>,
    table: Mutex<Table>,
    siblings: Arc<Siblings>,
}

struct Table {
    /// Requests the service is working on, by trace id, each with its transaction if it has one.
    open: HashMap<String, Vec<Option<Arc<Transaction>>>>,
    seen: Seen,
}

/// Transactions whose token the service has seen, whether it is still working on their request or not. Those of
/// two token lifetimes: what is older has expired.
struct Seen {
    young: HashSet<TransactionId>,
    old: HashSet<TransactionId>,
    young_until: Timestamp,
}

/// Kept while a request is with the service.
pub(crate) struct Delivery {
    delivered: Arc<Delivered>,
    trace: String,
    transaction: Option<Arc<Transaction>>,
}

impl Delivered {
    /// Nothing yet.
    pub fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        let table = Table {
            open: HashMap::new(),
            seen: Seen::new(clock.now()),
        };
        Arc::new(Self {
            clock,
            table: Mutex::new(table),
            siblings: Arc::default(),
        })
    }

    /// Shares what it knows with another sidecar of the same service on this host, at the other end of `stream`, as
    /// long as that one is there: while one takes over from the other. Resolves when both know of each other.
    ///
    /// # Errors
    /// The stream cannot be used.
    pub async fn share(self: &Arc<Self>, stream: std::os::unix::net::UnixStream) -> io::Result<()> {
        stream.set_nonblocking(true)?;
        let stream = tokio::net::UnixStream::from_std(stream)?;
        self.siblings.meet(stream, Arc::downgrade(self)).await;
        Ok(())
    }

    /// Notes that a request goes to the service under `trace`, on behalf of `transaction` or of nobody. `None` when
    /// the table is full: calls the service makes then have no user.
    pub(crate) fn deliver(
        self: &Arc<Self>,
        trace: &str,
        transaction: Option<&Arc<Transaction>>,
    ) -> Option<Delivery> {
        let mut table = self.lock();
        if let Some(transaction) = transaction {
            table
                .seen
                .insert(transaction.claims.txn.clone(), self.clock.now());
        }
        if table.open.len() >= MAX_OPEN_TRACES && !table.open.contains_key(trace) {
            return None;
        }
        table
            .open
            .entry(trace.to_owned())
            .or_default()
            .push(transaction.cloned());
        Some(Delivery {
            delivered: Arc::clone(self),
            trace: trace.to_owned(),
            transaction: transaction.cloned(),
        })
    }

    /// Whose call it is that the service makes under `trace`, as this sidecar and others of the service know.
    /// `verify` reads the token of a transaction that another one delivered.
    pub(crate) async fn behind(
        &self,
        trace: &str,
        verify: impl Fn(&str) -> Option<Arc<Transaction>>,
    ) -> Option<Arc<Transaction>> {
        let mut found = match self.open_under(trace) {
            Open::Nothing => None,
            Open::Nobody => return None,
            Open::One(transaction) => Some(transaction),
        };
        for elsewhere in self.siblings.behind(trace).await {
            let other = match elsewhere {
                Behind::Nothing => continue,
                Behind::Nobody => return None,
                Behind::One(token) => verify(&token)?,
            };
            match &found {
                Some(one) if !have_same_authority(one, &other) => return None,
                Some(_) => {}
                None => found = Some(other),
            }
        }
        found
    }

    /// Whether the token of `transaction` was delivered by this sidecar, or by another of the service.
    pub(crate) async fn was_delivered(&self, transaction: &TransactionId) -> bool {
        self.has_seen(transaction) || self.siblings.have_seen(transaction).await
    }

    /// The requests that are open under `trace`. A trace under which they differ in whom they are for, or with which
    /// rights, belongs to none of them: somebody has put another's trace id on a call, and which of them the service
    /// is working for cannot be told.
    fn open_under(&self, trace: &str) -> Open {
        let table = self.lock();
        let Some((first, others)) = table.open.get(trace).and_then(|open| open.split_first())
        else {
            return Open::Nothing;
        };
        let Some(first) = first else {
            return Open::Nobody;
        };
        let is_one = others.iter().all(|other| {
            other
                .as_ref()
                .is_some_and(|other| have_same_authority(first, other))
        });
        if is_one && self.clock.now() < first.expires() {
            Open::One(Arc::clone(first))
        } else {
            Open::Nobody
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is open under a trace.
enum Open {
    Nothing,
    Nobody,
    One(Arc<Transaction>),
}

impl Knows for Delivered {
    fn behind(&self, trace: &str) -> Behind {
        match self.open_under(trace) {
            Open::Nothing => Behind::Nothing,
            Open::Nobody => Behind::Nobody,
            Open::One(transaction) => Behind::One(Arc::clone(&transaction.token)),
        }
    }

    fn has_seen(&self, transaction: &TransactionId) -> bool {
        self.lock().seen.contains(transaction)
    }
}

/// Whether it makes no difference to any decision which of the two stands behind a call.
fn have_same_authority(one: &Transaction, other: &Transaction) -> bool {
    let (one, other) = (&one.claims, &other.claims);
    one.sub == other.sub
        && one.scope == other.scope
        && one.tctx == other.tctx
        && one.rctx.req_ip == other.rctx.req_ip
}

impl Seen {
    fn new(now: Timestamp) -> Self {
        Self {
            young: HashSet::new(),
            old: HashSet::new(),
            young_until: now + limits::TRANSACTION_TOKEN_LIFETIME + limits::CLOCK_SKEW,
        }
    }

    fn insert(&mut self, transaction: TransactionId, now: Timestamp) {
        if self.young_until <= now || self.young.len() >= MAX_DELIVERED {
            let old = std::mem::take(&mut self.young);
            *self = Self {
                old,
                ..Self::new(now)
            };
        }
        self.young.insert(transaction);
    }

    fn contains(&self, transaction: &TransactionId) -> bool {
        self.young.contains(transaction) || self.old.contains(transaction)
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        let mut table = self.delivered.lock();
        let Some(open) = table.open.get_mut(&self.trace) else {
            return;
        };
        let is_mine = |known: &Option<Arc<Transaction>>| match (known, &self.transaction) {
            (Some(known), Some(mine)) => Arc::ptr_eq(known, mine),
            (None, None) => true,
            _ => false,
        };
        if let Some(at) = open.iter().position(is_mine) {
            open.swap_remove(at);
        }
        if open.is_empty() {
            table.open.remove(&self.trace);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use testudo_model::{RequestContext, TokenContext, TokenId, TransactionClaims};
    use testudo_testkit::{FakeClock, SeededEntropy};

    use super::*;

    fn claims(clock: &FakeClock, seed: u64, subject: &str) -> TransactionClaims {
        let now = clock.now();
        let entropy = SeededEntropy::new(seed);
        TransactionClaims {
            iss: "spiffe://fleet.example/testudo/gateway".parse().unwrap(),
            aud: "fleet.example".to_owned(),
            iat: now.unix_seconds(),
            exp: (now + limits::TRANSACTION_TOKEN_LIFETIME).unix_seconds(),
            txn: TransactionId::generate(clock, &*entropy),
            sub: Some(subject.to_owned()),
            scope: "orders:read".to_owned(),
            tctx: Some(TokenContext {
                issuer: "https://login.example".to_owned(),
                token_id: TokenId::generate(clock, &*SeededEntropy::new(1)),
                issued_at: now.unix_seconds(),
                client_id: "shop".to_owned(),
                session: None,
                assurance: 1,
                authenticated_at: now.unix_seconds(),
                bound: false,
                is_api_key: false,
            }),
            rctx: RequestContext {
                req_ip: "203.0.113.9".parse().unwrap(),
                method: "GET".to_owned(),
                path: "/".to_owned(),
            },
        }
    }

    fn transaction(claims: TransactionClaims) -> Arc<Transaction> {
        Arc::new(Transaction::new(claims.txn.as_str().into(), claims))
    }

    impl Delivered {
        fn by_trace(&self, trace: &str) -> Option<Arc<Transaction>> {
            match self.open_under(trace) {
                Open::One(transaction) => Some(transaction),
                Open::Nothing | Open::Nobody => None,
            }
        }
    }

    #[test]
    fn a_call_made_while_a_request_is_open_belongs_to_its_user() {
        let clock = FakeClock::today();
        let delivered = Delivered::new(clock.clone());
        let alice = transaction(claims(&clock, 1, "usr_alice"));
        let delivery = delivered.deliver("trace-a", Some(&alice)).unwrap();
        assert_eq!(delivered.by_trace("trace-a").unwrap().token, alice.token);
        assert!(
            delivered.by_trace("trace-b").is_none(),
            "no user is better than a wrong one"
        );
        drop(delivery);
        assert!(delivered.by_trace("trace-a").is_none());
    }

    #[test]
    fn a_trace_whose_requests_differ_in_whom_they_are_for_belongs_to_none() {
        let clock = FakeClock::today();
        let delivered = Delivered::new(clock.clone());
        let alice = claims(&clock, 1, "usr_alice");
        let _alice = delivered.deliver("trace", Some(&transaction(alice.clone())));
        let context = |change: fn(&mut TokenContext)| {
            let mut other = alice.clone();
            other.tctx.as_mut().map(change).unwrap();
            other
        };
        let from = |address: &str| {
            let mut other = alice.clone();
            other.rctx.req_ip = address.parse().unwrap();
            other
        };
        let scope = TransactionClaims {
            scope: "orders:read orders:write".to_owned(),
            ..alice.clone()
        };
        for other in [
            claims(&clock, 2, "usr_mallory"),
            scope,
            context(|tctx| tctx.client_id = "other".to_owned()),
            context(|tctx| tctx.assurance = 2),
            context(|tctx| tctx.bound = true),
            from("203.0.113.10"),
        ] {
            let delivery = delivered.deliver("trace", Some(&transaction(other.clone())));
            assert!(delivered.by_trace("trace").is_none(), "{other:?}");
            drop(delivery);
            assert!(delivered.by_trace("trace").is_some());
        }
        let same = claims(&clock, 3, "usr_alice");
        let _same = delivered.deliver("trace", Some(&transaction(same)));
        assert!(
            delivered.by_trace("trace").is_some(),
            "another call of the same login"
        );
    }

    #[test]
    fn a_request_for_nobody_does_not_borrow_the_user_of_its_trace() {
        let clock = FakeClock::today();
        let delivered = Delivered::new(clock.clone());
        let alice = transaction(claims(&clock, 1, "usr_alice"));
        let nobody = delivered.deliver("trace", None);
        let _alice = delivered.deliver("trace", Some(&alice));
        assert!(delivered.by_trace("trace").is_none());
        drop(nobody);
        assert!(delivered.by_trace("trace").is_some());
    }

    #[tokio::test]
    async fn two_sidecars_of_a_service_know_what_either_delivered() {
        let clock = FakeClock::today();
        let (old, new) = (Delivered::new(clock.clone()), Delivered::new(clock.clone()));
        let (one, other) = std::os::unix::net::UnixStream::pair().unwrap();
        let (shared, too) = tokio::join!(old.share(one), new.share(other));
        assert!(shared.is_ok() && too.is_ok());
        let alice = transaction(claims(&clock, 1, "usr_alice"));
        let bob = transaction(claims(&clock, 2, "usr_bob"));
        let verify = |token: &str| {
            let known = [&alice, &bob];
            let mut known = known.into_iter().filter(|known| *known.token == *token);
            known.next().cloned()
        };

        let delivery = old.deliver("trace", Some(&alice));
        let found = new.behind("trace", verify).await.unwrap();
        assert_eq!(found.token, alice.token);
        assert!(new.was_delivered(&alice.claims.txn).await);
        assert!(!new.was_delivered(&bob.claims.txn).await);
        assert!(
            new.behind("trace", |_: &str| None).await.is_none(),
            "not verified"
        );

        let _bob = new.deliver("trace", Some(&bob));
        for sidecar in [&old, &new] {
            assert!(sidecar.behind("trace", verify).await.is_none(), "two users");
        }
        drop(delivery);
        assert_eq!(new.behind("trace", verify).await.unwrap().token, bob.token);
    }

    #[test]
    fn a_transaction_is_remembered_as_long_as_its_token_lives_and_no_longer() {
        let clock = FakeClock::today();
        let delivered = Delivered::new(clock.clone());
        let deliver = |seed| {
            let next = transaction(claims(&clock, seed, "usr_alice"));
            drop(delivered.deliver("trace", Some(&next)));
            next.claims.txn.clone()
        };
        let first = deliver(1);
        clock.advance(limits::TRANSACTION_TOKEN_LIFETIME);
        let second = deliver(2);
        assert!(delivered.has_seen(&first) && delivered.has_seen(&second));
        for seed in 3..5 {
            clock.advance(limits::TRANSACTION_TOKEN_LIFETIME + Duration::from_secs(6));
            deliver(seed);
        }
        assert!(!delivered.has_seen(&first) && !delivered.has_seen(&second));
    }

    #[test]
    fn a_flood_does_not_grow_what_is_remembered() {
        let clock = FakeClock::today();
        let mut seen = Seen::new(clock.now());
        let entropy = SeededEntropy::new(1);
        for _ in 0..3 * MAX_DELIVERED {
            seen.insert(TransactionId::generate(&*clock, &*entropy), clock.now());
        }
        assert!(seen.young.len() + seen.old.len() <= 2 * MAX_DELIVERED);
    }
}
