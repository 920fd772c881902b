//! The roots of a trust domain and what they vouch for.

use std::{fmt, sync::Arc, time::Duration};

use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime, pem::PemObject};
use serde_json::{Value, json};
use testudo_model::{SpiffeId, Timestamp, TrustDomain};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath, anchor_from_trusted_cert};

use super::{
    MAX_CHAIN, Signer, X509Error, certificate_times,
    profile::{self, Signing},
    signers::KnownSigners,
};
use crate::{base64url, encoding::base64, sha256};

/// Roots in a bundle. Two while one is being replaced; more only by mistake.
const MAX_ROOTS: usize = 16;
/// Largest bundle document.
const MAX_BUNDLE_BYTES: usize = 256 * 1024;

/// The root certificates of one trust domain. Several of them while a CA is being replaced: the new one is
/// known everywhere before anything is issued under it, the old one until nothing issued under it lives.
#[derive(Clone)]
pub struct TrustBundle {
    domain: TrustDomain,
    roots: Vec<Vec<u8>>,
    /// What the roots allow, in their order.
    limits: Vec<Signing>,
    anchors: Vec<TrustAnchor<'static>>,
    signers: Arc<KnownSigners>,
}

impl TrustBundle {
    /// A bundle of `roots` (DER) for `domain`.
    ///
    /// Errors: no root or more than 16; one is not a signing certificate on P-256 of this domain.
    pub fn new(domain: TrustDomain, roots: Vec<Vec<u8>>) -> Result<Self, X509Error> {
        if roots.is_empty() || roots.len() > MAX_ROOTS {
            return Err(X509Error::Bundle("it must have 1 to 16 roots"));
        }
        let (mut limits, mut anchors) = (Vec::new(), Vec::new());
        for der in &roots {
            limits.push(profile::signing_in(der, &domain)?);
            profile::public_point(der)?;
            let der = CertificateDer::from(der.as_slice());
            let anchor = anchor_from_trusted_cert(&der);
            anchors.push(
                anchor
                    .map_err(|_| X509Error::Malformed("root certificate"))?
                    .to_owned(),
            );
        }
        Ok(Self {
            domain,
            roots,
            limits,
            anchors,
            signers: Arc::default(),
        })
    }

    /// The trust domain.
    pub const fn trust_domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// The root certificates in DER.
    pub fn roots(&self) -> &[Vec<u8>] {
        &self.roots
    }

    /// SHA-256 of the first root: what a join token pins.
    pub fn sha256(&self) -> [u8; 32] {
        self.roots
            .first()
            .map(|root| sha256(root))
            .unwrap_or_default()
    }

    /// Verifies a chain (leaf first, DER; the root may be in it) at `now` and returns who it identifies.
    ///
    /// Checked are: sizes; the X.509-SVID profile of leaf and intermediates; the trust domain; signatures,
    /// times, path length and critical extensions up to a root of this bundle; the root's own times and path
    /// length.
    pub fn verify_svid(
        &self,
        chain: &[impl AsRef<[u8]>],
        now: Timestamp,
    ) -> Result<SpiffeId, X509Error> {
        self.verify(chain, now, now)
    }

    /// Who signs with the key of a chain, verified as by [`verify_svid`](Self::verify_svid); once, while it holds.
    pub(crate) fn signer(
        &self,
        chain: Vec<Vec<u8>>,
        now: Timestamp,
    ) -> Result<Arc<Signer>, X509Error> {
        if let Some(known) = self.signers.get(&chain, now) {
            return Ok(known);
        }
        let id = self.verify_svid(&chain, now)?;
        let leaf = chain.first().ok_or(X509Error::ChainLength(0))?;
        let key = profile::public_point(leaf)?;
        let signer = Arc::new(Signer { id, key });
        let holds = self.holds(&chain, now)?;
        self.signers.remember(chain, holds, Arc::clone(&signer));
        Ok(signer)
    }

    /// The time in which every certificate of `chain`, and every root that holds now, does.
    fn holds(
        &self,
        chain: &[Vec<u8>],
        now: Timestamp,
    ) -> Result<(Timestamp, Timestamp), X509Error> {
        let roots = self
            .limits
            .iter()
            .map(|root| (root.not_before, root.not_after));
        let holding = roots.filter(|(from, until)| (*from..=*until).contains(&now));
        let certificates = chain.iter().map(|der| certificate_times(der));
        let always = (
            Timestamp::from_unix_seconds(0),
            Timestamp::from_unix_seconds(i64::MAX),
        );
        certificates
            .chain(holding.map(Ok))
            .try_fold(always, |holds, times| {
                let (from, until) = times?;
                Ok((holds.0.max(from), holds.1.min(until)))
            })
    }

    /// As [`verify_svid`](Self::verify_svid), for a leaf that has ended, at most `late` ago: everything else
    /// held at its end, and the root still does.
    pub(crate) fn verify_ended_svid(
        &self,
        chain: &[impl AsRef<[u8]>],
        now: Timestamp,
        late: Duration,
    ) -> Result<SpiffeId, X509Error> {
        let leaf = chain.first().ok_or(X509Error::ChainLength(0))?;
        let (_, ended) = certificate_times(leaf.as_ref())?;
        if now >= ended + late {
            return Err(X509Error::Expired);
        }
        self.verify(chain, ended.min(now), now)
    }

    /// Verifies the path at `at`, the root at `now`.
    fn verify(
        &self,
        chain: &[impl AsRef<[u8]>],
        at: Timestamp,
        now: Timestamp,
    ) -> Result<SpiffeId, X509Error> {
        let (leaf, issuers) = chain.split_first().ok_or(X509Error::ChainLength(0))?;
        if chain.len() > MAX_CHAIN {
            return Err(X509Error::ChainLength(chain.len()));
        }
        let id = profile::leaf(leaf.as_ref())?.id;
        if !id.is_in(&self.domain) {
            return Err(X509Error::ForeignTrustDomain {
                found: id,
                expected: self.domain.clone(),
            });
        }
        for issuer in issuers {
            profile::signing_in(issuer.as_ref(), &self.domain)?;
        }
        let der =
            |certificate: &_| CertificateDer::from(AsRef::<[u8]>::as_ref(certificate).to_vec());
        self.verify_path(
            &der(leaf),
            &issuers.iter().map(der).collect::<Vec<_>>(),
            at,
            now,
        )?;
        Ok(id)
    }

    /// Path validation (RFC 5280 section 6).
    fn verify_path(
        &self,
        leaf: &CertificateDer<'_>,
        issuers: &[CertificateDer<'_>],
        at: Timestamp,
        now: Timestamp,
    ) -> Result<(), X509Error> {
        let seconds = u64::try_from(at.unix_seconds()).map_err(|_| X509Error::NotYetValid)?;
        let time = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        EndEntityCert::try_from(leaf)
            .map_err(X509Error::Untrusted)?
            .verify_for_usage(
                &[webpki::aws_lc_rs::ECDSA_P256_SHA256],
                &self.anchors,
                issuers,
                time,
                KeyUsage::client_auth(),
                None,
                Some(&|path: &VerifiedPath<'_>| self.check_root(path, time, now)),
            )
            .map(drop)
            .map_err(|error| match error {
                webpki::Error::CertExpired { .. } => X509Error::Expired,
                webpki::Error::CertNotValidYet { .. } => X509Error::NotYetValid,
                other => X509Error::Untrusted(other),
            })
    }

    /// To path validation a trust anchor is a name and a key (RFC 5280 section 6.1.1): whether the root
    /// certificate itself still holds, and how deep it lets a path be, is ours to ask.
    fn check_root(
        &self,
        path: &VerifiedPath<'_>,
        time: UnixTime,
        now: Timestamp,
    ) -> Result<(), webpki::Error> {
        let anchor = path.anchor();
        let intermediates = u32::try_from(path.intermediate_certificates().count());
        let intermediates = intermediates.map_err(|_| webpki::Error::MaximumPathDepthExceeded)?;
        let mut verdict = Err(webpki::Error::UnknownIssuer);
        for (root, limits) in self.anchors.iter().zip(&self.limits) {
            if root.subject != anchor.subject
                || root.subject_public_key_info != anchor.subject_public_key_info
            {
                continue;
            }
            verdict = if !(limits.not_before..=limits.not_after).contains(&now) {
                Err(webpki::Error::CertExpired {
                    time,
                    not_after: time,
                })
            } else if limits.path_length.is_some_and(|most| intermediates > most) {
                Err(webpki::Error::PathLenConstraintViolated)
            } else {
                return Ok(());
            };
        }
        verdict
    }

    /// The bundle as a SPIFFE bundle document: a JWK Set with one `x509-svid` key a root (SPIFFE Trust Domain
    /// and Bundle specification section 4).
    pub fn to_json(&self) -> String {
        let keys: Vec<Value> = self
            .roots
            .iter()
            .filter_map(|root| {
                let point = profile::public_point(root).ok()?;
                Some(json!({
                    "use": "x509-svid",
                    "kty": "EC",
                    "crv": "P-256",
                    "x": base64url::encode(point.x()),
                    "y": base64url::encode(point.y()),
                    "x5c": [base64::encode(root)],
                }))
            })
            .collect();
        json!({ "keys": keys }).to_string()
    }

    /// The roots as PEM (RFC 7468), for tools that know no SPIFFE.
    pub fn to_pem(&self) -> String {
        let mut pem = String::new();
        for root in &self.roots {
            pem.push_str("-----BEGIN CERTIFICATE-----\n");
            for (index, character) in base64::encode(root).chars().enumerate() {
                if index > 0 && index % 64 == 0 {
                    pem.push('\n');
                }
                pem.push(character);
            }
            pem.push_str("\n-----END CERTIFICATE-----\n");
        }
        pem
    }

    /// Reads roots of `domain` from PEM (RFC 7468). Whatever is no certificate is skipped.
    pub fn from_pem(domain: TrustDomain, text: &str) -> Result<Self, X509Error> {
        if text.len() > MAX_BUNDLE_BYTES {
            return Err(X509Error::Bundle("it has more than 256 KiB"));
        }
        let roots = CertificateDer::pem_slice_iter(text.as_bytes())
            .map(|root| {
                Ok(root
                    .map_err(|_| X509Error::Bundle("it is not PEM"))?
                    .to_vec())
            })
            .collect::<Result<_, _>>()?;
        Self::new(domain, roots)
    }

    /// Reads a SPIFFE bundle document of `domain`. Keys of other uses are skipped.
    pub fn from_json(domain: TrustDomain, text: &str) -> Result<Self, X509Error> {
        if text.len() > MAX_BUNDLE_BYTES {
            return Err(X509Error::Bundle("it has more than 256 KiB"));
        }
        let document: Value =
            serde_json::from_str(text).map_err(|_| X509Error::Bundle("it is not JSON"))?;
        let keys = document.get("keys").and_then(Value::as_array);
        let root_of =
            |key: &Value| match key.get("x5c").and_then(Value::as_array).map(Vec::as_slice) {
                // Section 4.2.2: exactly one certificate.
                Some([Value::String(only)]) => base64::decode(only),
                _ => None,
            };
        let roots = keys
            .ok_or(X509Error::Bundle("it has no list `keys`"))?
            .iter()
            .filter(|key| key.get("use").and_then(Value::as_str) == Some("x509-svid"))
            .map(|key| root_of(key).ok_or(X509Error::Bundle("`x5c` must be one certificate")))
            .collect::<Result<_, _>>()?;
        Self::new(domain, roots)
    }
}

/// Trust domain and pins.
impl fmt::Debug for TrustBundle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pins: Vec<String> = self
            .roots
            .iter()
            .map(|root| crate::hex::encode(&sha256(root)))
            .collect();
        write!(formatter, "TrustBundle({}, {pins:?})", self.domain)
    }
}
