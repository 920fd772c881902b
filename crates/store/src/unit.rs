//! What a writer does inside a write transaction of the database.

use std::{collections::HashMap, sync::Arc};

use serde::{Deserialize, Serialize, de::IgnoredAny};
use testudo_model::Timestamp;

use crate::{
    StoreError,
    backend::{Blind, SealedChange, SealedRecord, SealedRun, Writes},
    change::{Operation, SealedForm},
    core::Core,
    limits,
    record::Expected,
    run::Run,
    seal::Keys,
};

/// A name and where it leads.
#[derive(Debug, Clone)]
pub(crate) struct Address {
    pub(crate) tenant: Arc<str>,
    pub(crate) collection: &'static str,
    pub(crate) key: String,
    pub(crate) space: Blind,
    pub(crate) blind_key: Blind,
}

/// One write, ready but for its numbers and its seal.
#[derive(Debug)]
pub(crate) enum Write {
    Put(Put),
    Delete(Delete),
    Append(Append),
}

/// A record to write.
#[derive(Debug)]
pub(crate) struct Put {
    pub(crate) address: Address,
    pub(crate) expected: Expected,
    pub(crate) plain: Vec<u8>,
    pub(crate) expires: Option<Timestamp>,
    pub(crate) index_values: Vec<Blind>,
}

/// A record to delete.
#[derive(Debug)]
pub(crate) struct Delete {
    pub(crate) address: Address,
    pub(crate) expected: Expected,
}

/// Entries to append.
#[derive(Debug)]
pub(crate) struct Append {
    pub(crate) tenant: Arc<str>,
    pub(crate) name: &'static str,
    pub(crate) log: Blind,
    pub(crate) runs: Vec<Run>,
}

/// What a write did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// A record was written.
    Put {
        /// Its version now.
        version: u64,
    },
    /// A record was deleted.
    Deleted {
        /// Whether there was one.
        existed: bool,
    },
    /// Entries were appended.
    Appended {
        /// Index of the first.
        first: u64,
    },
}

/// The plain form of a record. Tenant, collection and key are in it for what must work without knowing the
/// type: sweeping tells followers what it removed.
#[derive(Serialize, Deserialize)]
pub(crate) struct PlainForm<T, R> {
    pub(crate) tenant: T,
    pub(crate) collection: T,
    pub(crate) key: T,
    pub(crate) record: R,
}

/// An open write transaction with the keys that are valid in it.
pub(crate) struct Unit<'a> {
    core: &'a Core,
    writes: Box<dyn Writes + 'a>,
    keys: Arc<Keys>,
    /// What was asked and written so far: nobody else writes meanwhile.
    known: Known,
}

/// Numbers that the database need not be asked for again.
#[derive(Default)]
struct Known {
    newest_change: Option<u64>,
    /// The index that the next entry of a log gets.
    log_ends: HashMap<Blind, u64>,
}

impl<'a> Unit<'a> {
    /// Begins. Another process may have rotated the keys since the last time: nothing may be sealed under a
    /// term that it is about to retire.
    pub(crate) fn begin(core: &'a Core) -> Result<Self, StoreError> {
        let writes = core.backend.begin()?;
        let keys = core.keys.current();
        let keys = core
            .keys
            .newer_than(&keys, &core.root_key, &*writes)?
            .unwrap_or(keys);
        Ok(Self {
            core,
            writes,
            keys,
            known: Known::default(),
        })
    }

    /// Does all of `work` or nothing.
    pub(crate) fn all_or_nothing(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let keys = Arc::clone(&self.keys);
        self.writes.savepoint()?;
        match work(self) {
            Ok(()) => Ok(self.writes.release()?),
            Err(error) if error.is_of_the_database() => Err(error),
            Err(error) => {
                self.keys = keys;
                self.known = Known::default();
                self.writes.undo()?;
                Err(error)
            }
        }
    }

    /// Makes it durable.
    pub(crate) fn commit(self) -> Result<(), StoreError> {
        self.writes.commit()?;
        self.core.keys.replace(self.keys);
        Ok(())
    }

    pub(crate) fn newest_change(&mut self) -> Result<u64, StoreError> {
        let newest = match self.known.newest_change {
            Some(newest) => newest,
            None => self.writes.newest_change()?,
        };
        self.known.newest_change = Some(newest);
        Ok(newest)
    }

    pub(crate) fn apply(&mut self, write: &Write) -> Result<Effect, StoreError> {
        Ok(match write {
            Write::Put(put) => Effect::Put {
                version: self.put(put)?,
            },
            Write::Delete(delete) => Effect::Deleted {
                existed: self.delete(delete)?,
            },
            Write::Append(append) => Effect::Appended {
                first: self.append(append)?,
            },
        })
    }

    /// Writes a record and answers its version.
    pub(crate) fn put(&mut self, put: &Put) -> Result<u64, StoreError> {
        let address = &put.address;
        let replaced = self.living(address)?;
        check(address, put.expected, replaced.as_ref())?;
        let operation = Operation::Put {
            key: address.key.clone(),
        };
        let version = self.change(&address.tenant, address.collection, operation)?;
        let mut record = SealedRecord {
            space: address.space,
            key: address.blind_key,
            position: replaced.map_or(version, |replaced| replaced.position),
            version,
            expires: put.expires,
            term: 0,
            sealed: Vec::new(),
        };
        self.keys.seal(&*self.core.entropy, &mut record, &put.plain);
        self.writes.put_record(&record, &put.index_values)?;
        Ok(version)
    }

    /// Deletes a record and answers whether there was one.
    pub(crate) fn delete(&mut self, delete: &Delete) -> Result<bool, StoreError> {
        let address = &delete.address;
        let found = self.living(address)?;
        check(address, delete.expected, found.as_ref())?;
        if let Some(record) = &found {
            self.remove(&address.tenant, address.collection, &address.key, record)?;
        }
        Ok(found.is_some())
    }

    /// Appends entries and answers the index of the first.
    pub(crate) fn append(&mut self, append: &Append) -> Result<u64, StoreError> {
        let Append {
            tenant,
            name,
            log,
            runs,
        } = append;
        let first = match self.known.log_ends.get(log) {
            Some(end) => *end,
            None => self.writes.log_length(log)?,
        };
        let mut next = first;
        for Run { count, plain } in runs {
            let mut run = SealedRun {
                log: *log,
                first: next,
                count: *count,
                term: 0,
                sealed: Vec::new(),
            };
            self.keys.seal(&*self.core.entropy, &mut run, plain);
            self.writes.append_run(&run)?;
            next += count;
        }
        self.known.log_ends.insert(*log, next);
        if next > first {
            self.change(
                tenant,
                name,
                Operation::Append {
                    first,
                    count: next - first,
                },
            )?;
        }
        Ok(first)
    }

    /// Counts the record at `address` up by one, from 0.
    pub(crate) fn increment(&mut self, address: &Address) -> Result<u64, StoreError> {
        let found = self.living(address)?;
        let last = match &found {
            None => 0,
            Some(record) => {
                let form: PlainForm<IgnoredAny, u64> =
                    decode(address.collection, &self.keys.open(record)?)?;
                form.record
            }
        };
        self.put(&Put {
            address: address.clone(),
            expected: Expected::Any,
            plain: encode(
                &address.tenant,
                address.collection,
                &address.key,
                &(last + 1),
            )?,
            expires: None,
            index_values: Vec::new(),
        })?;
        Ok(last + 1)
    }

    /// Removes at most `limit` expired records.
    pub(crate) fn sweep(&mut self, now: Timestamp, limit: usize) -> Result<usize, StoreError> {
        let expired = self.writes.expired(now, limit)?;
        for record in &expired {
            let plain = self.keys.open(record)?;
            let form: PlainForm<String, IgnoredAny> = decode("an expired record", &plain)?;
            self.remove(&form.tenant, &form.collection, &form.key, record)?;
        }
        Ok(expired.len())
    }

    /// Starts a new term.
    pub(crate) fn rotate(&mut self) -> Result<u32, StoreError> {
        let keys = self.keys.rotated(&*self.core.entropy);
        self.keep(keys)?;
        Ok(self.keys.term())
    }

    /// Seals at most `limit` old items under the current term. When none is left, retires the other terms.
    pub(crate) fn reseal(&mut self, limit: usize) -> Result<usize, StoreError> {
        let mut items = self.writes.sealed_before(self.keys.term(), limit)?;
        for item in &mut items {
            self.keys.reseal(&*self.core.entropy, item)?;
            self.writes.reseal(item)?;
        }
        if items.is_empty()
            && let Some(keys) = self.keys.retired()
        {
            self.keep(keys)?;
        }
        Ok(items.len())
    }

    fn keep(&mut self, keys: Keys) -> Result<(), StoreError> {
        self.writes
            .put_keyring(&keys.wrap(&self.core.root_key, &*self.core.entropy))?;
        self.keys = Arc::new(keys);
        Ok(())
    }

    /// The record at `address`. One that expired makes way here and now.
    fn living(&mut self, address: &Address) -> Result<Option<SealedRecord>, StoreError> {
        let Some(record) = self.writes.record(&address.space, &address.blind_key)? else {
            return Ok(None);
        };
        if record.expires.is_none_or(|at| at > self.core.clock.now()) {
            return Ok(Some(record));
        }
        // A planted expiry must not delete a record.
        self.keys.open(&record)?;
        self.remove(&address.tenant, address.collection, &address.key, &record)?;
        Ok(None)
    }

    fn remove(
        &mut self,
        tenant: &str,
        collection: &str,
        key: &str,
        record: &SealedRecord,
    ) -> Result<(), StoreError> {
        self.writes.delete_record(record)?;
        self.change(
            tenant,
            collection,
            Operation::Delete {
                key: key.to_owned(),
            },
        )?;
        Ok(())
    }

    /// Notes a change and answers its number.
    fn change(
        &mut self,
        tenant: &str,
        collection: &str,
        operation: Operation,
    ) -> Result<u64, StoreError> {
        let sequence = self.newest_change()? + 1;
        let form = SealedForm {
            tenant: tenant.to_owned(),
            collection: collection.to_owned(),
            operation,
        };
        let plain = serde_json::to_vec(&form).map_err(|source| StoreError::Encode {
            collection: "a change",
            source: Arc::new(source),
        })?;
        let mut change = SealedChange {
            sequence,
            term: 0,
            sealed: Vec::new(),
        };
        self.keys.seal(&*self.core.entropy, &mut change, &plain);
        self.writes.append_change(&change)?;
        self.known.newest_change = Some(sequence);
        // Now and then is often enough.
        if sequence % 1_024 == 0 {
            self.writes
                .forget_changes(sequence.saturating_sub(limits::CHANGES_KEPT))?;
        }
        Ok(sequence)
    }
}

/// The plain form of a record.
pub(crate) fn encode<R: Serialize>(
    tenant: &str,
    collection: &'static str,
    key: &str,
    record: &R,
) -> Result<Vec<u8>, StoreError> {
    let plain = serde_json::to_vec(&PlainForm {
        tenant,
        collection,
        key,
        record,
    })
    .map_err(|source| StoreError::Encode {
        collection,
        source: Arc::new(source),
    })?;
    check_size("a record", plain.len(), limits::MAX_VALUE_BYTES)?;
    Ok(plain)
}

/// A value that opened under the store's keys. If it does not parse, another release wrote it.
pub(crate) fn decode<T: serde::de::DeserializeOwned>(
    collection: &'static str,
    plain: &[u8],
) -> Result<T, StoreError> {
    serde_json::from_slice(plain).map_err(|source| StoreError::Decode {
        collection,
        source: Arc::new(source),
    })
}

pub(crate) fn check_size(what: &'static str, size: usize, limit: usize) -> Result<(), StoreError> {
    if size > limit {
        return Err(StoreError::TooLarge { what, size, limit });
    }
    Ok(())
}

fn check(
    address: &Address,
    expected: Expected,
    found: Option<&SealedRecord>,
) -> Result<(), StoreError> {
    let found = found.map(|record| record.version);
    if expected.is_met_by(found) {
        return Ok(());
    }
    Err(StoreError::Conflict {
        collection: address.collection,
        expected,
        found,
    })
}
