//! What readers and the writer share.

use std::sync::Arc;

use testudo_model::{Clock, Entropy};
use testudo_trust::RootKey;

use crate::{
    StoreError,
    backend::{Backend, Reads},
    seal::{KeyHolder, Keys},
};

pub(crate) struct Core {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) root_key: RootKey,
    pub(crate) keys: KeyHolder,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
}

impl Core {
    /// Opens the keyring that the backend keeps, or gives it one.
    pub(crate) fn open(
        backend: Arc<dyn Backend>,
        root_key: RootKey,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, StoreError> {
        let kept = backend.reader()?.keyring()?;
        let keys = match kept {
            Some(kept) => Keys::unwrap(&root_key, &kept)?,
            None => make_keyring(&*backend, &root_key, &*entropy)?,
        };
        Ok(Self {
            backend,
            root_key,
            keys: KeyHolder::new(keys),
            clock,
            entropy,
        })
    }

    /// Reads. The keys may have moved on between taking them and reading: what does not open is read again
    /// with the newest before it counts as damaged. What counts as damaged is not remembered.
    pub(crate) fn read<T>(
        &self,
        work: impl Fn(&dyn Reads, &Keys) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let keys = self.keys.current();
        let reads = self.backend.reader()?;
        match work(&*reads, &keys) {
            Err(corrupt @ StoreError::Corrupt { source: None, .. }) => {
                self.backend.distrust();
                match self.keys.newer_than(&keys, &self.root_key, &*reads)? {
                    Some(newer) => work(&*reads, &newer),
                    None => Err(corrupt),
                }
            }
            answer => answer,
        }
    }
}

fn make_keyring(
    backend: &dyn Backend,
    root_key: &RootKey,
    entropy: &dyn Entropy,
) -> Result<Keys, StoreError> {
    let mut writes = backend.begin()?;
    // Another process may have been faster.
    if let Some(kept) = writes.keyring()? {
        return Keys::unwrap(root_key, &kept);
    }
    if writes.newest_change()? > 0 {
        return Err(StoreError::corrupt("the keyring, which is missing,"));
    }
    let keys = Keys::first(entropy);
    writes.put_keyring(&keys.wrap(root_key, entropy))?;
    writes.commit()?;
    Ok(keys)
}
