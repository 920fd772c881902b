//! What no longer holds although it has not expired: tokens, sessions, subjects, workloads.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use testudo_model::{
    Clock, SessionId, SpiffeId, Timestamp, TokenId,
    snapshot::{Revocation, Revoked},
};

/// Revocations remembered. Each concerns something that lives minutes, so this many in force at once means
/// that the control plane is broken or hostile.
pub const MAX_REVOCATIONS: usize = 200_000;

/// The revocations do not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "more than {MAX_REVOCATIONS} revocations are in force; tokens are refused until some expire"
)]
pub struct RevocationsFull;

/// The facts of a token that a revocation can take away.
#[derive(Debug, Clone, Copy)]
pub struct TokenIdentity<'a> {
    /// `jti`.
    pub token: &'a TokenId,
    /// Session.
    pub session: Option<&'a SessionId>,
    /// `sub`.
    pub subject: &'a str,
    /// `iat` of the token from outside, seconds since the epoch.
    pub issued_at: i64,
}

/// The revocations in force.
pub struct RevocationSet {
    clock: Arc<dyn Clock>,
    table: RwLock<Table>,
    sequence: AtomicU64,
    generation: AtomicU64,
}

#[derive(Default)]
struct Table {
    tokens: HashMap<TokenId, Timestamp>,
    sessions: HashMap<SessionId, Timestamp>,
    subjects: HashMap<String, RevokedSubject>,
    workloads: HashMap<SpiffeId, Timestamp>,
    /// Until when an entry that did not fit may still concern somebody.
    overflowed_until: Option<Timestamp>,
}

#[derive(Clone, Copy)]
struct RevokedSubject {
    at: Timestamp,
    expires: Timestamp,
}

impl RevocationSet {
    /// Nothing revoked.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            table: RwLock::default(),
            sequence: AtomicU64::new(0),
            generation: AtomicU64::new(0),
        }
    }

    /// Takes in entries, in order; repeats change nothing. Answers the sequence of the last one, which is how far we are
    /// from now on, also if that is a lower number than before: the control plane may have gone back to a backup. What was
    /// taken in stays until it expires.
    ///
    /// # Errors
    /// [`RevocationsFull`]; from then on [`Self::revokes_token`] answers yes for every token.
    pub fn apply(&self, entries: &[Revocation]) -> Result<u64, RevocationsFull> {
        let now = self.clock.now();
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let mut result = Ok(());
        for entry in entries.iter().filter(|entry| now < entry.expires) {
            let is_new = !table.has(&entry.what);
            if is_new && table.len() >= MAX_REVOCATIONS {
                table.forget_expired(now);
            }
            if is_new && table.len() >= MAX_REVOCATIONS {
                table.overflowed_until = table.overflowed_until.max(Some(entry.expires));
                result = Err(RevocationsFull);
            } else {
                table.insert(entry);
            }
        }
        if let Some(last) = entries.last() {
            self.sequence.store(last.sequence, Ordering::Release);
        }
        // After the table: whoever sees the number sees the entries.
        self.generation.fetch_add(1, Ordering::Release);
        result.map(|()| self.sequence())
    }

    /// Another number whenever entries came: what was looked up under the same number still holds.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Number of the newest entry known, 0 for none. It may become lower.
    pub fn sequence(&self) -> u64 {
        self.sequence.load(Ordering::Acquire)
    }

    /// Whether a token no longer holds.
    pub fn revokes_token(&self, token: TokenIdentity<'_>) -> bool {
        let table = self.read();
        let now = self.clock.now();
        table.overflowed_until.is_some_and(|until| now < until)
            || in_force(&table.tokens, token.token, now)
            || token
                .session
                .is_some_and(|session| in_force(&table.sessions, session, now))
            || table.subjects.get(token.subject).is_some_and(|subject| {
                // `iat` has whole seconds: a token of the same second as the revocation is refused.
                now < subject.expires && token.issued_at <= subject.at.unix_seconds()
            })
    }

    /// Whether a workload's certificates no longer hold.
    pub fn revokes_workload(&self, id: &SpiffeId) -> bool {
        let table = self.read();
        !table.workloads.is_empty() && in_force(&table.workloads, id, self.clock.now())
    }

    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn len(&self) -> usize {
        self.tokens.len() + self.sessions.len() + self.subjects.len() + self.workloads.len()
    }

    fn has(&self, what: &Revoked) -> bool {
        match what {
            Revoked::Token(id) => self.tokens.contains_key(id),
            Revoked::Session(id) => self.sessions.contains_key(id),
            Revoked::Workload(id) => self.workloads.contains_key(id),
            Revoked::Subject(subject) => self.subjects.contains_key(subject),
            Revoked::User(user) => self.subjects.contains_key(user.as_str()),
        }
    }

    fn insert(&mut self, entry: &Revocation) {
        let expires = entry.expires;
        match &entry.what {
            Revoked::Token(id) => keep_later(&mut self.tokens, id.clone(), expires),
            Revoked::Session(id) => keep_later(&mut self.sessions, id.clone(), expires),
            Revoked::Workload(id) => keep_later(&mut self.workloads, id.clone(), expires),
            Revoked::Subject(subject) => self.insert_subject(subject.clone(), entry),
            Revoked::User(user) => self.insert_subject(user.as_str().to_owned(), entry),
        }
    }

    fn insert_subject(&mut self, subject: String, entry: &Revocation) {
        let known = self.subjects.entry(subject).or_insert(RevokedSubject {
            at: entry.at,
            expires: entry.expires,
        });
        known.at = known.at.max(entry.at);
        known.expires = known.expires.max(entry.expires);
    }

    fn forget_expired(&mut self, now: Timestamp) {
        self.tokens.retain(|_, expires| now < *expires);
        self.sessions.retain(|_, expires| now < *expires);
        self.workloads.retain(|_, expires| now < *expires);
        self.subjects.retain(|_, subject| now < subject.expires);
    }
}

fn in_force<K: Eq + Hash>(entries: &HashMap<K, Timestamp>, key: &K, now: Timestamp) -> bool {
    entries.get(key).is_some_and(|expires| now < *expires)
}

fn keep_later<K: Eq + Hash>(entries: &mut HashMap<K, Timestamp>, key: K, expires: Timestamp) {
    let known = entries.entry(key).or_insert(expires);
    *known = (*known).max(expires);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use testudo_testkit::{FakeClock, SeededEntropy};

    use super::*;

    fn entry(sequence: u64, clock: &FakeClock, what: Revoked) -> Revocation {
        let at = clock.now();
        Revocation {
            sequence,
            at,
            expires: at + Duration::from_secs(300),
            what,
        }
    }

    #[test]
    fn a_subject_loses_the_tokens_it_had_but_not_the_next_one() {
        let clock = FakeClock::today();
        let set = RevocationSet::new(clock.clone());
        let token = TokenId::generate(&*clock, &*SeededEntropy::new(1));
        let issued = |seconds: i64| TokenIdentity {
            token: &token,
            session: None,
            subject: "usr_a",
            issued_at: clock.now().unix_seconds() + seconds,
        };
        assert!(!set.revokes_token(issued(-10)));
        set.apply(&[entry(1, &clock, Revoked::Subject("usr_a".to_owned()))])
            .unwrap();
        assert!(set.revokes_token(issued(-10)));
        assert!(set.revokes_token(issued(0)));
        assert!(!set.revokes_token(issued(1)));
        clock.advance(Duration::from_secs(300));
        assert!(
            !set.revokes_token(issued(-310)),
            "the entry expired with what it concerned"
        );
    }

    #[test]
    fn a_log_that_begins_again_is_followed_and_what_the_old_one_said_still_holds() {
        let clock = FakeClock::today();
        let set = RevocationSet::new(clock.clone());
        let id: SpiffeId = "spiffe://f.example/svc/orders".parse().unwrap();
        let old = entry(7, &clock, Revoked::Workload(id.clone()));
        assert_eq!(set.apply(std::slice::from_ref(&old)), Ok(7));
        assert_eq!(set.apply(&[old]), Ok(7), "a repeat changes nothing");
        let before = set.generation();
        let restored = entry(3, &clock, Revoked::Subject("usr_a".to_owned()));
        assert_eq!(set.apply(&[restored]), Ok(3));
        assert_ne!(set.generation(), before);
        let token = TokenId::generate(&*clock, &*SeededEntropy::new(1));
        let identity = TokenIdentity {
            token: &token,
            session: None,
            subject: "usr_a",
            issued_at: 0,
        };
        assert!(set.revokes_token(identity));
        assert!(set.revokes_workload(&id));
    }

    #[test]
    fn too_many_revocations_refuse_every_token() {
        let clock = FakeClock::today();
        let set = RevocationSet::new(clock.clone());
        let flood: Vec<_> = (1..=MAX_REVOCATIONS as u64 + 1)
            .map(|n| entry(n, &clock, Revoked::Subject(format!("usr_{n}"))))
            .collect();
        let (last, fitting) = flood.split_last().unwrap();
        for _ in 0..2 {
            assert!(set.apply(fitting).is_ok(), "repeats take no room");
        }
        assert_eq!(set.apply(std::slice::from_ref(last)), Err(RevocationsFull));
        let token = TokenId::generate(&*clock, &*SeededEntropy::new(1));
        let innocent = TokenIdentity {
            token: &token,
            session: None,
            subject: "usr_innocent",
            issued_at: clock.now().unix_seconds() + 10,
        };
        assert!(set.revokes_token(innocent));
        clock.advance(Duration::from_secs(301));
        assert!(!set.revokes_token(innocent));
    }
}
