//! Reading and writing the records of one tenant.

use std::sync::Arc;

use serde::Deserialize;
use testudo_model::TenantName;

use crate::{
    Store, StoreError,
    backend::{Blind, SealedRecord},
    limits,
    record::{Cursor, Expected, Logged, Page, Record, Versioned},
    run,
    seal::Keys,
    transaction::Transaction,
    unit::{Address, Append, Delete, Put, check_size, decode, encode},
};

/// Where sequences are kept.
const SEQUENCES: &str = "store.sequence";

/// The records of one tenant. No call reaches another tenant's.
#[derive(Clone)]
pub struct Tenant {
    store: Store,
    name: Arc<str>,
}

impl Tenant {
    pub(crate) fn new(store: Store, name: &TenantName) -> Self {
        Self {
            store,
            name: Arc::from(name.as_str()),
        }
    }

    /// The record with this key.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when it does not open, [`StoreError::Decode`] when it is not an `R`, or what
    /// the database says.
    pub fn get<R: Record>(&self, key: &str) -> Result<Option<Versioned<R>>, StoreError> {
        let address = self.address(R::COLLECTION, key)?;
        self.store.core().read(|reads, keys| {
            let Some(record) = reads.record(&address.space, &address.blind_key)? else {
                return Ok(None);
            };
            if record.key != address.blind_key {
                return Err(StoreError::corrupt("a record of another key"));
            }
            let opened = open_record(keys, &address.space, &record)?;
            let now = self.store.core().clock.now();
            Ok(record.expires.is_none_or(|at| at > now).then_some(opened))
        })
    }

    /// All records that name `value` for `index`, in order of first insertion.
    ///
    /// # Errors
    /// As [`get`](Self::get); [`StoreError::TooLarge`] beyond [`limits::MAX_FOUND`] records.
    pub fn find<R: Record>(
        &self,
        index: &'static str,
        value: &str,
    ) -> Result<Vec<Versioned<R>>, StoreError> {
        let now = self.store.core().clock.now();
        self.store.core().read(|reads, keys| {
            let space = keys.space(&self.name, R::COLLECTION);
            let index_value = keys.index_value(&space, index, value);
            let found = reads.indexed(&index_value, limits::MAX_FOUND + 1, now)?;
            check_size("the list of records found", found.len(), limits::MAX_FOUND)?;
            found
                .iter()
                .map(|record| confirmed(open_record(keys, &space, record)?, index, value))
                .collect()
        })
    }

    /// At most `limit` records of the collection, in order of first insertion: from the start, or after a page
    /// that was read before.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn list<R: Record>(
        &self,
        after: Option<Cursor>,
        limit: usize,
    ) -> Result<Page<R>, StoreError> {
        let limit = limit.clamp(1, limits::MAX_PAGE);
        let after = after.map_or(0, |cursor| cursor.0);
        let now = self.store.core().clock.now();
        self.store.core().read(|reads, keys| {
            let space = keys.space(&self.name, R::COLLECTION);
            let mut records = reads.records(&space, after, limit + 1, now)?;
            let is_last = records.len() <= limit;
            records.truncate(limit);
            let next = records
                .last()
                .filter(|_| !is_last)
                .map(|last| Cursor(last.position));
            let items = records
                .iter()
                .map(|record| open_record(keys, &space, record))
                .collect::<Result<_, _>>()?;
            Ok(Page { items, next })
        })
    }

    /// Writes a record if it is in the state `expected`, and answers its new version once it is durable.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when it is in another, [`StoreError::TooLarge`] beyond a limit, or what the
    /// database says. Nothing is written then.
    pub fn put<R: Record>(&self, expected: Expected, record: &R) -> Result<u64, StoreError> {
        let put = self.put_of(expected, record)?;
        self.store.writer().submit(move |unit| unit.put(&put))
    }

    /// Deletes a record if it is in the state `expected`, and answers whether there was one.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub fn delete<R: Record>(&self, expected: Expected, key: &str) -> Result<bool, StoreError> {
        let delete = self.delete_of::<R>(expected, key)?;
        self.store.writer().submit(move |unit| unit.delete(&delete))
    }

    /// Begins a transaction: several writes, all or nothing.
    pub fn transaction(&self) -> Transaction {
        Transaction::new(self.clone())
    }

    /// Appends entries to a log, next to each other, and answers the index of the first once they are durable.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub fn append<L: Logged>(&self, entries: &[L]) -> Result<u64, StoreError> {
        let append = self.append_of(entries)?;
        self.store.writer().submit(move |unit| unit.append(&append))
    }

    /// At most `limit` entries of a log from index `from` on, with their indexes.
    ///
    /// # Errors
    /// As [`get`](Self::get); [`StoreError::Corrupt`] when an entry is missing.
    pub fn read_log<L: Logged>(
        &self,
        from: u64,
        limit: usize,
    ) -> Result<Vec<(u64, L)>, StoreError> {
        let limit = limit.clamp(1, limits::MAX_PAGE);
        self.store.core().read(|reads, keys| {
            let log = keys.log(&self.name, L::LOG);
            let end = from.saturating_add(limit as u64);
            run::unpack(keys, &log, from, end, &reads.runs(&log, from, end)?)
        })
    }

    /// Number of entries of a log, which is the index the next one gets.
    ///
    /// # Errors
    /// What the database says.
    pub fn log_len<L: Logged>(&self) -> Result<u64, StoreError> {
        self.store
            .core()
            .read(|reads, keys| Ok(reads.log_length(&keys.log(&self.name, L::LOG))?))
    }

    /// The next number of a sequence, from 1. No number is given twice; one is lost if its caller dies.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub fn next_sequence(&self, name: &'static str) -> Result<u64, StoreError> {
        let address = self.address(SEQUENCES, name)?;
        self.store
            .writer()
            .submit(move |unit| unit.increment(&address))
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    pub(crate) fn put_of<R: Record>(
        &self,
        expected: Expected,
        record: &R,
    ) -> Result<Put, StoreError> {
        let key = record.key();
        let address = self.address(R::COLLECTION, &key)?;
        let indexes = record.indexes();
        check_size(
            "the list of index values",
            indexes.len(),
            limits::MAX_INDEX_VALUES,
        )?;
        let keys = self.store.core().keys.current();
        let index_values = indexes
            .iter()
            .map(|(index, value)| keys.index_value(&address.space, index, value))
            .collect();
        let plain = encode(&self.name, R::COLLECTION, &key, record)?;
        Ok(Put {
            address,
            expected,
            plain,
            expires: record.expires(),
            index_values,
        })
    }

    pub(crate) fn delete_of<R: Record>(
        &self,
        expected: Expected,
        key: &str,
    ) -> Result<Delete, StoreError> {
        Ok(Delete {
            address: self.address(R::COLLECTION, key)?,
            expected,
        })
    }

    pub(crate) fn append_of<L: Logged>(&self, entries: &[L]) -> Result<Append, StoreError> {
        check_size(
            "the list of log entries",
            entries.len(),
            limits::MAX_OPERATIONS,
        )?;
        let runs = run::pack(entries)?;
        let log = self.store.core().keys.current().log(&self.name, L::LOG);
        Ok(Append {
            tenant: Arc::clone(&self.name),
            name: L::LOG,
            log,
            runs,
        })
    }

    fn address(&self, collection: &'static str, key: &str) -> Result<Address, StoreError> {
        check_size("a key", key.len(), limits::MAX_NAME_BYTES)?;
        // Blind names are the same under all versions of the keyring.
        let keys = self.store.core().keys.current();
        let space = keys.space(&self.name, collection);
        let blind_key = keys.key(&space, key);
        Ok(Address {
            tenant: Arc::clone(&self.name),
            collection,
            key: key.to_owned(),
            space,
            blind_key,
        })
    }
}

/// The typed part of a plain form.
#[derive(Deserialize)]
struct Typed<R> {
    record: R,
}

fn open_record<R: Record>(
    keys: &Keys,
    space: &Blind,
    sealed: &SealedRecord,
) -> Result<Versioned<R>, StoreError> {
    // The seal binds a record to its space; this binds the answer to the question.
    if sealed.space != *space {
        return Err(StoreError::corrupt(
            "a record of another collection or tenant",
        ));
    }
    let Typed { record } = decode(R::COLLECTION, &keys.open(sealed)?)?;
    Ok(Versioned {
        record,
        version: sealed.version,
    })
}

/// The index itself carries no seal, so the record must confirm that it belongs where it was found.
fn confirmed<R: Record>(
    found: Versioned<R>,
    index: &str,
    value: &str,
) -> Result<Versioned<R>, StoreError> {
    if found
        .record
        .indexes()
        .iter()
        .any(|(name, own)| *name == index && own == value)
    {
        Ok(found)
    } else {
        Err(StoreError::corrupt("an index"))
    }
}
