//! Which user stands behind a call that the local service makes.
//!
//! A service passes on `traceparent` (or the whole `Txn-Token`) and nothing else. The sidecar knows which
//! transactions it has handed to the service; it attaches one of those and never another.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use testudo_model::Clock;

use crate::{cache::Generations, transaction::Transaction};

/// Traces open at once in one sidecar.
const MAX_OPEN_TRACES: usize = 100_000;
/// Delivered tokens remembered by one sidecar.
const MAX_DELIVERED: usize = 100_000;

/// The transactions handed to the local service, shared by the workers of a sidecar.
pub(crate) struct Delivered {
    clock: Arc<dyn Clock>,
    table: Mutex<Table>,
}

struct Table {
    /// Requests the service is working on, by trace id.
    open: HashMap<String, Vec<Arc<Transaction>>>,
    /// Tokens the service has seen, whether it is still working on their request or not.
    tokens: Generations<Arc<str>, Arc<Transaction>>,
}

/// Kept while a request is with the service.
pub(crate) struct Delivery {
    delivered: Arc<Delivered>,
    trace: String,
    transaction: Arc<Transaction>,
}

impl Delivered {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        let table = Table {
            open: HashMap::new(),
            tokens: Generations::new(MAX_DELIVERED),
        };
        Arc::new(Self {
            clock,
            table: Mutex::new(table),
        })
    }

    /// Notes that `transaction` goes to the service under `trace`. `None` when the table is full: calls the
    /// service makes then have no user.
    pub(crate) fn deliver(
        self: &Arc<Self>,
        trace: &str,
        transaction: &Arc<Transaction>,
    ) -> Option<Delivery> {
        let mut table = self.lock();
        table
            .tokens
            .insert(Arc::clone(&transaction.token), Arc::clone(transaction));
        if table.open.len() >= MAX_OPEN_TRACES && !table.open.contains_key(trace) {
            return None;
        }
        table
            .open
            .entry(trace.to_owned())
            .or_default()
            .push(Arc::clone(transaction));
        Some(Delivery {
            delivered: Arc::clone(self),
            trace: trace.to_owned(),
            transaction: Arc::clone(transaction),
        })
    }

    /// The transaction of the requests that are open under `trace`. A trace with two subjects belongs to
    /// neither: somebody has put another's trace id on a call, and which of them the service is working for
    /// cannot be told.
    pub(crate) fn by_trace(&self, trace: &str) -> Option<Arc<Transaction>> {
        let table = self.lock();
        let (first, others) = table.open.get(trace)?.split_first()?;
        let is_one = others
            .iter()
            .all(|other| other.claims.sub == first.claims.sub);
        (is_one && self.is_current(first)).then(|| Arc::clone(first))
    }

    /// The transaction whose token is exactly `token`, if it was delivered here.
    pub(crate) fn by_token(&self, token: &str) -> Option<Arc<Transaction>> {
        self.lock()
            .tokens
            .get(token)
            .filter(|transaction| self.is_current(transaction))
    }

    fn is_current(&self, transaction: &Transaction) -> bool {
        self.clock.now() < transaction.expires()
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        let mut table = self.delivered.lock();
        let Some(open) = table.open.get_mut(&self.trace) else {
            return;
        };
        if let Some(at) = open
            .iter()
            .position(|known| Arc::ptr_eq(known, &self.transaction))
        {
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

    use testudo_model::{RequestContext, TransactionClaims, TransactionId, limits};
    use testudo_testkit::{FakeClock, SeededEntropy};

    use super::*;

    fn transaction(clock: &FakeClock, token: &str, subject: &str) -> Arc<Transaction> {
        let now = clock.now();
        Arc::new(Transaction {
            token: token.into(),
            claims: TransactionClaims {
                iss: "spiffe://fleet.example/testudo/gateway".parse().unwrap(),
                aud: "fleet.example".to_owned(),
                iat: now.unix_seconds(),
                exp: (now + limits::TRANSACTION_TOKEN_LIFETIME).unix_seconds(),
                txn: TransactionId::generate(clock, &*SeededEntropy::new(1)),
                sub: Some(subject.to_owned()),
                scope: String::new(),
                tctx: None,
                rctx: RequestContext {
                    req_ip: "203.0.113.9".parse().unwrap(),
                    method: "GET".to_owned(),
                    path: "/".to_owned(),
                },
            },
            principal: None,
        })
    }

    #[test]
    fn a_call_made_while_a_request_is_open_belongs_to_its_user() {
        let clock = FakeClock::today();
        let delivered = Delivered::new(clock.clone());
        let alice = transaction(&clock, "token-a", "usr_alice");
        let delivery = delivered.deliver("trace-a", &alice).unwrap();
        assert_eq!(delivered.by_trace("trace-a").unwrap().token, alice.token);
        assert!(
            delivered.by_trace("trace-b").is_none(),
            "no user is better than a wrong one"
        );
        drop(delivery);
        assert!(delivered.by_trace("trace-a").is_none());
    }

    #[test]
    fn a_trace_with_two_users_belongs_to_neither() {
        let clock = FakeClock::today();
        let delivered = Delivered::new(clock.clone());
        let _alice = delivered
            .deliver("trace", &transaction(&clock, "token-a", "usr_alice"))
            .unwrap();
        let mallory = delivered
            .deliver("trace", &transaction(&clock, "token-m", "usr_mallory"))
            .unwrap();
        assert!(delivered.by_trace("trace").is_none());
        drop(mallory);
        assert_eq!(&*delivered.by_trace("trace").unwrap().token, "token-a");
    }

    #[test]
    fn a_forwarded_token_counts_only_if_it_was_delivered_here() {
        let clock = FakeClock::today();
        let delivered = Delivered::new(clock.clone());
        drop(delivered.deliver("trace", &transaction(&clock, "token-a", "usr_alice")));
        assert!(delivered.by_token("token-a").is_some());
        assert!(delivered.by_token("token-stolen-elsewhere").is_none());
        clock.advance(limits::TRANSACTION_TOKEN_LIFETIME + Duration::from_secs(1));
        assert!(delivered.by_token("token-a").is_none());
    }
}
