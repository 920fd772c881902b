//! Memory of used proofs, bounded in time and in size.

use std::{
    collections::HashSet,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use testudo_model::{Timestamp, limits::CLOCK_SKEW};

use crate::limits::{MAX_USED_PROOFS, PROOF_NONCE_LIFETIME};

/// Time for which a proof is remembered at least: until no node accepts its nonce any more, whatever its clock says.
const GENERATION: Duration = PROOF_NONCE_LIFETIME.saturating_add(CLOCK_SKEW);

/// What is known of a proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Novelty {
    /// It came for the first time, and is remembered from now on.
    New,
    /// It came before.
    Known,
    /// There was no room, so all was forgotten: no proof with a nonce from before now can be told from a used one.
    Forgotten,
}

/// Digests of the proofs whose nonces may still be accepted: two generations.
pub(crate) struct UsedProofs(Mutex<State>);

struct State {
    current: HashSet<[u8; 16]>,
    previous: HashSet<[u8; 16]>,
    /// When `current` began.
    turned_at: Timestamp,
    /// What was used until then is not known.
    forgotten_until: Timestamp,
}

impl UsedProofs {
    /// A memory that begins `now`.
    pub(crate) fn since(now: Timestamp) -> Self {
        Self(Mutex::new(State {
            current: HashSet::new(),
            previous: HashSet::new(),
            turned_at: now,
            forgotten_until: now,
        }))
    }

    /// Nonces that were made until then must not be accepted.
    pub(super) fn forgotten_until(&self) -> Timestamp {
        self.lock().forgotten_until
    }

    pub(super) fn add(&self, digest: [u8; 16], now: Timestamp) -> Novelty {
        let mut state = self.lock();
        state.turn(now);
        if state.current.contains(&digest) || state.previous.contains(&digest) {
            return Novelty::Known;
        }
        if state.current.len() >= MAX_USED_PROOFS {
            *state = State {
                current: HashSet::new(),
                previous: HashSet::new(),
                turned_at: now,
                forgotten_until: now,
            };
            return Novelty::Forgotten;
        }
        state.current.insert(digest);
        Novelty::New
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Lets go of what is older than any nonce that could come.
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

    const NOW: Timestamp = Timestamp::from_unix_seconds(1_795_341_600);

    fn digest(number: usize) -> [u8; 16] {
        let mut digest = [0; 16];
        digest[..8].copy_from_slice(&(number as u64).to_be_bytes());
        digest
    }

    #[test]
    fn beyond_its_room_it_forgets_everything_and_says_so() {
        let used = UsedProofs::since(NOW);
        for number in 0..MAX_USED_PROOFS {
            assert_eq!(used.add(digest(number), NOW), Novelty::New);
        }
        assert_eq!(used.add(digest(0), NOW), Novelty::Known);
        let later = NOW + Duration::from_secs(1);
        assert_eq!(used.add(digest(MAX_USED_PROOFS), later), Novelty::Forgotten);
        assert_eq!(used.forgotten_until(), later);
        assert_eq!(used.add(digest(0), later), Novelty::New);
    }

    proptest! {
        /// Proofs come at any time; each is known for at least as long as its nonce could be accepted.
        #[test]
        fn no_proof_is_new_again_within_the_life_of_a_nonce(
            steps in prop::collection::vec((0_usize..6, 0_u64..90), 1..60)
        ) {
            let used = UsedProofs::since(NOW);
            let mut now = NOW;
            let mut seen = std::collections::HashMap::new();
            for (number, seconds) in steps {
                now = now + Duration::from_secs(seconds);
                let novelty = used.add(digest(number), now);
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
