//! Attacks and whole handshakes, over the public API.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "test code"
)]

mod certificates;
mod fleet;
mod handshakes;
mod proofs;
mod tokens;
