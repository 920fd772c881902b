//! Initial access tokens (RFC 7591 section 1.2): an administrator makes them, and with each a number of clients may be
//! registered for a time.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use testudo_model::{Redacted, RegistrationTokenId, Timestamp, event::EventClass};
use testudo_store::{Cursor, Expected, Page, Record, Versioned};

use super::RegistrationError;
use crate::{
    AdminError, Caller, Fault, Provider,
    admin::check_text,
    change::{Change, Report, until_settled},
    limits::{MAX_REGISTRATION_TOKEN_LIFETIME, MAX_REGISTRATION_TOKEN_USES},
    secret::{self, StoredSecret},
};

/// A token with which clients may be registered.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RegistrationToken {
    /// The public half of the token.
    pub id: RegistrationTokenId,
    /// What it is for, in the words of who made it.
    pub label: Option<String>,
    /// How many clients may still be registered with it.
    pub uses_left: u32,
    /// When it was made.
    pub created_at: Timestamp,
    /// From when on it is worthless.
    pub expires_at: Timestamp,
    digest: StoredSecret,
}

/// A token to make.
#[derive(Debug, Clone)]
pub struct NewRegistrationToken {
    /// What it is for.
    pub label: Option<String>,
    /// How many clients may be registered with it.
    pub uses: u32,
    /// How long.
    pub lifetime: Duration,
}

impl Record for RegistrationToken {
    const COLLECTION: &'static str = "identity.registration_token";

    fn key(&self) -> String {
        self.id.to_string()
    }

    fn expires(&self) -> Option<Timestamp> {
        Some(self.expires_at)
    }
}

impl Provider {
    /// Makes a token with which clients may be registered. It is told once.
    ///
    /// # Errors
    /// It is for no client or too many, or for too long.
    pub fn create_registration_token(
        &self,
        new: &NewRegistrationToken,
        caller: &Caller,
    ) -> Result<(RegistrationToken, Redacted<String>), AdminError> {
        check_text("label", new.label.as_deref())?;
        if !(1..=MAX_REGISTRATION_TOKEN_USES).contains(&new.uses) {
            let why = format!("is 1 to {MAX_REGISTRATION_TOKEN_USES}");
            return Err(AdminError::invalid("number of uses", why));
        }
        if new.lifetime.is_zero() || new.lifetime > MAX_REGISTRATION_TOKEN_LIFETIME {
            let days = MAX_REGISTRATION_TOKEN_LIFETIME.as_secs() / (24 * 3600);
            let why = format!("is a second to {days} days");
            return Err(AdminError::invalid("lifetime", why));
        }
        let (now, made) = (self.clock.now(), secret::generate(&*self.entropy));
        let token = RegistrationToken {
            id: RegistrationTokenId::generate(&*self.clock, &*self.entropy),
            label: new.label.clone(),
            uses_left: new.uses,
            created_at: now,
            expires_at: now + new.lifetime,
            digest: StoredSecret::new(secret::digest(made.expose())),
        };
        let said = report("registration_token.create", &token.id)
            .detail("uses", u64::from(new.uses))
            .detail("expires", token.expires_at.to_string());
        let change = self.change().put(Expected::Absent, &token);
        if !change.report(said, caller).commit()? {
            return Err(Fault::Contended.into());
        }
        let text = Redacted::new(format!("{}.{}", token.id, made.expose()));
        Ok((token, text))
    }

    /// A page of the tokens that may still be used.
    ///
    /// # Errors
    /// The store fails.
    pub fn registration_tokens(
        &self,
        after: Option<Cursor>,
        limit: usize,
    ) -> Result<Page<RegistrationToken>, AdminError> {
        self.page(after, limit)
    }

    /// Takes a token back. Clients that were registered with it stay.
    ///
    /// # Errors
    /// There is none.
    pub fn delete_registration_token(
        &self,
        id: &RegistrationTokenId,
        caller: &Caller,
    ) -> Result<RegistrationToken, AdminError> {
        until_settled(|| {
            let stored = self.tenant.get::<RegistrationToken>(id.as_str())?;
            let stored = stored.ok_or_else(|| AdminError::NotFound {
                kind: "registration token",
                name: id.to_string(),
            })?;
            let expected = Expected::Version(stored.version);
            let change = self
                .change()
                .delete::<RegistrationToken>(expected, id.as_str())
                .report(report("registration_token.delete", id), caller);
            Ok(change.commit()?.then_some(stored.record))
        })
    }

    /// The token that `text` is, if a client may be registered with it.
    pub(super) fn usable_registration_token(
        &self,
        text: &str,
    ) -> Result<Versioned<RegistrationToken>, RegistrationError> {
        let (id, secret) = text.split_once('.').ok_or(RegistrationError::Token)?;
        let id: RegistrationTokenId = id.parse().map_err(|_| RegistrationError::Token)?;
        let stored = self.tenant.get::<RegistrationToken>(id.as_str());
        let stored = stored.map_err(Fault::from)?;
        stored
            .filter(|token| secret::matches(secret, token.record.digest.expose()))
            .ok_or(RegistrationError::Token)
    }
}

/// Uses `token` once, in the change that registers the client: of two at the same moment one sees what the other left.
pub(super) fn spend<'p>(change: Change<'p>, token: &Versioned<RegistrationToken>) -> Change<'p> {
    let expected = Expected::Version(token.version);
    match token.record.uses_left {
        0 | 1 => change.delete::<RegistrationToken>(expected, token.record.id.as_str()),
        more => {
            let token = RegistrationToken {
                uses_left: more - 1,
                ..token.record.clone()
            };
            change.put(expected, &token)
        }
    }
}

fn report(activity: &str, id: &RegistrationTokenId) -> Report {
    Report::new(EventClass::AccountChange, activity).target(id.as_str())
}
