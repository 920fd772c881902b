//! Moves the provider's events from its outbox into the ledger, and makes the snapshot anew when the directory
//! changed. One thread; it follows the store, so it also sees what other nodes wrote.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use testudo_identity::{OutboxEntry, SNAPSHOT_COLLECTIONS};
use testudo_model::limits::MAX_BLOCK_EVENTS;
use testudo_runtime::Drain;
use testudo_store::{Expected, Record, StoreError};
use tracing::{error, info, warn};

use crate::{activation::ActivationError, plane::Plane};

/// Longest sleep between two looks.
const PATIENCE: Duration = Duration::from_secs(1);
/// Changes read at once.
const CHANGES: usize = 1000;
/// How far the outbox has been moved.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Relayed {
    next: u64,
}

impl Record for Relayed {
    const COLLECTION: &'static str = "controlplane.relayed";

    fn key(&self) -> String {
        KEY.to_owned()
    }
}

const KEY: &str = "identity";

/// Follows the store until the process drains. Runs on a thread of its own.
pub fn follow(plane: &Arc<Plane>, drain: &Drain) {
    let mut subscription = plane.store.subscribe();
    let mut seen = subscription.told();
    loop {
        if let Err(error) = relay(plane) {
            warn!(%error, "events of the identity provider wait in its outbox");
        }
        if let Err(error) = plane.distribution.follow_revocations() {
            error!(%error, "revocations cannot be followed; proxies learn of them late");
        }
        match directory_changed(plane, &mut seen) {
            Ok(true) => refresh(plane),
            Ok(false) => {}
            Err(error) => error!(%error, "changes cannot be followed"),
        }
        if drain.is_started() {
            return;
        }
        subscription.wait(PATIENCE);
    }
}

/// Moves what is waiting. An event keeps its id, so one moved twice after a crash is recognisable.
pub fn relay(plane: &Plane) -> Result<(), Box<dyn std::error::Error>> {
    let tenant = plane.store.tenant(plane.tenant());
    loop {
        let stored = tenant.get::<Relayed>(KEY)?;
        let next = stored.as_ref().map_or(0, |stored| stored.record.next);
        let waiting = tenant.read_log::<OutboxEntry>(next, MAX_BLOCK_EVENTS)?;
        let Some((last, _)) = waiting.last() else {
            return Ok(());
        };
        let relayed = Relayed { next: last + 1 };
        let events: Vec<_> = waiting
            .into_iter()
            .map(|(_, OutboxEntry(event))| event)
            .collect();
        plane.ledger.append(&events)?;
        let expected = stored.map_or(Expected::Absent, |stored| Expected::Version(stored.version));
        tenant.put(expected, &relayed)?;
    }
}

fn directory_changed(plane: &Plane, seen: &mut u64) -> Result<bool, StoreError> {
    let mut changed = false;
    loop {
        let changes = plane.store.changes_since(*seen, CHANGES)?;
        let Some(last) = changes.last() else {
            return Ok(changed);
        };
        *seen = last.sequence;
        changed |= changes
            .iter()
            .any(|change| SNAPSHOT_COLLECTIONS.contains(&change.collection.as_str()));
    }
}

fn refresh(plane: &Plane) {
    match plane.activation.refresh() {
        Ok(activated) if activated.changed => {
            info!(snapshot = %activated.snapshot.version, "users, groups or keys changed");
            if let Err(error) = plane.distribution.publish(&activated.snapshot) {
                error!(%error, "the snapshot cannot be published");
            }
        }
        Ok(_) | Err(ActivationError::NothingDeclared) => {}
        Err(error) => error!(%error, "the changed directory is not in force"),
    }
}
