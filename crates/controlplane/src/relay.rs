//! Moves the provider's events from its outbox into the ledger, and makes the snapshot anew when the directory
//! changed. One thread; it follows the store, so it also sees what other nodes wrote.

use std::{sync::Arc, time::Duration};

use testudo_identity::{OutboxEntry, SNAPSHOT_COLLECTIONS};
use testudo_runtime::{Drain, with_causes};
use testudo_store::{Store, StoreError};
use tracing::{error, info, warn};

use crate::{activation::ActivationError, plane::Plane};

/// Longest sleep between two looks.
const PATIENCE: Duration = Duration::from_secs(1);
/// Changes read at once.
const CHANGES: usize = 1000;

/// Follows the store until the process drains. Runs on a thread of its own.
pub fn follow(plane: &Arc<Plane>, drain: &Drain) {
    let mut subscription = plane.store.subscribe();
    let mut seen = subscription.told();
    loop {
        if let Err(error) = plane.provider.report_unrecorded_refusals() {
            error!(
                error = with_causes(&error),
                "refused token requests cannot be told of"
            );
        }
        if let Err(error) = plane.ledger.take::<OutboxEntry>() {
            warn!(
                error = with_causes(&error),
                "events of the identity provider wait in its outbox"
            );
        }
        if let Err(error) = plane.distribution.follow_revocations() {
            error!(
                error = with_causes(&error),
                "revocations cannot be followed; proxies learn of them late"
            );
        }
        match directory_changed(&plane.store, &mut seen) {
            Ok(true) => refresh(plane),
            Ok(false) => {}
            Err(error) => error!(error = with_causes(&error), "changes cannot be followed"),
        }
        if drain.is_started() {
            return;
        }
        subscription.wait(PATIENCE);
    }
}

/// Whether the directory may have changed after change `seen`, which is moved on to the newest.
fn directory_changed(store: &Store, seen: &mut u64) -> Result<bool, StoreError> {
    let mut changed = false;
    loop {
        let changes = match store.changes_since(*seen, CHANGES) {
            Ok(changes) => changes,
            // What was missed may have been anything: whoever asks loads all of it, later than this point.
            Err(StoreError::Forgotten { .. }) => {
                *seen = store.subscribe().told();
                return Ok(true);
            }
            Err(error) => return Err(error),
        };
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
                error!(
                    error = with_causes(&error),
                    "the snapshot cannot be published"
                );
            }
        }
        Ok(_) | Err(ActivationError::NothingDeclared) => {}
        Err(error) => error!(
            error = with_causes(&error),
            "the changed directory is not in force"
        ),
    }
}

#[cfg(test)]
mod tests {
    use testudo_identity::{Caller, RoleProfile};

    use super::*;
    use crate::fixtures::plane;

    #[test]
    fn a_follower_that_fell_too_far_behind_looks_at_everything_and_starts_again_from_now() {
        let folder = tempfile::tempdir().unwrap();
        let plane = plane(folder.path());
        // As far as the store can tell the changes asked for are not known; which way makes no difference.
        let mut seen = u64::MAX / 2;
        assert!(directory_changed(&plane.store, &mut seen).unwrap());
        assert_eq!(seen, plane.store.subscribe().told());
        assert!(!directory_changed(&plane.store, &mut seen).unwrap());

        let (name, caller) = ("clerk".parse().unwrap(), Caller::default());
        let made = plane
            .provider
            .create_role(&name, RoleProfile::default(), &caller);
        made.unwrap();
        assert!(directory_changed(&plane.store, &mut seen).unwrap());
        assert!(!directory_changed(&plane.store, &mut seen).unwrap());
    }
}
