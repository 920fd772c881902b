//! Where the provider's events go.

use serde::{Deserialize, Serialize};
use testudo_model::{TenantName, event::Event};
use testudo_store::{LogEntry, Transaction};

/// Adds events to the transaction of the change they report, so that both are committed or neither.
pub trait Journal: Send + Sync + 'static {
    /// Stages `event` in `transaction` and gives the transaction back.
    fn record(&self, transaction: Transaction, event: &Event) -> Transaction;
}

/// The journal of a room that does not know the ledger: events wait in a log of their own, [`OutboxEntry`],
/// until the ledger takes them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Outbox;

impl Journal for Outbox {
    fn record(&self, transaction: Transaction, event: &Event) -> Transaction {
        transaction.append(&OutboxEntry(event.clone()))
    }
}

/// The outbox of the fleet, for providers of other tenants: one ledger takes from one outbox.
#[derive(Debug, Clone, Copy, Default)]
pub struct FleetOutbox;

impl Journal for FleetOutbox {
    fn record(&self, transaction: Transaction, event: &Event) -> Transaction {
        transaction.append_in(&TenantName::default_tenant(), &OutboxEntry(event.clone()))
    }
}

/// An event in an [`Outbox`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OutboxEntry(pub Event);

impl LogEntry for OutboxEntry {
    const LOG: &'static str = "identity.events";
}

impl From<OutboxEntry> for Event {
    fn from(OutboxEntry(event): OutboxEntry) -> Self {
        event
    }
}
