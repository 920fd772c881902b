//! What proxies and the control plane report: one type for everything that must be provable later.
//!
//! Secrets cannot get in: fields are typed, and text from outside is cut and stripped of control characters
//! by [`Detail`]. Classes follow OCSF 1.x.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use serde::{Deserialize, Serialize};

pub use self::{
    alike::{Alike, EventLine},
    block::{Block, BlockError, BlockHead, EventLines, Receipt},
};
use crate::{
    DecisionId, EventId, ServiceName, SessionId, SpiffeId, TenantName, Timestamp, TransactionId,
};

mod alike;
mod block;

/// One event: a leaf of the ledger, in full or as an [`Alike`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its id.
    pub id: EventId,
    /// When it happened, by the reporter's clock.
    pub time: Timestamp,
    /// Tenant.
    pub tenant: TenantName,
    /// OCSF class.
    pub class: EventClass,
    /// What was done, `noun.verb` (`decision.enforce`, `login.password`, `policy.activate`).
    pub activity: String,
    /// How it ended.
    pub outcome: Outcome,
    /// Who did it.
    pub actor: Actor,
    /// What it was done to: a route, user, client, policy, file…
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// The reporter's identity.
    pub reporter: SpiffeId,
    /// The client's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_ip: Option<IpAddr>,
    /// W3C trace id, 32 hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// Transaction the call belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transaction: Option<TransactionId>,
    /// The decision, if this is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<DecisionRecord>,
    /// Further facts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub details: BTreeMap<String, Detail>,
}

/// OCSF class of an event (<https://schema.ocsf.io>).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventClass {
    /// 3001: users, groups, roles, credentials changed.
    AccountChange,
    /// 3002: logins and token issue.
    Authentication,
    /// 3003: authorization decisions.
    AuthorizeSession,
    /// 3004: fleet, policy, service configuration changed.
    EntityManagement,
    /// 4002: a proxied request that no decision was reached for (limits, framing).
    HttpActivity,
    /// 6002: a process starts, stops, seals, loses or repairs something.
    ApplicationLifecycle,
    /// 6003: an administrative API call.
    ApiActivity,
    /// 2004: something that somebody should look at.
    DetectionFinding,
}

impl EventClass {
    /// The OCSF `class_uid`.
    pub const fn uid(self) -> u32 {
        match self {
            Self::DetectionFinding => 2004,
            Self::AccountChange => 3001,
            Self::Authentication => 3002,
            Self::AuthorizeSession => 3003,
            Self::EntityManagement => 3004,
            Self::HttpActivity => 4002,
            Self::ApplicationLifecycle => 6002,
            Self::ApiActivity => 6003,
        }
    }
}

/// How what an event reports ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Done or allowed.
    Success,
    /// Refused by a rule.
    Denied,
    /// Failed.
    Failure,
}

/// Who did it, as far as known and verified.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Actor {
    /// Verified user or service account (`sub`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// Verified calling workload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<SpiffeId>,
    /// OAuth client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// Session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
}

/// An authorization decision with what is needed to explain and replay it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecisionRecord {
    /// Its id; also in the problem answer.
    pub id: DecisionId,
    /// Snapshot it was decided under.
    pub snapshot: u64,
    /// Called service.
    pub service: ServiceName,
    /// Matched operation, `None` when no route matched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// HTTP method.
    pub method: String,
    /// Canonical path.
    pub path: String,
    /// Machine-readable reason: `allowed`, or a code such as `policy.service_leg_denied`.
    pub reason: String,
    /// What it rests on.
    pub grounds: Grounds,
    /// HTTP status sent to the caller, 0 when it is the upstream's.
    pub status: u16,
}

/// What a decision rests on: what is needed to explain it and to replay it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Grounds {
    /// The legs in the order they were decided. Shared with the decision that a proxy remembers.
    pub legs: Arc<[LegRecord]>,
    /// Context the policies of every leg saw, as JSON text, so that the decision can be replayed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<Arc<str>>,
}

/// One leg of a decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LegRecord {
    /// `service` or `user`.
    pub leg: String,
    /// Cedar principal.
    pub principal: String,
    /// Cedar action.
    pub action: String,
    /// Cedar resource.
    pub resource: String,
    /// Whether the leg allowed.
    pub allowed: bool,
    /// Policies that determined it.
    pub policies: Vec<DeterminingPolicy>,
    /// Evaluation errors; any means deny.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<String>,
}

/// A policy that determined a decision.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DeterminingPolicy {
    /// Policy id (`@id`, or file and position).
    pub id: String,
    /// `@reason`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// File in the policy folder, or `<guardrails>`.
    pub file: String,
    /// Line, from 1.
    pub line: u32,
}

/// A further fact of an event. Text is cut to 512 bytes and control characters are replaced, so that one
/// event is one parseable record whatever an attacker sends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Detail {
    /// A flag.
    Flag(bool),
    /// A number.
    Number(i64),
    /// Cleaned text.
    Text(CleanText),
}

impl From<&str> for Detail {
    fn from(text: &str) -> Self {
        Self::Text(CleanText::new(text))
    }
}

impl From<String> for Detail {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}

impl From<i64> for Detail {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<u64> for Detail {
    fn from(number: u64) -> Self {
        Self::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<bool> for Detail {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

/// Text without control characters, at most [`CleanText::MAX_BYTES`] long.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "String")]
pub struct CleanText(String);

impl CleanText {
    /// Bytes kept.
    pub const MAX_BYTES: usize = 512;

    /// Cleans `text`: control characters become `\u{fffd}`, the rest beyond the limit is cut.
    pub fn new(text: &str) -> Self {
        let mut clean = String::with_capacity(text.len().min(Self::MAX_BYTES));
        for character in text.chars() {
            let character = if character.is_control() {
                '\u{fffd}'
            } else {
                character
            };
            if clean.len() + character.len_utf8() > Self::MAX_BYTES {
                break;
            }
            clean.push(character);
        }
        Self(clean)
    }

    /// The clean text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for CleanText {
    fn from(text: String) -> Self {
        Self::new(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_outside_cannot_break_a_record() {
        let clean = CleanText::new("a\r\nb\u{1b}[31m\0");
        assert!(!clean.as_str().chars().any(char::is_control));
        assert!(CleanText::new(&"é".repeat(1000)).as_str().len() <= CleanText::MAX_BYTES);
    }
}
