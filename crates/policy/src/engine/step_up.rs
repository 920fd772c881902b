//! What login would do where a user is denied (RFC 9470): found by asking the policies themselves, so that nobody has to say
//! it twice.

use std::time::Duration;

use super::{PolicyEngine, UserBehind};
use crate::{
    decision::{Call, TokenFacts},
    facts::Facts,
};

/// What a login can be at best: 3 is phishing-resistant.
const STRONGEST: i64 = 3;
/// Ages of a login that are tried, in seconds and from the oldest on: a policy that demands another is answered with the
/// next one below.
const AGES: [u32; 12] = [
    86_400, 43_200, 28_800, 14_400, 7_200, 3_600, 1_800, 900, 600, 300, 120, 60,
];

/// The weakest login with which a call would be allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepUp {
    /// How strong it must be, if the present one is too weak: 2 two factors, 3 phishing-resistant.
    pub assurance: Option<i64>,
    /// How old it may be, in seconds, if the present one is too old.
    pub max_age: Option<u32>,
}

impl PolicyEngine {
    /// The weakest login of the same user with which `call`, which was denied, would be allowed; `None` if none would do.
    pub fn step_up(&self, call: &Call<'_>) -> Option<StepUp> {
        let token = call.token?;
        let parties = self.parties(call).ok()?;
        let UserBehind::Known(_) = parties.subject else {
            return None;
        };
        let facts = self.facts(&parties);
        let login = Facts::TOKEN_ASSURANCE.union(Facts::TOKEN_AUTHENTICATED_AT);
        if !facts.intersects(login) {
            return None;
        }
        let logins = Logins {
            engine: self,
            call,
            token,
        };
        if !logins.would_do(STRONGEST.max(token.assurance), Some(0)) {
            return None;
        }
        if logins.would_do(token.assurance, Some(0)) {
            return Some(StepUp {
                assurance: None,
                max_age: Some(logins.oldest(token.assurance)?),
            });
        }
        let assurance = (token.assurance + 1..=STRONGEST)
            .find(|assurance| logins.would_do(*assurance, Some(0)))?;
        let is_old = !logins.would_do(assurance, None);
        Some(StepUp {
            assurance: Some(assurance),
            max_age: if is_old {
                Some(logins.oldest(assurance)?)
            } else {
                None
            },
        })
    }
}

/// The call of a user who would have logged in otherwise.
struct Logins<'a> {
    engine: &'a PolicyEngine,
    call: &'a Call<'a>,
    token: TokenFacts<'a>,
}

impl Logins<'_> {
    /// Whether a login of this strength and age (in seconds; as old as it is for `None`) would be allowed.
    fn would_do(&self, assurance: i64, age: Option<u32>) -> bool {
        let authenticated_at = match age {
            Some(age) => self.call.now - Duration::from_secs(u64::from(age)),
            None => self.token.authenticated_at,
        };
        let token = TokenFacts {
            assurance,
            authenticated_at,
            ..self.token
        };
        let call = Call {
            token: Some(token),
            ..*self.call
        };
        self.engine.decide(&call).allowed
    }

    /// The greatest age that would do, of a strength that would do at all. `None` if not even a minute would: then no user
    /// could be that quick.
    fn oldest(&self, assurance: i64) -> Option<u32> {
        let first = AGES.partition_point(|age| !self.would_do(assurance, Some(*age)));
        AGES.get(first).copied()
    }
}
