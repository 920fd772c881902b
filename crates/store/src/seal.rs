//! Names to blind hashes, values to sealed ones.
//!
//! Each seal is bound to the place it is for: which space and key, which position and version, which expiry.
//! A value that was changed, moved to another row, or put back from an earlier version does not open.
//! What this cannot notice: a whole row put back together with its numbers, a row taken away, the whole
//! database put back. That takes an anchor outside the database.

use std::sync::{Arc, PoisonError, RwLock};

use testudo_model::Entropy;
use testudo_trust::{Keyring, OpenError, RootKey, constant_time_eq};

use crate::{
    StoreError,
    backend::{Blind, Reads, SealedChange, SealedItem, SealedRecord, SealedRun, WrappedKeyring},
};

/// What names are blinded for. The same name blinds differently for each.
const SPACE: &[u8] = b"testudo store space 1";
const KEY: &[u8] = b"testudo store key 1";
const INDEX: &[u8] = b"testudo store index 1";
const LOG: &[u8] = b"testudo store log 1";

/// The keyring as of one version.
pub(crate) struct Keys {
    keyring: Keyring,
    version: u64,
}

impl Keys {
    /// The first keys of a new store.
    pub(crate) fn first(entropy: &dyn Entropy) -> Self {
        Self {
            keyring: Keyring::new(entropy),
            version: 1,
        }
    }

    /// The keys as they are kept.
    pub(crate) fn unwrap(root: &RootKey, kept: &WrappedKeyring) -> Result<Self, StoreError> {
        if !constant_time_eq(&kept.key_check, &root.check_value()) {
            return Err(StoreError::WrongRootKey);
        }
        let keyring =
            Keyring::unwrap(root, &kept.wrapped).map_err(|_| StoreError::corrupt("the keyring"))?;
        Ok(Self {
            keyring,
            version: kept.version,
        })
    }

    /// The keys as they are to be kept.
    pub(crate) fn wrap(&self, root: &RootKey, entropy: &dyn Entropy) -> WrappedKeyring {
        WrappedKeyring {
            version: self.version,
            key_check: root.check_value(),
            wrapped: self.keyring.wrap(root, entropy),
        }
    }

    /// The same with a new term.
    pub(crate) fn rotated(&self, entropy: &dyn Entropy) -> Self {
        let mut keyring = self.keyring.clone();
        keyring.rotate(entropy);
        Self {
            keyring,
            version: self.version + 1,
        }
    }

    /// The same with the current term alone; `None` if there is no other.
    pub(crate) fn retired(&self) -> Option<Self> {
        if self.keyring.oldest_term() == self.term() {
            return None;
        }
        let mut keyring = self.keyring.clone();
        keyring.retire_before(self.term());
        Some(Self {
            keyring,
            version: self.version + 1,
        })
    }

    pub(crate) fn term(&self) -> u32 {
        self.keyring.current_term()
    }

    /// A collection of a tenant.
    pub(crate) fn space(&self, tenant: &str, collection: &str) -> Blind {
        self.keyring
            .blind(SPACE, &pair(tenant.as_bytes(), collection.as_bytes()))
    }

    /// A key in a collection.
    pub(crate) fn key(&self, space: &Blind, key: &str) -> Blind {
        self.keyring.blind(KEY, &pair(space, key.as_bytes()))
    }

    /// A value of an index of a collection.
    pub(crate) fn index_value(&self, space: &Blind, index: &str, value: &str) -> Blind {
        self.keyring.blind(
            INDEX,
            &pair(space, &pair(index.as_bytes(), value.as_bytes())),
        )
    }

    /// A log of a tenant.
    pub(crate) fn log(&self, tenant: &str, log: &str) -> Blind {
        self.keyring
            .blind(LOG, &pair(tenant.as_bytes(), log.as_bytes()))
    }

    /// Seals `plain` into its place.
    pub(crate) fn seal(&self, entropy: &dyn Entropy, place: &mut impl Place, plain: &[u8]) {
        let sealed = self.keyring.seal(entropy, &place.associated_data(), plain);
        place.fill(self.term(), sealed);
    }

    /// Opens what is in a place.
    pub(crate) fn open(&self, place: &impl Place) -> Result<Vec<u8>, StoreError> {
        self.keyring
            .open(&place.associated_data(), place.sealed())
            .map_err(|_: OpenError| StoreError::corrupt(place.describe()))
    }

    /// Seals what is in a place anew, under the current term.
    pub(crate) fn reseal(
        &self,
        entropy: &dyn Entropy,
        item: &mut SealedItem,
    ) -> Result<(), StoreError> {
        match item {
            SealedItem::Record(record) => self.reseal_place(entropy, record),
            SealedItem::Run(run) => self.reseal_place(entropy, run),
            SealedItem::Change(change) => self.reseal_place(entropy, change),
        }
    }

    fn reseal_place(
        &self,
        entropy: &dyn Entropy,
        place: &mut impl Place,
    ) -> Result<(), StoreError> {
        let plain = self.open(place)?;
        self.seal(entropy, place, &plain);
        Ok(())
    }
}

/// Something that carries a seal, bound to where it stands.
pub(crate) trait Place {
    /// Where it stands: fields of fixed length after a name of their own, so that no two places are alike.
    fn associated_data(&self) -> Vec<u8>;
    fn sealed(&self) -> &[u8];
    fn fill(&mut self, term: u32, sealed: Vec<u8>);
    /// What to call it when it does not open; numbers only.
    fn describe(&self) -> String;
}

impl Place for SealedRecord {
    fn associated_data(&self) -> Vec<u8> {
        let expires = self
            .expires
            .map(|at| at.unix_millis().to_be_bytes())
            .unwrap_or_default();
        [
            b"testudo store record 1".as_slice(),
            &self.space,
            &self.key,
            &self.position.to_be_bytes(),
            &self.version.to_be_bytes(),
            &[u8::from(self.expires.is_some())],
            &expires,
        ]
        .concat()
    }

    fn sealed(&self) -> &[u8] {
        &self.sealed
    }

    fn fill(&mut self, term: u32, sealed: Vec<u8>) {
        (self.term, self.sealed) = (term, sealed);
    }

    fn describe(&self) -> String {
        format!(
            "the record at position {}, version {}",
            self.position, self.version
        )
    }
}

impl Place for SealedRun {
    fn associated_data(&self) -> Vec<u8> {
        [
            b"testudo store run 1".as_slice(),
            &self.log,
            &self.first.to_be_bytes(),
            &self.count.to_be_bytes(),
        ]
        .concat()
    }

    fn sealed(&self) -> &[u8] {
        &self.sealed
    }

    fn fill(&mut self, term: u32, sealed: Vec<u8>) {
        (self.term, self.sealed) = (term, sealed);
    }

    fn describe(&self) -> String {
        format!("the log entries from {} on", self.first)
    }
}

impl Place for SealedChange {
    fn associated_data(&self) -> Vec<u8> {
        [
            b"testudo store change 1".as_slice(),
            &self.sequence.to_be_bytes(),
        ]
        .concat()
    }

    fn sealed(&self) -> &[u8] {
        &self.sealed
    }

    fn fill(&mut self, term: u32, sealed: Vec<u8>) {
        (self.term, self.sealed) = (term, sealed);
    }

    fn describe(&self) -> String {
        format!("change {}", self.sequence)
    }
}

/// The keys in use. Replaced as a whole when this process or another one rotates them.
pub(crate) struct KeyHolder(RwLock<Arc<Keys>>);

impl KeyHolder {
    pub(crate) fn new(keys: Keys) -> Self {
        Self(RwLock::new(Arc::new(keys)))
    }

    pub(crate) fn current(&self) -> Arc<Keys> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn replace(&self, keys: Arc<Keys>) {
        let mut current = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if keys.version > current.version {
            *current = keys;
        }
    }

    /// The keys as the database has them, if they are others than `used`.
    pub(crate) fn newer_than(
        &self,
        used: &Keys,
        root: &RootKey,
        reads: &(impl Reads + ?Sized),
    ) -> Result<Option<Arc<Keys>>, StoreError> {
        let kept = reads
            .keyring()?
            .ok_or_else(|| StoreError::corrupt("the keyring"))?;
        if kept.version == used.version {
            return Ok(None);
        }
        let keys = Arc::new(Keys::unwrap(root, &kept)?);
        self.replace(Arc::clone(&keys));
        Ok(Some(keys))
    }
}

/// Two values as one, told apart by the length of the first.
fn pair(first: &[u8], second: &[u8]) -> Vec<u8> {
    let mut joined = Vec::with_capacity(8 + first.len() + second.len());
    joined.extend((first.len() as u64).to_be_bytes());
    joined.extend(first);
    joined.extend(second);
    joined
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use testudo_testkit::SeededEntropy;

    use super::*;

    #[test]
    fn names_that_concatenate_alike_blind_differently() {
        let keys = Keys::first(&*SeededEntropy::new(1));
        let space = keys.space("ab", "c");
        let blinds = BTreeSet::from([
            space,
            keys.space("a", "bc"),
            keys.space("", "abc"),
            keys.log("ab", "c"),
            keys.key(&space, "xy"),
            keys.key(&keys.space("a", "bc"), "xy"),
            keys.index_value(&space, "x", "y"),
            keys.index_value(&space, "", "xy"),
            keys.index_value(&space, "xy", ""),
        ]);
        assert_eq!(blinds.len(), 9);
    }

    #[test]
    fn only_the_root_key_of_the_store_unwraps_its_keys() {
        let entropy = SeededEntropy::new(2);
        let root = RootKey::generate(&*entropy);
        let kept = Keys::first(&*entropy).wrap(&root, &*entropy);
        assert!(Keys::unwrap(&root, &kept).is_ok());
        let other = RootKey::generate(&*entropy);
        assert!(matches!(
            Keys::unwrap(&other, &kept),
            Err(StoreError::WrongRootKey)
        ));
        let mut damaged = kept;
        damaged.wrapped.truncate(40);
        assert!(matches!(
            Keys::unwrap(&root, &damaged),
            Err(StoreError::Corrupt { .. })
        ));
    }
}
