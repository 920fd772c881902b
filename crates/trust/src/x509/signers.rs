//! Who signs tokens: a gateway's certificate signs thousands, and verifying its chain costs as much as verifying a token.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use testudo_model::{SpiffeId, Timestamp};

use crate::key::PublicPoint;

/// Signers remembered: a fleet has few gateways, each with a new certificate now and then.
const MAX_SIGNERS: usize = 64;

/// A signer, by a chain that was verified.
#[derive(Debug, Clone)]
pub(crate) struct Signer {
    pub(crate) id: SpiffeId,
    pub(crate) key: PublicPoint,
}

/// Chains that were verified under one bundle, and when they hold.
#[derive(Default)]
pub(super) struct KnownSigners(Mutex<VecDeque<Known>>);

struct Known {
    chain: Vec<Vec<u8>>,
    /// While every certificate of the path is in its time.
    from: Timestamp,
    until: Timestamp,
    signer: Arc<Signer>,
}

impl KnownSigners {
    /// Who `chain` identifies, if that is known and still holds.
    pub(super) fn get(&self, chain: &[Vec<u8>], now: Timestamp) -> Option<Arc<Signer>> {
        let known = self.lock();
        let found = known.iter().find(|known| known.chain == chain)?;
        (found.from..=found.until)
            .contains(&now)
            .then(|| Arc::clone(&found.signer))
    }

    /// Remembers what was verified just now, in place of the oldest if there are many.
    pub(super) fn remember(
        &self,
        chain: Vec<Vec<u8>>,
        (from, until): (Timestamp, Timestamp),
        signer: Arc<Signer>,
    ) {
        let mut known = self.lock();
        known.retain(|known| known.chain != chain);
        known.truncate(MAX_SIGNERS - 1);
        known.push_front(Known {
            chain,
            from,
            until,
            signer,
        });
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
