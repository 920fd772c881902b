//! Configurations between workloads.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use rustls::{
    ClientConfig, ServerConfig,
    client::{Resumption, danger::ServerCertVerifier},
    pki_types::ServerName,
    server::{NoClientAuth, NoServerSessionStorage, danger::ClientCertVerifier},
    version::TLS13,
};
use testudo_model::{Clock, SpiffeId};

use super::{
    ClockTime, ExpectedPeer, IdentitySource, alpn_protocols, install_crypto_provider,
    verify::{PeerVerifier, Trust},
};

/// Whether a mesh listener asks its clients who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerAuth {
    /// No.
    None,
    /// It asks, and verifies who answers: for listeners that also serve first contact.
    Optional,
    /// As `Optional`, and a certificate that ended less than this ago passes too. It proves who its holder was,
    /// no more: the listener asks each call for the end of the certificate
    /// ([`certificate_times`](crate::certificate_times)) and refuses all but renewals.
    OptionalAndLate(Duration),
    /// A client without a valid SVID of the trust domain does not get through the handshake.
    Required,
}

/// The server side of mesh connections: presents the current SVID of `source` and verifies clients against
/// its current bundle.
pub fn mesh_server_config(
    source: &IdentitySource,
    peers: PeerAuth,
    clock: Arc<dyn Clock>,
    alpn: &[&str],
) -> Arc<ServerConfig> {
    install_crypto_provider();
    let verifier: Arc<dyn ClientCertVerifier> = match peers {
        PeerAuth::None => Arc::new(NoClientAuth),
        PeerAuth::Optional | PeerAuth::OptionalAndLate(_) | PeerAuth::Required => {
            Arc::new(PeerVerifier {
                trust: Trust::Bundle(source.clone()),
                expected: ExpectedPeer::InTrustDomain,
                mandatory: peers == PeerAuth::Required,
                late: match peers {
                    PeerAuth::OptionalAndLate(late) => late,
                    _ => Duration::ZERO,
                },
                hints: Vec::new(),
            })
        }
    };
    let mut config = ServerConfig::builder_with_protocol_versions(&[&TLS13])
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(source.clone()));
    config.time_provider = Arc::new(ClockTime(clock));
    config.alpn_protocols = alpn_protocols(alpn);
    // No resumption: see the module.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Arc::new(config)
}

/// The client side of mesh connections: presents the current SVID of `source` and accepts the `expected`
/// peer, verified against its current bundle. The server name of the connection is not looked at and not
/// sent: see [`mesh_server_name`].
pub fn mesh_client_config(
    source: &IdentitySource,
    expected: ExpectedPeer,
    clock: Arc<dyn Clock>,
    alpn: &[&str],
) -> Arc<ClientConfig> {
    let trust = Trust::Bundle(source.clone());
    let verifier = Arc::new(PeerVerifier {
        trust,
        expected,
        mandatory: true,
        late: Duration::ZERO,
        hints: Vec::new(),
    });
    client_config(verifier, Some(source), clock, alpn)
}

/// A first contact, before there is a bundle or an SVID: the server must present `expected` in a chain that
/// ends in the root with this SHA-256. The client presents nothing.
pub fn pinned_client_config(
    root_sha256: [u8; 32],
    expected: &SpiffeId,
    clock: Arc<dyn Clock>,
    alpn: &[&str],
) -> Arc<ClientConfig> {
    let verifier = Arc::new(PeerVerifier {
        trust: Trust::Pinned {
            root_sha256,
            server: expected.clone(),
        },
        expected: ExpectedPeer::Id(expected.clone()),
        mandatory: true,
        late: Duration::ZERO,
        hints: Vec::new(),
    });
    client_config(verifier, None, clock, alpn)
}

/// A name to give to a TLS connector, which wants one, for a mesh connection, which has none.
pub fn mesh_server_name() -> ServerName<'static> {
    ServerName::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST).into())
}

fn client_config(
    verifier: Arc<dyn ServerCertVerifier>,
    identity: Option<&IdentitySource>,
    clock: Arc<dyn Clock>,
    alpn: &[&str],
) -> Arc<ClientConfig> {
    install_crypto_provider();
    let builder = ClientConfig::builder_with_protocol_versions(&[&TLS13])
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match identity {
        Some(source) => builder.with_client_cert_resolver(Arc::new(source.clone())),
        None => builder.with_no_client_auth(),
    };
    config.time_provider = Arc::new(ClockTime(clock));
    config.alpn_protocols = alpn_protocols(alpn);
    config.enable_sni = false;
    config.resumption = Resumption::disabled();
    Arc::new(config)
}
