//! Events that are said by what makes them another than one before them: whether that one is there, and both put together.

use std::{collections::HashMap, sync::Arc};

use testudo_model::event::{Event, EventLine};

use crate::{Entry, Leaf, Ledger, LedgerError, ledger::StoredLeaf};

/// Events kept to restore others. Blocks have few that others are like.
const MAX_KEPT: usize = 1_024;

/// Which events of a block others may be like, as it is read.
#[derive(Default)]
pub(crate) struct Templates(Vec<bool>);

impl Templates {
    /// Takes the next event of the block; `false` if it is like one that is not there: a decision before it in the block
    /// that says all of itself.
    pub(crate) fn admit(&mut self, line: &EventLine) -> bool {
        let (is_template, is_said) = match line {
            EventLine::Whole(event) => (event.decision.is_some(), true),
            EventLine::Alike(alike) => {
                let at = self.0.len().checked_sub(alike.back());
                (false, at.and_then(|at| self.0.get(at)) == Some(&true))
            }
        };
        self.0.push(is_template);
        is_said
    }
}

/// Reads leaves as entries, each event whole, and remembers the events that others are like: those stand together.
pub(crate) struct Reader<'l> {
    ledger: &'l Ledger,
    templates: HashMap<u64, Arc<Event>>,
}

impl Ledger {
    pub(crate) fn reader(&self) -> Reader<'_> {
        Reader {
            ledger: self,
            templates: HashMap::new(),
        }
    }
}

impl Reader<'_> {
    pub(crate) fn entry(&mut self, index: u64, stored: StoredLeaf) -> Result<Entry, LedgerError> {
        let leaf = match parse(&stored)? {
            Leaf::Alike(alike) => {
                let restored = self
                    .template(place(index, alike.back()))?
                    .and_then(|template| alike.restore(&template));
                let missing = LedgerError::Damaged {
                    what: "an event is like one that is not there",
                };
                Leaf::Event(Box::new(restored.ok_or(missing)?))
            }
            leaf => leaf,
        };
        Ok(Entry {
            index,
            recorded_at: stored.at,
            leaf,
            text: stored.leaf,
        })
    }

    fn template(&mut self, index: Option<u64>) -> Result<Option<Arc<Event>>, LedgerError> {
        let Some(index) = index else {
            return Ok(None);
        };
        if let Some(known) = self.templates.get(&index) {
            return Ok(Some(Arc::clone(known)));
        }
        let read = self.ledger.tenant.read_log::<StoredLeaf>(index, 1)?;
        let Some((_, stored)) = read.into_iter().next() else {
            return Ok(None);
        };
        let Leaf::Event(event) = parse(&stored)? else {
            return Ok(None);
        };
        if self.templates.len() >= MAX_KEPT {
            self.templates.clear();
        }
        let template: Arc<Event> = Arc::from(event);
        self.templates.insert(index, Arc::clone(&template));
        Ok(Some(template))
    }
}

/// The leaf that the one at `index` is like.
pub(crate) fn place(index: u64, back: usize) -> Option<u64> {
    index.checked_sub(u64::try_from(back).ok()?)
}

fn parse(stored: &StoredLeaf) -> Result<Leaf, LedgerError> {
    Leaf::parse(stored.leaf.as_bytes()).map_err(|_| LedgerError::Damaged {
        what: "a leaf cannot be read",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNDECIDED: &str = r#"{"id":"evt_01JDA0000000000000000000AA","time":1,"tenant":"default",
        "class":"http_activity","activity":"a.b","outcome":"success","actor":{},"reporter":"spiffe://b.example/svc/a"}"#;

    #[test]
    fn an_event_is_like_a_decision_before_it_that_says_all_of_itself() {
        let decision = UNDECIDED.replace(
            r#""actor""#,
            r#""decision":{"id":"dec_01JDA0000000000000000000AA","snapshot":3,"service":"orders","method":"GET",
            "path":"/","reason":"allowed","grounds":{"legs":[]},"status":0},"actor""#,
        );
        let alike = |back: u32| format!(r#"{{"e":"01JDA0000000000000000000AA","as":{back}}}"#);
        let mut templates = Templates::default();
        for (line, is_said) in [
            (alike(1), false),
            (UNDECIDED.to_owned(), true),
            (alike(1), false),
            (decision, true),
            (alike(1), true),
            (alike(1), false),
            (alike(3), true),
            (alike(7), false),
            (alike(8), false),
            (alike(u32::MAX), false),
        ] {
            assert_eq!(
                templates.admit(&EventLine::parse(&line).unwrap()),
                is_said,
                "{line}"
            );
        }
    }
}
