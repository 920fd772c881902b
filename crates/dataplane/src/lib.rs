//! Gateway and sidecar: every call authenticated, authorized, limited and recorded.
//!
//! [`Gateway`] and [`Sidecar`] are the two roles. Both run the same stages in the same order (the files are
//! named after them): framing, source, address lists, limits, route, token, decision, forward. Forwarding
//! takes a permit that only a recorded decision can make.
//!
//! Nothing here reads a database, a user's secret or a policy file: what a proxy enforces arrives through
//! [`state::ProxyState`], what it decided leaves through [`state::EventSink`].

#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod iplist;
pub mod link;
pub mod revocations;
pub mod routes;
pub mod spool;
pub mod state;

mod api_keys;
mod arriving;
mod authorize;
mod body;
mod cache;
mod capsule;
mod client_hello;
mod connection;
#[cfg(feature = "http3")]
mod datagrams;
mod exchange;
mod forward;
mod framing;
mod gateway;
mod grpc;
mod headers;
mod http1;
mod http2;
#[cfg(feature = "http3")]
mod http3;
mod inflight;
mod lent;
mod limit;
mod listener;
mod member;
mod metrics;
mod overload;
mod pace;
mod pool;
mod possession;
mod principal;
mod proxy;
mod proxy_protocol;
mod rate;
mod record;
mod redirect;
mod rejection;
mod relay;
mod respond;
mod serve;
mod sibling;
mod sidecar;
mod slots;
mod source;
mod span;
mod spread;
mod stall;
mod step_up;
mod stream;
mod tcp;
mod tls;
mod token;
mod trace;
mod transaction;
mod varint;
mod websocket;
mod wire;

#[cfg(test)]
mod fixtures;

#[cfg(feature = "http3")]
pub use datagrams::Datagrams;
pub use gateway::{Gateway, GatewayOptions};
pub use inflight::Delivered;
pub use link::Expected;
pub use listener::{Listeners, Running, StartError};
pub use member::{Member, MemberError, MemberOptions};
pub use metrics::ProxyMetrics;
pub use proxy::ProxyParts;
pub use redirect::Redirect;
pub use sidecar::{Sidecar, SidecarOptions};
pub use testudo_trust::{WebCertificate, web_client_config};
