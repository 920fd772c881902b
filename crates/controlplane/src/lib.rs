//! The control plane: identity provider, enrolment, snapshots, the ledger's intake, and the admin API.
//!
//! [`server::start`] starts it; [`client`] speaks to it; [`offline`] is what needs no running one. A change
//! goes through [`mod@apply`]: everything is checked before anything changes, and what changed is a new snapshot
//! that `activation` commits and `proxies` hands out.

mod activation;
mod administration;
mod connection;
mod directories;
mod exchange;
#[cfg(test)]
mod fixtures;
mod gatekeeper;
mod http;
mod issuer_keys;
mod ldap;
mod lockout;
mod mail;
mod metrics;
mod notices;
mod openapi;
mod outbound;
mod pages;
mod plane;
mod relay;
mod seed;
mod start_settings;
mod tenants;
mod upstreams;
mod wire;

pub mod api;
pub mod apply;
pub mod client;
pub mod offline;
pub mod proxies;
pub mod server;

pub use testudo_model::{
    Clock, Entropy, Exposure, InvalidName, Redacted, Route, Service, ServiceName, ServiceProtocol,
    SpiffeId, TenantName, TrustDomain, UserRequirement,
};
pub use testudo_trust::SystemEntropy;
