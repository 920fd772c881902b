//! The statements.

use std::{mem, ops::Deref, sync::Arc};

use rusqlite::{Connection, OptionalExtension, Params, Row, params};
use testudo_model::Timestamp;

use super::{
    Reading, Writing,
    recent::{Known, Recent},
};
use crate::backend::{
    BackendError, Blind, Reads, SealedChange, SealedItem, SealedRecord, SealedRun, WrappedKeyring,
    Writes,
};

/// A connection, lent for as long as the session lives.
pub(super) struct Session<C>(C);

/// A connection that is lent.
pub(super) trait Lent: Deref<Target = Connection> {
    /// What need not be asked. A writer asks: it sees what it wrote and nobody else does yet.
    fn recent(&self) -> Option<&Recent>;
}

impl Lent for Reading<'_> {
    fn recent(&self) -> Option<&Recent> {
        Some(self.recent)
    }
}

impl Lent for Writing<'_> {
    fn recent(&self) -> Option<&Recent> {
        None
    }
}

impl<C: Lent> Session<C> {
    pub(super) fn new(connection: C) -> Self {
        Self(connection)
    }

    fn one<T>(
        &self,
        sql: &str,
        params: impl Params,
        read: fn(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Option<T>, BackendError> {
        Ok(self
            .0
            .prepare_cached(sql)?
            .query_row(params, read)
            .optional()?)
    }

    fn many<T>(
        &self,
        sql: &str,
        params: impl Params,
        read: fn(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, BackendError> {
        let mut statement = self.0.prepare_cached(sql)?;
        let rows = statement.query_map(params, read)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    fn number(&self, sql: &str, params: impl Params) -> Result<u64, BackendError> {
        Ok(self
            .0
            .prepare_cached(sql)?
            .query_row(params, |row| row.get(0))?)
    }

    /// The answer to a question about `name`: what is known, if `fits` takes that, or what `ask` says, which is then known as
    /// what `known` makes of it.
    fn answer<T>(
        &self,
        name: &Blind,
        fits: impl Fn(Known) -> Option<T>,
        ask: impl Fn() -> Result<T, BackendError>,
        known: impl Fn(&T) -> Option<Known>,
    ) -> Result<T, BackendError> {
        let Some(recent) = self.0.recent() else {
            return ask();
        };
        match recent.look_up(name) {
            Ok(found) => match fits(found) {
                Some(answer) => Ok(answer),
                None => ask(),
            },
            Err(asked) => {
                let answer = ask()?;
                if let Some(known) = known(&answer) {
                    recent.keep(name, known, asked);
                }
                Ok(answer)
            }
        }
    }

    fn run(&self, sql: &str, params: impl Params) -> Result<(), BackendError> {
        self.0.prepare_cached(sql)?.execute(params)?;
        Ok(())
    }
}

impl<C: Lent> Reads for Session<C> {
    fn keyring(&self) -> Result<Option<WrappedKeyring>, BackendError> {
        self.one(
            "SELECT version, key_check, wrapped FROM keyring",
            [],
            |row| {
                Ok(WrappedKeyring {
                    version: row.get(0)?,
                    key_check: row.get(1)?,
                    wrapped: row.get(2)?,
                })
            },
        )
    }

    fn record(&self, space: &Blind, key: &Blind) -> Result<Option<SealedRecord>, BackendError> {
        let ask = || {
            self.one(
                "SELECT position, space, key, version, expires, term, sealed FROM record
                 WHERE space = ?1 AND key = ?2",
                params![space, key],
                read_record,
            )
        };
        self.answer(
            key,
            |known| known.record_in(space),
            ask,
            |record| Some(Known::Record(record.clone().map(Arc::new))),
        )
    }

    fn records(
        &self,
        space: &Blind,
        after: u64,
        limit: usize,
        now: Timestamp,
    ) -> Result<Vec<SealedRecord>, BackendError> {
        self.many(
            "SELECT position, space, key, version, expires, term, sealed FROM record
             WHERE space = ?1 AND position > ?2 AND (expires IS NULL OR expires > ?3)
             ORDER BY position LIMIT ?4",
            params![space, number(after), now.unix_millis(), count(limit)],
            read_record,
        )
    }

    fn indexed(
        &self,
        index_value: &Blind,
        limit: usize,
        now: Timestamp,
    ) -> Result<Vec<SealedRecord>, BackendError> {
        self.many(
            "SELECT position, space, key, version, expires, term, sealed
             FROM index_value JOIN record USING (position)
             WHERE value = ?1 AND (expires IS NULL OR expires > ?2)
             ORDER BY position LIMIT ?3",
            params![index_value, now.unix_millis(), count(limit)],
            read_record,
        )
    }

    fn runs(&self, log: &Blind, from: u64, end: u64) -> Result<Vec<SealedRun>, BackendError> {
        let ask = || {
            self.many(
                "SELECT log, first, count, term, sealed FROM run
                 WHERE log = ?1 AND first < ?3 AND first >= coalesce(
                    (SELECT max(first) FROM run WHERE log = ?1 AND first <= ?2), 0)
                 ORDER BY first",
                params![log, number(from), number(end)],
                read_run,
            )
        };
        // Who follows a log asks again and again what comes behind its end.
        self.answer(
            log,
            |known| known.is_end_of_log(from).then(Vec::new),
            ask,
            |runs| {
                // Runs leave no gaps: the last of these is the last there is, if it ends before `from`.
                let end = runs
                    .last()
                    .map_or(0, |run| run.first.saturating_add(run.count));
                (end <= from).then_some(Known::LogEnd(end))
            },
        )
    }

    fn log_length(&self, log: &Blind) -> Result<u64, BackendError> {
        self.number(
            "SELECT coalesce((SELECT first + count FROM run WHERE log = ?1 ORDER BY first DESC LIMIT 1), 0)",
            params![log],
        )
    }

    fn changes(&self, after: u64, limit: usize) -> Result<Vec<SealedChange>, BackendError> {
        self.many(
            "SELECT sequence, term, sealed FROM change
             WHERE sequence > ?1 ORDER BY sequence LIMIT ?2",
            params![number(after), count(limit)],
            read_change,
        )
    }

    fn newest_change(&self) -> Result<u64, BackendError> {
        self.number("SELECT coalesce(max(sequence), 0) FROM change", [])
    }
}

impl Writes for Session<Writing<'_>> {
    fn savepoint(&mut self) -> Result<(), BackendError> {
        self.run("SAVEPOINT mark", [])
    }

    fn release(&mut self) -> Result<(), BackendError> {
        self.run("RELEASE mark", [])
    }

    fn undo(&mut self) -> Result<(), BackendError> {
        self.run("ROLLBACK TO mark", [])?;
        self.run("RELEASE mark", [])
    }

    fn put_record(
        &mut self,
        record: &SealedRecord,
        index_values: &[Blind],
    ) -> Result<(), BackendError> {
        self.0.touch(&record.key);
        self.run(
            "INSERT INTO record (position, space, key, version, expires, term, sealed)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
             ON CONFLICT (space, key) DO UPDATE SET version = excluded.version,
                expires = excluded.expires, term = excluded.term, sealed = excluded.sealed",
            params![
                number(record.position),
                record.space,
                record.key,
                number(record.version),
                record.expires.map(Timestamp::unix_millis),
                record.term,
                record.sealed,
            ],
        )?;
        self.run(
            "DELETE FROM index_value WHERE position = ?1",
            [number(record.position)],
        )?;
        for value in index_values {
            self.run(
                "INSERT OR IGNORE INTO index_value (value, position) VALUES (?1, ?2)",
                params![value, number(record.position)],
            )?;
        }
        Ok(())
    }

    fn delete_record(&mut self, record: &SealedRecord) -> Result<(), BackendError> {
        self.0.touch(&record.key);
        self.run(
            "DELETE FROM index_value WHERE position = ?1",
            [number(record.position)],
        )?;
        self.run(
            "DELETE FROM record WHERE position = ?1",
            [number(record.position)],
        )
    }

    fn append_run(&mut self, run: &SealedRun) -> Result<(), BackendError> {
        self.0.touch(&run.log);
        self.run(
            "INSERT INTO run (log, first, count, term, sealed) VALUES (?1, ?2, ?3, ?4, ?5)",
            params![
                run.log,
                number(run.first),
                number(run.count),
                run.term,
                run.sealed
            ],
        )
    }

    fn append_change(&mut self, change: &SealedChange) -> Result<(), BackendError> {
        self.run(
            "INSERT INTO change (sequence, term, sealed) VALUES (?1, ?2, ?3)",
            params![number(change.sequence), change.term, change.sealed],
        )
    }

    fn forget_changes(&mut self, sequence: u64) -> Result<(), BackendError> {
        self.run("DELETE FROM change WHERE sequence < ?1", [number(sequence)])
    }

    fn put_keyring(&mut self, keyring: &WrappedKeyring) -> Result<(), BackendError> {
        self.run(
            "INSERT OR REPLACE INTO keyring (id, version, key_check, wrapped) VALUES (1, ?1, ?2, ?3)",
            params![number(keyring.version), keyring.key_check, keyring.wrapped],
        )
    }

    fn expired(&self, now: Timestamp, limit: usize) -> Result<Vec<SealedRecord>, BackendError> {
        self.many(
            "SELECT position, space, key, version, expires, term, sealed FROM record
             WHERE expires <= ?1 ORDER BY expires LIMIT ?2",
            params![now.unix_millis(), count(limit)],
            read_record,
        )
    }

    fn sealed_before(&self, term: u32, limit: usize) -> Result<Vec<SealedItem>, BackendError> {
        let mut items: Vec<_> = self
            .many(
                "SELECT position, space, key, version, expires, term, sealed FROM record
                 WHERE term < ?1 LIMIT ?2",
                params![term, count(limit)],
                read_record,
            )?
            .into_iter()
            .map(SealedItem::Record)
            .collect();
        let runs = self.many(
            "SELECT log, first, count, term, sealed FROM run WHERE term < ?1 LIMIT ?2",
            params![term, count(limit - items.len())],
            read_run,
        )?;
        items.extend(runs.into_iter().map(SealedItem::Run));
        let changes = self.many(
            "SELECT sequence, term, sealed FROM change WHERE term < ?1 LIMIT ?2",
            params![term, count(limit - items.len())],
            read_change,
        )?;
        items.extend(changes.into_iter().map(SealedItem::Change));
        Ok(items)
    }

    fn reseal(&mut self, item: &SealedItem) -> Result<(), BackendError> {
        match item {
            SealedItem::Record(record) => {
                self.0.touch(&record.key);
                self.run(
                    "UPDATE record SET term = ?1, sealed = ?2 WHERE position = ?3",
                    params![record.term, record.sealed, number(record.position)],
                )
            }
            SealedItem::Run(run) => self.run(
                "UPDATE run SET term = ?1, sealed = ?2 WHERE log = ?3 AND first = ?4",
                params![run.term, run.sealed, run.log, number(run.first)],
            ),
            SealedItem::Change(change) => self.run(
                "UPDATE change SET term = ?1, sealed = ?2 WHERE sequence = ?3",
                params![change.term, change.sealed, number(change.sequence)],
            ),
        }
    }

    fn commit(mut self: Box<Self>) -> Result<(), BackendError> {
        let newest = self.newest_change()?;
        let sqlite = self.0.sqlite;
        let changing = sqlite.recent.change(mem::take(&mut self.0.touched));
        self.run("COMMIT", [])?;
        drop(self);
        drop(changing);
        sqlite.tell(newest);
        Ok(())
    }
}

fn read_record(row: &Row<'_>) -> rusqlite::Result<SealedRecord> {
    Ok(SealedRecord {
        position: row.get(0)?,
        space: row.get(1)?,
        key: row.get(2)?,
        version: row.get(3)?,
        expires: row
            .get::<_, Option<i64>>(4)?
            .map(Timestamp::from_unix_millis),
        term: row.get(5)?,
        sealed: row.get(6)?,
    })
}

fn read_run(row: &Row<'_>) -> rusqlite::Result<SealedRun> {
    Ok(SealedRun {
        log: row.get(0)?,
        first: row.get(1)?,
        count: row.get(2)?,
        term: row.get(3)?,
        sealed: row.get(4)?,
    })
}

fn read_change(row: &Row<'_>) -> rusqlite::Result<SealedChange> {
    Ok(SealedChange {
        sequence: row.get(0)?,
        term: row.get(1)?,
        sealed: row.get(2)?,
    })
}

/// SQLite's integers are signed. A number past their end compares as their end.
fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn count(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
