//! Whom a mesh handshake accepts.

use std::{sync::Arc, time::Duration};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use testudo_model::{SpiffeId, Timestamp};

use super::IdentitySource;
use crate::{
    constant_time_eq, sha256,
    x509::{TrustBundle, X509Error},
};

/// Mesh handshakes are signed with ECDSA on P-256 and nothing else.
static ALGORITHMS: WebPkiSupportedAlgorithms = WebPkiSupportedAlgorithms {
    all: &[webpki::aws_lc_rs::ECDSA_P256_SHA256],
    mapping: &[(
        SignatureScheme::ECDSA_NISTP256_SHA256,
        &[webpki::aws_lc_rs::ECDSA_P256_SHA256],
    )],
};

/// The identities a handshake accepts, of those the bundle vouches for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExpectedPeer {
    /// This one.
    Id(SpiffeId),
    /// Any of these.
    AnyOf(Vec<SpiffeId>),
    /// All of the trust domain. What they may do is decided for each call.
    InTrustDomain,
}

impl ExpectedPeer {
    fn check(&self, id: SpiffeId) -> Result<SpiffeId, X509Error> {
        let accepted = match self {
            Self::Id(expected) => *expected == id,
            Self::AnyOf(expected) => expected.contains(&id),
            Self::InTrustDomain => true,
        };
        if accepted {
            Ok(id)
        } else {
            Err(X509Error::UnexpectedPeer(id))
        }
    }
}

/// Verifies the peer of a mesh connection: its SVID, not its host name.
#[derive(Debug)]
pub(super) struct PeerVerifier {
    pub(super) trust: Trust,
    pub(super) expected: ExpectedPeer,
    /// Servers only: whether a client without a certificate is turned away.
    pub(super) mandatory: bool,
    /// Servers only: how long after its end a client's certificate still passes the handshake.
    pub(super) late: Duration,
    /// Servers only: whose certificates are asked for. Empty inside the mesh, where a workload has one SVID and
    /// needs no hint; a browser must not offer its user's other certificates.
    pub(super) hints: Vec<DistinguishedName>,
}

/// Where trust comes from.
#[derive(Debug)]
pub(super) enum Trust {
    /// The bundle of the source, as it is at each handshake.
    Bundle(IdentitySource),
    /// First contact: the root of the presented chain is the one with this SHA-256, in the trust domain of
    /// this identity.
    Pinned {
        root_sha256: [u8; 32],
        server: SpiffeId,
    },
}

impl PeerVerifier {
    fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<SpiffeId, X509Error> {
        let chain: Vec<&[u8]> = [end_entity]
            .into_iter()
            .chain(intermediates)
            .map(AsRef::as_ref)
            .collect();
        let now = i64::try_from(now.as_secs()).map_err(|_| X509Error::Expired)?;
        let now = Timestamp::from_unix_seconds(now);
        let id = match &self.trust {
            Trust::Bundle(source) => match source.bundle().verify_svid(&chain, now) {
                Err(X509Error::Expired) if !self.late.is_zero() => {
                    source.bundle().verify_ended_svid(&chain, now, self.late)?
                }
                verified => verified?,
            },
            Trust::Pinned {
                root_sha256,
                server,
            } => {
                let root = pinned_root(&chain, root_sha256)?;
                let bundle = TrustBundle::new(server.trust_domain(), vec![root.to_vec()])?;
                bundle.verify_svid(&chain, now)?
            }
        };
        self.expected.check(id)
    }
}

/// The last certificate of the chain, if it is the pinned one. A leaf is never its own root.
fn pinned_root<'c>(chain: &[&'c [u8]], root_sha256: &[u8; 32]) -> Result<&'c [u8], X509Error> {
    match chain {
        [_, .., root] if constant_time_eq(&sha256(root), root_sha256) => Ok(root),
        _ => Err(X509Error::PinMismatch),
    }
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(end_entity, intermediates, now)
            .map(|_| ServerCertVerified::assertion())
            .map_err(tls_error)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(tls13_only())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &ALGORITHMS)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ALGORITHMS.supported_schemes()
    }
}

impl ClientCertVerifier for PeerVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(end_entity, intermediates, now)
            .map(|_| ClientCertVerified::assertion())
            .map_err(tls_error)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(tls13_only())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &ALGORITHMS)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ALGORITHMS.supported_schemes()
    }
}

fn tls13_only() -> Error {
    Error::General("mesh connections are TLS 1.3 only".to_owned())
}

/// The alert the peer sees is the standard one; our log gets the whole reason.
fn tls_error(error: X509Error) -> Error {
    Error::InvalidCertificate(match error {
        X509Error::Expired => CertificateError::Expired,
        X509Error::NotYetValid => CertificateError::NotValidYet,
        X509Error::Malformed(_) | X509Error::TooLarge => CertificateError::BadEncoding,
        X509Error::Untrusted(webpki::Error::UnknownIssuer) => CertificateError::UnknownIssuer,
        other => CertificateError::Other(OtherError(Arc::new(other))),
    })
}
