//! Token buckets in bounded memory: how often something may happen for each key, by the generic cell rate algorithm.

use std::{collections::HashMap, hash::Hash, time::Duration};

/// A bucket for each key. One that is full takes no memory.
#[derive(Debug)]
pub struct Buckets<K> {
    /// Nanoseconds in which one token comes back.
    refill: u64,
    /// Nanoseconds in which an empty bucket is full again.
    span: u64,
    most: usize,
    /// When the bucket of a key will be full, in nanoseconds of the caller's clock.
    full_at: HashMap<K, u64>,
}

impl<K: Hash + Eq> Buckets<K> {
    /// Buckets of `size` tokens; one comes back every `refill`. At most `most` that are not full are remembered.
    pub fn new(size: u32, refill: Duration, most: usize) -> Self {
        let refill = u64::try_from(refill.as_nanos()).unwrap_or(u64::MAX);
        Self {
            refill,
            span: refill.saturating_mul(u64::from(size)),
            most,
            full_at: HashMap::new(),
        }
    }

    /// Whether the bucket of `key` has a token. `now` is [`Clock::monotonic_nanos`](crate::Clock::monotonic_nanos).
    pub fn has_token(&self, key: &K, now: u64) -> bool {
        let full_at = self.full_at.get(key).copied().unwrap_or(0).max(now);
        full_at - now + self.refill <= self.span
    }

    /// Takes a token of `key`, if there is one. If no further key can be remembered, there is: who bounds all keys
    /// together has another bucket for that.
    pub fn take(&mut self, key: K, now: u64) -> bool {
        if !self.has_token(&key, now) {
            return false;
        }
        if self.full_at.len() >= self.most && !self.full_at.contains_key(&key) {
            self.full_at.retain(|_, full_at| *full_at > now);
            if self.full_at.len() >= self.most {
                return true;
            }
        }
        let full_at = self.full_at.entry(key).or_insert(now);
        *full_at = (*full_at).max(now).saturating_add(self.refill);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_bucket_empties_and_fills_at_its_rate_and_each_key_has_its_own() {
        let mut buckets = Buckets::new(3, Duration::from_secs(1), 10);
        let taken = |buckets: &mut Buckets<&str>, key, now| {
            (0..10).filter(|_| buckets.take(key, now)).count()
        };
        assert_eq!(taken(&mut buckets, "a", 0), 3);
        assert!(!buckets.has_token(&"a", SECOND - 1) && buckets.has_token(&"a", SECOND));
        assert_eq!(taken(&mut buckets, "a", SECOND), 1);
        assert_eq!(taken(&mut buckets, "b", SECOND), 3);
        assert_eq!(taken(&mut buckets, "a", 100 * SECOND), 3);
    }

    #[test]
    fn however_many_keys_come_the_memory_is_bounded_and_full_buckets_make_room() {
        let mut buckets = Buckets::new(1, Duration::from_secs(1), 10);
        for key in 0..1000 {
            assert!(buckets.take(key, 0));
        }
        assert_eq!(buckets.full_at.len(), 10);
        assert!(buckets.take(1000, 2 * SECOND) && !buckets.take(1000, 2 * SECOND));
        assert_eq!(buckets.full_at.len(), 1);
    }
}
