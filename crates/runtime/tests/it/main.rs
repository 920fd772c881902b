//! The fleet file as people write it: what is accepted, what is refused, and what they are told.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "test code"
)]

mod bookshop;
mod errors;
mod foreign;
mod layers;
mod semantics;
mod support;
