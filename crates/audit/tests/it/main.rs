//! The ledger, from the outside.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "test code"
)]

mod fixture;
mod intake;
mod proofs;
mod properties;
mod reading;
mod tampering;
mod throughput;
