//! Several writes, all or nothing.

use testudo_model::TenantName;

use crate::{
    StoreError, Tenant, limits,
    record::{Expected, Logged, Record},
    unit::{Effect, Write, check_size},
};

/// Writes that are done together or not at all. Each sees what those before it did. A write that cannot even
/// be prepared makes [`commit`](Self::commit) fail.
#[must_use = "nothing is written before `commit`"]
pub struct Transaction {
    tenant: Tenant,
    writes: Result<Vec<Write>, StoreError>,
}

/// What a transaction did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// Number of its last change.
    pub sequence: u64,
    /// What each write did, in the order they were given.
    pub effects: Vec<Effect>,
}

impl Transaction {
    pub(crate) fn new(tenant: Tenant) -> Self {
        Self {
            tenant,
            writes: Ok(Vec::new()),
        }
    }

    /// Writes a record if it is in the state `expected`.
    pub fn put<R: Record>(self, expected: Expected, record: &R) -> Self {
        let write = self.tenant.put_of(expected, record).map(Write::Put);
        self.with(write)
    }

    /// Deletes a record if it is in the state `expected`.
    pub fn delete<R: Record>(self, expected: Expected, key: &str) -> Self {
        let write = self.tenant.delete_of::<R>(expected, key).map(Write::Delete);
        self.with(write)
    }

    /// Appends an entry to a log.
    pub fn append<L: Logged>(self, entry: &L) -> Self {
        self.append_all(std::slice::from_ref(entry))
    }

    /// Appends entries to a log, next to each other, as one change.
    pub fn append_all<L: Logged>(self, entries: &[L]) -> Self {
        let write = self.tenant.append_of(entries).map(Write::Append);
        self.with(write)
    }

    /// Appends an entry to a log of another tenant of the same store: what happens in one is to be told in another.
    pub fn append_in<L: Logged>(self, tenant: &TenantName, entry: &L) -> Self {
        let other = self.tenant.store().tenant(tenant);
        let write = other.append_of(std::slice::from_ref(entry));
        self.with(write.map(Write::Append))
    }

    /// Does all of it, and answers once it is durable.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when a record is in another state than expected, [`StoreError::TooLarge`]
    /// beyond a limit, or what the database says. Nothing is written then.
    pub fn commit(self) -> Result<Committed, StoreError> {
        let writes = self.writes?;
        check_size("the transaction", writes.len(), limits::MAX_OPERATIONS)?;
        self.tenant.store().writer().submit(move |unit| {
            let effects = writes
                .iter()
                .map(|write| unit.apply(write))
                .collect::<Result<_, _>>()?;
            Ok(Committed {
                sequence: unit.newest_change()?,
                effects,
            })
        })
    }

    fn with(mut self, write: Result<Write, StoreError>) -> Self {
        self.writes = self.writes.and_then(|mut writes| {
            writes.push(write?);
            Ok(writes)
        });
        self
    }
}
