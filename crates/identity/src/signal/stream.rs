//! Streams, as they are kept.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use testudo_model::{ServiceAccountId, StreamId, Timestamp, UserId};
use testudo_store::Record;

use super::SignalEvent;
use crate::{NotificationUri, secret::StoredSecret};

/// An event stream to one receiver (SSF 1.0 section 8.1.1).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SignalStream {
    /// `stream_id`.
    pub id: StreamId,
    /// Whose it is.
    pub receiver: ServiceAccountId,
    /// What the receiver says it is for.
    pub description: Option<String>,
    /// `events_requested`, also what nobody here knows; all that is supported if absent.
    pub events_requested: Option<Vec<String>>,
    /// How signals get there.
    pub delivery: SignalDelivery,
    /// Whether they do.
    pub status: StreamStatus,
    /// Why not, or why again.
    pub status_reason: Option<String>,
    /// Who said so last.
    pub status_set_by: StatusSetter,
    /// Users of whom the receiver wants to hear nothing.
    pub removed_subjects: BTreeSet<UserId>,
    /// When it was last asked whether the stream works.
    pub verified_at: Option<Timestamp>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was changed last.
    pub updated_at: Timestamp,
}

/// How signals get to a receiver.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SignalDelivery {
    /// They are sent to it (RFC 8935).
    Push {
        /// `endpoint_url`.
        endpoint: NotificationUri,
        /// `authorization_header`: goes with every request, and is shown to nobody.
        authorization: Option<PushAuthorization>,
    },
    /// It fetches them (RFC 8936).
    Poll,
}

/// The value of an `Authorization` header. The store seals it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PushAuthorization(pub(super) StoredSecret);

/// `status` of a stream (SSF 1.0 section 8.1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StreamStatus {
    /// Signals are sent.
    Enabled,
    /// They wait.
    Paused,
    /// There are none.
    Disabled,
}

/// Who set the status of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StatusSetter {
    /// The receiver.
    Receiver,
    /// An administrator: the receiver cannot undo it.
    Administrator,
}

impl SignalDelivery {
    /// Method of push delivery.
    pub const PUSH: &'static str = "urn:ietf:rfc:8935";
    /// Method of poll delivery.
    pub const POLL: &'static str = "urn:ietf:rfc:8936";

    /// `method`.
    pub const fn method(&self) -> &'static str {
        match self {
            Self::Push { .. } => Self::PUSH,
            Self::Poll => Self::POLL,
        }
    }
}

impl StreamStatus {
    /// The value of `status`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enabled => "enabled",
            Self::Paused => "paused",
            Self::Disabled => "disabled",
        }
    }

    /// Parses a `status`.
    pub fn parse(text: &str) -> Option<Self> {
        let all = [Self::Enabled, Self::Paused, Self::Disabled];
        all.into_iter().find(|status| status.as_str() == text)
    }
}

impl SignalStream {
    /// `events_delivered`: what was requested and is supported, in the order of what is supported.
    pub fn events_delivered(&self) -> Vec<&'static str> {
        let supported = SignalEvent::SUPPORTED.into_iter();
        match &self.events_requested {
            None => supported.collect(),
            Some(requested) => supported
                .filter(|uri| requested.iter().any(|asked| asked == uri))
                .collect(),
        }
    }

    /// Whether the receiver wants to be told `event`. What is about the stream itself it is always told.
    pub(super) fn wants(&self, event: &SignalEvent) -> bool {
        let Some(user) = event.user() else {
            return true;
        };
        self.status != StreamStatus::Disabled
            && !self.removed_subjects.contains(user)
            && self.events_delivered().contains(&event.type_uri())
    }
}

/// Is written with every stream that is made: of two that are made at once, one sees the other, and the limits hold.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct StreamCensus {
    made: u64,
}

impl StreamCensus {
    pub(super) const KEY: &'static str = "streams";

    /// With one more.
    pub(super) const fn next(&self) -> Self {
        Self {
            made: self.made.saturating_add(1),
        }
    }
}

impl Record for StreamCensus {
    const COLLECTION: &'static str = "identity.signal_stream_census";

    fn key(&self) -> String {
        Self::KEY.to_owned()
    }
}

impl Record for SignalStream {
    const COLLECTION: &'static str = "identity.signal_stream";

    fn key(&self) -> String {
        self.id.to_string()
    }

    fn indexes(&self) -> Vec<(&'static str, String)> {
        vec![("receiver", self.receiver.to_string())]
    }
}
