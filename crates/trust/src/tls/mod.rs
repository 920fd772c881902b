//! TLS configurations for rustls. Nothing here opens a connection; it says how one is to be made.
//!
//! Two worlds with nothing in common but the provider:
//!
//! * the **mesh** ([`mesh_server_config`], [`mesh_client_config`], [`pinned_client_config`]): TLS 1.3 only,
//!   P-256 certificates, peers identified by SPIFFE id and never by host name;
//! * the **web** ([`web_server_config`], [`web_client_config`], [`outbound_client_config`]): what browsers and command-line tools speak.
//!
//! Key exchange is X25519MLKEM768 where the peer can, X25519 or NIST curves where it cannot.
//!
//! Certificates and bundles are looked up at each handshake ([`IdentitySource`], [`WebCertificate`]): a
//! configuration is built once, and rotation swaps what it looks at.
//!
//! **Resumption.** In the mesh it is off. A resumed handshake brings back the peer's certificates from the
//! ticket without verifying them, so a ticket could carry an identity past the end of its SVID or the removal
//! of its root; and mesh connections are pooled, so there is little to save. On the web side tickets carry no
//! identity; they are sealed with keys that go when the certificate is swapped.

mod identity;
mod mesh;
mod verify;
mod web;

use std::sync::Arc;

pub use identity::IdentitySource;
pub use mesh::{
    PeerAuth, mesh_client_config, mesh_server_config, mesh_server_name, pinned_client_config,
};
use rustls::{
    pki_types::{CertificateDer, UnixTime},
    time_provider::TimeProvider,
};
use testudo_model::{Clock, SpiffeId};
pub use verify::ExpectedPeer;
pub use web::{
    WebCertificate, outbound_client_config, web_client_config, web_server_config,
    web_server_config_for_peers,
};

use crate::x509::{X509Error, spiffe_id_of};

/// Why TLS material cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// No certificate or no key in the PEM text, or text that is no PEM.
    #[error("no {0} in the PEM text")]
    Pem(&'static str),
    /// The key is not the certificate's, or of a kind that cannot sign.
    #[error("certificate and key do not belong together, or the key is of an unsupported kind")]
    Unusable(#[source] rustls::Error),
    /// A chain or key of the fleet's own CA that cannot be presented.
    #[error("the issued certificate cannot be presented")]
    Chain(#[source] X509Error),
}

/// Makes this process use the one crypto provider (aws-lc-rs, X25519MLKEM768 first), also where some library
/// asks rustls for its default. May be called any number of times; every configuration here calls it.
pub fn install_crypto_provider() {
    // An error says that a provider is there already; only this crate has one to install.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
}

/// The identity of a peer, from the certificates of its *finished* handshake
/// (`connection.peer_certificates()`). `None` if it showed none.
pub fn peer_identity(certificates: &[CertificateDer<'_>]) -> Option<SpiffeId> {
    certificates
        .first()
        .and_then(|leaf| spiffe_id_of(leaf).ok())
}

/// Our clock, for rustls.
struct ClockTime(Arc<dyn Clock>);

impl TimeProvider for ClockTime {
    fn current_time(&self) -> Option<UnixTime> {
        let millis = u64::try_from(self.0.now().unix_millis()).ok()?;
        Some(UnixTime::since_unix_epoch(
            std::time::Duration::from_millis(millis),
        ))
    }
}

impl std::fmt::Debug for ClockTime {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("ClockTime")
    }
}

fn alpn_protocols(names: &[&str]) -> Vec<Vec<u8>> {
    names.iter().map(|name| name.as_bytes().to_vec()).collect()
}
