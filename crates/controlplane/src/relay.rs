//! Moves the provider's events from its outbox into the ledger, and makes the snapshot anew when the directory
//! changed. One thread; it follows the store, so it also sees what other nodes wrote.

use std::{sync::Arc, thread, time::Duration};

use testudo_identity::{OutboxEntry, SNAPSHOT_COLLECTIONS};
use testudo_runtime::{Drain, with_causes};
use testudo_store::{Change, Record, Store, StoreError};
use tracing::{error, info, warn};

use crate::{activation::ActivationError, plane::Plane, tenants::TenantRecord};

/// Longest sleep between two looks.
const PATIENCE: Duration = Duration::from_secs(1);
/// Pause after a look, in which more comes together: each look costs a commit and a signature, and what waits is durable
/// already. A revocation reaches the proxies so much later.
const GATHERING: Duration = Duration::from_millis(20);
/// Changes read at once.
const CHANGES: usize = 1000;

/// Follows the store until the process drains. Runs on a thread of its own.
pub fn follow(plane: &Arc<Plane>, drain: &Drain) {
    let mut subscription = plane.store.subscribe();
    let mut directory = Following::from(subscription.told());
    loop {
        for provider in plane.tenants.providers() {
            if let Err(error) = provider.report_unrecorded_refusals() {
                error!(
                    error = with_causes(&error),
                    "refused token requests cannot be told of"
                );
            }
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
        if let Err(error) = directory.look(&plane.store) {
            error!(error = with_causes(&error), "changes cannot be followed");
        }
        directory.bring_into_force(|| refresh(plane));
        if drain.is_started() {
            return;
        }
        thread::sleep(GATHERING);
        subscription.wait(PATIENCE);
    }
}

/// How far the directory's changes were followed.
struct Following {
    seen: u64,
    /// Something may have changed that is not in force yet.
    stale: bool,
}

impl Following {
    const fn from(seen: u64) -> Self {
        Self { seen, stale: false }
    }

    fn look(&mut self, store: &Store) -> Result<(), StoreError> {
        self.read(|seen| match store.changes_since(seen, CHANGES) {
            // What was missed may have been anything: whoever asks loads all of it, later than this point.
            Err(StoreError::Forgotten { .. }) => Ok(Read::Missed(store.subscribe().told())),
            page => page.map(Read::Page),
        })
    }

    /// Reads on to the newest change. What was seen before an error stays seen.
    fn read(
        &mut self,
        mut next: impl FnMut(u64) -> Result<Read, StoreError>,
    ) -> Result<(), StoreError> {
        loop {
            let page = match next(self.seen)? {
                Read::Page(page) => page,
                Read::Missed(newest) => {
                    self.seen = newest;
                    self.stale = true;
                    return Ok(());
                }
            };
            let Some(last) = page.last() else {
                return Ok(());
            };
            self.seen = last.sequence;
            self.stale |= page
                .iter()
                .any(|change| shows_in_snapshots(&change.collection));
        }
    }

    /// Stays stale until `refresh` says that it is done.
    fn bring_into_force(&mut self, refresh: impl FnOnce() -> bool) {
        self.stale = self.stale && !refresh();
    }
}

fn shows_in_snapshots(collection: &str) -> bool {
    collection == TenantRecord::COLLECTION || SNAPSHOT_COLLECTIONS.contains(&collection)
}

/// What a look at the changes after a point finds.
enum Read {
    Page(Vec<Change>),
    /// They are not known any more; the newest is this one.
    Missed(u64),
}

/// Puts the directory as it is now in force. `false`: trying again may help.
fn refresh(plane: &Plane) -> bool {
    if let Err(error) = plane.tenants.look() {
        error!(error = with_causes(&error), "the tenants cannot be read");
        return false;
    }
    match plane.activation.refresh() {
        Ok(activated) => {
            if activated.changed {
                info!(snapshot = %activated.snapshot.version, "users, groups or keys changed");
            }
            // Also if nothing changed: an attempt that failed may have got as far as the store.
            if let Err(error) = plane.distribution.publish(&activated.snapshot) {
                error!(
                    error = with_causes(&error),
                    "the snapshot cannot be published"
                );
            }
            true
        }
        Err(ActivationError::NothingDeclared) => true,
        Err(error) => {
            error!(
                error = with_causes(&error),
                "the changed directory is not in force"
            );
            // Policies that do not fit will not until something else changes.
            matches!(error, ActivationError::Policy(_))
        }
    }
}

#[cfg(test)]
mod tests {
    use testudo_identity::{Caller, RoleProfile};

    use super::*;
    use crate::fixtures::plane;

    fn has_news(directory: &mut Following, store: &Store) -> bool {
        directory.look(store).unwrap();
        let news = directory.stale;
        directory.bring_into_force(|| true);
        news
    }

    #[test]
    fn a_follower_that_fell_too_far_behind_looks_at_everything_and_starts_again_from_now() {
        let folder = tempfile::tempdir().unwrap();
        let plane = plane(folder.path());
        // As far as the store can tell the changes asked for are not known; which way makes no difference.
        let mut directory = Following::from(u64::MAX / 2);
        assert!(has_news(&mut directory, &plane.store));
        assert_eq!(directory.seen, plane.store.subscribe().told());
        assert!(!has_news(&mut directory, &plane.store));

        let (name, caller) = ("clerk".parse().unwrap(), Caller::default());
        let made = plane
            .provider
            .create_role(&name, RoleProfile::default(), &caller);
        made.unwrap();
        assert!(has_news(&mut directory, &plane.store));
        assert!(!has_news(&mut directory, &plane.store));
    }

    #[test]
    fn a_change_waits_until_it_is_in_force_whatever_fails_meanwhile() {
        let folder = tempfile::tempdir().unwrap();
        let plane = plane(folder.path());
        let mut directory = Following::from(plane.store.subscribe().told());
        let (name, caller) = ("clerk".parse().unwrap(), Caller::default());
        let made = plane
            .provider
            .create_role(&name, RoleProfile::default(), &caller);
        made.unwrap();
        // The first page says it, the second cannot be read.
        let mut page = plane.store.changes_since(directory.seen, CHANGES).ok();
        let failed = directory.read(|_| match page.take() {
            Some(page) => Ok(Read::Page(page)),
            None => Err(StoreError::Forgotten { oldest: 0 }),
        });
        assert!(failed.is_err());
        directory.bring_into_force(|| false);
        directory.look(&plane.store).unwrap();
        let mut tried = 0;
        for _ in 0..2 {
            directory.bring_into_force(|| {
                tried += 1;
                true
            });
        }
        assert_eq!(tried, 1, "it waited, and once it is in force that is all");
    }
}
