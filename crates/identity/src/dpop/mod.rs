//! Proof of possession (DPoP, RFC 9449): a token that is bound to a key is worth nothing to whoever has only the token.
//!
//! Every proof must have a nonce of ours. It says when the proof was made, whatever the client's clock says, and it is
//! not stored: it is its own time under a MAC. A proof is good once, so its digest is remembered while its nonce would
//! be accepted. If more come than can be remembered, all is forgotten and no nonce from before is accepted any more:
//! clients try again with the next one (section 8), and nothing is ever good twice.

mod nonce;
mod replay;

use serde::{Deserialize, Serialize};
use testudo_trust::{base64url, constant_time_eq, sha256, verify_jwt_of_own_key};
use url::Url;

use crate::{
    ErrorCode, OauthError, Provider,
    limits::{MAX_PROOF_ID_BYTES, PROOF_CLOCK_SKEW},
};

pub(crate) use replay::UsedProofs;

/// `typ` of a proof (section 4.2).
const PROOF_TYPE: &str = "dpop+jwt";

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
    digest: [u8; 16],
}

/// Why a proof proves nothing.
#[derive(Debug, thiserror::Error)]
pub enum DpopError {
    /// There is none, but the token, code or client needs one.
    #[error("a DPoP proof is required here")]
    Missing,
    /// Not a proof, or one of something else.
    #[error("the DPoP proof is refused: {0}")]
    Invalid(&'static str),
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
            Self::Missing | Self::Invalid(_) | Self::Replayed => {
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

/// The claims of a proof (section 4.2).
#[derive(Deserialize)]
struct ProofClaims {
    jti: String,
    htm: String,
    htu: String,
    iat: i64,
    nonce: Option<String>,
    ath: Option<String>,
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
        let (claims, key) =
            verify_jwt_of_own_key::<ProofClaims>(proof, PROOF_TYPE).map_err(|_| {
                DpopError::Invalid("it is not a JWT of type dpop+jwt signed with ES256")
            })?;
        let key = KeyThumbprint::parse(&key).ok_or(DpopError::Invalid("its key has no name"))?;
        if claims.htm != target.method {
            return Err(DpopError::Invalid("htm is not the method of the request"));
        }
        if !self.is_at(&claims.htu, target.path) {
            return Err(DpopError::Invalid(
                "htu is not the address of this endpoint",
            ));
        }
        if !(1..=MAX_PROOF_ID_BYTES).contains(&claims.jti.len()) {
            return Err(DpopError::Invalid("jti is empty or too long"));
        }
        if !token.is_none_or(|token| is_hash_of(token, claims.ath.as_deref())) {
            return Err(DpopError::Invalid(
                "ath is not the hash of the access token",
            ));
        }
        if !self.accepts_nonce(claims.nonce.as_deref()) {
            return Err(DpopError::Nonce {
                nonce: self.dpop_nonce(),
            });
        }
        let distance = self.clock.now().unix_seconds().abs_diff(claims.iat);
        if distance > PROOF_CLOCK_SKEW.as_secs() {
            return Err(DpopError::Invalid("iat is minutes away from our time"));
        }
        Ok(FreshProof {
            digest: digest(&key, &claims.jti),
            key,
        })
    }

    /// Uses a proof up: the second time it is refused. Returns the key it is of.
    pub(crate) fn use_proof(&self, proof: FreshProof) -> Result<KeyThumbprint, DpopError> {
        let now = self.clock.now();
        match self.used_proofs.add(proof.digest, now) {
            replay::Novelty::New => Ok(proof.key),
            replay::Novelty::Known => Err(DpopError::Replayed),
            replay::Novelty::Forgotten => Err(DpopError::Nonce {
                nonce: self.dpop_nonce(),
            }),
        }
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

/// Which of all keys' proofs it is.
fn digest(key: &KeyThumbprint, id: &str) -> [u8; 16] {
    let hash = sha256(format!("{} {id}", key.as_str()).as_bytes());
    hash.first_chunk::<16>().copied().unwrap_or_default()
}

fn is_hash_of(token: &str, hash: Option<&str>) -> bool {
    let expected = base64url::encode(&sha256(token.as_bytes()));
    hash.is_some_and(|hash| constant_time_eq(hash.as_bytes(), expected.as_bytes()))
}
