//! The embedded backend: SQLite in write-ahead mode, every commit synced.

mod open;
mod recent;
mod session;

use std::{
    error::Error,
    fs::File,
    ops::Deref,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError,
        atomic::{AtomicUsize, Ordering},
    },
};

use rusqlite::{Connection, ErrorCode};

use self::{recent::Recent, session::Session};
use crate::{
    StoreError,
    backend::{Backend, BackendError, Blind, CommitListener, Reads, Writes},
};

/// Connections that read at the same time; a further reader waits. Each costs a few file handles and its
/// page cache.
const MAX_READERS: usize = 16;
/// Write-ahead pages after which they are copied into the database. SQLite's own default.
const CHECKPOINT_PAGES: i64 = 1_000;

/// Where an embedded database lives and how far it may grow.
#[derive(Debug, Clone)]
pub struct SqliteOptions {
    /// The data folder. Made if missing, for its owner alone.
    pub folder: PathBuf,
    /// Pages of 4 KiB the database may have before it answers [`BackendError::Full`]; `None` is SQLite's own
    /// limit.
    pub max_pages: Option<u32>,
}

/// An open embedded database. One process holds it at a time.
pub struct Sqlite {
    writer: Mutex<Connection>,
    readers: Readers,
    recent: Recent,
    listeners: Mutex<Vec<CommitListener>>,
    /// Last, so that the lock is given back after the connections are closed.
    _lock: File,
}

impl Sqlite {
    /// Whether `folder` has a database.
    pub(crate) fn exists(folder: &Path) -> bool {
        folder.join(open::DATABASE_FILE).exists()
    }

    /// Opens the database of a folder, or makes it.
    ///
    /// # Errors
    /// [`StoreError::InUse`] when another process (or this one) has it open, [`StoreError::UnknownFormat`] when
    /// a newer release wrote it, otherwise what the file system says.
    pub fn open(options: &SqliteOptions) -> Result<Self, StoreError> {
        let lock = open::lock_folder(&options.folder)?;
        let file = open::create_database_file(&options.folder)?;
        let writer = open::open_writer(&file, options.max_pages)?;
        Ok(Self {
            writer: Mutex::new(writer),
            readers: Readers::new(file),
            recent: Recent::default(),
            listeners: Mutex::new(Vec::new()),
            _lock: lock,
        })
    }

    fn tell(&self, newest_change: u64) {
        let mut listeners = self
            .listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        listeners.retain(|listener| listener(newest_change));
    }
}

impl Backend for Sqlite {
    fn reader(&self) -> Result<Box<dyn Reads + '_>, BackendError> {
        Ok(Box::new(Session::new(Reading {
            recent: &self.recent,
            connection: self.readers.borrow()?,
        })))
    }

    fn begin(&self) -> Result<Box<dyn Writes + '_>, BackendError> {
        let connection = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        Ok(Box::new(Session::new(Writing {
            sqlite: self,
            connection,
            touched: Vec::new(),
        })))
    }

    fn distrust(&self) {
        self.recent.forget_all();
    }

    fn on_commit(&self, listener: CommitListener) {
        self.listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(listener);
    }

    /// Copies the write-ahead log into the database once it is long. SQLite would do so by itself inside a
    /// commit, but would keep a failure to itself: a page that was never synced would be lost without a word.
    fn maintain(&self) -> Result<(), BackendError> {
        let connection = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let pages: i64 = connection
            .prepare_cached("PRAGMA wal_checkpoint(NOOP)")?
            .query_row([], |row| Ok(row.get::<_, i64>(1)? - row.get::<_, i64>(2)?))?;
        if pages >= CHECKPOINT_PAGES {
            connection
                .prepare_cached("PRAGMA wal_checkpoint(PASSIVE)")?
                .query_row([], |_| Ok(()))?;
        }
        Ok(())
    }
}

/// A connection that reads, and what need not be read.
struct Reading<'a> {
    recent: &'a Recent,
    connection: MutexGuard<'a, Connection>,
}

impl Deref for Reading<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

/// The writing connection inside a transaction.
struct Writing<'a> {
    sqlite: &'a Sqlite,
    connection: MutexGuard<'a, Connection>,
    /// What its commit changes: keys of records, and logs.
    touched: Vec<Blind>,
}

impl Writing<'_> {
    /// Those who append to one log come one after the other.
    fn touch(&mut self, name: &Blind) {
        if self.touched.last() != Some(name) {
            self.touched.push(*name);
        }
    }
}

impl Deref for Writing<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        if !self.connection.is_autocommit() {
            // A rollback that fails leaves the transaction open: the next BEGIN says so.
            let _ = self.connection.execute_batch("ROLLBACK");
        }
    }
}

/// Connections for readers: opened when first needed, then kept.
struct Readers {
    file: PathBuf,
    places: [OnceLock<Mutex<Connection>>; MAX_READERS],
    /// Where a reader queues when all places are taken.
    turn: AtomicUsize,
}

impl Readers {
    fn new(file: PathBuf) -> Self {
        Self {
            file,
            places: Default::default(),
            turn: AtomicUsize::new(0),
        }
    }

    fn borrow(&self) -> Result<MutexGuard<'_, Connection>, BackendError> {
        for place in &self.places {
            let connection = match place.get() {
                Some(connection) => connection,
                None => {
                    let opened = Mutex::new(open::open_reader(&self.file)?);
                    place.get_or_init(|| opened)
                }
            };
            match connection.try_lock() {
                Ok(free) => return Ok(free),
                Err(TryLockError::Poisoned(poisoned)) => return Ok(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) => {}
            }
        }
        self.wait_for_turn()
    }

    fn wait_for_turn(&self) -> Result<MutexGuard<'_, Connection>, BackendError> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % MAX_READERS;
        let connection = self.places.get(turn).and_then(OnceLock::get);
        connection
            .map(|connection| connection.lock().unwrap_or_else(PoisonError::into_inner))
            .ok_or_else(|| {
                BackendError::Io(Arc::from(Box::<dyn Error + Send + Sync>::from(
                    "no connection for readers",
                )))
            })
    }
}

impl From<rusqlite::Error> for BackendError {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::Error as E;
        let kind = match &error {
            E::SqliteFailure(failure, _) => match failure.code {
                ErrorCode::DiskFull => Self::Full,
                ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => Self::Busy,
                ErrorCode::DatabaseCorrupt
                | ErrorCode::NotADatabase
                | ErrorCode::ConstraintViolation => Self::Corrupt,
                _ => Self::Io,
            },
            E::FromSqlConversionFailure(..)
            | E::IntegralValueOutOfRange(..)
            | E::InvalidColumnType(..)
            | E::QueryReturnedNoRows => Self::Corrupt,
            _ => Self::Io,
        };
        kind(Arc::new(error))
    }
}
