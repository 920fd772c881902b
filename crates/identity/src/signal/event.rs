//! What signals tell, in the words of CAEP 1.0, RISC 1.0 and SSF 1.0.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use testudo_model::{Aaguid, SessionId, StreamId, Timestamp, TransactionId, UserId};

use super::StreamStatus;

/// Something to tell a receiver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signal {
    /// `txn`: the same for all that one change made happen (SSF 1.0 section 4.1.9).
    pub txn: TransactionId,
    /// What has happened.
    pub event: SignalEvent,
}

/// What has happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SignalEvent {
    /// A session, or all of a user's, ended (CAEP 1.0 section 3.1).
    SessionRevoked {
        /// Whose.
        user: UserId,
        /// The `sid` of its tokens; none if all sessions of the user ended.
        session: Option<SessionId>,
        /// Why.
        cause: Cause,
    },
    /// What a user proves themselves with changed (CAEP 1.0 section 3.3).
    CredentialChange {
        /// Whose.
        user: UserId,
        /// What.
        credential: CredentialType,
        /// How.
        change: CredentialChange,
        /// The model of the authenticator, if it has one.
        aaguid: Option<Aaguid>,
        /// Why.
        cause: Cause,
    },
    /// A user may not log in any more (RISC 1.0 section 2.3).
    AccountDisabled {
        /// Who.
        user: UserId,
    },
    /// They may again (RISC 1.0 section 2.4).
    AccountEnabled {
        /// Who.
        user: UserId,
    },
    /// There is no such user any more (RISC 1.0 section 2.2).
    AccountPurged {
        /// Who that was.
        user: UserId,
    },
    /// The receiver asked whether the stream works (SSF 1.0 section 8.1.4).
    Verification {
        /// What it said.
        state: Option<String>,
    },
    /// An administrator changed the status of the stream (SSF 1.0 section 8.1.5).
    StreamUpdated {
        /// To what.
        status: StreamStatus,
        /// Why.
        reason: Option<String>,
    },
}

/// Why something happened, for whoever reads the receiver's log (CAEP 1.0 section 2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// Who began it.
    pub initiator: Initiator,
    /// In words, in English.
    pub reason: Cow<'static, str>,
}

/// `initiating_entity`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Initiator {
    /// An administrator.
    Admin,
    /// The user.
    User,
    /// A rule.
    Policy,
    /// The provider.
    System,
}

impl Cause {
    pub(crate) const fn new(initiator: Initiator, reason: &'static str) -> Self {
        Self {
            initiator,
            reason: Cow::Borrowed(reason),
        }
    }

    /// By the user, or by an administrator if it was not.
    pub(crate) const fn by(is_user: bool, reason: &'static str) -> Self {
        let initiator = if is_user {
            Initiator::User
        } else {
            Initiator::Admin
        };
        Self::new(initiator, reason)
    }
}

/// `credential_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CredentialType {
    /// A password.
    Password,
    /// A passkey that stays in one authenticator.
    Fido2Roaming,
    /// A passkey that a platform keeps and may copy.
    Fido2Platform,
    /// An authenticator app.
    App,
}

impl CredentialType {
    /// A passkey. Authenticators do not say for certain what they are: what is synchronised is a platform's.
    pub(crate) const fn of_passkey(is_synchronised: bool) -> Self {
        if is_synchronised {
            Self::Fido2Platform
        } else {
            Self::Fido2Roaming
        }
    }
}

/// `change_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CredentialChange {
    /// There is one more.
    Create,
    /// An administrator took it away.
    Revoke,
    /// There is another in its place.
    Update,
    /// Its user took it away.
    Delete,
}

impl CredentialChange {
    /// Taken away by its user, or by an administrator.
    pub(crate) const fn removal(by_user: bool) -> Self {
        if by_user { Self::Delete } else { Self::Revoke }
    }
}

impl SignalEvent {
    pub(super) const SESSION_REVOKED: &'static str =
        "https://schemas.openid.net/secevent/caep/event-type/session-revoked";
    const CREDENTIAL_CHANGE: &'static str =
        "https://schemas.openid.net/secevent/caep/event-type/credential-change";
    const ACCOUNT_DISABLED: &'static str =
        "https://schemas.openid.net/secevent/risc/event-type/account-disabled";
    const ACCOUNT_ENABLED: &'static str =
        "https://schemas.openid.net/secevent/risc/event-type/account-enabled";
    const ACCOUNT_PURGED: &'static str =
        "https://schemas.openid.net/secevent/risc/event-type/account-purged";
    const VERIFICATION: &'static str =
        "https://schemas.openid.net/secevent/ssf/event-type/verification";
    const STREAM_UPDATED: &'static str =
        "https://schemas.openid.net/secevent/ssf/event-type/stream-updated";

    /// What receivers may ask for (`events_supported`). Events about the stream itself come unasked.
    pub(super) const SUPPORTED: [&'static str; 5] = [
        Self::SESSION_REVOKED,
        Self::CREDENTIAL_CHANGE,
        Self::ACCOUNT_DISABLED,
        Self::ACCOUNT_ENABLED,
        Self::ACCOUNT_PURGED,
    ];

    /// The URI of its type.
    pub const fn type_uri(&self) -> &'static str {
        match self {
            Self::SessionRevoked { .. } => Self::SESSION_REVOKED,
            Self::CredentialChange { .. } => Self::CREDENTIAL_CHANGE,
            Self::AccountDisabled { .. } => Self::ACCOUNT_DISABLED,
            Self::AccountEnabled { .. } => Self::ACCOUNT_ENABLED,
            Self::AccountPurged { .. } => Self::ACCOUNT_PURGED,
            Self::Verification { .. } => Self::VERIFICATION,
            Self::StreamUpdated { .. } => Self::STREAM_UPDATED,
        }
    }

    /// The last part of [`SignalEvent::type_uri`], for people.
    pub fn type_name(&self) -> &'static str {
        let uri = self.type_uri();
        uri.rsplit('/').next().unwrap_or(uri)
    }

    /// Whom it is about; nobody if it is about the stream.
    pub const fn user(&self) -> Option<&UserId> {
        match self {
            Self::SessionRevoked { user, .. }
            | Self::CredentialChange { user, .. }
            | Self::AccountDisabled { user }
            | Self::AccountEnabled { user }
            | Self::AccountPurged { user } => Some(user),
            Self::Verification { .. } | Self::StreamUpdated { .. } => None,
        }
    }

    /// `sub_id` (SSF 1.0 section 3, RFC 9493).
    pub(super) fn subject(&self, issuer: &str, stream: &StreamId) -> Value {
        let Some(user) = self.user() else {
            return json!({ "format": "opaque", "id": stream });
        };
        let user = json!({ "format": "iss_sub", "iss": issuer, "sub": user });
        match self {
            Self::SessionRevoked {
                session: Some(session),
                ..
            } => json!({
                "format": "complex",
                "user": user,
                "session": { "format": "opaque", "id": session },
            }),
            _ => user,
        }
    }

    /// The value below its type in `events`.
    pub(super) fn claims(&self, at: Timestamp) -> Value {
        let mut claims = Map::new();
        match self {
            Self::SessionRevoked { cause, .. } => caused(&mut claims, cause, at),
            Self::CredentialChange {
                credential,
                change,
                aaguid,
                cause,
                ..
            } => {
                claims.insert("credential_type".to_owned(), json!(credential));
                claims.insert("change_type".to_owned(), json!(change));
                if let Some(aaguid) = aaguid {
                    claims.insert("fido2_aaguid".to_owned(), json!(aaguid.to_string()));
                }
                caused(&mut claims, cause, at);
            }
            Self::AccountDisabled { .. }
            | Self::AccountEnabled { .. }
            | Self::AccountPurged { .. } => {}
            Self::Verification { state } => {
                if let Some(state) = state {
                    claims.insert("state".to_owned(), json!(state));
                }
            }
            Self::StreamUpdated { status, reason } => {
                claims.insert("status".to_owned(), json!(status));
                if let Some(reason) = reason {
                    claims.insert("reason".to_owned(), json!(reason));
                }
            }
        }
        Value::Object(claims)
    }
}

/// What CAEP says of every event (section 2). The interoperability profile demands `reason_admin`.
fn caused(claims: &mut Map<String, Value>, cause: &Cause, at: Timestamp) {
    claims.insert("event_timestamp".to_owned(), json!(at.unix_seconds()));
    claims.insert("initiating_entity".to_owned(), json!(cause.initiator));
    claims.insert("reason_admin".to_owned(), json!({ "en": cause.reason }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_says_what_caep_asks_for() {
        let user: UserId = "usr_01M81HMGYM22EDG0E1P8MDBNEY".parse().unwrap();
        let stream: StreamId = "str_01M81HMGYM22EDG0E1P8MDBNEY".parse().unwrap();
        let event = SignalEvent::CredentialChange {
            user: user.clone(),
            credential: CredentialType::Fido2Roaming,
            change: CredentialChange::Revoke,
            aaguid: None,
            cause: Cause::by(false, "a passkey was removed"),
        };
        assert_eq!(
            event.claims(Timestamp::from_unix_seconds(1_615_304_991)),
            json!({
                "credential_type": "fido2-roaming",
                "change_type": "revoke",
                "initiating_entity": "admin",
                "reason_admin": { "en": "a passkey was removed" },
                "event_timestamp": 1_615_304_991,
            })
        );
        assert_eq!(event.type_name(), "credential-change");
        let issuer = "https://id.example";
        assert_eq!(
            event.subject(issuer, &stream),
            json!({ "format": "iss_sub", "iss": issuer, "sub": user })
        );
        let session: SessionId = "ses_01M81HMGYM22EDG0E1P8MDBNEY".parse().unwrap();
        let event = SignalEvent::SessionRevoked {
            user,
            session: Some(session.clone()),
            cause: Cause::new(Initiator::User, "logout"),
        };
        let subject = event.subject(issuer, &stream);
        assert_eq!(subject["format"], "complex");
        assert_eq!(
            subject["session"],
            json!({ "format": "opaque", "id": session })
        );
        let event = SignalEvent::Verification { state: None };
        assert_eq!(
            event.subject(issuer, &stream),
            json!({ "format": "opaque", "id": stream })
        );
        assert_eq!(event.claims(Timestamp::from_unix_seconds(0)), json!({}));
    }
}
