//! Slowing down whoever guesses client secrets, or makes us hash them, by client and network and by network alone.
//!
//! Counted in memory, unlike logins: a client proves itself again for every token, and a durable write for each would
//! cost more than the guess. A failure is counted after it is known, so what runs at the same time slips past; of slow
//! hashes that is few, and the others are of secrets too long to be guessed.

use std::{
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use testudo_model::{Buckets, ClientName, SourceNetwork};

use crate::limits::{
    FAILED_PROOF_REFILL, FAILED_PROOF_REFILL_PER_CLIENT, FREE_FAILED_PROOFS,
    FREE_FAILED_PROOFS_PER_CLIENT, MAX_FAILED_PROOF_SOURCES,
};

/// Who failed: the client named, if the name could be one, and from where.
pub(super) struct Suspect {
    client: (Option<ClientName>, Option<SourceNetwork>),
    source: Option<SourceNetwork>,
}

impl Suspect {
    pub(super) fn new(client_id: Option<&str>, source: Option<IpAddr>) -> Self {
        let source = source.map(SourceNetwork::of);
        let client = client_id.and_then(|id| id.parse().ok());
        Self {
            client: (client, source),
            source,
        }
    }
}

/// The failures that are not forgotten yet.
pub(crate) struct FailedProofs(Mutex<State>);

struct State {
    of_clients: Buckets<(Option<ClientName>, Option<SourceNetwork>)>,
    of_sources: Buckets<Option<SourceNetwork>>,
}

impl Default for FailedProofs {
    fn default() -> Self {
        Self(Mutex::new(State {
            of_clients: Buckets::new(
                FREE_FAILED_PROOFS_PER_CLIENT,
                FAILED_PROOF_REFILL_PER_CLIENT,
                MAX_FAILED_PROOF_SOURCES,
            ),
            of_sources: Buckets::new(
                FREE_FAILED_PROOFS,
                FAILED_PROOF_REFILL,
                MAX_FAILED_PROOF_SOURCES,
            ),
        }))
    }
}

impl FailedProofs {
    /// Whether the next attempt is refused unseen, right or wrong.
    pub(super) fn are_too_many(&self, suspect: &Suspect, now: u64) -> bool {
        let state = self.lock();
        !state.of_clients.has_token(&suspect.client, now)
            || !state.of_sources.has_token(&suspect.source, now)
    }

    pub(super) fn add(&self, suspect: Suspect, now: u64) {
        let mut state = self.lock();
        state.of_clients.take(suspect.client, now);
        state.of_sources.take(suspect.source, now);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
