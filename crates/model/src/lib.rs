//! What everybody talks about: identities, routes, snapshots, events, limits.
//!
//! Nothing here does IO, knows a clock or draws a random number; it defines how the rest asks for them
//! ([`Clock`], [`Entropy`]). The two planes meet only in [`snapshot`] (what a proxy enforces) and [`event`]
//! (what it reports).

mod aaguid;
mod bucket;
mod claims;
mod clock;
mod entropy;
mod fleet_map;
mod id;
mod join;
mod name;
mod network;
mod path;
mod problem;
mod redacted;
mod refusals;
mod service;
mod spiffe;
mod text;

pub mod event;
pub mod limits;
pub mod snapshot;

pub use aaguid::{Aaguid, InvalidAaguid};
pub use bucket::Buckets;
pub use claims::{
    ACCESS_TOKEN_TYPE, AccessTokenClaims, Actor, Confirmation, RequestContext,
    TRANSACTION_TOKEN_HEADER, TRANSACTION_TOKEN_TYPE, TokenContext, TransactionClaims,
};
pub use clock::{Clock, Timestamp};
pub use entropy::{Entropy, random_below, random_bytes};
pub use fleet_map::FleetMap;
pub use id::{
    ApiKeyId, DecisionId, EventId, GroupId, InstanceId, InvalidId, JoinTokenId, NoticeId,
    RegistrationTokenId, ServiceAccountId, SessionId, StreamId, TokenId, TransactionId, Ulid,
    UserId,
};
pub use join::{InvalidJoinToken, JoinToken};
pub use name::{
    ClientName, GroupName, InvalidName, OperationId, PolicyGroup, PolicyRole, RoleName, Scope,
    ServiceName, TenantName, TenantPattern, Username,
};
pub use network::SourceNetwork;
pub use path::{CanonicalPath, PathError};
pub use problem::Problem;
pub use redacted::Redacted;
pub use refusals::RefusalBudget;
pub use service::{
    ActionClass, ConnectionRules, Exposure, InvalidPathPattern, IpLists, LimitKey, PathPattern,
    Priority, RateLimit, Route, Service, ServiceProtocol, UserRequirement, own_tenant,
};
pub use spiffe::{InvalidSpiffeId, SpiffeId, TrustDomain};
