//! A bounded map for what can be computed again.

use std::{borrow::Borrow, collections::HashMap, hash::Hash};

/// Two generations of entries. New and used entries are in the young one; when it is full it becomes the old
/// one and the old one goes. What is in use stays, what was used once leaves, nothing is ever scanned.
#[derive(Debug)]
pub(crate) struct Generations<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    young_limit: usize,
}

/// The last bytes of a token, which are of its signature: enough to tell two that were verified apart, and quick to
/// hash. What is found by them is compared whole.
pub(crate) type TokenEnding = [u8; 32];

/// How `token` is found; `None` if it is too short to be one.
pub(crate) fn token_ending(token: &[u8]) -> Option<TokenEnding> {
    token.last_chunk().copied()
}

impl<K: Hash + Eq, V: Clone> Generations<K, V> {
    /// A map of at most `limit` entries.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            young: HashMap::new(),
            old: HashMap::new(),
            young_limit: (limit / 2).max(1),
        }
    }

    /// The value of `key`.
    pub(crate) fn get<Q>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        if let Some(value) = self.young.get(key) {
            return Some(value.clone());
        }
        let (key, value) = self.old.remove_entry(key)?;
        self.insert(key, value.clone());
        Some(value)
    }

    /// Sets the value of `key`.
    pub(crate) fn insert(&mut self, key: K, value: V) {
        if self.young.len() >= self.young_limit && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }

    /// Forgets `key`.
    pub(crate) fn remove<Q>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.young.remove(key);
        self.old.remove(key);
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_in_use_survive_a_flood() {
        let mut cache = Generations::new(100);
        cache.insert(0_u32, "hot");
        for key in 1..10_000 {
            cache.insert(key, "cold");
            assert_eq!(cache.get(&0), Some("hot"));
            assert!(cache.len() <= 100);
        }
        assert_eq!(cache.get(&1), None);
    }

    #[test]
    fn a_removed_entry_is_gone_from_both_generations() {
        let mut cache = Generations::new(2);
        cache.insert(1, ());
        cache.insert(2, ());
        cache.remove(&1);
        assert_eq!(cache.get(&1), None);
        assert_eq!(cache.get(&2), Some(()));
    }
}
