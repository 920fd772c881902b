//! Sealing: AES-256-GCM under keys that rotate.
//!
//! A [`Keyring`] has one key for each *term*; new values are sealed under the newest, old ones stay readable
//! until their term is retired. The keyring itself is kept wrapped by the [`RootKey`].
//!
//! An envelope is `version (1) | term (4, big endian) | nonce (12) | ciphertext and tag (16)`. Version and
//! term are authenticated together with the caller's associated data. Nonces are random, so one term may
//! seal at most 2^32 values (NIST SP 800-38D section 8.3): rotate long before.

use std::{collections::BTreeMap, fmt, sync::Arc};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use testudo_model::{Entropy, random_bytes};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::{entropy::or_abort, hmac_sha256};

const VERSION: u8 = 1;
const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;

// What keeps one use of a key from another. Text with spaces, so that nobody takes it for a path or an address.
const KEYRING_LABEL: &[u8] = b"testudo keyring v1";
const KEY_CHECK_LABEL: &[u8] = b"testudo root key check v1";
const KEY_WRAP_LABEL: &[u8] = b"testudo root key wrap v1";

/// Bytes an envelope is longer than what it seals.
pub const SEAL_OVERHEAD: usize = 1 + 4 + NONCE_BYTES + TAG_BYTES;

/// Why an envelope does not open. Deliberately says no more: which byte was wrong is nobody's business.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Too short, another version, or not what a keyring looks like.
    #[error("not a sealed value of this version")]
    Malformed,
    /// The keyring has no key for this term: it was retired, or the value is from another store.
    #[error("sealed under term {0}, which this keyring does not have")]
    UnknownTerm(u32),
    /// Changed, moved (other associated data) or sealed under another key.
    #[error("sealed value was tampered with or belongs to another key or place")]
    Refused,
}

/// The key that opens everything else. Kept outside the store: key file, TPM, KMS, shares.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct RootKey([u8; 32]);

impl RootKey {
    /// A new random key.
    pub fn generate(entropy: &dyn Entropy) -> Self {
        Self(random_bytes(entropy))
    }

    /// A key that was kept somewhere.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The key itself, for whoever keeps it.
    pub const fn expose_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// A public value that tells this key from others and says nothing about it, so that a wrong key can be
    /// named as such before anything fails to open.
    pub fn check_value(&self) -> [u8; 16] {
        let mut check = [0; 16];
        let derived = hmac_sha256(&self.0, KEY_CHECK_LABEL);
        check
            .iter_mut()
            .zip(derived)
            .for_each(|(byte, from)| *byte = from);
        check
    }

    /// The key that wraps keyrings. The root key itself encrypts nothing: one key, one purpose.
    fn wrapping_key(&self) -> TermKey {
        TermKey::new(Zeroizing::new(hmac_sha256(&self.0, KEY_WRAP_LABEL)))
    }
}

impl fmt::Debug for RootKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("RootKey(<redacted>)")
    }
}

/// Data keys by term, and the key of the blind index. Clones share the keys.
///
/// To rotate without losing anything: clone, [`rotate`](Self::rotate), [`wrap`](Self::wrap), make the
/// wrapped form durable, and only then seal with the clone.
#[derive(Clone)]
pub struct Keyring {
    terms: BTreeMap<u32, Arc<TermKey>>,
    current: u32,
    blind: Arc<Zeroizing<[u8; 32]>>,
}

impl Keyring {
    /// A keyring with one term, number 1.
    pub fn new(entropy: &dyn Entropy) -> Self {
        Self {
            terms: BTreeMap::from([(1, Arc::new(TermKey::generate(entropy)))]),
            current: 1,
            blind: Arc::new(Zeroizing::new(random_bytes(entropy))),
        }
    }

    /// Starts a new term and returns its number.
    pub fn rotate(&mut self, entropy: &dyn Entropy) -> u32 {
        self.current += 1;
        self.terms
            .insert(self.current, Arc::new(TermKey::generate(entropy)));
        self.current
    }

    /// The term new values are sealed under.
    pub const fn current_term(&self) -> u32 {
        self.current
    }

    /// The oldest term that still opens.
    pub fn oldest_term(&self) -> u32 {
        self.terms
            .first_key_value()
            .map_or(self.current, |(term, _)| *term)
    }

    /// Forgets all terms before `term`, never the current one. Whatever is still sealed under them is lost:
    /// reseal first.
    pub fn retire_before(&mut self, term: u32) {
        self.terms = self.terms.split_off(&term.min(self.current));
    }

    /// Seals `plain` under the current term, bound to `aad`: it opens only with the same `aad`.
    pub fn seal(&self, entropy: &dyn Entropy, aad: &[u8], plain: &[u8]) -> Vec<u8> {
        match self.terms.get(&self.current) {
            Some(key) => key.seal(self.current, entropy, aad, plain),
            // No keyring is made without its current term; a value must never leave unsealed.
            None => std::process::abort(),
        }
    }

    /// Opens what [`seal`](Self::seal) made under any term that is not retired.
    pub fn open(&self, aad: &[u8], sealed: &[u8]) -> Result<Vec<u8>, OpenError> {
        let term = term_of(sealed)?;
        self.terms
            .get(&term)
            .ok_or(OpenError::UnknownTerm(term))?
            .open(aad, sealed)
    }

    /// A keyed hash of `value` for equality lookups: the same for the same `context` and `value` through all
    /// rotations, and meaningless without the keyring.
    pub fn blind(&self, context: &[u8], value: &[u8]) -> [u8; 32] {
        let mut message = Vec::with_capacity(8 + context.len() + value.len());
        // The length keeps ("ab", "c") and ("a", "bc") apart.
        message.extend((context.len() as u64).to_be_bytes());
        message.extend(context);
        message.extend(value);
        hmac_sha256(self.blind.as_slice(), &message)
    }

    /// The keyring sealed under the root key, for storage.
    pub fn wrap(&self, root: &RootKey, entropy: &dyn Entropy) -> Vec<u8> {
        let mut plain = Zeroizing::new(Vec::with_capacity(32 + self.terms.len() * 36));
        plain.extend(self.blind.iter());
        for (term, key) in &self.terms {
            plain.extend(term.to_be_bytes());
            plain.extend(key.bytes.iter());
        }
        root.wrapping_key().seal(0, entropy, KEYRING_LABEL, &plain)
    }

    /// Opens what [`wrap`](Self::wrap) made.
    pub fn unwrap(root: &RootKey, wrapped: &[u8]) -> Result<Self, OpenError> {
        let plain = Zeroizing::new(root.wrapping_key().open(KEYRING_LABEL, wrapped)?);
        let (blind, terms) = plain
            .split_first_chunk::<32>()
            .ok_or(OpenError::Malformed)?;
        let (terms, rest) = terms.as_chunks::<36>();
        if !rest.is_empty() {
            return Err(OpenError::Malformed);
        }
        let terms: BTreeMap<u32, Arc<TermKey>> = terms
            .iter()
            .filter_map(|entry| {
                let (term, key) = entry.split_first_chunk::<4>()?;
                let key = Zeroizing::new(<[u8; 32]>::try_from(key).ok()?);
                Some((u32::from_be_bytes(*term), Arc::new(TermKey::new(key))))
            })
            .collect();
        let current = *terms.last_key_value().ok_or(OpenError::Malformed)?.0;
        Ok(Self {
            terms,
            current,
            blind: Arc::new(Zeroizing::new(*blind)),
        })
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Keyring")
            .field("terms", &self.terms.keys().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

/// The key of one term.
struct TermKey {
    bytes: Zeroizing<[u8; 32]>,
    cipher: LessSafeKey,
}

impl TermKey {
    fn new(bytes: Zeroizing<[u8; 32]>) -> Self {
        let cipher = LessSafeKey::new(or_abort(UnboundKey::new(&AES_256_GCM, bytes.as_slice())));
        Self { bytes, cipher }
    }

    fn generate(entropy: &dyn Entropy) -> Self {
        Self::new(Zeroizing::new(random_bytes(entropy)))
    }

    fn seal(&self, term: u32, entropy: &dyn Entropy, aad: &[u8], plain: &[u8]) -> Vec<u8> {
        let nonce: [u8; NONCE_BYTES] = random_bytes(entropy);
        let mut envelope = Vec::with_capacity(plain.len() + SEAL_OVERHEAD);
        envelope.push(VERSION);
        envelope.extend(term.to_be_bytes());
        let aad = Aad::from([&envelope, aad].concat());
        envelope.extend(nonce);
        let header = envelope.len();
        envelope.extend_from_slice(plain);
        let (_, body) = envelope.split_at_mut(header);
        let nonce = Nonce::assume_unique_for_key(nonce);
        // Fails above 2^36 bytes only.
        let tag = or_abort(self.cipher.seal_in_place_separate_tag(nonce, aad, body));
        envelope.extend(tag.as_ref());
        envelope
    }

    fn open(&self, aad: &[u8], envelope: &[u8]) -> Result<Vec<u8>, OpenError> {
        let (header, rest) = envelope
            .split_first_chunk::<5>()
            .ok_or(OpenError::Malformed)?;
        let (nonce, body) = rest
            .split_first_chunk::<NONCE_BYTES>()
            .ok_or(OpenError::Malformed)?;
        term_of(envelope)?;
        let mut plain = body.to_vec();
        let aad = Aad::from([header.as_slice(), aad].concat());
        let length = self
            .cipher
            .open_in_place(Nonce::assume_unique_for_key(*nonce), aad, &mut plain)
            .map_err(|_| OpenError::Refused)?
            .len();
        plain.truncate(length);
        Ok(plain)
    }
}

/// The term an envelope names, not yet authenticated.
fn term_of(envelope: &[u8]) -> Result<u32, OpenError> {
    match envelope.split_first_chunk::<5>() {
        Some((&[VERSION, a, b, c, d], rest)) if rest.len() >= NONCE_BYTES + TAG_BYTES => {
            Ok(u32::from_be_bytes([a, b, c, d]))
        }
        _ => Err(OpenError::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use testudo_testkit::SeededEntropy;

    use super::*;

    #[test]
    fn the_check_value_tells_keys_apart_without_being_the_key() {
        let (one, other) = (RootKey::from_bytes([1; 32]), RootKey::from_bytes([2; 32]));
        assert_ne!(one.check_value(), other.check_value());
        assert_eq!(
            one.check_value(),
            RootKey::from_bytes([1; 32]).check_value()
        );
        assert_eq!(format!("{one:?}"), "RootKey(<redacted>)");
    }

    /// The forms at rest hang on the labels: HMAC-SHA-256 computed elsewhere, cut to 16 bytes.
    #[test]
    fn the_check_value_is_derived_under_its_label() {
        let check = RootKey::from_bytes([7; 32]).check_value();
        assert_eq!(
            crate::hex::encode(&check),
            "bddcbea9c68d1eda7e16edcc07b31d8c"
        );
        for label in [KEYRING_LABEL, KEY_CHECK_LABEL, KEY_WRAP_LABEL] {
            assert!(!label.contains(&b'/'), "a label is no path");
        }
    }

    #[test]
    fn a_rotated_keyring_opens_old_values_until_their_term_is_retired() {
        let entropy = SeededEntropy::new(1);
        let mut keyring = Keyring::new(&*entropy);
        let old = keyring.seal(&*entropy, b"place", b"value");
        assert_eq!(keyring.rotate(&*entropy), 2);
        let new = keyring.seal(&*entropy, b"place", b"value");
        assert_eq!(keyring.open(b"place", &old).unwrap(), b"value");
        keyring.retire_before(2);
        assert_eq!(keyring.open(b"place", &old), Err(OpenError::UnknownTerm(1)));
        assert_eq!(keyring.open(b"place", &new).unwrap(), b"value");
        keyring.retire_before(99);
        assert_eq!(keyring.open(b"place", &new).unwrap(), b"value");
    }

    #[test]
    fn a_wrapped_keyring_opens_with_its_root_key_only() {
        let entropy = SeededEntropy::new(2);
        let (root, other) = (RootKey::generate(&*entropy), RootKey::generate(&*entropy));
        let mut keyring = Keyring::new(&*entropy);
        let first = keyring.seal(&*entropy, b"", b"first");
        keyring.rotate(&*entropy);
        let wrapped = keyring.wrap(&root, &*entropy);
        let again = Keyring::unwrap(&root, &wrapped).unwrap();
        assert_eq!(again.current_term(), 2);
        assert_eq!(again.open(b"", &first).unwrap(), b"first");
        assert_eq!(again.blind(b"a", b"b"), keyring.blind(b"a", b"b"));
        assert_eq!(
            Keyring::unwrap(&other, &wrapped).unwrap_err(),
            OpenError::Refused
        );
        assert!(Keyring::unwrap(&root, &wrapped[..wrapped.len() - 1]).is_err());
    }

    #[test]
    fn equal_values_seal_differently_and_blind_equally() {
        let entropy = SeededEntropy::new(3);
        let mut keyring = Keyring::new(&*entropy);
        assert_ne!(
            keyring.seal(&*entropy, b"", b"x"),
            keyring.seal(&*entropy, b"", b"x")
        );
        let before = keyring.blind(b"users", b"anna");
        keyring.rotate(&*entropy);
        assert_eq!(keyring.blind(b"users", b"anna"), before);
        assert_ne!(keyring.blind(b"users", b"ben"), before);
        assert_ne!(keyring.blind(b"user", b"sanna"), before);
        assert_ne!(Keyring::new(&*entropy).blind(b"users", b"anna"), before);
    }

    proptest! {
        #[test]
        fn opening_is_the_inverse_of_sealing(aad: Vec<u8>, plain: Vec<u8>, seed: u64) {
            let entropy = SeededEntropy::new(seed);
            let keyring = Keyring::new(&*entropy);
            let sealed = keyring.seal(&*entropy, &aad, &plain);
            prop_assert_eq!(sealed.len(), plain.len() + SEAL_OVERHEAD);
            prop_assert_eq!(keyring.open(&aad, &sealed), Ok(plain));
        }

        #[test]
        fn a_flipped_bit_anywhere_is_refused(
            plain: Vec<u8>, at in any::<proptest::sample::Index>(), bit in 0u8..8,
        ) {
            let entropy = SeededEntropy::new(4);
            let keyring = Keyring::new(&*entropy);
            let mut sealed = keyring.seal(&*entropy, b"place", &plain);
            let at = at.index(sealed.len());
            sealed[at] ^= 1 << bit;
            prop_assert!(keyring.open(b"place", &sealed).is_err());
        }

        #[test]
        fn another_place_and_any_other_bytes_are_refused(aad: Vec<u8>, noise: Vec<u8>) {
            prop_assume!(aad != b"place");
            let entropy = SeededEntropy::new(5);
            let keyring = Keyring::new(&*entropy);
            let sealed = keyring.seal(&*entropy, b"place", b"value");
            prop_assert_eq!(keyring.open(&aad, &sealed), Err(OpenError::Refused));
            prop_assert!(keyring.open(b"place", &noise).is_err());
        }
    }
}
