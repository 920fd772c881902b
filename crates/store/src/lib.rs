//! The sealed record store: nothing is readable at rest.
//!
//! A [`Store`] has tenants; a [`Tenant`] has typed collections of [`Record`]s, append-only logs and sequences.
//! Every value is sealed under a keyring with rotating terms and bound to its place; every name (tenant,
//! collection, key, index value, log) is a keyed hash. A copy of the database shows how many rows there are,
//! how long they are, in which order they came and when they expire, and nothing else.
//!
//! A write answers when it is on disk. Writers do not wait for each other's sync: see `writer`. Versions are
//! optimistic: a write names the state it expects and fails with [`StoreError::Conflict`] in any other.
//! Nothing here assumes to be alone on its database: other processes' commits are told by
//! [`Store::subscribe`], their key rotations are noticed by themselves.
//!
//! All calls block: call them from a thread that may.

mod backend;
mod change;
mod core;
mod error;
mod record;
mod run;
mod seal;
mod sqlite;
mod store;
mod tenant;
mod transaction;
mod unit;
mod watch;
mod writer;

pub mod limits;

pub use backend::{
    Backend, BackendError, Blind, CommitListener, Reads, SealedChange, SealedItem, SealedRecord,
    SealedRun, WrappedKeyring, Writes,
};
pub use change::{Change, Operation};
pub use error::StoreError;
pub use record::{Cursor, Expected, LogEntry, Logged, Page, Record, Versioned};
pub use sqlite::{Sqlite, SqliteOptions};
pub use store::{Store, StoreOptions};
pub use tenant::Tenant;
pub use transaction::{Committed, Transaction};
pub use unit::Effect;
pub use watch::Subscription;
