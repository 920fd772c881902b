//! Finding a leaf by the id of its event or decision.
//!
//! An id is a ULID: it says when it was made. So there is no index entry for each id, which would be the
//! dearest part of an append, but one for each run of leaves and *moment* (the leading digits of the ULID,
//! about a second). Who looks for an id reads the runs that hold ids of its moment.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use testudo_model::{Timestamp, Ulid, event::Event};
use testudo_store::{Expected, Record, Transaction};

use crate::{Entry, Ledger, LedgerError, filter::ById};

/// Leading digits of a ULID that make a moment: 40 of the 48 bits of its milliseconds.
const MOMENT_DIGITS: usize = 8;
/// The same as a time: two digits less of milliseconds.
const MOMENT: Duration = Duration::from_millis(1 << 10);
/// Longest span that is looked at for a name.
const MAX_SPAN: Duration = Duration::from_secs(10);
/// Leaves in one run: what a search reads at once.
const MAX_RUN: u64 = 1_024;
/// Moments of one run. Blocks hold half a second of events; more moments come from a reporter that made its
/// ids up.
const MAX_MOMENTS: usize = 64;

/// The moment an id was made at.
#[derive(Clone, Copy)]
pub(crate) struct Moment(Ulid);

/// The moments of an event: of its id, and of its decision's if that is another one.
pub(crate) type Moments = [Option<Moment>; 2];

impl Moment {
    fn as_str(&self) -> &str {
        self.0.as_str().get(..MOMENT_DIGITS).unwrap_or_default()
    }
}

/// The moments of an event and its decision.
pub(crate) fn moments(event: Ulid, decision: Option<Ulid>) -> Moments {
    let first = Moment(event);
    let second = decision.map(Moment);
    let is_another = |second: &Moment| second.as_str() != first.as_str();
    [Some(first), second.filter(is_another)]
}

/// The moments of an event's ids.
pub(crate) fn moments_of(event: &Event) -> Moments {
    let decision = event.decision.as_ref().map(|decision| decision.id.ulid());
    moments(event.id.ulid(), decision)
}

/// Leaves next to each other that were appended together.
#[derive(Clone, Serialize, Deserialize)]
struct LeafRun {
    first: u64,
    count: u64,
    moments: Vec<String>,
}

impl LeafRun {
    const MOMENT: &'static str = "moment";
}

impl Record for LeafRun {
    const COLLECTION: &'static str = "audit.runs";

    fn key(&self) -> String {
        self.first.to_string()
    }

    fn indexes(&self) -> Vec<(&'static str, String)> {
        let moments = self.moments.iter().cloned();
        moments.map(|moment| (Self::MOMENT, moment)).collect()
    }
}

/// The index of the leaves of one commit, in the making.
#[derive(Default)]
pub(crate) struct IndexDraft {
    runs: Vec<LeafRun>,
}

impl IndexDraft {
    /// Notes the next leaf.
    pub(crate) fn add(&mut self, leaf: u64, moments: &Moments) {
        let moments = moments.iter().flatten().map(Moment::as_str);
        let has_room = |run: &&mut LeafRun| {
            run.count < MAX_RUN && run.moments.len() + moments.clone().count() <= MAX_MOMENTS
        };
        let Some(run) = self.runs.last_mut().filter(has_room) else {
            self.runs.push(LeafRun {
                first: leaf,
                count: 1,
                moments: moments.map(str::to_owned).collect(),
            });
            return;
        };
        run.count += 1;
        for moment in moments {
            // Nearly always the newest one.
            if !run.moments.iter().rev().any(|known| known == moment) {
                run.moments.push(moment.to_owned());
            }
        }
    }

    /// Adds the index to what is committed.
    pub(crate) fn write(&self, transaction: Transaction) -> Transaction {
        let findable = self.runs.iter().filter(|run| !run.moments.is_empty());
        findable.fold(transaction, |transaction, run| {
            transaction.put(Expected::Absent, run)
        })
    }
}

impl Ledger {
    /// The events under an id. There is more than one only if a reporter used an id twice.
    pub(crate) fn indexed(&self, id: &ById<'_>) -> Result<Vec<Entry>, LedgerError> {
        let moment = Moment(id.ulid());
        let mut found = Vec::new();
        for run in self
            .tenant
            .find::<LeafRun>(LeafRun::MOMENT, moment.as_str())?
        {
            found.extend(self.entries_naming(id, run.record.first, run.record.count)?);
        }
        Ok(found)
    }

    /// The events made from `from` to `to`, or in the same second as either, that have `name` somewhere, in the order of the
    /// ledger. A span of more than ten seconds ends there.
    ///
    /// An id says when what it stands for was made: that is how the event of the making is found, without an index of
    /// all that events name.
    ///
    /// # Errors
    /// The store fails, or a leaf is damaged.
    pub fn between(
        &self,
        from: Timestamp,
        to: Timestamp,
        name: &str,
    ) -> Result<Vec<Entry>, LedgerError> {
        let last = Moment(Ulid::least_of(to.min(from + MAX_SPAN)));
        let mut runs = BTreeMap::new();
        let mut at = from;
        loop {
            let moment = Moment(Ulid::least_of(at));
            if moment.as_str() > last.as_str() {
                break;
            }
            let found = self
                .tenant
                .find::<LeafRun>(LeafRun::MOMENT, moment.as_str())?;
            runs.extend(
                found
                    .into_iter()
                    .map(|run| (run.record.first, run.record.count)),
            );
            at = at + MOMENT;
        }
        let mut found = Vec::new();
        for (first, count) in runs {
            found.extend(self.entries_with(name, first, count)?);
        }
        Ok(found)
    }
}
