//! Nonces for proofs (RFC 9449 section 8): a time under a MAC, so that whoever has the key knows them all and nobody
//! keeps any.

use testudo_model::{
    Timestamp,
    limits::{CLOCK_SKEW, PROOF_FUTURE, PROOF_LIFETIME, PROOF_NONCE_LIFETIME},
};

use super::{DpopProof, ProofMemory};
use crate::{base64url, constant_time_eq, hmac_sha256};

const CONTEXT: &[u8] = b"testudo dpop nonce v1";
/// Bytes of the time, then of the MAC: 32 characters of base64url together.
const TIME_BYTES: usize = 8;
const MAC_BYTES: usize = 16;

impl ProofMemory {
    /// A nonce of `now`.
    pub fn nonce(&self, now: Timestamp) -> String {
        // One of before the last forgetting would not be accepted.
        let after = self.forgotten_until().unix_millis() + 1;
        let time = now.unix_millis().max(after).to_be_bytes();
        base64url::encode(&[&time[..], &self.nonce_mac(time)].concat())
    }

    /// Whether a nonce is ours, new enough, and of after the last forgetting.
    pub fn accepts_nonce(&self, nonce: Option<&str>, now: Timestamp) -> bool {
        let Some(made_at) = nonce.and_then(|nonce| self.nonce_time(nonce)) else {
            return false;
        };
        // `since` is zero for a nonce of the future: another node's clock made it.
        made_at > self.forgotten_until()
            && made_at <= now + CLOCK_SKEW
            && now.since(made_at) < PROOF_NONCE_LIFETIME
    }

    /// Whether a proof without a nonce is new enough by the client's clock (`iat`, seconds since the epoch), and surely
    /// of after the last forgetting.
    pub fn accepts_time(&self, issued_at: i64, now: Timestamp) -> bool {
        let made_at = Timestamp::from_unix_seconds(issued_at);
        made_at > self.forgotten_until() + PROOF_FUTURE
            && made_at <= now + PROOF_FUTURE
            && now.since(made_at) < PROOF_LIFETIME
    }

    /// A time before which `proof` was surely not used.
    pub(super) fn made_after(&self, proof: &DpopProof) -> Timestamp {
        let by_nonce = proof.nonce().and_then(|nonce| self.nonce_time(nonce));
        by_nonce.unwrap_or_else(|| Timestamp::from_unix_seconds(proof.issued_at()) - PROOF_FUTURE)
    }

    fn nonce_time(&self, nonce: &str) -> Option<Timestamp> {
        if nonce.len() != (TIME_BYTES + MAC_BYTES) / 3 * 4 {
            return None;
        }
        let bytes = base64url::decode(nonce)?;
        let (time, mac) = bytes.split_first_chunk::<TIME_BYTES>()?;
        constant_time_eq(mac, &self.nonce_mac(*time))
            .then(|| Timestamp::from_unix_millis(i64::from_be_bytes(*time)))
    }

    fn nonce_mac(&self, time: [u8; TIME_BYTES]) -> [u8; MAC_BYTES] {
        let mac = hmac_sha256(&self.nonce_key, &[CONTEXT, &time].concat());
        mac.first_chunk().copied().unwrap_or_default()
    }
}
