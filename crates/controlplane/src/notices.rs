//! Carries the notices of all providers to whom they are for.

use std::{sync::Arc, time::Duration};

use testudo_identity::{Delivery, DueNotice, Fault, Provider};
use testudo_runtime::{Drain, with_causes};
use tokio::task::{JoinError, JoinSet, spawn_blocking};
use tracing::error;

use crate::{outbound::Outbound, plane::Plane};

/// How often it is looked whether something is due. That costs nothing while there is nothing.
const LOOK: Duration = Duration::from_millis(250);

/// Delivers until the process drains. What is under way then is waited for; what waits is in the store.
pub async fn deliver(plane: Arc<Plane>, outbound: Arc<Outbound>, drain: Drain) {
    let mut watch = drain.watch();
    let mut under_way = JoinSet::new();
    loop {
        for provider in plane.tenants.providers() {
            for due in due(&provider).await {
                under_way.spawn(tell(Arc::clone(&provider), Arc::clone(&outbound), due));
            }
        }
        tokio::select! {
            () = watch.drained() => break,
            () = tokio::time::sleep(LOOK) => {}
            // The next for the same receiver need not wait.
            Some(_) = under_way.join_next() => {}
        }
    }
    while under_way.join_next().await.is_some() {}
}

async fn due(provider: &Arc<Provider>) -> Vec<DueNotice> {
    if !provider.has_due_notice() {
        return Vec::new();
    }
    let provider = Arc::clone(provider);
    match spawn_blocking(move || provider.due_notices()).await {
        Ok(Ok(due)) => due,
        failed => {
            report(failed.map(|due| due.map(|_| ())));
            Vec::new()
        }
    }
}

async fn tell(provider: Arc<Provider>, outbound: Arc<Outbound>, due: DueNotice) {
    let delivery = match outbound.post(&due.message).await {
        Ok(status) => Delivery::Answered(status),
        Err(error) => Delivery::Failed(error.to_string()),
    };
    report(spawn_blocking(move || provider.settle_notice(&due, &delivery)).await);
}

fn report(done: Result<Result<(), Fault>, JoinError>) {
    match done {
        Ok(Ok(())) => {}
        Ok(Err(fault)) => error!(
            error = with_causes(&fault),
            "notices wait: the store cannot be read or written"
        ),
        Err(error) => error!(error = with_causes(&error), "a notice was not told"),
    }
}
