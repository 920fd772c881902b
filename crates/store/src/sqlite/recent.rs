//! What was read lately, still sealed: the records that every login and every token needs are not asked for again and again.
//!
//! One process holds the database, so every change passes here: what a transaction changes is forgotten before its commit,
//! and cannot be remembered again before the commit is over. Whoever asks after a commit was acknowledged gets what it
//! wrote, as from the database itself.

use std::{
    collections::HashMap,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::backend::{Blind, SealedRecord};

/// Parts that are locked apart.
const SHARDS: usize = 32;
/// Bytes that one part keeps of what was used last, and again so many of what was used before.
const SHARD_BYTES: usize = 64 * 1024;
/// Larger records are read each time: snapshots and the like, which few ask for.
const MAX_BYTES: usize = 8 * 1024;
/// About what an entry takes beside its sealed value.
const ENTRY_BYTES: usize = 256;

/// What a database said of a name.
#[derive(Debug, Clone)]
pub(super) enum Known {
    /// Its record; `None` if there is none.
    Record(Option<Arc<SealedRecord>>),
    /// The index that the next entry of this log gets.
    LogEnd(u64),
}

impl Known {
    /// The record, or that there is none, as a question about a record of `space` wants it.
    pub(super) fn record_in(self, space: &Blind) -> Option<Option<SealedRecord>> {
        match self {
            Self::Record(None) => Some(None),
            Self::Record(Some(record)) if record.space == *space => {
                Some(Some(Arc::unwrap_or_clone(record)))
            }
            Self::Record(Some(_)) | Self::LogEnd(_) => None,
        }
    }

    /// Whether it is a log that has no entry from index `from` on.
    pub(super) const fn is_end_of_log(&self, from: u64) -> bool {
        matches!(self, Self::LogEnd(end) if *end <= from)
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Record(Some(record)) => ENTRY_BYTES + record.sealed.len(),
            Self::Record(None) | Self::LogEnd(_) => ENTRY_BYTES,
        }
    }
}

/// What is known, by blind name.
#[derive(Default)]
pub(super) struct Recent([Mutex<Shard>; SHARDS]);

/// Two generations: what is asked for stays in the younger one, and the older one goes as a whole.
#[derive(Default)]
struct Shard {
    young: HashMap<Blind, Known>,
    young_bytes: usize,
    old: HashMap<Blind, Known>,
    /// Commits under way that change something in this part.
    changing: usize,
    /// Commits that did.
    changes: u64,
}

/// The moment before a question to the database. Its answer may be kept if nothing was changed since.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    changes: u64,
}

/// Commit under way.
pub(super) struct Changing<'r> {
    recent: &'r Recent,
    names: Vec<Blind>,
}

impl Recent {
    /// What is known of `name`; if nothing is, the moment before the question to the database.
    pub(super) fn look_up(&self, name: &Blind) -> Result<Known, Asked> {
        let mut shard = self.shard(name);
        let asked = Asked {
            changes: shard.changes,
        };
        shard.find(name).ok_or(asked)
    }

    /// Keeps what the database said, unless it may be no longer so.
    pub(super) fn keep(&self, name: &Blind, known: Known, asked: Asked) {
        if known.bytes() > MAX_BYTES {
            return;
        }
        let mut shard = self.shard(name);
        if shard.changing == 0 && shard.changes == asked.changes {
            shard.insert(*name, known);
        }
    }

    /// Forgets `names`, which a commit is about to change, until the answer is dropped.
    pub(super) fn change(&self, names: Vec<Blind>) -> Changing<'_> {
        for name in &names {
            let mut shard = self.shard(name);
            shard.forget(name);
            shard.changing += 1;
        }
        Changing {
            recent: self,
            names,
        }
    }

    /// Forgets everything.
    pub(super) fn forget_all(&self) {
        for shard in &self.0 {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.young.clear();
            shard.old.clear();
            shard.young_bytes = 0;
        }
    }

    /// Blind names are evenly distributed: the first byte will do.
    fn shard(&self, name: &Blind) -> MutexGuard<'_, Shard> {
        let ([first, ..], [default, ..]) = (name, &self.0);
        let shard = self.0.get(usize::from(*first) % SHARDS).unwrap_or(default);
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        for name in &self.names {
            let mut shard = self.recent.shard(name);
            shard.changing -= 1;
            shard.changes += 1;
        }
    }
}

impl Shard {
    fn find(&mut self, name: &Blind) -> Option<Known> {
        if let Some(known) = self.young.get(name) {
            return Some(known.clone());
        }
        let known = self.old.remove(name)?;
        self.insert(*name, known.clone());
        Some(known)
    }

    fn insert(&mut self, name: Blind, known: Known) {
        if self.young_bytes + known.bytes() > SHARD_BYTES {
            self.old = mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        self.young_bytes += known.bytes();
        if let Some(before) = self.young.insert(name, known) {
            self.young_bytes -= before.bytes();
        }
    }

    fn forget(&mut self, name: &Blind) {
        self.old.remove(name);
        if let Some(known) = self.young.remove(name) {
            self.young_bytes -= known.bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: u8) -> Blind {
        // All in one part.
        let mut name = [0; 32];
        name[1] = number;
        name
    }

    fn record(bytes: usize) -> Known {
        Known::Record(Some(Arc::new(SealedRecord {
            space: [0; 32],
            key: [0; 32],
            position: 1,
            version: 1,
            expires: None,
            term: 1,
            sealed: vec![0; bytes],
        })))
    }

    fn asked(recent: &Recent, name: &Blind) -> Asked {
        recent.look_up(name).unwrap_err()
    }

    fn knows(recent: &Recent, name: &Blind) -> bool {
        recent.look_up(name).is_ok()
    }

    #[test]
    fn what_was_read_before_a_commit_is_not_kept_after_it() {
        let recent = Recent::default();
        let before = asked(&recent, &name(1));
        let changing = recent.change(vec![name(1)]);
        recent.keep(&name(1), Known::LogEnd(1), before);
        assert!(!knows(&recent, &name(1)), "it is being changed");
        let meanwhile = asked(&recent, &name(1));
        drop(changing);
        for stale in [before, meanwhile] {
            recent.keep(&name(1), Known::LogEnd(1), stale);
            assert!(!knows(&recent, &name(1)), "it may be older than the commit");
        }
        let after = asked(&recent, &name(1));
        recent.keep(&name(1), Known::LogEnd(2), after);
        assert!(knows(&recent, &name(1)));
    }

    #[test]
    fn what_is_about_to_change_is_forgotten_in_both_generations() {
        let recent = Recent::default();
        for number in 0..60 {
            let asked = asked(&recent, &name(number));
            recent.keep(&name(number), record(2_000), asked);
        }
        {
            let shard = recent.shard(&name(0));
            assert!(!shard.young.is_empty() && !shard.old.is_empty());
        }
        drop(recent.change((0..60).map(name).collect()));
        assert!((0..60).all(|number| !knows(&recent, &name(number))));
        assert_eq!(recent.shard(&name(0)).young_bytes, 0);
    }

    #[test]
    fn what_is_asked_for_stays_and_the_rest_goes() {
        let recent = Recent::default();
        for number in 0..=255 {
            let Err(asked) = recent.look_up(&name(number)) else {
                panic!("nobody knows it yet");
            };
            recent.keep(&name(number), record(1_000), asked);
            assert!(knows(&recent, &name(0)), "asked for after {number}");
            let shard = recent.shard(&name(0));
            assert!(shard.young_bytes <= SHARD_BYTES);
        }
        assert!(!knows(&recent, &name(1)), "nobody asked");
    }

    #[test]
    fn large_records_are_not_kept() {
        let recent = Recent::default();
        recent.keep(&name(1), record(MAX_BYTES), asked(&recent, &name(1)));
        assert!(!knows(&recent, &name(1)));
    }
}
