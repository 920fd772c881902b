//! Nonces for proofs (RFC 9449 section 8): a time under a MAC, so that every node knows those of all nodes and nobody
//! keeps any.

use testudo_model::{Timestamp, limits::CLOCK_SKEW};
use testudo_trust::{base64url, constant_time_eq};

use crate::{Provider, limits::PROOF_NONCE_LIFETIME};

const CONTEXT: &[u8] = b"testudo dpop nonce v1";
/// Bytes of the time, then of the MAC: 32 characters of base64url together.
const TIME_BYTES: usize = 8;
const MAC_BYTES: usize = 16;

impl Provider {
    /// A nonce of now.
    pub(crate) fn dpop_nonce(&self) -> String {
        // One of before the last forgetting would not be accepted.
        let after = self.used_proofs.forgotten_until().unix_millis() + 1;
        let time = self.clock.now().unix_millis().max(after).to_be_bytes();
        base64url::encode(&[&time[..], &self.nonce_mac(time)].concat())
    }

    /// Whether a nonce is ours, new enough, and of after the last forgetting.
    pub(super) fn accepts_nonce(&self, nonce: Option<&str>) -> bool {
        let Some(made_at) = nonce.and_then(|nonce| self.nonce_time(nonce)) else {
            return false;
        };
        let now = self.clock.now();
        // `since` is zero for a nonce of the future: another node's clock made it.
        made_at > self.used_proofs.forgotten_until()
            && made_at <= now + CLOCK_SKEW
            && now.since(made_at) < PROOF_NONCE_LIFETIME
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
        let mac = self.flow_seal.authenticate(CONTEXT, &time);
        mac.first_chunk().copied().unwrap_or_default()
    }
}
