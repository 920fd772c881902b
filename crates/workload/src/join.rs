//! Join tokens: how a proxy that knows nobody is let in, once.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use testudo_model::{
    JoinToken, JoinTokenId, Redacted, SpiffeId, Timestamp,
    event::{EventClass, Outcome},
    random_bytes,
};
use testudo_store::{Cursor, Expected, Record, StoreError, Versioned};
use testudo_trust::{base64url, constant_time_eq, hex, sha256};

use crate::{Caller, WorkloadError, Workloads, sink::Fact};

/// Longest life of a join token.
pub const MAX_JOIN_TOKEN_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// How long a used or expired token stays in the list.
const MEMORY: Duration = Duration::from_secs(7 * 24 * 3600);
const PAGE: usize = 500;

/// What a new join token shall be good for.
#[derive(Debug, Clone)]
pub struct JoinTokenRequest {
    /// The identity its one user gets.
    pub id: SpiffeId,
    /// How long it may wait; cut to [`MAX_JOIN_TOKEN_LIFETIME`].
    pub lifetime: Duration,
    /// `host:port` to print into it.
    pub server: Option<String>,
}

/// A join token as lists show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinTokenStatus {
    /// Its public half.
    pub token: JoinTokenId,
    /// The identity it is bound to.
    pub id: SpiffeId,
    /// When it was made.
    pub created: Timestamp,
    /// When it can no longer be used.
    pub expires: Timestamp,
    /// When it was used.
    pub used: Option<Timestamp>,
}

/// What is kept of a token. The secret has 256 random bits, so one hash is enough.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct StoredJoinToken {
    token: JoinTokenId,
    pub(crate) id: SpiffeId,
    secret_sha256: String,
    created: Timestamp,
    expires: Timestamp,
    used: Option<Timestamp>,
}

impl Record for StoredJoinToken {
    const COLLECTION: &'static str = "workload.join_tokens";

    fn key(&self) -> String {
        self.token.to_string()
    }

    fn expires(&self) -> Option<Timestamp> {
        Some(self.expires + MEMORY)
    }
}

impl Workloads {
    /// Makes a join token for a registered identity. While a root is being rotated, it lives no longer than
    /// the root it pins.
    ///
    /// # Errors
    /// The identity is not registered or revoked, the store fails, or the event could not be recorded.
    pub fn create_join_token(
        &self,
        request: &JoinTokenRequest,
        caller: &Caller,
    ) -> Result<JoinToken, WorkloadError> {
        self.registration(&request.id)?;
        let now = self.clock.now();
        let (ca_sha256, pin_ends) = self.pin()?;
        let expires = now + request.lifetime.min(MAX_JOIN_TOKEN_LIFETIME);
        let secret = base64url::encode(&random_bytes::<32>(&*self.entropy));
        let stored = StoredJoinToken {
            token: JoinTokenId::generate(&*self.clock, &*self.entropy),
            id: request.id.clone(),
            secret_sha256: hex::encode(&sha256(secret.as_bytes())),
            created: now,
            expires: pin_ends.map_or(expires, |ends| ends.min(expires)),
            used: None,
        };
        self.tenant.put(Expected::Absent, &stored)?;
        self.record(Fact {
            class: EventClass::AccountChange,
            activity: "join_token.create",
            outcome: Outcome::Success,
            caller,
            target: request.id.to_string(),
            details: vec![
                ("join_token", stored.token.to_string().into()),
                ("expires", stored.expires.to_string().into()),
            ],
        })?;
        Ok(JoinToken {
            id: stored.token,
            secret: Redacted::new(secret),
            ca_sha256,
            identity: stored.id,
            server: request.server.clone(),
        })
    }

    /// All remembered join tokens, the oldest first.
    ///
    /// # Errors
    /// The store fails.
    pub fn join_tokens(&self) -> Result<Vec<JoinTokenStatus>, WorkloadError> {
        let mut all = Vec::new();
        let mut after: Option<Cursor> = None;
        loop {
            let page = self.tenant.list::<StoredJoinToken>(after, PAGE)?;
            all.extend(page.items.into_iter().map(|item| item.record.status()));
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(all),
            }
        }
    }

    /// Takes a join token back, and answers what it was when it went: whether somebody had used it is what the
    /// caller has to know. `None` if there was none.
    ///
    /// # Errors
    /// The store fails, or the event could not be recorded.
    pub fn delete_join_token(
        &self,
        token: &JoinTokenId,
        caller: &Caller,
    ) -> Result<Option<JoinTokenStatus>, WorkloadError> {
        let deleted = loop {
            let Some(known) = self.tenant.get::<StoredJoinToken>(token.as_str())? else {
                return Ok(None);
            };
            let unchanged = Expected::Version(known.version);
            match self
                .tenant
                .delete::<StoredJoinToken>(unchanged, token.as_str())
            {
                Ok(_) => break known.record.status(),
                // Used or deleted just now; each happens once.
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        };
        let mut details = vec![("join_token", token.to_string().into())];
        details.extend(deleted.used.map(|at| ("used", at.to_string().into())));
        self.record(Fact {
            class: EventClass::AccountChange,
            activity: "join_token.delete",
            outcome: Outcome::Success,
            caller,
            target: deleted.id.to_string(),
            details,
        })?;
        Ok(Some(deleted))
    }

    /// The unused, unexpired token that `credential` (`<token id>.<secret>`) opens.
    pub(crate) fn present_join_token(
        &self,
        credential: &Redacted<String>,
    ) -> Result<Versioned<StoredJoinToken>, WorkloadError> {
        let (token, secret) = JoinToken::parse_credential(credential.expose())
            .map_err(|_| WorkloadError::JoinTokenUnknown)?;
        let stored = self
            .tenant
            .get::<StoredJoinToken>(token.as_str())?
            .ok_or(WorkloadError::JoinTokenUnknown)?;
        let presented = hex::encode(&sha256(secret.expose().as_bytes()));
        // The secret first: what else is wrong is only for those who know it.
        if !constant_time_eq(presented.as_bytes(), stored.record.secret_sha256.as_bytes()) {
            return Err(WorkloadError::JoinTokenUnknown);
        }
        if let Some(at) = stored.record.used {
            return Err(WorkloadError::JoinTokenUsed { at });
        }
        if stored.record.expires <= self.clock.now() {
            return Err(WorkloadError::JoinTokenExpired {
                at: stored.record.expires,
            });
        }
        Ok(stored)
    }

    /// Uses the token up. Of parallel attempts one wins; the others are refused.
    pub(crate) fn redeem_join_token(
        &self,
        presented: Versioned<StoredJoinToken>,
    ) -> Result<(), WorkloadError> {
        let now = self.clock.now();
        let used = StoredJoinToken {
            used: Some(now),
            ..presented.record
        };
        match self.tenant.put(Expected::Version(presented.version), &used) {
            Ok(_) => Ok(()),
            Err(StoreError::Conflict { .. }) => Err(WorkloadError::JoinTokenUsed { at: now }),
            Err(error) => Err(error.into()),
        }
    }
}

impl StoredJoinToken {
    fn status(self) -> JoinTokenStatus {
        JoinTokenStatus {
            token: self.token,
            id: self.id,
            created: self.created,
            expires: self.expires,
            used: self.used,
        }
    }
}
