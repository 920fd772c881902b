//! Memory of used proofs, bounded in time and in size. If more come than can be remembered, all is forgotten, and no proof
//! from before is accepted any more: clients try again with a new nonce (RFC 9449 section 8), and nothing is ever good
//! twice.

use std::{
    collections::HashSet,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use testudo_model::{
    Timestamp,
    limits::{CLOCK_SKEW, PROOF_NONCE_LIFETIME},
};

use super::DpopProof;

/// Time for which a proof is remembered at least: until no node accepts its nonce any more, whatever its clock says. A
/// proof without a nonce is not accepted for as long.
const GENERATION: Duration = PROOF_NONCE_LIFETIME.saturating_add(CLOCK_SKEW);

/// What is known of a proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Novelty {
    /// It came for the first time, and is remembered from now on.
    New,
    /// It came before.
    Known,
    /// There was no room, so all was forgotten: no proof from before now can be told from a used one.
    Forgotten,
}

/// Digests of the proofs that may still be accepted, in two generations, and the key of the nonces that say so.
pub struct ProofMemory {
    pub(super) nonce_key: [u8; 32],
    capacity: usize,
    state: Mutex<State>,
}

struct State {
    current: HashSet<[u8; 16]>,
    previous: HashSet<[u8; 16]>,
    /// When `current` began.
    turned_at: Timestamp,
    /// What was used until then is not known.
    forgotten_until: Timestamp,
}

impl ProofMemory {
    /// A memory that begins `now` and keeps `capacity` proofs in each generation, about 20 bytes each. Its nonces are
    /// good wherever `nonce_key` is.
    pub fn new(nonce_key: [u8; 32], capacity: usize, now: Timestamp) -> Self {
        Self {
            nonce_key,
            capacity,
            state: Mutex::new(State::beginning(now)),
        }
    }

    /// Uses `proof` up.
    pub fn add(&self, proof: &DpopProof, now: Timestamp) -> Novelty {
        self.add_digest(proof.digest(), self.made_after(proof), now)
    }

    /// What was made until then must not be accepted.
    pub(super) fn forgotten_until(&self) -> Timestamp {
        self.lock().forgotten_until
    }

    fn add_digest(&self, digest: [u8; 16], made_after: Timestamp, now: Timestamp) -> Novelty {
        let mut state = self.lock();
        state.turn(now);
        // It was accepted a moment ago; since then somebody may have filled the memory.
        if made_after <= state.forgotten_until {
            return Novelty::Forgotten;
        }
        if state.current.contains(&digest) || state.previous.contains(&digest) {
            return Novelty::Known;
        }
        if state.current.len() >= self.capacity {
            *state = State::beginning(now);
            return Novelty::Forgotten;
        }
        state.current.insert(digest);
        Novelty::New
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn beginning(now: Timestamp) -> Self {
        Self {
            current: HashSet::new(),
            previous: HashSet::new(),
            turned_at: now,
            forgotten_until: now,
        }
    }

    /// Lets go of what is older than any proof that could come.
    fn turn(&mut self, now: Timestamp) {
        let age = now.since(self.turned_at);
        if age < GENERATION {
            return;
        }
        let ended = std::mem::take(&mut self.current);
        self.previous = if age < GENERATION * 2 {
            ended
        } else {
            HashSet::new()
        };
        self.turned_at = now;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    use testudo_model::limits::{PROOF_FUTURE, PROOF_LIFETIME};

    const NOW: Timestamp = Timestamp::from_unix_seconds(1_795_341_600);
    const CAPACITY: usize = 1_000;

    fn memory() -> ProofMemory {
        ProofMemory::new([7; 32], CAPACITY, NOW)
    }

    fn digest(number: usize) -> [u8; 16] {
        let mut digest = [0; 16];
        digest[..8].copy_from_slice(&(number as u64).to_be_bytes());
        digest
    }

    #[test]
    fn beyond_its_room_it_forgets_everything_and_says_so() {
        let used = memory();
        let made = NOW + Duration::from_millis(1);
        for number in 0..CAPACITY {
            assert_eq!(used.add_digest(digest(number), made, made), Novelty::New);
        }
        assert_eq!(used.add_digest(digest(0), made, made), Novelty::Known);
        let later = NOW + Duration::from_secs(1);
        assert_eq!(
            used.add_digest(digest(CAPACITY), made, later),
            Novelty::Forgotten
        );
        assert_eq!(used.forgotten_until(), later);
        assert_eq!(
            used.add_digest(digest(0), made, later),
            Novelty::Forgotten,
            "it was accepted before all was forgotten"
        );
        let after = later + Duration::from_millis(1);
        assert_eq!(used.add_digest(digest(0), after, after), Novelty::New);
    }

    #[test]
    fn what_was_made_before_the_memory_began_is_not_accepted() {
        let (used, began) = (memory(), NOW.unix_seconds());
        let later = NOW + Duration::from_secs(30);
        let future = PROOF_FUTURE.as_secs().cast_signed();
        // A proof that says it is of the future may have been used before the memory began.
        assert!(!used.accepts_time(began + future, later));
        assert!(used.accepts_time(began + future + 1, later));
        assert!(!used.accepts_time(later.unix_seconds() + future + 1, later));
        assert!(used.accepts_nonce(Some(&used.nonce(NOW)), later));
        let much_later = later + Duration::from_secs(3600);
        let oldest = much_later.unix_seconds() - PROOF_LIFETIME.as_secs().cast_signed();
        assert!(!used.accepts_time(oldest, much_later));
        assert!(used.accepts_time(oldest + 1, much_later));
        assert!(!used.accepts_time(i64::MIN, much_later));
        assert!(!used.accepts_time(i64::MAX, much_later));
    }

    #[test]
    fn a_nonce_is_good_for_whoever_has_the_key_and_for_nobody_else() {
        let (used, other) = (memory(), ProofMemory::new([8; 32], CAPACITY, NOW));
        let nonce = used.nonce(NOW);
        assert!(memory().accepts_nonce(Some(&nonce), NOW));
        assert!(!other.accepts_nonce(Some(&nonce), NOW));
        assert!(!used.accepts_nonce(None, NOW));
        assert!(!used.accepts_nonce(Some(""), NOW));
        let ended = NOW + PROOF_NONCE_LIFETIME + Duration::from_millis(1);
        assert!(!used.accepts_nonce(Some(&nonce), ended));
    }

    proptest! {
        /// Proofs come at any time; each is known for at least as long as its nonce could be accepted.
        #[test]
        fn no_proof_is_new_again_within_the_life_of_a_nonce(
            steps in prop::collection::vec((0_usize..6, 0_u64..90), 1..60)
        ) {
            let used = memory();
            let mut now = NOW;
            let mut seen = std::collections::HashMap::new();
            for (number, seconds) in steps {
                now = now + Duration::from_secs(seconds);
                let novelty = used.add_digest(digest(number), now + PROOF_FUTURE, now);
                let before = seen.get(&number).copied();
                if before.is_some_and(|before| now.since(before) < PROOF_NONCE_LIFETIME) {
                    prop_assert_eq!(novelty, Novelty::Known);
                }
                if novelty == Novelty::New {
                    seen.insert(number, now);
                }
            }
        }
    }
}
