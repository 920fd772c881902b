//! The data folder: its lock, its files, its connections.

use std::{
    fmt::Display,
    fs::{DirBuilder, File, OpenOptions, TryLockError},
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, OpenFlags};

use crate::{StoreError, backend::BackendError};

pub(super) const DATABASE_FILE: &str = "store.db";
const LOCK_FILE: &str = "store.lock";
/// Number of the schema, in the database's `user_version`. A release that reads several migrates on opening.
const FORMAT: i64 = 1;
/// `TSTD`: tells `file(1)` and people that this is ours.
const APPLICATION_ID: i64 = 0x5453_5444;
/// How long to wait for a lock that only a foreign tool or a checkpoint can hold.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// The write-ahead file is cut back to this once it was copied.
const WRITE_AHEAD_BYTES: i64 = 16 * 1024 * 1024;
const STATEMENTS: usize = 64;
/// Page cache of a connection that reads. Each commit empties it, so that it is for the pages of one question.
const READER_CACHE_KIB: i64 = 256;

/// Makes the folder if need be and holds its lock until the returned file is dropped.
pub(super) fn lock_folder(folder: &Path) -> Result<File, StoreError> {
    private_folder()
        .create(folder)
        .map_err(|e| StoreError::io("make the data folder", e))?;
    let lock = private_file()
        .open(folder.join(LOCK_FILE))
        .map_err(|e| StoreError::io("open the lock of the data folder", e))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse {
            folder: folder.to_owned(),
        }),
        Err(TryLockError::Error(e)) => Err(StoreError::io("lock the data folder", e)),
    }
}

/// SQLite gives its side files the mode of the database file, so that one is made here, for the owner alone.
pub(super) fn create_database_file(folder: &Path) -> Result<PathBuf, StoreError> {
    let path = folder.join(DATABASE_FILE);
    private_file()
        .open(&path)
        .map_err(|e| StoreError::io("open the database file", e))?;
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|e| StoreError::io("sync the data folder", e))?;
    Ok(path)
}

/// The one connection that writes.
pub(super) fn open_writer(file: &Path, max_pages: Option<u32>) -> Result<Connection, StoreError> {
    let connection = connect(file)?;
    let format = pragma(&connection, "user_version")?;
    let is_new = format == 0 && pragma(&connection, "schema_version")? == 0;
    if !is_new && format != FORMAT {
        return Err(StoreError::UnknownFormat {
            found: format,
            known: FORMAT,
        });
    }
    // Only the writer checkpoints, in `maintain`.
    set(&connection, "wal_autocheckpoint", 0)?;
    set(&connection, "journal_size_limit", WRITE_AHEAD_BYTES)?;
    // What is replaced or deleted, a keyring above all, is overwritten where that costs no further writes.
    set(&connection, "secure_delete", "FAST")?;
    if let Some(pages) = max_pages {
        set(&connection, "max_page_count", pages)?;
    }
    if is_new {
        create_schema(&connection)?;
    }
    Ok(connection)
}

/// A connection that cannot write.
pub(super) fn open_reader(file: &Path) -> Result<Connection, BackendError> {
    let connection = connect(file)?;
    set(&connection, "query_only", 1)?;
    set(&connection, "cache_size", -READER_CACHE_KIB)?;
    set(&connection, "wal_autocheckpoint", 0)?;
    Ok(connection)
}

fn connect(file: &Path) -> Result<Connection, BackendError> {
    // No URI file names, no lock inside: each connection belongs to one thread at a time.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(file, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection
        .pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get::<_, String>(0))?;
    // FULL syncs the write-ahead log at each commit: what is acknowledged survives a power cut.
    connection.pragma_update(None, "synchronous", "FULL")?;
    // What is sorted or spilled stays in memory.
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    // A damaged or planted schema runs no code and is noticed.
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    Ok(connection)
}

fn create_schema(connection: &Connection) -> Result<(), BackendError> {
    let schema = include_str!("schema.sql");
    connection.execute_batch(&format!(
        "BEGIN EXCLUSIVE; {schema} PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {FORMAT}; COMMIT;"
    ))?;
    Ok(())
}

fn pragma(connection: &Connection, name: &str) -> Result<i64, BackendError> {
    Ok(connection.pragma_query_value(None, name, |row| row.get(0))?)
}

/// Sets a pragma, whether or not it answers with its new value.
fn set(connection: &Connection, name: &str, value: impl Display) -> Result<(), BackendError> {
    let mut statement = connection.prepare(&format!("PRAGMA {name} = {value}"))?;
    let mut rows = statement.query([])?;
    while rows.next()?.is_some() {}
    Ok(())
}

#[cfg(unix)]
fn private_folder() -> DirBuilder {
    use std::os::unix::fs::DirBuilderExt;
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder
}

#[cfg(unix)]
fn private_file() -> OpenOptions {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600);
    options
}

#[cfg(not(unix))]
fn private_folder() -> DirBuilder {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    builder
}

#[cfg(not(unix))]
fn private_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    options
}
