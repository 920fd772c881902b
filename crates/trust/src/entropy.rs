//! Randomness from the operating system.

use aws_lc_rs::error::Unspecified;
use testudo_model::Entropy;

/// Random bytes of the operating system, through the crypto provider's DRBG.
///
/// Fails by ending the process: no caller could do anything sound without randomness.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        or_abort(aws_lc_rs::rand::fill(bytes));
    }
}

/// For operations of the crypto library whose only way to fail is that it has no randomness or memory left.
/// Ending the process is the one answer that cannot leave a predictable key or an unsealed value behind.
pub(crate) fn or_abort<T>(result: Result<T, Unspecified>) -> T {
    result.unwrap_or_else(|_| std::process::abort())
}

#[cfg(test)]
mod tests {
    use testudo_model::random_bytes;

    use super::SystemEntropy;

    #[test]
    fn two_draws_differ() {
        let first: [u8; 32] = random_bytes(&SystemEntropy);
        let second: [u8; 32] = random_bytes(&SystemEntropy);
        assert_ne!(first, second);
    }
}
