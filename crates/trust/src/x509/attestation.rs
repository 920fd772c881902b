//! Certificates that say of which model an authenticator is (WebAuthn section 8.2, packed attestation).

use std::{fmt, time::Duration};

use rustls::pki_types::{
    CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime, pem::PemObject,
};
use testudo_model::Timestamp;
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert, aws_lc_rs};
use x509_parser::{
    certificate::X509Certificate,
    x509::{AttributeTypeAndValue, X509Name},
};

use super::{MAX_CHAIN, X509Error, profile};
use crate::cose::CoseAlgorithm;

/// Roots that somebody may have to trust: those of a few makers.
const MAX_ROOTS: usize = 128;
/// Largest file of roots.
const MAX_ROOTS_BYTES: usize = 1024 * 1024;
/// `id-fido-gen-ce-aaguid`.
const AAGUID_EXTENSION: &str = "1.3.6.1.4.1.45724.1.1.4";

/// What makers sign their chains with.
const CHAIN_ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] = &[
    aws_lc_rs::ECDSA_P256_SHA256,
    aws_lc_rs::ECDSA_P256_SHA384,
    aws_lc_rs::ECDSA_P384_SHA256,
    aws_lc_rs::ECDSA_P384_SHA384,
    aws_lc_rs::ED25519,
    aws_lc_rs::RSA_PKCS1_2048_8192_SHA256,
    aws_lc_rs::RSA_PKCS1_2048_8192_SHA384,
    aws_lc_rs::RSA_PKCS1_2048_8192_SHA512,
];

/// The makers of authenticators that are trusted to say what they made.
#[derive(Clone)]
pub struct AttestationRoots {
    roots: Vec<Vec<u8>>,
    anchors: Vec<TrustAnchor<'static>>,
}

impl AttestationRoots {
    /// Reads roots from PEM (RFC 7468). Whatever is no certificate is skipped.
    ///
    /// # Errors
    /// There is no certificate, there are too many, or one cannot be read.
    pub fn from_pem(text: &str) -> Result<Self, X509Error> {
        if text.len() > MAX_ROOTS_BYTES {
            return Err(X509Error::Bundle("it has more than 1 MiB"));
        }
        let (mut roots, mut anchors) = (Vec::new(), Vec::new());
        for root in CertificateDer::pem_slice_iter(text.as_bytes()) {
            let root = root.map_err(|_| X509Error::Bundle("it is not PEM"))?;
            let anchor = anchor_from_trusted_cert(&root)
                .map_err(|_| X509Error::Malformed("root certificate"))?;
            anchors.push(anchor.to_owned());
            roots.push(root.to_vec());
        }
        if roots.is_empty() || roots.len() > MAX_ROOTS {
            return Err(X509Error::Bundle("it must have 1 to 128 certificates"));
        }
        Ok(Self { roots, anchors })
    }

    /// Whether the chain of an attestation (leaf first) leads to one of these roots at `now`, or its leaf is one.
    ///
    /// # Errors
    /// It does not.
    pub fn vouch_for(&self, chain: &[Vec<u8>], now: Timestamp) -> Result<(), X509Error> {
        let (leaf, intermediates) = chain.split_first().ok_or(X509Error::ChainLength(0))?;
        if chain.len() > MAX_CHAIN {
            return Err(X509Error::ChainLength(chain.len()));
        }
        let (from, until) = profile::times(&profile::parse(leaf)?);
        if now < from {
            return Err(X509Error::NotYetValid);
        }
        if now > until {
            return Err(X509Error::Expired);
        }
        if self.roots.contains(leaf) {
            return Ok(());
        }
        let seconds = u64::try_from(now.unix_seconds()).map_err(|_| X509Error::NotYetValid)?;
        let intermediates: Vec<CertificateDer<'_>> = intermediates
            .iter()
            .map(|der| CertificateDer::from(der.as_slice()))
            .collect();
        EndEntityCert::try_from(&CertificateDer::from(leaf.as_slice()))
            .map_err(X509Error::Untrusted)?
            .verify_for_usage(
                CHAIN_ALGORITHMS,
                &self.anchors,
                &intermediates,
                UnixTime::since_unix_epoch(Duration::from_secs(seconds)),
                KeyUsage::client_auth(),
                None,
                None,
            )
            .map(drop)
            .map_err(X509Error::Untrusted)
    }
}

/// How many there are.
impl fmt::Debug for AttestationRoots {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "AttestationRoots({})", self.roots.len())
    }
}

/// Checks the certificate of a packed attestation for a model of authenticator (WebAuthn section 8.2.1), and that its key
/// has made `signature` over `message`. Says nothing about who issued it.
///
/// # Errors
/// A rule of that section is broken, or the signature is of another key.
pub fn verify_packed_attestation(
    certificate_der: &[u8],
    aaguid: &[u8; 16],
    algorithm: CoseAlgorithm,
    message: &[u8],
    signature: &[u8],
) -> Result<(), X509Error> {
    let certificate = profile::parse(certificate_der)?;
    check_subject(certificate.subject())?;
    let constraints = certificate.basic_constraints();
    let constraints = constraints.map_err(|_| X509Error::Malformed("basicConstraints"))?;
    if constraints.is_none_or(|extension| extension.value.ca) {
        return Err(X509Error::Attestation(
            "it must not be a CA, and must say so",
        ));
    }
    if named_aaguid(&certificate)?.is_some_and(|named| named != aaguid) {
        return Err(X509Error::Attestation("it is of another model"));
    }
    let der = CertificateDer::from(certificate_der);
    EndEntityCert::try_from(&der)
        .and_then(|leaf| leaf.verify_signature(signed_with(algorithm), message, signature))
        .map_err(|_| X509Error::Attestation("its key has not signed this"))
}

fn check_subject(subject: &X509Name<'_>) -> Result<(), X509Error> {
    let text = |attribute: &AttributeTypeAndValue<'_>| attribute.as_str().ok().map(str::to_owned);
    let first = |found: Option<&AttributeTypeAndValue<'_>>| found.and_then(text);
    let country = first(subject.iter_country().next());
    if country.is_none_or(|code| code.len() != 2) {
        return Err(X509Error::Attestation("its subject must name a country"));
    }
    let unit = first(subject.iter_organizational_unit().next());
    if unit.as_deref() != Some("Authenticator Attestation") {
        return Err(X509Error::Attestation(
            "its unit must be `Authenticator Attestation`",
        ));
    }
    let names = [
        first(subject.iter_organization().next()),
        first(subject.iter_common_name().next()),
    ];
    if names
        .iter()
        .any(|name| name.as_deref().unwrap_or("").is_empty())
    {
        return Err(X509Error::Attestation(
            "its subject must name maker and model",
        ));
    }
    Ok(())
}

/// The model in its extension: 16 bytes in an OCTET STRING.
fn named_aaguid<'c>(certificate: &'c X509Certificate<'_>) -> Result<Option<&'c [u8]>, X509Error> {
    let mut extensions = certificate.extensions().iter();
    let Some(extension) = extensions.find(|found| found.oid.to_id_string() == AAGUID_EXTENSION)
    else {
        return Ok(None);
    };
    match extension.value {
        [0x04, 0x10, aaguid @ ..] if aaguid.len() == 16 && !extension.critical => Ok(Some(aaguid)),
        _ => Err(X509Error::Attestation("its AAGUID cannot be read")),
    }
}

const fn signed_with(algorithm: CoseAlgorithm) -> &'static dyn SignatureVerificationAlgorithm {
    match algorithm {
        CoseAlgorithm::Es256 => aws_lc_rs::ECDSA_P256_SHA256,
        CoseAlgorithm::EdDsa => aws_lc_rs::ED25519,
        CoseAlgorithm::Rs256 => aws_lc_rs::RSA_PKCS1_2048_8192_SHA256,
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, IsCa,
        Issuer,
    };

    use super::*;
    use crate::SigningKey;

    const MODEL: [u8; 16] = *b"sixteen bytes it";
    const AAGUID: [u64; 9] = [1, 3, 6, 1, 4, 1, 45724, 1, 1];

    fn now() -> Timestamp {
        Timestamp::from_unix_seconds(1_795_341_600)
    }

    fn name(unit: &str) -> DistinguishedName {
        let mut name = DistinguishedName::new();
        name.push(DnType::CountryName, "SE");
        name.push(DnType::OrganizationName, "Bookshop Keys");
        name.push(DnType::OrganizationalUnitName, unit);
        name.push(DnType::CommonName, "Bookshop Key 1");
        name
    }

    fn aaguid(model: &[u8]) -> CustomExtension {
        let content = [&[4, u8::try_from(model.len()).unwrap()], model].concat();
        CustomExtension::from_oid_content(&[&AAGUID[..], &[4]].concat(), content)
    }

    /// A maker: its root, and what it certifies.
    struct Maker {
        key: SigningKey,
        params: CertificateParams,
    }

    impl Maker {
        fn new() -> Self {
            let mut params = CertificateParams::default();
            params.distinguished_name = name("Authenticator Root");
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
            Self {
                key: SigningKey::generate(),
                params,
            }
        }

        fn pem(&self) -> String {
            self.params.self_signed(&self.key).unwrap().pem()
        }

        fn roots(&self) -> AttestationRoots {
            AttestationRoots::from_pem(&self.pem()).unwrap()
        }

        fn certify(&self, change: impl FnOnce(&mut CertificateParams)) -> (SigningKey, Vec<u8>) {
            let mut params = CertificateParams::default();
            params.distinguished_name = name("Authenticator Attestation");
            params.is_ca = IsCa::ExplicitNoCa;
            params.custom_extensions = vec![aaguid(&MODEL)];
            change(&mut params);
            let key = SigningKey::generate();
            let issuer = Issuer::from_params(&self.params, &self.key);
            let leaf = params.signed_by(&key, &issuer).unwrap();
            (key, leaf.der().to_vec())
        }
    }

    fn verify(change: impl FnOnce(&mut CertificateParams)) -> Result<(), X509Error> {
        let (key, leaf) = Maker::new().certify(change);
        let signature = key.sign_der(b"message");
        let es256 = CoseAlgorithm::Es256;
        verify_packed_attestation(&leaf, &MODEL, es256, b"message", &signature)
    }

    #[test]
    fn a_certificate_speaks_for_its_model_and_what_its_key_has_signed() {
        assert_eq!(verify(|_| {}), Ok(()));
        assert_eq!(
            verify(|params| params.custom_extensions.clear()),
            Ok(()),
            "it need not say"
        );
        let (key, leaf) = Maker::new().certify(|_| {});
        let signature = key.sign_der(b"message");
        let check = |model: &[u8; 16], algorithm, message: &[u8], signature: &[u8]| {
            verify_packed_attestation(&leaf, model, algorithm, message, signature)
        };
        let es256 = CoseAlgorithm::Es256;
        assert_eq!(check(&MODEL, es256, b"message", &signature), Ok(()));
        for refused in [
            check(&[0; 16], es256, b"message", &signature),
            check(&MODEL, es256, b"massage", &signature),
            check(&MODEL, es256, b"message", &[]),
            check(&MODEL, CoseAlgorithm::EdDsa, b"message", &signature),
            check(&MODEL, CoseAlgorithm::Rs256, b"message", &signature),
            check(
                &MODEL,
                es256,
                b"message",
                &SigningKey::generate().sign_der(b"message"),
            ),
        ] {
            assert!(
                matches!(refused, Err(X509Error::Attestation(_))),
                "{refused:?}"
            );
        }
        assert!(verify_packed_attestation(b"no DER", &MODEL, es256, b"", b"").is_err());
    }

    #[test]
    fn a_certificate_that_breaks_a_rule_speaks_for_nothing() {
        let without = |kind: DnType| {
            move |params: &mut CertificateParams| {
                params.distinguished_name.remove(kind);
            }
        };
        let refused = [
            verify(without(DnType::CountryName)),
            verify(without(DnType::OrganizationName)),
            verify(without(DnType::OrganizationalUnitName)),
            verify(without(DnType::CommonName)),
            verify(|params| params.distinguished_name = name("Authenticator attestation")),
            verify(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
            verify(|params| params.is_ca = IsCa::NoCa),
            verify(|params| params.custom_extensions = vec![aaguid(&[0; 16])]),
            verify(|params| params.custom_extensions = vec![aaguid(&MODEL[..15])]),
            verify(|params| {
                let mut critical = aaguid(&MODEL);
                critical.set_criticality(true);
                params.custom_extensions = vec![critical];
            }),
        ];
        for (index, refused) in refused.into_iter().enumerate() {
            assert!(
                matches!(refused, Err(X509Error::Attestation(_))),
                "{index}: {refused:?}"
            );
        }
        let twice = verify(|params| params.custom_extensions.push(aaguid(&MODEL)));
        assert!(twice.is_err());
    }

    #[test]
    fn a_maker_vouches_for_what_it_certified_and_while_that_holds() {
        let (maker, other) = (Maker::new(), Maker::new());
        let (_, leaf) = maker.certify(|_| {});
        let chain = [leaf.clone()];
        assert_eq!(maker.roots().vouch_for(&chain, now()), Ok(()));
        assert!(other.roots().vouch_for(&chain, now()).is_err());
        let both = AttestationRoots::from_pem(&(other.pem() + &maker.pem())).unwrap();
        assert_eq!(both.vouch_for(&chain, now()), Ok(()));
        assert!(both.vouch_for(&[], now()).is_err());
        assert!(both.vouch_for(&vec![leaf; MAX_CHAIN + 1], now()).is_err());
        let (_, ended) =
            maker.certify(|params| params.not_after = rcgen::date_time_ymd(2026, 1, 1));
        assert_eq!(
            maker.roots().vouch_for(&[ended], now()),
            Err(X509Error::Expired)
        );
        let (_, early) =
            maker.certify(|params| params.not_before = rcgen::date_time_ymd(2030, 1, 1));
        assert_eq!(
            maker.roots().vouch_for(&[early], now()),
            Err(X509Error::NotYetValid)
        );
        // The certificate itself may be what is trusted.
        let mut params = CertificateParams::default();
        params.distinguished_name = name("Authenticator Attestation");
        let own = params.self_signed(&SigningKey::generate()).unwrap();
        let roots = AttestationRoots::from_pem(&own.pem()).unwrap();
        assert_eq!(roots.vouch_for(&[own.der().to_vec()], now()), Ok(()));
        for bad in [
            "",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        ] {
            assert!(AttestationRoots::from_pem(bad).is_err(), "{bad}");
        }
    }
}
