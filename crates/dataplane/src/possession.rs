//! Proof that a caller holds the key its access token is bound to (DPoP, RFC 9449 section 7): a token that was copied
//! from a log, a browser or another service opens nothing.
//!
//! A proof says when it was made: by a nonce of this gateway, or by the client's own clock. A nonce is asked for when the
//! clock is off, or when the proof may have come before the gateway's memory of proofs began; honest clients whose clock
//! is right are never asked twice. Nonces that are not ours say nothing: clients keep the last one they got, and behind
//! a load balancer that is another gateway's.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, Method, Uri, uri::Scheme};
use testudo_model::{CanonicalPath, Clock, Entropy, Timestamp, limits, random_bytes};
use testudo_trust::{DpopProof, DpopProofError, Novelty, ProofMemory, WebCertificate};

use crate::{
    framing::Target,
    routes::{RouteTable, normalise_host},
};

/// The field of the proof (section 4.1).
pub(crate) const DPOP: HeaderName = HeaderName::from_static("dpop");
/// The field of the nonce (section 8.1).
pub(crate) const DPOP_NONCE: HeaderName = HeaderName::from_static("dpop-nonce");

/// Why a proof of possession is refused. The text is public.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProofError {
    /// Section 4.3: one field. Two parsers would choose different ones.
    #[error("the scheme `DPoP` needs exactly one `DPoP` field")]
    NotOne,
    /// Not a proof, or one of something else.
    #[error("the DPoP proof is refused: {0}")]
    Invalid(#[from] DpopProofError),
    /// For another resource, or for a name that is not this gateway's.
    #[error("the DPoP proof is refused: htu is not the address of this request")]
    Address,
    /// Of the future, whatever its nonce says.
    #[error("the DPoP proof is refused: iat is more than a minute ahead of our time")]
    Future,
    /// By another key than the token is bound to.
    #[error("the DPoP proof is refused: the token is bound to another key")]
    Key,
    /// Nothing says that it is new: try again with this nonce.
    #[error("the DPoP proof needs the nonce of the DPoP-Nonce field")]
    Nonce(String),
    /// It came before.
    #[error("the DPoP proof was used before")]
    Replayed,
}

impl ProofError {
    pub(crate) const fn code(&self) -> &'static str {
        match self {
            Self::NotOne | Self::Invalid(_) | Self::Address | Self::Future | Self::Key => {
                "token.proof"
            }
            Self::Nonce(_) => "token.proof_nonce",
            Self::Replayed => "token.proof_replayed",
        }
    }

    /// `error` of the challenge (section 7.1).
    pub(crate) const fn challenge(&self) -> &'static str {
        match self {
            Self::Nonce(_) => r#"DPoP error="use_dpop_nonce", algs="ES256""#,
            _ => r#"DPoP error="invalid_dpop_proof", algs="ES256""#,
        }
    }

    /// The nonce to try again with.
    pub(crate) fn nonce(&self) -> Option<&str> {
        match self {
            Self::Nonce(nonce) => Some(nonce),
            _ => None,
        }
    }
}

/// A request with a token that is bound to a key.
#[derive(Clone, Copy)]
pub(crate) struct BoundRequest<'a> {
    pub(crate) method: &'a Method,
    pub(crate) target: &'a Target,
    pub(crate) fields: &'a HeaderMap,
    pub(crate) token: &'a str,
    /// Thumbprint of the key (`jkt`).
    pub(crate) key: &'a str,
}

/// What a gateway knows of proofs, in all its workers together.
pub(crate) struct Possession {
    clock: Arc<dyn Clock>,
    certificate: WebCertificate,
    memory: ProofMemory,
}

impl Possession {
    pub(crate) fn new(
        clock: Arc<dyn Clock>,
        entropy: &dyn Entropy,
        certificate: WebCertificate,
    ) -> Self {
        let nonce_key = random_bytes::<32>(entropy);
        Self {
            memory: ProofMemory::new(nonce_key, limits::MAX_GATEWAY_PROOFS, clock.now()),
            clock,
            certificate,
        }
    }

    /// Checks that whoever sent `request` has the key its token is bound to, and says so for the first time.
    ///
    /// # Errors
    /// [`ProofError`].
    pub(crate) fn prove(
        &self,
        request: BoundRequest<'_>,
        routes: &RouteTable,
    ) -> Result<(), ProofError> {
        let proof = only_proof(request.fields)?;
        let proof = DpopProof::read(proof, request.method.as_str(), Some(request.token))?;
        if proof.key() != request.key {
            return Err(ProofError::Key);
        }
        if !is_address_of(proof.address(), request.target)
            || !self.is_ours(&request.target.authority, routes)
        {
            return Err(ProofError::Address);
        }
        let now = self.clock.now();
        let is_fresh = self.memory.accepts_nonce(proof.nonce(), now)
            || self.memory.accepts_time(proof.issued_at(), now);
        if !is_fresh {
            return Err(ProofError::Nonce(self.memory.nonce(now)));
        }
        if Timestamp::from_unix_seconds(proof.issued_at()) > now + limits::PROOF_FUTURE_LIMIT {
            return Err(ProofError::Future);
        }
        match self.memory.add(&proof, now) {
            Novelty::New => Ok(()),
            Novelty::Known => Err(ProofError::Replayed),
            Novelty::Forgotten => Err(ProofError::Nonce(self.memory.nonce(now))),
        }
    }

    /// Whether a client that means this gateway says so with this name. A proof that was made for somebody else's name is
    /// not good here, though they pass it on with that name: only the token's own resource may see the token used.
    fn is_ours(&self, authority: &str, routes: &RouteTable) -> bool {
        normalise_host(authority)
            .is_some_and(|host| routes.has_host(&host) || self.certificate.is_for(&host))
    }
}

fn only_proof(fields: &HeaderMap) -> Result<&str, ProofError> {
    let mut proofs = fields.get_all(DPOP).iter();
    match (proofs.next(), proofs.next()) {
        (Some(proof), None) => proof
            .to_str()
            .map_err(|_| ProofError::Invalid(DpopProofError::Malformed)),
        _ => Err(ProofError::NotOne),
    }
}

/// Whether `htu` is the address of the request after normalisation (RFC 3986 sections 6.2.2 and 6.2.3), without query and
/// fragment (section 4.3).
fn is_address_of(htu: &str, target: &Target) -> bool {
    let Ok(address) = htu.parse::<Uri>() else {
        return false;
    };
    let is_same_authority = address.authority().is_some_and(|authority| {
        let (given, asked) = (authority.as_str(), target.authority.as_str());
        without_default_port(given).eq_ignore_ascii_case(without_default_port(asked))
    });
    address.scheme() == Some(&Scheme::HTTPS)
        && is_same_authority
        && CanonicalPath::parse(address.path()).is_ok_and(|path| path == target.path)
}

fn without_default_port(authority: &str) -> &str {
    authority.strip_suffix(":443").unwrap_or(authority)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_address(htu: &str) -> bool {
        let target = Target {
            authority: "Shop.example:8443".to_owned(),
            path: CanonicalPath::parse("/orders/a%20b").unwrap().into_owned(),
            query: Some("all=1".to_owned()),
        };
        is_address_of(htu, &target)
    }

    #[test]
    fn an_address_is_compared_after_normalisation_and_without_its_query() {
        for same in [
            "https://shop.example:8443/orders/a%20b",
            "HTTPS://SHOP.EXAMPLE:8443/orders/a%20b",
            "https://shop.example:8443/orders/%61%20b",
            "https://shop.example:8443/orders/a%20b?all=2#top",
        ] {
            assert!(is_address(same), "{same}");
        }
        for other in [
            "",
            "/orders/a%20b",
            "http://shop.example:8443/orders/a%20b",
            "https://shop.example/orders/a%20b",
            "https://shop.example:443/orders/a%20b",
            "https://shop.example:8443/orders/a%20b/",
            "https://shop.example:8443/orders/A%20b",
            "https://shop.example:8443/orders",
            "https://evil.example:8443/orders/a%20b",
            "https://shop.example:8443@evil.example/orders/a%20b",
            "https://evil@shop.example:8443/orders/a%20b",
            "https://shop.example:8443/x/../orders/a%20b",
            "https://shop.example:8443/orders/a b",
        ] {
            assert!(!is_address(other), "{other}");
        }
    }

    #[test]
    fn the_port_of_https_goes_without_saying() {
        let target = Target {
            authority: "shop.example".to_owned(),
            path: CanonicalPath::parse("/").unwrap().into_owned(),
            query: None,
        };
        assert!(is_address_of("https://shop.example:443", &target));
        assert!(is_address_of("https://shop.example/", &target));
        assert!(!is_address_of("https://shop.example:8443/", &target));
    }
}
