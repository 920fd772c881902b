//! Tests about the repository itself.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    missing_docs,
    reason = "test code"
)]

mod architecture;
mod corpora;
mod dependencies;
mod documents;
mod fences;
mod monitoring;
mod sources;
