//! CONNECT at the outbound listener. Some clients (ureq, undici) ask any HTTP proxy for a tunnel, for plain
//! `http://` too.
//!
//! To a service that takes connections and no requests, CONNECT opens a connection ([`super::connect`]). Any other
//! tunnel of ours leads nowhere: what comes through it is served here, as a connection whose requests must all
//! be for the service that CONNECT named. No byte is forwarded that was not decided about.

use http::{HeaderMap, HeaderValue, StatusCode, Uri, header};

use crate::{
    framing::{Target, is_authority},
    routes::normalise_host,
    state::Enforced,
};

const HTTP_PORT: u16 = 80;
const HTTPS_PORT: u16 = 443;

/// Why there is no tunnel, or why a request may not pass it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TunnelError {
    /// RFC 9110 section 9.3.6: a host and a port, and no content.
    #[error("CONNECT must name a host and a port, and have no body")]
    Malformed,
    /// Not a service of this fleet.
    #[error("the host is not a service of this fleet, and a sidecar leads to nothing else")]
    Elsewhere,
    /// What is encrypted cannot be decided about.
    #[error(
        "nothing encrypted passes: call the service as http://, the sidecars encrypt between them"
    )]
    Encrypted,
    /// RFC 9110 section 15.5.20.
    #[error("the request is for another authority than the CONNECT that opened its tunnel")]
    Misdirected,
}

impl TunnelError {
    pub(crate) const fn status(self) -> StatusCode {
        match self {
            Self::Malformed => StatusCode::BAD_REQUEST,
            Self::Elsewhere => StatusCode::FORBIDDEN,
            Self::Encrypted => StatusCode::NOT_IMPLEMENTED,
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
        }
    }

    pub(crate) const fn code(self) -> &'static str {
        match self {
            Self::Malformed => "request.connect_malformed",
            Self::Elsewhere => "request.connect_elsewhere",
            Self::Encrypted => "request.connect_encrypted",
            Self::Misdirected => "request.misdirected",
        }
    }
}

/// What a CONNECT named, and all that may be asked for through it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tunnel {
    host: String,
    port: u16,
}

impl Tunnel {
    /// The tunnel to `target`, if there may be one, and the index of the service at its end. A forward proxy goes by
    /// the target and not by `Host`.
    pub(super) fn open(
        target: &Uri,
        fields: &HeaderMap,
        enforced: &Enforced,
    ) -> Result<(Self, usize), TunnelError> {
        if !has_no_content(fields) {
            return Err(TunnelError::Malformed);
        }
        let authority = target.authority().ok_or(TunnelError::Malformed)?;
        if !is_authority(authority.as_str()) {
            return Err(TunnelError::Malformed);
        }
        let port = authority.port_u16().ok_or(TunnelError::Malformed)?;
        let host = normalise_host(authority.as_str()).ok_or(TunnelError::Malformed)?;
        let called = enforced
            .service_index(&host)
            .ok_or(TunnelError::Elsewhere)?;
        // Whoever calls a service for requests by TLS would have them decided about by nobody.
        if port == HTTPS_PORT && enforced.routes().connection_to(called).is_none() {
            return Err(TunnelError::Encrypted);
        }
        Ok((Self { host, port }, called))
    }

    /// Whether a request for `target`, which the framing gate let through, may have come through here.
    pub(super) fn admit(&self, target: &Target) -> Result<(), TunnelError> {
        let port = match target.authority.parse::<http::uri::Authority>() {
            Ok(authority) => authority.port_u16().unwrap_or(HTTP_PORT),
            Err(_) => return Err(TunnelError::Misdirected),
        };
        let host = normalise_host(&target.authority);
        if host.as_deref() == Some(self.host.as_str()) && port == self.port {
            Ok(())
        } else {
            Err(TunnelError::Misdirected)
        }
    }
}

fn has_no_content(fields: &HeaderMap) -> bool {
    let is_zero = |length: &HeaderValue| length.as_bytes() == b"0";
    !fields.contains_key(header::TRANSFER_ENCODING)
        && fields.get_all(header::CONTENT_LENGTH).iter().all(is_zero)
}

#[cfg(test)]
mod tests {
    use testudo_model::CanonicalPath;

    use super::*;

    #[test]
    fn only_the_authority_that_was_named_passes() {
        let tunnel = Tunnel {
            host: "inventory".to_owned(),
            port: 80,
        };
        let passes = |authority: &str| {
            let path = CanonicalPath::parse("/").unwrap().into_owned();
            let target = Target {
                authority: authority.to_owned(),
                path,
                query: None,
            };
            tunnel.admit(&target).is_ok()
        };
        for same in ["inventory", "inventory:80", "Inventory", "inventory.:80"] {
            assert!(passes(same), "{same}");
        }
        for other in ["orders", "orders:80", "inventory:8080", "inventory.example"] {
            assert!(!passes(other), "{other}");
        }
    }

    #[test]
    fn a_connect_with_content_is_malformed() {
        let fields = |name: &'static str, value: &'static str| {
            HeaderMap::from_iter([(
                http::HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )])
        };
        assert!(has_no_content(&HeaderMap::new()));
        assert!(has_no_content(&fields("content-length", "0")));
        assert!(!has_no_content(&fields("content-length", "5")));
        assert!(!has_no_content(&fields("transfer-encoding", "chunked")));
    }
}
