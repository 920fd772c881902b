//! The product as its users run it: the built binary, real services, real TLS.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::string_slice,
    clippy::print_stderr,
    missing_docs,
    reason = "test code"
)]

mod admin_api;
mod apart;
mod api_keys;
mod applications;
mod apply;
mod at_rest;
mod bookshop;
mod bookshop_streams;
mod browser;
mod browser_login;
mod chromium;
mod clients;
mod commands;
mod cookbook;
mod crash;
mod databases;
mod delegation;
mod differential;
mod directories;
mod exhaustion;
mod federation;
mod fleet;
mod forge;
mod forged;
mod framing_table;
mod h2spec;
#[cfg(feature = "http3")]
mod http3;
mod installed;
mod link;
mod login;
mod logouts;
mod machines;
mod mail;
mod moving_in;
mod openapi;
mod own_certificate;
mod passkeys;
mod passwords;
mod paths;
mod possession;
mod protocols;
mod recorder;
mod registration;
mod roles;
mod scim;
mod second_factor;
mod shop;
mod sidecar_direct;
mod signals;
mod slow_clients;
mod source;
mod strict_clients;
mod tenants;
mod third_party;
mod token_story;
mod tokens;
mod tour;
mod traces;
mod transactions;
mod upgrades;
mod wire;
