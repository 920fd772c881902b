//! A backend in memory: the shortest statement of what a backend must do, with failures on demand.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Error, ErrorKind},
    sync::{Arc, Mutex, MutexGuard},
};

use testudo_model::Timestamp;
use testudo_store::{
    Backend, BackendError, Blind, CommitListener, Reads, SealedChange, SealedItem, SealedRecord,
    SealedRun, WrappedKeyring, Writes,
};

#[derive(Clone, Default)]
struct State {
    keyring: Option<WrappedKeyring>,
    records: BTreeMap<u64, SealedRecord>,
    filed: BTreeSet<(Blind, u64)>,
    runs: BTreeMap<(Blind, u64), SealedRun>,
    changes: BTreeMap<u64, SealedChange>,
}

#[derive(Default)]
pub struct Memory {
    committed: Mutex<Arc<State>>,
    turn: Mutex<()>,
    listeners: Mutex<Vec<CommitListener>>,
    failures: Mutex<Failures>,
}

#[derive(Default)]
struct Failures {
    /// Bytes of record values that fit, if there is a limit.
    room: Option<usize>,
    next_commit_fails: bool,
}

impl Memory {
    pub fn limit_room(&self, bytes: Option<usize>) {
        self.failures.lock().unwrap().room = bytes;
    }

    pub fn fail_next_commit(&self) {
        self.failures.lock().unwrap().next_commit_fails = true;
    }
}

impl Backend for Memory {
    fn reader(&self) -> Result<Box<dyn Reads + '_>, BackendError> {
        Ok(Box::new(Snapshot(Arc::clone(
            &self.committed.lock().unwrap(),
        ))))
    }

    fn begin(&self) -> Result<Box<dyn Writes + '_>, BackendError> {
        let turn = self.turn.lock().unwrap();
        let state = Arc::clone(&self.committed.lock().unwrap());
        Ok(Box::new(Writing {
            memory: self,
            state: Snapshot(state),
            marks: Vec::new(),
            _turn: turn,
        }))
    }

    fn on_commit(&self, listener: CommitListener) {
        self.listeners.lock().unwrap().push(listener);
    }

    fn maintain(&self) -> Result<(), BackendError> {
        Ok(())
    }
}

struct Snapshot(Arc<State>);

impl Reads for Snapshot {
    fn keyring(&self) -> Result<Option<WrappedKeyring>, BackendError> {
        Ok(self.0.keyring.clone())
    }

    fn record(&self, space: &Blind, key: &Blind) -> Result<Option<SealedRecord>, BackendError> {
        Ok(self
            .0
            .records
            .values()
            .find(|r| r.space == *space && r.key == *key)
            .cloned())
    }

    fn records(
        &self,
        space: &Blind,
        after: u64,
        limit: usize,
        now: Timestamp,
    ) -> Result<Vec<SealedRecord>, BackendError> {
        let records = self.0.records.values();
        let wanted =
            records.filter(|r| r.space == *space && r.position > after && is_alive(r, now));
        Ok(wanted.take(limit).cloned().collect())
    }

    fn indexed(
        &self,
        index_value: &Blind,
        limit: usize,
        now: Timestamp,
    ) -> Result<Vec<SealedRecord>, BackendError> {
        let filed = self
            .0
            .filed
            .range((*index_value, 0)..=(*index_value, u64::MAX));
        let records = filed.filter_map(|(_, position)| self.0.records.get(position));
        Ok(records
            .filter(|r| is_alive(r, now))
            .take(limit)
            .cloned()
            .collect())
    }

    fn runs(&self, log: &Blind, from: u64, end: u64) -> Result<Vec<SealedRun>, BackendError> {
        let runs = self.0.runs.range((*log, 0)..(*log, end));
        Ok(runs
            .map(|(_, run)| run)
            .filter(|run| run.first + run.count > from)
            .cloned()
            .collect())
    }

    fn log_length(&self, log: &Blind) -> Result<u64, BackendError> {
        let last = self.0.runs.range((*log, 0)..=(*log, u64::MAX)).next_back();
        Ok(last.map_or(0, |(_, run)| run.first + run.count))
    }

    fn changes(&self, after: u64, limit: usize) -> Result<Vec<SealedChange>, BackendError> {
        let changes = self
            .0
            .changes
            .values()
            .filter(|change| change.sequence > after);
        Ok(changes.take(limit).cloned().collect())
    }

    fn newest_change(&self) -> Result<u64, BackendError> {
        Ok(self
            .0
            .changes
            .last_key_value()
            .map_or(0, |(sequence, _)| *sequence))
    }
}

fn is_alive(record: &SealedRecord, now: Timestamp) -> bool {
    record.expires.is_none_or(|at| at > now)
}

struct Writing<'a> {
    memory: &'a Memory,
    state: Snapshot,
    marks: Vec<Arc<State>>,
    _turn: MutexGuard<'a, ()>,
}

impl Writing<'_> {
    fn state(&mut self) -> &mut State {
        Arc::make_mut(&mut self.state.0)
    }
}

impl Reads for Writing<'_> {
    fn keyring(&self) -> Result<Option<WrappedKeyring>, BackendError> {
        self.state.keyring()
    }

    fn record(&self, space: &Blind, key: &Blind) -> Result<Option<SealedRecord>, BackendError> {
        self.state.record(space, key)
    }

    fn records(
        &self,
        space: &Blind,
        after: u64,
        limit: usize,
        now: Timestamp,
    ) -> Result<Vec<SealedRecord>, BackendError> {
        self.state.records(space, after, limit, now)
    }

    fn indexed(
        &self,
        index_value: &Blind,
        limit: usize,
        now: Timestamp,
    ) -> Result<Vec<SealedRecord>, BackendError> {
        self.state.indexed(index_value, limit, now)
    }

    fn runs(&self, log: &Blind, from: u64, end: u64) -> Result<Vec<SealedRun>, BackendError> {
        self.state.runs(log, from, end)
    }

    fn log_length(&self, log: &Blind) -> Result<u64, BackendError> {
        self.state.log_length(log)
    }

    fn changes(&self, after: u64, limit: usize) -> Result<Vec<SealedChange>, BackendError> {
        self.state.changes(after, limit)
    }

    fn newest_change(&self) -> Result<u64, BackendError> {
        self.state.newest_change()
    }
}

impl Writes for Writing<'_> {
    fn savepoint(&mut self) -> Result<(), BackendError> {
        self.marks.push(Arc::clone(&self.state.0));
        Ok(())
    }

    fn release(&mut self) -> Result<(), BackendError> {
        self.marks.pop().unwrap();
        Ok(())
    }

    fn undo(&mut self) -> Result<(), BackendError> {
        self.state.0 = self.marks.pop().unwrap();
        Ok(())
    }

    fn put_record(
        &mut self,
        record: &SealedRecord,
        index_values: &[Blind],
    ) -> Result<(), BackendError> {
        let position = record.position;
        let state = self.state();
        state.filed.retain(|(_, filed)| *filed != position);
        state
            .filed
            .extend(index_values.iter().map(|value| (*value, position)));
        state.records.insert(position, record.clone());
        let used: usize = state
            .records
            .values()
            .map(|record| record.sealed.len())
            .sum();
        match self.memory.failures.lock().unwrap().room {
            Some(room) if used > room => Err(BackendError::Full(Arc::new(Error::from(
                ErrorKind::StorageFull,
            )))),
            _ => Ok(()),
        }
    }

    fn delete_record(&mut self, record: &SealedRecord) -> Result<(), BackendError> {
        self.state()
            .filed
            .retain(|(_, filed)| *filed != record.position);
        self.state().records.remove(&record.position);
        Ok(())
    }

    fn append_run(&mut self, run: &SealedRun) -> Result<(), BackendError> {
        assert!(
            self.state()
                .runs
                .insert((run.log, run.first), run.clone())
                .is_none()
        );
        Ok(())
    }

    fn append_change(&mut self, change: &SealedChange) -> Result<(), BackendError> {
        assert!(
            self.state()
                .changes
                .insert(change.sequence, change.clone())
                .is_none()
        );
        Ok(())
    }

    fn forget_changes(&mut self, sequence: u64) -> Result<(), BackendError> {
        self.state().changes.retain(|number, _| *number >= sequence);
        Ok(())
    }

    fn put_keyring(&mut self, keyring: &WrappedKeyring) -> Result<(), BackendError> {
        self.state().keyring = Some(keyring.clone());
        Ok(())
    }

    fn expired(&self, now: Timestamp, limit: usize) -> Result<Vec<SealedRecord>, BackendError> {
        let mut expired: Vec<_> = self
            .state
            .0
            .records
            .values()
            .filter(|r| !is_alive(r, now))
            .cloned()
            .collect();
        expired.sort_by_key(|record| record.expires);
        expired.truncate(limit);
        Ok(expired)
    }

    fn sealed_before(&self, term: u32, limit: usize) -> Result<Vec<SealedItem>, BackendError> {
        let state = &self.state.0;
        let records = state
            .records
            .values()
            .filter(|r| r.term < term)
            .cloned()
            .map(SealedItem::Record);
        let runs = state
            .runs
            .values()
            .filter(|r| r.term < term)
            .cloned()
            .map(SealedItem::Run);
        let changes = state
            .changes
            .values()
            .filter(|c| c.term < term)
            .cloned()
            .map(SealedItem::Change);
        Ok(records.chain(runs).chain(changes).take(limit).collect())
    }

    fn reseal(&mut self, item: &SealedItem) -> Result<(), BackendError> {
        let state = self.state();
        match item.clone() {
            SealedItem::Record(record) => drop(state.records.insert(record.position, record)),
            SealedItem::Run(run) => drop(state.runs.insert((run.log, run.first), run)),
            SealedItem::Change(change) => drop(state.changes.insert(change.sequence, change)),
        }
        Ok(())
    }

    fn commit(self: Box<Self>) -> Result<(), BackendError> {
        if std::mem::take(&mut self.memory.failures.lock().unwrap().next_commit_fails) {
            return Err(BackendError::Io(Arc::new(Error::other("the disk is gone"))));
        }
        let newest = self.newest_change()?;
        *self.memory.committed.lock().unwrap() = Arc::clone(&self.state.0);
        let memory = self.memory;
        drop(self);
        memory
            .listeners
            .lock()
            .unwrap()
            .retain(|listener| listener(newest));
        Ok(())
    }
}
