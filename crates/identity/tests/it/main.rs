//! The provider as its callers see it, over a real store.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "test code"
)]

mod administration;
mod assertions;
mod authenticator;
mod authorization;
mod codes;
mod consent;
mod device;
mod directories;
mod dpop;
mod exchange;
mod external;
mod fapi;
mod federation;
mod groups;
mod house;
mod introspection;
mod invitations;
mod keys;
mod login;
mod logout;
mod machines;
mod mail;
mod notices;
mod passkeys;
mod password_reset;
mod passwords;
mod pushed;
mod refresh;
mod refresh_race;
mod registration;
mod relying_parties;
mod request_objects;
mod revocation;
mod scim;
mod second_factor;
mod secrecy;
mod seeding;
mod webauthn;
