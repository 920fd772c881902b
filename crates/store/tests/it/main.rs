//! The store, from outside: one suite for all backends, and what only the embedded one can prove.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "test code"
)]

mod at_rest;
mod conformance;
mod crash;
mod failure;
mod figures;
mod fixture;
mod memory;
mod model;
mod tamper;
