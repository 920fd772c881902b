//! What a leaf and a signing certificate must look like (X.509-SVID specification sections 2 to 4).
//!
//! Path validation proper (signatures, times, path length, unknown critical extensions) is `bundle`'s; here
//! is what it does not look at.

use testudo_model::{SpiffeId, Timestamp, TrustDomain};
use x509_parser::{
    certificate::X509Certificate,
    extensions::{GeneralName, KeyUsage},
    prelude::{FromDer, X509Version},
    x509::SubjectPublicKeyInfo,
};

use super::{MAX_CERTIFICATE_BYTES, X509Error};
use crate::key::PublicPoint;

/// SubjectPublicKeyInfo of a P-256 key up to the point (RFC 5480): the one form DER allows.
const P256_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// What is worth knowing of a leaf that keeps to the profile.
#[derive(Debug)]
pub(super) struct Leaf {
    pub(super) id: SpiffeId,
    pub(super) not_before: Timestamp,
    pub(super) not_after: Timestamp,
}

/// Reads one certificate, version 3, with no extension twice and nothing behind it.
pub(super) fn parse(der: &[u8]) -> Result<X509Certificate<'_>, X509Error> {
    if der.len() > MAX_CERTIFICATE_BYTES {
        return Err(X509Error::TooLarge);
    }
    let malformed = X509Error::Malformed("certificate");
    match X509Certificate::from_der(der) {
        Ok(([], certificate))
            if certificate.version() == X509Version::V3 && certificate.extensions_map().is_ok() =>
        {
            Ok(certificate)
        }
        _ => Err(malformed),
    }
}

/// Reads an end-entity certificate and checks it against the profile.
pub(super) fn leaf(der: &[u8]) -> Result<Leaf, X509Error> {
    let certificate = parse(der)?;
    if certificate.is_ca() {
        return Err(X509Error::Profile(
            "a CA certificate identifies no workload",
        ));
    }
    let usage = key_usage(&certificate)?;
    if !usage.digital_signature() {
        return Err(X509Error::Profile(
            "keyUsage of a leaf must have digitalSignature",
        ));
    }
    if usage.key_cert_sign() || usage.crl_sign() {
        return Err(X509Error::Profile(
            "keyUsage of a leaf must not have keyCertSign or cRLSign",
        ));
    }
    let purposes = certificate
        .extended_key_usage()
        .map_err(|_| X509Error::Malformed("extendedKeyUsage"))?;
    if purposes.is_some_and(|usage| !usage.value.server_auth || !usage.value.client_auth) {
        return Err(X509Error::Profile(
            "extendedKeyUsage must have both serverAuth and clientAuth",
        ));
    }
    let id = uri_name(&certificate)?.ok_or(X509Error::Profile("a leaf must have one URI name"))?;
    if id.path().is_empty() {
        return Err(X509Error::Profile(
            "the SPIFFE id of a leaf must have a path",
        ));
    }
    if !certificate.public_key().raw.starts_with(&P256_PREFIX) {
        return Err(X509Error::UnsupportedKey);
    }
    let (not_before, not_after) = times(&certificate);
    Ok(Leaf {
        id,
        not_before,
        not_after,
    })
}

/// What is worth knowing of a certificate that signs others.
#[derive(Debug, Clone)]
pub(super) struct Signing {
    /// The trust domain it names, if it names one.
    pub(super) domain: Option<TrustDomain>,
    pub(super) not_before: Timestamp,
    pub(super) not_after: Timestamp,
    /// How many intermediates may stand below it; no limit if absent.
    pub(super) path_length: Option<u32>,
}

/// Reads a root or intermediate certificate and checks it against the profile.
pub(super) fn signing(der: &[u8]) -> Result<Signing, X509Error> {
    let certificate = parse(der)?;
    if !certificate.is_ca() {
        return Err(X509Error::Profile("a signing certificate must be a CA"));
    }
    if !key_usage(&certificate)?.key_cert_sign() {
        return Err(X509Error::Profile(
            "keyUsage of a signing certificate must have keyCertSign",
        ));
    }
    // Section 3.2: it may have an id, and then it is the trust domain's own.
    let id = uri_name(&certificate)?;
    if id.as_ref().is_some_and(|id| !id.path().is_empty()) {
        return Err(X509Error::Profile(
            "the SPIFFE id of a signing certificate must have no path",
        ));
    }
    let (not_before, not_after) = times(&certificate);
    let constraints = certificate
        .basic_constraints()
        .map_err(|_| X509Error::Malformed("basicConstraints"))?;
    Ok(Signing {
        domain: id.map(|id| id.trust_domain()),
        not_before,
        not_after,
        path_length: constraints.and_then(|extension| extension.value.path_len_constraint),
    })
}

/// The same for a certificate that is to sign in `domain`: it names that domain or none.
pub(super) fn signing_in(der: &[u8], domain: &TrustDomain) -> Result<Signing, X509Error> {
    let signing = signing(der)?;
    match &signing.domain {
        Some(named) if named != domain => Err(X509Error::Profile(
            "a signing certificate must be of the trust domain it signs in",
        )),
        _ => Ok(signing),
    }
}

/// The public key of a certificate.
pub(crate) fn public_point(der: &[u8]) -> Result<PublicPoint, X509Error> {
    point_of(parse(der)?.public_key())
}

/// The P-256 point in a SubjectPublicKeyInfo.
pub(super) fn point_of(key: &SubjectPublicKeyInfo<'_>) -> Result<PublicPoint, X509Error> {
    let point = key.raw.strip_prefix(&P256_PREFIX);
    point
        .and_then(PublicPoint::from_uncompressed)
        .ok_or(X509Error::UnsupportedKey)
}

/// `notBefore` and `notAfter`.
pub(super) fn times(certificate: &X509Certificate<'_>) -> (Timestamp, Timestamp) {
    let validity = certificate.validity();
    (
        Timestamp::from_unix_seconds(validity.not_before.timestamp()),
        Timestamp::from_unix_seconds(validity.not_after.timestamp()),
    )
}

fn key_usage<'c>(certificate: &'c X509Certificate<'_>) -> Result<&'c KeyUsage, X509Error> {
    match certificate.key_usage() {
        Ok(Some(usage)) if usage.critical => Ok(usage.value),
        Ok(_) => Err(X509Error::Profile("keyUsage must be present and critical")),
        Err(_) => Err(X509Error::Malformed("keyUsage")),
    }
}

/// The one URI name. *One*: where some verifiers take the first of several and others any, an attacker who
/// gets a certificate with two is two workloads.
fn uri_name(certificate: &X509Certificate<'_>) -> Result<Option<SpiffeId>, X509Error> {
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| X509Error::Malformed("subjectAltName"))?
        .map(|extension| extension.value.general_names.as_slice())
        .unwrap_or_default();
    let mut uri = None;
    for name in names {
        match name {
            GeneralName::URI(_) if uri.is_some() => {
                return Err(X509Error::Profile(
                    "a certificate must have no more than one URI name",
                ));
            }
            GeneralName::URI(text) => uri = Some(text.parse().map_err(X509Error::SpiffeId)?),
            // A NUL cuts the name short for whoever reads it in C.
            GeneralName::DNSName(text) | GeneralName::RFC822Name(text) if text.contains('\0') => {
                return Err(X509Error::Profile("a name must not contain NUL"));
            }
            GeneralName::Invalid(..) => return Err(X509Error::Malformed("subjectAltName")),
            _ => {}
        }
    }
    Ok(uri)
}
