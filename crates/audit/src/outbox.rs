//! Taking events out of an outbox: a log beside the ledger, in which another room commits its events together
//! with the changes they report.
//!
//! How far an outbox is taken is written in the transaction that appends its events. So each is taken once,
//! whoever dies when, and however many control planes take at the same time.

use serde::{Deserialize, Serialize};
use testudo_model::{event::Event, limits::MAX_BLOCK_EVENTS};
use testudo_store::{LogEntry, Record};

use crate::{
    Ledger, LedgerError,
    commit::{NewLeaf, Work},
};

/// Events of an outbox that are to be appended.
pub(crate) struct Waiting {
    /// Name of the outbox.
    pub(crate) outbox: &'static str,
    /// Place of the first one in it.
    pub(crate) first: u64,
    pub(crate) leaves: Vec<NewLeaf>,
}

/// How far an outbox is taken.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Taken {
    pub(crate) outbox: String,
    /// Place of the next entry to take.
    pub(crate) next: u64,
}

impl Record for Taken {
    const COLLECTION: &'static str = "audit.taken";

    fn key(&self) -> String {
        self.outbox.clone()
    }
}

impl Ledger {
    /// Appends what waits in the outbox `L` of the same tenant, each entry once. It is durable and covered by a
    /// signed checkpoint when this returns.
    ///
    /// # Errors
    /// An event is no possible leaf, or the store fails. What was not appended waits on.
    pub fn take<L: LogEntry + Into<Event>>(&self) -> Result<(), LedgerError> {
        while let Some(waiting) = self.waiting::<L>()? {
            self.append_work(Work::Outbox(waiting))?;
        }
        Ok(())
    }

    /// What waits in `L`: as much as one commit should have.
    fn waiting<L: LogEntry + Into<Event>>(&self) -> Result<Option<Waiting>, LedgerError> {
        let first = self.taken(L::LOG)?;
        let leaves = self
            .tenant
            .read_log::<L>(first, MAX_BLOCK_EVENTS)?
            .into_iter()
            .zip(0..)
            .map(|((_, entry), index)| self.encode(index, &entry.into()))
            .collect::<Result<Vec<_>, _>>()?;
        Ok((!leaves.is_empty()).then_some(Waiting {
            outbox: L::LOG,
            first,
            leaves,
        }))
    }

    /// Place of the next entry of `outbox` to take.
    pub(crate) fn taken(&self, outbox: &str) -> Result<u64, LedgerError> {
        let stored = self.tenant.get::<Taken>(outbox)?;
        Ok(stored.map_or(0, |stored| stored.record.next))
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, path::Path, sync::Arc, thread};

    use testudo_model::{
        Clock, EventId, TenantName,
        event::{Actor, EventClass, Outcome},
    };
    use testudo_store::{Store, StoreOptions};
    use testudo_testkit::{FakeClock, SeededEntropy};
    use testudo_trust::RootKey;

    use super::*;
    use crate::LedgerOptions;

    #[derive(Serialize, Deserialize)]
    struct Entry(Event);

    impl LogEntry for Entry {
        const LOG: &'static str = "test.outbox";
    }

    impl From<Entry> for Event {
        fn from(Entry(event): Entry) -> Self {
            event
        }
    }

    fn open(folder: &Path) -> (Store, Ledger) {
        let (clock, entropy) = (FakeClock::today(), SeededEntropy::new(1));
        let store = Store::open(StoreOptions {
            path: folder.to_owned(),
            root_key: RootKey::from_bytes([1; 32]),
            clock: clock.clone(),
            entropy: entropy.clone(),
        })
        .unwrap();
        let ledger = ledger_on(&store, &clock);
        (store, ledger)
    }

    fn ledger_on(store: &Store, clock: &Arc<FakeClock>) -> Ledger {
        Ledger::open(LedgerOptions {
            store: store.clone(),
            tenant: TenantName::default_tenant(),
            trust_domain: "bookshop.example".parse().unwrap(),
            clock: clock.clone(),
            entropy: SeededEntropy::new(2),
        })
        .unwrap()
    }

    fn put_out(store: &Store, count: usize) {
        let entropy = SeededEntropy::new(u64::try_from(count).unwrap());
        let clock = FakeClock::today();
        let event = || Event {
            id: EventId::generate(&*clock, &*entropy),
            time: clock.now(),
            tenant: TenantName::default_tenant(),
            class: EventClass::Authentication,
            activity: "user.login".to_owned(),
            outcome: Outcome::Success,
            actor: Actor::default(),
            target: None,
            reporter: "spiffe://bookshop.example/testudo/server".parse().unwrap(),
            source_ip: None,
            trace_id: None,
            transaction: None,
            decision: None,
            details: BTreeMap::new(),
        };
        let entries: Vec<Entry> = (0..count).map(|_| Entry(event())).collect();
        let tenant = store.tenant(&TenantName::default_tenant());
        tenant.append(&entries).unwrap();
    }

    /// Ids of the outbox and of the ledger, in their order.
    fn ids(store: &Store, ledger: &Ledger) -> (Vec<EventId>, Vec<EventId>) {
        let tenant = store.tenant(&TenantName::default_tenant());
        let out = tenant.read_log::<Entry>(0, 10_000).unwrap().into_iter();
        let taken = ledger.tail(0, 1_000).unwrap().into_iter();
        (
            out.map(|(_, Entry(event))| event.id).collect(),
            taken
                .filter_map(|entry| Some(entry.leaf.event()?.id.clone()))
                .collect(),
        )
    }

    #[test]
    fn what_waits_is_taken_in_order_and_once_also_over_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let (store, ledger) = open(folder.path());
        put_out(&store, MAX_BLOCK_EVENTS + 3);
        ledger.take::<Entry>().unwrap();
        ledger.take::<Entry>().unwrap();
        drop((store, ledger));
        let (store, ledger) = open(folder.path());
        put_out(&store, 2);
        ledger.take::<Entry>().unwrap();
        assert_eq!(ledger.size().unwrap(), MAX_BLOCK_EVENTS as u64 + 5);
        let (out, taken) = ids(&store, &ledger);
        assert_eq!(taken, out[..taken.len()]);
    }

    #[test]
    fn a_taker_that_dies_before_it_hears_of_its_success_leaves_nothing_to_repeat() {
        let folder = tempfile::tempdir().unwrap();
        let (store, ledger) = open(folder.path());
        put_out(&store, 4);
        let dying = ledger.waiting::<Entry>().unwrap().unwrap();
        let slower = ledger.waiting::<Entry>().unwrap().unwrap();
        ledger.append_work(Work::Outbox(dying)).unwrap();
        drop((store, ledger));

        let (store, ledger) = open(folder.path());
        put_out(&store, 3);
        let longer = ledger.waiting::<Entry>().unwrap().unwrap();
        assert_eq!((longer.first, longer.leaves.len()), (4, 3));
        // Another control plane, which read before the first one had appended.
        ledger.append_work(Work::Outbox(slower)).unwrap();
        ledger.append_work(Work::Outbox(longer)).unwrap();
        let (out, taken) = ids(&store, &ledger);
        assert_eq!(taken, out);
    }

    #[test]
    fn several_control_planes_take_each_event_once() {
        let folder = tempfile::tempdir().unwrap();
        let (store, first) = open(folder.path());
        let second = ledger_on(&store, &FakeClock::today());
        thread::scope(|scope| {
            for ledger in [&first, &second] {
                scope.spawn(|| (0..20).for_each(|_| ledger.take::<Entry>().unwrap()));
            }
            (1..=20).for_each(|count| put_out(&store, count));
        });
        first.take::<Entry>().unwrap();
        let (out, taken) = ids(&store, &first);
        assert_eq!(taken, out);
    }
}
