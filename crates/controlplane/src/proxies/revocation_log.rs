//! The revocation log: what no longer holds, in order, durable before anybody is told.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use testudo_model::{
    Clock, Timestamp,
    limits::{ACCESS_TOKEN_LIFETIME, CLOCK_SKEW, SESSION_LIFETIME, SVID_LIFETIME},
    snapshot::{Revocation, Revoked},
};
use testudo_store::{LogEntry, StoreError, Tenant};

const PAGE: usize = 1000;

/// An entry as stored; its place in the log is its sequence.
#[derive(Serialize, Deserialize)]
struct Stored {
    at: Timestamp,
    expires: Timestamp,
    what: Revoked,
}

impl LogEntry for Stored {
    /// The identity provider appends to the same log.
    const LOG: &'static str = "revocations";
}

/// The log, with what is in force in memory. Several control planes may append: each follows the store.
pub struct RevocationLog {
    tenant: Tenant,
    clock: Arc<dyn Clock>,
    known: Mutex<Known>,
}

/// Entries in force, and the newest whatever its age, since its number is how far a proxy must be.
#[derive(Default)]
struct Known {
    entries: VecDeque<Revocation>,
    newest: u64,
}

impl RevocationLog {
    /// Reads the log.
    ///
    /// # Errors
    /// The store fails.
    pub fn open(tenant: Tenant, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        let log = Self {
            tenant,
            clock,
            known: Mutex::default(),
        };
        log.follow()?;
        Ok(log)
    }

    /// Appends. When this returns, the entry is durable. Answers its sequence number.
    ///
    /// # Errors
    /// The store fails; nothing is revoked.
    pub fn append(&self, what: Revoked) -> Result<u64, StoreError> {
        let at = self.clock.now();
        let expires = at + reach(&what);
        let index = self.tenant.append(&[Stored { at, expires, what }])?;
        self.follow()?;
        Ok(index + 1)
    }

    /// Takes in what was appended since, by this process or another. Answers the newest sequence.
    ///
    /// # Errors
    /// The store fails.
    pub fn follow(&self) -> Result<u64, StoreError> {
        let mut known = self.lock();
        loop {
            let page = self.tenant.read_log::<Stored>(known.newest, PAGE)?;
            let full = page.len() >= PAGE;
            for (index, Stored { at, expires, what }) in page {
                known.newest = index + 1;
                known.entries.push_back(Revocation {
                    sequence: index + 1,
                    at,
                    expires,
                    what,
                });
            }
            known.forget_expired(self.clock.now());
            if !full {
                return Ok(known.newest);
            }
        }
    }

    /// Entries after `sequence`, in order.
    pub fn since(&self, sequence: u64) -> Vec<Revocation> {
        self.lock()
            .entries
            .iter()
            .filter(|entry| entry.sequence > sequence)
            .cloned()
            .collect()
    }

    /// Number of the newest entry, 0 for none.
    pub fn newest(&self) -> u64 {
        self.lock().newest
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn forget_expired(&mut self, now: Timestamp) {
        let newest = self.newest;
        self.entries
            .retain(|entry| entry.expires > now || entry.sequence == newest);
    }
}

/// How long something that was issued just before the revocation could still be used.
fn reach(what: &Revoked) -> Duration {
    let life = match what {
        Revoked::Token(_) => ACCESS_TOKEN_LIFETIME,
        // A session issues tokens until its end.
        Revoked::Session(_) => SESSION_LIFETIME + ACCESS_TOKEN_LIFETIME,
        Revoked::Subject(_) | Revoked::User(_) => ACCESS_TOKEN_LIFETIME,
        Revoked::Workload(_) => SVID_LIFETIME,
    };
    life + CLOCK_SKEW * 2
}
