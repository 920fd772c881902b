//! What is asked and what is answered.

use std::{fmt, net::IpAddr, sync::Arc};

use testudo_model::{Route, ServiceName, Timestamp, event::LegRecord, snapshot::SnapshotVersion};

/// Name of the gateway as a Cedar `Service`. No declared service may have it.
pub const GATEWAY: &str = "gateway";

/// The calling workload, as its connection proved it.
#[derive(Debug, Clone, Copy)]
pub struct Peer<'a> {
    /// Cedar `Service` id: the service's name, or [`GATEWAY`].
    pub service: &'a str,
    /// Whether the identity was verified. Anything else is denied by `guardrail.unverified_peer`.
    pub verified: bool,
    /// Trust domain of the certificate.
    pub trust_domain: &'a str,
    /// When the certificate ends.
    pub certificate_expires: Timestamp,
}

/// What the user's token says about the login.
#[derive(Debug, Clone, Copy)]
pub struct TokenFacts<'a> {
    /// Issuer of the outside token.
    pub issuer: &'a str,
    /// Scopes.
    pub scopes: &'a [String],
    /// 1 one factor, 2 two factors, 3 phishing-resistant.
    pub assurance: i64,
    /// When the user authenticated.
    pub authenticated_at: Timestamp,
    /// Whether the token was bound to the caller's key.
    pub bound: bool,
}

/// A call to decide: who, through whom, does what.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// The calling workload.
    pub peer: Peer<'a>,
    /// `sub` of the user or service account behind the call, if there is one.
    pub subject: Option<&'a str>,
    /// Facts of the subject's token.
    pub token: Option<TokenFacts<'a>>,
    /// The called service.
    pub service: &'a ServiceName,
    /// The matched route. The engine looks it up by operation and decides by its own snapshot.
    pub route: &'a Route,
    /// The original client's address.
    pub source_ip: IpAddr,
    /// Now.
    pub now: Timestamp,
    /// Canonical path.
    pub path: &'a str,
    /// 0 none to 100 certain attack, as detection says.
    pub risk: i64,
}

/// The answer, with its evidence. Sharing the evidence costs no copy: every call that it answers records it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Whether the call may go on.
    pub allowed: bool,
    /// Why, for machines.
    pub reason: ReasonCode,
    /// The legs in the order they were decided; the first denied one ends the list.
    pub legs: Arc<[LegRecord]>,
    /// Context that the policies of every leg saw, as JSON text. `None` if it came to no leg.
    pub context: Option<Arc<str>>,
}

impl Decision {
    pub(crate) fn allow(legs: impl Into<Arc<[LegRecord]>>, context: String) -> Self {
        Self {
            allowed: true,
            reason: ReasonCode::Allowed,
            legs: legs.into(),
            context: Some(context.into()),
        }
    }

    pub(crate) fn deny(
        reason: ReasonCode,
        legs: impl Into<Arc<[LegRecord]>>,
        context: String,
    ) -> Self {
        Self {
            allowed: false,
            reason,
            legs: legs.into(),
            context: Some(context.into()),
        }
    }

    /// A denial that no policy was asked for.
    pub(crate) fn deny_unasked(reason: ReasonCode) -> Self {
        Self {
            allowed: false,
            reason,
            legs: Arc::default(),
            context: None,
        }
    }
}

/// Why a call was allowed or denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReasonCode {
    /// Both legs allowed.
    Allowed,
    /// The calling service may not do this.
    ServiceLegDenied,
    /// The user may not do this.
    UserLegDenied,
    /// The route needs a user and none stands behind the call. Answered with 401, the rest with 403.
    UserRequired,
    /// The subject is not in the directory: deleted, or of a newer snapshot.
    UnknownSubject,
    /// The calling service is not in the snapshot.
    UnknownPeer,
    /// The called service or route is not in the snapshot.
    UnknownResource,
    /// A policy could not be evaluated. Cedar would skip it, and a skipped `forbid` opens; here it is an alert.
    EvaluationError,
}

impl ReasonCode {
    pub(crate) const ALL: [Self; 8] = [
        Self::Allowed,
        Self::ServiceLegDenied,
        Self::UserLegDenied,
        Self::UserRequired,
        Self::UnknownSubject,
        Self::UnknownPeer,
        Self::UnknownResource,
        Self::EvaluationError,
    ];

    /// The stable code, as recorded and sent to callers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::ServiceLegDenied => "policy.service_leg_denied",
            Self::UserLegDenied => "policy.user_leg_denied",
            Self::UserRequired => "policy.user_required",
            Self::UnknownSubject => "policy.unknown_subject",
            Self::UnknownPeer => "policy.unknown_peer",
            Self::UnknownResource => "policy.unknown_resource",
            Self::EvaluationError => "policy.evaluation_error",
        }
    }
}

impl fmt::Display for ReasonCode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// Everything a decision depends on, exactly: under one engine, calls with equal keys have equal decisions,
/// their recorded evidence included.
///
/// It is the encoded facts and no hash of them, so no collision can lend one caller another's answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DecisionKey(Box<[u8]>);

impl DecisionKey {
    /// A key of facts to be added; starts with what fixes the candidate policies and so which facts follow.
    pub(crate) fn builder(
        version: SnapshotVersion,
        peer: u32,
        route: u32,
        subject: Option<u32>,
    ) -> KeyBuilder {
        let mut builder = KeyBuilder(Vec::with_capacity(64));
        builder.number(i64::from_ne_bytes(version.0.to_ne_bytes()));
        builder.number(i64::from(peer));
        builder.number(i64::from(route));
        builder.number(subject.map_or(-1, i64::from));
        builder
    }
}

/// Appends facts to a key, each so that no two sequences of facts share an encoding.
pub(crate) struct KeyBuilder(Vec<u8>);

impl KeyBuilder {
    pub(crate) fn number(&mut self, number: i64) {
        self.0.extend_from_slice(&number.to_ne_bytes());
    }

    pub(crate) fn flag(&mut self, flag: bool) {
        self.0.push(u8::from(flag));
    }

    pub(crate) fn text(&mut self, text: &str) {
        self.0.extend_from_slice(&text.len().to_ne_bytes());
        self.0.extend_from_slice(text.as_bytes());
    }

    pub(crate) fn finish(self) -> DecisionKey {
        DecisionKey(self.0.into_boxed_slice())
    }
}
