//! What a database must do to keep a sealed store.
//!
//! A backend sees opaque bytes: blind names, sealed values, and the few numbers it needs to order and find
//! them. It holds no key and cannot tell what it keeps. [`Sqlite`](crate::Sqlite) is the embedded one; the
//! conformance tests hold for each.

use std::{error::Error, sync::Arc};

use testudo_model::Timestamp;

/// A keyed hash that stands for a name: of a collection, a key, an index value, a log.
pub type Blind = [u8; 32];

/// Told the newest change after each commit, by whichever process made it. Answers `false` when it no longer
/// wants to be told.
pub type CommitListener = Box<dyn Fn(u64) -> bool + Send + Sync>;

/// A record at rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedRecord {
    /// Tenant and collection.
    pub space: Blind,
    /// Key in that collection.
    pub key: Blind,
    /// Change that inserted it: its place in the order of the collection.
    pub position: u64,
    /// Change that last wrote it.
    pub version: u64,
    /// From when on it counts as absent.
    pub expires: Option<Timestamp>,
    /// Keyring term of the seal.
    pub term: u32,
    /// The sealed value.
    pub sealed: Vec<u8>,
}

/// Log entries at rest: some that were appended next to each other, sealed as one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedRun {
    /// Tenant and log.
    pub log: Blind,
    /// Place of the first entry in the log, from 0. The runs of a log leave no gaps.
    pub first: u64,
    /// Number of entries, at least 1.
    pub count: u64,
    /// Keyring term of the seal.
    pub term: u32,
    /// The sealed value.
    pub sealed: Vec<u8>,
}

/// A change at rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedChange {
    /// Its number, from 1, without gaps, in the order of commits.
    pub sequence: u64,
    /// Keyring term of the seal.
    pub term: u32,
    /// The sealed value.
    pub sealed: Vec<u8>,
}

/// Whatever carries a seal and may need a new one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SealedItem {
    /// A record.
    Record(SealedRecord),
    /// Log entries.
    Run(SealedRun),
    /// A change.
    Change(SealedChange),
}

/// The keyring at rest: wrapped by the root key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrappedKeyring {
    /// Grows with each change of the keyring, so that other processes notice.
    pub version: u64,
    /// Tells the right root key from a wrong one without revealing anything about it.
    pub key_check: [u8; 16],
    /// The wrapped keyring.
    pub wrapped: Vec<u8>,
}

/// A database that can keep a sealed store.
///
/// Several processes may share one backend if it allows that. What they all need: commits happen one after
/// the other (numbers of changes are dense and in commit order), and a write transaction sees no other's
/// writes between its first statement and its commit.
pub trait Backend: Send + Sync + 'static {
    /// A connection that sees all that is committed. Each call on it sees one state.
    ///
    /// # Errors
    /// When no connection can be had.
    fn reader(&self) -> Result<Box<dyn Reads + '_>, BackendError>;

    /// Begins a write transaction, after the one before it has ended. Dropped without a commit, it leaves
    /// nothing behind.
    ///
    /// # Errors
    /// When the database cannot be written.
    fn begin(&self) -> Result<Box<dyn Writes + '_>, BackendError>;

    /// Forgets whatever it remembers of what it has read: something did not open, and may be otherwise on the disk.
    fn distrust(&self) {}

    /// Registers `listener` for all commits, those of other processes included.
    fn on_commit(&self, listener: CommitListener);

    /// House-keeping between transactions, e.g. a checkpoint.
    ///
    /// # Errors
    /// When it failed in a way that makes later commits doubtful.
    fn maintain(&self) -> Result<(), BackendError>;
}

/// Questions to a database.
pub trait Reads {
    /// The keyring, if the store was ever opened.
    ///
    /// # Errors
    /// As all here: when the database fails or finds itself damaged.
    fn keyring(&self) -> Result<Option<WrappedKeyring>, BackendError>;

    /// One record, expired or not.
    ///
    /// # Errors
    /// When the database fails or finds itself damaged.
    fn record(&self, space: &Blind, key: &Blind) -> Result<Option<SealedRecord>, BackendError>;

    /// At most `limit` records of `space` past position `after` that are alive at `now`, by position.
    ///
    /// # Errors
    /// When the database fails or finds itself damaged.
    fn records(
        &self,
        space: &Blind,
        after: u64,
        limit: usize,
        now: Timestamp,
    ) -> Result<Vec<SealedRecord>, BackendError>;

    /// At most `limit` records filed under `index_value` that are alive at `now`, by position.
    ///
    /// # Errors
    /// When the database fails or finds itself damaged.
    fn indexed(
        &self,
        index_value: &Blind,
        limit: usize,
        now: Timestamp,
    ) -> Result<Vec<SealedRecord>, BackendError>;

    /// The runs of `log` that hold its entries `from..end`, in order.
    ///
    /// # Errors
    /// When the database fails or finds itself damaged.
    fn runs(&self, log: &Blind, from: u64, end: u64) -> Result<Vec<SealedRun>, BackendError>;

    /// The index the next entry of `log` gets.
    ///
    /// # Errors
    /// When the database fails or finds itself damaged.
    fn log_length(&self, log: &Blind) -> Result<u64, BackendError>;

    /// At most `limit` changes past `after`, in order.
    ///
    /// # Errors
    /// When the database fails or finds itself damaged.
    fn changes(&self, after: u64, limit: usize) -> Result<Vec<SealedChange>, BackendError>;

    /// Number of the newest change, 0 if there was none. The newest change is never forgotten.
    ///
    /// # Errors
    /// When the database fails or finds itself damaged.
    fn newest_change(&self) -> Result<u64, BackendError>;
}

/// A write transaction. It sees its own writes.
pub trait Writes: Reads {
    /// Marks the present state.
    ///
    /// # Errors
    /// As all here: when the database fails or has no room.
    fn savepoint(&mut self) -> Result<(), BackendError>;

    /// Keeps what was done since the last mark, and forgets the mark.
    ///
    /// # Errors
    /// When the database fails or has no room.
    fn release(&mut self) -> Result<(), BackendError>;

    /// Undoes what was done since the last mark, and forgets the mark.
    ///
    /// # Errors
    /// When the database fails or has no room.
    fn undo(&mut self) -> Result<(), BackendError>;

    /// Inserts a record, or replaces the one with the same space and key; files it under `index_values` and
    /// under no other.
    ///
    /// # Errors
    /// When the database fails or has no room.
    fn put_record(
        &mut self,
        record: &SealedRecord,
        index_values: &[Blind],
    ) -> Result<(), BackendError>;

    /// Removes a record and what it is filed under.
    ///
    /// # Errors
    /// When the database fails or has no room.
    fn delete_record(&mut self, record: &SealedRecord) -> Result<(), BackendError>;

    /// Adds a run to a log.
    ///
    /// # Errors
    /// When the database fails or has no room, or the log already has a run with that first entry.
    fn append_run(&mut self, run: &SealedRun) -> Result<(), BackendError>;

    /// Adds a change.
    ///
    /// # Errors
    /// When the database fails or has no room, or the number is taken.
    fn append_change(&mut self, change: &SealedChange) -> Result<(), BackendError>;

    /// Forgets all changes before `sequence`.
    ///
    /// # Errors
    /// When the database fails or has no room.
    fn forget_changes(&mut self, sequence: u64) -> Result<(), BackendError>;

    /// Keeps the keyring in place of the one before.
    ///
    /// # Errors
    /// When the database fails or has no room.
    fn put_keyring(&mut self, keyring: &WrappedKeyring) -> Result<(), BackendError>;

    /// At most `limit` records that are expired at `now`, the longest expired first.
    ///
    /// # Errors
    /// When the database fails or finds itself damaged.
    fn expired(&self, now: Timestamp, limit: usize) -> Result<Vec<SealedRecord>, BackendError>;

    /// At most `limit` items sealed under a term before `term`.
    ///
    /// # Errors
    /// When the database fails or finds itself damaged.
    fn sealed_before(&self, term: u32, limit: usize) -> Result<Vec<SealedItem>, BackendError>;

    /// Replaces the seal (term and sealed value) of the stored item with the same identity as `item`.
    ///
    /// # Errors
    /// When the database fails or has no room.
    fn reseal(&mut self, item: &SealedItem) -> Result<(), BackendError>;

    /// Makes all of it durable and visible at once, then tells the listeners.
    ///
    /// # Errors
    /// When the database fails or has no room. Nothing of the transaction is visible then.
    fn commit(self: Box<Self>) -> Result<(), BackendError>;
}

/// How a database fails.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BackendError {
    /// No room left: the disk, or the page limit.
    #[error("the database has no room left")]
    Full(#[source] Arc<dyn Error + Send + Sync>),
    /// Somebody else holds the database.
    #[error("another program holds a lock on the database")]
    Busy(#[source] Arc<dyn Error + Send + Sync>),
    /// The database is damaged.
    #[error("the database is damaged")]
    Corrupt(#[source] Arc<dyn Error + Send + Sync>),
    /// Reading or writing failed. What is on disk after a failed write is unknown until it is opened again.
    #[error("the database failed")]
    Io(#[source] Arc<dyn Error + Send + Sync>),
}
