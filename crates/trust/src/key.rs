//! The private keys of the house: ECDSA on P-256 with SHA-256, which is ES256 in a token and
//! `ecdsa_secp256r1_sha256` in a certificate or a handshake. What else there is, is in `rsa_key`.

use std::{fmt, sync::Arc};

use aws_lc_rs::{
    encoding::AsDer,
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING,
        EcdsaKeyPair, KeyPair, ParsedPublicKey,
    },
};
use testudo_model::Redacted;
use zeroize::Zeroizing;

use crate::{entropy::or_abort, jose::thumbprint};

/// Bytes of a signature as JOSE writes it: `r || s` (RFC 7518 section 3.4).
pub const SIGNATURE_BYTES: usize = 64;

/// The bytes are not the PKCS#8 form of a key of the kind that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a PKCS#8 private key of this kind")]
pub struct InvalidKey;

/// A P-256 private key. Clones share it; it is wiped from memory with the last.
#[derive(Clone)]
pub struct SigningKey(Arc<Inner>);

struct Inner {
    pkcs8: Zeroizing<Vec<u8>>,
    /// Signs as `r || s`.
    fixed: EcdsaKeyPair,
    /// Signs as DER, for certificates.
    asn1: EcdsaKeyPair,
    key_id: String,
}

impl SigningKey {
    /// A new key from the operating system's randomness.
    pub fn generate() -> Self {
        let fixed = or_abort(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING));
        let pkcs8 = Zeroizing::new(or_abort(fixed.to_pkcs8v1()).as_ref().to_vec());
        // It can read what it has just written, unless its memory is broken.
        Self::from_pkcs8(&pkcs8).unwrap_or_else(|InvalidKey| std::process::abort())
    }

    /// A key that [`to_pkcs8`](Self::to_pkcs8) wrote.
    pub fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, InvalidKey> {
        let read = |algorithm| EcdsaKeyPair::from_pkcs8(algorithm, pkcs8).map_err(|_| InvalidKey);
        let fixed = read(&ECDSA_P256_SHA256_FIXED_SIGNING)?;
        let asn1 = read(&ECDSA_P256_SHA256_ASN1_SIGNING)?;
        let point =
            PublicPoint::from_uncompressed(fixed.public_key().as_ref()).ok_or(InvalidKey)?;
        let key_id = thumbprint(&point);
        Ok(Self(Arc::new(Inner {
            pkcs8: Zeroizing::new(pkcs8.to_vec()),
            fixed,
            asn1,
            key_id,
        })))
    }

    /// The key in PKCS#8 DER, to be sealed.
    pub fn to_pkcs8(&self) -> Redacted<Vec<u8>> {
        Redacted::new(self.0.pkcs8.to_vec())
    }

    /// Name of the key: its JWK thumbprint (RFC 7638).
    pub fn key_id(&self) -> &str {
        &self.0.key_id
    }

    /// Signs `message`: 64 bytes, `r || s`.
    pub fn sign_raw(&self, message: &[u8]) -> Vec<u8> {
        or_abort(self.0.fixed.sign(&SystemRandom::new(), message))
            .as_ref()
            .to_vec()
    }

    /// Signs `message` as X.509 wants it, in DER.
    pub(crate) fn sign_der(&self, message: &[u8]) -> Vec<u8> {
        or_abort(self.0.asn1.sign(&SystemRandom::new(), message))
            .as_ref()
            .to_vec()
    }

    /// The public point, uncompressed: `4 || x || y`.
    pub(crate) fn public_point(&self) -> &[u8] {
        self.0.fixed.public_key().as_ref()
    }

    /// The public key as SubjectPublicKeyInfo in DER (RFC 5480).
    pub fn public_der(&self) -> Vec<u8> {
        let der = self.0.fixed.public_key().as_der();
        or_abort(der).as_ref().to_vec()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "SigningKey({})", self.0.key_id)
    }
}

/// A public point on P-256, checked to be on the curve.
#[derive(Debug, Clone)]
pub(crate) struct PublicPoint {
    x: [u8; 32],
    y: [u8; 32],
    key: Arc<ParsedPublicKey>,
}

impl PublicPoint {
    pub(crate) fn from_uncompressed(point: &[u8]) -> Option<Self> {
        let (x, y) = point.strip_prefix(&[4])?.split_first_chunk::<32>()?;
        Self::from_coordinates(*x, y.try_into().ok()?)
    }

    pub(crate) fn from_coordinates(x: [u8; 32], y: [u8; 32]) -> Option<Self> {
        let bytes = [[4].as_slice(), &x, &y].concat();
        let key = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, bytes).ok()?;
        Some(Self {
            x,
            y,
            key: Arc::new(key),
        })
    }

    pub(crate) const fn x(&self) -> &[u8; 32] {
        &self.x
    }

    pub(crate) const fn y(&self) -> &[u8; 32] {
        &self.y
    }

    /// Whether `signature` (`r || s`, exactly 64 bytes) is this key's over `message`.
    pub(crate) fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        signature.len() == SIGNATURE_BYTES && self.key.verify_sig(message, signature).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_storage_and_does_not_print() {
        let key = SigningKey::generate();
        let again = SigningKey::from_pkcs8(key.to_pkcs8().expose()).unwrap();
        assert_eq!(again.key_id(), key.key_id());
        assert_eq!(format!("{key:?}"), format!("SigningKey({})", key.key_id()));
        assert_eq!(
            SigningKey::from_pkcs8(b"not a key").unwrap_err(),
            InvalidKey
        );
    }

    #[test]
    fn a_signature_verifies_for_its_message_and_key_only() {
        let key = SigningKey::generate();
        let point = PublicPoint::from_uncompressed(key.public_point()).unwrap();
        let other = SigningKey::generate();
        let signature = key.sign_raw(b"message");
        assert!(point.verify(b"message", &signature));
        assert!(!point.verify(b"massage", &signature));
        assert!(!point.verify(b"message", &other.sign_raw(b"message")));
        assert!(
            !point.verify(b"message", &key.sign_der(b"message")),
            "DER is not r || s"
        );
        assert!(!point.verify(b"message", &[0; 64]), "r = s = 0");
        assert!(!point.verify(b"message", &[signature.as_slice(), &[0]].concat()));
    }

    #[test]
    fn a_point_off_the_curve_is_no_key() {
        assert!(PublicPoint::from_coordinates([1; 32], [1; 32]).is_none());
        assert!(PublicPoint::from_uncompressed(&[4; 64]).is_none());
    }
}
