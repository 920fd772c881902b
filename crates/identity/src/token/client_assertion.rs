//! `private_key_jwt` (RFC 7523, OpenID Connect Core section 9): a client proves itself with a JWT that its private key
//! signed, and of which we have the public half. There is no secret that could leak from here.
//!
//! An assertion is for us alone: its audience is the issuer and nothing else, as a text, which is what the FAPI 2.0
//! Security Profile asks for (section 5.3.2.1). It is good once, and for a few minutes at most from when it was made.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use serde::Deserialize;
use serde_json::Value;
use testudo_model::{ClientName, Timestamp, limits::MAX_PROOF_ID_BYTES};
use testudo_trust::{JwkSet, check_times, sha256, verify_client_assertion};

use super::client_authentication::ClientAuthenticationError;
use crate::{
    Fault, Provider,
    dpop::KeyThumbprint,
    limits::{ASSERTION_CLOCK_SKEW, MAX_ASSERTION_LIFETIME, MAX_USED_ASSERTIONS},
};

/// The one `client_assertion_type` there is (RFC 7523 section 2.2).
pub(super) const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// What an assertion says (RFC 7523 section 3).
#[derive(Deserialize)]
struct AssertionClaims {
    iss: String,
    sub: String,
    aud: Value,
    exp: i64,
    iat: Option<i64>,
    nbf: Option<i64>,
    jti: String,
}

impl Provider {
    /// Checks an assertion of `client` with its keys and uses it up. Returns the thumbprint of the key.
    pub(super) fn use_assertion(
        &self,
        assertion: &str,
        client: &ClientName,
        jwks: &str,
    ) -> Result<KeyThumbprint, ClientAuthenticationError> {
        let keys = JwkSet::parse(jwks).map_err(|_| Fault::Key {
            what: "key set of the client",
        })?;
        let failed = ClientAuthenticationError::Failed { basic: false };
        let Ok((claims, key)) = verify_client_assertion::<AssertionClaims>(assertion, &keys) else {
            return Err(failed);
        };
        let key = KeyThumbprint::parse(&key).ok_or(failed)?;
        // From here on whoever asks has the key, and may know what is wrong.
        let refused = |why| Err(ClientAuthenticationError::Assertion(why));
        if claims.iss != client.as_str() || claims.sub != client.as_str() {
            return refused("iss and sub must both be the client id");
        }
        if claims.aud.as_str() != Some(&self.settings.issuer) {
            return refused("aud must be the issuer, as a text");
        }
        let Some(ends) = self.end_of(&claims) else {
            return refused("it has ended, has not begun, or is of more than five minutes");
        };
        if !(1..=MAX_PROOF_ID_BYTES).contains(&claims.jti.len()) {
            return refused("jti is empty or too long");
        }
        match self
            .used_assertions
            .add(client, &claims.jti, ends, self.clock.now())
        {
            Novelty::New => Ok(key),
            Novelty::Known => refused("it was used before"),
            Novelty::NoRoom => Err(ClientAuthenticationError::Throttled),
        }
    }

    /// From when on an assertion is worthless that is good now. However long it says it lives, it does so for
    /// [`MAX_ASSERTION_LIFETIME`] from when it began: libraries give theirs an hour, and are asked for one each time.
    fn end_of(&self, claims: &AssertionClaims) -> Option<Timestamp> {
        let now = self.clock.now();
        // `iat` is optional: what does not say when it began begins now, and must not end late.
        let begun = claims.iat.or(claims.nbf);
        let latest = begun.map_or(now, Timestamp::from_unix_seconds) + MAX_ASSERTION_LIFETIME;
        let exp = match begun {
            Some(_) => claims.exp.min(latest.unix_seconds()),
            None if claims.exp > (latest + ASSERTION_CLOCK_SKEW).unix_seconds() => return None,
            None => claims.exp,
        };
        let begun = begun.unwrap_or(now.unix_seconds());
        check_times(begun, claims.nbf, exp, now, ASSERTION_CLOCK_SKEW).ok()?;
        Some(Timestamp::from_unix_seconds(exp) + ASSERTION_CLOCK_SKEW)
    }
}

/// What is known of an assertion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Novelty {
    /// It came for the first time, and is remembered from now on.
    New,
    /// It came before.
    Known,
    /// The client has more good ones than can be remembered.
    NoRoom,
}

/// The assertions that were used and have not ended, by client: one that floods us takes room from nobody else. Only
/// who has the key of a registered client gets something remembered.
#[derive(Default)]
pub(crate) struct UsedAssertions(Mutex<HashMap<ClientName, UsedByClient>>);

/// Of one client: when each ends.
#[derive(Default)]
struct UsedByClient {
    ends: HashMap<[u8; 16], Timestamp>,
    /// How many there may be before the ended ones are let go.
    sweep_at: usize,
}

impl UsedAssertions {
    fn add(&self, client: &ClientName, id: &str, ends: Timestamp, now: Timestamp) -> Novelty {
        let mut clients = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let used = clients.entry(client.clone()).or_default();
        let hash = sha256(id.as_bytes());
        let digest = hash.first_chunk::<16>().copied().unwrap_or_default();
        if used.ends.get(&digest).is_some_and(|ends| now < *ends) {
            return Novelty::Known;
        }
        if used.ends.len() >= used.sweep_at {
            used.ends.retain(|_, ends| now < *ends);
            // Each sweep is paid for by as many that came since the last one.
            used.sweep_at = (used.ends.len() * 2).clamp(64, MAX_USED_ASSERTIONS);
        }
        if used.ends.len() >= MAX_USED_ASSERTIONS {
            return Novelty::NoRoom;
        }
        used.ends.insert(digest, ends);
        Novelty::New
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_remembered_is_bounded_for_each_client_and_makes_room_when_it_ends() {
        let used = UsedAssertions::default();
        let (web, other) = ("web".parse().unwrap(), "other".parse().unwrap());
        let now = Timestamp::from_unix_seconds(1_795_341_600);
        let ends = now + Duration::from_secs(60);
        for number in 0..MAX_USED_ASSERTIONS {
            assert_eq!(used.add(&web, &number.to_string(), ends, now), Novelty::New);
        }
        assert_eq!(used.add(&web, "0", ends, now), Novelty::Known);
        assert_eq!(used.add(&web, "more", ends, now), Novelty::NoRoom);
        assert_eq!(used.add(&other, "more", ends, now), Novelty::New);
        assert_eq!(
            used.add(&web, "more", ends + Duration::from_secs(60), ends),
            Novelty::New
        );
        assert_eq!(used.0.lock().unwrap()[&web].ends.len(), 1);
    }
}
