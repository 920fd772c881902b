//! Gateway and sidecar: every call authenticated, authorized, limited and recorded.
//!
//! [`Gateway`] and [`Sidecar`] are the two roles. Both run the same stages in the same order (the files are
//! named after them): framing, source, address lists, limits, route, token, decision, forward. Forwarding
//! takes a permit that only a recorded decision can make.
//!
//! Nothing here reads a database, a user's secret or a policy file: what a proxy enforces arrives through
//! [`state::ProxyState`], what it decided leaves through [`state::EventSink`].

pub mod iplist;
pub mod link;
pub mod revocations;
pub mod routes;
pub mod spool;
pub mod state;
mod wire;
