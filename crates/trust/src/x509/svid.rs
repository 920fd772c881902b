//! An identity and the key that proves it.

use std::{fmt, sync::Arc};

use rcgen::{CertificateParams, DistinguishedName, SanType};
use rustls::{
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    sign::CertifiedKey,
};
use testudo_model::{SpiffeId, Timestamp};

use super::{MAX_CHAIN, X509Error, profile};
use crate::SigningKey;

/// The key of an SVID is an ES256 key: the same that signs transaction tokens and event blocks.
pub type SvidKey = SigningKey;

impl SigningKey {
    /// A certificate request (PKCS#10, DER) for `id`. The CA decides which identity it certifies; the name in
    /// the request is for whoever reads it.
    pub fn csr_der(&self, id: &SpiffeId) -> Result<Vec<u8>, X509Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let uri = id.as_str().try_into().map_err(X509Error::Issue)?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        let request = params.serialize_request(self).map_err(X509Error::Issue)?;
        Ok(request.der().to_vec())
    }
}

impl rcgen::PublicKeyData for SigningKey {
    fn der_bytes(&self) -> &[u8] {
        self.public_point()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for SigningKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(self.sign_der(message))
    }
}

/// An X.509-SVID with its private key, ready to be presented.
#[derive(Clone)]
pub struct Svid {
    id: SpiffeId,
    chain: Vec<Vec<u8>>,
    key: SvidKey,
    not_before: Timestamp,
    not_after: Timestamp,
    certified: Arc<CertifiedKey>,
}

impl Svid {
    /// Joins a chain (leaf first, DER) and its key.
    ///
    /// Errors: the leaf breaks the profile, or the key is not its key. Whether anybody trusts the chain is
    /// for a [`TrustBundle`](super::TrustBundle) to say.
    pub fn new(chain: Vec<Vec<u8>>, key: SvidKey) -> Result<Self, X509Error> {
        if chain.len() > MAX_CHAIN {
            return Err(X509Error::ChainLength(chain.len()));
        }
        let leaf_der = chain.first().ok_or(X509Error::ChainLength(0))?;
        let leaf = profile::leaf(leaf_der)?;
        if profile::parse(leaf_der)?.public_key().raw != key.public_der() {
            return Err(X509Error::KeyMismatch);
        }
        let certified = Arc::new(certified_key(&chain, &key)?);
        let profile::Leaf {
            id,
            not_before,
            not_after,
        } = leaf;
        Ok(Self {
            id,
            chain,
            key,
            not_before,
            not_after,
            certified,
        })
    }

    /// Who it identifies.
    pub const fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The certificates, leaf first, in DER.
    pub fn chain(&self) -> &[Vec<u8>] {
        &self.chain
    }

    /// The private key, also for transaction tokens ([`SigningKey::sign_jwt_x5c`]).
    pub const fn key(&self) -> &SvidKey {
        &self.key
    }

    /// Start of validity.
    pub const fn not_before(&self) -> Timestamp {
        self.not_before
    }

    /// End of validity.
    pub const fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// Signs `message` as this identity: 64 bytes, `r || s`.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.key.sign_raw(message)
    }

    /// Chain and key as rustls presents them.
    pub(crate) const fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }
}

impl fmt::Debug for Svid {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Svid({} until {})", self.id, self.not_after)
    }
}

/// Chain and key for rustls.
pub(crate) fn certified_key(
    chain: &[Vec<u8>],
    key: &SigningKey,
) -> Result<CertifiedKey, X509Error> {
    let pkcs8 = key.to_pkcs8().into_exposed();
    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8));
    let signer = rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&private)
        .map_err(|_| X509Error::UnsupportedKey)?;
    let chain = chain
        .iter()
        .map(|der| CertificateDer::from(der.clone()))
        .collect();
    Ok(CertifiedKey::new(chain, signer))
}
