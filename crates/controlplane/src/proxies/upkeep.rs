//! What the control plane does about proxies by itself: its own certificate, the roots, leases, revocations
//! of other control planes.

use std::{sync::Arc, time::Duration};

use testudo_model::{Clock, Timestamp};
use testudo_runtime::{DrainWatch, with_causes};
use testudo_trust::{IdentitySource, Svid, TrustBundle};
use testudo_workload::{WorkloadError, Workloads};

use super::distribution::Distribution;

const INTERVAL: Duration = Duration::from_secs(2);

/// Gets the control plane's own identity, to listen with.
///
/// # Errors
/// The store fails or holds no root.
pub fn own_identity(workloads: &Workloads) -> Result<IdentitySource, WorkloadError> {
    let svid = workloads.issue_local(&workloads.trust_domain().server())?;
    Ok(IdentitySource::new(svid, workloads.bundle()?.bundle))
}

/// Takes one turn of everything that has to be done every few seconds. Blocks on the store.
///
/// # Errors
/// The store fails; the next turn tries again.
pub fn turn(
    workloads: &Workloads,
    distribution: &Distribution,
    identity: &IdentitySource,
    now: Timestamp,
) -> Result<(), WorkloadError> {
    workloads.maintain()?;
    let published = workloads.bundle()?;
    if identity.bundle().roots() != published.bundle.roots() {
        identity.swap_bundle(published.bundle.clone());
    }
    let svid = identity.current();
    if is_half_over(&svid, now) || !is_active(&svid, &published.bundle) {
        identity.swap(workloads.issue_local(svid.id())?);
    }
    distribution.publish_bundle(published.version, &published.bundle);
    workloads.sweep()?;
    workloads.report_unrecorded_refusals()?;
    // Published by whoever changed them, here or in another control plane.
    if let Err(error) = distribution.publish_endpoints(&workloads.endpoints()?) {
        tracing::error!(%error, "endpoints could not be published");
    }
    distribution.follow_revocations()?;
    Ok(())
}

/// Takes turns until `drain` starts.
pub async fn run(
    workloads: Arc<Workloads>,
    distribution: Arc<Distribution>,
    identity: IdentitySource,
    clock: Arc<dyn Clock>,
    mut drain: DrainWatch,
) {
    loop {
        let (workloads, distribution) = (Arc::clone(&workloads), Arc::clone(&distribution));
        let (identity, now) = (identity.clone(), clock.now());
        let done =
            tokio::task::spawn_blocking(move || turn(&workloads, &distribution, &identity, now))
                .await;
        if let Ok(Err(error)) = done {
            tracing::error!(error = with_causes(&error), "upkeep of workloads failed");
        }
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = drain.drained() => return,
        }
    }
}

fn is_half_over(svid: &Svid, now: Timestamp) -> bool {
    now >= svid.not_before() + svid.not_after().since(svid.not_before()) / 2
}

/// Whether the certificate hangs on the root that signs now (the first of the bundle): join tokens pin that
/// one.
fn is_active(svid: &Svid, bundle: &TrustBundle) -> bool {
    svid.chain().last() == bundle.roots().first()
}
