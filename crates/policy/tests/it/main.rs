//! The policy room from outside.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    missing_docs,
    reason = "test code"
)]

mod administration;
mod bookshop;
mod cache;
mod cases;
mod cost;
mod decisions;
mod exchange;
mod explanations;
mod guardrails;
mod hostile;
mod index;
mod oracle;
mod random;
mod validation;
