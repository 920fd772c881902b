//! What decisions rest on, wherever in its block that is said.

use std::collections::HashMap;

use testudo_model::{
    EventId, SpiffeId,
    event::{Event, GivenGrounds, Grounds},
};

use crate::{Entry, Filter, Ledger, LedgerError};

/// Looks grounds up, and remembers them: decisions that stand together mostly share theirs.
pub struct GroundsReader<'l> {
    ledger: &'l Ledger,
    known: HashMap<(SpiffeId, EventId), Option<GivenGrounds>>,
}

impl Ledger {
    /// A reader of what decisions rest on.
    pub fn grounds(&self) -> GroundsReader<'_> {
        GroundsReader {
            ledger: self,
            known: HashMap::new(),
        }
    }
}

impl GroundsReader<'_> {
    /// What the decision at `entry` rests on. `None`: it is no decision. The intake takes no reference that leads
    /// nowhere.
    ///
    /// # Errors
    /// The store fails.
    pub fn of(&mut self, entry: &Entry) -> Result<Option<GivenGrounds>, LedgerError> {
        let Some((event, decision)) = entry
            .leaf
            .event()
            .and_then(|event| Some((event, event.decision.as_ref()?)))
        else {
            return Ok(None);
        };
        match &decision.grounds {
            Grounds::Given(given) => Ok(Some(given.clone())),
            Grounds::As(id) => self.given_by(id, event, entry.index),
        }
    }

    /// Whether the event at `entry` matches, with what it rests on.
    ///
    /// # Errors
    /// The store fails.
    pub fn matches(&mut self, filter: &Filter, entry: &Entry) -> Result<bool, LedgerError> {
        let Some(event) = entry.leaf.event() else {
            return Ok(false);
        };
        if filter.matches(event, &entry.text) {
            return Ok(true);
        }
        let refers = event
            .decision
            .as_ref()
            .is_some_and(|decision| decision.grounds.given().is_none());
        if !refers || !filter.reads_text() {
            return Ok(false);
        }
        let grounds = serde_json::to_string(&self.of(entry)?).unwrap_or_default();
        Ok(filter.matches(event, &format!("{} {grounds}", entry.text)))
    }

    /// The grounds that the event `id` gave, as `event` at `index` refers to them: an earlier event of the same
    /// reporter, so that nobody else's event with that id is taken for it.
    fn given_by(
        &mut self,
        id: &EventId,
        event: &Event,
        index: u64,
    ) -> Result<Option<GivenGrounds>, LedgerError> {
        let key = (event.reporter.clone(), id.clone());
        if let Some(known) = self.known.get(&key) {
            return Ok(known.clone());
        }
        let named = self.ledger.event(id)?;
        let given = named
            .into_iter()
            .filter(|entry| entry.index < index)
            .filter_map(|entry| {
                let earlier = entry.leaf.event()?;
                let is_own = earlier.reporter == event.reporter;
                let given = earlier.decision.as_ref()?.grounds.given()?.clone();
                is_own.then_some((entry.index, given))
            })
            .max_by_key(|(index, _)| *index)
            .map(|(_, given)| given);
        self.known.insert(key, given.clone());
        Ok(given)
    }
}
