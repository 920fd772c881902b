//! Workload identity, from the outside.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "test code"
)]

mod fixture;
mod instances;
mod joining;
mod late;
mod renewal;
mod rotation;
