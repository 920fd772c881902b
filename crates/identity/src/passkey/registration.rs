//! Adding a passkey to an account.

use testudo_model::{Timestamp, UserId};
use testudo_store::Expected;
use testudo_trust::{CoseAlgorithm, base64url};

use super::{Passkey, UsedChallenge};
use crate::{
    Caller, Fault, Provider,
    change::{Change, Report, until_settled},
    limits::MAX_PASSKEYS_PER_USER,
    records::{PasswordCredential, Session, User},
    signal::{Cause, CredentialChange, Initiator},
    webauthn::{RegistrationResponse, WebauthnError},
};

/// Keeps challenges of registrations apart from others.
const CHALLENGE_CONTEXT: &[u8] = b"testudo passkey registration v1";

/// What a page needs for `navigator.credentials.create`.
#[derive(Debug)]
pub struct PasskeyCreation {
    /// `challenge`, base64url.
    pub challenge: String,
    /// `rp.id`.
    pub rp_id: String,
    /// `user.id`, base64url.
    pub user_handle: String,
    /// `user.name`: what browsers show beside the passkey.
    pub username: String,
    /// `user.displayName`.
    pub display_name: String,
    /// `excludeCredentials`: the ids the user has, base64url. No authenticator gets two.
    pub exclude: Vec<String>,
    /// `pubKeyCredParams`: numbers of algorithms, the best first.
    pub algorithms: [i64; 3],
    /// `attestation`.
    pub attestation: &'static str,
}

/// A sent form with a new passkey.
pub(crate) struct NewPasskey<'a> {
    /// Whose.
    pub(crate) user: &'a UserId,
    /// The hidden field that the challenge belongs to.
    pub(crate) flow: &'a str,
    /// When that ends.
    pub(crate) expires_at: Timestamp,
    /// What to call it.
    pub(crate) name: &'a str,
    /// What the authenticator answered.
    pub(crate) response: RegistrationResponse<'a>,
}

/// A passkey that can be stored.
pub(crate) struct VerifiedPasskey {
    passkey: Passkey,
    challenge: UsedChallenge,
}

/// Why a passkey is not added.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RegistrationError {
    /// The response is not right.
    #[error("{0}")]
    Refused(#[from] WebauthnError),
    /// It is somebody's already.
    #[error("this passkey was added before")]
    Known,
    /// The form was.
    #[error("this page was used before; open it again")]
    ChallengeUsed,
    /// As many as allowed.
    #[error("there are {MAX_PASSKEYS_PER_USER} passkeys already; remove one first")]
    TooMany,
    /// The user is disabled or deleted.
    #[error("this account cannot be changed")]
    NoUser,
    /// Our fault.
    #[error("the passkey could not be added")]
    Unavailable(#[from] Fault),
}

impl Provider {
    /// What the page with the form `flow` needs to make a passkey for `user`. `None` if there is no such user, or if this
    /// provider's address is none that passkeys work at.
    pub(crate) fn passkey_creation(
        &self,
        user: &UserId,
        flow: &str,
    ) -> Result<Option<PasskeyCreation>, Fault> {
        let stored = self.tenant.get::<User>(user.as_str())?;
        let (Some(party), Some(stored)) = (&self.relying_party, stored) else {
            return Ok(None);
        };
        let passkeys = self.stored_passkeys(user)?.into_iter();
        let username = stored.record.username.to_string();
        let challenge = self.registration_challenge(flow);
        Ok(Some(PasskeyCreation {
            challenge: base64url::encode(&challenge),
            rp_id: party.id().to_owned(),
            user_handle: base64url::encode(user.as_str().as_bytes()),
            display_name: stored
                .record
                .display_name
                .unwrap_or_else(|| username.clone()),
            username,
            exclude: passkeys.map(|known| known.record.credential_id).collect(),
            algorithms: CoseAlgorithm::ALL.map(CoseAlgorithm::number),
            attestation: self.attestation_policy().conveyance(),
        }))
    }

    /// Adds a passkey to the account of who is logged in.
    pub(crate) fn add_own_passkey(
        &self,
        session: &Session,
        new: &NewPasskey<'_>,
        caller: &Caller,
    ) -> Result<(), RegistrationError> {
        let report = || super::own_report("passkey.add", session);
        let added = self.verify_passkey(new).and_then(|verified| {
            until_settled(|| {
                let change = self.stage_passkey(self.change(), &verified)?;
                let report = verified.describe(report());
                Ok(change.report(report, caller).commit()?.then_some(()))
            })
        });
        self.report_unless_added(&added, report(), caller)?;
        added
    }

    pub(crate) fn verify_passkey(
        &self,
        new: &NewPasskey<'_>,
    ) -> Result<VerifiedPasskey, RegistrationError> {
        let party = self.relying_party.as_ref();
        let party = party.ok_or(RegistrationError::NoUser)?;
        let challenge = self.registration_challenge(new.flow);
        let (policy, now) = (self.attestation_policy(), self.clock.now());
        let credential = party.verify_registration(new.response, &challenge, &policy, now)?;
        Ok(VerifiedPasskey {
            passkey: Passkey::new(new.user, new.name, &credential, now),
            challenge: UsedChallenge::new(&challenge, new.expires_at),
        })
    }

    /// Adds the passkey to `change`. It writes the password record, as every login and whatever excludes them does: a user who
    /// is disabled or deleted at the same moment gets none, and one who adds many at once not too many.
    pub(crate) fn stage_passkey<'p>(
        &self,
        change: Change<'p>,
        verified: &VerifiedPasskey,
    ) -> Result<Change<'p>, RegistrationError> {
        let VerifiedPasskey { passkey, challenge } = verified;
        let (id, user) = (passkey.id.as_str(), &passkey.user);
        let account = self
            .tenant
            .get::<User>(user.as_str())
            .map_err(Fault::from)?;
        let credential = self.tenant.get::<PasswordCredential>(user.as_str());
        let credential = credential.map_err(Fault::from)?;
        let is_enabled = account.is_some_and(|account| !account.record.disabled);
        let Some(credential) = credential.filter(|_| is_enabled) else {
            return Err(RegistrationError::NoUser);
        };
        if self.is_challenge_used(challenge)? {
            return Err(RegistrationError::ChallengeUsed);
        }
        let known = self.tenant.get::<Passkey>(id).map_err(Fault::from)?;
        if known.is_some() {
            return Err(RegistrationError::Known);
        }
        if self.stored_passkeys(user)?.len() >= MAX_PASSKEYS_PER_USER {
            return Err(RegistrationError::TooMany);
        }
        let change = change
            .put(Expected::Absent, passkey)
            .put(Expected::Absent, challenge)
            .put(Expected::Version(credential.version), &credential.record);
        let cause = Cause::new(Initiator::User, "a passkey was added");
        Ok(change.signal_credential(passkey.credential(), CredentialChange::Create, cause)?)
    }

    /// Records that a passkey was not added, if so.
    pub(crate) fn report_unless_added(
        &self,
        added: &Result<(), RegistrationError>,
        report: Report,
        caller: &Caller,
    ) -> Result<(), Fault> {
        match added {
            Ok(()) | Err(RegistrationError::Unavailable(_)) => Ok(()),
            Err(refused) => self.report_refusal(report.denied(&refused.to_string()), caller),
        }
    }

    fn registration_challenge(&self, flow: &str) -> [u8; 32] {
        self.flow_seal
            .authenticate(CHALLENGE_CONTEXT, flow.as_bytes())
    }
}

impl VerifiedPasskey {
    /// What the event says of it.
    pub(crate) fn describe(&self, report: Report) -> Report {
        let passkey = &self.passkey;
        report
            .detail("passkey", passkey.id.as_str())
            .detail("name", passkey.name.as_str())
            .detail("aaguid", passkey.aaguid.to_string())
            .detail("attested", passkey.is_attested)
            .detail("synchronised", passkey.backup_eligible)
    }
}
