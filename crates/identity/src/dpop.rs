//! Proof of possession (DPoP, RFC 9449): a token that is bound to a key is worth nothing to whoever has only the token.
//!
//! Every proof must have a nonce of ours. It says when the proof was made, whatever the client's clock says, and it is
//! not stored: it is its own time under a MAC. A proof is good once, so its digest is remembered while its nonce would
//! be accepted. If more come than can be remembered, all is forgotten and no nonce from before is accepted any more:
//! clients try again with the next one (section 8), and nothing is ever good twice.

use serde::{Deserialize, Serialize};
use testudo_model::{Timestamp, limits::PROOF_FUTURE_LIMIT};
use testudo_trust::{DpopProof, DpopProofError, Novelty, base64url};
use url::Url;

use crate::{ErrorCode, OauthError, Provider, limits::PROOF_CLOCK_SKEW};

/// Of which key the MAC in the nonces is: the same on every node.
pub(crate) const NONCE_KEY_CONTEXT: &[u8] = b"testudo dpop nonce key v1";

/// SHA-256 thumbprint of a public key (RFC 7638), base64url: a `jkt`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct KeyThumbprint(String);

impl KeyThumbprint {
    /// Takes exactly the 43 characters that encode 32 bytes.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let is_sha256 =
            text.len() == 43 && base64url::decode(text).is_some_and(|hash| hash.len() == 32);
        is_sha256.then(|| Self(text.to_owned()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// The request a proof must have been made for.
#[derive(Debug, Clone, Copy)]
pub struct ProofTarget<'a> {
    /// HTTP method.
    pub method: &'a str,
    /// Path of the endpoint below the issuer.
    pub path: &'a str,
}

/// A proof whose key, request and time are right, and which was not looked for among the used ones yet.
#[derive(Debug)]
#[must_use]
pub(crate) struct FreshProof {
    key: KeyThumbprint,
    proof: DpopProof,
}

/// Why a proof proves nothing.
#[derive(Debug, thiserror::Error)]
pub enum DpopError {
    /// There is none, but the token, code or client needs one.
    #[error("a DPoP proof is required here")]
    Missing,
    /// Not a proof, or one of something else.
    #[error("the DPoP proof is refused: {0}")]
    Invalid(DpopProofError),
    /// One for another endpoint.
    #[error("the DPoP proof is refused: htu is not the address of this endpoint")]
    Address,
    /// One of another time.
    #[error("the DPoP proof is refused: iat is minutes away from our time")]
    Time,
    /// It has no nonce, or one that is too old: try again with this one.
    #[error("the DPoP proof needs the nonce of the DPoP-Nonce field")]
    Nonce {
        /// The nonce to use.
        nonce: String,
    },
    /// It came before.
    #[error("the DPoP proof was used before")]
    Replayed,
}

impl DpopError {
    /// The answer of the token endpoint (section 5).
    pub fn to_oauth(&self) -> OauthError {
        let (error, nonce) = match self {
            Self::Nonce { nonce } => (ErrorCode::UseDpopNonce, Some(nonce.clone())),
            Self::Missing | Self::Invalid(_) | Self::Address | Self::Time | Self::Replayed => {
                (ErrorCode::InvalidDpopProof, None)
            }
        };
        OauthError {
            dpop_nonce: nonce,
            ..OauthError::new(error, 400, self)
        }
    }

    /// The answer of a protected resource (section 7.1).
    pub(crate) fn to_challenge(&self) -> OauthError {
        let answer = self.to_oauth();
        OauthError {
            status: 401,
            challenge: Some(challenge(answer.error)),
            ..answer
        }
    }
}

/// `WWW-Authenticate` for whoever presents a token with a proof.
pub(crate) fn challenge(error: ErrorCode) -> String {
    format!(
        r#"DPoP realm="testudo", error="{}", algs="ES256""#,
        error.as_str()
    )
}

impl Provider {
    /// Checks all of a proof that needs no memory (section 4.3). `token` is the access token it comes with, at a
    /// resource.
    pub(crate) fn check_proof(
        &self,
        proof: &str,
        target: ProofTarget<'_>,
        token: Option<&str>,
    ) -> Result<FreshProof, DpopError> {
        let proof = DpopProof::read(proof, target.method, token).map_err(DpopError::Invalid)?;
        let key = KeyThumbprint::parse(proof.key())
            .ok_or(DpopError::Invalid(DpopProofError::Malformed))?;
        if !self.is_at(proof.address(), target.path) {
            return Err(DpopError::Address);
        }
        let now = self.clock.now();
        if !self.used_proofs.accepts_nonce(proof.nonce(), now) {
            return Err(DpopError::Nonce {
                nonce: self.dpop_nonce(),
            });
        }
        let issued_at = Timestamp::from_unix_seconds(proof.issued_at());
        if issued_at > now + PROOF_FUTURE_LIMIT || now.since(issued_at) > PROOF_CLOCK_SKEW {
            return Err(DpopError::Time);
        }
        Ok(FreshProof { key, proof })
    }

    /// Uses a proof up: the second time it is refused. Returns the key it is of.
    pub(crate) fn use_proof(&self, fresh: FreshProof) -> Result<KeyThumbprint, DpopError> {
        match self.used_proofs.add(&fresh.proof, self.clock.now()) {
            Novelty::New => Ok(fresh.key),
            Novelty::Known => Err(DpopError::Replayed),
            Novelty::Forgotten => Err(DpopError::Nonce {
                nonce: self.dpop_nonce(),
            }),
        }
    }

    /// A nonce of now.
    pub(crate) fn dpop_nonce(&self) -> String {
        self.used_proofs.nonce(self.clock.now())
    }

    /// Whether `htu` is the endpoint at `path`, after normalisation, without query and fragment (section 4.3).
    fn is_at(&self, htu: &str, path: &str) -> bool {
        let expected = Url::parse(&format!("{}{path}", self.settings.issuer));
        let (Ok(expected), Ok(mut given)) = (expected, Url::parse(htu)) else {
            return false;
        };
        given.set_query(None);
        given.set_fragment(None);
        given == expected
    }
}
