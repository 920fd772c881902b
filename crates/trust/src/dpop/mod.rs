//! Proofs of possession (DPoP, RFC 9449): a token that is bound to a key is worth nothing to whoever has only the token.
//!
//! [`DpopProof`] is what a proof says, and that its key says it. [`ProofMemory`] knows whether it is new: by a nonce of
//! ours or by the client's clock, and by the proofs that came before. What is required of both is the caller's to choose.

mod memory;
mod nonce;

use serde::Deserialize;
use testudo_model::limits::MAX_PROOF_ID_BYTES;

pub use memory::{Novelty, ProofMemory};

use crate::{base64url, constant_time_eq, sha256, verify_jwt_of_own_key};

/// `typ` of a proof (section 4.2).
const PROOF_TYPE: &str = "dpop+jwt";

/// A proof that its key has signed, for a request by a certain method and with a certain access token.
#[derive(Debug)]
pub struct DpopProof {
    key: String,
    claims: ProofClaims,
}

/// Why a proof is none (section 4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DpopProofError {
    /// Not signed with the key in its header, or not a proof at all.
    #[error("it is not a JWT of type dpop+jwt signed with ES256")]
    Malformed,
    /// For another method.
    #[error("htm is not the method of the request")]
    Method,
    /// Without a name, or with one too long to remember.
    #[error("jti is empty or too long")]
    Id,
    /// For another access token.
    #[error("ath is not the hash of the access token")]
    Token,
}

/// The claims of a proof (section 4.2).
#[derive(Debug, Deserialize)]
struct ProofClaims {
    jti: String,
    htm: String,
    htu: String,
    iat: i64,
    nonce: Option<String>,
    ath: Option<String>,
}

impl DpopProof {
    /// Reads a proof for a request by `method`; `token` is the access token it comes with, at a resource. Its address
    /// and its time are the caller's to check, and whether it is new ([`ProofMemory`]).
    ///
    /// # Errors
    /// [`DpopProofError`].
    pub fn read(proof: &str, method: &str, token: Option<&str>) -> Result<Self, DpopProofError> {
        let (claims, key) = verify_jwt_of_own_key::<ProofClaims>(proof, PROOF_TYPE)
            .map_err(|_| DpopProofError::Malformed)?;
        if claims.htm != method {
            return Err(DpopProofError::Method);
        }
        if !(1..=MAX_PROOF_ID_BYTES).contains(&claims.jti.len()) {
            return Err(DpopProofError::Id);
        }
        if !token.is_none_or(|token| is_hash_of(token, claims.ath.as_deref())) {
            return Err(DpopProofError::Token);
        }
        Ok(Self { key, claims })
    }

    /// SHA-256 thumbprint of the key (RFC 7638), base64url: the `jkt`.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The address it was made for (`htu`), as the client wrote it.
    pub fn address(&self) -> &str {
        &self.claims.htu
    }

    /// When it was made by the client's clock, in seconds since the epoch.
    pub const fn issued_at(&self) -> i64 {
        self.claims.iat
    }

    /// The nonce it was made with.
    pub fn nonce(&self) -> Option<&str> {
        self.claims.nonce.as_deref()
    }

    /// Which of all keys' proofs it is.
    fn digest(&self) -> [u8; 16] {
        let hash = sha256(format!("{} {}", self.key, self.claims.jti).as_bytes());
        hash.first_chunk().copied().unwrap_or_default()
    }
}

fn is_hash_of(token: &str, hash: Option<&str>) -> bool {
    let expected = base64url::encode(&sha256(token.as_bytes()));
    hash.is_some_and(|hash| constant_time_eq(hash.as_bytes(), expected.as_bytes()))
}
