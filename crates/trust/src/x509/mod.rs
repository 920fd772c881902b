//! Certificates as identities: the X.509-SVID specification of SPIFFE, and nothing looser.
//!
//! * `profile`: what a leaf and a signing certificate must look like;
//! * `authority`: a CA that issues them;
//! * `svid`: an identity with its key;
//! * `bundle`: the roots of a trust domain, and the verification of chains against them;
//! * `signers`: what was verified and still holds;
//! * `attestation`: certificates of authenticators, which are none of the above.

mod attestation;
mod authority;
mod bundle;
mod profile;
mod signers;
mod svid;

pub use attestation::{AttestationRoots, verify_packed_attestation};
pub use authority::CertificateAuthority;
pub use bundle::TrustBundle;
pub(crate) use profile::public_point;
pub(crate) use signers::Signer;
pub(crate) use svid::certified_key;
pub use svid::{Svid, SvidKey};
use testudo_model::{InvalidSpiffeId, SpiffeId, Timestamp, TrustDomain};

use crate::{base64url, sha256};

/// Certificates in a chain, leaf and root included. Ours have one or two; a deeper one costs a verifier a
/// signature check a level before it knows who is calling.
pub const MAX_CHAIN: usize = 4;
/// Largest certificate or request in DER. Ours have about 500 bytes.
pub const MAX_CERTIFICATE_BYTES: usize = 16 * 1024;

/// Why a certificate, chain or request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum X509Error {
    /// More bytes than [`MAX_CERTIFICATE_BYTES`].
    #[error("a certificate has more than {MAX_CERTIFICATE_BYTES} bytes")]
    TooLarge,
    /// No certificate at all, or more than [`MAX_CHAIN`].
    #[error("a chain has 1 to {MAX_CHAIN} certificates, this one has {0}")]
    ChainLength(usize),
    /// Not one DER certificate or request, or an extension appears twice.
    #[error("not a well-formed {0} in DER")]
    Malformed(&'static str),
    /// Breaks a rule of the X.509-SVID specification; the text names the rule.
    #[error("breaks the X.509-SVID profile: {0}")]
    Profile(&'static str),
    /// Its one URI is not a SPIFFE id.
    #[error("the URI name is not a SPIFFE id")]
    SpiffeId(#[source] InvalidSpiffeId),
    /// An identity of another trust domain than the one asked.
    #[error("`{found}` is not in the trust domain `{expected}`")]
    ForeignTrustDomain {
        /// The identity.
        found: SpiffeId,
        /// The trust domain of the bundle or CA.
        expected: TrustDomain,
    },
    /// A valid identity, but not the one that was to answer.
    #[error("`{0}` is not the expected peer")]
    UnexpectedPeer(SpiffeId),
    /// Past its end, or the end of its issuer.
    #[error("the certificate or its issuer has expired")]
    Expired,
    /// Before its start, or the start of its issuer.
    #[error("the certificate or its issuer is not valid yet")]
    NotYetValid,
    /// The chain does not lead to a root of the bundle: an unknown issuer, a bad signature, a broken
    /// constraint.
    #[error("no valid path to a root of the trust bundle")]
    Untrusted(#[source] webpki::Error),
    /// The chain does not end in the pinned root.
    #[error("the peer's root is not the pinned one; get a new join token if the CA was replaced")]
    PinMismatch,
    /// Any key but P-256.
    #[error("the key is not on P-256")]
    UnsupportedKey,
    /// The key is not the certificate's.
    #[error("the private key does not belong to the certificate")]
    KeyMismatch,
    /// The request is not signed with the key it is for.
    #[error("the request is not signed with its own key")]
    RequestSignature,
    /// Not a host name that a certificate can carry.
    #[error("`{0}` is not a host name")]
    HostName(String),
    /// A time no certificate can carry, or the CA is at its end.
    #[error("no certificate can be valid from now on for that long")]
    Lifetime,
    /// A bundle document that is not a SPIFFE bundle with X.509 roots.
    #[error("not a SPIFFE bundle: {0}")]
    Bundle(&'static str),
    /// Breaks a rule for certificates of authenticators (WebAuthn section 8.2.1); the text names it.
    #[error("not the certificate of this authenticator: {0}")]
    Attestation(&'static str),
    /// The certificate could not be written.
    #[error("the certificate cannot be written")]
    Issue(#[source] rcgen::Error),
}

/// The identity in a leaf certificate. It says what the certificate *claims*: only
/// [`TrustBundle::verify_svid`] or a finished handshake makes it true.
///
/// Errors: the leaf is not an X.509-SVID.
pub fn spiffe_id_of(certificate_der: &[u8]) -> Result<SpiffeId, X509Error> {
    profile::leaf(certificate_der).map(|leaf| leaf.id)
}

/// `notBefore` and `notAfter` of a certificate.
pub fn certificate_times(certificate_der: &[u8]) -> Result<(Timestamp, Timestamp), X509Error> {
    profile::parse(certificate_der).map(|certificate| profile::times(&certificate))
}

/// SHA-256 of the certificate, base64url: `x5t#S256` (RFC 7515 section 4.1.8, RFC 8705 section 3.1).
pub fn certificate_thumbprint(certificate_der: &[u8]) -> String {
    base64url::encode(&sha256(certificate_der))
}

/// Whether `signature` (64 bytes, `r || s`) is over `message` by the key of this certificate. Says nothing
/// about the certificate itself.
pub fn verify_signature(certificate_der: &[u8], message: &[u8], signature: &[u8]) -> bool {
    public_point(certificate_der).is_ok_and(|key| key.verify(message, signature))
}
