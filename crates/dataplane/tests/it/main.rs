//! Gateway and sidecars in one process, over loopback, with real TLS.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "test code"
)]

mod answers;
mod attacks;
mod calls;
mod changes;
mod client;
mod connections;
mod fleet;
mod frames;
mod http2_answers;
mod http2_table;
#[cfg(feature = "http3")]
mod http3;
mod limits;
mod overload;
mod possession;
#[cfg(feature = "http3")]
mod quic;
mod sharing;
mod slowness;
mod streams;
mod tls_table;
mod tunnels;
mod upstream;
mod websockets;
