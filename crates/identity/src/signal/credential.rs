//! Signals of changed credentials.

use testudo_model::{Aaguid, UserId};

use super::{Cause, CredentialChange, CredentialType, Initiator, SignalEvent};
use crate::{Fault, change::Change, records::PasswordCredential};

/// What a user proves themselves with, as signals know it.
#[derive(Clone, Copy)]
pub(crate) struct Credential<'a> {
    pub(crate) user: &'a UserId,
    pub(crate) kind: CredentialType,
    /// The model of the authenticator, if it has one.
    pub(crate) aaguid: Option<Aaguid>,
}

impl Change<'_> {
    /// Tells receivers of signals that a credential has changed.
    pub(crate) fn signal_credential(
        self,
        credential: Credential<'_>,
        change: CredentialChange,
        cause: Cause,
    ) -> Result<Self, Fault> {
        self.signal(&SignalEvent::CredentialChange {
            user: credential.user.clone(),
            credential: credential.kind,
            change,
            aaguid: credential.aaguid,
            cause,
        })
    }

    /// Tells receivers of signals what has become of a password, if anything has.
    pub(crate) fn signal_password(
        self,
        before: &PasswordCredential,
        after: &PasswordCredential,
        cause: Cause,
    ) -> Result<Self, Fault> {
        let change = match (&before.hash, &after.hash) {
            (None, None) => return Ok(self),
            (None, Some(_)) => CredentialChange::Create,
            (Some(_), Some(_)) => CredentialChange::Update,
            (Some(_), None) => CredentialChange::removal(cause.initiator == Initiator::User),
        };
        let credential = Credential {
            user: &after.user,
            kind: CredentialType::Password,
            aaguid: None,
        };
        self.signal_credential(credential, change, cause)
    }
}
