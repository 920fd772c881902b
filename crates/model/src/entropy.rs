//! Randomness as a parameter.

/// A source of cryptographically strong random bytes. The real one is `trust::SystemEntropy`.
pub trait Entropy: Send + Sync + 'static {
    /// Fills `bytes`. The source must never return predictable bytes outside tests: an implementation that
    /// cannot deliver ends the process.
    fn fill(&self, bytes: &mut [u8]);
}

/// `N` random bytes.
pub fn random_bytes<const N: usize>(entropy: &dyn Entropy) -> [u8; N] {
    let mut bytes = [0; N];
    entropy.fill(&mut bytes);
    bytes
}

/// A uniform number below `bound` (0 for `bound` 0). For jitter, not for keys.
pub fn random_below(entropy: &dyn Entropy, bound: u64) -> u64 {
    let random = u64::from_le_bytes(random_bytes(entropy));
    let scaled = (u128::from(random) * u128::from(bound)) >> 64;
    u64::try_from(scaled).unwrap_or(0)
}
