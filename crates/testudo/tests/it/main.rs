//! The product as its users run it: the built binary, real services, real TLS.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::print_stderr,
    missing_docs,
    reason = "test code"
)]

mod apart;
mod bookshop;
mod cookbook;
mod fleet;
mod link;
mod roles;
mod third_party;
mod tour;
mod traces;
mod wire;
