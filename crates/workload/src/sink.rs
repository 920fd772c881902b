//! Events of this room, and where they go.

use std::net::IpAddr;

use testudo_model::{
    EventId,
    event::{Actor, Detail, Event, EventClass, Outcome},
};

use crate::Workloads;

/// Takes events. The control plane's implementation appends to the ledger and returns when they are durable.
pub trait EventSink: Send + Sync + 'static {
    /// Records one event.
    ///
    /// # Errors
    /// The event is not durable. The operation it reports is then refused.
    fn record(&self, event: Event) -> Result<(), EventNotRecorded>;
}

/// An event could not be made durable.
#[derive(Debug, thiserror::Error)]
#[error("the ledger did not take the event")]
pub struct EventNotRecorded(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// Who asks, for the record. The default is the control plane itself.
#[derive(Debug, Clone, Default)]
pub struct Caller {
    /// The verified user or workload.
    pub actor: Actor,
    /// Where the call came from.
    pub source_ip: Option<IpAddr>,
}

/// What an event says beyond who and when.
pub(crate) struct Fact<'a> {
    pub(crate) class: EventClass,
    pub(crate) activity: &'static str,
    pub(crate) outcome: Outcome,
    pub(crate) caller: &'a Caller,
    pub(crate) target: String,
    pub(crate) details: Vec<(&'static str, Detail)>,
}

impl Workloads {
    pub(crate) fn record(&self, fact: Fact<'_>) -> Result<(), EventNotRecorded> {
        self.sink.record(Event {
            id: EventId::generate(&*self.clock, &*self.entropy),
            time: self.clock.now(),
            tenant: self.tenant_name.clone(),
            class: fact.class,
            activity: fact.activity.to_owned(),
            outcome: fact.outcome,
            actor: fact.caller.actor.clone(),
            target: Some(fact.target),
            reporter: self.trust_domain.server(),
            source_ip: fact.caller.source_ip,
            trace_id: None,
            transaction: None,
            decision: None,
            details: fact
                .details
                .into_iter()
                .map(|(name, detail)| (name.to_owned(), detail))
                .collect(),
        })
    }
}
