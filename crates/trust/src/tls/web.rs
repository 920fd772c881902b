//! Configurations for browsers, command-line tools and everything else outside the mesh.

use std::{fmt, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use rustls::{
    ClientConfig, DistinguishedName, RootCertStore, ServerConfig,
    crypto::aws_lc_rs::{Ticketer, sign::any_supported_type},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    server::{ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert},
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};

use testudo_model::Clock;
use webpki::{EndEntityCert, anchor_from_trusted_cert};

use super::{
    ClockTime, ExpectedPeer, IdentitySource, TlsError, alpn_protocols, install_crypto_provider,
    verify::{PeerVerifier, Trust},
};
use crate::{SigningKey, x509::certified_key};

/// The certificate of a public listener. Clones share it; a swap is seen by the next handshake.
#[derive(Clone)]
pub struct WebCertificate(Arc<ArcSwap<Current>>);

/// A certificate, its key, and the tickets given out under it.
struct Current {
    certified: Arc<CertifiedKey>,
    ticketer: Arc<dyn ProducesTickets>,
}

impl WebCertificate {
    /// From PEM: the chain, leaf first, and its key (PKCS#8, PKCS#1 or SEC1).
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, TlsError> {
        let chain = certificates_of(chain)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| TlsError::Pem("private key"))?;
        let certified =
            CertifiedKey::new(chain, any_supported_type(&key).map_err(TlsError::Unusable)?);
        Self::new(certified)
    }

    /// From a chain (leaf first, DER) issued by the fleet's own CA, and its key.
    pub fn issued(chain: &[Vec<u8>], key: &SigningKey) -> Result<Self, TlsError> {
        let certified = certified_key(chain, key).map_err(TlsError::Chain)?;
        Self::new(certified)
    }

    /// Replaces certificate and key by those of `next`. Tickets given out so far resume nothing any more.
    pub fn swap(&self, next: &Self) {
        self.0.store(next.0.load_full());
    }

    /// Whether it is one for the host or address `name`.
    pub fn is_for(&self, name: &str) -> bool {
        let current = self.0.load();
        let leaf = current.certified.end_entity_cert().ok();
        let leaf = leaf.and_then(|leaf| EndEntityCert::try_from(leaf).ok());
        let name = ServerName::try_from(name).ok();
        leaf.zip(name)
            .is_some_and(|(leaf, name)| leaf.verify_is_valid_for_subject_name(&name).is_ok())
    }

    fn new(certified: CertifiedKey) -> Result<Self, TlsError> {
        certified.keys_match().map_err(TlsError::Unusable)?;
        let ticketer = Ticketer::new().map_err(TlsError::Unusable)?;
        let current = Current {
            certified: Arc::new(certified),
            ticketer,
        };
        Ok(Self(Arc::new(ArcSwap::from_pointee(current))))
    }
}

impl fmt::Debug for WebCertificate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("WebCertificate")
    }
}

impl ResolvesServerCert for WebCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.load().certified))
    }
}

impl ProducesTickets for WebCertificate {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        self.0.load().ticketer.lifetime()
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.0.load().ticketer.encrypt(plain)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.0.load().ticketer.decrypt(ticket)
    }
}

/// The server side of a public listener: TLS 1.3, and 1.2 if `min_tls12`. Any server name is answered with
/// the one certificate. Sessions resume with stateless tickets.
pub fn web_server_config(
    source: WebCertificate,
    min_tls12: bool,
    alpn: &[&str],
) -> Arc<ServerConfig> {
    install_crypto_provider();
    let mut versions = vec![&TLS13];
    if min_tls12 {
        versions.push(&TLS12);
    }
    let mut config = ServerConfig::builder_with_protocol_versions(&versions)
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(source.clone()));
    config.ticketer = Arc::new(source);
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.alpn_protocols = alpn_protocols(alpn);
    Arc::new(config)
}

/// As [`web_server_config`], TLS 1.3 only, for a listener where workloads may show their SVID: it is verified
/// against the current bundle of `peers`. Nothing is resumed, for the reason given in `mesh`.
pub fn web_server_config_for_peers(
    source: WebCertificate,
    peers: &IdentitySource,
    clock: Arc<dyn Clock>,
    alpn: &[&str],
) -> Arc<ServerConfig> {
    install_crypto_provider();
    let bundle = peers.bundle();
    let hints = bundle.roots().iter().filter_map(|root| {
        let anchor = CertificateDer::from(root.as_slice());
        let subject = anchor_from_trusted_cert(&anchor).ok()?.subject.to_vec();
        Some(DistinguishedName::in_sequence(&subject))
    });
    let verifier = PeerVerifier {
        trust: Trust::Bundle(peers.clone()),
        expected: ExpectedPeer::InTrustDomain,
        mandatory: false,
        late: Duration::ZERO,
        hints: hints.collect(),
    };
    let mut config = ServerConfig::builder_with_protocol_versions(&[&TLS13])
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(source));
    config.time_provider = Arc::new(ClockTime(clock));
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.alpn_protocols = alpn_protocols(alpn);
    Arc::new(config)
}

/// The client side towards a public listener: trusts the roots in `roots_pem` alone, and checks the server's
/// name.
pub fn web_client_config(roots_pem: &[u8], alpn: &[&str]) -> Result<Arc<ClientConfig>, TlsError> {
    install_crypto_provider();
    let mut roots = RootCertStore::empty();
    for root in certificates_of(roots_pem)? {
        roots.add(root).map_err(TlsError::Unusable)?;
    }
    let mut config = ClientConfig::builder_with_protocol_versions(&[&TLS13, &TLS12])
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn_protocols(alpn);
    Ok(Arc::new(config))
}

/// The client side towards servers anywhere: trusts the roots in `roots_pem`, and those in `others_pem`, of which what
/// cannot be used is left out, and checks the server's name. HTTP/1.1 alone.
pub fn outbound_client_config(
    roots_pem: &[u8],
    others_pem: &[u8],
) -> Result<Arc<ClientConfig>, TlsError> {
    install_crypto_provider();
    let mut roots = RootCertStore::empty();
    for root in certificates_of(roots_pem)? {
        roots.add(root).map_err(TlsError::Unusable)?;
    }
    let others = CertificateDer::pem_slice_iter(others_pem).filter_map(Result::ok);
    roots.add_parsable_certificates(others);
    let mut config = ClientConfig::builder_with_protocol_versions(&[&TLS13, &TLS12])
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn_protocols(&["http/1.1"]);
    Ok(Arc::new(config))
}

fn certificates_of(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|_| TlsError::Pem("certificate"))?;
    if certificates.is_empty() {
        Err(TlsError::Pem("certificate"))
    } else {
        Ok(certificates)
    }
}
