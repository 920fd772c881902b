//! What a proxy enforces: one immutable value, swapped as a whole.

use std::{collections::BTreeMap, fmt, net::SocketAddr, time::Duration};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{
    ApiKeyId, ClientName, IpLists, PolicyGroup, PolicyRole, RateLimit, Scope, Service, ServiceName,
    SessionId, SpiffeId, TenantName, Timestamp, TokenId, TrustDomain, UserId, limits,
};

/// The features this build can enforce. A proxy refuses a snapshot that requires more.
pub const KNOWN_FEATURES: &[&str] = &["http", "cedar", "gcra", "ip-lists", "tcp"];

/// Number of a snapshot; grows by one with each change.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SnapshotVersion(pub u64);

impl fmt::Display for SnapshotVersion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.0)
    }
}

impl fmt::Debug for SnapshotVersion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "v{}", self.0)
    }
}

/// Everything a proxy needs to decide without asking anybody.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Its number.
    pub version: SnapshotVersion,
    /// Features a proxy must be able to enforce; unknown ones mean: refuse and keep the old snapshot.
    pub requires: Vec<String>,
    /// The tenant of the fleet itself.
    pub tenant: TenantName,
    /// The fleet's trust domain.
    pub trust_domain: TrustDomain,
    /// All services, sorted by name.
    pub services: Vec<Service>,
    /// Users, groups and roles of all tenants, as the policy engine sees them.
    pub directory: Directory,
    /// The fleet's policy files. The built-in guardrails are added by `policy`.
    pub policies: Vec<PolicyFile>,
    /// Issuers of access tokens the gateway accepts.
    pub issuers: Vec<Issuer>,
    /// Identities that may mint transaction tokens.
    pub edges: Vec<SpiffeId>,
    /// What holds for the gateway as a whole.
    pub gateway: GatewayRules,
    /// How slowly bodies may be sent and taken.
    #[serde(default)]
    pub transfer: TransferRules,
}

/// The lowest rate of bodies, in both directions. It holds while a client is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransferRules {
    /// Bytes per second; with 0 only pauses longer than the grace count.
    pub min_bytes_per_second: u64,
    /// Milliseconds that a client may be waited for beyond that.
    pub grace_millis: u64,
}

impl TransferRules {
    /// Time that a client may be waited for beyond what the rate allows.
    pub const fn grace(&self) -> Duration {
        Duration::from_millis(self.grace_millis)
    }
}

impl Default for TransferRules {
    fn default() -> Self {
        Self {
            min_bytes_per_second: limits::DEFAULT_MIN_BODY_BYTES_PER_SECOND,
            grace_millis: u64::try_from(limits::DEFAULT_BODY_GRACE.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

/// Rules of the gateway.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct GatewayRules {
    /// Who may connect.
    pub ip: IpLists,
    /// Proxies whose forwarding headers are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether those proxies say by the PROXY protocol where a connection comes from.
    #[serde(default)]
    pub proxy_protocol: ProxyProtocol,
    /// Limits on the whole gateway.
    pub limits: Vec<RateLimit>,
}

/// Whether trusted proxies begin their connections with a header of the PROXY protocol. From anybody else such a
/// header is never believed.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum ProxyProtocol {
    /// Nobody does.
    #[default]
    Off,
    /// They may, on the port for HTTPS. On ports for TCP they must: nothing tells a header from what a client sends.
    Optional,
    /// They must.
    Required,
}

/// The subjects of decisions, without secrets.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Directory {
    /// Users and service accounts, by `sub`.
    pub subjects: Vec<Subject>,
    /// Groups and the groups they are in.
    pub groups: BTreeMap<PolicyGroup, Vec<PolicyGroup>>,
    /// All roles.
    pub roles: Vec<PolicyRole>,
    /// What some of the subjects prove themselves with at the gateway, beside access tokens.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub api_keys: Vec<ApiKey>,
}

/// An API key as a gateway knows it: enough to tell it when it comes, and not to make it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKey {
    /// Its id. Revocations name the token that was made with it ([`ApiKey::token_id`]).
    pub id: ApiKeyId,
    /// SHA-256 of the key, in hexadecimal. The key has 256 random bits.
    pub digest: String,
    /// Who comes with it (`sub`).
    pub subject: String,
    /// The issuer that made it.
    pub issuer: String,
    /// The service account's name, as client.
    pub client_id: ClientName,
    /// What it may be used for.
    pub scopes: Vec<Scope>,
    /// Services it is for; any that takes keys if empty.
    pub services: Vec<ServiceName>,
    /// Where it may be used; anywhere if empty.
    pub networks: Vec<IpNet>,
    /// When it was made.
    pub issued_at: Timestamp,
    /// From when on it is worthless.
    pub expires: Timestamp,
}

impl ApiKey {
    /// The id of the token that it is for everything behind the gateway.
    pub fn token_id(&self) -> TokenId {
        TokenId::from(self.id.ulid())
    }
}

/// A user or service account: the Cedar `User` entity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// The `sub` of its tokens (`usr_…` or `sva_…`); the Cedar entity id.
    pub id: String,
    /// Login name or service account name.
    pub username: String,
    /// Its tenant.
    pub tenant: TenantName,
    /// May do nothing (guardrail `guardrail.disabled_user`).
    pub disabled: bool,
    /// Clearance, 0 to 100; an attribute for policies.
    pub clearance: i64,
    /// Groups it is in.
    pub groups: Vec<PolicyGroup>,
    /// Roles it has.
    pub roles: Vec<PolicyRole>,
}

/// A Cedar policy file of the fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyFile {
    /// Path relative to the policy folder; shown in explanations.
    pub name: String,
    /// Cedar text.
    pub text: String,
}

/// An issuer of access tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issuer {
    /// `iss`, compared byte by byte.
    pub issuer: String,
    /// The audience a token must name.
    pub audience: String,
    /// Verification keys: a JWK Set (RFC 7517) with ES256 public keys, as JSON text.
    pub jwks: String,
}

/// Where each service's sidecars listen. Moves faster than the snapshot and changes no decision.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Endpoints {
    /// Grows with each change.
    pub version: u64,
    /// Inbound addresses of live sidecars, by service.
    pub services: BTreeMap<ServiceName, Vec<SocketAddr>>,
}

/// One entry of the revocation log: an ordered list beside the snapshot, pushed at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// Position in the log, without gaps: a proxy knows when it is behind.
    pub sequence: u64,
    /// When it was said.
    pub at: Timestamp,
    /// Entries past this time concern nothing that could still be valid, and leave.
    pub expires: Timestamp,
    /// What no longer holds.
    pub what: Revoked,
}

/// What a revocation takes away.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", content = "value")]
pub enum Revoked {
    /// One token.
    Token(TokenId),
    /// All tokens of a session.
    Session(SessionId),
    /// All tokens of a subject (`sub`) issued before the revocation.
    Subject(String),
    /// A workload identity: its certificates are refused and its connections closed.
    Workload(SpiffeId),
    /// A user: same as `Subject`, by typed id.
    User(UserId),
}
