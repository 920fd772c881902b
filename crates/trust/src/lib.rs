//! Cryptography for the house. The only crate that names a crypto library, and small enough to read in one
//! sitting; nothing here knows a network, a database or the time of day.
//!
//! # The tour
//!
//! **Raw material.** [`SystemEntropy`] is the real source of `model::Entropy`. [`sha256`], [`hmac_sha256`],
//! [`constant_time_eq`], [`hex`] and [`base64url`] are what everybody needs; each text has one decoding.
//!
//! **At rest.** A [`RootKey`] from outside wraps a [`Keyring`], and the keyring seals values (AES-256-GCM)
//! under a *term* that rotates, and blinds lookup keys. A sealed value opens only in the place (`aad`) it was
//! sealed for.
//!
//! **In the log.** `merkle` hashes, grows and proves trees (RFC 6962); [`NoteSigner`], [`NoteVerifier`] and
//! [`Checkpoint`] sign their roots as C2SP notes that a stranger's tool reads.
//!
//! **As tokens.** [`SigningKey`] writes and [`JwkSet`] with [`verify_jwt`] reads ES256 tokens, and no others;
//! [`RsaSigningKey`] writes RS256 for relying parties that read nothing else.
//! [`verify_jwt_x5c`] reads those signed by a workload with its SVID, [`verify_client_assertion`] those a client proves
//! itself with, [`verify_jwt_of_own_key`] those that prove the possession of a key. [`DpopProof`] is such a proof for one
//! request, and [`ProofMemory`] knows whether it is new.
//!
//! **As API keys.** An [`ApiKeyText`] is one as it is written, with a checksum; what is kept is its digest.
//!
//! **As passkeys.** A [`CoseKey`] reads the key of an authenticator and verifies what it signed; [`Cbor`] is what such
//! things are written in. [`verify_packed_attestation`] and [`AttestationRoots`] say whether a maker vouches for it.
//!
//! **As identities.** A [`CertificateAuthority`] issues X.509-SVIDs; a [`Svid`] is one with its key; a
//! [`TrustBundle`] says whether a chain proves an identity. One URI name exactly, no CA as a leaf, no
//! intermediate without `keyCertSign`, no expired root: `x509` holds the whole profile.
//!
//! **On the wire.** An [`IdentitySource`] holds the current SVID and bundle; [`mesh_server_config`] and
//! [`mesh_client_config`] make rustls use them, handshake by handshake. [`pinned_client_config`] is the first
//! contact. [`web_server_config`] is for the public side.
//!
//! **For people.** [`hash_password`], [`verify_password`] and [`dummy_verify`] are argon2id.

mod aead;
mod api_key;
mod cbor;
mod cose;
mod dpop;
mod encoding;
mod entropy;
mod hash;
mod jose;
mod key;
mod key_file;
pub mod merkle;
mod note;
mod password;
mod pbkdf2;
mod rsa_key;
mod tls;
mod x509;

pub use aead::{Keyring, OpenError, RootKey, SEAL_OVERHEAD};
pub use api_key::ApiKeyText;
pub use cbor::{Cbor, CborError, MAX_CBOR_BYTES};
pub use cose::{CoseAlgorithm, CoseError, CoseKey};
pub use dpop::{DpopProof, DpopProofError, Novelty, ProofMemory};
pub use encoding::{base64url, hex};
pub use entropy::SystemEntropy;
pub use hash::{constant_time_eq, hmac_sha1_otp, hmac_sha256, sha1_checksum, sha256};
pub use jose::{
    ForeignKeySet, JoseError, JwkSet, check_times, verify_client_assertion, verify_foreign_jwt,
    verify_jwt, verify_jwt_of_own_key, verify_jwt_x5c,
};
pub use key::{InvalidKey, SIGNATURE_BYTES, SigningKey};
pub use key_file::{KeyFileError, load_or_create_root_key, load_root_key};
pub use note::{Checkpoint, NoteError, NoteSigner, NoteVerifier};
pub use password::{dummy_verify, hash_password, is_password_hash, needs_rehash, verify_password};
pub use rsa_key::RsaSigningKey;
pub use tls::{
    ExpectedPeer, IdentitySource, PeerAuth, TlsError, WebCertificate, install_crypto_provider,
    mesh_client_config, mesh_server_config, mesh_server_name, outbound_client_config,
    peer_identity, pinned_client_config, web_client_config, web_server_config,
    web_server_config_for_peers,
};
pub use x509::{
    AttestationRoots, CertificateAuthority, MAX_CERTIFICATE_BYTES, MAX_CHAIN, Svid, SvidKey,
    TrustBundle, X509Error, certificate_thumbprint, certificate_times, spiffe_id_of,
    verify_packed_attestation, verify_signature,
};

#[cfg(test)]
mod tests;
