//! Who asks, as far as the caller of this crate has verified it.

use std::net::IpAddr;

use testudo_model::{SpiffeId, event::Actor};

/// What the events of an operation say about who asked for it. Authorization happened before.
#[derive(Debug, Clone, Default)]
pub struct Caller {
    /// The verified actor: an administrator, a workload, or nobody yet.
    pub actor: Actor,
    /// The client's address, by the trusted-proxy rules. Login throttling counts by it.
    pub source_ip: Option<IpAddr>,
    /// W3C trace id.
    pub trace_id: Option<String>,
}

/// The verified mTLS peer of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its SPIFFE id, verified against the trust bundle.
    pub spiffe_id: SpiffeId,
    /// SHA-256 thumbprint of its certificate, base64url (`x5t#S256`, RFC 8705 section 3.1).
    pub certificate_thumbprint: String,
}
