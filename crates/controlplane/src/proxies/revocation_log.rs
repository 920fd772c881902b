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
        loop {
            // Without the lock: streams that ask what is known do not wait for the disk.
            let page = self.tenant.read_log::<Stored>(self.newest(), PAGE)?;
            let full = page.len() >= PAGE;
            let mut known = self.lock();
            known.take(page);
            known.forget_expired(self.clock.now());
            if !full {
                return Ok(known.newest);
            }
        }
    }

    /// Entries after `sequence`, in order.
    pub fn since(&self, sequence: u64) -> Vec<Revocation> {
        let known = self.lock();
        let first = known
            .entries
            .partition_point(|entry| entry.sequence <= sequence);
        known.entries.range(first..).cloned().collect()
    }

    /// The number of `entry`, if this log has it; otherwise 0. A log that was restored from a backup gives numbers a second
    /// time, to other entries.
    pub fn place_of(&self, entry: &Revocation) -> u64 {
        let known = self.lock();
        let found = known
            .entries
            .binary_search_by_key(&entry.sequence, |known| known.sequence)
            .ok()
            .and_then(|index| known.entries.get(index));
        match found {
            Some(found) if found == entry => entry.sequence,
            _ => 0,
        }
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
    /// Adds what of a page of the log is new; somebody else may have read the same page meanwhile.
    fn take(&mut self, page: Vec<(u64, Stored)>) {
        for (index, Stored { at, expires, what }) in page {
            if index >= self.newest {
                self.newest = index + 1;
                self.entries.push_back(Revocation {
                    sequence: index + 1,
                    at,
                    expires,
                    what,
                });
            }
        }
    }

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

#[cfg(test)]
mod tests {
    use testudo_model::{SpiffeId, TenantName};
    use testudo_store::{Store, StoreOptions};
    use testudo_testkit::FakeClock;
    use testudo_trust::{RootKey, SystemEntropy};

    use super::*;

    fn subject(number: u64) -> Revoked {
        Revoked::Subject(format!("usr_{number}"))
    }

    fn store(folder: &std::path::Path, clock: &Arc<FakeClock>) -> Tenant {
        let store = Store::open(StoreOptions {
            path: folder.to_owned(),
            root_key: RootKey::from_bytes([1; 32]),
            clock: clock.clone(),
            entropy: Arc::new(SystemEntropy),
        });
        store.unwrap().tenant(&TenantName::default_tenant())
    }

    fn sequences(entries: &[Revocation]) -> Vec<u64> {
        entries.iter().map(|entry| entry.sequence).collect()
    }

    #[test]
    fn entries_are_numbered_without_gaps_and_survive_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let clock = FakeClock::today();
        let tenant = store(folder.path(), &clock);
        let log = RevocationLog::open(tenant.clone(), clock.clone()).unwrap();
        assert_eq!(log.newest(), 0);
        for number in 1..=3 {
            assert_eq!(log.append(subject(number)).unwrap(), number);
        }
        let again = RevocationLog::open(tenant, clock).unwrap();
        assert_eq!(sequences(&again.since(0)), [1, 2, 3]);
        assert_eq!(sequences(&again.since(2)), [3]);
        assert_eq!(again.since(0), log.since(0));
    }

    #[test]
    fn an_entry_of_another_log_has_no_place_though_its_number_has() {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let clock = FakeClock::today();
        let open = |folder: &tempfile::TempDir| {
            RevocationLog::open(store(folder.path(), &clock), clock.clone()).unwrap()
        };
        let (log, other) = (open(&here), open(&there));
        for number in 1..=3 {
            log.append(subject(number)).unwrap();
            other.append(subject(number + 10)).unwrap();
        }
        for entry in log.since(0) {
            assert_eq!(log.place_of(&entry), entry.sequence);
            assert_eq!(other.place_of(&entry), 0);
        }
    }

    #[test]
    fn what_another_control_plane_appends_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        let clock = FakeClock::today();
        let tenant = store(folder.path(), &clock);
        let one = RevocationLog::open(tenant.clone(), clock.clone()).unwrap();
        let other = RevocationLog::open(tenant, clock).unwrap();
        one.append(subject(1)).unwrap();
        assert_eq!(other.newest(), 0);
        assert_eq!(other.follow().unwrap(), 1);
        assert_eq!(other.append(subject(2)).unwrap(), 2);
    }

    #[test]
    fn followers_that_read_the_same_page_take_each_entry_once() {
        let folder = tempfile::tempdir().unwrap();
        let clock = FakeClock::today();
        let log = RevocationLog::open(store(folder.path(), &clock), clock.clone()).unwrap();
        log.append(subject(1)).unwrap();
        let page = |from| log.tenant.read_log::<Stored>(from, PAGE).unwrap();
        let (slow, slower) = (page(0), page(0));
        log.append(subject(2)).unwrap();
        log.lock().take(slow);
        log.lock().take(page(1));
        log.lock().take(slower);
        assert_eq!(sequences(&log.since(0)), [1, 2]);

        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for number in 0..10 {
                        log.append(subject(number)).unwrap();
                    }
                });
            }
        });
        let expected: Vec<u64> = (1..=42).collect();
        assert_eq!(sequences(&log.since(0)), expected);
    }

    #[test]
    fn an_entry_leaves_when_nothing_it_concerns_can_live_but_the_newest_number_stays_known() {
        let folder = tempfile::tempdir().unwrap();
        let clock = FakeClock::today();
        let log = RevocationLog::open(store(folder.path(), &clock), clock.clone()).unwrap();
        let workload: SpiffeId = "spiffe://fleet.example/svc/orders".parse().unwrap();
        log.append(Revoked::Workload(workload)).unwrap();
        log.append(subject(1)).unwrap();
        clock.advance(ACCESS_TOKEN_LIFETIME + CLOCK_SKEW * 3);
        log.follow().unwrap();
        assert_eq!(
            sequences(&log.since(0)),
            [1, 2],
            "a certificate lives longer than a token"
        );
        clock.advance(SVID_LIFETIME);
        log.follow().unwrap();
        assert_eq!(
            sequences(&log.since(0)),
            [2],
            "a proxy learns how far the log is"
        );
        assert_eq!(log.append(subject(2)).unwrap(), 3);
        assert_eq!(sequences(&log.since(0)), [3]);
    }
}
