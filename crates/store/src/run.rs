//! Log entries that are sealed together.
//!
//! A row costs more than what is in it: a seal, an index entry, a page that must be synced. So entries that
//! are appended next to each other share one, up to [`RUN_BYTES`].

use std::sync::Arc;

use crate::{
    StoreError,
    backend::{Blind, SealedRun},
    limits::{MAX_VALUE_BYTES, RUN_BYTES},
    record::Logged,
    seal::Keys,
    unit::check_size,
};

/// Bytes before each entry: its length.
const HEAD: usize = 4;

/// Entries to be sealed together: each a length (u32, little endian) and that many bytes.
#[derive(Debug, Default)]
pub(crate) struct Run {
    pub(crate) count: u64,
    pub(crate) plain: Vec<u8>,
}

/// Packs `entries`, in order.
pub(crate) fn pack<L: Logged>(entries: &[L]) -> Result<Vec<Run>, StoreError> {
    let mut runs: Vec<Run> = Vec::new();
    for entry in entries {
        match runs.last_mut() {
            Some(run) if run.plain.len() < RUN_BYTES => run.push(entry)?,
            _ => {
                let mut run = Run::default();
                run.push(entry)?;
                runs.push(run);
            }
        }
    }
    Ok(runs)
}

impl Run {
    fn push<L: Logged>(&mut self, entry: &L) -> Result<(), StoreError> {
        let head = self.plain.len();
        self.plain.extend([0; HEAD]);
        entry
            .write(&mut self.plain)
            .map_err(|source| StoreError::Encode {
                collection: L::LOG,
                source: Arc::new(source),
            })?;
        let length = self.plain.len() - head - HEAD;
        check_size("a log entry", length, MAX_VALUE_BYTES)?;
        // The limit is far below what 32 bits hold.
        let length = u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes();
        for (place, byte) in self.plain.iter_mut().skip(head).zip(length) {
            *place = byte;
        }
        self.count += 1;
        Ok(())
    }
}

/// The entries `from..end` of a log with their indexes, from the runs that a database says hold them.
pub(crate) fn unpack<L: Logged>(
    keys: &Keys,
    log: &Blind,
    from: u64,
    end: u64,
    runs: &[SealedRun],
) -> Result<Vec<(u64, L)>, StoreError> {
    let mut entries = Vec::new();
    let mut next = None;
    for run in runs {
        let joins = next.map_or(run.first <= from, |next| next == run.first);
        if run.log != *log || !joins {
            return Err(missing(next.unwrap_or(from)));
        }
        let plain = keys.open(run)?;
        let mut rest = plain.as_slice();
        for index in (run.first..).take(usize::try_from(run.count).unwrap_or(usize::MAX)) {
            let (entry, behind) = split(rest).ok_or_else(|| StoreError::corrupt("a run"))?;
            rest = behind;
            if (from..end).contains(&index) {
                entries.push((index, read(entry)?));
            }
        }
        next = run.first.checked_add(run.count);
    }
    Ok(entries)
}

fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<HEAD>()?;
    rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)
}

/// An entry that opened under the store's keys. If it does not parse, another release wrote it.
fn read<L: Logged>(entry: &[u8]) -> Result<L, StoreError> {
    L::read(entry).map_err(|source| StoreError::Decode {
        collection: L::LOG,
        source: Arc::new(source),
    })
}

fn missing(index: u64) -> StoreError {
    StoreError::corrupt(format!("log entry {index}, which is missing,"))
}
