//! A certificate authority for one trust domain.

use std::{fmt, net::IpAddr, time::Duration};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use rustls::pki_types::{CertificateDer, DnsName};
use testudo_model::{
    Entropy, Redacted, SpiffeId, Timestamp, TrustDomain, limits::CLOCK_SKEW, random_bytes,
};
use time::OffsetDateTime;
use x509_parser::{certification_request::X509CertificationRequest, prelude::FromDer};

use super::{MAX_CERTIFICATE_BYTES, X509Error, profile};
use crate::SigningKey;

/// A root CA: its certificate and its key. It issues leaves only (`pathLenConstraint` 0).
pub struct CertificateAuthority {
    domain: TrustDomain,
    certificate: Vec<u8>,
    key: SigningKey,
    issuer: Issuer<'static, SigningKey>,
    not_after: Timestamp,
}

impl CertificateAuthority {
    /// A new self-signed root for `domain` with a new key.
    pub fn generate(
        domain: &TrustDomain,
        now: Timestamp,
        lifetime: Duration,
    ) -> Result<Self, X509Error> {
        let key = SigningKey::generate();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::OrganizationName, "Testudo");
        params
            .distinguished_name
            .push(DnType::CommonName, domain.as_str());
        let uri = format!("spiffe://{domain}")
            .try_into()
            .map_err(X509Error::Issue)?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = date(now - CLOCK_SKEW)?;
        params.not_after = date(now + lifetime)?;
        let certificate = params.self_signed(&key).map_err(X509Error::Issue)?;
        Self::from_parts(certificate.der(), key.to_pkcs8().expose())
    }

    /// A CA as it was kept: the certificate in DER and the key in PKCS#8.
    ///
    /// Errors: not a signing certificate that names its trust domain, or the key is not its key.
    pub fn from_parts(certificate: &[u8], key_pkcs8: &[u8]) -> Result<Self, X509Error> {
        let signing = profile::signing(certificate)?;
        let domain = signing
            .domain
            .ok_or(X509Error::Profile("a root must name its trust domain"))?;
        let key = SigningKey::from_pkcs8(key_pkcs8).map_err(|_| X509Error::UnsupportedKey)?;
        if profile::parse(certificate)?.public_key().raw != key.public_der() {
            return Err(X509Error::KeyMismatch);
        }
        let der = CertificateDer::from(certificate);
        let issuer = Issuer::from_ca_cert_der(&der, key.clone()).map_err(X509Error::Issue)?;
        let certificate = certificate.to_vec();
        Ok(Self {
            domain,
            certificate,
            key,
            issuer,
            not_after: signing.not_after,
        })
    }

    /// The trust domain it certifies for.
    pub const fn trust_domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// The root certificate in DER.
    pub fn cert_der(&self) -> &[u8] {
        &self.certificate
    }

    /// The private key in PKCS#8, to be sealed.
    pub fn key_pkcs8(&self) -> Redacted<Vec<u8>> {
        self.key.to_pkcs8()
    }

    /// End of the root's validity. Nothing it issues lives longer.
    pub const fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// Issues an X.509-SVID for `id` to the key in the request. Identity and names come from the caller
    /// alone: whatever names the request carries are not looked at. Returns the leaf in DER.
    ///
    /// Errors: `id` is not in this trust domain or has no path; the request is not signed with its own P-256
    /// key; a name in `dns` is none; the CA has expired.
    pub fn issue(
        &self,
        csr_der: &[u8],
        id: &SpiffeId,
        dns: &[String],
        now: Timestamp,
        lifetime: Duration,
        entropy: &dyn Entropy,
    ) -> Result<Vec<u8>, X509Error> {
        if !id.is_in(&self.domain) {
            let (found, expected) = (id.clone(), self.domain.clone());
            return Err(X509Error::ForeignTrustDomain { found, expected });
        }
        if id.path().is_empty() {
            return Err(X509Error::Profile(
                "the SPIFFE id of a leaf must have a path",
            ));
        }
        let mut names = vec![SanType::URI(
            id.as_str().try_into().map_err(X509Error::Issue)?,
        )];
        for name in dns {
            names.push(dns_name(name)?);
        }
        let purposes = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        self.sign(
            &RequestedKey::from_csr(csr_der)?,
            names,
            purposes,
            now,
            lifetime,
            entropy,
        )
    }

    /// Issues a certificate for a public HTTPS listener: host names and addresses, no identity in the mesh.
    /// Returns the leaf in DER.
    pub fn issue_web(
        &self,
        csr_der: &[u8],
        dns: &[String],
        ips: &[IpAddr],
        now: Timestamp,
        lifetime: Duration,
        entropy: &dyn Entropy,
    ) -> Result<Vec<u8>, X509Error> {
        let mut names = ips
            .iter()
            .copied()
            .map(SanType::IpAddress)
            .collect::<Vec<_>>();
        for name in dns {
            names.push(dns_name(name)?);
        }
        if names.is_empty() {
            return Err(X509Error::Profile(
                "a web certificate needs a host name or an address",
            ));
        }
        let purposes = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(
            &RequestedKey::from_csr(csr_der)?,
            names,
            purposes,
            now,
            lifetime,
            entropy,
        )
    }

    fn sign(
        &self,
        key: &RequestedKey,
        names: Vec<SanType>,
        purposes: Vec<ExtendedKeyUsagePurpose>,
        now: Timestamp,
        lifetime: Duration,
        entropy: &dyn Entropy,
    ) -> Result<Vec<u8>, X509Error> {
        let not_after = (now + lifetime).min(self.not_after);
        if not_after <= now {
            return Err(X509Error::Lifetime);
        }
        let mut params = CertificateParams::default();
        // No subject: an identity has one name. The alternative names become critical by that.
        params.distinguished_name = DistinguishedName::new();
        params.serial_number = Some(serial_number(entropy));
        params.subject_alt_names = names;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = purposes;
        params.use_authority_key_identifier_extension = true;
        // A peer's clock may be a little behind ours.
        params.not_before = date(now - CLOCK_SKEW)?;
        params.not_after = date(not_after)?;
        let certificate = params
            .signed_by(key, &self.issuer)
            .map_err(X509Error::Issue)?;
        Ok(certificate.der().to_vec())
    }
}

impl fmt::Debug for CertificateAuthority {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "CertificateAuthority({} until {})",
            self.domain, self.not_after
        )
    }
}

/// The public key of a request whose sender has shown to hold the private one.
struct RequestedKey(Vec<u8>);

impl RequestedKey {
    fn from_csr(der: &[u8]) -> Result<Self, X509Error> {
        if der.len() > MAX_CERTIFICATE_BYTES {
            return Err(X509Error::TooLarge);
        }
        let Ok(([], request)) = X509CertificationRequest::from_der(der) else {
            return Err(X509Error::Malformed("certificate request"));
        };
        let key = &request.certification_request_info.subject_pki;
        profile::point_of(key)?;
        let point = key.subject_public_key.data.to_vec();
        aws_lc_rs::signature::UnparsedPublicKey::new(
            &aws_lc_rs::signature::ECDSA_P256_SHA256_ASN1,
            &point,
        )
        .verify(
            request.certification_request_info.raw,
            &request.signature_value.data,
        )
        .map_err(|_| X509Error::RequestSignature)?;
        Ok(Self(point))
    }
}

impl PublicKeyData for RequestedKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

/// 127 random bits: positive, unique, and not to be guessed (CA/Browser Forum asks for at least 64).
fn serial_number(entropy: &dyn Entropy) -> SerialNumber {
    let random = u128::from_be_bytes(random_bytes(entropy));
    let positive = random >> 1 | 1 << 126;
    SerialNumber::from_slice(&positive.to_be_bytes())
}

fn dns_name(name: &str) -> Result<SanType, X509Error> {
    let invalid = || X509Error::HostName(name.escape_default().to_string());
    DnsName::try_from(name).map_err(|_| invalid())?;
    Ok(SanType::DnsName(name.try_into().map_err(|_| invalid())?))
}

fn date(at: Timestamp) -> Result<OffsetDateTime, X509Error> {
    let date = OffsetDateTime::from_unix_timestamp(at.unix_seconds());
    date.ok()
        .filter(|date| (1950..10_000).contains(&date.year()))
        .ok_or(X509Error::Lifetime)
}

#[cfg(test)]
mod tests {
    use testudo_testkit::SeededEntropy;

    use super::*;
    use crate::{certificate_times, spiffe_id_of};

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn now() -> Timestamp {
        Timestamp::from_unix_seconds(1_795_341_600)
    }

    fn domain() -> TrustDomain {
        "bookshop.example".parse().unwrap()
    }

    fn authority() -> CertificateAuthority {
        CertificateAuthority::generate(&domain(), now(), DAY).unwrap()
    }

    fn id(text: &str) -> SpiffeId {
        text.parse().unwrap()
    }

    fn issue(csr: &[u8], id: &SpiffeId) -> Result<Vec<u8>, X509Error> {
        let lifetime = Duration::from_secs(900);
        authority().issue(csr, id, &[], now(), lifetime, &*SeededEntropy::new(1))
    }

    #[test]
    fn the_identity_comes_from_the_caller_and_not_from_the_request() {
        let asked = id("spiffe://bookshop.example/testudo/server");
        let given = id("spiffe://bookshop.example/svc/orders");
        let csr = SigningKey::generate().csr_der(&asked).unwrap();
        assert_eq!(spiffe_id_of(&issue(&csr, &given).unwrap()).unwrap(), given);
    }

    #[test]
    fn a_certificate_never_outlives_its_issuer() {
        let (authority, entropy) = (authority(), SeededEntropy::new(1));
        let id = id("spiffe://bookshop.example/svc/orders");
        let csr = SigningKey::generate().csr_der(&id).unwrap();
        let issue = |now| authority.issue(&csr, &id, &[], now, 2 * DAY, &*entropy);
        let (_, not_after) = certificate_times(&issue(now()).unwrap()).unwrap();
        assert_eq!(not_after, authority.not_after());
        assert_eq!(issue(now() + DAY), Err(X509Error::Lifetime));
    }

    #[test]
    fn foreign_identities_and_the_trust_domain_itself_are_not_issued() {
        let csr = SigningKey::generate()
            .csr_der(&id("spiffe://bookshop.example/a"))
            .unwrap();
        let foreign = issue(&csr, &id("spiffe://other.example/svc/orders"));
        assert!(matches!(foreign, Err(X509Error::ForeignTrustDomain { .. })));
        let own = issue(&csr, &id("spiffe://bookshop.example"));
        assert!(matches!(own, Err(X509Error::Profile(_))));
    }

    #[test]
    fn a_request_must_prove_possession_of_a_p256_key() {
        let id = id("spiffe://bookshop.example/svc/orders");
        let csr = SigningKey::generate().csr_der(&id).unwrap();
        let mut forged = csr.clone();
        *forged.last_mut().unwrap() ^= 1;
        assert_eq!(issue(&forged, &id), Err(X509Error::RequestSignature));
        let trailing = [csr.as_slice(), &[0]].concat();
        assert_eq!(
            issue(&trailing, &id),
            Err(X509Error::Malformed("certificate request"))
        );
        assert_eq!(
            issue(&vec![0x30; MAX_CERTIFICATE_BYTES + 1], &id),
            Err(X509Error::TooLarge)
        );
        let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        let p384 = CertificateParams::default()
            .serialize_request(&p384)
            .unwrap();
        assert_eq!(issue(p384.der(), &id), Err(X509Error::UnsupportedKey));
    }

    #[test]
    fn host_names_are_host_names() {
        let id = id("spiffe://bookshop.example/svc/orders");
        let csr = SigningKey::generate().csr_der(&id).unwrap();
        for bad in ["", "a b", "a\0.example", "a/b", "*", "ä.example"] {
            let (entropy, dns) = (SeededEntropy::new(1), [bad.to_owned()]);
            let refused = authority().issue_web(&csr, &dns, &[], now(), DAY, &*entropy);
            assert!(
                matches!(refused, Err(X509Error::HostName(_))),
                "{bad:?}: {refused:?}"
            );
        }
    }

    #[test]
    fn a_web_certificate_is_no_identity() {
        let id = id("spiffe://bookshop.example/svc/orders");
        let csr = SigningKey::generate().csr_der(&id).unwrap();
        let (dns, ips) = (["localhost".to_owned()], [IpAddr::from([127, 0, 0, 1])]);
        let entropy = SeededEntropy::new(1);
        let der = authority()
            .issue_web(&csr, &dns, &ips, now(), DAY, &*entropy)
            .unwrap();
        assert!(matches!(spiffe_id_of(&der), Err(X509Error::Profile(_))));
    }

    #[test]
    fn an_authority_survives_storage_with_its_own_key_only() {
        let one = authority();
        let key = one.key_pkcs8();
        let again = CertificateAuthority::from_parts(one.cert_der(), key.expose()).unwrap();
        assert_eq!(again.not_after(), one.not_after());
        assert_eq!(again.trust_domain(), &domain());
        let other = SigningKey::generate().to_pkcs8();
        let swapped = CertificateAuthority::from_parts(one.cert_der(), other.expose());
        assert_eq!(swapped.unwrap_err(), X509Error::KeyMismatch);
        let csr = SigningKey::generate()
            .csr_der(&id("spiffe://bookshop.example/a"))
            .unwrap();
        let leaf = issue(&csr, &id("spiffe://bookshop.example/a")).unwrap();
        let leaf_as_root = CertificateAuthority::from_parts(&leaf, key.expose());
        assert!(matches!(leaf_as_root, Err(X509Error::Profile(_))));
    }
}
