//! What is kept: records in collections, entries in logs.

use std::{fmt, str::FromStr};

use serde::{Serialize, de::DeserializeOwned};
use testudo_model::Timestamp;

/// A record of a collection. Everything about it is sealed, its key and its collection's name included.
pub trait Record: Serialize + DeserializeOwned + Clone + Send + 'static {
    /// Name of the collection, unique in the whole program: `identity.user`.
    const COLLECTION: &'static str;

    /// The key, unique in tenant and collection.
    fn key(&self) -> String;

    /// Further ways to find the record: index name and value. Values need not be unique.
    fn indexes(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    /// From when on the record counts as absent. It is removed some time later, by
    /// [`Store::sweep_expired`](crate::Store::sweep_expired).
    fn expires(&self) -> Option<Timestamp> {
        None
    }
}

/// An entry of an append-only log, kept as JSON.
pub trait LogEntry: Serialize + DeserializeOwned {
    /// Name of the log, unique in the whole program.
    const LOG: &'static str;
}

/// An entry of an append-only log, kept in a form of its own. Whatever is a [`LogEntry`] is one.
pub trait Logged: Sized {
    /// Name of the log, unique in the whole program.
    const LOG: &'static str;

    /// Writes the entry behind what `out` holds.
    ///
    /// # Errors
    /// When it has no such form.
    fn write(&self, out: &mut Vec<u8>) -> Result<(), serde_json::Error>;

    /// Reads what [`write`](Self::write) wrote.
    ///
    /// # Errors
    /// When another release wrote it.
    fn read(bytes: &[u8]) -> Result<Self, serde_json::Error>;
}

impl<L: LogEntry> Logged for L {
    const LOG: &'static str = <L as LogEntry>::LOG;

    fn write(&self, out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        serde_json::to_writer(out, self)
    }

    fn read(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }
}

/// A record with the version it was read at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned<R> {
    /// The record.
    pub record: R,
    /// Number of the change that wrote it: no other state of any record has the same.
    pub version: u64,
}

/// In which state a record must be for a write to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// There is none.
    Absent,
    /// It has this version.
    Version(u64),
    /// In any.
    Any,
}

impl Expected {
    pub(crate) fn is_met_by(self, found: Option<u64>) -> bool {
        match self {
            Self::Any => true,
            Self::Absent => found.is_none(),
            Self::Version(version) => found == Some(version),
        }
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => formatter.write_str("no record"),
            Self::Version(version) => write!(formatter, "version {version}"),
            Self::Any => formatter.write_str("any state"),
        }
    }
}

/// Part of a collection, in order of first insertion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<R> {
    /// The records.
    pub items: Vec<Versioned<R>>,
    /// Where the next page starts; `None` at the end.
    pub next: Option<Cursor>,
}

/// A place in a collection. It stays valid whatever is written, and may go out to clients as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cursor(pub(crate) u64);

impl fmt::Display for Cursor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.0)
    }
}

impl FromStr for Cursor {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}
