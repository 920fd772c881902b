//! Why the store says no.

use std::{error::Error, path::PathBuf, sync::Arc};

use crate::{backend::BackendError, record::Expected};

/// Why an operation on the store failed. If it was a write, nothing of it happened, except where
/// [`StoreError::Io`] says otherwise. No variant repeats a key or a value.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The root key is not the one the store was made with.
    #[error(
        "the root key is not the one this store was made with; give the key file that belongs to this data folder; \
         nothing was changed"
    )]
    WrongRootKey,
    /// Another process holds the data folder.
    #[error(
        "the data folder {} is in use by another process; stop that one first or choose another folder",
        folder.display()
    )]
    InUse {
        /// The folder.
        folder: PathBuf,
    },
    /// The database has a format this release does not know.
    #[error(
        "the database has format {found}, this release knows {known}; use the release that wrote it"
    )]
    UnknownFormat {
        /// The format found.
        found: i64,
        /// The format known.
        known: i64,
    },
    /// The record is not in the state the writer expected. Read it again and decide again.
    #[error("a record of `{collection}` changed meanwhile: expected {expected}, found {}", version(*found))]
    Conflict {
        /// Collection of the record.
        collection: &'static str,
        /// What the writer expected.
        expected: Expected,
        /// Version found, `None` if there is no record.
        found: Option<u64>,
    },
    /// What is stored is not what was written: damage, or somebody changed the database.
    #[error(
        "{what} does not open under the store's keys: the database is damaged or was changed by somebody \
         else; restore it from a backup"
    )]
    Corrupt {
        /// What is damaged.
        what: String,
        /// What the database says, if it noticed by itself.
        #[source]
        source: Option<BackendError>,
    },
    /// No room left. The store works on as soon as there is.
    #[error("no room left for the database; free disk space or raise its page limit")]
    Full(#[source] BackendError),
    /// A foreign program (a backup tool, an open `sqlite3` shell) holds a lock.
    #[error("another program holds a lock on the database; end it and try again")]
    Busy(#[source] BackendError),
    /// Reading or writing failed. If it was a commit, it is unknown whether it is on disk: it shows when the
    /// store is opened again.
    #[error("cannot {action}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// What the system says.
        #[source]
        source: Arc<dyn Error + Send + Sync>,
    },
    /// An earlier write failed, so that the state of the disk is unknown. No write is taken until the store is
    /// opened again.
    #[error(
        "the store takes no writes since one failed; see the error before, then start the process again"
    )]
    Stopped,
    /// A value beyond a limit of [`crate::limits`].
    #[error("{what} has {size}, the limit is {limit}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size: bytes, or a number of things.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// A record cannot be written as JSON.
    #[error("a record of `{collection}` cannot be encoded")]
    Encode {
        /// Its collection or log.
        collection: &'static str,
        /// Why.
        #[source]
        source: Arc<serde_json::Error>,
    },
    /// A record is intact but not of the type asked for: another release wrote it.
    #[error(
        "a record of `{collection}` has a form this release does not know; use the release that wrote it"
    )]
    Decode {
        /// Its collection or log.
        collection: &'static str,
        /// Why.
        #[source]
        source: Arc<serde_json::Error>,
    },
    /// The changes asked for are forgotten. Load the present state and follow from there.
    #[error("changes before {oldest} are forgotten; load the present state and follow from there")]
    Forgotten {
        /// The oldest change still known.
        oldest: u64,
    },
}

impl StoreError {
    pub(crate) fn io(action: &'static str, source: std::io::Error) -> Self {
        if source.kind() == std::io::ErrorKind::StorageFull {
            return Self::Full(BackendError::Full(Arc::new(source)));
        }
        Self::Io {
            action,
            source: Arc::new(source),
        }
    }

    pub(crate) fn corrupt(what: impl Into<String>) -> Self {
        Self::Corrupt {
            what: what.into(),
            source: None,
        }
    }

    /// Whether the database itself failed, so that nothing else of the same transaction can be trusted.
    pub(crate) fn is_of_the_database(&self) -> bool {
        matches!(
            self,
            Self::Full(_)
                | Self::Busy(_)
                | Self::Io { .. }
                | Self::Corrupt {
                    source: Some(_),
                    ..
                }
        )
    }
}

impl From<BackendError> for StoreError {
    fn from(error: BackendError) -> Self {
        match error {
            BackendError::Full(_) => Self::Full(error),
            BackendError::Busy(_) => Self::Busy(error),
            BackendError::Corrupt(_) => Self::Corrupt {
                what: "the database".to_owned(),
                source: Some(error),
            },
            BackendError::Io(source) => Self::Io {
                action: "read or write the database",
                source,
            },
        }
    }
}

fn version(found: Option<u64>) -> String {
    found.map_or_else(
        || "no record".to_owned(),
        |version| format!("version {version}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_happened_and_what_to_do() {
        let conflict = |expected, found| StoreError::Conflict {
            collection: "user",
            expected,
            found,
        };
        assert_eq!(
            conflict(Expected::Absent, Some(7)).to_string(),
            "a record of `user` changed meanwhile: expected no record, found version 7"
        );
        assert_eq!(
            conflict(Expected::Version(3), None).to_string(),
            "a record of `user` changed meanwhile: expected version 3, found no record"
        );
        assert!(
            StoreError::WrongRootKey
                .to_string()
                .contains("give the key file")
        );
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        assert!(matches!(StoreError::io("write", full), StoreError::Full(_)));
    }
}
