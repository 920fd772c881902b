//! Reading: one leaf, the newest ones, those that match.
//!
//! Events and decisions are found by id: see `index`. Everything else is a scan from the
//! newest leaf back, of at most [`SCANNED`] leaves a call: the answer says where to go on.

use std::borrow::Cow;

use testudo_model::{DecisionId, EventId, Timestamp, event::Alike};

use crate::{Filter, Leaf, Ledger, LedgerError, filter::ById, ledger::StoredLeaf};

/// Leaves one search call looks at.
const SCANNED: u64 = 20_000;
/// Leaves read from the store at once.
const CHUNK: u64 = 512;
/// Most entries one call answers with.
const MAX_ENTRIES: usize = 1_000;
/// How far a reporter's clock may be ahead of the ledger's. An event older than `since` by its own clock is never
/// recorded later than `since` plus this.
const AHEAD: std::time::Duration = testudo_model::limits::CLOCK_SKEW;

/// A leaf with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its index.
    pub index: u64,
    /// When the ledger took it.
    pub recorded_at: Timestamp,
    /// The leaf; of an event, the whole.
    pub leaf: Leaf,
    /// Its bytes, as they are hashed.
    pub text: String,
}

/// Events that match, the newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SearchPage {
    /// The events.
    pub entries: Vec<Entry>,
    /// Where to go on: give it as `before`. `None` when there is nothing older that could match.
    pub next: Option<u64>,
    /// Leaves that were looked at.
    pub scanned: u64,
}

impl Ledger {
    /// The leaf at `index`.
    ///
    /// # Errors
    /// There is none, or the store fails.
    pub fn entry(&self, index: u64) -> Result<Entry, LedgerError> {
        let found = self.tail(index, 1)?.into_iter().next();
        found.ok_or(LedgerError::NoSuchLeaf {
            index,
            size: self.size()?,
        })
    }

    /// At most `limit` leaves from index `from` on, in order. To follow the ledger, go on behind the last one;
    /// the store's subscription tells when there is more.
    ///
    /// # Errors
    /// The store fails, or a leaf is damaged.
    pub fn tail(&self, from: u64, limit: usize) -> Result<Vec<Entry>, LedgerError> {
        let read = self
            .tenant
            .read_log::<StoredLeaf>(from, limit.min(MAX_ENTRIES))?;
        let mut reader = self.reader();
        read.into_iter()
            .map(|(index, stored)| reader.entry(index, stored))
            .collect()
    }

    /// The events with this id. There is more than one only if a reporter took an id that another event has: who
    /// asks must not be answered with the wrong one.
    ///
    /// # Errors
    /// The store fails.
    pub fn event(&self, id: &EventId) -> Result<Vec<Entry>, LedgerError> {
        self.indexed(&ById::Event(id))
    }

    /// The events of a decision; as [`event`](Self::event).
    ///
    /// # Errors
    /// The store fails.
    pub fn decision(&self, id: &DecisionId) -> Result<Vec<Entry>, LedgerError> {
        self.indexed(&ById::Decision(id))
    }

    /// At most `limit` events that match, the newest first, of those before leaf `before` (of all for `None`).
    ///
    /// # Errors
    /// The store fails, or a leaf is damaged.
    pub fn search(
        &self,
        filter: &Filter,
        before: Option<u64>,
        limit: usize,
    ) -> Result<SearchPage, LedgerError> {
        if let Some(id) = filter.by_id() {
            return self.search_named(&id, filter, before);
        }
        self.scan(filter, before, limit.min(MAX_ENTRIES))
    }

    fn search_named(
        &self,
        id: &ById<'_>,
        filter: &Filter,
        before: Option<u64>,
    ) -> Result<SearchPage, LedgerError> {
        let named = self.indexed(id)?;
        let mut page = SearchPage {
            scanned: named.len() as u64,
            ..SearchPage::default()
        };
        for entry in named {
            if before.is_none_or(|end| entry.index < end) && entry.matches(filter) {
                page.entries.push(entry);
            }
        }
        Ok(page)
    }

    fn scan(
        &self,
        filter: &Filter,
        before: Option<u64>,
        limit: usize,
    ) -> Result<SearchPage, LedgerError> {
        let size = self.size()?;
        let mut end = before.map_or(size, |before| before.min(size));
        // An event is recorded after it happened, so all leaves older than `since` hold older events.
        let oldest = filter.since().map(|since| since - AHEAD);
        let mut reader = self.reader();
        let mut page = SearchPage::default();
        while end > 0 {
            if page.entries.len() >= limit || page.scanned >= SCANNED {
                page.next = Some(end);
                return Ok(page);
            }
            let start = end.saturating_sub(CHUNK);
            let count = usize::try_from(end - start).unwrap_or(0);
            for (index, stored) in self
                .tenant
                .read_log::<StoredLeaf>(start, count)?
                .into_iter()
                .rev()
            {
                if oldest.is_some_and(|oldest| stored.at < oldest) {
                    return Ok(page);
                }
                if page.entries.len() >= limit {
                    break;
                }
                (page.scanned, end) = (page.scanned + 1, index);
                let entry = reader.entry(index, stored)?;
                if entry.matches(filter) {
                    page.entries.push(entry);
                }
            }
        }
        Ok(page)
    }

    /// Of `count` leaves from `first` on, the events with this id.
    pub(crate) fn entries_naming(
        &self,
        id: &ById<'_>,
        first: u64,
        count: u64,
    ) -> Result<Vec<Entry>, LedgerError> {
        let mut entries = self.entries_with(id.ulid().as_str(), first, count)?;
        entries.retain(|entry| entry.is(id));
        Ok(entries)
    }

    /// Of `count` leaves from `first` on, those that have `text` in them.
    pub(crate) fn entries_with(
        &self,
        text: &str,
        first: u64,
        count: u64,
    ) -> Result<Vec<Entry>, LedgerError> {
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let mut reader = self.reader();
        self.tenant
            .read_log::<StoredLeaf>(first, count)?
            .into_iter()
            .filter(|(_, stored)| stored.leaf.contains(text))
            .map(|(index, stored)| reader.entry(index, stored))
            .collect()
    }
}

impl Entry {
    /// Whether it is an event that is looked for.
    pub fn matches(&self, filter: &Filter) -> bool {
        let Some(event) = self.leaf.event() else {
            return false;
        };
        filter.matches(event, || {
            if Alike::begins(&self.text) {
                Cow::Owned(serde_json::to_string(event).unwrap_or_default())
            } else {
                Cow::Borrowed(self.text.as_str())
            }
        })
    }

    fn is(&self, id: &ById<'_>) -> bool {
        let event = self.leaf.event();
        event.is_some_and(|event| match id {
            ById::Event(id) => event.id == **id,
            ById::Decision(id) => {
                let decision = event.decision.as_ref();
                decision.is_some_and(|decision| decision.id == **id)
            }
        })
    }
}
