//! Places for connections: as many as a proxy holds at once, and not all of them for one source.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use testudo_model::limits;
use testudo_runtime::descriptor_limit;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::iplist::limited_network;

/// The last tenth of all places is for sources that hold less than a quarter of them: who opens connections and lets them
/// wait gets no further, and others still come in.
const LAST_PLACES: usize = 10;
const LARGE_SHARE: usize = 4;

/// The places of one proxy. Connections beyond them wait in the kernel's queue.
#[derive(Debug, Clone)]
pub(crate) struct ConnectionSlots(Arc<Slots>);

#[derive(Debug)]
struct Slots {
    free: Arc<Semaphore>,
    total: usize,
    /// What sources hold. Loopback is not among them: everything local comes from there.
    held: Mutex<HashMap<IpAddr, usize>>,
}

/// A place that is taken; free again when dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    _permit: OwnedSemaphorePermit,
    holder: Option<Holder>,
}

/// Whose a place is.
#[derive(Debug)]
struct Holder {
    slots: Arc<Slots>,
    source: IpAddr,
}

impl ConnectionSlots {
    /// As many as the limit says, or as there are descriptors for. A quarter of these is left for what a process opens
    /// itself, connections to services most of all.
    pub(crate) fn new() -> Self {
        let affordable = descriptor_limit() / 4 * 3;
        if affordable < limits::MAX_CONNECTIONS {
            tracing::info!(
                connections = affordable,
                "fewer connections than usual: the hard limit of file descriptors is low (`ulimit -Hn`)"
            );
        }
        Self::of(affordable.min(limits::MAX_CONNECTIONS))
    }

    pub(crate) fn of(total: usize) -> Self {
        Self(Arc::new(Slots {
            free: Arc::new(Semaphore::new(total)),
            total,
            held: Mutex::default(),
        }))
    }

    /// Waits for a place.
    pub(crate) async fn take(&self) -> Slot {
        match Arc::clone(&self.0.free).acquire_owned().await {
            Ok(permit) => Slot::of_nobody(permit),
            // Cannot be: nobody closes it.
            Err(_) => std::future::pending().await,
        }
    }

    /// A place, if there is one.
    pub(crate) fn try_take(&self) -> Option<Slot> {
        let permit = Arc::clone(&self.0.free).try_acquire_owned().ok()?;
        Some(Slot::of_nobody(permit))
    }

    /// `slot` for a connection from `source`; `None` if the places left are for others.
    pub(crate) fn for_source(&self, mut slot: Slot, source: IpAddr) -> Option<Slot> {
        let source = limited_network(source);
        if source.is_loopback() {
            return Some(slot);
        }
        let slots = &self.0;
        let large_share = (slots.total / LARGE_SHARE).max(1);
        let mut all = slots.held();
        let held = all.entry(source).or_default();
        if *held >= large_share && slots.free.available_permits() < slots.total / LAST_PLACES {
            return None;
        }
        *held += 1;
        if *held == large_share {
            tracing::warn!(%source, connections = *held, "one source holds a quarter of all connections");
        }
        drop(all);
        slot.holder = Some(Holder {
            slots: Arc::clone(slots),
            source,
        });
        Some(slot)
    }
}

impl Slots {
    fn held(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    const fn of_nobody(permit: OwnedSemaphorePermit) -> Self {
        Self {
            _permit: permit,
            holder: None,
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let mut held = self.slots.held();
        if let Some(count) = held.get_mut(&self.source) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                held.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "203.0.113.1";

    /// A connection from `source`, if it is let in.
    fn connect(slots: &ConnectionSlots, source: &str) -> Option<Slot> {
        slots.for_source(slots.try_take()?, source.parse().unwrap())
    }

    #[test]
    fn one_source_may_have_what_nobody_else_needs_but_not_the_last_places() {
        let slots = ConnectionSlots::of(40);
        let many: Vec<_> = (0..100).map_while(|_| connect(&slots, ONE)).collect();
        assert_eq!(many.len(), 36, "all but the last tenth");
        assert!(connect(&slots, ONE).is_none());
        let others: Vec<_> = (2..9)
            .map_while(|last| connect(&slots, &format!("203.0.113.{last}")))
            .collect();
        assert_eq!(others.len(), 4, "all that were left");
        drop((many, others));
        assert!(slots.0.held().is_empty());
        assert!(connect(&slots, ONE).is_some());
    }

    #[test]
    fn a_network_of_version_6_is_one_source_and_loopback_is_none() {
        let slots = ConnectionSlots::of(40);
        let many: Vec<_> = (0..100)
            .map_while(|last| connect(&slots, &format!("2001:db8::{last:x}")))
            .collect();
        assert_eq!(many.len(), 36);
        drop(many);
        let local: Vec<_> = (0..100)
            .map_while(|_| connect(&slots, "::ffff:127.0.0.1"))
            .collect();
        assert_eq!(local.len(), 40);
    }
}
