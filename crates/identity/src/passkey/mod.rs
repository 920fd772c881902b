//! Passkeys: what a user logs in with instead of a password. Possession of the authenticator and what it asks of its user
//! (a PIN, a finger) are two factors in one step, and no page of somebody else gets anything out of it.
//!
//! A challenge is the MAC of the form it was shown with: there is nothing to keep until it is used, it belongs to one form
//! in one browser, and none can be made elsewhere. That it was used is written together with what it was used for.

mod invitation;
mod login;
mod registration;

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use testudo_model::{Aaguid, Timestamp, UserId, event::EventClass};
use testudo_store::{Expected, Record, Versioned};
use testudo_trust::{base64url, hex, sha256};

pub(crate) use self::{
    invitation::Invitation,
    login::{AcceptedPasskey, ShownPasskey},
    registration::{NewPasskey, RegistrationError},
};
pub use self::{
    invitation::{InvitationAnswer, InvitationError, InvitationPage, NewInvitation},
    login::{PasskeyLoginRequest, PasskeyRequest},
    registration::PasskeyCreation,
};
use crate::{
    AdminError, Caller, Fault, Provider,
    change::{Report, until_settled},
    claims::{ASSURANCE_ONE_FACTOR, ASSURANCE_TWO_FACTORS},
    records::Session,
    signal::{Cause, Credential, CredentialChange, CredentialType},
    webauthn::{KnownCredential, NewCredential},
};

/// `amr` of a key whose maker is trusted to say that it never leaves its device (RFC 8176).
const METHOD_HARDWARE: &str = "hwk";
/// `amr` of a key that is synchronised between devices.
const METHOD_SOFTWARE: &str = "swk";
/// `amr` of a key of which nobody knows that.
const METHOD_POSSESSION: &str = "pop";
/// `amr` of somebody who was there and touched something.
const METHOD_PRESENCE: &str = "user";

/// Longest name of a passkey, in characters.
const MAX_NAME_CHARACTERS: usize = 64;
/// The name of one that got none.
const NAMELESS: &str = "Passkey";

/// Which passkey: derived from its credential id, which is too long to be shown and typed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PasskeyId(String);

/// Not the id of a passkey.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the id of a passkey has 32 hexadecimal digits")]
pub struct InvalidPasskeyId;

impl PasskeyId {
    fn of(credential_id: &[u8]) -> Self {
        let digest = sha256(credential_id);
        Self(hex::encode(
            digest
                .first_chunk::<16>()
                .map_or(&[], |half| half.as_slice()),
        ))
    }

    /// The same as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PasskeyId {
    type Err = InvalidPasskeyId;

    fn from_str(text: &str) -> Result<Self, InvalidPasskeyId> {
        match hex::decode(text) {
            Some(bytes) if bytes.len() == 16 => Ok(Self(text.to_owned())),
            _ => Err(InvalidPasskeyId),
        }
    }
}

impl fmt::Display for PasskeyId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// A credential of a user (WebAuthn section 4, credential record).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Passkey {
    id: PasskeyId,
    user: UserId,
    /// base64url.
    credential_id: String,
    /// COSE_Key, base64url.
    public_key: String,
    sign_count: u32,
    aaguid: Aaguid,
    is_attested: bool,
    backup_eligible: bool,
    backed_up: bool,
    name: String,
    created_at: Timestamp,
    last_used_at: Option<Timestamp>,
}

impl Record for Passkey {
    const COLLECTION: &'static str = "identity.passkey";

    fn key(&self) -> String {
        self.id.to_string()
    }

    fn indexes(&self) -> Vec<(&'static str, String)> {
        vec![("user", self.user.to_string())]
    }
}

impl Passkey {
    fn new(user: &UserId, name: &str, credential: &NewCredential, now: Timestamp) -> Self {
        Self {
            id: PasskeyId::of(&credential.id),
            user: user.clone(),
            credential_id: base64url::encode(&credential.id),
            public_key: base64url::encode(&credential.public_key),
            sign_count: credential.sign_count,
            aaguid: credential.aaguid,
            is_attested: credential.is_attested,
            backup_eligible: credential.backup_eligible,
            backed_up: credential.backed_up,
            name: name_of(name),
            created_at: now,
            last_used_at: None,
        }
    }

    pub(crate) const fn id(&self) -> &PasskeyId {
        &self.id
    }

    /// What receivers of signals learn of it.
    const fn credential(&self) -> Credential<'_> {
        Credential {
            user: &self.user,
            kind: CredentialType::of_passkey(self.backup_eligible),
            aaguid: Some(self.aaguid),
        }
    }

    fn known<'a>(&'a self, public_key: &'a [u8]) -> KnownCredential<'a> {
        KnownCredential {
            public_key,
            user_handle: self.user.as_str().as_bytes(),
            sign_count: self.sign_count,
            backup_eligible: self.backup_eligible,
        }
    }

    /// `amr` of a login with it, without `mfa`.
    const fn methods(&self) -> [&'static str; 2] {
        let key = match (self.backup_eligible, self.is_attested) {
            (true, _) => METHOD_SOFTWARE,
            (false, true) => METHOD_HARDWARE,
            (false, false) => METHOD_POSSESSION,
        };
        [key, METHOD_PRESENCE]
    }
}

/// A challenge that must not be used again.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct UsedChallenge {
    /// SHA-256, hex.
    digest: String,
    /// The end of its form.
    expires_at: Timestamp,
}

impl UsedChallenge {
    fn new(challenge: &[u8], expires_at: Timestamp) -> Self {
        Self {
            digest: hex::encode(&sha256(challenge)),
            expires_at,
        }
    }
}

impl Record for UsedChallenge {
    const COLLECTION: &'static str = "identity.used_challenge";

    fn key(&self) -> String {
        self.digest.clone()
    }

    fn expires(&self) -> Option<Timestamp> {
        Some(self.expires_at)
    }
}

/// What is shown of a passkey.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PasskeyView {
    /// Its id.
    pub id: PasskeyId,
    /// What its user calls it.
    pub name: String,
    /// The model of its authenticator, as far as that said it.
    pub aaguid: Aaguid,
    /// Whether somebody who is trusted vouched for that.
    pub is_attested: bool,
    /// Whether it may be on several devices.
    pub is_synchronised: bool,
    /// When it was added.
    pub created_at: Timestamp,
    /// When somebody last logged in with it.
    pub last_used_at: Option<Timestamp>,
}

impl From<Passkey> for PasskeyView {
    fn from(passkey: Passkey) -> Self {
        Self {
            id: passkey.id,
            name: passkey.name,
            aaguid: passkey.aaguid,
            is_attested: passkey.is_attested,
            is_synchronised: passkey.backup_eligible,
            created_at: passkey.created_at,
            last_used_at: passkey.last_used_at,
        }
    }
}

impl Provider {
    /// The passkeys of a user, the oldest first.
    ///
    /// # Errors
    /// The store fails.
    pub fn passkeys_of(&self, user: &UserId) -> Result<Vec<PasskeyView>, Fault> {
        let mut passkeys: Vec<PasskeyView> = self
            .stored_passkeys(user)?
            .into_iter()
            .map(|stored| stored.record.into())
            .collect();
        passkeys.sort_by_key(|passkey| passkey.created_at);
        Ok(passkeys)
    }

    /// Takes a passkey away: its user has lost it.
    ///
    /// # Errors
    /// The user has no such passkey.
    pub fn remove_passkey_of(
        &self,
        user: &UserId,
        passkey: &PasskeyId,
        caller: &Caller,
    ) -> Result<(), AdminError> {
        let report = self.account_report("passkey.remove", user.as_str());
        match self.delete_passkey(user, passkey, false, report, caller)? {
            true => Ok(()),
            false => Err(AdminError::NotFound {
                kind: "passkey",
                name: passkey.to_string(),
            }),
        }
    }

    pub(crate) fn stored_passkeys(&self, user: &UserId) -> Result<Vec<Versioned<Passkey>>, Fault> {
        Ok(self.tenant.find::<Passkey>("user", user.as_str())?)
    }

    /// Whether a user has what makes a login one of this class (`acr`).
    pub(crate) fn can_reach(&self, user: &UserId, class: &str) -> Result<bool, Fault> {
        Ok(class <= self.class_of_password(user)? || !self.stored_passkeys(user)?.is_empty())
    }

    /// The class of a login with the password, and with the second factor if the user has one.
    pub(crate) fn class_of_password(&self, user: &UserId) -> Result<&'static str, Fault> {
        Ok(match self.second_factor(user)? {
            Some(_) => ASSURANCE_TWO_FACTORS,
            None => ASSURANCE_ONE_FACTOR,
        })
    }

    /// Takes a passkey of the user of `session` away. Nobody learns whether there is one of that id.
    pub(crate) fn remove_own_passkey(
        &self,
        session: &Session,
        passkey: &PasskeyId,
        caller: &Caller,
    ) -> Result<(), Fault> {
        let report = own_report("passkey.remove", session);
        self.delete_passkey(&session.user, passkey, true, report, caller)
            .map(drop)
    }

    /// Gives a passkey of the user of `session` another name.
    pub(crate) fn rename_own_passkey(
        &self,
        session: &Session,
        passkey: &PasskeyId,
        name: &str,
        caller: &Caller,
    ) -> Result<(), Fault> {
        until_settled(|| {
            let Some(mut stored) = self.stored_passkey(&session.user, passkey)? else {
                return Ok(Some(()));
            };
            stored.record.name = name_of(name);
            let report = own_report("passkey.rename", session)
                .detail("passkey", passkey.as_str())
                .detail("name", stored.record.name.as_str());
            let change = self
                .change()
                .put(Expected::Version(stored.version), &stored.record);
            Ok(change.report(report, caller).commit()?.then_some(()))
        })
    }

    fn delete_passkey(
        &self,
        user: &UserId,
        passkey: &PasskeyId,
        by_user: bool,
        report: Report,
        caller: &Caller,
    ) -> Result<bool, Fault> {
        let report = report.detail("passkey", passkey.as_str());
        until_settled(|| {
            let Some(stored) = self.stored_passkey(user, passkey)? else {
                return Ok(Some(false));
            };
            // By version: a login with it has written it, and this is tried again.
            let change = self
                .change()
                .delete::<Passkey>(Expected::Version(stored.version), passkey.as_str())
                .signal_credential(
                    stored.record.credential(),
                    CredentialChange::removal(by_user),
                    Cause::by(by_user, "a passkey was removed"),
                )?;
            Ok(change.report_ref(&report, caller).commit()?.then_some(true))
        })
    }

    fn stored_passkey(
        &self,
        user: &UserId,
        passkey: &PasskeyId,
    ) -> Result<Option<Versioned<Passkey>>, Fault> {
        let stored = self.tenant.get::<Passkey>(passkey.as_str())?;
        Ok(stored.filter(|stored| stored.record.user == *user))
    }

    fn is_challenge_used(&self, challenge: &UsedChallenge) -> Result<bool, Fault> {
        let stored = self.tenant.get::<UsedChallenge>(&challenge.digest)?;
        Ok(stored.is_some())
    }
}

fn own_report(activity: &str, session: &Session) -> Report {
    Report::new(EventClass::AccountChange, activity)
        .subject(session.user.as_str())
        .session(&session.id)
        .target(session.user.as_str())
}

/// A name as typed, in one line of a bearable length.
fn name_of(typed: &str) -> String {
    let line: String = typed
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(MAX_NAME_CHARACTERS)
        .collect();
    match line.trim() {
        "" => NAMELESS.to_owned(),
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_line() {
        assert_eq!(name_of("  my\r\nphone "), "my  phone");
        assert_eq!(name_of(" \u{0} "), NAMELESS);
        assert_eq!(
            name_of(&"ü".repeat(100)).chars().count(),
            MAX_NAME_CHARACTERS
        );
    }

    #[test]
    fn the_id_of_a_passkey_is_half_a_hash_and_has_one_spelling() {
        let id = PasskeyId::of(b"credential");
        assert_eq!(id.as_str().parse(), Ok(id.clone()));
        for bad in [
            "",
            "0",
            "zz",
            &id.as_str().to_uppercase(),
            &format!("{id}00"),
        ] {
            assert_eq!(bad.parse::<PasskeyId>(), Err(InvalidPasskeyId), "{bad}");
        }
    }
}
